//! Making a recording.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::capture::{Cookie, Direction, Record};
use crate::time::Timestamp;

use super::encoding::{Encoder, put, put_text};
use super::wipes::{Stretch, Wipes};
use super::{BLOCK, Head, Header, Kind, MAGIC, MAX_TEXT, Totals, VERSION, seed};

/// Writes a recording.
///
/// Records stay in memory until [`commit`](Writer::commit), so that the bytes of a login, once the stages behind have
/// recognised them, can be overwritten ([`wipe`](Writer::wipe)) before anything of them reaches the file. Whoever writes has
/// to process every record before committing it, as a [`Recorder`](crate::recorder::Recorder) does; memory grows with what is
/// not committed ([`pending_bytes`](Writer::pending_bytes)).
pub struct Writer<W: Write> {
    out: W,
    header_checksum: u64,
    encoder: Encoder,
    /// Never empty: the last one is being filled.
    blocks: VecDeque<Block>,
    /// Number of the first of them.
    first: u64,
    spare: Option<Block>,
    wipes: Wipes,
    packed: Vec<u8>,
    totals: Totals,
}

/// A block that is not written yet.
#[derive(Default)]
struct Block {
    raw: Vec<u8>,
    records: u32,
    /// When its first and last records were made.
    times: Option<(Timestamp, Timestamp)>,
    /// When the newest was made; records of two processors may cross.
    newest: Timestamp,
    stretches: Vec<Stretch>,
    /// Parts of single stretches that must not be kept.
    parts: Vec<(usize, Range<usize>)>,
}

impl<W: Write> Writer<W> {
    /// A block that is not full is written all the same when its oldest record is this old: what a crash can cost.
    pub const MAX_AGE: std::time::Duration = std::time::Duration::from_secs(1);

