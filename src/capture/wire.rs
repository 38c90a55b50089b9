//! The ring's records as `bpf/event.h` lays them out, decoded.
//!
//! A pure function of bytes: nothing is trusted, everything is bounds-checked, and a record that makes no sense is an
//! error value. The `repr(C)` structs below only name offsets; a test compares each of them with the `LAYOUT` lines of the
//! header, which the C compiler checks on its side.

use std::fmt;
use std::mem::{offset_of, size_of};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::{Closed, Cookie, Counters, Direction, Origin, Owner, Read, Record, Segment, Socket};
use crate::names;
use crate::time::Timestamp;

/// What must be added to the kernel's monotonic clock to get UNIX time, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockOffset(pub i64);

impl ClockOffset {
    /// The UNIX time of a monotonic one.
    pub fn unix(self, monotonic_ns: u64) -> Timestamp {
        Timestamp(monotonic_ns.saturating_add_signed(self.0))
    }
}

/// One record of the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// For the stages behind.
    Record(Record<'a>),
    /// For discovery.
    Listener(Listener),
}

/// A socket that listens, found open or seen to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// When it was seen.
    pub time: Timestamp,
    /// Where it listens; an unspecified address means everywhere. IPv4-mapped addresses are given as IPv4.
    pub local: SocketAddr,
    /// Inode number of its network namespace.
    pub netns: u32,
    /// The process that holds it.
    pub owner: Owner,
}

/// Why a record could not be decoded. It is counted and left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// Shorter than its kind demands.
    TooShort {
        /// The record's length in bytes.
        length: usize,
        /// What its kind needs.
        needed: usize,
    },
    /// A kind that this version does not know.
    UnknownKind(u8),
    /// A field with an impossible value, by name.
    BadField(&'static str),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::TooShort { length, needed } => write!(f, "a record of {length} bytes where {needed} are needed"),
            WireError::UnknownKind(kind) => write!(f, "a record of the unknown kind {kind}"),
            WireError::BadField(field) => write!(f, "an impossible value in the field {field}"),
        }
    }
}

impl std::error::Error for WireError {}

/// Decodes one record of the ring. The segment's bytes are borrowed from `raw`.
pub fn decode(raw: &[u8], clock: ClockOffset) -> Result<Decoded<'_>, WireError> {
    let head = Fields::of::<RecordHead>(raw)?;
    let time = clock.unix(head.u64(offset_of!(RecordHead, time_ns)));
    let cookie = Cookie(head.u64(offset_of!(RecordHead, cookie)));
    let record = match head.u8(offset_of!(RecordHead, kind)) {
        kind::SEGMENT => Record::Segment(segment(raw, time, cookie)?),
        kind::SOCKET => Record::Socket(socket(raw, time, cookie)?),
        kind::READ => {
            let fields = Fields::of::<ReadRecord>(raw)?;
            let copied = fields.u32(offset_of!(ReadRecord, copied));
            let from = fields.u32(offset_of!(RecordHead, from));
            Record::Read(Read { time, cookie, from, copied, pid: fields.u32(offset_of!(ReadRecord, pid)) })
        }
        kind::CLOSED => {
            let fields = Fields::of::<ClosedRecord>(raw)?;
            Record::Closed(Closed { time, cookie, copied: fields.u32(offset_of!(ClosedRecord, copied)) })
        }
        kind::LISTEN => return Ok(Decoded::Listener(listener(raw, time)?)),
        other => return Err(WireError::UnknownKind(other)),
    };
    Ok(Decoded::Record(record))
}

/// Adds up the counters of all processors, as the map `counters` holds them one behind the other.
pub fn sum_counters(processors: &[u8], time: Timestamp) -> Counters {
    let mut sum = Counters { time, ..Counters::default() };
    for raw in processors.chunks_exact(COUNTERS_BYTES) {
        let fields = Fields(raw);
        for (total, offset) in [
            (&mut sum.packets, offset_of!(RawCounters, packets)),
            (&mut sum.payload_bytes, offset_of!(RawCounters, payload_bytes)),
            (&mut sum.captured_bytes, offset_of!(RawCounters, captured_bytes)),
            (&mut sum.skipped_bytes, offset_of!(RawCounters, skipped_bytes)),
            (&mut sum.ring_full_records, offset_of!(RawCounters, ring_full_records)),
            (&mut sum.ring_full_bytes, offset_of!(RawCounters, ring_full_bytes)),
            (&mut sum.unreadable_packets, offset_of!(RawCounters, unreadable_packets)),
            (&mut sum.untracked_sockets, offset_of!(RawCounters, untracked_sockets)),
            (&mut sum.sampled_out_packets, offset_of!(RawCounters, sampled_out_packets)),
            (&mut sum.node_connections, offset_of!(RawCounters, node_connections)),
        ] {
            *total = total.wrapping_add(fields.u64(offset));
        }
    }
    sum
}

