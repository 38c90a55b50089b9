//! One line of the live view: what people are shown of a transition or event.
//!
//! A row owns its words and can be sent from a running agent to `acktrail trace`, which lays it out for its own terminal.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::filter::latency;
use crate::lifecycle::transition::{Attributes, Event, Evidence, Settlement, State, Transition};
use crate::names::{Name, clean};
use crate::time::Timestamp;

/// What a line shows. Words are printable and of bounded length.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Row {
    /// When, in nanoseconds since the epoch.
    pub time: u64,
    /// The state's or the event's name.
    pub what: String,
    /// It is an event, not a state.
    pub event: bool,
    /// It was inferred.
    pub inferred: bool,
    /// Twins were matched first in, first out.
    pub ambiguous: bool,
    /// The queue, or `exchange:routing key` where no queue is known; of a log `topic/partition group`.
    pub place: String,
    /// message-id; of a log the offsets.
    pub message_id: Option<String>,
    /// acktrail's own 32 hex digits.
    pub message: Option<String>,
    /// Which delivery.
    pub delivery: Option<u32>,
    /// Nanoseconds since the step before.
    pub latency: Option<u64>,
    /// How many messages, where not one.
    pub count: Option<u64>,
    /// The state that this takes back.
    pub corrects: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// How many messages the group is behind in the partition.
    pub lag: Option<u64>,
    /// Where a dead letter went.
    pub destination: Option<String>,
    /// The broker's code and text, or an event's detail.
    pub detail: Option<String>,
    /// The application's process, or its address where it is not on this host.
    pub process: Option<String>,
}

impl Row {
    /// Of a transition.
    pub fn of_transition(transition: &Transition<'_>) -> Row {
        let attributes = &transition.attributes;
        Row {
            time: transition.time.0,
            what: transition.state.name().to_owned(),
            inferred: transition.evidence == Evidence::Inferred,
            ambiguous: transition.ambiguous,
            message: transition.message.map(|identity| format!("{:032x}", identity.0)),
            delivery: transition.delivery,
            latency: latency_shown(transition),
            count: (transition.count != 1).then_some(transition.count),
            corrects: transition.corrects.map(|state| state.name().to_owned()),
            reason: transition.reason.map(|reason| reason.name().to_owned()),
            destination: match transition.state {
                State::DeadLettered | State::Retrying => {
                    attributes.dead_letter_destination.map(|name| name.to_string())
                }
                _ => None,
            },
            detail: error(attributes),
            ..Row::of_attributes(attributes)
        }
    }

    /// Of an event.
    pub fn of_event(event: &Event<'_>) -> Row {
        let details = [error(&event.attributes), event.detail.map(|detail| clean(detail.as_bytes()))];
        let details: Vec<String> = details.into_iter().flatten().collect();
        Row {
            time: event.time.0,
            what: event.name.to_owned(),
            event: true,
            inferred: event.evidence == Evidence::Inferred,
            count: event.count,
            detail: (!details.is_empty()).then(|| details.join(" ")),
            ..Row::of_attributes(&event.attributes)
        }
    }

    fn of_attributes(attributes: &Attributes<'_>) -> Row {
        Row {
            place: place(attributes),
            message_id: attributes.message_id.map(|id| id.to_string()).or_else(|| attributes.offsets.map(range)),
            process: process(attributes),
            lag: attributes.lag,
            ..Row::default()
        }
    }

    /// The time of day, UTC, in milliseconds: the same wherever a recording is replayed.
    pub fn clock(&self) -> String {
        let milliseconds = self.time / 1_000_000;
        let (seconds, rest) = (milliseconds / 1000, milliseconds % 1000);
        let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
        format!("{hours:02}:{minutes:02}:{:02}.{rest:03}", seconds % 60)
    }
}

/// RFC 3339, UTC, nanoseconds. Days to a date as in the calendar's 400-year cycle, counted from 1 March.
pub fn rfc3339(time: Timestamp) -> String {
    let (seconds, nanoseconds) = (time.0 / 1_000_000_000, time.0 % 1_000_000_000);
    let days = seconds / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hours, minutes, seconds) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{nanoseconds:09}Z")
}

