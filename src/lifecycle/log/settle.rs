//! Commits: all before an offset is done.

use std::rc::Rc;

use super::super::emit;
use super::super::party::Party;
use super::super::transition::{Event, Evidence, Observer, Reason, Settlement, State};
use super::chain::{Chain, Piece};
use super::consumers::{Application, Consumer};
use super::lines::Subject;
use super::stalled;
use super::topics::Place;
use super::{Logs, copies};
use crate::names::Name;
use crate::protocol::operation::log::{self, Member};
use crate::time::Timestamp;

/// A commit as its coordinator answered it.
pub(super) struct Commit<'a> {
    pub member: &'a Member,
    pub offset: i64,
    pub error: i16,
    pub transaction: Option<i64>,
    /// When the member asked for it.
    pub asked: Timestamp,
}

/// What counts when a producer's transaction does.
#[derive(Default)]
pub(super) struct Transaction {
    commits: Vec<Promised>,
    copies: Vec<copies::Stored>,
}

impl Transaction {
    /// Whether something in it is of the application that speaks on this connection.
    pub fn is_of(&self, party: &Party) -> bool {
        let mut parties =
            self.commits.iter().map(|commit| &commit.party).chain(self.copies.iter().map(|stored| &stored.party));
        parties.any(|of| Application::is_of_both(of, party))
    }

    /// Where what is in it belongs.
    pub fn places(&mut self) -> impl Iterator<Item = &mut Place> {
        let commits = self.commits.iter_mut().map(|commit| &mut commit.place);
        commits.chain(self.copies.iter_mut().map(|stored| &mut stored.place))
    }

    fn is_full(&self) -> bool {
        self.commits.len() + self.copies.len() >= Logs::PROMISED
    }
}

/// A commit that counts when its transaction does.
struct Promised {
    group: Name,
    place: Place,
    offset: i64,
    asked: Timestamp,
    party: Rc<Party>,
}

impl Logs {
    /// Commits, and batches with copies, that one transaction may hold. More are taken as if it were committed when they come.
    const PROMISED: usize = 65_536;
    /// Producers whose transactions are under way.
    const TRANSACTIONS: usize = 65_536;

    pub(super) fn committed(
        &mut self,
        time: Timestamp,
        party: &Rc<Party>,
        partition: &log::Partition,
        commit: &Commit<'_>,
        observer: &mut dyn Observer,
    ) {
        let Some(place) = self.place(partition) else { return };
        self.groups.heard(&commit.member.group, time);
        self.watch.heard(commit.member, time);
        self.consumers.touched(party, commit.member, place);
        let group = &commit.member.group;
        if commit.error != 0 {
            let line = Subject { topics: &self.topics, place }.line(time, State::Failed, Some(party), 1);
            let mut attributes = line.attributes;
            attributes.group = Some(group);
            attributes.operation = Some(COMMIT);
            attributes.error_code = Some(i32::from(commit.error));
            attributes.requested = Some(commit.asked);
            let name = "settle_failed";
            let evidence = Evidence::Observed;
            return observer.event(&Event { time, name, count: Some(1), detail: None, evidence, attributes });
        }
        if let Some(transaction) = commit.transaction.and_then(|producer| self.transaction(producer)) {
            let (group, party, offset, asked) = (group.clone(), party.clone(), commit.offset, commit.asked);
            return transaction.commits.push(Promised { group, place, offset, asked, party });
        }
        self.done_before((time, commit.asked), party, place, (group, commit.offset), observer);
    }

    /// Copies that a producer's transaction may take back. Those that are none of any, or find no room.
    pub(super) fn promise_copies(&mut self, producer: Option<i64>, stored: copies::Stored) -> Option<copies::Stored> {
        match producer.and_then(|producer| self.transaction(producer)) {
            Some(transaction) => {
                transaction.copies.push(stored);
                None
            }
            None => Some(stored),
        }
    }

    /// A producer's transaction, if there is room for more in it.
    fn transaction(&mut self, producer: i64) -> Option<&mut Transaction> {
        if self.transactions.len() >= Self::TRANSACTIONS && !self.transactions.contains_key(&producer) {
            return None;
        }
        let transaction = self.transactions.entry(producer).or_default();
        (!transaction.is_full()).then_some(transaction)
    }

    pub(super) fn transaction_ended(
        &mut self,
        time: Timestamp,
        producer: i64,
        committed: bool,
        error: i16,
        observer: &mut dyn Observer,
    ) {
        if error != 0 {
            return;
        }
        let Some(Transaction { commits, copies }) = self.transactions.remove(&producer).filter(|_| committed) else {
            return;
        };
        // What was copied is not what was done.
        for stored in copies {
            self.tell_copies(time, stored, observer);
        }
        for Promised { group, place, offset, asked, party } in commits {
            self.done_before((time, asked), &party, place, (&group, offset), observer);
        }
    }

