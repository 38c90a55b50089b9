//! From the log into consumers' hands.

use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;

use super::super::emit;
use super::super::message::Moment;
use super::super::party::Party;
use super::super::transition::{Attributes, Event, Evidence, Observer, Reason, State, Transition};
use super::chain::{Chain, Delivery, Extent, Piece};
use super::consumers::{Application, Consumer, Found, Rebalance};
use super::gaps::Part;
use super::lag;
use super::lines::Subject;
use super::topics::Place;
use super::{Logs, Unread, single};
use crate::protocol::operation::TraceContext;
use crate::protocol::operation::log::{self, Batch, Member, Patience};
use crate::stream::{ConnectionId, Flow, Position};
use crate::time::Timestamp;

/// What a broker handed out of one partition at once.
pub(super) struct Fetched<'a> {
    pub batches: &'a [Batch],
    pub from: Option<i64>,
    pub aborted: bool,
    pub flow: Flow,
    pub end: Position,
}

/// What is handed out of messages with the same past.
pub(super) struct Handed<'a> {
    pub delivery: Delivery,
    pub part: Part,
    /// The batches that they come in, as far as that is known.
    pub batches: &'a [Batch],
    /// It is one message, with a trace of its own.
    pub trace: Option<&'a TraceContext>,
}

impl Fetched<'_> {
    /// What of it the consumer asked for: whole batches come, also where it asked from an offset inside one.
    fn extent(&self, chain: &Chain) -> Option<Extent> {
        let (first, last) = (self.batches.first()?.first, self.batches.last()?.last);
        // Where nobody knows from where on, it goes on where it was, or from where its group stands.
        let likely = || [chain.reached, chain.committed].into_iter().flatten().filter(|at| *at <= last).max();
        let asked = self.from.or_else(likely).map_or(first, |from| from.max(first));
        if asked > last {
            return None;
        }
        let mut extent = Extent { first: asked, last, count: 0, counted: true };
        for batch in self.batches.iter().filter(|batch| batch.last >= asked) {
            let before = match asked > batch.first {
                true => chain.gaps.borrow().before(batch.records, (batch.first, batch.last), asked),
                false => Part { count: 0, counted: true },
            };
            extent.count += batch.records - before.count;
            extent.counted &= before.counted;
        }
        (extent.count > 0).then_some(extent)
    }

    /// Offsets that hold nothing: those that batches lack, and what lies between them.
    fn gaps(&self) -> impl Iterator<Item = (i64, i64)> + '_ {
        let between = self.batches.windows(2).filter_map(|pair| match pair {
            [one, next] => Some((one.last.saturating_add(1), next.first.saturating_sub(1))),
            _ => None,
        });
        between.chain(self.batches.iter().flat_map(|batch| batch.gaps.iter().flat_map(|gaps| gaps.iter().copied())))
    }
}

impl Logs {
    pub(super) fn fetched(
        &mut self,
        time: Timestamp,
        party: &Rc<Party>,
        partition: &log::Partition,
        fetched: &Fetched<'_>,
        observer: &mut dyn Observer,
    ) {
        let Some(place) = self.place(partition) else { return };
        for batch in fetched.batches {
            self.found_in_log(time, place, batch, observer);
        }
        let found = self.consumers.of_fetch(party, place);
        let Some(mut chain) = self.take_chain(place, &found.consumer) else { return };
        if found.consumer.group().is_some() {
            self.adopt(party, place, &mut chain);
        }
        fetched.gaps().for_each(|(first, last)| chain.gaps.borrow_mut().add(first, last));
        if let Some(extent) = fetched.extent(&chain) {
            if fetched.aborted {
                self.dropped(time, party, place, &found.consumer, extent, observer);
                chain.reached = chain.reached.max(Some(extent.last + 1));
            } else {
                self.take_back(time, party, place, (&mut chain, &found), extent, observer);
                let found = Found { guessed: found.guessed || fetched.from.is_none(), ..found.clone() };
                self.dispatch(time, party, place, (&mut chain, &found), (extent, fetched.batches), observer);
                let (offsets, read) = ((extent.first, extent.last), (fetched.flow, fetched.end));
                self.awaits_read(time, party, (place, &found.consumer), offsets, read);
            }
        }
        self.put_chain(place, found.consumer, chain);
    }

    /// What somebody holds is handed out again. From another member, or after another assignment, it came back; to the same one
    /// it was sent again, for a reason that the wire does not show.
    fn take_back(
        &mut self,
        time: Timestamp,
        party: &Rc<Party>,
        place: Place,
        (chain, found): (&mut Chain, &Found),
        extent: Extent,
        observer: &mut dyn Observer,
    ) {
        for piece in chain.take(extent.first, extent.last) {
            let same = Application::is_of_both(&piece.holder, party) && piece.assignment == found.assignment;
            if same || found.consumer.group().is_none() {
                chain.sent_again(&piece);
            } else {
                self.fail(time, place, &found.consumer, chain, &piece, Reason::Rebalanced, observer);
            }
        }
    }

