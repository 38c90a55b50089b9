//! Messages of magic 0 and 1: what follows their header, and the messages that a compressed one wraps.
//!
//! Offsets of wrapped messages are the real ones in magic 0, and relative in magic 1, where the wrapper has the offset of the
//! last of them (`AbstractLegacyRecordBatch.DeepRecordsIterator`).

use super::batch::Batch;
use super::codec::Codec;
use super::pieces::{Blob, Digest, Fixed, Malformed};
use super::records::Record;

/// What comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    #[default]
    Offset,
    Size,
    Crc,
    Magic,
    Attributes,
    Timestamp,
    KeyLength,
    Key,
    ValueLength,
    Value,
    Done,
}

/// Reads one message, or the messages that one wraps, from pieces of any size.
#[derive(Default)]
pub(super) struct Parser {
    magic: u8,
    wrapped: bool,
    base_timestamp: i64,
    given: u32,
    step: Step,
    /// Bytes of the message that are still to come; of a message on its own its size says so.
    left: u64,
    fixed: Fixed,
    offset: i64,
    timestamp: i64,
    blob: Blob,
    key: Option<Digest>,
}

impl Parser {
    /// Another batch begins: behind the header of a message, or in what it wraps.
    pub fn begin(&mut self, batch: &Batch) {
        self.wrapped = batch.attributes.codec != Codec::None;
        self.magic = batch.magic;
        self.base_timestamp = batch.base_timestamp;
        self.given = 0;
        self.fixed = Fixed::default();
        self.step = if self.wrapped { Step::Offset } else { Step::KeyLength };
        self.left = batch.size - batch.header_bytes();
        (self.offset, self.timestamp) = (0, self.base_timestamp);
    }

    /// How many messages were given.
    pub fn given(&self) -> u32 {
        self.given
    }

    /// The last message was given, and no byte is left over.
    pub fn is_complete(&self) -> bool {
        self.given > 0 && matches!(self.step, Step::Offset | Step::Done) && self.fixed.is_between()
    }

    /// What is to be added to the messages' offsets, once all were given; `None` if the wrapper's offset is impossible.
    pub fn base_offset(&self, batch: &Batch) -> Option<i64> {
        match (self.wrapped, self.magic) {
            (false, _) => Some(batch.base_offset),
            (true, 0) => Some(0),
            // librdkafka left the wrapper's offset 0 in what it produced.
            (true, _) if batch.base_offset == 0 => Some(0),
            (true, _) => batch.base_offset.checked_sub(self.offset).filter(|base| *base >= 0),
        }
    }

