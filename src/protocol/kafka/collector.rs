//! From the batches of one partition to operations.

use std::rc::Rc;

use super::batch::Batch;
use super::batches::{Loss, Lost, Visitor, Wish};
use super::codec::Budget;
use super::copies::Kind;
use super::insides::Insides;
use super::likeness::Likeness;
use super::originals::Application;
use super::provenance::{Convention, Provenance};
use super::reader::{End, Outcome};
use super::records::{Marker, Record};
use super::traces::Look;
use crate::capture::Demand;
use crate::protocol::Trouble;
use crate::protocol::operation::log::{
    self, Acks, Copy, CopyFate, LogOperation, Original, Partition, RequestId, Sequence, Topic,
};
use crate::protocol::operation::{Gap, Operation};
use crate::protocol::output::Output;
use crate::stream::{Flow, Position};

/// Aborted transactions that one partition of a response may name. Where there are more, nothing is told of transactions.
const MOST_ABORTED: usize = 10_000;
/// Copies in one batch. Of more, the others are taken for messages of their own.
const MOST_COPIES: usize = 65_536;
/// Batches that are told of at once.
const MOST_BATCHES: usize = 1024;
/// Ranges that one batch lacks. Of a batch that lacks more none is told.
const MOST_GAPS: usize = 512;
/// A transaction's end is a record of some bytes that nobody compresses.
const MARKER: Budget = Budget { input: 1 << 10, output: 1 << 10, ratio: 10, memory: 1 << 10 };

/// What Kafka Connect calls the group of a sink connector, before the connector's name, unless told otherwise
/// (org.apache.kafka.connect.util.SinkUtils).
const CONNECT_GROUP: &str = "connect-";

/// What the batches at hand are for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    /// They are being produced.
    Produce { request: RequestId, acks: Acks },
    /// They are handed to a consumer, who asked for them from this offset on.
    Consume { from: Option<i64> },
    /// They are handed to a member of a share group. Which of them, is told elsewhere.
    Share,
    /// Other brokers get them.
    Replicate,
}

/// Of the partition at hand. Its memory is used again for the next one.
#[derive(Debug, Default)]
pub(super) struct Collector {
    /// What is handed out together.
    run: Vec<log::Batch>,
    /// The messages of the run are of aborted transactions.
    run_aborted: bool,
    /// Position behind the run.
    run_end: Position,
    /// Aborted transactions: the producer, and the offset of its first message. In the order of offsets.
    aborted: Vec<(i64, i64)>,
    /// How many of these have begun.
    begun: usize,
    /// The producers whose messages are aborted ones now.
    aborting: Vec<i64>,
    /// Messages of the batch at hand that are copies of others.
    copies: Vec<Copy>,
    /// What the name of the topic says of them.
    kind: Option<Kind>,
    /// The bytes of the batch at hand, where they are to be kept.
    kept: Option<Vec<u8>>,
    /// They were wanted.
    wanted: bool,
    /// Which transactions were aborted, or where they end, is not known.
    abort_unknown: bool,
    /// Whether batches are looked into at all.
    insides: Insides,
    /// The records of the batch at hand are looked at for their traces.
    tracing: bool,
    /// Those of its records that are told of singly.
    traced: Option<Rc<[log::Traced]>>,
    /// Of the batch at hand: what compaction has left out so far, and the offset of the next record if it left out nothing.
    gaps: Vec<(i64, i64)>,
    next: i64,
    /// The record of a control batch says that its transaction was aborted.
    marker: Option<Marker>,
}

impl Collector {
    /// Another partition begins.
    pub fn begin(&mut self) {
        self.run.clear();
        self.aborted.clear();
        self.abort_unknown = false;
        self.begun = 0;
        self.aborting.clear();
    }

    /// The flow may be tapped elsewhere from now on.
    pub fn tapped_elsewhere(&mut self) {
        self.insides.forget();
    }

    /// A transaction was aborted whose messages are among those that follow.
    pub fn aborted(&mut self, producer: i64, first_offset: i64) {
        if self.aborted.len() < MOST_ABORTED {
            self.aborted.push((producer, first_offset));
        } else {
            self.abort_unknown();
        }
    }

    /// A transaction was aborted, and nobody knows which, or whether that matters to the reader.
    pub fn abort_unknown(&mut self) {
        self.abort_unknown = true;
    }

