//! How records look inside a block.
//!
//! Each begins with a byte: its kind in the low three bits, flags above. Integers are LEB128; times, sequence and
//! acknowledgement numbers are zigzag differences to what the block said last (of the same tap, where there is one). A
//! cookie is written out once and then by its index. State begins anew in each block.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use hashbrown::HashMap;

use crate::capture::{Closed, Cookie, Counters, Direction, Origin, Owner, Read, Record, Segment, Socket};
use crate::time::Timestamp;

use super::{MAX_SEGMENT, MAX_TEXT};

const SOCKET: u8 = 0;
const SEGMENT: u8 = 1;
const READ: u8 = 2;
const CLOSED: u8 = 3;
const COUNTERS: u8 = 4;
const KIND: u8 = 7;

/// Flags of a segment.
const INGRESS: u8 = 8;
const MORE: u8 = 16;
const PARTIAL: u8 = 32;
const LOST: u8 = 64;

/// Flag of a read: it did not begin where the one before it ended.
const FROM: u8 = 8;

/// Flag of counters: connections to brokers' nodes on other hosts were seen.
const NODES: u8 = 8;

/// Flags of a socket.
const FROM_START: u8 = 8;
const READS_SEEN: u8 = 64;
const BROKER_PORT: u8 = 16;
const OWNER: u8 = 32;

/// What a block has said so far about one cookie.
#[derive(Clone, Copy, Default)]
struct Known {
    cookie: u64,
    copied: u32,
    taps: [Tap; 2],
}

#[derive(Clone, Copy, Default)]
struct Tap {
    next: u32,
    acknowledged: u32,
    lost: u32,
}

fn tap_index(direction: Direction) -> usize {
    match direction {
        Direction::Egress => 0,
        Direction::Ingress => 1,
    }
}

/// Writes records into a block.
#[derive(Default)]
pub(super) struct Encoder {
    time: u64,
    indices: HashMap<u64, usize>,
    known: Vec<Known>,
    last: usize,
}

impl Encoder {
    /// Begins a new block.
    pub(super) fn reset(&mut self) {
        self.time = 0;
        self.indices.clear();
        self.known.clear();
        self.last = 0;
    }