    fn dispatch(
        &mut self,
        time: Timestamp,
        party: &Rc<Party>,
        place: Place,
        (chain, found): (&mut Chain, &Found),
        (extent, batches): (Extent, &[Batch]),
        observer: &mut dyn Observer,
    ) {
        let ranges = single::ranges(extent, batches, &chain.gaps.borrow());
        for (mut left, trace) in ranges {
            for delivery in chain.deliveries(left.first, left.last) {
                let part = left.take_until(delivery.last, &chain.gaps.borrow());
                if part.count > 0 {
                    let handed = Handed { delivery, part, batches, trace };
                    self.hand_out(time, party, place, (chain, found), &handed, observer);
                }
            }
        }
    }

    /// Messages with the same past come into a consumer's hands.
    pub(super) fn hand_out(
        &mut self,
        time: Timestamp,
        party: &Rc<Party>,
        place: Place,
        (chain, found): (&mut Chain, &Found),
        handed: &Handed<'_>,
        observer: &mut dyn Observer,
    ) {
        let Handed { delivery, part, batches, trace } = *handed;
        let Delivery { first, last, previous, number, first_failed, refetched, guessed } = delivery;
        let piece = Piece {
            first,
            last,
            count: part.count,
            delivery: number,
            state: State::Dispatched,
            dispatched: time,
            processing: Moment::default(),
            first_failed,
            assignment: found.assignment,
            counted: part.counted,
            holder: party.clone(),
            single: trace.and_then(|context| self.singles.add(context)),
        };
        let mut line = self.of_piece(&piece, place, &found.consumer, time, State::Dispatched);
        line.attributes.lag = self.lag(place, chain);
        line.attributes.operation = Some(POLL);
        line.attributes.redelivered = Some(number > 1);
        line.attributes.batches = batches;
        line.previous = previous;
        line.reason = refetched.then_some(Reason::Refetched);
        line.evidence = emit::evidence(refetched || found.guessed || guessed || !part.counted);
        line.ambiguous = found.ambiguous;
        observer.transition(&line);
        chain.put(piece);
    }

