//! What a group did with a range, and how it settled it.

use super::draft::{Draft, Links, Outcome};
use super::known::{Place, Places, Polled, Subject};
use super::{Desk, PROCESS, of_range, only, tell_poll, tell_producers};
use crate::export::spans::Kind;
use crate::export::spans::ids::{Role, SpanContext};
use crate::lifecycle::transition::{Attributes, Evidence, Reason, Settlement, State, Transition};
use crate::protocol::operation::Identity;
use crate::time::Timestamp;

/// What was settled at once, out of one line or several.
pub(super) struct Settling {
    subject: Subject,
    client: Option<std::net::SocketAddr>,
    time: Timestamp,
    /// When it was asked for, and what that is called.
    asked: Option<(Timestamp, &'static str)>,
    state: State,
    reason: Option<Reason>,
    evidence: Evidence,
    settlement: Option<Settlement>,
    error: Option<i32>,
    /// It was done with before, and comes again.
    again: bool,
    range: (i64, i64),
    count: u64,
    /// The largest of its messages.
    delivery: u32,
    created: Option<Timestamp>,
    dispatched: Option<Timestamp>,
    processing: Option<Timestamp>,
}

impl Settling {
    /// Begins with a line.
    pub fn of(line: &Transition<'_>) -> Option<Settling> {
        let attributes = &line.attributes;
        Some(Settling {
            subject: Subject::of(line)?,
            client: attributes.client.copied(),
            time: line.time,
            asked: attributes.requested.zip(attributes.operation),
            state: line.state,
            reason: line.reason,
            evidence: line.evidence,
            settlement: attributes.settlement,
            error: attributes.error_code,
            again: line.previous == Some(State::Acknowledged),
            range: attributes.offsets?,
            count: line.count,
            delivery: line.delivery.unwrap_or(0),
            created: line.timings.created,
            dispatched: line.timings.dispatched,
            processing: line.timings.processing,
        })
    }

    /// Takes one more line; false if it is about something else.
    pub fn goes_on(&mut self, line: &Transition<'_>) -> bool {
        let Some((first, last)) = line.attributes.offsets else { return false };
        let goes_on = self.time == line.time
            && self.state == line.state
            && self.reason == line.reason
            && self.error == line.attributes.error_code
            && self.again == (line.previous == Some(State::Acknowledged))
            && self.range.1 < first
            && self.subject.is_of(line);
        if goes_on {
            self.range.1 = last;
            self.count += line.count;
            self.delivery = self.delivery.max(line.delivery.unwrap_or(0));
            self.created = earlier(self.created, line.timings.created);
            self.dispatched = earlier(self.dispatched, line.timings.dispatched);
            self.processing = earlier(self.processing, line.timings.processing);
        }
        goes_on
    }

    /// Makes its spans.
    pub fn finish(self, places: &mut Places, desk: &mut Desk<'_>) {
        let attributes = self.attributes();
        let line = Transition { attributes, ..Transition::new(self.time, self.state) };
        let Some((place, _)) = places.of(&attributes) else { return };
        let salt = place.batches(self.range).next().map_or(0, |known| known.identity.0 as u64);
        let identity = of_range(&self.subject, self.range, self.delivery, salt);
        let sampled = self.is_sampled(place, &line, identity, desk);
        let important = self.matters(desk) && desk.admits(self.time, identity, sampled);
        if important && !sampled {
            tell_producers(place, self.range, self.time, desk);
        }
        if important || sampled {
            let untold: Vec<Polled> = place
                .polls(&line, self.range)
                .filter(|polled| polled.told.is_none())
                .map(|polled| polled.clone())
                .collect();
            untold.iter().for_each(|polled| tell_poll(place, polled, &line, important, desk));
            let process = (!self.again).then(|| self.process(place, &line, identity, important, desk));
            self.settle(place, process, identity, important, desk);
        }
        place.forget(self.range, &line);
    }

    fn attributes(&self) -> Attributes<'_> {
        Attributes {
            topic: Some(&self.subject.topic),
            partition: Some(self.subject.partition),
            group: self.subject.group.as_ref(),
            client: self.client.as_ref(),
            ..Attributes::default()
        }
    }

    /// What was handed out because of chance is settled so; of what is not remembered, only its own place can say.
    fn is_sampled(&self, place: &mut Place, line: &Transition<'_>, identity: Identity, desk: &mut Desk<'_>) -> bool {
        let mut known = place.polls(line, self.range).map(|polled| polled.sampled).peekable();
        if known.peek().is_some() {
            return known.any(|sampled| sampled);
        }
        drop(known);
        let created = self.created.or(self.dispatched).unwrap_or(self.time);
        desk.chance.draws(identity.0 as u64, created, None)
    }

    fn matters(&self, desk: &Desk<'_>) -> bool {
        let is_slow = self.created.is_some_and(|created| self.time.since(created) > desk.slow);
        self.state != State::Acknowledged || self.delivery > 1 || is_slow
    }

    fn outcome(&self) -> Outcome<'_> {
        Outcome {
            state: Some(self.state),
            reason: self.reason,
            evidence: self.evidence,
            settlement: self.settlement,
            error: self.error,
            text: None,
        }
    }

    /// From the application's reading to the settlement; gives the span's context.
    fn process(
        &self,
        place: &mut Place,
        line: &Transition<'_>,
        identity: Identity,
        important: bool,
        desk: &mut Desk<'_>,
    ) -> SpanContext {
        let mut links = Links::default();
        let mut polls = Vec::new();
        let (mut read, mut dispatched) = (None, None);
        for polled in place.polls(line, self.range) {
            polls.extend(links.poll(polled));
            read = earlier(read, polled.read);
            dispatched = earlier(dispatched, Some(polled.dispatched));
        }
        place.batches(self.range).for_each(|known| links.batch(known));
        let dispatched = dispatched.or(self.dispatched);
        let start = read.or(self.processing).or(dispatched).unwrap_or(self.time).min(self.time);
        let origin = match polls.as_slice() {
            [poll] => Some(*poll),
            [] => only(&links),
            _ => None,
        };
        let draft = Draft {
            origin,
            links,
            dispatched,
            offsets: Some(self.range),
            count: self.count,
            delivery: (self.delivery > 0).then_some(self.delivery),
            outcome: Some(self.outcome()),
            failed: self.state != State::Acknowledged,
            important,
            ..Draft::new(&self.subject, PROCESS, Kind::Consumer, (identity, Role::Process), (start, self.time))
        };
        let context = draft.context();
        desk.out.emit(draft.span());
        context
    }

    /// From asking for the settlement to the broker's answer.
    fn settle(
        &self,
        place: &mut Place,
        process: Option<SpanContext>,
        identity: Identity,
        important: bool,
        desk: &mut Desk<'_>,
    ) {
        let Some((asked, operation)) = self.asked else { return };
        let mut links = Links::default();
        match process {
            Some(process) => links.push(process.into()),
            None => place.batches(self.range).for_each(|known| links.batch(known)),
        }
        let draft = Draft {
            origin: process.or_else(|| only(&links)),
            links,
            offsets: Some(self.range),
            count: self.count,
            delivery: (self.delivery > 0).then_some(self.delivery),
            outcome: Some(self.outcome()),
            // The broker did as it was told, also where that was to give messages again.
            failed: false,
            important,
            ..Draft::new(&self.subject, operation, Kind::Client, (identity, Role::Settle), (asked, self.time))
        };
        desk.out.emit(draft.span());
    }
}

fn earlier(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
