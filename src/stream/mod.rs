//! From segments to byte streams: one [`Connection`] for both ends of a TCP connection, two [`Flow`]s of bytes at 64-bit
//! positions, holes of known length.
//!
//! Retransmission, reordering, duplicates from two taps and lost records all reduce to one rule: a byte counts once, at its
//! position; what never comes is a hole.

mod connection;
mod reassembly;
mod recency;
mod sequence;
mod statistics;
mod streams;
mod table;
#[cfg(test)]
mod tests;

pub use statistics::{HoleCount, Statistics};
pub use streams::{Limits, Streams};

use std::net::SocketAddr;

use crate::capture::Owner;
use crate::time::Timestamp;

/// A connection's number, unique within a run, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// One of the two directions of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flow {
    /// From the first end to the second. The first end is the client where that is known ([`Facts::roles_known`]).
    Forward,
    /// From the second end to the first.
    Backward,
}

impl Flow {
    /// The other direction.
    pub fn reverse(self) -> Flow {
        match self {
            Flow::Forward => Flow::Backward,
            Flow::Backward => Flow::Forward,
        }
    }

    /// 0 for forward, 1 for backward: to index a pair.
    pub fn index(self) -> usize {
        match self {
            Flow::Forward => 0,
            Flow::Backward => 1,
        }
    }
}

/// A place in a flow: bytes since an arbitrary beginning, never wrapping.
pub type Position = u64;

/// Why bytes of a flow are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HoleCause {
    /// Left out on purpose in the kernel: the inside of a large body.
    Skipped,
    /// The record did not fit into the ring.
    RingFull,
    /// They never came: sent before the capture began, dropped by another tool's capture, or out of the reorder budget.
    Missing,
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Its address.
    pub address: SocketAddr,
    /// Its process, where it is on this host and known.
    pub owner: Option<Owner>,
    /// Its socket is on this host and watched: all that it sends and receives is seen.
    pub local: bool,
    /// Its application's reads are seen.
    pub reads_seen: bool,
}

/// What is known about a connection besides its bytes. Ends are in flow order: `ends[0]` sends [`Flow::Forward`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Both ends.
    pub ends: [End; 2],
    /// `ends[0]` is known to be the client (it connected, or the other end has the broker's port). If false the order is
    /// arbitrary and the protocol has to tell the roles from the bytes.
    pub roles_known: bool,
    /// The first byte of each flow is the first byte of the connection.
    pub from_start: bool,
}

/// What the stream stage tells the protocol stage.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A new connection, or its facts have changed (an owner became known).
    Facts(ConnectionId, &'a Facts),
    /// The next bytes of a flow, in order; each position is delivered at most once.
    Data {
        /// Whose.
        connection: ConnectionId,
        /// Which way.
        flow: Flow,
        /// Position of the first byte.
        position: Position,
        /// When the packet that carried the last byte passed.
        time: Timestamp,
        /// The bytes; never empty.
        bytes: &'a [u8],
        /// These bytes begin where a TCP packet's payload began: a hint at frame boundaries.
        packet_start: bool,
    },
    /// The next bytes of a flow are missing.
    Hole {
        /// Whose.
        connection: ConnectionId,
        /// Which way.
        flow: Flow,
        /// Position of the first missing byte.
        position: Position,
        /// How many; never 0. `None`: it is unknown how many (positions restart behind it).
        length: Option<u64>,
        /// When this became certain.
        time: Timestamp,
        /// Why.
        cause: HoleCause,
    },
    /// The application at the receiving end of `flow` has read everything before `position`.
    Read {
        /// Whose.
        connection: ConnectionId,
        /// The flow that was read.
        flow: Flow,
        /// First byte that was read now. What lies before it was read earlier; where nothing was told of that then, the
        /// time is an upper bound.
        from: Position,
        /// First byte not yet read.
        position: Position,
        /// When.
        time: Timestamp,
        /// Who read.
        pid: u32,
    },
    /// Both ends are gone, or will say nothing more. Everything still waiting has been delivered before.
    Closed {
        /// Whose.
        connection: ConnectionId,
        /// When.
        time: Timestamp,
    },
}
