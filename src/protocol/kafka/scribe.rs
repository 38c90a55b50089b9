//! Takes what a walk through a request or response tells, and says what happened.

use std::time::Duration;

use super::batches::{Batches, Side};
use super::codec::Scratch;
use super::collector::{Collector, Purpose, Sink};
use super::exchange::{self, Commit, Context, Ending, Judgement, Share};
use super::field::Field;
use super::insides::Reads;
use super::layout::Layout;
use super::membership;
use super::memory::Memory;
use super::row::Row;
use super::visitor::{Value, Visitor};
use crate::capture::Demand;
use crate::protocol::operation::Operation;
use crate::protocol::operation::log::{Acks, LogOperation, Member, Partition, Verdict};
use crate::protocol::output::Output;
use crate::stream::{Flow, Position};
use crate::time::Timestamp;

/// The APIs that are followed (org.apache.kafka.common.protocol.ApiKeys).
pub(super) mod api {
    pub const PRODUCE: i16 = 0;
    pub const FETCH: i16 = 1;
    pub const LIST_OFFSETS: i16 = 2;
    pub const METADATA: i16 = 3;
    pub const OFFSET_COMMIT: i16 = 8;
    pub const OFFSET_FETCH: i16 = 9;
    pub const FIND_COORDINATOR: i16 = 10;
    pub const JOIN_GROUP: i16 = 11;
    pub const HEARTBEAT: i16 = 12;
    pub const LEAVE_GROUP: i16 = 13;
    pub const SYNC_GROUP: i16 = 14;
    pub const SASL_HANDSHAKE: i16 = 17;
    pub const API_VERSIONS: i16 = 18;
    pub const CREATE_TOPICS: i16 = 19;
    pub const DELETE_TOPICS: i16 = 20;
    pub const INIT_PRODUCER_ID: i16 = 22;
    pub const END_TXN: i16 = 26;
    pub const TXN_OFFSET_COMMIT: i16 = 28;
    pub const DELETE_GROUPS: i16 = 42;
    pub const OFFSET_DELETE: i16 = 47;
    pub const CONSUMER_GROUP_HEARTBEAT: i16 = 68;
    pub const DESCRIBE_TOPIC_PARTITIONS: i16 = 75;
    pub const SHARE_FETCH: i16 = 78;
    pub const SHARE_ACKNOWLEDGE: i16 = 79;
}

/// The member is not known, or another one has taken its place (org.apache.kafka.common.protocol.Errors: UNKNOWN_MEMBER_ID,
/// FENCED_INSTANCE_ID, FENCED_MEMBER_EPOCH).
const EXPELLED: [i16; 3] = [25, 82, 110];
/// There is no such topic (UNKNOWN_TOPIC_OR_PARTITION, UNKNOWN_TOPIC_ID).
const NO_SUCH_TOPIC: [i16; 2] = [3, 100];
/// Asks for the end of a partition (ListOffsetsRequest.LATEST_TIMESTAMP).
const LATEST: i64 = -1;
/// The first flexible version of Fetch (FetchResponse.json).
const FLEXIBLE_FETCH: i16 = 12;
/// The epoch by which a member of the new protocol leaves (KIP-848): for good, or to come back soon.
const LEAVING: [i64; 2] = [-1, -2];

/// What is kept while one request or response is read.
#[derive(Default)]
pub(super) struct Reading {
    row: Row,
    collector: Collector,
    batches: Option<Batches>,
    /// Where the batches at hand begin, and from where on they are wanted.
    records_at: Position,
    /// Of a commit.
    offsets: Vec<(Partition, i64)>,
    /// Of an assignment.
    partitions: Vec<Partition>,
    assigned: bool,
    purpose: Option<Purpose>,
    /// Position behind the batches at hand.
    records_end: Position,
    /// Of share groups' members.
    judgements: Vec<Judgement>,
    /// The verdicts of the range at hand: one for each offset, or one for all.
    verdicts: Vec<Option<Verdict>>,
    /// Partitions whose acknowledgements were refused, and why.
    refused: Vec<(Partition, i16)>,
    /// Of requests: whether anybody asks when the responses are read.
    reads: Reads,
}

