//! Messages in logs, by ranges of offsets.
//!
//! A message has a state of its own until consumers are handed it (Created, Confirmed, PublishFailed), and one for each consumer
//! group that is. What each operation does:
//!
//! | operation | state before | state after |
//! | --- | --- | --- |
//! | produced | | Created; a batch that is sent again (same producer and sequence) changes nothing |
//! | answered: no error | Created, PublishFailed | Confirmed |
//! | answered: an error, or the connection lost | Created | PublishFailed |
//! | handed to a consumer | PublishFailed | Confirmed: it is in the log after all |
//! | handed to a group | none, or Failed | Dispatched |
//! | handed to the same member again, for no reason that the wire shows | Dispatched, Processing | Dispatched, `refetched` |
//! | handed to a group of which another member, or assignment, had it | Dispatched, Processing | Failed, Dispatched |
//! | of an aborted transaction, for a reader of committed messages | none | Dropped |
//! | copied to a retry topic, or a dead-letter topic, and the copy is in the log | Dispatched, Processing, Acknowledged, Failed, Retrying | Retrying, DeadLettered |
//! | the application read it | Dispatched | Processing |
//! | the partition was assigned to another member, or its member left, and no commit can have been missed | Dispatched, Processing | Failed |
//! | the group committed a later offset | Dispatched, Processing | Acknowledged |
//! | a share group's member accepted, released, rejected it | Dispatched, Processing | Acknowledged; Failed; Rejected, Dropped |
//! | a share group's member was given it once more, and nobody had released it | Dispatched, Processing | Failed, Dispatched |
//! | the group committed an earlier offset | Acknowledged | Failed |
//!
//! Beside that: how far groups are behind (`lag`), and which members have stopped (`stalled`).
//!
//! A consumer without a group never commits: its messages stay in Processing.

mod chain;
mod consume;
mod consumers;
mod copies;
mod done;
mod gaps;
mod index;
mod lag;
mod lines;
mod partition;
mod produce;
mod settle;
mod share;
mod single;
mod stalled;
mod topics;
mod unheard;

use std::collections::VecDeque;
use std::rc::Rc;

use hashbrown::HashMap;

pub use lag::Lag;

use super::party::Party;
use super::transition::Observer;
use chain::Chain;
use consumers::{Application, Consumer, Consumers};
use index::Index;
use partition::Partition;
use topics::{Place, Topics};

use crate::protocol::operation::log::{self, LogOperation};
use crate::stream::{ConnectionId, Flow, Position};
use crate::time::Timestamp;

/// What could not be followed, cumulative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Batches forgotten before their offsets were known, because the table was full.
    pub evicted_batches: u64,
    /// Answers to requests that were not seen.
    pub unmatched_answers: u64,
    /// Ranges of offsets that failed and were forgotten before they came again: they will be told as if for the first time.
    pub forgotten_ranges: u64,
    /// Batches and offsets of partitions that found no room.
    pub refused_partitions: u64,
    /// Messages of retry and dead-letter topics whose originals, if they are copies, are among what is not known any more of
    /// what their application was sent.
    pub unmatched_copies: u64,
}

/// The state machine of messages in logs.
#[derive(Default)]
pub(super) struct Logs {
    topics: Topics,
    partitions: HashMap<Place, Partition>,
    /// How many chains the partitions have.
    chains: usize,
    consumers: Consumers,
    index: Index,
    /// What the applications have still to read, by connection, in order.
    unread: HashMap<ConnectionId, VecDeque<Unread>>,
    unheard: unheard::Unheard,
    /// What counts when a producer's transaction does.
    transactions: HashMap<i64, settle::Transaction>,
    groups: lag::Groups,
    singles: single::Singles,
    watch: stalled::Watch,
    statistics: Statistics,
}

struct Unread {
    flow: Flow,
    end: Position,
    /// When the broker sent it.
    dispatched: Timestamp,
    place: Place,
    consumer: Consumer,
    first: i64,
    last: i64,
}

impl Logs {
    /// Partitions that are followed.
    const PARTITIONS: usize = 1 << 17;
    /// Groups' ways through partitions, each counted, that are followed.
    const CHAINS: usize = 1 << 18;

