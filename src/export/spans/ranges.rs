//! Spans of logs: one for each batch that is sent, for what a group is handed of a partition at once, for what it does with it
//! until it settles, and for the settlement; and spans of their own for single messages that something singles out.
//!
//! Batches and ranges have no identity on the wire, but a place: topic, partition and offsets are the same for every agent, so
//! the ids are made of them. What became of one range is told in several lines where single messages in it have lines of their
//! own; the range's spans are made of all of them.

mod draft;
mod known;
mod settling;

use std::time::Duration;

use self::draft::{Draft, Links, Outcome};
use self::known::{Known, Place, Places, Polled, Sent, Subject};
use self::settling::Settling;
use super::budget::Budget;
use super::chance::Chance;
use super::ids::{Role, SpanContext, batch_identity, publish_context, range_identity, record_identity};
use super::outlet::Outlet;
use super::pairs::text;
use super::{Kind, Link};
use crate::lifecycle::transition::{Event, State, Transition};
use crate::protocol::operation::{Identity, TraceContext};
use crate::time::Timestamp;

/// What decides about spans, and takes them.
pub(super) struct Desk<'a> {
    pub chance: &'a mut Chance,
    pub budget: &'a mut Budget,
    pub slow: Duration,
    pub out: &'a mut Outlet,
}

impl Desk<'_> {
    /// Whether what matters gets spans: what was chosen by chance does in any case.
    fn admits(&mut self, time: Timestamp, identity: Identity, sampled: bool) -> bool {
        sampled || self.budget.admits(time, identity.0 as u64)
    }
}

/// See the [module](self).
#[derive(Default)]
pub(super) struct Ranges {
    places: Places,
    /// Lines about one settlement come one after the other.
    settling: Option<Settling>,
    /// Tells apart messages that have neither an offset nor anything else of their own.
    serial: i64,
}

impl Ranges {
    /// Takes a line about a partition.
    pub fn transition(&mut self, line: &Transition<'_>, desk: &mut Desk<'_>) {
        match line.state {
            State::Created if line.attributes.unanswered => self.sent(line, desk),
            State::Confirmed => self.sent(line, desk),
            State::PublishFailed => self.sent_in_vain(line, desk),
            State::Dispatched => {
                // What was settled before may be handed out again.
                self.flush(desk);
                self.handed(line, desk);
            }
            State::Processing => self.read(line, desk),
            State::Acknowledged | State::Failed | State::Rejected => self.settles(line, desk),
            State::Retrying | State::DeadLettered => self.copied(line, desk),
            State::Dropped if line.previous.is_none() => self.passed_over(line, desk),
            State::Created | State::Returned | State::Expired | State::Dropped => {}
        }
        if let (1, Some(own)) = (line.count, line.attributes.trace) {
            self.single(line, own, desk);
        }
    }

    /// A settlement that was refused.
    pub fn event(&mut self, event: &Event<'_>, desk: &mut Desk<'_>) {
        let attributes = &event.attributes;
        let (Some(subject), Some(requested)) = (Subject::of_attributes(attributes), attributes.requested) else {
            return;
        };
        let offsets = attributes.offsets.unwrap_or((-1, -1));
        let identity = of_range(&subject, offsets, 0, event.time.0);
        if !desk.admits(event.time, identity, false) {
            return;
        }
        let operation = attributes.operation.unwrap_or("settle");
        let draft = Draft {
            offsets: attributes.offsets,
            count: attributes.offsets.and(event.count).unwrap_or(1),
            outcome: Some(Outcome {
                state: None,
                reason: None,
                evidence: event.evidence,
                settlement: None,
                error: attributes.error_code,
                text: attributes.error_text,
            }),
            failed: true,
            important: true,
            ..Draft::new(&subject, operation, Kind::Client, (identity, Role::Settle), (requested, event.time))
        };
        desk.out.emit(draft.span());
    }

    /// Nothing more comes of the settlement at hand.
    pub fn flush(&mut self, desk: &mut Desk<'_>) {
        if let Some(settling) = self.settling.take() {
            settling.finish(&mut self.places, desk);
        }
    }

    /// A batch is in the log, or on its way there without an answer to come.
    fn sent(&mut self, line: &Transition<'_>, desk: &mut Desk<'_>) {
        let [batch] = line.attributes.batches else { return };
        let Some((place, room)) = self.places.of(&line.attributes) else { return };
        let Some(subject) = place.subject(line) else { return };
        let created = line.timings.created.unwrap_or(line.time);
        let confirmed = (line.state == State::Confirmed).then_some(line.time);
        let identity = match line.attributes.offsets {
            Some(_) => batch_identity(&subject.topic, subject.partition, batch),
            None => of_unplaced(&subject, line),
        };
        let sampled = desk.chance.draws(identity.0 as u64, created, Some(created));
        let known = Known {
            identity,
            first: batch.first,
            last: batch.last,
            records: batch.records,
            sampled,
            sent: Some(Sent { subject, created, confirmed }),
            told: sampled,
        };
        if sampled {
            let offsets = line.attributes.offsets.map(|_| (known.first, known.last));
            known.sent.iter().for_each(|sent| desk.out.emit(send(&known, sent, offsets, false)));
        }
        if line.attributes.offsets.is_some() {
            place.add(known, room);
        }
    }

