//! Recordings: what the taps delivered, in a file of our own, to be replayed at a desk.
//!
//! ```text
//! file   = magic "acktrail", version u16, header length u32, header, checksum u64, block…, end
//! block  = kind u8, packed length u32, raw length u32, records u32, head checksum u32, packed bytes, checksum u64
//! end    = a block of kind 'E' that holds the totals
//! ```
//!
//! Integers are little-endian. Kind 'L' is LZ4, 'S' stored as it is. Checksums are XXH3; a block's are seeded with the
//! header's checksum and the block's number, so that a block that was moved, doubled or left out does not pass for another.
//! Each block can be read on its own ([`encoding`] says how records look in it). The same records give the same bytes.
//!
//! A reader trusts nothing: every length is checked against [`MAX_BLOCK`] before memory is taken for it, and a file may end
//! anywhere.

mod encoding;
mod reader;
mod wipes;
mod writer;

use std::fmt;
use std::io;

use crate::time::Timestamp;

pub use reader::Reader;
pub use writer::Writer;

/// The first bytes of every recording.
pub const MAGIC: &[u8; 8] = b"acktrail";
/// The version that this program writes, and the only one it reads.
pub const VERSION: u16 = 1;
/// No block holds more than this, in bytes, packed or not.
pub const MAX_BLOCK: usize = 4 << 20;
/// No segment in a recording holds more than this, in bytes. The kernel's packets stay far below (512 KiB with BIG TCP).
pub const MAX_SEGMENT: usize = 1 << 20;

/// A block is closed when it holds this many bytes.
const BLOCK: usize = 256 << 10;
/// Bytes of a block's head and of its checksum.
const HEAD: usize = 17;
const CHECKSUM: usize = 8;
/// Longest header accepted.
const MAX_HEADER: usize = 64 << 10;
/// Longest text in a header or of an executable's name, in bytes.
const MAX_TEXT: usize = 4096;

/// Where and when a recording was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// When it began.
    pub created: Timestamp,
    /// Version of acktrail that made it.
    pub acktrail: String,
    /// The kernel's release.
    pub kernel: Option<String>,
    /// The host's name, if whoever recorded wanted it in.
    pub host: Option<String>,
}

/// What a whole recording holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Records of every kind.
    pub records: u64,
    /// Segments among them.
    pub segments: u64,
    /// Payload bytes in the segments.
    pub bytes: u64,
    /// Payload bytes that were overwritten with zeros because they were part of a login, or nobody can say that they were not.
    pub wiped_bytes: u64,
    /// Blocks, without the end.
    pub blocks: u64,
}

/// Why a recording cannot be read, or not any further.
#[derive(Debug)]
pub enum Error {
    /// The file does not begin like a recording.
    NotARecording,
    /// Made by another version.
    Version(u16),
    /// The file ends before its end marker. Everything before was delivered.
    Truncated {
        /// Where the part that is incomplete begins, in bytes.
        offset: u64,
        /// Its number; 0 is the first block.
        block: u64,
    },
    /// Bytes were changed, or were never a recording's.
    Corrupt {
        /// Where the part that does not hold together begins, in bytes.
        offset: u64,
        /// Its number; 0 is the first block.
        block: u64,
        /// What does not hold together.
        what: &'static str,
    },
    /// The file could not be read.
    Io(io::Error),
}

impl Error {
    /// Whether the file merely ended too early: what came before it can be trusted.
    pub fn is_truncation(&self) -> bool {
        matches!(self, Error::Truncated { .. })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotARecording => write!(f, "not a recording of acktrail"),
            Error::Version(found) => {
                write!(f, "a recording of format version {found}; this acktrail reads version {VERSION}")
            }
            Error::Truncated { offset, block } => {
                write!(f, "the recording ends inside block {block} (byte {offset}); everything before was read")
            }
            Error::Corrupt { offset, block, what } => {
                write!(f, "the recording is damaged in block {block} (byte {offset}): {what}")
            }
            Error::Io(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Error::Io(error)
    }
}

/// A block's head: kind, packed length, raw length, records, checksum of these under the block's seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    kind: Kind,
    packed: u32,
    raw: u32,
    records: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Lz4,
    Stored,
    End,
}

impl Head {
    fn to_bytes(self, seed: u64) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        bytes[0] = match self.kind {
            Kind::Lz4 => b'L',
            Kind::Stored => b'S',
            Kind::End => b'E',
        };
        bytes[1..5].copy_from_slice(&self.packed.to_le_bytes());
        bytes[5..9].copy_from_slice(&self.raw.to_le_bytes());
        bytes[9..13].copy_from_slice(&self.records.to_le_bytes());
        let check = head_checksum(&bytes[..13], seed);
        bytes[13..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; HEAD], seed: u64) -> Result<Head, &'static str> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if word(13) != head_checksum(&bytes[..13], seed) {
            return Err("the block's head does not match its checksum");
        }
        let kind = match bytes[0] {
            b'L' => Kind::Lz4,
            b'S' => Kind::Stored,
            b'E' => Kind::End,
            _ => return Err("unknown kind of block"),
        };
        let head = Head { kind, packed: word(1), raw: word(5), records: word(9) };
        if head.packed as usize > MAX_BLOCK || head.raw as usize > MAX_BLOCK {
            return Err("the block is larger than any block may be");
        }
        if kind != Kind::Lz4 && head.packed != head.raw {
            return Err("a stored block's lengths differ");
        }
        Ok(head)
    }
}

fn head_checksum(head: &[u8], seed: u64) -> u32 {
    let checksum = xxhash_rust::xxh3::xxh3_64_with_seed(head, seed);
    (checksum ^ (checksum >> 32)) as u32
}

/// What a block's checksums are seeded with.
fn seed(header_checksum: u64, block: u64) -> u64 {
    header_checksum ^ block.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
