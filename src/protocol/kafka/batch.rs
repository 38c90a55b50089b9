//! Headers of record batches (magic 2, KIP-98) and of the messages before them (magic 0 and 1, KIP-32).

use super::codec::Codec;

/// Bytes of a batch that its length does not count: offset and length.
pub(super) const UNCOUNTED: u64 = 12;
/// Bytes that are the same in all formats: enough to know the format and the length.
pub(super) const COMMON: usize = 17;
/// Bytes of the header of a record batch; the checksum covers those from [`CHECKED`] on.
pub(super) const HEADER: usize = 61;
/// Where the bytes begin that the checksum of a record batch covers.
pub(super) const CHECKED: usize = 21;
/// The smallest record: six fields of one byte, and its length.
const SMALLEST_RECORD: u64 = 7;

/// A record batch's header. A message of magic 0 or 1 is a batch of its own; one that is compressed wraps others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// Where it begins, in bytes from the beginning of the field.
    pub start: u64,
    /// All of its bytes, header included, also those that a truncated one lacks.
    pub size: u64,
    /// The field ends before it does. A broker cuts the last batch of a response so; consumers drop it.
    pub truncated: bool,
    /// 0, 1 or 2.
    pub magic: u8,
    /// The first record's offset; 0 in a Produce request, in which the broker assigns it. Of a message: its own, and of one
    /// that wraps others the last of them.
    pub base_offset: i64,
    /// Leader epoch that the broker stamped; -1: unknown.
    pub leader_epoch: i32,
    /// crc32c from the attributes on (of a message: crc32 from the magic on).
    pub crc: u32,
    /// What the attributes say.
    pub attributes: Attributes,
    /// The last record's offset less the first's. It stays when records are compacted away.
    pub last_offset_delta: i32,
    /// The first record's timestamp (or the delete horizon), in milliseconds since the epoch; -1: none.
    pub base_timestamp: i64,
    /// The largest timestamp, or, with `log_append_time`, that of all records.
    pub max_timestamp: i64,
    /// Idempotent producer; -1: none.
    pub producer_id: i64,
    /// Its epoch; -1: none.
    pub producer_epoch: i16,
    /// Sequence number of the first record; -1: none.
    pub base_sequence: i32,
    /// How many records; `None` for a message that wraps others.
    pub count: Option<u32>,
}

/// The attributes of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attributes {
    /// How the records are compressed.
    pub codec: Codec,
    /// Timestamps are the broker's; otherwise the producer's.
    pub log_append_time: bool,
    /// Part of a transaction.
    pub transactional: bool,
    /// Its record is a transaction's end, not data.
    pub control: bool,
    /// `base_timestamp` is when tombstones may be deleted (KIP-534).
    pub delete_horizon: bool,
    /// Bits are set that have no meaning yet.
    pub reserved: bool,
}

impl Attributes {
    fn of_batch(bits: u16) -> Attributes {
        let has = |bit: u32| bits >> bit & 1 != 0;
        Attributes {
            codec: Codec::of((bits & 7) as u8),
            log_append_time: has(3),
            transactional: has(4),
            control: has(5),
            delete_horizon: has(6),
            reserved: bits >> 7 != 0,
        }
    }

    fn of_message(bits: u8) -> Attributes {
        Attributes {
            codec: Codec::of(bits & 7),
            log_append_time: bits >> 3 & 1 != 0,
            transactional: false,
            control: false,
            delete_horizon: false,
            reserved: bits >> 4 != 0,
        }
    }
}

/// What the bytes say that all formats have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Common {
    /// All bytes of the batch; `None`: fewer than its format needs.
    pub size: Option<u64>,
    /// How many bytes the header has; `None`: the format is not known.
    pub header: Option<usize>,
}

impl Common {
    /// Reads them.
    pub fn read(bytes: &[u8; COMMON]) -> Common {
        let magic = bytes[COMMON - 1];
        let header = match magic {
            0 => Some(18),
            1 => Some(26),
            2 => Some(HEADER),
            _ => None,
        };
        // A message has two more lengths behind its header.
        let smallest = match magic {
            0 | 1 => header.unwrap_or(COMMON) + 8,
            _ => header.unwrap_or(COMMON),
        };
        Common { size: size(bytes).filter(|size| *size >= smallest as u64), header }
    }
}

/// All bytes of a batch by its length field; `None` if that is negative.
pub(super) fn size(header: &[u8; COMMON]) -> Option<u64> {
    let [_, _, _, _, _, _, _, _, length @ .., _, _, _, _, _] = header;
    u64::try_from(i32::from_be_bytes(*length)).ok().map(|length| length + UNCOUNTED)
}

impl Batch {
    /// Reads a complete header of a known format, of a batch that begins `start` bytes into a field and has `size` bytes.
    /// `None` where the format needs more bytes than these.
    pub fn read(bytes: &[u8], start: u64, size: u64) -> Option<Batch> {
        let mut at = At { bytes };
        let base_offset = at.i64()?;
        at.i32()?;
        let epoch_or_crc = at.i32()?;
        match at.u8()? {
            2 => Batch::read_batch(at, start, size, base_offset, epoch_or_crc),
            magic => Batch::read_message(at, start, size, base_offset, (magic, epoch_or_crc as u32)),
        }
    }