    /// Begins a recording.
    ///
    /// # Errors
    /// If `out` cannot be written to, or a text of the header is longer than 4096 bytes.
    pub fn new(mut out: W, header: &Header) -> io::Result<Self> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        let body = header_body(header)?;
        bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&body);
        let header_checksum = xxh3_64_with_seed(&bytes, 0);
        bytes.extend_from_slice(&header_checksum.to_le_bytes());
        out.write_all(&bytes)?;
        Ok(Writer {
            out,
            header_checksum,
            encoder: Encoder::default(),
            blocks: VecDeque::from([Block::default()]),
            first: 0,
            spare: None,
            wipes: Wipes::default(),
            packed: Vec::new(),
            totals: Totals::default(),
        })
    }

    /// Takes a record, into memory only.
    ///
    /// # Errors
    /// If no tap could have made the record: more bytes than its packet, or more than
    /// [`MAX_SEGMENT`](super::MAX_SEGMENT).
    pub fn write(&mut self, record: &Record<'_>) -> io::Result<()> {
        if self.blocks.back().is_none_or(|block| block.raw.len() >= BLOCK) {
            self.blocks.push_back(self.spare.take().unwrap_or_default());
            self.encoder.reset();
        }
        let Some(block) = self.blocks.back_mut() else { return Ok(()) };
        let start = block.raw.len();
        let bytes_at = self.encoder.encode(record, &mut block.raw).map_err(|what| {
            block.raw.truncate(start);
            io::Error::new(io::ErrorKind::InvalidInput, what)
        })?;
        block.records += 1;
        self.totals.records += 1;
        let first = block.times.map_or(record.time(), |(first, _)| first);
        block.times = Some((first, record.time()));
        block.newest = block.newest.max(record.time());
        if let (Record::Segment(segment), Some(at)) = (record, bytes_at) {
            self.totals.segments += 1;
            self.totals.bytes += segment.bytes.len() as u64;
            block.stretches.push(Stretch {
                tap: (segment.cookie, segment.direction),
                sequence: segment.sequence.wrapping_add(segment.offset),
                at,
                length: segment.bytes.len(),
            });
        }
        if let Record::Closed(closed) = record {
            self.wipes.close(closed.cookie, self.last_block());
        }
        Ok(())
    }

    /// Overwrites `length` bytes of a stream with zeros, from this sequence number on, wherever one of these taps has
    /// recorded them and they are not written yet; also in records of these taps that come later (retransmissions).
    pub fn wipe(&mut self, taps: &[(Cookie, Direction)], start_sequence: u32, length: u64) {
        let blocks = (self.first, self.last_block());
        for tap in taps {
            self.wipes.add(*tap, start_sequence, length, blocks);
        }
    }

    /// Overwrites bytes of the last segment with zeros, in this record alone. To be called before anything else is written.
    pub fn wipe_last(&mut self, bytes: Range<usize>) {
        if let Some(block) = self.blocks.back_mut() {
            block.parts.extend(block.stretches.len().checked_sub(1).map(|last| (last, bytes)));
        }
    }

    /// Bytes in memory that no [`commit`](Writer::commit) has written yet.
    pub fn pending_bytes(&self) -> usize {
        self.blocks.iter().map(|block| block.raw.len()).sum()
    }

    /// Everything taken so far has been processed and may be written. Writes the blocks that are full, and the last one if
    /// its oldest record is [`MAX_AGE`](Writer::MAX_AGE) older than its newest.
    ///
    /// # Errors
    /// If the file cannot be written to.
    pub fn commit(&mut self) -> io::Result<()> {
        self.commit_but(None)
    }

    /// The same, but for records that were made at this time or later.
    ///
    /// # Errors
    /// If the file cannot be written to.
    pub fn commit_before(&mut self, held: Timestamp) -> io::Result<()> {
        self.commit_but(Some(held))
    }

    fn commit_but(&mut self, held: Option<Timestamp>) -> io::Result<()> {
        let is_held = |block: &Block| held.is_some_and(|held| block.newest >= held);
        while let Some(block) = self.blocks.front().filter(|block| !is_held(block)) {
            let old = block.times.is_some_and(|(first, last)| last.since(first) >= Self::MAX_AGE);
            if self.blocks.len() == 1 && block.raw.len() < BLOCK && !old {
                break;
            }
            self.write_first()?;
            if self.blocks.is_empty() {
                self.begin_block();
                break;
            }
        }
        Ok(())
    }

    /// Everything taken so far has been processed; writes all of it.
    ///
    /// # Errors
    /// If the file cannot be written to.
    pub fn flush(&mut self) -> io::Result<()> {
        while !self.blocks.is_empty() {
            self.write_first()?;
        }
        self.begin_block();
        self.out.flush()
    }

    /// Writes what is left and the end marker.
    ///
    /// # Errors
    /// If the file cannot be written to.
    pub fn finish(mut self) -> io::Result<(W, Totals)> {
        self.flush()?;
        let mut raw = Vec::new();
        let totals = self.totals;
        for value in [totals.records, totals.segments, totals.bytes, totals.wiped_bytes, totals.blocks] {
            put(value, &mut raw);
        }
        self.put_block(Kind::End, raw.len(), 0, &raw)?;
        self.out.flush()?;
        Ok((self.out, totals))
    }

    fn begin_block(&mut self) {
        self.blocks.push_back(self.spare.take().unwrap_or_default());
        self.encoder.reset();
    }

    fn write_first(&mut self) -> io::Result<()> {
        let Some(mut block) = self.blocks.pop_front() else { return Ok(()) };
        let number = self.first;
        self.first += 1;
        self.wipe_block(&mut block, number);
        if !block.raw.is_empty() {
            let mut packed = std::mem::take(&mut self.packed);
            packed.resize(lz4_flex::block::get_maximum_output_size(block.raw.len()), 0);
            let length = lz4_flex::block::compress_into(&block.raw, &mut packed).unwrap_or(usize::MAX);
            let (kind, bytes) = match packed.get(..length) {
                Some(packed) if packed.len() < block.raw.len() => (Kind::Lz4, packed),
                _ => (Kind::Stored, &block.raw[..]),
            };
            self.put_block(kind, block.raw.len(), block.records, bytes)?;
            self.totals.blocks += 1;
            self.packed = packed;
        }
        block.raw.clear();
        block.stretches.clear();
        block.parts.clear();
        let Block { raw, stretches, parts, .. } = block;
        self.spare = Some(Block { raw, stretches, parts, ..Block::default() });
        Ok(())
    }

    /// Overwrites all that must not be kept of a block.
    fn wipe_block(&mut self, block: &mut Block, number: u64) {
        let mut parts = block.parts.iter().peekable();
        for (index, stretch) in block.stretches.iter().enumerate() {
            let own = std::iter::from_fn(|| parts.next_if(|(of, _)| *of == index).map(|(_, part)| part.clone()));
            self.totals.wiped_bytes += self.wipes.apply(stretch, own, &mut block.raw, number);
        }
        self.wipes.written(number);
    }

    /// The number of the block that is being filled.
    fn last_block(&self) -> u64 {
        self.first + (self.blocks.len() as u64).saturating_sub(1)
    }

    fn put_block(&mut self, kind: Kind, raw: usize, records: u32, packed: &[u8]) -> io::Result<()> {
        let seed = seed(self.header_checksum, self.totals.blocks);
        let head = Head { kind, packed: packed.len() as u32, raw: raw as u32, records };
        self.out.write_all(&head.to_bytes(seed))?;
        self.out.write_all(packed)?;
        self.out.write_all(&xxh3_64_with_seed(packed, seed).to_le_bytes())
    }
}

fn header_body(header: &Header) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    put(header.created.0, &mut body);
    for text in [Some(&header.acktrail), header.kernel.as_ref(), header.host.as_ref()] {
        if text.is_some_and(|text| text.len() > MAX_TEXT) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a text of the header is too long"));
        }
        body.push(u8::from(text.is_some()));
        put_text(text.map_or("", String::as_str), &mut body);
    }
    Ok(body)
}