impl Reading {
    /// Another body begins.
    pub fn begin(&mut self) {
        self.row = Row::default();
        self.batches = None;
        self.offsets.clear();
        self.partitions.clear();
        self.assigned = false;
        self.purpose = None;
        self.judgements.clear();
        self.refused.clear();
    }

    /// The flow may be tapped elsewhere from now on.
    pub fn tapped_elsewhere(&mut self) {
        self.collector.tapped_elsewhere();
        self.reads.forget();
    }

    /// Memory in bytes.
    pub fn cost(&self) -> usize {
        let lists = self.offsets.capacity() * 40 + self.partitions.capacity() * 32;
        size_of::<Reading>() + self.collector.cost() + lists + self.batches.as_ref().map_or(0, Batches::cost)
    }
}

/// See the [module](self).
pub(super) struct Scribe<'a, 'o> {
    pub layout: &'static Layout,
    pub is_request: bool,
    pub reading: &'a mut Reading,
    pub memory: &'a mut Memory,
    /// Of a request: what its response will have to know. Of a response: what its request said.
    pub context: &'a mut Context,
    pub scratch: &'a mut Scratch,
    pub flow: Flow,
    /// Where the body begins.
    pub start: Position,
    pub secrets: &'a mut Vec<std::ops::Range<Position>>,
    pub out: &'a mut Output<'o>,
}

impl Scribe<'_, '_> {
    /// The body was read to its end.
    pub fn done(&mut self) {
        let key = self.layout.key();
        if self.is_request { self.request_done(key) } else { self.response_done(key) }
    }

    fn log(&mut self, operation: LogOperation) {
        self.out.push(Operation::Log(operation));
    }

    fn member(&self) -> Option<Member> {
        exchange::member(self.reading.row.group.as_ref(), self.reading.row.member.as_ref())
    }

    fn request_done(&mut self, key: i16) {
        self.kind_of_client(key);
        match key {
            api::OFFSET_COMMIT | api::TXN_OFFSET_COMMIT => {
                let Some(member) = self.member() else { return };
                let transaction = self.reading.row.number(Field::ProducerId).filter(|_| key == api::TXN_OFFSET_COMMIT);
                let (asked, offsets) = (self.out.time, std::mem::take(&mut self.reading.offsets));
                *self.context = Context::Commit(Box::new(Commit { member, transaction, asked, offsets }));
            }
            api::JOIN_GROUP | api::SYNC_GROUP | api::HEARTBEAT | api::OFFSET_FETCH => self.member_speaks(),
            api::OFFSET_DELETE => {
                let Some(member) = self.member() else { return };
                *self.context = Context::Member(member);
            }
            api::FIND_COORDINATOR => {
                // Whoever asks for a group's coordinator is of the group, or will be (0: a group; KIP-699).
                let row = &self.reading.row;
                let is_group = row.number(Field::CoordinatorType).unwrap_or(0) == 0;
                if let Some(member) = exchange::member(row.coordinator.as_ref().filter(|_| is_group), None) {
                    self.log(LogOperation::MemberSeen(member));
                }
            }
            api::LEAVE_GROUP => {
                self.member_speaks();
                self.leaves();
            }
            api::CONSUMER_GROUP_HEARTBEAT => {
                self.member_speaks();
                if self.reading.row.number(Field::Generation).is_some_and(|epoch| LEAVING.contains(&epoch)) {
                    self.leaves();
                }
            }
            api::END_TXN => {
                let row = &self.reading.row;
                let known = row.number(Field::ProducerId).zip(row.number(Field::Committed));
                *self.context =
                    Context::End(known.map(|(producer, committed)| Ending { producer, committed: committed != 0 }));
            }
            api::API_VERSIONS => {
                let row = &self.reading.row;
                self.memory.software(row.software.as_ref(), row.software_version.as_ref(), self.out);
            }
            api::SHARE_FETCH | api::SHARE_ACKNOWLEDGE => {
                let Some(member) = self.member() else { return };
                let judgements = std::mem::take(&mut self.reading.judgements);
                *self.context = Context::Share(Box::new(Share { member, asked: self.out.time, judgements }));
            }
            api::FETCH if matches!(self.context, Context::Fetch { .. }) => {
                for partition in self.memory.fetches.named() {
                    self.wanted(partition, false);
                }
                self.log(LogOperation::FetchAsked);
            }
            api::PRODUCE => {
                if let Context::Produce { answered, .. } = self.context {
                    *answered = self.reading.row.number(Field::Acks) != Some(0);
                }
            }
            _ => {}
        }
    }