    /// Batches are missing. With them the ends of transactions may be.
    fn missed(&mut self) {
        self.abort_unknown |= !self.aborted.is_empty();
    }

    /// Memory in bytes.
    pub fn cost(&self) -> usize {
        let copies = self.copies.capacity() * size_of::<Copy>();
        copies
            + self.gaps.capacity() * 16
            + self.run.capacity() * size_of::<log::Batch>()
            + self.aborted.capacity() * 16
            + self.aborting.capacity() * 8
    }

    /// Whether a batch is of an aborted transaction, as a reader of committed messages finds out (CompletedFetch of
    /// kafka-clients): a transaction begins at its first offset and ends at its producer's next marker.
    fn is_aborted(&mut self, producer: i64, last_offset: i64) -> bool {
        while let Some((producer, _)) = self.aborted.get(self.begun).filter(|(_, first)| *first <= last_offset) {
            self.aborting.push(*producer);
            self.begun += 1;
        }
        self.aborting.contains(&producer)
    }

    fn found(&mut self, offset: i64) {
        if offset > self.next && self.gaps.len() <= MOST_GAPS {
            self.gaps.push((self.next, offset - 1));
        }
        self.next = offset.saturating_add(1);
    }

    fn ended(&mut self, producer: i64) {
        self.aborting.retain(|aborting| *aborting != producer);
    }
}

/// Takes the batches of a partition.
pub(super) struct Sink<'a, 'o> {
    pub collector: &'a mut Collector,
    pub purpose: Purpose,
    pub partition: Option<Partition>,
    pub application: Application,
    /// What would be enough of the flow if nobody looked into batches.
    pub enough: Demand,
    /// The flow that carries them, and where in it they begin.
    pub flow: Flow,
    pub start: Position,
    pub out: &'a mut Output<'o>,
}

impl Sink<'_, '_> {
    /// Tells of what was collected.
    pub fn flush(&mut self) {
        let batches = std::mem::take(&mut self.collector.run);
        let (Purpose::Consume { from }, false) = (self.purpose, batches.is_empty()) else { return };
        let Some(partition) = self.partition.clone() else { return };
        let Collector { run_aborted: aborted, run_end: end, .. } = *self.collector;
        let flow = self.flow;
        self.out.push(Operation::Log(LogOperation::Fetched { partition, batches, from, aborted, flow, end }));
    }

    /// Compaction has left less of it than there was. Who commits in its middle has done so many as are before.
    fn is_sparse(&self, batch: &Batch) -> bool {
        let span = batch.last_offset().saturating_sub(batch.base_offset).saturating_add(1);
        matches!(self.purpose, Purpose::Consume { .. }) && batch.count.is_some_and(|count| i64::from(count) < span)
    }

    /// What it lacks, if all of it was read.
    fn gaps(&self, batch: &Batch, end: &End) -> Option<Box<[(i64, i64)]>> {
        let is_read = end.outcome == Outcome::Read && self.is_sparse(batch) && self.collector.gaps.len() <= MOST_GAPS;
        let rest = (self.collector.next, batch.last_offset());
        is_read.then(|| self.collector.gaps.iter().copied().chain((rest.0 <= rest.1).then_some(rest)).collect())
    }

    /// What is produced into some topics may be copies. Others are not decompressed for it.
    fn kind(&mut self) -> Option<Kind> {
        let Output { topics, originals, .. } = &mut *self.out;
        let name = self.partition.as_ref().and_then(|partition| topics.name(&partition.topic));
        let kind = name.map(|name| originals.kind(name));
        kind.filter(|kind| *kind != Kind::Ordinary && matches!(self.purpose, Purpose::Produce { .. }))
    }

    /// What is to be read of a batch for its records' traces.
    fn look(&mut self, batch: &Batch) -> Option<Budget> {
        self.collector.tracing = false;
        self.collector.traced = None;
        if matches!(self.purpose, Purpose::Replicate | Purpose::Share) {
            return None;
        }
        let Output { topics, traces, time, .. } = &mut *self.out;
        let topic = topics.name(&self.partition.as_ref()?.topic)?;
        match traces.look(topic, batch, *time) {
            Look::No => None,
            Look::Known(traced) => {
                self.collector.traced = Some(traced);
                None
            }
            Look::Read(budget) => {
                self.collector.tracing = true;
                Some(budget)
            }
        }
    }

