//! What is counted for one process at one place.

use std::time::Duration;

use super::in_flight::Place;
use crate::export::histogram::{Bounds, CONVENTIONS, Histogram, WAITING};
use crate::export::routes::{OTHER, RouteId};
use crate::lifecycle::transition::{Event, Evidence, Reason, Settlement, State, Transition};
use crate::names::Name;
use crate::time::Timestamp;

/// The counters of one group. The rules by which a line is counted stand at [`Group::transition`], and for users in
/// docs/metrics.md.
pub(super) struct Group {
    pub(super) route: RouteId,
    pub(super) endpoint: u32,
    /// Its lines are all of one queue (or of none), whose messages in flight are counted at the place beside it.
    pub(super) is_of_one_queue: bool,
    pub(super) in_flight: Place,
    /// The first and the last line.
    pub(super) since: Timestamp,
    pub(super) last: Timestamp,
    pub(super) sent: u64,
    pub(super) consumed: u64,
    pub(super) transitions: Vec<(Entered, u64)>,
    pub(super) operation_duration: Durations,
    pub(super) process_duration: Durations,
    pub(super) broker_duration: Option<Box<Histogram>>,
    pub(super) receive_buffer_duration: Option<Box<Histogram>>,
    pub(super) retry_duration: Vec<(State, Histogram)>,
    pub(super) dead_letters: Vec<(DeadLetter, u64)>,
    pub(super) settle_failures: Vec<(Option<i32>, u64)>,
}

/// How a state was entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entered {
    pub(super) state: State,
    pub(super) reason: Option<Reason>,
    pub(super) evidence: Evidence,
}

/// Where a dead letter went, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeadLetter {
    pub(super) source: Option<Name>,
    pub(super) destination: Option<Name>,
    pub(super) reason: Option<Reason>,
    pub(super) evidence: Evidence,
}