    /// What a request says of who sends it: producers and consumers have connections of their own.
    fn kind_of_client(&mut self, key: i16) {
        let demand = match key {
            api::FETCH | api::SHARE_FETCH => self.reading.reads.fetches(),
            api::PRODUCE => self.reading.reads.produces(),
            _ => None,
        };
        if let Some(demand) = demand {
            self.out.demand(self.flow.reverse(), demand);
        }
        if matches!(key, api::FETCH | api::SHARE_FETCH | api::JOIN_GROUP | api::CONSUMER_GROUP_HEARTBEAT) {
            self.out.originals.consumes(self.memory.application);
        }
    }

    fn forgotten(&mut self, partition: Partition) {
        if self.memory.fetches.forget(&partition) {
            self.wanted(partition, false);
        }
    }

    fn wanted(&mut self, partition: Partition, wanted: bool) {
        if matches!(self.context, Context::Fetch { .. }) {
            self.log(LogOperation::Wanted { partition, wanted });
        }
    }

    fn member_speaks(&mut self) {
        self.note_patience();
        let Some(member) = self.member() else { return };
        *self.context = Context::Member(member.clone());
        // A member that joins for the first time has no id yet.
        if !member.member.is_empty() {
            self.log(LogOperation::MemberSeen(member));
        }
    }

    /// A member says how long it may be silent. In later heartbeats of the new protocol it is negative: as before.
    fn note_patience(&mut self) {
        let row = &self.reading.row;
        let duration = |field| {
            let milliseconds = row.number(field).and_then(|number| u64::try_from(number).ok());
            milliseconds.filter(|number| *number > 0).map(Duration::from_millis)
        };
        let patience = &mut self.memory.patience;
        patience.session = duration(Field::SessionTimeout).or(patience.session);
        patience.poll = duration(Field::RebalanceTimeout).or(patience.poll);
    }

    fn leaves(&mut self) {
        let Some(member) = self.member().filter(|member| !member.member.is_empty()) else { return };
        self.log(LogOperation::MemberLeft(member));
    }

    fn response_done(&mut self, key: i16) {
        let error = self.reading.row.error();
        if let Context::Share(share) = &mut *self.context {
            let Share { member, asked, judgements } = &mut **share;
            let (member, asked, judgements) = (member.clone(), *asked, std::mem::take(judgements));
            return self.judged(&member, asked, judgements);
        }
        match (key, &*self.context) {
            (api::END_TXN, Context::End(Some(ending))) => {
                let Ending { producer, committed } = *ending;
                let Some(error) = error else { return };
                self.log(LogOperation::TransactionEnded { producer, committed, error });
            }
            (api::HEARTBEAT | api::SYNC_GROUP | api::CONSUMER_GROUP_HEARTBEAT, Context::Member(member))
                if error.is_some_and(|error| EXPELLED.contains(&error)) =>
            {
                let member = member.clone();
                self.log(LogOperation::MemberLeft(member));
            }
            (api::JOIN_GROUP, Context::Member(asked)) if error == Some(0) => {
                let member = exchange::member(Some(&asked.group), self.reading.row.member.as_ref());
                if let Some(member) = member.filter(|member| !member.member.is_empty()) {
                    self.log(LogOperation::MemberSeen(member));
                }
            }
            (api::SYNC_GROUP | api::CONSUMER_GROUP_HEARTBEAT, Context::Member(member))
                if error == Some(0) && self.reading.assigned =>
            {
                let mut member = member.clone();
                if let Some(named) = self.reading.row.member.clone().filter(|_| member.member.is_empty()) {
                    member.member = named;
                }
                let partitions = std::mem::take(&mut self.reading.partitions);
                let patience = self.memory.patience;
                self.log(LogOperation::Assigned { member, partitions, patience });
            }
            _ => {}
        }
    }

