//! What a filter can ask of a transition or event.

use std::fmt::{self, Write};
use std::time::Duration;

use crate::lifecycle::transition::{Attributes, Event, Evidence, Transition};
use crate::time::Timestamp;

use super::{Field, latency};

/// A transition or an event, seen through the language's names.
pub(super) struct Subject<'a> {
    transition: Option<&'a Transition<'a>>,
    event: Option<&'a Event<'a>>,
    attributes: &'a Attributes<'a>,
    evidence: Evidence,
}

impl<'a> Subject<'a> {
    pub(super) fn of_transition(transition: &'a Transition<'a>) -> Self {
        Subject {
            transition: Some(transition),
            event: None,
            attributes: &transition.attributes,
            evidence: transition.evidence,
        }
    }

    pub(super) fn of_event(event: &'a Event<'a>) -> Self {
        Subject { transition: None, event: Some(event), attributes: &event.attributes, evidence: event.evidence }
    }

    /// Whether one of the texts that the field stands for passes the test. No text, no pass.
    pub(super) fn any_text(&self, field: Field, test: impl Fn(&str) -> bool) -> bool {
        let attributes = self.attributes;
        match field {
            Field::Message => self.message_hex(&test) || attributes.message_id.is_some_and(|id| test(id)),
            Field::Trace => attributes
                .trace
                .is_some_and(|trace| shown::<32>(format_args!("{:032x}", u128::from_be_bytes(trace.trace_id)), &test)),
            Field::Client => {
                attributes.client_id.is_some_and(|name| test(name))
                    || attributes.client.is_some_and(|address| shown::<64>(format_args!("{address}"), &test))
            }
            Field::Server => attributes.server.is_some_and(|address| shown::<64>(format_args!("{address}"), &test)),
            field => self.text(field).is_some_and(test),
        }
    }

    /// The number that the field stands for: durations in nanoseconds, sizes in bytes.
    pub(super) fn number(&self, field: Field) -> Option<u64> {
        let nanoseconds = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        match field {
            Field::Pid => self.attributes.process.map(|process| u64::from(process.pid)),
            Field::Delivery => self.transition?.delivery.map(u64::from),
            Field::Count => {
                self.transition.map(|transition| transition.count).or(self.event.and_then(|event| event.count))
            }
            Field::Tag => self.attributes.delivery_tag,
            Field::Partition => self.attributes.partition.and_then(|partition| u64::try_from(partition).ok()),
            Field::Offset => self.attributes.offsets.and_then(|(first, _)| u64::try_from(first).ok()),
            Field::Lag => self.attributes.lag,
            Field::Code => self.attributes.error_code.and_then(|code| u64::try_from(code).ok()),
            Field::Size => self.attributes.body_size,
            Field::Latency => latency(self.transition?).map(nanoseconds),
            Field::Age => self.since(self.transition?.timings.created),
            Field::Retry => self.since(self.transition?.timings.first_failed),
            _ => None,
        }
    }

    /// The yes or no that the field stands for.
    pub(super) fn flag(&self, field: Field) -> Option<bool> {
        match field {
            Field::Redelivered => self.attributes.redelivered,
            Field::Ambiguous => self.transition.map(|transition| transition.ambiguous),
            _ => None,
        }
    }

    fn text(&self, field: Field) -> Option<&str> {
        let attributes = self.attributes;
        match field {
            Field::State => self.transition.map(|transition| transition.state.name()),
            Field::Previous => self.transition?.previous.map(|state| state.name()),
            Field::Reason => self.transition?.reason.map(|reason| reason.name()),
            Field::Evidence => Some(self.evidence.name()),
            Field::Settlement => attributes.settlement.map(|settlement| settlement.name()),
            Field::Event => self.event.map(|event| event.name),
            Field::Queue => attributes.queue.map(|name| &**name),
            Field::Topic => attributes.topic.map(|name| &**name),
            Field::Group => attributes.group.map(|name| &**name),
            Field::Exchange => attributes.exchange.map(|name| &**name),
            Field::RoutingKey => attributes.routing_key.map(|name| &**name),
            Field::Vhost => attributes.vhost.map(|name| &**name),
            Field::Source => attributes.dead_letter_source.map(|name| &**name),
            Field::Destination => attributes.dead_letter_destination.map(|name| &**name),
            Field::MessageId => attributes.message_id.map(|name| &**name),
            Field::Correlation => attributes.conversation_id.map(|name| &**name),
            Field::Consumer => attributes.consumer_tag.map(|name| &**name),
            Field::Process => attributes.process.map(|process| process.executable.as_str()),
            Field::Operation => attributes.operation,
            Field::Error => attributes.error_text.map(|name| &**name),
            _ => None,
        }
    }

    fn message_hex(&self, test: impl Fn(&str) -> bool) -> bool {
        let identity = self.transition.and_then(|transition| transition.message);
        identity.is_some_and(|identity| shown::<32>(format_args!("{:032x}", identity.0), test))
    }

    fn since(&self, earlier: Option<Timestamp>) -> Option<u64> {
        let time = self.transition?.time;
        earlier.map(|earlier| time.0.saturating_sub(earlier.0))
    }
}

/// Tests a value's text without allocating: filters are asked for every transition.
fn shown<const SIZE: usize>(value: fmt::Arguments<'_>, test: impl Fn(&str) -> bool) -> bool {
    let mut text = Text::<SIZE> { bytes: [0; SIZE], length: 0 };
    let written = text.write_fmt(value);
    written.is_ok() && std::str::from_utf8(&text.bytes[..text.length]).is_ok_and(test)
}

struct Text<const SIZE: usize> {
    bytes: [u8; SIZE],
    length: usize,
}

impl<const SIZE: usize> Write for Text<SIZE> {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let end = self.length + part.len();
        self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?.copy_from_slice(part.as_bytes());
        self.length = end;
        Ok(())
    }
}