    /// The broker refused a batch, or nobody will know what it did.
    fn sent_in_vain(&mut self, line: &Transition<'_>, desk: &mut Desk<'_>) {
        let [batch] = line.attributes.batches else { return };
        let Some(subject) = Subject::of(line) else { return };
        let identity = of_unplaced(&subject, line);
        let created = line.timings.created.unwrap_or(line.time);
        let sampled = desk.chance.draws(identity.0 as u64, created, Some(created));
        if !desk.admits(line.time, identity, sampled) {
            return;
        }
        let draft = Draft {
            count: batch.records,
            outcome: Some(Outcome::of(line)),
            failed: true,
            important: true,
            ..Draft::new(&subject, SEND, Kind::Producer, (identity, Role::Publish), (created, line.time))
        };
        desk.out.emit(draft.span());
    }

    /// Messages were handed to a consumer.
    fn handed(&mut self, line: &Transition<'_>, desk: &mut Desk<'_>) {
        let Some(range) = line.attributes.offsets else { return };
        let Some((place, room)) = self.places.of(&line.attributes) else { return };
        let Some(subject) = place.subject(line) else { return };
        for batch in line.attributes.batches.iter().filter(|batch| batch.first <= range.1 && range.0 <= batch.last) {
            if place.batch(batch.first).is_some_and(|known| known.last == batch.last) {
                continue;
            }
            let identity = batch_identity(&subject.topic, subject.partition, batch);
            let sampled = desk.chance.draws(identity.0 as u64, line.time, Some(line.time));
            let (first, last, records) = (batch.first, batch.last, batch.records);
            place.add(Known { identity, first, last, records, sampled, sent: None, told: false }, room);
        }
        let sampled = place.batches(range).any(|known| known.sampled);
        let (first, last) = range;
        let polled = Polled {
            subject,
            client: line.attributes.client.copied(),
            first,
            last,
            count: line.count,
            delivery: line.delivery.unwrap_or(1),
            dispatched: line.time,
            read: None,
            sampled,
            told: None,
        };
        place.handed(polled, line, room);
    }

    /// The application has read what it was handed.
    fn read(&mut self, line: &Transition<'_>, desk: &mut Desk<'_>) {
        let Some(range) = line.attributes.offsets else { return };
        let Some((place, _)) = self.places.of(&line.attributes) else { return };
        let mut sampled = Vec::new();
        for polled in place.polls(line, range).filter(|polled| polled.told.is_none()) {
            polled.read = line.timings.processing.map(|_| line.time);
            if polled.sampled {
                sampled.push(polled.clone());
            }
        }
        for polled in sampled {
            tell_poll(place, &polled, line, false, desk);
        }
        if line.attributes.group.is_none() {
            // Nobody settles it.
            place.forget(range, line);
        }
    }

    fn settles(&mut self, line: &Transition<'_>, desk: &mut Desk<'_>) {
        if self.settling.as_mut().is_some_and(|settling| settling.goes_on(line)) {
            return;
        }
        self.flush(desk);
        self.settling = Settling::of(line);
    }

    /// A reader of committed messages was sent what was aborted.
    fn passed_over(&mut self, line: &Transition<'_>, desk: &mut Desk<'_>) {
        let (Some(range), Some(subject)) = (line.attributes.offsets, Subject::of(line)) else { return };
        let identity = of_range(&subject, range, 0, line.time.0);
        if !desk.admits(line.time, identity, false) {
            return;
        }
        let Some((place, _)) = self.places.of(&line.attributes) else { return };
        let links = origins(place, range);
        let draft = Draft {
            origin: only(&links),
            links,
            offsets: Some(range),
            count: line.count,
            outcome: Some(Outcome::of(line)),
            failed: true,
            important: true,
            ..Draft::new(&subject, POLL, Kind::Client, (identity, Role::Poll), (line.time, line.time))
        };
        desk.out.emit(draft.span());
    }