    /// The records of a batch have passed.
    fn looked(&mut self, batch: &Batch, end: &End) {
        if !std::mem::take(&mut self.collector.tracing) {
            return;
        }
        let Output { topics, traces, time, .. } = &mut *self.out;
        let topic = self.partition.as_ref().and_then(|partition| topics.name(&partition.topic));
        self.collector.traced = topic.map(|topic| traces.end(topic, batch, end, *time));
    }

    /// The records of the batch at hand that are told of singly, as far as there is room.
    fn traced(&mut self) -> Option<Rc<[log::Traced]>> {
        let traced = self.collector.traced.take().filter(|traced| !traced.is_empty())?;
        self.out.take_room(size_of_val(&*traced)).then_some(traced)
    }

    /// What consumers are sent they may publish again.
    fn wants(&mut self, batch: &Batch) -> bool {
        let is_sent = matches!(self.purpose, Purpose::Consume { .. } | Purpose::Share);
        is_sent && !batch.truncated && self.out.originals.wants(self.application, batch.size, self.out.time)
    }

    /// Keeps what a consumer was sent and is given.
    fn keep(&mut self, batch: &Batch) {
        let (kept, now) = (self.collector.kept.take(), self.out.time);
        let from = self.partition.clone().map(|partition| (partition, self.out.connection));
        match (kept, from) {
            (Some(kept), Some(from)) => self.out.originals.keep(self.application, from, batch, kept, now),
            _ if self.collector.wanted => self.out.originals.missed(self.application, now),
            _ => {}
        }
    }

    /// What a message's headers say that it is a copy of.
    fn named(&mut self, kind: Kind, provenance: &Provenance) -> Option<(CopyFate, Original)> {
        let place = provenance.latest();
        let (number, offset) = (place.partition?, place.offset?);
        let topic =
            Topic::Name(Some(&place.topic).filter(|topic| !topic.is_empty()).map(|topic| self.out.name(topic))?);
        let convention = provenance.convention();
        let mut name = |text: &[u8]| (!text.is_empty()).then(|| self.out.name(text));
        let (group, cause) = (name(&place.group), name(&provenance.exception));
        let presumed = convention == Convention::KafkaConnect;
        let group = group.map(|group| if presumed { format!("{CONNECT_GROUP}{group}").into() } else { group });
        let partition = Partition { topic, number };
        Some((kind.fate_by(convention), Original::Named { partition, offset, group, presumed, cause }))
    }

    /// What a message may be a copy of that does not say so.
    fn alike(&mut self, kind: Kind, record: &Record<'_>) -> Option<(CopyFate, Original)> {
        let fate = kind.fate()?;
        let (sent, incomplete) = self.out.originals.alike(self.application, Likeness::of(record), self.out.time);
        (incomplete || !sent.is_empty()).then_some((fate, Original::Alike { sent, incomplete }))
    }

    /// A message that is being produced may be a copy.
    fn copied(&mut self, kind: Kind, record: &Record<'_>) {
        let named = record.provenance.and_then(|provenance| self.named(kind, provenance));
        let original = named.or_else(|| self.alike(kind, record));
        if let (Some((fate, original)), Ok(place)) = (original, u64::try_from(record.offset_delta))
            && self.collector.copies.len() < MOST_COPIES
            && self.out.take_room(size_of::<Copy>())
        {
            self.collector.copies.push(Copy { place, fate, original });
        }
    }

    fn take(&mut self, batch: &Batch, read: log::Batch) {
        match self.purpose {
            Purpose::Produce { request, acks } => {
                let Some(partition) = self.partition.clone() else { return };
                let copies = std::mem::take(&mut self.collector.copies);
                self.out.push(Operation::Log(LogOperation::Produced { request, partition, batch: read, acks, copies }));
            }
            // Handed over, or dropped by the consumer's library: nobody knows.
            Purpose::Consume { .. } if read.transactional && self.collector.abort_unknown => self.flush(),
            Purpose::Consume { .. } => {
                let aborted = self.collector.is_aborted(batch.producer_id, read.last) && read.transactional;
                if !aborted {
                    self.keep(batch);
                }
                if aborted != self.collector.run_aborted || self.collector.run.len() >= MOST_BATCHES {
                    self.flush();
                }
                self.collector.run_aborted = aborted;
                self.collector.run_end = self.start + batch.end();
                self.collector.run.push(read);
            }
            Purpose::Share => self.keep(batch),
            Purpose::Replicate => {}
        }
    }
}