    /// What could not be followed so far.
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// Something happened on a party's connection.
    pub fn handle(
        &mut self,
        time: Timestamp,
        party: &Rc<Party>,
        operation: &LogOperation,
        observer: &mut dyn Observer,
    ) {
        match operation {
            LogOperation::TopicNamed { id, name } => self.topic_named(*id, name, observer),
            LogOperation::Produced { request, partition, batch, acks, copies } => {
                let sending = produce::Sending { batch, acks: *acks, copies };
                self.produced(time, party, *request, partition, &sending, observer);
            }
            LogOperation::ProduceAnswered { request, partition, offset, error } => {
                self.produce_answered(time, party, *request, partition, (*offset, *error), observer);
            }
            LogOperation::AnswerLost { request } => self.answer_lost(time, party, *request, observer),
            LogOperation::Fetched { partition, batches, from, aborted, flow, end } => {
                let fetched = consume::Fetched { batches, from: *from, aborted: *aborted, flow: *flow, end: *end };
                self.fetched(time, party, partition, &fetched, observer);
            }
            LogOperation::Reaches { partition, end, stable } => self.reaches(time, partition, *end, *stable),
            LogOperation::TopicGone(topic) => self.topic_gone(topic),
            LogOperation::OffsetsDeleted { group, partition } => self.offsets_deleted(group, partition.as_ref()),
            LogOperation::Unread => self.missed(time, party),
            LogOperation::MemberSeen(member) => {
                self.groups.heard(&member.group, time);
                self.watch.heard(member, time);
                self.consumers.seen(party, member);
            }
            LogOperation::FetchAsked => self.asks(time, party, observer),
            LogOperation::Wanted { partition, wanted } => {
                if let Some(place) = self.place(partition) {
                    match *wanted {
                        true => self.wants(time, party, place, observer),
                        false => self.wants_no_more(time, party.connection, place),
                    }
                }
            }
            LogOperation::Assigned { member, partitions, patience } => {
                self.assigned(time, party, (member, *patience), partitions, observer);
            }
            LogOperation::MemberLeft(member) => self.member_left(time, party, member, observer),
            LogOperation::Position { member, partition, offset } => {
                self.position(time, party, member, partition, *offset);
            }
            LogOperation::Committed { member, partition, offset, error, transaction, asked } => {
                let (offset, error, transaction, asked) = (*offset, *error, *transaction, *asked);
                let commit = settle::Commit { member, offset, error, transaction, asked };
                self.committed(time, party, partition, &commit, observer);
            }
            LogOperation::Acquired { member, partition, first, last, delivery, flow, end } => {
                let given = share::Given { offsets: (*first, *last), delivery: *delivery, flow: *flow, end: *end };
                self.acquired(time, party, &member.group, partition, &given, observer);
            }
            LogOperation::Judged { member, partition, first, last, verdict, error, asked } => {
                let offsets = (*first, *last);
                let judged = share::Judged { offsets, verdict: *verdict, error: *error, asked: *asked };
                self.judged(time, party, &member.group, partition, &judged, observer);
            }
            LogOperation::TransactionEnded { producer, committed, error } => {
                self.transaction_ended(time, *producer, *committed, *error, observer);
            }
        }
    }

    /// Something that was said on a party's connection was not understood: it may have been a commit, or a transaction's end.
    pub fn missed(&mut self, time: Timestamp, party: &Party) {
        self.unheard.missed(time, party);
        self.transactions.retain(|_, transaction| !transaction.is_of(party));
    }

    /// Something was lost, nobody knows on which connection.
    pub fn missed_somewhere(&mut self, time: Timestamp) {
        self.unheard.missed_somewhere(time);
    }

    /// Some connections are not watched: from now on nothing is concluded from what was not seen.
    pub fn leaves_out(&mut self) {
        self.unheard.leaves_out();
    }

    /// Whether a piece is known not to be committed: it would have been heard of.
    fn is_uncommitted(&self, chain: &Chain, piece: &chain::Piece) -> bool {
        let since = chain.heard.map_or(piece.dispatched, |heard| heard.max(piece.dispatched));
        self.unheard.heard_all(since, &piece.holder)
    }