    /// An element for a partition has ended, or a partition that has nothing but its number.
    fn partition_done(&mut self) {
        let row = &self.reading.row;
        let Some(partition) = row.partition() else { return };
        match (self.layout.key(), self.is_request) {
            (api::FETCH, true) if row.forgotten => self.forgotten(partition),
            (api::FETCH, true) => {
                let offset = row.number(Field::FetchOffset);
                if self.memory.fetches.wants(&partition, offset) {
                    self.wanted(partition, true);
                }
            }
            (api::LIST_OFFSETS, true) => {
                let latest = row.number(Field::Timestamp) == Some(LATEST);
                if let Context::Ends(ends) = &mut *self.context
                    && latest
                    && self.out.take_room(size_of::<Partition>())
                {
                    ends.latest.insert(partition);
                }
            }
            (api::OFFSET_COMMIT | api::TXN_OFFSET_COMMIT, true) => {
                if let Some(offset) = row.number(Field::CommittedOffset)
                    && self.out.take_room(size_of::<(Partition, i64)>())
                {
                    self.reading.offsets.push((partition, offset));
                }
            }
            (api::CONSUMER_GROUP_HEARTBEAT, false) if self.reading.assigned => {
                let has_room = self.out.take_room(size_of::<Partition>());
                self.reading.partitions.extend(has_room.then_some(partition));
            }
            (_, false) => self.answered(partition),
            _ => {}
        }
    }

    fn answered(&mut self, partition: Partition) {
        let row = &self.reading.row;
        let error = row.error();
        match &*self.context {
            Context::Produce { request, .. } => {
                let (request, offset) = (*request, row.number(Field::BaseOffset));
                let Some(error) = error else { return };
                self.log(LogOperation::ProduceAnswered { request, partition, offset, error });
            }
            Context::Commit(commit) => {
                let offset = commit.offsets.iter().find(|(of, _)| *of == partition).map(|(_, offset)| *offset);
                let (Some(offset), Some(error)) = (offset, error) else { return };
                let Commit { member, transaction, asked, .. } = &**commit;
                let (member, transaction, asked) = (member.clone(), *transaction, *asked);
                self.log(LogOperation::Committed { member, partition, offset, error, transaction, asked });
            }
            Context::Share(_) => {
                let of_acknowledgement = if self.layout.key() == api::SHARE_FETCH {
                    row.number(Field::AcknowledgeError).and_then(|code| i16::try_from(code).ok())
                } else {
                    error
                };
                if let Some(code) = of_acknowledgement.filter(|code| *code != 0)
                    && self.out.take_room(size_of::<(Partition, i16)>())
                {
                    self.reading.refused.push((partition, code));
                }
            }
            Context::Fetch { .. } => self.reaches(partition),
            Context::Ends(ends) => {
                let offset =
                    row.number(Field::Offset).filter(|offset| *offset >= 0 && ends.latest.contains(&partition));
                let Some(offset) = offset.filter(|_| error == Some(0) && self.layout.version() > 0) else { return };
                let (end, stable) = if ends.committed { (None, Some(offset)) } else { (Some(offset), None) };
                self.log(LogOperation::Reaches { partition, end, stable });
            }
            Context::Member(member) if self.layout.key() == api::OFFSET_DELETE && error == Some(0) => {
                let group = member.group.clone();
                self.log(LogOperation::OffsetsDeleted { group, partition: Some(partition) });
            }
            Context::Member(member) if self.layout.key() == api::OFFSET_FETCH && error == Some(0) => {
                let group = row.group.clone().unwrap_or_else(|| member.group.clone());
                let member = Member { group, member: member.member.clone() };
                let offset = row.number(Field::CommittedOffset).filter(|offset| *offset >= 0);
                self.log(LogOperation::Position { member, partition, offset });
            }
            _ => {}
        }
    }

    /// How far a fetched partition reaches, if it was not told before.
    fn reaches(&mut self, partition: Partition) {
        let row = &self.reading.row;
        let offset = |field| row.number(field).filter(|offset| *offset >= 0 && row.error() == Some(0));
        let [end, stable] = [Field::HighWatermark, Field::LastStableOffset].map(offset);
        if (end.is_some() || stable.is_some()) && self.memory.fetches.reaches(&partition, (end, stable)) {
            self.log(LogOperation::Reaches { partition, end, stable });
        }
    }

