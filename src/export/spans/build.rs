//! One span out of one line.

use super::ids::{Role, SpanContext, creation_context, identity_of, publish_context, span_id, trace_id};
use super::pairs::{Pairs, resource, text};
use super::{Kind, Link, Span};
use crate::export::destination::{Destination, fold};
use crate::export::registry::attribute;
use crate::lifecycle::transition::{Attributes, Reason, State, Transition};

/// The span of a publish, made of its own line, or (`after_all`) of a later line of its message.
pub(super) fn producer(line: &Transition<'_>, after_all: bool) -> Span {
    let identity = identity_of(line);
    let own = line.attributes.trace;
    let is_publish_line = matches!(line.state, State::Created | State::PublishFailed | State::Returned);
    let process = if is_publish_line { line.attributes.process } else { line.attributes.producer };
    let mut attributes = Pairs::new();
    attributes.operation(line, "publish", "send");
    let name = attributes.destination("publish", line, None);
    attributes.message(line);
    attributes.server(line, true);
    if is_publish_line {
        attributes.name(&attribute::CLIENT_ID, line.attributes.client_id);
    }
    let start = line.timings.created.unwrap_or(line.time);
    // A context of the application's own comes before ours: we saw it being sent. So does the publish of what this copies.
    let is_copy = line.reason == Some(Reason::Republished);
    let links = (own.is_some() || is_copy).then(|| creation_context(identity, own));
    let mut context = publish_context(identity, own);
    if is_copy {
        let destination = Destination::of(&line.attributes).map(|destination| destination.text());
        context.span_id = span_id(identity, Role::Republish, &destination.unwrap_or_default(), 0);
    }
    Span {
        resource: resource(process),
        context,
        parent: links.map(|link| link.span_id),
        kind: if own.is_some() { Kind::Client } else { Kind::Producer },
        name,
        start,
        end: line.timings.confirmed.unwrap_or(start).max(start),
        attributes: attributes.0,
        links: links.into_iter().map(Link::from).collect(),
        dropped_links: 0,
        events: Vec::new(),
        failed: false,
        important: after_all,
    }
}

/// The span of a publish that failed or came back.
pub(super) fn failed_producer(line: &Transition<'_>) -> Span {
    let mut span = producer(line, true);
    let mut attributes = Pairs(span.attributes);
    attributes.outcome(line);
    attributes.error(line);
    span.attributes = attributes.0;
    span.end = span.end.max(line.time);
    span.failed = true;
    span
}

/// The span of a delivery, made of the line that settled it.
pub(super) fn consumer(line: &Transition<'_>, important: bool) -> Span {
    let queue = line.attributes.queue;
    let failed = line.state != State::Acknowledged;
    let mut attributes = Pairs::new();
    attributes.operation(line, "process", "process");
    let name = attributes.destination("process", line, queue);
    attributes.message(line);
    attributes.server(line, false);
    attributes.delivery(line);
    attributes.outcome(line);
    if failed {
        attributes.error(line);
    }
    let mut links = origins(line);
    let parent = links.first().copied();
    let delivery = line.delivery.unwrap_or(0);
    if delivery > 1 && line.message.is_some() && line.timings.first_failed.is_some_and(|failed| failed < line.time) {
        links.push(process_context(line, delivery - 1));
    }
    let Timings { start, events } = timings(line);
    Span {
        resource: resource(line.attributes.process),
        context: process_context(line, delivery),
        parent: parent.map(|parent| parent.span_id),
        kind: Kind::Consumer,
        name,
        start,
        end: line.time.max(start),
        attributes: attributes.0,
        links: links.into_iter().map(Link::from).collect(),
        dropped_links: 0,
        events,
        failed,
        important,
    }
}

/// The span of the broker's move to a dead-letter queue: it sends the message again.
pub(super) fn dead_letter(line: &Transition<'_>) -> Span {
    let identity = identity_of(line);
    let own = line.attributes.trace;
    let source = line.attributes.dead_letter_source.or(line.attributes.queue);
    let delivery = line.delivery.unwrap_or(0);
    let mut attributes = Pairs::new();
    attributes.operation(line, "dead_letter", "send");
    let mut name = "dead_letter".to_owned();
    if let Some(destination) = line.attributes.dead_letter_destination {
        let generated = crate::export::destination::is_generated(destination);
        attributes.destination_pairs((**destination).into(), generated.then(|| fold(destination).into()));
        name = format!("dead_letter {}", fold(destination));
    } else {
        attributes.destination("dead_letter", line, source);
    }
    attributes.message(line);
    attributes.server(line, false);
    attributes.name(&attribute::QUEUE, source);
    attributes.name(&attribute::DEAD_LETTER_SOURCE, source);
    attributes.name(&attribute::DEAD_LETTER_DESTINATION, line.attributes.dead_letter_destination);
    attributes.outcome(line);
    attributes.error(line);
    let mut links = origins(line);
    let mut parent = links.first().copied();
    if delivery > 0 && line.message.is_some() && line.timings.first_failed.is_some() {
        let last = process_context(line, delivery);
        parent = Some(last);
        links.push(last);
    }
    Span {
        resource: resource(line.attributes.process),
        context: SpanContext {
            trace_id: trace_id(identity, own),
            span_id: span_id(identity, Role::DeadLetter, text(source), delivery),
        },
        parent: parent.map(|parent| parent.span_id),
        kind: Kind::Producer,
        name,
        start: line.time,
        end: line.time,
        attributes: attributes.0,
        links: links.into_iter().map(Link::from).collect(),
        dropped_links: 0,
        events: Vec::new(),
        failed: true,
        important: true,
    }
}

/// The contexts that a message comes from: the creation context, and our span of the publish where that is another one and
/// was seen. None where the message has no identity that another line could share.
fn origins(line: &Transition<'_>) -> Vec<SpanContext> {
    let Some(identity) = line.message else {
        return line.attributes.trace.map(|own| creation_context(identity_of(line), Some(own))).into_iter().collect();
    };
    let own = line.attributes.trace;
    let mut links = vec![creation_context(identity, own)];
    if own.is_some() && line.timings.created.is_some() {
        links.push(publish_context(identity, own));
    }
    links
}

fn process_context(line: &Transition<'_>, delivery: u32) -> SpanContext {
    let identity = identity_of(line);
    let Attributes { queue, consumer_tag, stream_offset, trace, .. } = line.attributes;
    let queue = text(queue);
    let span_id = match (delivery, stream_offset) {
        // Which delivery it was is not known: told apart by its time.
        (0, _) => span_id(identity, Role::Process, &format!("{queue}\0{}", line.time.0), 0),
        // A stream gives each of its consumers every message.
        (_, Some(_)) => span_id(identity, Role::Process, &format!("{queue}\0{}", text(consumer_tag)), delivery),
        _ => span_id(identity, Role::Process, queue, delivery),
    };
    SpanContext { trace_id: trace_id(identity, trace), span_id }
}

struct Timings {
    start: crate::time::Timestamp,
    events: Vec<(crate::time::Timestamp, &'static str)>,
}

/// A delivery begins when the application has read it; how long it lay in the receive buffer shows as an event.
fn timings(line: &Transition<'_>) -> Timings {
    let dispatched = line.timings.dispatched;
    let start = line.timings.processing.or(dispatched).unwrap_or(line.time).min(line.time);
    let events = dispatched.filter(|dispatched| *dispatched < start).map(|dispatched| (dispatched, "dispatched"));
    Timings { start, events: events.into_iter().collect() }
}
