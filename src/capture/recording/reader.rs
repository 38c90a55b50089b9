//! Reading a recording.

use std::io::{self, Read};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::capture::Record;
use crate::time::Timestamp;

use super::encoding::{Decoder, Input};
use super::{CHECKSUM, Error, HEAD, Head, Header, Kind, MAGIC, MAX_HEADER, Totals, VERSION, seed};

/// Reads a recording, a block at a time: two blocks' memory, whatever the file says.
pub struct Reader<R: Read> {
    input: R,
    header: Header,
    header_checksum: u64,
    offset: u64,
    block_offset: u64,
    seen: Totals,
    totals: Option<Totals>,
    packed: Vec<u8>,
    raw: Vec<u8>,
    at: usize,
    left: u32,
    decoder: Decoder,
    failed: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the header. `input` should be buffered.
    ///
    /// # Errors
    /// If this is no recording, is one of another version, or its header is damaged.
    pub fn new(mut input: R) -> Result<Self, Error> {
        let mut start = Vec::new();
        read_exactly(&mut input, &mut start, MAGIC.len() + 6).map_err(not_a_recording)?;
        if !start.starts_with(MAGIC) {
            return Err(Error::NotARecording);
        }
        let version = u16::from_le_bytes([start[8], start[9]]);
        if version != VERSION {
            return Err(Error::Version(version));
        }
        let length = u32::from_le_bytes([start[10], start[11], start[12], start[13]]) as usize;
        let damaged = |what| Error::Corrupt { offset: 0, block: 0, what };
        if length > MAX_HEADER {
            return Err(damaged("the header is longer than any header may be"));
        }
        let mut rest = Vec::new();
        read_exactly(&mut input, &mut rest, length + CHECKSUM).map_err(|error| truncated(error, 0, 0))?;
        let (body, checksum) = rest.split_at(length);
        start.extend_from_slice(body);
        let header_checksum = xxh3_64_with_seed(&start, 0);
        if checksum != header_checksum.to_le_bytes() {
            return Err(damaged("the header does not match its checksum"));
        }
        let header = parse_header(body).ok_or_else(|| damaged("the header cannot be read"))?;
        Ok(Reader {
            input,
            header,
            header_checksum,
            offset: (start.len() + CHECKSUM) as u64,
            block_offset: 0,
            seen: Totals::default(),
            totals: None,
            packed: Vec::new(),
            raw: Vec::new(),
            at: 0,
            left: 0,
            decoder: Decoder::default(),
            failed: false,
        })
    }

    /// Where and when it was made.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What the whole recording holds, once its end has been read.
    pub fn totals(&self) -> Option<Totals> {
        self.totals
    }

    /// The next record; `None` at the recording's end, and after an error.
    ///
    /// # Errors
    /// If the file ends too early or is damaged. Everything that was delivered before can be trusted.
    #[expect(clippy::should_implement_trait, reason = "the record borrows from the reader, which Iterator cannot say")]
    pub fn next(&mut self) -> Result<Option<Record<'_>>, Error> {
        while self.left == 0 {
            if self.totals.is_some() || self.failed {
                return Ok(None);
            }
            self.failed = true;
            self.load()?;
            self.failed = false;
        }
        self.left -= 1;
        let block = self.seen.blocks - 1;
        match self.decoder.decode(&self.raw, &mut self.at) {
            Some(record) => {
                self.seen.records += 1;
                if let Record::Segment(segment) = &record {
                    self.seen.segments += 1;
                    self.seen.bytes += segment.bytes.len() as u64;
                }
                Ok(Some(record))
            }
            None => {
                self.left = 0;
                self.failed = true;
                Err(Error::Corrupt { offset: self.block_offset, block, what: "a record cannot be read" })
            }
        }
    }

    /// Reads, checks and unpacks the next block, or the end.
    fn load(&mut self) -> Result<(), Error> {
        let number = self.seen.blocks;
        let offset = self.offset;
        let corrupt = |what| Error::Corrupt { offset, block: number, what };
        if self.at != self.raw.len() {
            let block = number.saturating_sub(1);
            return Err(Error::Corrupt { offset: self.block_offset, block, what: "bytes are left behind its records" });
        }
        let seed = seed(self.header_checksum, number);
        let mut head = [0; HEAD];
        self.input.read_exact(&mut head).map_err(|error| truncated(error, offset, number))?;
        let head = Head::from_bytes(&head, seed).map_err(corrupt)?;
        self.packed.clear();
        let length = head.packed as usize + CHECKSUM;
        read_exactly(&mut self.input, &mut self.packed, length).map_err(|error| truncated(error, offset, number))?;
        self.offset += (HEAD + length) as u64;
        let (packed, checksum) = self.packed.split_at(head.packed as usize);
        if checksum != xxh3_64_with_seed(packed, seed).to_le_bytes() {
            return Err(corrupt("the block does not match its checksum"));
        }
        self.raw.clear();
        self.at = 0;
        match head.kind {
            Kind::Lz4 => {
                self.raw.resize(head.raw as usize, 0);
                let unpacked = lz4_flex::block::decompress_into(packed, &mut self.raw);
                if unpacked.ok() != Some(self.raw.len()) {
                    return Err(corrupt("the block cannot be unpacked"));
                }
            }
            Kind::Stored => self.raw.extend_from_slice(packed),
            Kind::End => {
                let totals = parse_totals(packed).ok_or_else(|| corrupt("the end marker cannot be read"))?;
                if (Totals { wiped_bytes: totals.wiped_bytes, ..self.seen }) != totals {
                    return Err(corrupt("the end marker counts other records than there were"));
                }
                self.at_end(corrupt)?;
                self.totals = Some(totals);
                return Ok(());
            }
        }
        self.decoder.reset();
        self.left = head.records;
        self.block_offset = offset;
        self.seen.blocks += 1;
        Ok(())
    }

    fn at_end(&mut self, corrupt: impl Fn(&'static str) -> Error) -> Result<(), Error> {
        let mut more = Vec::new();
        match (&mut self.input).take(1).read_to_end(&mut more)? {
            0 => Ok(()),
            _ => Err(corrupt("there are bytes behind the end marker")),
        }
    }
}

/// Reads this many bytes; memory grows with what is really there.
fn read_exactly(input: &mut impl Read, into: &mut Vec<u8>, length: usize) -> io::Result<()> {
    match input.take(length as u64).read_to_end(into)? {
        read if read == length => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn truncated(error: io::Error, offset: u64, block: u64) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::Truncated { offset, block },
        _ => Error::Io(error),
    }
}

fn not_a_recording(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::NotARecording,
        _ => Error::Io(error),
    }
}

fn parse_header(body: &[u8]) -> Option<Header> {
    let mut input = Input { rest: body };
    let created = Timestamp(input.number()?);
    let mut text = || match input.number()? {
        0 => input.text().map(|_| None),
        1 => input.text().map(|text| Some(text.to_owned())),
        _ => None,
    };
    let (acktrail, kernel, host) = (text()??, text()?, text()?);
    input.rest.is_empty().then_some(Header { created, acktrail, kernel, host })
}

fn parse_totals(bytes: &[u8]) -> Option<Totals> {
    let mut input = Input { rest: bytes };
    let totals = Totals {
        records: input.number()?,
        segments: input.number()?,
        bytes: input.number()?,
        wiped_bytes: input.number()?,
        blocks: input.number()?,
    };
    input.rest.is_empty().then_some(totals)
}
