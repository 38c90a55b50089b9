//! The records of one batch at a time, asked for by the caller: straight from the pieces where they are not compressed,
//! otherwise from what was gathered of the batch.

use std::ops::ControlFlow;

use super::batch::{Batch, CHECKED};
use super::batches::Visitor;
use super::codec::{Budget, Codec, Failure, Refusal, Scratch};
use super::pieces::Malformed;
use super::{legacy, records};

/// What became of a batch's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nobody asked for them.
    NotAsked,
    /// All were given.
    Read,
    /// What was given is right as far as it goes; then came bytes that break the format, or not what the header promised.
    Malformed,
    /// A hole took some, or the field ended; those before were given, as far as the codec allows.
    Incomplete,
    /// They had passed before their header was certain.
    Missed,
    /// The budget did not allow more.
    Refused(Refusal),
}

/// A batch has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// Bytes of it that holes took.
    pub missing: u64,
    /// What became of its records.
    pub outcome: Outcome,
    /// How many were given.
    pub records: u32,
    /// What is to be added to their offset deltas. Messages that were wrapped (magic 1) have relative offsets, of which only
    /// the last one's real one is known: so it is only known when all were given.
    pub base_offset: Option<i64>,
    /// Whether the checksum is right. `None`: not looked at, because nobody asked for records, because bytes are missing, or
    /// because they were refused. Also for messages of magic 0 and 1.
    pub checksum: Option<bool>,
    /// Bytes that were worked on for the records, before and after decompression.
    pub work: u64,
}

impl End {
    /// Of a batch of which nothing but the header was read.
    pub fn of_header(batch: &Batch, missing: u64, outcome: Outcome) -> End {
        let base_offset = batch.count.map(|_| batch.base_offset);
        End { missing, outcome, records: 0, base_offset, checksum: None, work: 0 }
    }
}

/// Reads the records of batches, one after the other.
#[derive(Default)]
pub(super) struct Reader {
    records: records::Parser,
    messages: legacy::Parser,
    budget: Budget,
    /// Compressed bytes of the batch.
    gathered: Vec<u8>,
    /// Of the bytes so far, while none is missing.
    checksum: Option<u32>,
    /// Decided before the batch's end.
    outcome: Option<Outcome>,
    work: u64,
}

impl Reader {
    /// Memory for compressed bytes that is kept from one batch to the next.
    const KEPT: usize = 64 << 10;

    /// A batch begins; `header` are its bytes, as far as they are there.
    pub fn begin(&mut self, batch: &Batch, header: &[u8], budget: Budget) {
        let body = batch.size - batch.header_bytes();
        self.budget = budget;
        self.checksum = header.get(CHECKED..).filter(|_| batch.magic == 2).map(crc32c::crc32c);
        self.work = 0;
        self.outcome = match batch.attributes.codec {
            Codec::Unknown(_) => Some(Outcome::Refused(Refusal::Codec)),
            Codec::None if body > budget.output => Some(Outcome::Refused(Refusal::Output)),
            Codec::None => None,
            _ if body > budget.input => Some(Outcome::Refused(Refusal::Input)),
            _ => None,
        };
        self.gathered.clear();
        if batch.magic == 2 { self.records.begin(batch) } else { self.messages.begin(batch) }
    }

    /// The next bytes behind the header.
    pub fn data<V: Visitor>(&mut self, batch: &Batch, bytes: &[u8], scratch: &mut Scratch, visitor: &mut V) {
        if matches!(self.outcome, Some(Outcome::Refused(_) | Outcome::Incomplete)) {
            return;
        }
        self.checksum = self.checksum.map(|checksum| crc32c::crc32c_append(checksum, bytes));
        if self.outcome.is_some() {
            return;
        }
        if batch.attributes.codec == Codec::None {
            self.work += bytes.len() as u64;
            if self.feed(batch, bytes, visitor).is_err() {
                self.outcome = Some(Outcome::Malformed);
            }
        } else if self.gathered.is_empty() && bytes.len() as u64 == batch.size - batch.header_bytes() {
            self.outcome = Some(self.expand(batch, bytes, scratch, visitor));
        } else {
            self.gathered.extend_from_slice(bytes);
        }
    }

    /// Bytes behind the header are missing: what comes after them cannot be read.
    pub fn hole<V: Visitor>(&mut self, batch: &Batch, scratch: &mut Scratch, visitor: &mut V) {
        self.checksum = None;
        if self.outcome.is_none() {
            if !self.gathered.is_empty() {
                self.expand_gathered(batch, scratch, visitor);
            }
            self.outcome = Some(Outcome::Incomplete);
        }
    }

    /// The batch has passed.
    pub fn end<V: Visitor>(&mut self, batch: &Batch, missing: u64, scratch: &mut Scratch, visitor: &mut V) -> End {
        let outcome = match self.outcome {
            Some(outcome) => outcome,
            None if batch.attributes.codec == Codec::None => self.complete_of(batch),
            None => self.expand_gathered(batch, scratch, visitor),
        };
        let refused = matches!(outcome, Outcome::Refused(_));
        let (records, base_offset) = match batch.magic {
            2 => (self.records.given(), Some(batch.base_offset)),
            _ if outcome == Outcome::Read => (self.messages.given(), self.messages.base_offset(batch)),
            _ => (self.messages.given(), None),
        };
        let checksum = self.checksum.filter(|_| !refused).map(|checksum| checksum == batch.crc);
        End { missing, outcome, records, base_offset, checksum, work: self.work }
    }

    /// Bytes held.
    pub fn cost(&self) -> usize {
        size_of::<Self>() + self.gathered.capacity()
    }

    fn expand_gathered<V: Visitor>(&mut self, batch: &Batch, scratch: &mut Scratch, visitor: &mut V) -> Outcome {
        let mut gathered = std::mem::take(&mut self.gathered);
        let outcome = self.expand(batch, &gathered, scratch, visitor);
        gathered.clear();
        gathered.shrink_to(Self::KEPT);
        self.gathered = gathered;
        outcome
    }

    fn expand<V: Visitor>(&mut self, batch: &Batch, body: &[u8], scratch: &mut Scratch, visitor: &mut V) -> Outcome {
        let input = if batch.magic == 2 { Some(body) } else { legacy::wrapped(body) };
        let Some(input) = input else { return Outcome::Malformed };
        let budget = self.budget;
        let (made, result) = scratch.decompress(batch.attributes.codec, input, &budget, |bytes| {
            match self.feed(batch, bytes, visitor) {
                Ok(()) => ControlFlow::Continue(()),
                Err(Malformed) => ControlFlow::Break(()),
            }
        });
        self.work += body.len() as u64 + made;
        match result {
            Ok(()) => self.complete_of(batch),
            Err(Failure::Refused(refusal)) => Outcome::Refused(refusal),
            Err(Failure::Malformed | Failure::Stopped) => Outcome::Malformed,
        }
    }

    fn feed<V: Visitor>(&mut self, batch: &Batch, bytes: &[u8], visitor: &mut V) -> Result<(), Malformed> {
        let mut give = |record: &records::Record<'_>| visitor.record(batch, record);
        if batch.magic == 2 { self.records.feed(bytes, &mut give) } else { self.messages.feed(bytes, &mut give) }
    }

    fn complete_of(&self, batch: &Batch) -> Outcome {
        let complete = if batch.magic == 2 {
            self.records.is_complete()
        } else {
            self.messages.is_complete() && self.messages.base_offset(batch).is_some()
        };
        if complete { Outcome::Read } else { Outcome::Malformed }
    }
}