    fn read_batch(mut at: At<'_>, start: u64, size: u64, base_offset: i64, leader_epoch: i32) -> Option<Batch> {
        Some(Batch {
            start,
            size,
            truncated: false,
            magic: 2,
            base_offset,
            leader_epoch,
            crc: at.i32()? as u32,
            attributes: Attributes::of_batch(at.i16()? as u16),
            last_offset_delta: at.i32()?,
            base_timestamp: at.i64()?,
            max_timestamp: at.i64()?,
            producer_id: at.i64()?,
            producer_epoch: at.i16()?,
            base_sequence: at.i32()?,
            count: u32::try_from(at.i32()?).ok(),
        })
    }

    fn read_message(mut at: At<'_>, start: u64, size: u64, offset: i64, (magic, crc): (u8, u32)) -> Option<Batch> {
        let attributes = Attributes::of_message(at.u8()?);
        let timestamp = if magic == 0 { -1 } else { at.i64()? };
        Some(Batch {
            start,
            size,
            truncated: false,
            magic,
            base_offset: offset,
            leader_epoch: -1,
            crc,
            attributes,
            last_offset_delta: 0,
            base_timestamp: timestamp,
            max_timestamp: timestamp,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            count: (attributes.codec == Codec::None).then_some(1),
        })
    }

    /// Bytes of its header.
    pub fn header_bytes(&self) -> u64 {
        match self.magic {
            0 => 18,
            1 => 26,
            _ => HEADER as u64,
        }
    }

    /// Position behind its last byte, in bytes from the beginning of the field.
    pub fn end(&self) -> u64 {
        self.start + self.size
    }

    /// The last record's offset.
    pub fn last_offset(&self) -> i64 {
        self.base_offset.saturating_add(i64::from(self.last_offset_delta))
    }

    /// Its numbers do not contradict each other.
    pub fn is_sound(&self) -> bool {
        if self.magic < 2 {
            return true;
        }
        let Some(count) = self.count else { return false };
        let most = match self.attributes.codec {
            Codec::None => self.size.saturating_sub(HEADER as u64) / SMALLEST_RECORD,
            _ => u64::MAX,
        };
        self.last_offset_delta >= 0
            && i64::from(count) <= i64::from(self.last_offset_delta) + 1
            && u64::from(count) <= most
    }

    /// Several facts agree that this is the header of a batch, though nothing before it says that one begins here.
    pub fn is_plausible(&self, since: &Since) -> bool {
        self.magic == 2
            && self.is_sound()
            && self.count != Some(0)
            && !self.attributes.reserved
            && !matches!(self.attributes.codec, Codec::Unknown(_))
            && since.allows(self)
            && self.has_sane_timestamps()
            && self.has_sane_producer()
    }

    /// Before 2100, or none; the largest is not smaller than the first.
    fn has_sane_timestamps(&self) -> bool {
        let sane = |timestamp: i64| (-1..4_102_444_800_000).contains(&timestamp);
        let ascending = self.base_timestamp <= self.max_timestamp || self.attributes.delete_horizon;
        sane(self.base_timestamp) && sane(self.max_timestamp) && ascending
    }

    fn has_sane_producer(&self) -> bool {
        match self.producer_id {
            -1 => self.producer_epoch == -1 && self.base_sequence == -1,
            // The coordinator's markers have no sequence.
            id => id >= 0 && self.producer_epoch >= 0 && self.base_sequence >= -1,
        }
    }
}

/// What is known of the batches before a place where one may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Since {
    /// The offset behind the last one's, and its leader epoch; `None`: no batch is known, or offsets are not the real ones.
    pub last: Option<(i64, i32)>,
    /// Bytes between its end and the place.
    pub bytes: u64,
}

impl Since {
    /// Records that a byte on the wire may stand for, compressed well.
    const DENSEST: u64 = 256;
    /// Offsets that compaction and transaction markers may have left out.
    const WIDEST_GAP: u64 = 1 << 20;

    /// Neither offsets nor epochs go back, and no more records lie between than fit.
    fn allows(&self, batch: &Batch) -> bool {
        let Some((offset, epoch)) = self.last else { return batch.base_offset >= 0 && batch.leader_epoch >= -1 };
        let most = self.bytes.saturating_mul(Self::DENSEST).saturating_add(Self::WIDEST_GAP);
        let gap = u64::try_from(batch.base_offset.saturating_sub(offset));
        gap.is_ok_and(|gap| gap <= most) && (epoch..epoch.saturating_add(1 << 10)).contains(&batch.leader_epoch)
    }
}

/// A bounds-checked reader of big-endian values.
struct At<'a> {
    bytes: &'a [u8],
}

impl At<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.bytes.split_first_chunk::<N>()?;
        self.bytes = rest;
        Some(*taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn i16(&mut self) -> Option<i16> {
        self.array().map(i16::from_be_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }
}