    /// A line about what a consumer holds.
    pub(super) fn of_piece<'a>(
        &'a self,
        piece: &'a Piece,
        place: Place,
        consumer: &'a Consumer,
        time: Timestamp,
        state: State,
    ) -> Transition<'a> {
        let stored = self.partitions.get(&place).and_then(|known| known.stored(piece.first));
        Subject { topics: &self.topics, place }.of_piece(piece, consumer, stored, time, state)
    }

    /// What was handed out has still to be read, up to a position.
    pub(super) fn awaits_read(
        &mut self,
        time: Timestamp,
        party: &Party,
        (place, consumer): (Place, &Consumer),
        (first, last): (i64, i64),
        (flow, end): (Flow, Position),
    ) {
        if party.reads_seen {
            let (consumer, dispatched) = (consumer.clone(), time);
            let unread = Unread { flow, end, dispatched, place, consumer, first, last };
            self.unread.entry(party.connection).or_default().push_back(unread);
        }
    }

    /// Their transaction was aborted: the consumer's library is sent them, and drops them.
    fn dropped(
        &mut self,
        time: Timestamp,
        party: &Rc<Party>,
        place: Place,
        consumer: &Consumer,
        extent: Extent,
        observer: &mut dyn Observer,
    ) {
        let subject = Subject { topics: &self.topics, place };
        let mut line = subject.line(time, State::Dropped, Some(party), extent.count);
        line.reason = Some(Reason::Aborted);
        line.attributes.operation = Some(POLL);
        line.attributes.group = consumer.group();
        line.attributes.offsets = Some((extent.first, extent.last));
        observer.transition(&line);
    }

    /// An application has read: what ends before `read.end` is in its hands. What ends within `read` came there just now; when
    /// the rest of it did, was lost.
    pub(in crate::lifecycle) fn read(
        &mut self,
        time: Timestamp,
        connection: ConnectionId,
        flow: Flow,
        read: Range<Position>,
        observer: &mut dyn Observer,
    ) {
        let Some(mut unread) = self.unread.remove(&connection) else { return };
        while unread.front().is_some_and(|unread| unread.flow == flow && unread.end <= read.end)
            && let Some(unread) = unread.pop_front()
        {
            self.processing(time, connection, &unread, unread.end <= read.start, observer);
        }
        if !unread.is_empty() {
            self.unread.insert(connection, unread);
        }
    }

    fn processing(
        &mut self,
        time: Timestamp,
        connection: ConnectionId,
        unread: &Unread,
        inferred: bool,
        observer: &mut dyn Observer,
    ) {
        let Unread { place, consumer, first, last, dispatched, .. } = unread;
        let Logs { partitions, topics, .. } = self;
        let Some(known) = partitions.get_mut(place) else { return };
        let Some(mut chain) = known.chains.remove(consumer) else { return };
        for mut piece in chain.take(*first, *last) {
            if piece.state == State::Dispatched && piece.holder.connection == connection {
                piece.state = State::Processing;
                if !inferred {
                    piece.processing = time.into();
                }
                let subject = Subject { topics, place: *place };
                let stored = known.stored(piece.first);
                let mut line = subject.of_piece(&piece, consumer, stored, time, State::Processing);
                // The piece may have been joined to an earlier one.
                line.timings.dispatched = Some(*dispatched);
                line.attributes.lag = lag::lag(known, &chain);
                line.previous = Some(State::Dispatched);
                line.evidence = emit::evidence(inferred || !piece.counted);
                line.attributes.operation = Some(POLL);
                observer.transition(&line);
            }
            chain.put(piece);
        }
        known.chains.insert(consumer.clone(), chain);
    }

    /// A member consumes these partitions now, and no others: what it held of others, or others held of these, comes again.
    pub(super) fn assigned(
        &mut self,
        time: Timestamp,
        party: &Rc<Party>,
        (member, patience): (&Member, Patience),
        partitions: &[log::Partition],
        observer: &mut dyn Observer,
    ) {
        self.groups.heard(&member.group, time);
        let places: Vec<Place> = partitions.iter().filter_map(|partition| self.place(partition)).collect();
        for place in &places {
            self.taken_over(time, party, *place, &member.group, observer);
        }
        let held: BTreeSet<Place> = places.iter().copied().collect();
        let given_up: Vec<Place> = self.consumers.places(party, member).difference(&held).copied().collect();
        self.disowned(time, member, &given_up, observer);
        self.owned(time, party, (member, patience), &places, observer);
        let rebalance = self.consumers.assigned(party, member, places.into_iter());
        if let Some(Rebalance { held, gained, lost }) = rebalance.filter(|change| change.gained + change.lost > 0) {
            let detail = format!("partitions: {held} now, {gained} of them new; {lost} taken away");
            self.of_member(time, "rebalanced", Some(&detail), party, member, observer);
        }
    }

    /// Something happened to a member of a group.
    fn of_member(
        &self,
        time: Timestamp,
        name: &'static str,
        detail: Option<&str>,
        party: &Rc<Party>,
        member: &Member,
        observer: &mut dyn Observer,
    ) {
        let attributes = Attributes { group: Some(&member.group), ..emit::of_party(Some(party)) };
        observer.event(&Event { time, name, count: None, detail, evidence: Evidence::Observed, attributes });
    }

    /// Another member holds the partition from now on: what the last one has not committed comes again.
    fn taken_over(
        &mut self,
        time: Timestamp,
        party: &Rc<Party>,
        place: Place,
        group: &crate::names::Name,
        observer: &mut dyn Observer,
    ) {
        let consumer = Consumer::Group(group.clone());
        let Some(known) = self.partitions.get_mut(&place) else { return };
        let Some(mut chain) = known.chains.remove(&consumer) else { return };
        for piece in chain.take(i64::MIN, i64::MAX) {
            // What may have been committed unheard shows when it is handed out again, or covered by another commit.
            if Application::is_of_both(&piece.holder, party) || !self.is_uncommitted(&chain, &piece) {
                chain.put(piece);
            } else {
                self.fail(time, place, &consumer, &mut chain, &piece, Reason::Rebalanced, observer);
            }
        }
        self.put_chain(place, consumer, chain);
    }

    /// A member is none any more: what it held comes again.
    pub(super) fn member_left(
        &mut self,
        time: Timestamp,
        party: &Rc<Party>,
        member: &Member,
        observer: &mut dyn Observer,
    ) {
        let consumer = Consumer::Group(member.group.clone());
        let Some(places) = self.consumers.left(party, member) else { return };
        self.of_member(time, "consumer_cancelled", None, party, member, observer);
        self.disowned(time, member, &places, observer);
        for place in places {
            let Some(known) = self.partitions.get_mut(&place) else { continue };
            let Some(mut chain) = known.chains.remove(&consumer) else { continue };
            for piece in chain.take(i64::MIN, i64::MAX) {
                if Application::is_of_both(&piece.holder, party) && self.is_uncommitted(&chain, &piece) {
                    self.fail(time, place, &consumer, &mut chain, &piece, Reason::Rebalanced, observer);
                } else {
                    chain.put(piece);
                }
            }
            self.put_chain(place, consumer.clone(), chain);
        }
    }

    /// A delivery ended without success; the messages come again.
    #[expect(clippy::too_many_arguments, reason = "the parts of one line")]
    pub(super) fn fail(
        &mut self,
        time: Timestamp,
        place: Place,
        consumer: &Consumer,
        chain: &mut Chain,
        piece: &Piece,
        reason: Reason,
        observer: &mut dyn Observer,
    ) {
        let mut line = self.of_piece(piece, place, consumer, time, State::Failed);
        line.previous = Some(piece.state);
        line.reason = Some(reason);
        line.evidence = Evidence::Inferred;
        line.attributes.lag = self.lag(place, chain);
        line.timings.first_failed = Some(piece.first_failed.get().unwrap_or(time));
        observer.transition(&line);
        chain.failed(piece, time);
    }
}

/// The operation's name in the conventions for Kafka (OpenTelemetry, messaging spans, Kafka).
pub(super) const POLL: &str = "poll";
