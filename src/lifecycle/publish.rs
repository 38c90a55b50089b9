//! The publisher's half: Created, Confirmed, PublishFailed, Returned.

use super::message;
use super::messages::MessageRef;
use super::party::Party;
use super::transition::{Evidence, Observer, Reason, Settlement, State};
use super::{Lifecycles, emit};
use crate::protocol::operation::{BrokerError, ChannelId, Destination, Message, Tags};
use crate::time::Timestamp;

/// How many messages with the same id are compared with a publish, to recognise a copy.
const MOST_COMPARED: usize = 64;

/// Why, and how it is known, that a publish failed.
#[derive(Clone, Copy)]
pub(super) struct Failure<'a> {
    pub reason: Reason,
    pub inferred: bool,
    pub error: Option<&'a BrokerError>,
    pub settlement: Option<Settlement>,
}

impl Failure<'_> {
    pub fn of(reason: Reason) -> Failure<'static> {
        Failure { reason, inferred: false, error: None, settlement: None }
    }
}

impl Lifecycles {
    pub(super) fn published(
        &mut self,
        time: Timestamp,
        channel: ChannelId,
        (tag, mandatory): (Option<u64>, bool),
        destination: &Destination,
        message: &mut Message,
        observer: &mut dyn Observer,
    ) {
        let connection = self.connection(channel.connection);
        let party = connection.party.clone();
        let ended = connection.has_ended(channel);
        let original = self.original(&party, destination, message);
        let origin = original.and_then(|original| self.origin(original, &party, destination));
        let previous = origin.as_ref().map(|origin| origin.state);
        let route = self.messages.route(&destination.exchange, &destination.routing_key);
        if route.must_be_followed(self.bindings) {
            route.reaches(self.topology(&party).routed(&destination.exchange, &destination.routing_key).len());
        }
        let reference = self.messages.insert(message.identity, route, |entry| {
            entry.origin = origin.map(Box::new);
            entry.publisher = Some(party.clone());
            entry.message_id = message.message_id.take();
            entry.extras = message.extras.take();
            entry.set_body(message.body, message.body_size);
            entry.created = time.into();
            entry.awaits_confirm = tag.is_some() && !ended;
            entry.mandatory = mandatory;
        });
        if !ended {
            self.remember(channel, tag, reference);
        }
        let Some(entry) = self.messages.get(reference) else { return };
        let mut line = emit::of_message(entry, Some(&party), time);
        line.previous = previous;
        line.reason = previous.map(|_| Reason::Republished);
        line.attributes.operation = Some("publish");
        observer.transition(&line);
        if !ended {
            self.expect_expiry(time, reference, &party);
            if self.has_endings() {
                self.may_wait(time, channel, reference, &party);
            }
        } else {
            // The broker discards what a client still sends on a channel that it has closed (AMQP 0-9-1, 1.4.2.5).
            self.publish_failed(time, reference, Failure::of(Reason::ChannelClosed), observer);
        }
    }

    /// Keeps a publish for what the broker says of it.
    fn remember(&mut self, id: ChannelId, tag: Option<u64>, reference: MessageRef) {
        let channel = self.channel(id);
        let numbered = tag.is_some_and(|tag| channel.unconfirmed.push(tag, reference).is_ok());
        if !numbered {
            channel.remember(reference);
            if tag.is_some() {
                self.answered(reference);
            }
        } else if channel.unconfirmed.is_long() {
            self.trim(id);
        }
    }

    /// The broker has said whether it took a publish, or never will.
    pub(super) fn answered(&mut self, reference: MessageRef) {
        if let Some(entry) = self.messages.get_mut(reference) {
            entry.awaits_confirm = false;
            self.settle_message(reference);
        }
    }

    /// The message of which this publish is a copy, made by the application that holds it: to a parking queue, a retry
    /// queue, an error exchange. Without this, copy and original would look like two messages.
    fn original(&mut self, party: &Party, destination: &Destination, message: &Message) -> Option<MessageRef> {
        let is_copied = |entry: &message::Message| {
            entry.message_id.is_some() == message.message_id.is_some()
                && copied_chain(entry, party, destination).is_some()
        };
        if message.message_id.is_some() {
            return self.messages.find(message.identity?, MOST_COMPARED, is_copied);
        }
        let reference = *self.held_bodies.get(&message.body?)?;
        self.messages.get(reference).is_some_and(is_copied).then_some(reference)
    }

    /// What a copy of it goes on from.
    fn origin(&self, original: MessageRef, party: &Party, destination: &Destination) -> Option<message::Origin> {
        let entry = self.messages.get(original)?;
        let chain = copied_chain(entry, party, destination)?;
        Some(message::Origin {
            message: original,
            identity: entry.identity(),
            queue: chain.queue.clone(),
            state: chain.state,
            delivery: chain.delivery,
            first_failed: chain.first_failed,
        })
    }