fn segment(raw: &[u8], time: Timestamp, cookie: Cookie) -> Result<Segment<'_>, WireError> {
    let fields = Fields::of::<SegmentRecord>(raw)?;
    let length = fields.u32(offset_of!(SegmentRecord, length));
    let offset = fields.u32(offset_of!(SegmentRecord, offset));
    let captured = fields.u32(offset_of!(SegmentRecord, captured));
    let needed = size_of::<SegmentRecord>().saturating_add(captured as usize);
    let bytes = raw.get(size_of::<SegmentRecord>()..needed).ok_or(WireError::TooShort { length: raw.len(), needed })?;
    if offset.checked_add(captured).is_none_or(|end| end > length) {
        return Err(WireError::BadField("captured"));
    }
    let direction = match fields.u8(offset_of!(RecordHead, direction)) {
        0 => Direction::Egress,
        1 => Direction::Ingress,
        _ => return Err(WireError::BadField("direction")),
    };
    Ok(Segment {
        time,
        cookie,
        direction,
        sequence: fields.u32(offset_of!(SegmentRecord, sequence)),
        acknowledged: fields.u32(offset_of!(SegmentRecord, acknowledged)),
        length,
        offset,
        bytes,
        more: fields.u8(offset_of!(RecordHead, flags)) & SEGMENT_MORE != 0,
        lost: fields.u32(offset_of!(SegmentRecord, lost)),
    })
}

fn socket(raw: &[u8], time: Timestamp, cookie: Cookie) -> Result<Socket, WireError> {
    let fields = Fields::of::<SocketRecord>(raw)?;
    let broker_port = fields.u16(offset_of!(SocketRecord, broker_port));
    let origin = match fields.u8(offset_of!(SocketRecord, origin)) {
        0 => Origin::Unknown,
        1 => Origin::Connected,
        2 => Origin::Accepted,
        _ => return Err(WireError::BadField("origin")),
    };
    let pid = fields.u32(offset_of!(SocketRecord, pid));
    Ok(Socket {
        time,
        cookie,
        local: fields.address(offset_of!(SocketRecord, local), offset_of!(SocketRecord, local_port)),
        remote: fields.address(offset_of!(SocketRecord, remote), offset_of!(SocketRecord, remote_port)),
        netns: fields.u32(offset_of!(SocketRecord, netns)),
        cgroup: fields.u64(offset_of!(SocketRecord, cgroup)),
        origin,
        broker_port: (broker_port != 0).then_some(broker_port),
        send_next: fields.u32(offset_of!(SocketRecord, send_next)),
        copied: fields.u32(offset_of!(SocketRecord, copied)),
        from_start: fields.u8(offset_of!(RecordHead, flags)) & SOCKET_FROM_START != 0,
        reads_seen: true,
        owner: (pid != 0).then(|| Owner { pid, executable: fields.name(offset_of!(SocketRecord, executable)) }),
    })
}

fn listener(raw: &[u8], time: Timestamp) -> Result<Listener, WireError> {
    let fields = Fields::of::<ListenRecord>(raw)?;
    Ok(Listener {
        time,
        local: fields.address(offset_of!(ListenRecord, local), offset_of!(ListenRecord, local_port)),
        netns: fields.u32(offset_of!(ListenRecord, netns)),
        owner: Owner {
            pid: fields.u32(offset_of!(ListenRecord, pid)),
            executable: fields.name(offset_of!(ListenRecord, executable)),
        },
    })
}

/// How much of the map `counters` belongs to one processor.
pub const COUNTERS_BYTES: usize = size_of::<RawCounters>();

const SEGMENT_MORE: u8 = 1;
const SOCKET_FROM_START: u8 = 1;
const EXECUTABLE_BYTES: usize = 64;

