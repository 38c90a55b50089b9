//! From tables to lines: what a transition repeats of its message, its chain and its connection.

use std::num::NonZeroU32;

use super::channel::Held;
use super::message::{Chain, Message};
use super::party::Party;
use super::transition::{Attributes, Event, Evidence, State, Timings, Transition};
use crate::time::Timestamp;

/// The system's name where a connection has not said what it speaks.
pub(super) const SYSTEM: &str = "rabbitmq";

/// A line about a message apart from its deliveries.
pub(super) fn of_message<'a>(message: &'a Message, party: Option<&'a Party>, time: Timestamp) -> Transition<'a> {
    let mut attributes = of_party(party);
    describe(&mut attributes, message);
    attributes.producer = message.publisher.as_ref().and_then(|publisher| publisher.process.as_ref());
    attributes.exchange = Some(&message.route.exchange);
    attributes.routing_key = Some(&message.route.routing_key);
    Transition {
        time,
        state: message.state,
        previous: None,
        evidence: message.evidence,
        ambiguous: message.ambiguous,
        corrects: None,
        reason: None,
        awaits: None,
        count: 1,
        message: message.identity(),
        delivery: None,
        attributes,
        timings: Timings { created: message.created.get(), confirmed: message.confirmed.get(), ..Timings::default() },
    }
}

/// A line about one of its chains.
pub(super) fn of_chain<'a>(
    message: &'a Message,
    chain: &'a Chain,
    party: Option<&'a Party>,
    time: Timestamp,
) -> Transition<'a> {
    let mut line = of_message(message, party, time);
    let route = chain.route.as_ref().unwrap_or(&message.route);
    line.attributes.exchange = Some(&route.exchange);
    line.attributes.routing_key = Some(&route.routing_key);
    line.attributes.queue = chain.queue.as_ref();
    line.state = chain.state;
    line.evidence = chain.evidence;
    line.reason = chain.reason;
    line.delivery = chain.delivery.map(NonZeroU32::get);
    line.timings.dispatched = chain.dispatched.get();
    line.timings.processing = chain.processing.get();
    line.timings.first_failed = chain.first_failed.get();
    if matches!(chain.state, State::DeadLettered | State::Retrying) && chain.destination.is_some() {
        line.attributes.dead_letter_source = chain.queue.as_ref();
        line.attributes.dead_letter_destination = chain.destination.as_deref();
    }
    line
}

/// A line about a delivery in a consumer's hands.
pub(super) fn of_delivery<'a>(
    message: &'a Message,
    chain: &'a Chain,
    held: &'a Held,
    party: &'a Party,
    time: Timestamp,
) -> Transition<'a> {
    let mut line = of_chain(message, chain, Some(party), time);
    of_held(&mut line, held);
    line
}

/// A line about what follows from the end of a chain's latest delivery; `held` if that has just ended.
pub(super) fn of_consequence<'a>(
    message: &'a Message,
    chain: &'a Chain,
    held: Option<&'a Held>,
    time: Timestamp,
) -> Transition<'a> {
    let party = chain.holder.as_ref().or(message.publisher.as_ref());
    let mut line = of_chain(message, chain, party.map(|party| &**party), time);
    if let Some(held) = held {
        of_held(&mut line, held);
    }
    line
}

pub(super) fn of_held<'a>(line: &mut Transition<'a>, held: &'a Held) {
    line.attributes.consumer_tag = held.consumer.as_ref();
    line.attributes.delivery_tag = Some(held.tag);
    line.attributes.redelivered = Some(held.redelivered);
}

/// What every line about a connection says.
pub(super) fn of_party(party: Option<&Party>) -> Attributes<'_> {
    let mut attributes = Attributes { system: SYSTEM, ..Attributes::default() };
    if let Some(party) = party {
        attributes.system = party.system;
        attributes.vhost = party.vhost.as_ref();
        attributes.client_id = party.client_name.as_ref();
        attributes.server = party.server.as_ref();
        attributes.client = party.client.as_ref();
        attributes.process = party.process.as_ref();
    }
    attributes
}

/// Makes it a line about what a client did that nobody has seen.
pub(super) fn without_client(line: &mut Transition<'_>) {
    line.attributes.client_id = None;
    line.attributes.client = None;
    line.attributes.process = None;
}

fn describe<'a>(attributes: &mut Attributes<'a>, message: &'a Message) {
    attributes.message_id = message.message_id.as_ref();
    attributes.body_size = message.body_size();
    if let Some(extras) = &message.extras {
        attributes.conversation_id = extras.correlation_id.as_ref();
        attributes.stream_offset = extras.stream_offset;
        attributes.trace = extras.trace.as_ref();
    }
}

/// An event about what a line would have been about.
pub(super) fn event_of<'a>(line: &Transition<'a>, name: &'static str) -> Event<'a> {
    Event {
        time: line.time,
        name,
        count: Some(1),
        detail: None,
        evidence: Evidence::Observed,
        attributes: line.attributes,
    }
}

/// Shorthand for conclusions.
pub(super) fn evidence(inferred: bool) -> Evidence {
    if inferred { Evidence::Inferred } else { Evidence::Observed }
}