    /// The coordinator told a member where its group stands.
    pub(super) fn position(
        &mut self,
        time: Timestamp,
        party: &Rc<Party>,
        member: &Member,
        partition: &log::Partition,
        offset: Option<i64>,
    ) {
        let Some(place) = self.place(partition) else { return };
        self.groups.heard(&member.group, time);
        let consumer = Consumer::Group(member.group.clone());
        let known = self.partitions.get(&place).is_some_and(|known| known.chains.contains_key(&consumer));
        if (offset.is_some() || known)
            && let Some(mut chain) = self.take_chain(place, &consumer)
        {
            chain.told_to_stand(offset, time);
            chain.committed = chain.committed.or(offset);
            chain.heard = chain.heard.max(Some(time));
            self.put_chain(place, consumer, chain);
        }
        self.consumers.touched(party, member, place);
    }

    /// A group has done everything before an offset, as it was told at a time and had asked for before.
    fn done_before(
        &mut self,
        (time, asked): (Timestamp, Timestamp),
        party: &Rc<Party>,
        place: Place,
        (group, offset): (&Name, i64),
        observer: &mut dyn Observer,
    ) {
        let consumer = Consumer::Group(group.clone());
        let Some(mut chain) = self.take_chain(place, &consumer) else { return };
        self.adopt(party, place, &mut chain);
        chain.stands(offset, time);
        chain.heard = chain.heard.max(Some(time));
        if chain.committed.is_some_and(|committed| offset < committed) {
            self.went_back((time, asked), party, place, (&consumer, offset), &mut chain, observer);
        } else {
            for piece in chain.take_before(offset) {
                self.acknowledge((time, asked), party, place, (&consumer, &mut chain), piece, observer);
            }
            chain.committed(offset);
        }
        let is_level = self.lag(place, &chain) == Some(0);
        self.put_chain(place, consumer.clone(), chain);
        if is_level {
            self.resumed(time, place, &consumer, stalled::LEVEL, observer);
        }
    }

    fn acknowledge(
        &mut self,
        (time, asked): (Timestamp, Timestamp),
        party: &Rc<Party>,
        place: Place,
        (consumer, chain): (&Consumer, &mut Chain),
        mut piece: Piece,
        observer: &mut dyn Observer,
    ) {
        let stored = self.partitions.get(&place).and_then(|known| known.stored(piece.first));
        let subject = Subject { topics: &self.topics, place };
        let lag = self.lag(place, chain);
        if piece.state == State::Dispatched {
            // Who commits has read it, seen or not.
            let mut line = subject.of_piece(&piece, consumer, stored, time, State::Processing);
            line.attributes.lag = lag;
            line.previous = Some(State::Dispatched);
            line.evidence = Evidence::Inferred;
            observer.transition(&line);
            piece.state = State::Processing;
        }
        let mut line = subject.of_piece(&piece, consumer, stored, time, State::Acknowledged);
        line.previous = Some(State::Processing);
        line.attributes.operation = Some(COMMIT);
        line.attributes.settlement = Some(Settlement::Multiple);
        line.attributes.lag = lag;
        line.attributes.client = party.client.as_ref();
        line.attributes.requested = Some(asked);
        observer.transition(&line);
        chain.done(&piece, time);
    }

    fn went_back(
        &mut self,
        (time, asked): (Timestamp, Timestamp),
        party: &Rc<Party>,
        place: Place,
        (consumer, offset): (&Consumer, i64),
        chain: &mut Chain,
        observer: &mut dyn Observer,
    ) {
        let subject = Subject { topics: &self.topics, place };
        let lag = self.lag(place, chain);
        for done in chain.gone_back(offset, time) {
            let mut line = subject.line(time, State::Failed, Some(party), done.count);
            line.previous = Some(State::Acknowledged);
            line.reason = Some(Reason::OffsetReset);
            line.delivery = Some(done.delivery);
            line.evidence = emit::evidence(!done.counted);
            line.attributes.operation = Some(COMMIT);
            line.attributes.requested = Some(asked);
            line.attributes.group = consumer.group();
            line.attributes.lag = lag;
            line.attributes.offsets = Some((done.first, done.last));
            line.timings.first_failed = Some(time);
            observer.transition(&line);
        }
    }
}

/// The operation's name in the conventions for Kafka (OpenTelemetry, messaging spans, Kafka).
const COMMIT: &str = "commit";
