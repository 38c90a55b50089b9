//! What the taps deliver: records about sockets, the bytes that crossed them, and how far applications have read.
//!
//! A record comes from the kernel's ring buffer ([`wire`]), from a recording ([`recording`]) or from a packet capture of
//! another tool ([`pcap`]); the stages behind cannot tell which.

pub mod pcap;
pub mod recording;
pub mod source;
pub mod wire;

use std::net::SocketAddr;

use crate::time::Timestamp;

/// One record of a tap, in the order in which the kernel made them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A socket that is watched from now on, or what changed about it (its owner).
    Socket(Socket),
    /// Payload of one TCP packet, or a part of it.
    Segment(Segment<'a>),
    /// How far an application has read.
    Read(Read),
    /// A socket's end.
    Closed(Closed),
    /// The capture's own counters, cumulative since it was attached.
    Counters(Counters),
}

impl Record<'_> {
    /// When the kernel saw it.
    pub fn time(&self) -> Timestamp {
        match self {
            Record::Socket(socket) => socket.time,
            Record::Segment(segment) => segment.time,
            Record::Read(read) => read.time,
            Record::Closed(closed) => closed.time,
            Record::Counters(counters) => counters.time,
        }
    }
}

/// The kernel's name for a socket: unique while the host is up, never 0 (`sock_gen_cookie`, net/core/sock_diag.c).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cookie(pub u64);

/// Which way a segment passed the socket that it was taken at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Sent by the socket.
    Egress,
    /// Received by the socket; taken only where the sender's egress is not captured on this host.
    Ingress,
}

/// How much of a flow the stages behind read: the kernel need not copy the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// All of it, as far as it is known here.
    Everything,
    /// Of the record batches in Kafka's Fetch responses the headers, and some bytes more.
    FetchedHeaders {
        /// The responses are of flexible versions (KIP-482): lengths are varints.
        flexible: bool,
    },
    /// Of the record batches in Kafka's Produce requests the headers, and some bytes more.
    ProducedHeaders,
    /// All of its bytes, but not when they are read.
    NoReads,
}

/// How a connection's socket came to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// It was open before the capture began, and nothing says who connected.
    #[default]
    Unknown,
    /// It called `connect`: a client.
    Connected,
    /// A listening socket accepted it: a server.
    Accepted,
}

/// The process at a socket's end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// Process id (the kernel's tgid, in the host's namespace).
    pub pid: u32,
    /// The base name of its executable, or the command name where that cannot be read.
    pub executable: String,
}

/// A watched socket. Sent before its first segment, and again when its owner changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// When it was announced.
    pub time: Timestamp,
    /// Its name in every later record.
    pub cookie: Cookie,
    /// Its own address. IPv4-mapped IPv6 addresses are given as IPv4.
    pub local: SocketAddr,
    /// The other end's address.
    pub remote: SocketAddr,
    /// Inode number of its network namespace.
    pub netns: u32,
    /// Id of its cgroup (v2).
    pub cgroup: u64,
    /// Who connected.
    pub origin: Origin,
    /// The port of this connection that belongs to a broker: it was configured, or is a listening socket's.
    pub broker_port: Option<u16>,
    /// Sequence number of the next byte that it will send, if it is known that no byte before was captured:
    /// together with `start` it tells where a stream begins.
    pub send_next: u32,
    /// Sequence number of the next byte that its application will read.
    pub copied: u32,
    /// True where the connection was seen from its first byte on: `send_next` and `copied` are the two streams' beginnings.
    pub from_start: bool,
    /// Reads of its application are reported. Not so where the kernel lacks the tap, or in another tool's capture.
    pub reads_seen: bool,
    /// The process that owns it, where known.
    pub owner: Option<Owner>,
}

/// Payload of one TCP packet, or a part of it. A packet's bytes that no record holds were left out on purpose
/// ([`Segment::more`] and [`Segment::length`] tell which).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// When the packet passed.
    pub time: Timestamp,
    /// The socket that it was taken at.
    pub cookie: Cookie,
    /// Which way.
    pub direction: Direction,
    /// TCP sequence number of the packet's first payload byte.
    pub sequence: u32,
    /// TCP acknowledgement number of the packet: the sender has received everything before it.
    pub acknowledged: u32,
    /// Length of the packet's payload in bytes.
    pub length: u32,
    /// Where in the payload `bytes` begins.
    pub offset: u32,
    /// The copied bytes; `offset + bytes.len() <= length`.
    pub bytes: &'a [u8],
    /// Another record of the same packet follows; without it, whatever is left of the packet was skipped on purpose.
    pub more: bool,
    /// How many records of this socket and direction did not fit into the ring so far. A step explains a hole.
    pub lost: u32,
}

/// An application has read from a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// When.
    pub time: Timestamp,
    /// The reader's socket.
    pub cookie: Cookie,
    /// Sequence number of the first byte that this read took. Where it is beyond the last read's `copied`, the record of
    /// another read between the two was lost, and nobody knows when that was.
    pub from: u32,
    /// Sequence number behind the last byte that the application has taken (`tcp_sock.copied_seq`).
    pub copied: u32,
    /// The reading process.
    pub pid: u32,
}

/// A socket's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// When it entered TCP_CLOSE.
    pub time: Timestamp,
    /// Which.
    pub cookie: Cookie,
    /// How far its application had read by then; in another tool's capture, how far the socket had received.
    pub copied: u32,
}

/// The capture's own counters, cumulative since it was attached. Units are in the names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// When they were read, or, if records from before still came then, a time before these.
    pub time: Timestamp,
    /// Packets with payload that passed watched sockets in a captured direction.
    pub packets: u64,
    /// Their payload.
    pub payload_bytes: u64,
    /// The part of it that was copied.
    pub captured_bytes: u64,
    /// The part that was left out on purpose: the inside of large bodies.
    pub skipped_bytes: u64,
    /// Records that did not fit into the ring.
    pub ring_full_records: u64,
    /// The payload that they would have carried.
    pub ring_full_bytes: u64,
    /// Packets whose bytes or headers the kernel would not hand out.
    pub unreadable_packets: u64,
    /// Sockets for which the kernel had no memory to keep a verdict.
    pub untracked_sockets: u64,
    /// Packets of connections that were left out by connection sampling.
    pub sampled_out_packets: u64,
    /// Connections between nodes of a broker's cluster of which one is on another host; the same one may count several times.
    pub node_connections: u64,
}