    /// Appends a record; gives where a segment's bytes begin in `out`.
    ///
    /// # Errors
    /// Says what is wrong with a record that no tap could have made; nothing is appended then.
    pub(super) fn encode(&mut self, record: &Record<'_>, out: &mut Vec<u8>) -> Result<Option<usize>, &'static str> {
        match record {
            Record::Segment(segment) => return self.segment(segment, out).map(Some),
            Record::Socket(socket) => self.socket(socket, out)?,
            Record::Read(read) => {
                let at = out.len();
                out.push(READ);
                self.time(read.time, out);
                let index = self.cookie(read.cookie, out);
                if read.from != self.known[index].copied {
                    out[at] |= FROM;
                    self.copied(index, read.from, out);
                }
                self.copied(index, read.copied, out);
                put(u64::from(read.pid), out);
            }
            Record::Closed(closed) => {
                out.push(CLOSED);
                self.time(closed.time, out);
                let index = self.cookie(closed.cookie, out);
                self.copied(index, closed.copied, out);
            }
            Record::Counters(counters) => {
                let nodes = Some(counters.node_connections).filter(|connections| *connections > 0);
                out.push(COUNTERS | nodes.map_or(0, |_| NODES));
                self.time(counters.time, out);
                counter_fields(counters).into_iter().chain(nodes).for_each(|value| put(value, out));
            }
        }
        Ok(None)
    }

    fn segment(&mut self, segment: &Segment<'_>, out: &mut Vec<u8>) -> Result<usize, &'static str> {
        let captured = u32::try_from(segment.bytes.len()).ok().filter(|captured| *captured as usize <= MAX_SEGMENT);
        let captured = captured.ok_or("a segment larger than a recording may hold")?;
        if segment.offset.checked_add(captured).is_none_or(|end| end > segment.length) {
            return Err("a segment with more bytes than its packet had");
        }
        let tag_at = out.len();
        out.push(SEGMENT);
        self.time(segment.time, out);
        let index = self.cookie(segment.cookie, out);
        let tap = &mut self.known[index].taps[tap_index(segment.direction)];
        put_difference(segment.sequence, tap.next, out);
        put_difference(segment.acknowledged, tap.acknowledged, out);
        tap.acknowledged = segment.acknowledged;
        tap.next = if segment.more { segment.sequence } else { segment.sequence.wrapping_add(segment.length) };
        let mut flags = SEGMENT;
        if segment.direction == Direction::Ingress {
            flags |= INGRESS;
        }
        if segment.more {
            flags |= MORE;
        }
        if segment.lost != tap.lost {
            flags |= LOST;
            put(u64::from(segment.lost), out);
            tap.lost = segment.lost;
        }
        put(u64::from(captured), out);
        if segment.offset != 0 || segment.length != captured {
            flags |= PARTIAL;
            put(u64::from(segment.offset), out);
            put(u64::from(segment.length), out);
        }
        out[tag_at] = flags;
        let at = out.len();
        out.extend_from_slice(segment.bytes);
        Ok(at)
    }

    fn socket(&mut self, socket: &Socket, out: &mut Vec<u8>) -> Result<(), &'static str> {
        if socket.owner.as_ref().is_some_and(|owner| owner.executable.len() > MAX_TEXT) {
            return Err("the name of an executable is longer than a recording may hold");
        }
        let mut flags = SOCKET;
        for (present, flag) in [
            (socket.from_start, FROM_START),
            (socket.broker_port.is_some(), BROKER_PORT),
            (socket.owner.is_some(), OWNER),
            (socket.reads_seen, READS_SEEN),
        ] {
            flags |= if present { flag } else { 0 };
        }
        out.push(flags);
        self.time(socket.time, out);
        self.cookie(socket.cookie, out);
        put_address(socket.local, out);
        put_address(socket.remote, out);
        put(u64::from(socket.netns), out);
        put(socket.cgroup, out);
        out.push(match socket.origin {
            Origin::Unknown => 0,
            Origin::Connected => 1,
            Origin::Accepted => 2,
        });
        if let Some(port) = socket.broker_port {
            put(u64::from(port), out);
        }
        put(u64::from(socket.send_next), out);
        put(u64::from(socket.copied), out);
        if let Some(owner) = &socket.owner {
            put(u64::from(owner.pid), out);
            put_text(&owner.executable, out);
        }
        Ok(())
    }

    fn time(&mut self, time: Timestamp, out: &mut Vec<u8>) {
        put(zigzag(time.0.wrapping_sub(self.time) as i64), out);
        self.time = time.0;
    }

    fn cookie(&mut self, cookie: Cookie, out: &mut Vec<u8>) -> usize {
        if self.known.get(self.last).is_none_or(|known| known.cookie != cookie.0) {
            match self.indices.get(&cookie.0) {
                Some(index) => self.last = *index,
                None => {
                    self.last = self.known.len();
                    self.indices.insert(cookie.0, self.last);
                    self.known.push(Known { cookie: cookie.0, ..Known::default() });
                    put(0, out);
                    out.extend_from_slice(&cookie.0.to_le_bytes());
                    return self.last;
                }
            }
        }
        put(self.last as u64 + 1, out);
        self.last
    }

    fn copied(&mut self, index: usize, copied: u32, out: &mut Vec<u8>) {
        put_difference(copied, self.known[index].copied, out);
        self.known[index].copied = copied;
    }
}

/// Reads records out of a block.
#[derive(Default)]
pub(super) struct Decoder {
    time: u64,
    known: Vec<Known>,
}

impl Decoder {
    /// Begins a new block.
    pub(super) fn reset(&mut self) {
        self.time = 0;
        self.known.clear();
    }