    /// A range of offsets has been told of, with verdicts for it.
    fn judgement(&mut self) {
        let row = &self.reading.row;
        let offsets = row.number(Field::FirstOffset).zip(row.number(Field::LastOffset));
        let (Some(partition), Some((first, last))) = (row.partition(), offsets) else { return };
        let verdicts = std::mem::take(&mut self.reading.verdicts);
        let ranges = verdicts.chunk_by(|one, other| one == other);
        let mut next = first;
        for range in ranges {
            let all = verdicts.len() == 1;
            let end = if all { last } else { next.saturating_add_unsigned(range.len() as u64 - 1).min(last) };
            if let Some(Some(verdict)) = range.first().copied()
                && next <= end
                && self.out.take_room(size_of::<Judgement>())
            {
                let partition = partition.clone();
                self.reading.judgements.push(Judgement { partition, first: next, last: end, verdict });
            }
            next = end.saturating_add(1);
        }
        self.reading.verdicts = verdicts;
        self.reading.verdicts.clear();
    }

    /// The broker has answered to acknowledgements.
    fn judged(&mut self, member: &Member, asked: Timestamp, judgements: Vec<Judgement>) {
        let of_all = self.reading.row.outer_error;
        for Judgement { partition, first, last, verdict } in judgements {
            let of_partition = self.reading.refused.iter().find(|(refused, _)| *refused == partition);
            let error = of_partition.map_or(of_all, |(_, code)| *code);
            let member = member.clone();
            self.log(LogOperation::Judged { member, partition, first, last, verdict, error, asked });
        }
    }

    /// A share group's member was given a range of offsets.
    fn acquired(&mut self) {
        let row = &self.reading.row;
        let numbers = [Field::FirstOffset, Field::LastOffset, Field::DeliveryCount].map(|field| row.number(field));
        let ([Some(first), Some(last), Some(delivery)], Some(partition)) = (numbers, row.partition()) else { return };
        let (Context::Share(share), Ok(delivery)) = (&*self.context, u32::try_from(delivery)) else { return };
        let (member, flow, end) = (share.member.clone(), self.flow, self.reading.records_end);
        if first <= last {
            self.log(LogOperation::Acquired { member, partition, first, last, delivery, flow, end });
        }
    }

    fn topic_done(&mut self) {
        let known = matches!(
            (self.layout.key(), self.is_request),
            (api::METADATA | api::CREATE_TOPICS | api::DESCRIBE_TOPIC_PARTITIONS, false)
        );
        let row = &self.reading.row;
        let gone = match (self.layout.key(), self.is_request) {
            (api::METADATA, false) => row.error().is_some_and(|error| NO_SUCH_TOPIC.contains(&error)),
            (api::DELETE_TOPICS, false) => row.error() == Some(0),
            _ => false,
        };
        if let Some(topic) = row.topic().filter(|_| gone) {
            return self.log(LogOperation::TopicGone(topic));
        }
        let Some((id, name)) = row.topic_names().filter(|_| known) else { return };
        if self.out.topics.learn(id, &name) {
            self.log(LogOperation::TopicNamed { id, name });
        }
    }

    /// Lets the batches at hand take what comes of them.
    fn records(&mut self, take: impl FnOnce(&mut Batches, &mut Scratch, &mut Sink<'_, '_>)) {
        let Reading { batches: Some(batches), collector, row, purpose: Some(purpose), records_at, .. } = self.reading
        else {
            return;
        };
        let (purpose, start, partition) = (*purpose, *records_at, row.partition());
        let application = self.memory.application;
        let enough = match (self.layout.key(), self.is_request) {
            (api::PRODUCE, true) => Demand::ProducedHeaders,
            (api::FETCH, false) => Demand::FetchedHeaders { flexible: self.layout.version() >= FLEXIBLE_FETCH },
            _ => Demand::Everything,
        };
        let flow = self.flow;
        let mut sink = Sink { collector, purpose, partition, application, enough, flow, start, out: self.out };
        take(batches, self.scratch, &mut sink);
    }

    fn purpose(&self) -> Purpose {
        match &*self.context {
            Context::Produce { request, .. } => {
                let acks = match self.reading.row.number(Field::Acks) {
                    Some(0) => Acks::None,
                    Some(1) => Acks::Leader,
                    _ => Acks::All,
                };
                Purpose::Produce { request: *request, acks }
            }
            Context::Fetch { .. } => {
                let partition = self.reading.row.partition();
                Purpose::Consume { from: partition.and_then(|partition| self.memory.fetches.position(&partition)) }
            }
            Context::Share(_) => Purpose::Share,
            _ => Purpose::Replicate,
        }
    }