mod kind {
    pub const SEGMENT: u8 = 1;
    pub const SOCKET: u8 = 2;
    pub const READ: u8 = 3;
    pub const CLOSED: u8 = 4;
    pub const LISTEN: u8 = 5;
}

/// A record that is known to be as long as its layout. Reads beyond it give zero and cannot happen: offsets come from the
/// same layout.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn of<Layout>(raw: &'a [u8]) -> Result<Fields<'a>, WireError> {
        let needed = size_of::<Layout>();
        raw.get(..needed).map(Fields).ok_or(WireError::TooShort { length: raw.len(), needed })
    }

    fn array<const N: usize>(&self, offset: usize) -> [u8; N] {
        self.0.get(offset..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
    }

    fn u8(&self, offset: usize) -> u8 {
        u8::from_ne_bytes(self.array(offset))
    }

    fn u16(&self, offset: usize) -> u16 {
        u16::from_ne_bytes(self.array(offset))
    }

    fn u32(&self, offset: usize) -> u32 {
        u32::from_ne_bytes(self.array(offset))
    }

    fn u64(&self, offset: usize) -> u64 {
        u64::from_ne_bytes(self.array(offset))
    }

    fn address(&self, address: usize, port: usize) -> SocketAddr {
        let address = Ipv6Addr::from(self.array::<16>(address));
        SocketAddr::new(IpAddr::V6(address).to_canonical(), self.u16(port))
    }

    /// A NUL-terminated name; hostile like every name, so it is cleaned.
    fn name(&self, offset: usize) -> String {
        let bytes = self.array::<EXECUTABLE_BYTES>(offset);
        names::clean(bytes.split(|byte| *byte == 0).next().unwrap_or_default())
    }
}

/// The layouts of `bpf/event.h`. No value of these types is ever made.
mod layout {
    #![allow(dead_code)]

    #[repr(C)]
    pub struct RecordHead {
        pub kind: u8,
        pub direction: u8,
        pub flags: u8,
        pub pad: u8,
        pub from: u32,
        pub time_ns: u64,
        pub cookie: u64,
    }

    #[repr(C)]
    pub struct SegmentRecord {
        pub head: RecordHead,
        pub sequence: u32,
        pub acknowledged: u32,
        pub length: u32,
        pub offset: u32,
        pub captured: u32,
        pub lost: u32,
    }

    #[repr(C)]
    pub struct SocketRecord {
        pub head: RecordHead,
        pub local: [u8; 16],
        pub remote: [u8; 16],
        pub local_port: u16,
        pub remote_port: u16,
        pub broker_port: u16,
        pub origin: u8,
        pub pad: u8,
        pub netns: u32,
        pub pid: u32,
        pub cgroup: u64,
        pub send_next: u32,
        pub copied: u32,
        pub executable: [u8; super::EXECUTABLE_BYTES],
    }

    #[repr(C)]
    pub struct ReadRecord {
        pub head: RecordHead,
        pub copied: u32,
        pub pid: u32,
    }

    #[repr(C)]
    pub struct ClosedRecord {
        pub head: RecordHead,
        pub copied: u32,
        pub pad: u32,
    }

    #[repr(C)]
    pub struct ListenRecord {
        pub head: RecordHead,
        pub local: [u8; 16],
        pub local_port: u16,
        pub pad: u16,
        pub netns: u32,
        pub pid: u32,
        pub pad2: u32,
        pub executable: [u8; super::EXECUTABLE_BYTES],
    }

    #[repr(C)]
    pub struct RawCounters {
        pub packets: u64,
        pub payload_bytes: u64,
        pub captured_bytes: u64,
        pub skipped_bytes: u64,
        pub ring_full_records: u64,
        pub ring_full_bytes: u64,
        pub unreadable_packets: u64,
        pub untracked_sockets: u64,
        pub sampled_out_packets: u64,
        pub node_connections: u64,
        pub pad: [u64; 6],
    }
}