    /// A consumer copied a message to a topic for retries or dead letters: its work on the message failed.
    fn copied(&mut self, line: &Transition<'_>, desk: &mut Desk<'_>) {
        let (Some(range), Some(subject)) = (line.attributes.offsets, Subject::of(line)) else { return };
        let own = line.attributes.trace;
        let identity = match own {
            Some(own) => record_identity(&subject.topic, subject.partition, range.0, own),
            None => of_range(&subject, range, line.delivery.unwrap_or(0), 0),
        };
        if !desk.admits(line.time, identity, own.is_some()) {
            return;
        }
        let Some((place, room)) = self.places.of(&line.attributes) else { return };
        tell_producers(place, range, line.time, desk);
        // What is being retried has failed before; what its copy went through is told of the copy.
        let work = match line.previous {
            Some(State::Retrying) => place.copied(line.attributes.group, range.0),
            _ => Some(tell_work(place, &subject, identity, line, desk)),
        };
        let mut links = Links::default();
        work.into_iter().for_each(|context| links.push(context.into()));
        match own {
            Some(own) => origins_of_single(own, identity, true).links.into_iter().for_each(|link| links.push(link)),
            None => place.batches(range).for_each(|known| links.push(known.context().into())),
        }
        let (operation, role) = match line.state {
            State::Retrying => ("retry", Role::Retry),
            _ => ("dead_letter", Role::DeadLetter),
        };
        if let (State::Retrying, Some(context)) = (line.state, work) {
            place.copy(line.attributes.group, range.0, context, room);
        }
        let draft = Draft {
            own,
            origin: work.or_else(|| only(&links)),
            links,
            destination: line.attributes.dead_letter_destination.unwrap_or(&subject.topic),
            delivery: line.delivery,
            outcome: Some(Outcome::of(line)),
            failed: true,
            important: true,
            ..Draft::new(&subject, operation, Kind::Producer, (identity, role), (line.time, line.time))
        };
        desk.out.emit(draft.span());
    }

    /// A message with a context of its own: its producer's trace goes on.
    fn single(&mut self, line: &Transition<'_>, own: &TraceContext, desk: &mut Desk<'_>) {
        let Some(subject) = Subject::of(line) else { return };
        let offset = line.attributes.offsets.map(|(first, _)| first);
        let identity =
            record_identity(&subject.topic, subject.partition, offset.unwrap_or_else(|| self.unplaced()), own);
        let failed = matches!(line.state, State::PublishFailed | State::Failed | State::Rejected | State::Dropped);
        let created = line.timings.created;
        let start = line.timings.processing.or(line.timings.dispatched).unwrap_or(line.time);
        let (operation, kind, role, start) = match line.state {
            State::Created if line.attributes.unanswered => (SEND, Kind::Client, Role::Publish, line.time),
            State::Confirmed | State::PublishFailed => {
                (SEND, Kind::Client, Role::Publish, created.unwrap_or(line.time))
            }
            State::Processing if line.attributes.group.is_none() => {
                (POLL, Kind::Client, Role::Poll, line.timings.dispatched.unwrap_or(line.time))
            }
            State::Acknowledged | State::Failed | State::Rejected if line.previous != Some(State::Acknowledged) => {
                (PROCESS, Kind::Consumer, Role::Process, start)
            }
            _ => return,
        };
        let draft = Draft {
            own: Some(own),
            origin: Some(context_of(own)),
            links: origins_of_single(own, identity, created.is_some() && role != Role::Publish),
            dispatched: line.timings.dispatched.filter(|_| role == Role::Process),
            offsets: line.attributes.offsets,
            delivery: line.delivery,
            outcome: (role != Role::Publish || failed).then(|| Outcome::of(line)),
            failed,
            important: true,
            ..Draft::new(&subject, operation, kind, (identity, role), (start, line.time))
        };
        desk.out.emit(draft.span());
    }

    /// A number that no offset has.
    fn unplaced(&mut self) -> i64 {
        self.serial -= 1;
        self.serial
    }
}

impl<'a> Draft<'a> {
    /// About one message, whose fate is not told.
    fn new(
        subject: &'a Subject,
        operation: &'static str,
        kind: Kind,
        (identity, role): (Identity, Role),
        (start, end): (Timestamp, Timestamp),
    ) -> Draft<'a> {
        Draft {
            subject,
            operation,
            destination: &subject.topic,
            kind,
            identity,
            role,
            own: None,
            origin: None,
            links: Links::default(),
            start,
            end,
            dispatched: None,
            offsets: None,
            count: 1,
            delivery: None,
            outcome: None,
            failed: false,
            important: false,
        }
    }
}

/// The operations' names in the conventions for Kafka.
const SEND: &str = "send";
const POLL: &str = "poll";
const PROCESS: &str = "process";