    /// The record that begins at `*at`, which moves behind it; `None` where no record can be read. The dictionary grows by
    /// at most one entry for nine bytes of the block.
    pub(super) fn decode<'a>(&mut self, block: &'a [u8], at: &mut usize) -> Option<Record<'a>> {
        let mut input = Input { rest: block.get(*at..)? };
        let flags = input.byte()?;
        let time = self.time(&mut input)?;
        let record = match flags & KIND {
            SEGMENT => Record::Segment(self.segment(flags, time, &mut input)?),
            READ if flags & !FROM == READ => {
                let known = self.cookie(&mut input)?;
                let from = if flags & FROM == 0 { known.copied } else { known.copied(&mut input)? };
                let copied = known.copied(&mut input)?;
                Record::Read(Read { time, cookie: Cookie(known.cookie), from, copied, pid: input.word()? })
            }
            CLOSED if flags == CLOSED => {
                let known = self.cookie(&mut input)?;
                Record::Closed(Closed { time, cookie: Cookie(known.cookie), copied: known.copied(&mut input)? })
            }
            COUNTERS if flags & !NODES == COUNTERS => {
                let counters = counters(time, &mut input)?;
                let node_connections = if flags & NODES == 0 { 0 } else { input.number()? };
                Record::Counters(Counters { node_connections, ..counters })
            }
            SOCKET => Record::Socket(self.socket(flags, time, &mut input)?),
            _ => return None,
        };
        *at = block.len() - input.rest.len();
        Some(record)
    }

    fn segment<'a>(&mut self, flags: u8, time: Timestamp, input: &mut Input<'a>) -> Option<Segment<'a>> {
        if flags & !(KIND | INGRESS | MORE | PARTIAL | LOST) != 0 {
            return None;
        }
        let known = self.cookie(input)?;
        let direction = if flags & INGRESS == 0 { Direction::Egress } else { Direction::Ingress };
        let cookie = Cookie(known.cookie);
        let tap = &mut known.taps[tap_index(direction)];
        let sequence = input.difference(tap.next)?;
        let acknowledged = input.difference(tap.acknowledged)?;
        if flags & LOST != 0 {
            tap.lost = input.word()?;
        }
        let captured = input.word()?;
        let (offset, length) = if flags & PARTIAL == 0 { (0, captured) } else { (input.word()?, input.word()?) };
        if captured as usize > MAX_SEGMENT || offset.checked_add(captured)? > length {
            return None;
        }
        let more = flags & MORE != 0;
        tap.acknowledged = acknowledged;
        tap.next = if more { sequence } else { sequence.wrapping_add(length) };
        let bytes = input.take(captured as usize)?;
        Some(Segment { time, cookie, direction, sequence, acknowledged, length, offset, bytes, more, lost: tap.lost })
    }

    fn socket(&mut self, flags: u8, time: Timestamp, input: &mut Input<'_>) -> Option<Socket> {
        if flags & !(KIND | FROM_START | BROKER_PORT | OWNER | READS_SEEN) != 0 {
            return None;
        }
        Some(Socket {
            time,
            cookie: Cookie(self.cookie(input)?.cookie),
            local: input.address()?,
            remote: input.address()?,
            netns: input.word()?,
            cgroup: input.number()?,
            origin: match input.byte()? {
                0 => Origin::Unknown,
                1 => Origin::Connected,
                2 => Origin::Accepted,
                _ => return None,
            },
            broker_port: if flags & BROKER_PORT == 0 { None } else { Some(u16::try_from(input.number()?).ok()?) },
            send_next: input.word()?,
            copied: input.word()?,
            from_start: flags & FROM_START != 0,
            reads_seen: flags & READS_SEEN != 0,
            owner: if flags & OWNER == 0 {
                None
            } else {
                Some(Owner { pid: input.word()?, executable: input.text()?.to_owned() })
            },
        })
    }

    fn time(&mut self, input: &mut Input<'_>) -> Option<Timestamp> {
        self.time = self.time.wrapping_add(unzigzag(input.number()?) as u64);
        Some(Timestamp(self.time))
    }

    fn cookie(&mut self, input: &mut Input<'_>) -> Option<&mut Known> {
        match input.number()? {
            0 => {
                let cookie = u64::from_le_bytes(*input.rest.first_chunk()?);
                input.take(8)?;
                self.known.push(Known { cookie, ..Known::default() });
                self.known.last_mut()
            }
            index => self.known.get_mut(usize::try_from(index - 1).ok()?),
        }
    }
}

