//! What the stream stage counts.

use super::HoleCause;

/// Holes of one cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HoleCount {
    /// How many.
    pub holes: u64,
    /// Bytes in those of known length.
    pub bytes: u64,
    /// How many were of unknown length.
    pub unknown: u64,
}

/// Counters of the stream stage, cumulative.
///
/// `bytes_seen = bytes_delivered + bytes_duplicate + bytes_unannounced + bytes_stray + bytes_evicted`, plus what waits in
/// the reorder buffers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Segment records taken.
    pub segments: u64,
    /// Bytes in them.
    pub bytes_seen: u64,
    /// Bytes handed on, each position once.
    pub bytes_delivered: u64,
    /// Bytes discarded because their position had been delivered, or given up, before.
    pub bytes_duplicate: u64,
    /// Bytes of sockets that were never announced (their record was lost), or had ended.
    pub bytes_unannounced: u64,
    /// Bytes whose sequence numbers fit no window of their connection.
    pub bytes_stray: u64,
    /// Bytes that waited in the reorder buffer of a connection that was given up.
    pub bytes_evicted: u64,
    /// Holes by cause, in the order of [`Statistics::HOLE_CAUSES`].
    pub holes: [HoleCount; 3],
    /// Gaps given up because the reorder budget was full.
    pub budget_gaps: u64,
    /// Connections known at this moment.
    pub connections: u64,
    /// Connections given up because the table was full.
    pub evicted_connections: u64,
    /// Bytes in the reorder buffers at this moment.
    pub waiting_bytes: u64,
}

impl Statistics {
    /// The causes in the order of [`Statistics::holes`].
    pub const HOLE_CAUSES: [HoleCause; 3] = [HoleCause::Skipped, HoleCause::RingFull, HoleCause::Missing];

    /// The holes of one cause.
    pub fn holes_of(&self, cause: HoleCause) -> HoleCount {
        self.holes[index(cause)]
    }

    pub(super) fn count_hole(&mut self, cause: HoleCause, length: Option<u64>) {
        let count = &mut self.holes[index(cause)];
        count.holes += 1;
        match length {
            Some(length) => count.bytes += length,
            None => count.unknown += 1,
        }
    }
}

impl HoleCause {
    /// The name under which it is counted.
    pub fn name(self) -> &'static str {
        match self {
            HoleCause::Skipped => "skipped",
            HoleCause::RingFull => "ring_full",
            HoleCause::Missing => "missing",
        }
    }
}

fn index(cause: HoleCause) -> usize {
    match cause {
        HoleCause::Skipped => 0,
        HoleCause::RingFull => 1,
        HoleCause::Missing => 2,
    }
}