    fn assignment(&mut self, bytes: &[u8]) {
        self.reading.assigned = membership::partitions(bytes, &mut self.reading.partitions, self.out);
    }
}

impl Visitor for Scribe<'_, '_> {
    fn enter(&mut self, field: Field) {
        self.reading.row.enter(field);
        match field {
            Field::Partitions => self.reading.collector.begin(),
            Field::Assigned => self.reading.assigned = true,
            _ => {}
        }
    }

    fn leave(&mut self, field: Field) {
        match field {
            Field::Partitions => self.partition_done(),
            Field::Topics => self.topic_done(),
            Field::Acknowledgements => self.judgement(),
            Field::Acquired => self.acquired(),
            Field::Groups if !self.is_request && self.layout.key() == api::DELETE_GROUPS => {
                let row = &self.reading.row;
                if let Some(group) = row.group.clone().filter(|_| row.error() == Some(0)) {
                    self.log(LogOperation::OffsetsDeleted { group, partition: None });
                }
            }
            Field::Aborted => {
                let row = &self.reading.row;
                let transaction = row.number(Field::ProducerId).zip(row.number(Field::FirstOffset));
                match (transaction, &*self.context) {
                    (_, Context::Fetch { committed: Some(false) }) => {}
                    (Some((producer, first)), Context::Fetch { committed: Some(true) }) => {
                        self.reading.collector.aborted(producer, first);
                    }
                    // Who is handed what is not known.
                    _ => self.reading.collector.abort_unknown(),
                }
            }
            Field::Members if self.is_request && self.layout.key() == api::LEAVE_GROUP => {
                let row = &self.reading.row;
                let member = exchange::member(row.group.as_ref(), row.listed_member.as_ref());
                if let Some(member) = member.filter(|member| !member.member.is_empty()) {
                    self.log(LogOperation::MemberLeft(member));
                }
            }
            _ => {}
        }
        self.reading.row.leave(field);
    }

    fn value(&mut self, field: Field, value: Value<'_>) {
        match (field, value) {
            (Field::Assignment, Value::Bytes(bytes)) if !self.is_request => return self.assignment(bytes),
            (Field::ClientId, Value::Text(name)) => return self.memory.client(name, self.out),
            (Field::AcknowledgeType, Value::Int(number)) => {
                if self.out.take_room(1) {
                    self.reading.verdicts.push(Verdict::of(number));
                }
                return;
            }
            (Field::Replica, Value::Int(replica)) if replica >= 0 => *self.context = Context::Replicate,
            (Field::Isolation, Value::Int(level)) => match &mut *self.context {
                Context::Fetch { committed } => *committed = Some(level == 1),
                Context::Ends(ends) => ends.committed = level == 1,
                _ => {}
            },
            (Field::SessionEpoch, Value::Int(epoch)) if self.is_request && epoch <= 0 => self.memory.fetches.clear(),
            _ => {}
        }
        self.reading.row.set(field, value, self.out);
        if field == Field::Partition && !self.reading.row.in_partition {
            self.partition_done();
        }
    }

    fn records_begin(&mut self, from: u64, length: u32) {
        let side = if self.is_request { Side::Produce } else { Side::Fetch };
        // How far behind their group is, lines about what follows say.
        if let (Context::Fetch { .. }, Some(partition)) = (&*self.context, self.reading.row.partition()) {
            self.reaches(partition);
        }
        self.reading.purpose = Some(self.purpose());
        self.reading.records_at = self.start + from;
        self.reading.records_end = self.reading.records_at + Position::from(length);
        self.reading.batches = Some(Batches::new(side, u64::from(length)));
    }

    fn records_data(&mut self, bytes: &[u8]) {
        self.records(|batches, scratch, sink| batches.data(bytes, scratch, sink));
    }

    fn records_hole(&mut self, length: u64) {
        self.records(|batches, scratch, sink| batches.hole(length, scratch, sink));
    }

    fn records_end(&mut self) {
        self.records(|batches, scratch, sink| {
            batches.end(scratch, sink);
            sink.flush();
        });
        self.reading.batches = None;
    }

    fn secret(&mut self, from: u64, length: u64) {
        self.secrets.push(self.start + from..self.start + from + length);
    }
}