impl Known {
    fn copied(&mut self, input: &mut Input<'_>) -> Option<u32> {
        self.copied = input.difference(self.copied)?;
        Some(self.copied)
    }
}

fn counter_fields(counters: &Counters) -> [u64; 9] {
    [
        counters.packets,
        counters.payload_bytes,
        counters.captured_bytes,
        counters.skipped_bytes,
        counters.ring_full_records,
        counters.ring_full_bytes,
        counters.unreadable_packets,
        counters.untracked_sockets,
        counters.sampled_out_packets,
    ]
}

fn counters(time: Timestamp, input: &mut Input<'_>) -> Option<Counters> {
    Some(Counters {
        time,
        packets: input.number()?,
        payload_bytes: input.number()?,
        captured_bytes: input.number()?,
        skipped_bytes: input.number()?,
        ring_full_records: input.number()?,
        ring_full_bytes: input.number()?,
        unreadable_packets: input.number()?,
        untracked_sockets: input.number()?,
        sampled_out_packets: input.number()?,
        node_connections: 0,
    })
}

/// Appends an integer as LEB128.
pub(super) fn put(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a text with its length.
pub(super) fn put_text(text: &str, out: &mut Vec<u8>) {
    put(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

fn put_difference(value: u32, before: u32, out: &mut Vec<u8>) {
    put(zigzag(i64::from(value.wrapping_sub(before) as i32)), out);
}

fn put_address(address: SocketAddr, out: &mut Vec<u8>) {
    match address {
        SocketAddr::V4(address) => {
            out.push(4);
            out.extend_from_slice(&address.ip().octets());
        }
        SocketAddr::V6(address) => {
            out.push(6);
            out.extend_from_slice(&address.ip().octets());
            put(u64::from(address.flowinfo()), out);
            put(u64::from(address.scope_id()), out);
        }
    }
    put(u64::from(address.port()), out);
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// What is left to read.
pub(super) struct Input<'a> {
    pub(super) rest: &'a [u8],
}

impl<'a> Input<'a> {
    #[inline]
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    /// An integer of LEB128; `None` where it is cut short or longer than 64 bits.
    #[inline]
    pub(super) fn number(&mut self) -> Option<u64> {
        let first = self.byte()?;
        if first < 0x80 {
            return Some(u64::from(first));
        }
        let mut value = u64::from(first & 0x7f);
        for shift in (7..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                return None;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn word(&mut self) -> Option<u32> {
        u32::try_from(self.number()?).ok()
    }

    fn difference(&mut self, before: u32) -> Option<u32> {
        let difference = i32::try_from(unzigzag(self.number()?)).ok()?;
        Some(before.wrapping_add(difference as u32))
    }

    /// A text with its length.
    pub(super) fn text(&mut self) -> Option<&'a str> {
        let length = usize::try_from(self.number()?).ok().filter(|length| *length <= MAX_TEXT)?;
        std::str::from_utf8(self.take(length)?).ok()
    }

    fn address(&mut self) -> Option<SocketAddr> {
        let family = self.byte()?;
        let ip = match family {
            4 => IpAddr::V4(Ipv4Addr::from(*self.take(4)?.first_chunk::<4>()?)),
            6 => IpAddr::V6(Ipv6Addr::from(*self.take(16)?.first_chunk::<16>()?)),
            _ => return None,
        };
        let (flow, scope) = if family == 6 { (self.word()?, self.word()?) } else { (0, 0) };
        let port = u16::try_from(self.number()?).ok()?;
        Some(match ip {
            IpAddr::V4(ip) => SocketAddr::V4(SocketAddrV4::new(ip, port)),
            IpAddr::V6(ip) => SocketAddr::V6(SocketAddrV6::new(ip, port, flow, scope)),
        })
    }
}

#[cfg(test)]
mod tests;
