//! The records of a batch of magic 2: keys and values are hashed as they pass, and of the headers only those are kept that
//! tell where a record comes from. Nothing is allocated by a count or a length.

use super::batch::Batch;
use super::pieces::{Blob, Digest, Malformed, Text, Varint};
use super::provenance::{self, LONGEST_NAME, LONGEST_TEXT, Meaning, Provenance};
use crate::protocol::operation::TraceContext;
use crate::protocol::traceparent::traceparent;

/// What is known of a record. Of a message of magic 0 or 1 there are no headers.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record<'a> {
    /// Its offset less the batch's (see `End::base_offset` for messages).
    pub offset_delta: i64,
    /// Its timestamp less the batch's `base_timestamp`, in milliseconds; has no meaning with `log_append_time`.
    pub timestamp_delta: i64,
    /// Its key; `None` is null.
    pub key: Option<Digest>,
    /// Its value; `None` is null, a tombstone.
    pub value: Option<Digest>,
    /// How many headers it has.
    pub headers: u32,
    /// What it says, in a control batch.
    pub marker: Option<Marker>,
    /// The last `traceparent` header that can be read.
    pub trace: Option<TraceContext>,
    /// Where it was before, if a header says so.
    pub provenance: Option<&'a Provenance>,
}

/// The type of a control record (KIP-98).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marker {
    /// The producer's transaction was aborted.
    Abort,
    /// The producer's transaction was committed.
    Commit,
    /// Another one: of Raft, or not known.
    Other(i16),
}

impl Marker {
    /// A control record's key: version, type.
    fn read(key: &[u8]) -> Option<Marker> {
        let [_, _, kind @ ..] = key.first_chunk::<4>()?;
        Some(match i16::from_be_bytes(*kind) {
            0 => Marker::Abort,
            1 => Marker::Commit,
            other => Marker::Other(other),
        })
    }
}

/// What comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    #[default]
    Attributes,
    TimestampDelta,
    OffsetDelta,
    KeyLength,
    Key,
    ValueLength,
    Value,
    Headers,
    NameLength,
    Name,
    HeaderLength,
    Header,
    Done,
}

/// What a header is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interest {
    Trace,
    Provenance(Meaning),
}

impl Interest {
    fn of(name: &[u8]) -> Option<Interest> {
        match name {
            b"traceparent" => Some(Interest::Trace),
            _ => Meaning::of(name).map(Interest::Provenance),
        }
    }
}

/// Reads the records of one batch, from pieces of any size.
#[derive(Default)]
pub(super) struct Parser {
    control: bool,
    /// Records that the header promised.
    expected: u32,
    /// Records that were given.
    given: u32,
    /// The largest offset that is allowed.
    largest: i64,
    step: Step,
    /// Bytes of the record that are still to come; 0 between records.
    left: usize,
    varint: Varint,
    offset_delta: i64,
    timestamp_delta: i64,
    blob: Blob,
    key: Option<Digest>,
    value: Option<Digest>,
    marker: Text<4>,
    kind: Option<Marker>,
    headers: u32,
    headers_left: u32,
    name: Text<LONGEST_NAME>,
    interest: Option<Interest>,
    text: Text<LONGEST_TEXT>,
    trace: Option<TraceContext>,
    provenance: Provenance,
}

impl Parser {
    /// Another batch begins.
    pub fn begin(&mut self, batch: &Batch) {
        self.control = batch.attributes.control;
        self.expected = batch.count.unwrap_or(0);
        self.given = 0;
        self.offset_delta = -1;
        self.largest = i64::from(batch.last_offset_delta);
        self.left = 0;
        self.varint = Varint::default();
    }

    /// How many records were given.
    pub fn given(&self) -> u32 {
        self.given
    }

    /// All records that the batch's header promised were given, and no byte is left over.
    pub fn is_complete(&self) -> bool {
        self.given == self.expected && self.left == 0
    }

