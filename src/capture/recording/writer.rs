//! Making a recording.

use std::collections::VecDeque;
use std::io::{self, Write};

use hashbrown::HashMap;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::capture::{Cookie, Direction, Record};
use crate::time::Timestamp;

use super::encoding::{Encoder, put, put_text};
use super::{BLOCK, Head, Header, Kind, MAGIC, MAX_TEXT, Totals, VERSION, seed};

/// Writes a recording.
///
/// Records stay in memory until [`commit`](Writer::commit), so that the bytes of a login, once the stages behind have
/// recognised them, can be overwritten ([`wipe`](Writer::wipe)) before anything of them reaches the file. Whoever writes has
/// to process every record before committing it; memory grows with what is not committed
/// ([`pending_bytes`](Writer::pending_bytes)).
pub struct Writer<W: Write> {
    out: W,
    header_checksum: u64,
    encoder: Encoder,
    /// Never empty: the last one is being filled.
    blocks: VecDeque<Block>,
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
    stretches: Vec<Stretch>,
}

/// Where the bytes of a segment are in the block.
struct Stretch {
    tap: (Cookie, Direction),
    sequence: u32,
    at: usize,
    length: usize,
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
        if let (Record::Segment(segment), Some(at)) = (record, bytes_at) {
            self.totals.segments += 1;
            self.totals.bytes += segment.bytes.len() as u64;
            let stretch = Stretch {
                tap: (segment.cookie, segment.direction),
                sequence: segment.sequence.wrapping_add(segment.offset),
                at,
                length: segment.bytes.len(),
            };
            // A retransmission of a login that was wiped before.
            for wipe in self.wipes.of(stretch.tap, stretch.sequence) {
                self.totals.wiped_bytes += stretch.wipe(&mut block.raw, wipe);
            }
            block.stretches.push(stretch);
        }
        if let Record::Closed(closed) = record {
            self.wipes.forget(closed.cookie);
        }
        Ok(())
    }

    /// Overwrites `length` bytes of a stream with zeros, from this sequence number on, wherever one of these taps has
    /// recorded them and they are not written yet; also in records of these taps that come later (retransmissions).
    pub fn wipe(&mut self, taps: &[(Cookie, Direction)], start_sequence: u32, length: u64) {
        let wipe = Wipe { start: start_sequence, length: length.min(1 << 32) };
        for block in &mut self.blocks {
            for stretch in block.stretches.iter().filter(|stretch| taps.contains(&stretch.tap)) {
                self.totals.wiped_bytes += stretch.wipe(&mut block.raw, wipe);
            }
        }
        for tap in taps {
            self.wipes.remember(*tap, wipe);
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
        while let Some(block) = self.blocks.front() {
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
        self.spare = Some(Block { raw: block.raw, stretches: block.stretches, records: 0, times: None });
        Ok(())
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

/// A stretch of a stream that must not be kept.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Wipe {
    start: u32,
    length: u64,
}

impl Stretch {
    /// Overwrites what the wipe covers; gives how many bytes.
    fn wipe(&self, raw: &mut [u8], wipe: Wipe) -> u64 {
        let ahead = self.sequence.wrapping_sub(wipe.start);
        let mut wiped = 0;
        // Sequence numbers wrap: the stretch may begin before the wipe or behind its start. Both readings are wiped, because
        // a byte too many costs nothing and one too few a password.
        let mut readings = vec![i64::from(ahead as i32)];
        if i64::from(ahead) != i64::from(ahead as i32) {
            readings.push(i64::from(ahead));
        }
        for ahead in readings {
            let from = ahead.saturating_neg().clamp(0, self.length as i64);
            let to = (wipe.length as i64).saturating_sub(ahead).clamp(0, self.length as i64);
            if from < to {
                raw[self.at + from as usize..self.at + to as usize].fill(0);
                wiped += (to - from) as u64;
            }
        }
        wiped
    }
}

/// Wipes to apply to records still to come.
#[derive(Default)]
struct Wipes {
    taps: HashMap<(Cookie, Direction), Vec<Wipe>>,
    /// In the order in which the taps came.
    order: VecDeque<(Cookie, Direction)>,
}

impl Wipes {
    /// More taps than this are not remembered: the oldest login's retransmission is the least likely.
    const MAX_TAPS: usize = 1 << 16;
    const MAX_PER_TAP: usize = 8;
    /// A stream that has gone on so far behind a wipe will not repeat it; its sequence numbers may come round again.
    const FAR: u32 = 1 << 30;

    fn remember(&mut self, tap: (Cookie, Direction), wipe: Wipe) {
        while self.order.len() >= Self::MAX_TAPS {
            let oldest = self.order.pop_front();
            oldest.and_then(|oldest| self.taps.remove(&oldest));
        }
        let wipes = self.taps.entry(tap).or_insert_with(|| {
            self.order.push_back(tap);
            Vec::new()
        });
        if !wipes.contains(&wipe) {
            wipes.truncate(Self::MAX_PER_TAP - 1);
            wipes.push(wipe);
        }
    }

    fn of(&mut self, tap: (Cookie, Direction), sequence: u32) -> Vec<Wipe> {
        if self.taps.is_empty() {
            return Vec::new();
        }
        let Some(wipes) = self.taps.get_mut(&tap) else { return Vec::new() };
        wipes.retain(|wipe| {
            let ahead = sequence.wrapping_sub(wipe.start);
            !(Self::FAR..1 << 31).contains(&ahead)
        });
        wipes.clone()
    }

    fn forget(&mut self, cookie: Cookie) {
        let before = self.taps.len();
        for direction in [Direction::Egress, Direction::Ingress] {
            self.taps.remove(&(cookie, direction));
        }
        if self.taps.len() < before && self.order.len() > 2 * self.taps.len() + 64 {
            self.order.retain(|tap| self.taps.contains_key(tap));
        }
    }
}