/// What is settled by being sent was acknowledged by nobody: there is no time that it took.
fn latency_shown(transition: &Transition<'_>) -> Option<u64> {
    let automatic = transition.attributes.settlement == Some(Settlement::Automatic);
    let latency = latency(transition).filter(|_| !automatic || transition.state != State::Acknowledged);
    latency.map(|latency| u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX))
}

fn place(attributes: &Attributes<'_>) -> String {
    if let Some(topic) = attributes.topic {
        return of_log(topic, attributes);
    }
    if let Some(queue) = attributes.queue {
        return queue.to_string();
    }
    match (attributes.exchange, attributes.routing_key) {
        (Some(exchange), Some(key)) => format!("{exchange}:{key}"),
        (Some(exchange), None) => exchange.to_string(),
        (None, Some(key)) => format!(":{key}"),
        (None, None) => attributes.dead_letter_source.map(Name::to_string).unwrap_or_default(),
    }
}

/// `topic/partition group`, as far as they are known.
fn of_log(topic: &Name, attributes: &Attributes<'_>) -> String {
    let mut text = topic.to_string();
    if let Some(partition) = attributes.partition {
        let _ = write!(text, "/{partition}");
    }
    if let Some(group) = attributes.group {
        let _ = write!(text, " {group}");
    }
    text
}

/// `first-last`.
fn range((first, last): (i64, i64)) -> String {
    match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    }
}

fn error(attributes: &Attributes<'_>) -> Option<String> {
    let mut text = attributes.error_code.map(|code| code.to_string()).unwrap_or_default();
    if let Some(words) = attributes.error_text {
        let _ = write!(text, "{}{words}", if text.is_empty() { "" } else { " " });
    }
    (!text.is_empty()).then_some(text)
}

fn process(attributes: &Attributes<'_>) -> Option<String> {
    match (attributes.process, attributes.client) {
        (Some(owner), _) => Some(format!("{}[{}]", clean(owner.executable.as_bytes()), owner.pid)),
        (None, client) => client.map(|address| address.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::transition::Timings;

    #[test]
    fn dates() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000000Z"),
            (951_868_800, "2000-03-01T00:00:00.000000000Z"),
            (4_107_542_399, "2100-02-28T23:59:59.000000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000000Z"),
            (1_700_000_000, "2023-11-14T22:13:20.000000000Z"),
        ] {
            assert_eq!(rfc3339(Timestamp(seconds * 1_000_000_000)), expected);
        }
        assert_eq!(rfc3339(Timestamp(u64::MAX)), "2554-07-21T23:34:33.709551615Z");
        assert_eq!(Row { time: 86_399_999_999_999, ..Row::default() }.clock(), "23:59:59.999");
    }

    #[test]
    fn no_time_is_shown_for_what_nobody_acknowledged() {
        let transition = |state, settlement| Transition {
            delivery: Some(1),
            attributes: Attributes { settlement: Some(settlement), ..Attributes::default() },
            timings: Timings {
                dispatched: Some(Timestamp(2_000)),
                processing: Some(Timestamp(5_000)),
                ..Timings::default()
            },
            ..Transition::new(Timestamp(5_000), state)
        };
        let shown = |state, settlement| Row::of_transition(&transition(state, settlement)).latency;
        assert_eq!(shown(State::Acknowledged, Settlement::Automatic), None);
        assert_eq!(shown(State::Acknowledged, Settlement::Explicit), Some(0));
        // Sent, and never read: how long it lay there says something.
        let mut unread = transition(State::Dropped, Settlement::Automatic);
        unread.timings.processing = None;
        assert_eq!(Row::of_transition(&unread).latency, Some(3_000));
    }

    #[test]
    fn a_row_survives_the_way_through_the_socket() {
        let row = Row { time: 7, what: "Created".to_owned(), count: Some(3), ..Row::default() };
        let text = serde_json::to_string(&row).expect("serialisable");
        assert_eq!(serde_json::from_str::<Row>(&text).expect("its own"), row);
    }
}