impl Visitor for Sink<'_, '_> {
    fn batch(&mut self, batch: &Batch) -> Wish {
        self.collector.marker = None;
        self.collector.gaps.clear();
        self.collector.next = batch.base_offset;
        self.collector.copies.clear();
        self.collector.kept = None;
        self.collector.wanted = false;
        self.collector.kind = self.kind();
        if batch.attributes.control {
            return Wish::Records(MARKER);
        }
        let look = self.look(batch);
        let wish = match batch.count {
            Some(_) if self.collector.kind.is_some() => Wish::Records(Budget::default()),
            Some(_) => {
                self.collector.wanted = self.wants(batch);
                // The records of a sparse batch tell its gaps.
                let records = if self.is_sparse(batch) { Some(Budget::default()) } else { look };
                match (records, self.collector.wanted) {
                    (Some(budget), true) => Wish::RecordsAndBytes(budget),
                    (Some(budget), false) => Wish::Records(budget),
                    (None, true) => Wish::Bytes,
                    (None, false) => Wish::HeadersOnly,
                }
            }
            // How many messages are wrapped in one of the old format, only they tell.
            None => Wish::Records(Budget::default()),
        };
        let is_read = wish != Wish::HeadersOnly
            // Should it publish what it was sent, the first of it counts already.
            || matches!(self.purpose, Purpose::Produce { .. }) && self.out.originals.may_copy(self.application);
        if let Some(demand) = self.collector.insides.batch(batch.size, is_read, self.enough) {
            self.out.demand(self.flow, demand);
        }
        wish
    }

    fn record(&mut self, batch: &Batch, record: &Record<'_>) {
        self.collector.marker = record.marker;
        if self.collector.tracing {
            self.out.traces.note(record, self.out.time);
        }
        self.collector.found(batch.base_offset.saturating_add(record.offset_delta));
        if let Some(kind) = self.collector.kind {
            self.copied(kind, record);
        }
    }

    fn bytes(&mut self, _: &Batch, bytes: Vec<u8>) {
        self.collector.kept = Some(bytes);
    }

    fn end(&mut self, batch: &Batch, end: &End) {
        if batch.truncated {
            return;
        }
        self.looked(batch, end);
        if batch.attributes.control {
            if self.collector.marker == Some(Marker::Abort) {
                self.collector.is_aborted(batch.producer_id, batch.last_offset());
            }
            return self.collector.ended(batch.producer_id);
        }
        let records = u64::from(batch.count.unwrap_or(end.records));
        if records == 0 {
            if batch.count.is_none() {
                self.out.trouble(Trouble::Unknown);
            }
            return;
        }
        // A message that wraps others has the offset of the last of them.
        let wrapped = batch.count.is_none();
        let last = if wrapped { batch.base_offset } else { batch.last_offset() };
        let first = if wrapped { last.saturating_sub_unsigned(records - 1) } else { batch.base_offset };
        let sequence = (batch.producer_id >= 0 && batch.base_sequence >= 0).then_some(Sequence {
            producer: batch.producer_id,
            epoch: batch.producer_epoch,
            first: batch.base_sequence,
        });
        let read = log::Batch {
            records,
            first,
            last,
            bytes: batch.size,
            checksum: Some(batch.crc),
            sequence,
            timestamp: Some(batch.base_timestamp).filter(|time| *time >= 0 && !batch.attributes.delete_horizon),
            transactional: batch.attributes.transactional,
            traced: self.traced(),
            gaps: self.gaps(batch, end),
        };
        self.take(batch, read);
    }

    fn lost(&mut self, lost: Lost) {
        // What is told together has no hole inside.
        self.flush();
        match (lost.why, self.purpose) {
            (Loss::Hole, _) => {
                self.collector.missed();
                let from_broker = !matches!(self.purpose, Purpose::Produce { .. });
                let bytes = Some(lost.bytes);
                self.out.push(Operation::Gap(Gap { from_broker, channel: None, bytes, deliveries: None }));
            }
            (Loss::Malformed, _) | (Loss::Truncated, Purpose::Produce { .. }) => self.out.trouble(Trouble::Malformed),
            (Loss::Unknown, _) => self.out.trouble(Trouble::Unknown),
            (Loss::Truncated, _) => {}
        }
    }
}