    pub(super) fn confirmed(
        &mut self,
        time: Timestamp,
        channel: ChannelId,
        tags: Tags,
        inferred: bool,
        settlement: Option<Settlement>,
        observer: &mut dyn Observer,
    ) {
        let party = self.party(channel.connection);
        let known = self.channel(channel);
        let (doubtful, before_hole) = (known.answered_unseen(tags), known.published_before_hole(tags));
        let taken = known.unconfirmed.take(tags);
        if taken.is_empty() {
            self.statistics.unmatched_confirms += 1;
        }
        for (place, reference) in taken.into_iter().enumerate() {
            let Some(entry) = self.messages.get_mut(reference) else { continue };
            // Its return, which comes before its confirm, may be in the hole.
            let returned = entry.mandatory && place < before_hole;
            if entry.state == State::Created && !returned {
                entry.state = State::Confirmed;
                // The lost one may have been a refusal, which happens hardly ever.
                entry.evidence = emit::evidence(inferred || place < doubtful);
                entry.confirmed = time.into();
                let mut line = emit::of_message(entry, Some(&party), time);
                line.previous = Some(State::Created);
                line.attributes.operation = Some("confirm");
                line.attributes.settlement = settlement;
                observer.transition(&line);
            }
            self.answered(reference);
        }
    }

    pub(super) fn publish_refused(
        &mut self,
        time: Timestamp,
        channel: ChannelId,
        tags: Tags,
        inferred: bool,
        observer: &mut dyn Observer,
    ) {
        let known = self.channel(channel);
        let doubtful = known.answered_unseen(tags);
        let taken = known.unconfirmed.take(tags);
        if taken.is_empty() {
            self.statistics.unmatched_confirms += 1;
            self.publish_failed_unseen(time, channel, tags, observer);
        }
        let settlement = Some(super::settle::settlement(!matches!(tags, Tags::One(_))));
        for (place, reference) in taken.into_iter().enumerate() {
            // The lost one was a confirm, most likely.
            if place >= doubtful {
                let failure = Failure { inferred, settlement, ..Failure::of(Reason::Refused) };
                self.publish_failed(time, reference, failure, observer);
            }
            self.answered(reference);
        }
    }

    /// The broker refused publishes that are not known.
    pub(super) fn publish_failed_unseen(
        &self,
        time: Timestamp,
        channel: ChannelId,
        tags: Tags,
        observer: &mut dyn Observer,
    ) {
        let mut event = self.event(time, channel.connection, "publish_failed");
        event.attributes.settlement = Some(super::settle::settlement(!matches!(tags, Tags::One(_))));
        observer.event(&event);
    }

    pub(super) fn publish_failed(
        &mut self,
        time: Timestamp,
        reference: MessageRef,
        failure: Failure<'_>,
        observer: &mut dyn Observer,
    ) {
        let Failure { reason, inferred, error, settlement } = failure;
        let Some(entry) = self.messages.get_mut(reference) else { return };
        if entry.state != State::Created || (inferred && !entry.chains.is_empty()) {
            return;
        }
        entry.state = State::PublishFailed;
        entry.evidence = emit::evidence(inferred);
        let mut line = emit::of_message(entry, entry.publisher.as_deref(), time);
        line.previous = Some(State::Created);
        line.reason = Some(reason);
        line.attributes.operation = Some("publish");
        line.attributes.settlement = settlement;
        line.attributes.error_code = error.map(|error| i32::from(error.code));
        line.attributes.error_text = error.map(|error| &error.text);
        observer.transition(&line);
        self.settle_message(reference);
    }

    pub(super) fn returned(
        &mut self,
        time: Timestamp,
        channel: ChannelId,
        error: &BrokerError,
        destination: &Destination,
        message: &Message,
        observer: &mut dyn Observer,
    ) {
        let party = self.party(channel.connection);
        let untold: Vec<MessageRef> = self.channel(channel).untold().collect();
        let key = message.identity;
        let is_it = |entry: &message::Message| {
            entry.state == State::Created
                && entry.route.exchange == destination.exchange
                && entry.route.routing_key == destination.routing_key
                && entry.key.map(std::num::NonZeroU128::get) == key.map(|key| key.0)
        };
        let found = untold.into_iter().find(|reference| self.messages.get(*reference).is_some_and(is_it));
        let reference = match found {
            Some(reference) => reference,
            None => {
                let route = self.messages.route(&destination.exchange, &destination.routing_key);
                self.messages.insert(key, route, |entry| {
                    entry.publisher = Some(party.clone());
                    entry.message_id = message.message_id.clone();
                    entry.extras = message.extras.clone();
                    entry.set_body(message.body, message.body_size);
                })
            }
        };
        let Some(entry) = self.messages.get_mut(reference) else { return };
        let previous = entry.created.get().map(|_| entry.state);
        entry.state = State::Returned;
        entry.evidence = Evidence::Observed;
        let mut line = emit::of_message(entry, Some(&party), time);
        line.previous = previous;
        line.reason = Some(Reason::Unroutable);
        line.attributes.operation = Some("return");
        line.attributes.error_code = Some(i32::from(error.code));
        line.attributes.error_text = Some(&error.text);
        observer.transition(&line);
        self.settle_message(reference);
    }
}

/// The delivery of a message that an application holds when it publishes a copy to somewhere else.
fn copied_chain<'a>(
    entry: &'a message::Message,
    party: &Party,
    destination: &Destination,
) -> Option<&'a message::Chain> {
    entry.chains.iter().find(|chain| {
        let route = chain.route.as_ref().unwrap_or(&entry.route);
        let elsewhere = route.exchange != destination.exchange || route.routing_key != destination.routing_key;
        let held = chain.holder.as_ref().is_some_and(|holder| holder.is_same_application(party));
        chain.is_in_flight() && elsewhere && held
    })
}