    /// When [`Logs::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.watch.poll_timeout()
    }

    /// A connection ended.
    pub fn closed(&mut self, time: Timestamp, party: &Rc<Party>, observer: &mut dyn Observer) {
        self.unread.remove(&party.connection);
        self.consumers.closed(party.connection);
        self.asks_no_more(party.connection);
        self.publishes_lost(time, party, observer);
        // Whose offsets nobody keeps cannot go on.
        let application = Rc::new(Application::of(party));
        let consumer = Consumer::Alone(application.clone());
        for place in self.index.take_alone(&application) {
            let Some(chains) = self.partitions.get_mut(&place).map(|known| &mut known.chains) else { continue };
            match chains.get(&consumer) {
                Some(chain) if chain.is_held_beyond(party.connection) => self.index.reads_alone(&application, place),
                Some(_) => {
                    chains.remove(&consumer);
                    self.chains -= 1;
                }
                None => {}
            }
        }
    }

    /// A consumer's way through a partition, to be put back; `None`: it is new, and there is no room.
    fn take_chain(&mut self, place: Place, consumer: &Consumer) -> Option<Chain> {
        if let Some(chain) = self.partitions.get_mut(&place).and_then(|known| known.chains.remove(consumer)) {
            return Some(chain);
        }
        if self.chains >= Self::CHAINS {
            self.statistics.refused_partitions += 1;
            return None;
        }
        self.chains += 1;
        if let Consumer::Alone(application) = consumer {
            self.index.reads_alone(application, place);
        }
        Some(Chain::through(self.at(place).gaps.clone()))
    }

    /// Whose group becomes known now has fetched for it before.
    fn adopt(&mut self, party: &Party, place: Place, chain: &mut Chain) {
        let Some(known) = self.partitions.get_mut(&place) else { return };
        let is_alone = |consumer: &Consumer| matches!(consumer, Consumer::Alone(_));
        if !known.chains.keys().any(is_alone) {
            return;
        }
        let application = Rc::new(Application::of(party));
        if let Some(alone) = known.chains.remove(&Consumer::Alone(application.clone())) {
            self.chains -= 1;
            chain.absorb(alone);
            self.index.reads_for_others(&application, place);
        }
    }

    fn put_chain(&mut self, place: Place, consumer: Consumer, mut chain: Chain) {
        self.statistics.forgotten_ranges += std::mem::take(&mut chain.forgotten);
        self.at(place).chains.insert(consumer, chain);
    }

    /// A partition's state, which begins if there is none.
    fn at(&mut self, place: Place) -> &mut Partition {
        let Logs { partitions, topics, .. } = self;
        partitions.entry(place).or_insert_with(|| {
            topics.has_partition(place);
            Partition::default()
        })
    }

    fn topic_named(&mut self, id: log::TopicId, name: &crate::names::Name, observer: &mut dyn Observer) {
        let topics::Learned { was, moved, remade } = self.topics.named(id, name);
        if let Some(was) = was {
            observer.renamed(&was, name);
        }
        if let Some((from, to)) = moved {
            self.moved(from, to);
        }
        // Whoever was assigned the topic by its name goes on with the new one.
        if let Some((before, now)) = remade {
            self.consumers.also_holds(before, now);
        }
    }

    /// What is known of a topic under one number belongs to another.
    fn moved(&mut self, from: topics::TopicNumber, to: topics::TopicNumber) {
        let move_to = |place: &mut Place| place.topic = if place.topic == from { to } else { place.topic };
        for number in self.topics.take_partitions(from) {
            let Some(partition) = self.partitions.remove(&Place { topic: from, partition: number }) else { continue };
            let place = Place { topic: to, partition: number };
            for connection in partition.awaited() {
                self.index.produces(connection, place, |_| true);
            }
            for consumer in partition.chains.keys() {
                if let Consumer::Alone(application) = consumer {
                    self.index.reads_alone(application, place);
                }
            }
            let known = self.at(place);
            let before = known.chains.len() + partition.chains.len();
            known.merge(partition);
            let lost = before - known.chains.len();
            self.chains -= lost;
        }
        self.consumers.also_holds(from, to);
        self.unread.values_mut().flatten().for_each(|unread| move_to(&mut unread.place));
        self.transactions.values_mut().flat_map(settle::Transaction::places).for_each(move_to);
    }

    /// The partition's place and state; `None`: it is the broker's own, or there is no room.
    fn partition(&mut self, partition: &log::Partition) -> Option<(Place, &mut Partition)> {
        let place = self.place(partition)?;
        Some((place, self.at(place)))
    }

    fn place(&mut self, partition: &log::Partition) -> Option<Place> {
        let place = self.topics.number(&partition.topic).map(|topic| Place { topic, partition: partition.number });
        let known = place.is_some_and(|place| self.partitions.contains_key(&place));
        let Some(place) = place.filter(|_| known || self.partitions.len() < Self::PARTITIONS) else {
            self.statistics.refused_partitions += 1;
            return None;
        };
        (!self.topics.is_internal(place.topic)).then_some(place)
    }
}