/// Histograms by outcome: success, or an error's name.
pub(super) type Durations = Vec<(Option<&'static str>, Histogram)>;

impl Group {
    /// Dead-letter destinations of one group that are kept apart.
    const DEAD_LETTERS: usize = 32;
    /// Error codes of refused settlements that are kept apart.
    const CODES: usize = 16;

    pub(super) fn new(route: RouteId, endpoint: u32, is_of_one_queue: bool, now: Timestamp) -> Group {
        Group {
            route,
            endpoint,
            is_of_one_queue,
            in_flight: Place::default(),
            since: now,
            last: now,
            sent: 0,
            consumed: 0,
            transitions: Vec::new(),
            operation_duration: Vec::new(),
            process_duration: Vec::new(),
            broker_duration: None,
            receive_buffer_duration: None,
            retry_duration: Vec::new(),
            dead_letters: Vec::new(),
            settle_failures: Vec::new(),
        }
    }

    pub(super) fn transition(&mut self, line: &Transition<'_>) {
        self.last = self.last.max(line.time);
        let entered = Entered { state: line.state, reason: line.reason, evidence: line.evidence };
        add(&mut self.transitions, entered, line.count);
        match line.state {
            State::Created => self.sent += line.count,
            State::Confirmed => self.sent_until(line, None),
            State::PublishFailed => self.sent_until(line, Some(error(line, "publish_failed"))),
            State::Dispatched => self.dispatched(line),
            State::Processing => self.processing(line),
            State::Acknowledged => {
                self.settled(line, None);
                self.retried(line);
            }
            State::Rejected => self.settled(line, Some(error(line, "rejected"))),
            State::Failed => self.settled(line, Some(error(line, "failed"))),
            State::DeadLettered => {
                self.dead_lettered(line);
                self.retried(line);
            }
            State::Returned | State::Expired | State::Retrying | State::Dropped => {}
        }
    }

    pub(super) fn settle_failed(&mut self, event: &Event<'_>) {
        self.last = self.last.max(event.time);
        let known = |code| self.settle_failures.iter().any(|(other, _)| *other == code);
        let code = event.attributes.error_code;
        let code = if known(code) || self.settle_failures.len() < Self::CODES { code } else { None };
        add(&mut self.settle_failures, code, event.count.unwrap_or(1));
    }

    fn sent_until(&mut self, line: &Transition<'_>, error: Option<&'static str>) {
        if let Some(created) = line.timings.created {
            let duration = line.time.since(created);
            outcome(&mut self.operation_duration, error, &CONVENTIONS).record(duration, line.count);
        }
    }

    fn dispatched(&mut self, line: &Transition<'_>) {
        // A redelivery has been in a consumer's hands, so the time since the publish is not the broker's alone.
        if let Some(created) = line.timings.created
            && line.delivery.is_none_or(|delivery| delivery == 1)
        {
            record(&mut self.broker_duration, line.time.since(created), line.count);
        }
    }

    fn processing(&mut self, line: &Transition<'_>) {
        self.consumed += line.count;
        // An inferred reading (the consumer is on another host) has no time of its own.
        if let Some(dispatched) = line.timings.dispatched
            && line.evidence == Evidence::Observed
        {
            record(&mut self.receive_buffer_duration, line.time.since(dispatched), line.count);
        }
    }

    fn settled(&mut self, line: &Transition<'_>, error: Option<&'static str>) {
        if line.attributes.settlement == Some(Settlement::Automatic) {
            return;
        }
        match line.timings.processing {
            Some(processing) => {
                let duration = line.time.since(processing);
                outcome(&mut self.process_duration, error, &CONVENTIONS).record(duration, line.count);
            }
            // Who settles a delivery has read it, seen or not.
            None if line.previous == Some(State::Dispatched) && line.attributes.settlement.is_some() => {
                self.consumed += line.count;
            }
            None => {}
        }
    }

    fn retried(&mut self, line: &Transition<'_>) {
        // Rejected at its first delivery, it was never retried.
        let Some(first_failed) = line.timings.first_failed.filter(|failed| *failed < line.time) else { return };
        if line.delivery.is_some_and(|delivery| delivery == 1) {
            return;
        }
        let index = match self.retry_duration.iter().position(|(state, _)| *state == line.state) {
            Some(index) => index,
            None => {
                self.retry_duration.push((line.state, Histogram::new(&WAITING)));
                self.retry_duration.len() - 1
            }
        };
        if let Some((_, histogram)) = self.retry_duration.get_mut(index) {
            histogram.record(line.time.since(first_failed), line.count);
        }
    }

    fn dead_lettered(&mut self, line: &Transition<'_>) {
        let attributes = &line.attributes;
        let is_same = |letter: &DeadLetter| {
            letter.source.as_ref() == attributes.dead_letter_source
                && letter.destination.as_ref() == attributes.dead_letter_destination
                && letter.reason == line.reason
                && letter.evidence == line.evidence
        };
        if let Some((_, count)) = self.dead_letters.iter_mut().find(|(letter, _)| is_same(letter)) {
            *count += line.count;
            return;
        }
        let mut letter = DeadLetter {
            source: attributes.dead_letter_source.cloned(),
            destination: attributes.dead_letter_destination.cloned(),
            reason: line.reason,
            evidence: line.evidence,
        };
        if self.dead_letters.len() >= Self::DEAD_LETTERS {
            letter = DeadLetter { source: Some(OTHER.into()), destination: Some(OTHER.into()), ..letter };
        }
        add(&mut self.dead_letters, letter, line.count);
    }
}

/// `error.type` of a line that tells of a failure: its reason, which is one of a few words.
fn error(line: &Transition<'_>, otherwise: &'static str) -> &'static str {
    line.reason.map_or(otherwise, Reason::name)
}

fn add<K: PartialEq>(counts: &mut Vec<(K, u64)>, key: K, count: u64) {
    match counts.iter_mut().find(|(other, _)| *other == key) {
        Some((_, sum)) => *sum += count,
        None => counts.push((key, count)),
    }
}

fn record(histogram: &mut Option<Box<Histogram>>, duration: Duration, count: u64) {
    histogram.get_or_insert_with(|| Box::new(Histogram::new(&WAITING))).record(duration, count);
}

fn outcome<'a>(
    durations: &'a mut Durations,
    error: Option<&'static str>,
    bounds: &'static Bounds,
) -> &'a mut Histogram {
    let index = match durations.iter().position(|(other, _)| *other == error) {
        Some(index) => index,
        None => {
            durations.push((error, Histogram::new(bounds)));
            durations.len() - 1
        }
    };
    // The index is that of an entry found, or pushed just now.
    &mut durations[index].1
}