    /// Takes the next bytes and gives the records that end in them.
    pub fn feed(&mut self, mut input: &[u8], give: &mut impl FnMut(&Record<'_>)) -> Result<(), Malformed> {
        while !input.is_empty() {
            if self.left == 0 && !self.begin_record(&mut input)? {
                return Ok(());
            }
            let (mut part, rest) = input.split_at(self.left.min(input.len()));
            let length = part.len();
            self.fields(&mut part)?;
            self.left -= length - part.len();
            if self.step == Step::Done {
                if self.left != 0 {
                    return Err(Malformed);
                }
                self.give(give);
            } else if self.left == 0 {
                return Err(Malformed);
            }
            input = rest;
        }
        Ok(())
    }

    /// Reads the length of the next record; false if there is more of it to come.
    fn begin_record(&mut self, input: &mut &[u8]) -> Result<bool, Malformed> {
        if self.given == self.expected {
            return Err(Malformed);
        }
        let Some(length) = self.varint.int(input)? else { return Ok(false) };
        self.left = usize::try_from(length).ok().filter(|length| *length > 0).ok_or(Malformed)?;
        self.step = Step::Attributes;
        self.kind = None;
        self.trace = None;
        self.provenance.clear();
        Ok(true)
    }

    fn give(&mut self, give: &mut impl FnMut(&Record<'_>)) {
        self.given += 1;
        give(&Record {
            offset_delta: self.offset_delta,
            timestamp_delta: self.timestamp_delta,
            key: self.key,
            value: self.value,
            headers: self.headers,
            marker: self.kind,
            trace: self.trace,
            provenance: (!self.provenance.is_empty()).then_some(&self.provenance),
        });
    }

    /// Reads fields until the record is done or there are no more bytes.
    fn fields(&mut self, input: &mut &[u8]) -> Result<(), Malformed> {
        loop {
            let next = match self.step {
                Step::Attributes => super::pieces::take(input, 1).first().map(|_| Step::TimestampDelta),
                Step::TimestampDelta => self.varint.long(input)?.map(|delta| {
                    self.timestamp_delta = delta;
                    Step::OffsetDelta
                }),
                Step::OffsetDelta => self.offset(input)?,
                Step::KeyLength => self.varint.length(input)?.map(|length| self.begin_key(length)),
                Step::Key => self.read_key(input),
                Step::ValueLength => self.varint.length(input)?.map(|length| self.begin_value(length)),
                Step::Value => self.blob.read(input).map(|value| {
                    self.value = Some(value);
                    Step::Headers
                }),
                Step::Headers => self.varint.int(input)?.map(|count| self.begin_headers(count)).transpose()?,
                Step::NameLength => self.varint.length(input)?.map(|length| self.begin_name(length)).transpose()?,
                Step::Name => self.read_name(input),
                Step::HeaderLength => self.varint.length(input)?.map(|length| self.begin_header(length)),
                Step::Header => self.read_header(input),
                Step::Done => return Ok(()),
            };
            match next {
                Some(step) => self.step = step,
                None => return Ok(()),
            }
        }
    }

    /// Offsets ascend within what the header promised.
    fn offset(&mut self, input: &mut &[u8]) -> Result<Option<Step>, Malformed> {
        let Some(delta) = self.varint.int(input)?.map(i64::from) else { return Ok(None) };
        if delta <= self.offset_delta || delta > self.largest {
            return Err(Malformed);
        }
        self.offset_delta = delta;
        Ok(Some(Step::KeyLength))
    }

    fn begin_key(&mut self, length: Option<usize>) -> Step {
        self.key = None;
        let Some(length) = length else { return Step::ValueLength };
        self.blob.begin(length);
        self.marker.begin(length);
        Step::Key
    }

    fn read_key(&mut self, input: &mut &[u8]) -> Option<Step> {
        if self.control {
            let mut same = *input;
            self.kind = self.marker.read(&mut same).and_then(Marker::read);
        }
        self.key = Some(self.blob.read(input)?);
        Some(Step::ValueLength)
    }

    fn begin_value(&mut self, length: Option<usize>) -> Step {
        self.value = None;
        let Some(length) = length else { return Step::Headers };
        self.blob.begin(length);
        Step::Value
    }

    fn begin_headers(&mut self, count: i32) -> Result<Step, Malformed> {
        self.headers = u32::try_from(count).map_err(|_| Malformed)?;
        self.headers_left = self.headers;
        Ok(self.next_header())
    }

    fn next_header(&mut self) -> Step {
        match self.headers_left.checked_sub(1) {
            Some(left) => {
                self.headers_left = left;
                Step::NameLength
            }
            None => Step::Done,
        }
    }

    fn begin_name(&mut self, length: Option<usize>) -> Result<Step, Malformed> {
        self.name.begin(length.ok_or(Malformed)?);
        Ok(Step::Name)
    }

    fn read_name(&mut self, input: &mut &[u8]) -> Option<Step> {
        let whole = self.name.whole();
        let name = self.name.read(input)?;
        self.interest = if whole { Interest::of(name) } else { None };
        Some(Step::HeaderLength)
    }

    fn begin_header(&mut self, length: Option<usize>) -> Step {
        let Some(length) = length else { return self.next_header() };
        self.text.begin(length);
        Step::Header
    }

    fn read_header(&mut self, input: &mut &[u8]) -> Option<Step> {
        let whole = self.text.whole();
        let value = self.text.read(input)?;
        match self.interest {
            Some(Interest::Trace) if whole => self.trace = traceparent(value).or(self.trace),
            Some(Interest::Provenance(meaning)) => self.provenance.header(meaning, value, whole),
            Some(Interest::Trace) | None => {}
        }
        Some(self.next_header())
    }
}

const _: () = assert!(provenance::LONGEST_NAME >= b"traceparent".len());
