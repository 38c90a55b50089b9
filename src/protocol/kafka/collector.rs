//! From the batches of one partition to operations.

use super::batch::Batch;
use super::batches::{Loss, Lost, Visitor, Wish};
use super::codec::Budget;
use super::copies;
use super::provenance::Provenance;
use super::reader::End;
use super::records::{Marker, Record};
use crate::protocol::Trouble;
use crate::protocol::operation::log::{self, Acks, LogOperation, Partition, RequestId, Sequence, Topic};
use crate::protocol::operation::{Gap, Operation};
use crate::protocol::output::Output;
use crate::stream::{Flow, Position};

/// Aborted transactions that one partition of a response may name. Of more, the messages are taken for committed ones.
const MOST_ABORTED: usize = 10_000;
/// Batches that are told of at once.
const MOST_BATCHES: usize = 1024;
/// A transaction's end is a record of some bytes that nobody compresses.
const MARKER: Budget = Budget { input: 1 << 10, output: 1 << 10, ratio: 10, memory: 1 << 10 };

/// What the batches at hand are for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    /// They are being produced.
    Produce { request: RequestId, acks: Acks },
    /// They are handed to a consumer, who asked for them from this offset on.
    Consume { from: Option<i64> },
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
    /// The record of a control batch says that its transaction was aborted.
    marker: Option<Marker>,
}

impl Collector {
    /// Another partition begins.
    pub fn begin(&mut self) {
        self.run.clear();
        self.aborted.clear();
        self.begun = 0;
        self.aborting.clear();
    }

    /// A transaction was aborted whose messages are among those that follow.
    pub fn aborted(&mut self, producer: i64, first_offset: i64) {
        if self.aborted.len() < MOST_ABORTED {
            self.aborted.push((producer, first_offset));
        }
    }

    /// Memory in bytes.
    pub fn cost(&self) -> usize {
        self.run.capacity() * size_of::<log::Batch>() + self.aborted.capacity() * 16 + self.aborting.capacity() * 8
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

    fn ended(&mut self, producer: i64) {
        self.aborting.retain(|aborting| *aborting != producer);
    }
}

/// Takes the batches of a partition.
pub(super) struct Sink<'a, 'o> {
    pub collector: &'a mut Collector,
    pub purpose: Purpose,
    pub partition: Option<Partition>,
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

    /// What is produced into such a topic may have headers that say where it comes from. Others are not decompressed for it.
    fn may_be_copies(&self) -> bool {
        let name = self.partition.as_ref().and_then(|partition| self.out.topics.name(&partition.topic));
        matches!(self.purpose, Purpose::Produce { .. }) && name.is_some_and(|name| copies::is_likely(name))
    }

    fn copied(&mut self, provenance: &Provenance) {
        let Some(copy) = self.partition.clone() else { return };
        let place = provenance.latest();
        let (Some(number), Some(offset), false) = (place.partition, place.offset, place.topic.is_empty()) else {
            return;
        };
        let topic = Topic::Name(self.out.name(&place.topic));
        let mut name = |text: &[u8]| (!text.is_empty()).then(|| self.out.name(text));
        let (group, cause) = (name(&place.group), name(&provenance.exception));
        let fate = copies::fate(provenance.convention(), self.out.topics.name(&copy.topic).map(|name| &**name));
        let origin = Partition { topic, number };
        self.out.push(Operation::Log(LogOperation::Copied { copy, origin, offset, group, fate, cause }));
    }

    fn take(&mut self, batch: &Batch, read: log::Batch) {
        match self.purpose {
            Purpose::Produce { request, acks } => {
                let Some(partition) = self.partition.clone() else { return };
                self.out.push(Operation::Log(LogOperation::Produced { request, partition, batch: read, acks }));
            }
            Purpose::Consume { .. } => {
                let aborted = self.collector.is_aborted(batch.producer_id, read.last) && read.transactional;
                if aborted != self.collector.run_aborted || self.collector.run.len() >= MOST_BATCHES {
                    self.flush();
                }
                self.collector.run_aborted = aborted;
                self.collector.run_end = self.start + batch.end();
                self.collector.run.push(read);
            }
            Purpose::Replicate => {}
        }
    }
}

impl Visitor for Sink<'_, '_> {
    fn batch(&mut self, batch: &Batch) -> Wish {
        self.collector.marker = None;
        match batch.count {
            Some(_) if batch.attributes.control => Wish::Records(MARKER),
            Some(_) if self.may_be_copies() => Wish::Records(Budget::default()),
            Some(_) => Wish::HeadersOnly,
            // How many messages are wrapped in one of the old format, only they tell.
            None => Wish::Records(Budget::default()),
        }
    }

    fn record(&mut self, _: &Batch, record: &Record<'_>) {
        self.collector.marker = record.marker;
        if let (Purpose::Produce { .. }, Some(provenance)) = (self.purpose, record.provenance) {
            self.copied(provenance);
        }
    }

    fn end(&mut self, batch: &Batch, end: &End) {
        if batch.truncated {
            return;
        }
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
        };
        self.take(batch, read);
    }

    fn lost(&mut self, lost: Lost) {
        match (lost.why, self.purpose) {
            (Loss::Hole, _) => {
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