use layout::{ClosedRecord, ListenRecord, RawCounters, ReadRecord, RecordHead, SegmentRecord, SocketRecord};

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const HEADER: &str = include_str!("../../bpf/event.h");

    /// `LAYOUT(type, field, offset, size)` and `LAYOUT_SIZE(type, size)` of the header; the size's field is empty.
    fn layout_lines() -> BTreeMap<(String, String), Vec<usize>> {
        let mut lines = BTreeMap::new();
        for line in HEADER.lines() {
            let Some((name, rest)) = line.split_once('(') else { continue };
            if name != "LAYOUT" && name != "LAYOUT_SIZE" {
                continue;
            }
            let arguments: Vec<&str> = rest.trim_end_matches(");").split(", ").collect();
            let (field, numbers) =
                if name == "LAYOUT" { (arguments[1], &arguments[2..]) } else { ("", &arguments[1..]) };
            let numbers = numbers.iter().map(|number| number.parse().unwrap()).collect();
            assert!(lines.insert((arguments[0].to_owned(), field.to_owned()), numbers).is_none(), "twice: {line}");
        }
        lines
    }

    fn field_size<T, F>(_: fn(&T) -> &F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn layouts_are_those_of_the_header() {
        let mut header = layout_lines();
        macro_rules! check {
            ($name:literal, $layout:ident { $($field:ident),* }) => {{
                let size = header.remove(&($name.to_owned(), String::new()));
                if let Some(size) = size {
                    assert_eq!(size, [size_of::<$layout>()], $name);
                }
                $(
                    let line = header.remove(&($name.to_owned(), stringify!($field).to_owned()));
                    let here = [offset_of!($layout, $field), field_size(|layout: &$layout| &layout.$field)];
                    assert_eq!(line.as_deref(), Some(&here[..]), concat!($name, ".", stringify!($field)));
                )*
            }};
        }
        check!("record_head", RecordHead { kind, direction, flags, from, time_ns, cookie });
        check!("segment_record", SegmentRecord { sequence, acknowledged, length, offset, captured, lost });
        check!(
            "socket_record",
            SocketRecord {
                local,
                remote,
                local_port,
                remote_port,
                broker_port,
                origin,
                netns,
                pid,
                cgroup,
                send_next,
                copied,
                executable
            }
        );
        check!("read_record", ReadRecord { copied, pid });
        check!("closed_record", ClosedRecord { copied });
        check!("listen_record", ListenRecord { local, local_port, netns, pid, executable });
        check!(
            "counters",
            RawCounters {
                packets,
                payload_bytes,
                captured_bytes,
                skipped_bytes,
                ring_full_records,
                ring_full_bytes,
                unreadable_packets,
                untracked_sockets,
                sampled_out_packets,
                node_connections
            }
        );
        header.retain(|(name, _), _| name != "control");
        assert!(header.is_empty(), "not compared: {header:?}");
    }

    #[test]
    fn kinds_and_flags_are_those_of_the_header() {
        for (line, value) in [
            ("RECORD_SEGMENT = ", kind::SEGMENT),
            ("RECORD_SOCKET = ", kind::SOCKET),
            ("RECORD_READ = ", kind::READ),
            ("RECORD_CLOSED = ", kind::CLOSED),
            ("RECORD_LISTEN = ", kind::LISTEN),
            ("#define SEGMENT_MORE ", SEGMENT_MORE),
            ("#define SOCKET_FROM_START ", SOCKET_FROM_START),
            ("#define EXECUTABLE_BYTES ", EXECUTABLE_BYTES as u8),
        ] {
            assert!(HEADER.contains(&format!("{line}{value}")), "{line}{value}");
        }
    }

    fn head(kind: u8) -> Vec<u8> {
        let mut raw = vec![kind, 0, 0, 0, 0, 0, 0, 0];
        raw.extend(1_000u64.to_ne_bytes());
        raw.extend(77u64.to_ne_bytes());
        raw
    }

    fn segment_record(length: u32, offset: u32, captured: u32, room: usize) -> Vec<u8> {
        let mut raw = head(kind::SEGMENT);
        raw[1] = 1;
        raw[2] = SEGMENT_MORE;
        for field in [4_000_000_000u32, 9, length, offset, captured, 3] {
            raw.extend(field.to_ne_bytes());
        }
        raw.extend((0..room).map(|byte| byte as u8));
        raw
    }

    #[test]
    fn a_segment_borrows_its_captured_bytes() {
        let raw = segment_record(10, 2, 5, 256);
        let decoded = decode(&raw, ClockOffset(50)).unwrap();
        let expected = Segment {
            time: Timestamp(1_050),
            cookie: Cookie(77),
            direction: Direction::Ingress,
            sequence: 4_000_000_000,
            acknowledged: 9,
            length: 10,
            offset: 2,
            bytes: &[0, 1, 2, 3, 4],
            more: true,
            lost: 3,
        };
        assert_eq!(decoded, Decoded::Record(Record::Segment(expected)));
    }

    #[test]
    fn a_read_says_where_it_began() {
        let mut raw = head(kind::READ);
        raw[4..8].copy_from_slice(&4_000_000_000u32.to_ne_bytes());
        raw.extend([9u32.to_ne_bytes(), 42u32.to_ne_bytes()].concat());
        let decoded = decode(&raw, ClockOffset(50)).unwrap();
        let expected = Read { time: Timestamp(1_050), cookie: Cookie(77), from: 4_000_000_000, copied: 9, pid: 42 };
        assert_eq!(decoded, Decoded::Record(Record::Read(expected)));
    }

    #[test]
    fn lies_about_lengths_are_errors() {
        let beyond_room = segment_record(1_000, 0, 257, 256);
        assert!(matches!(decode(&beyond_room, ClockOffset(0)), Err(WireError::TooShort { .. })));
        let beyond_packet = segment_record(10, 6, 5, 256);
        assert_eq!(decode(&beyond_packet, ClockOffset(0)), Err(WireError::BadField("captured")));
        let wrapping = segment_record(10, u32::MAX, 5, 256);
        assert_eq!(decode(&wrapping, ClockOffset(0)), Err(WireError::BadField("captured")));
        assert_eq!(decode(&head(99), ClockOffset(0)), Err(WireError::UnknownKind(99)));
        for length in 0..size_of::<SocketRecord>() {
            let mut raw = head(kind::SOCKET);
            raw.resize(length, 0);
            assert!(matches!(decode(&raw, ClockOffset(0)), Err(WireError::TooShort { .. })), "{length}");
        }
    }

    #[test]
    fn a_socket_has_canonical_addresses_and_a_clean_owner() {
        let mut raw = head(kind::SOCKET);
        raw.resize(size_of::<SocketRecord>(), 0);
        raw[24..40].copy_from_slice(&"::ffff:127.0.0.1".parse::<Ipv6Addr>().unwrap().octets());
        raw[40..56].copy_from_slice(&"2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
        raw[56..58].copy_from_slice(&40_000u16.to_ne_bytes());
        raw[58..60].copy_from_slice(&5672u16.to_ne_bytes());
        raw[60..62].copy_from_slice(&5672u16.to_ne_bytes());
        raw[62] = 1;
        raw[68..72].copy_from_slice(&123u32.to_ne_bytes());
        raw[88..95].copy_from_slice(b"ja\x1bva\0x");
        let Ok(Decoded::Record(Record::Socket(socket))) = decode(&raw, ClockOffset(0)) else { panic!("no socket") };
        assert_eq!(socket.local, "127.0.0.1:40000".parse().unwrap());
        assert_eq!(socket.remote, "[2001:db8::7]:5672".parse().unwrap());
        assert_eq!(socket.broker_port, Some(5672));
        assert_eq!(socket.origin, Origin::Connected);
        assert_eq!(socket.owner, Some(Owner { pid: 123, executable: "ja\\u{1b}va".to_owned() }));
        assert!(!socket.from_start);
        raw[62] = 3;
        assert_eq!(decode(&raw, ClockOffset(0)), Err(WireError::BadField("origin")));
    }

    #[test]
    fn counters_of_all_processors_add_up() {
        let processor: Vec<u8> = (1..=16u64).flat_map(u64::to_ne_bytes).collect();
        let sum = sum_counters(&[&processor[..], &processor[..], &processor[..8]].concat(), Timestamp(5));
        assert_eq!((sum.packets, sum.captured_bytes, sum.sampled_out_packets, sum.node_connections), (2, 6, 18, 20));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_decode_or_fail(raw in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400), kind in 0u8..7) {
            let mut raw = raw;
            if let Some(first) = raw.first_mut() {
                *first = kind;
            }
            if let Ok(Decoded::Record(Record::Segment(segment))) = decode(&raw, ClockOffset(i64::MIN)) {
                proptest::prop_assert!(segment.offset as usize + segment.bytes.len() <= segment.length as usize);
            }
        }
    }
}