    /// Takes the next bytes and gives the messages that end in them.
    pub fn feed(&mut self, mut input: &[u8], give: &mut impl FnMut(&Record<'_>)) -> Result<(), Malformed> {
        let input = &mut input;
        loop {
            let next = match self.step {
                Step::Offset => {
                    self.fixed.read::<8>(input).map(|offset| self.begin_message(offset as i64)).transpose()?
                }
                Step::Size => self.fixed.length(input)?.map(|size| self.begin_size(size)).transpose()?,
                Step::Crc => self.fixed(input, Fixed::read::<4>)?.map(|_| Step::Magic),
                Step::Magic => self.fixed(input, Fixed::read::<1>)?.map(|magic| self.same_magic(magic)).transpose()?,
                Step::Attributes => {
                    self.fixed(input, Fixed::read::<1>)?.map(|bits| self.not_nested(bits)).transpose()?
                }
                Step::Timestamp => self.fixed(input, Fixed::read::<8>)?.map(|timestamp| {
                    self.timestamp = timestamp as i64;
                    Step::KeyLength
                }),
                Step::KeyLength => self.length(input)?.map(|length| self.begin_key(length)),
                Step::Key => self.blob(input)?.map(|key| {
                    self.key = Some(key);
                    Step::ValueLength
                }),
                Step::ValueLength => self.length(input)?.map(|length| self.begin_value(length, give)).transpose()?,
                Step::Value => self.blob(input)?.map(|value| self.end(Some(value), give)).transpose()?,
                Step::Done => return if input.is_empty() { Ok(()) } else { Err(Malformed) },
            };
            match next {
                Some(step) => self.step = step,
                None => return Ok(()),
            }
        }
    }

    fn begin_message(&mut self, offset: i64) -> Result<Step, Malformed> {
        // Old producers numbered them as they liked: the broker did it again.
        self.offset = offset;
        if offset >= 0 { Ok(Step::Size) } else { Err(Malformed) }
    }

    fn begin_size(&mut self, size: Option<usize>) -> Result<Step, Malformed> {
        self.left = size.ok_or(Malformed)? as u64;
        Ok(Step::Crc)
    }

    fn same_magic(&mut self, magic: u64) -> Result<Step, Malformed> {
        if magic == u64::from(self.magic) { Ok(Step::Attributes) } else { Err(Malformed) }
    }

    fn not_nested(&mut self, bits: u64) -> Result<Step, Malformed> {
        match bits & 7 {
            0 if self.magic == 0 => Ok(Step::KeyLength),
            0 => Ok(Step::Timestamp),
            _ => Err(Malformed),
        }
    }

    fn begin_key(&mut self, length: Option<usize>) -> Step {
        self.key = None;
        let Some(length) = length else { return Step::ValueLength };
        self.blob.begin(length);
        Step::Key
    }

    fn begin_value(&mut self, length: Option<usize>, give: &mut impl FnMut(&Record<'_>)) -> Result<Step, Malformed> {
        let Some(length) = length else { return self.end(None, give) };
        self.blob.begin(length);
        Ok(Step::Value)
    }

    fn end(&mut self, value: Option<Digest>, give: &mut impl FnMut(&Record<'_>)) -> Result<Step, Malformed> {
        if self.left != 0 {
            return Err(Malformed);
        }
        self.given = self.given.saturating_add(1);
        give(&Record {
            offset_delta: self.offset,
            timestamp_delta: self.timestamp.wrapping_sub(self.base_timestamp),
            key: self.key,
            value,
            headers: 0,
            marker: None,
            trace: None,
            provenance: None,
        });
        Ok(if self.wrapped { Step::Offset } else { Step::Done })
    }

    /// Reads an integer of the message, which must be long enough for it.
    fn fixed<T>(
        &mut self,
        input: &mut &[u8],
        read: impl FnOnce(&mut Fixed, &mut &[u8]) -> Option<T>,
    ) -> Result<Option<T>, Malformed> {
        let before = input.len();
        let value = read(&mut self.fixed, input);
        self.pass(before - input.len())?;
        Ok(value)
    }

    fn length(&mut self, input: &mut &[u8]) -> Result<Option<Option<usize>>, Malformed> {
        let before = input.len();
        let length = self.fixed.length(input)?;
        self.pass(before - input.len())?;
        Ok(length)
    }

    fn blob(&mut self, input: &mut &[u8]) -> Result<Option<Digest>, Malformed> {
        let before = input.len();
        let digest = self.blob.read(input);
        self.pass(before - input.len())?;
        Ok(digest)
    }

    fn pass(&mut self, bytes: usize) -> Result<(), Malformed> {
        self.left = self.left.checked_sub(bytes as u64).ok_or(Malformed)?;
        Ok(())
    }
}

/// The compressed messages in the body of a message that wraps them: its value.
pub(super) fn wrapped(body: &[u8]) -> Option<&[u8]> {
    let (key, rest) = body.split_first_chunk()?;
    let key = usize::try_from(i32::from_be_bytes(*key)).unwrap_or(0);
    let (length, value) = rest.get(key..)?.split_first_chunk()?;
    // Where a hole cut the body, there is less of it.
    let length = usize::try_from(i32::from_be_bytes(*length)).ok()?;
    Some(value.get(..length).unwrap_or(value))
}