/// The span of a batch's sending.
fn send(known: &Known, sent: &Sent, offsets: Option<(i64, i64)>, important: bool) -> super::Span {
    let Sent { subject, created, confirmed } = sent;
    let times = (*created, confirmed.unwrap_or(*created));
    let ids = (known.identity, Role::Publish);
    Draft { offsets, count: known.records, important, ..Draft::new(subject, SEND, Kind::Producer, ids, times) }.span()
}

/// The batches that hold something of a range.
fn origins(place: &mut Place, range: (i64, i64)) -> Links {
    let mut links = Links::default();
    place.batches(range).for_each(|known| links.batch(known));
    links
}

/// The context that a message brought, and that of our span of its sending.
fn origins_of_single(own: &TraceContext, identity: Identity, sent: bool) -> Links {
    let mut links = Links::default();
    links.push(context_of(own).into());
    if sent {
        links.push(publish_context(identity, Some(own)).into());
    }
    links
}

/// Where there is one origin only, it is the parent.
fn only(links: &Links) -> Option<SpanContext> {
    match (links.links.as_slice(), links.dropped) {
        ([Link { context, .. }], 0) => Some(*context),
        _ => None,
    }
}

fn context_of(own: &TraceContext) -> SpanContext {
    SpanContext { trace_id: own.trace_id, span_id: own.span_id }
}

/// Of messages whose offsets are not known.
fn of_unplaced(subject: &Subject, line: &Transition<'_>) -> Identity {
    let first = line.attributes.client.map_or(0, |client| i64::from(client.port()));
    of_range(subject, (first, -1), 0, line.timings.created.unwrap_or(line.time).0)
}

fn of_range(subject: &Subject, range: (i64, i64), delivery: u32, salt: u64) -> Identity {
    range_identity((&subject.topic, subject.partition), text(subject.group.as_ref()), range, delivery, salt)
}

/// The span of what a consumer was handed at once.
fn tell_poll(place: &mut Place, polled: &Polled, line: &Transition<'_>, important: bool, desk: &mut Desk<'_>) {
    let range = (polled.first, polled.last);
    let salt = place.batches(range).next().map_or(0, |known| known.identity.0 as u64);
    let links = origins(place, range);
    let alone = polled.client.filter(|_| polled.subject.group.is_none());
    let salt = salt ^ alone.map_or(0, |client| u64::from(client.port()));
    let identity = of_range(&polled.subject, range, polled.delivery, salt);
    let draft = Draft {
        origin: only(&links),
        links,
        offsets: Some(range),
        count: polled.count,
        delivery: Some(polled.delivery),
        important,
        ..Draft::new(
            &polled.subject,
            POLL,
            Kind::Client,
            (identity, Role::Poll),
            (polled.dispatched, polled.read.unwrap_or(polled.dispatched)),
        )
    };
    let context = draft.context();
    desk.out.emit(draft.span());
    let same = |other: &&mut Polled| other.first == polled.first && other.delivery == polled.delivery;
    if let Some(polled) = place.polls(line, range).find(same) {
        polled.told = Some(context);
    }
}

/// The span of the work on a message that was copied elsewhere in place of being done.
fn tell_work(
    place: &mut Place,
    subject: &Subject,
    identity: Identity,
    line: &Transition<'_>,
    desk: &mut Desk<'_>,
) -> SpanContext {
    let range = line.attributes.offsets.unwrap_or_default();
    let own = line.attributes.trace;
    let mut links = own.map(|own| origins_of_single(own, identity, true)).unwrap_or_default();
    let mut origin = own.map(context_of);
    let mut times = None;
    if let Some(polled) = place.polls(line, range).next() {
        origin = origin.or(links.poll(polled));
        times = Some((polled.read, polled.dispatched));
    }
    if own.is_none() {
        place.batches(range).for_each(|known| links.batch(known));
        origin = origin.or_else(|| only(&links));
    }
    let start = times.map_or(line.time, |(read, dispatched)| read.unwrap_or(dispatched));
    let draft = Draft {
        own,
        origin,
        links,
        dispatched: times.map(|(_, dispatched)| dispatched),
        offsets: Some(range),
        delivery: line.delivery,
        outcome: Some(Outcome::of(line)),
        failed: true,
        important: true,
        ..Draft::new(subject, PROCESS, Kind::Consumer, (identity, Role::Process), (start, line.time))
    };
    let context = draft.context();
    desk.out.emit(draft.span());
    context
}

/// The producers' spans of a range that matters after all, as far as their sending was seen.
fn tell_producers(place: &mut Place, range: (i64, i64), time: Timestamp, desk: &mut Desk<'_>) {
    for known in place.batches(range).filter(|known| !known.told) {
        if let Some(sent) = known.sent.clone()
            && desk.admits(time, known.identity, false)
        {
            known.told = true;
            desk.out.emit(send(known, &sent, Some((known.first, known.last)), true));
        }
    }
}
