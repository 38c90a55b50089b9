//! From TCP packets to the records of sockets: which connection a packet belongs to, where its streams begin, when it ends.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use hashbrown::HashMap;

use super::packet::Packet;
use super::{Tally, Unusable};
use crate::capture::{Closed, Cookie, Direction, Origin, Record, Segment, Socket};
use crate::time::Timestamp;

/// More connections than this are not kept: the longest silent give way.
const MAX_CONNECTIONS: usize = 1 << 16;
/// A connection that has ended swallows its late packets for this long; then the same ports are a new one.
const LINGER: Duration = Duration::from_secs(60);

/// The connections of a capture, and the records that are due.
pub(super) struct Connections {
    ports: Vec<u16>,
    /// By both addresses, the smaller first.
    known: HashMap<(SocketAddr, SocketAddr), Connection>,
    next_cookie: u64,
    due: VecDeque<Record<'static>>,
    segment: Option<Segment<'static>>,
    /// The segment's bytes.
    bytes: Vec<u8>,
    /// Sockets' ends, due behind the segment.
    due_behind: VecDeque<Record<'static>>,
}

struct Connection {
    ends: [End; 2],
    /// Sockets have been announced.
    announced: bool,
    closed: bool,
    last: Timestamp,
}

#[derive(Clone, Copy)]
struct End {
    address: SocketAddr,
    cookie: Cookie,
    origin: Origin,
    /// Sequence number of its first byte, where the handshake told.
    start: Option<u32>,
    /// Sequence number behind everything that it was seen to send, or to have sent.
    next: Option<u32>,
    /// Its last acknowledgement.
    acknowledged: Option<u32>,
    /// Sequence number of its FIN.
    fin: Option<u32>,
    /// What its socket was announced with: a capture does not see how far the application reads on from there.
    copied: u32,
}

impl Connections {
    pub(super) fn new(ports: Vec<u16>) -> Self {
        Connections {
            ports,
            known: HashMap::new(),
            next_cookie: 1,
            due: VecDeque::new(),
            segment: None,
            bytes: Vec::new(),
            due_behind: VecDeque::new(),
        }
    }

    /// Whether no record is due.
    pub(super) fn is_empty(&self) -> bool {
        self.due.is_empty() && self.segment.is_none() && self.due_behind.is_empty()
    }

    /// The next record that is due.
    pub(super) fn take(&mut self) -> Option<Record<'_>> {
        if let Some(record) = self.due.pop_front() {
            return Some(record);
        }
        match self.segment.take() {
            Some(segment) => Some(Record::Segment(Segment { bytes: &self.bytes, ..segment })),
            None => self.due_behind.pop_front(),
        }
    }

    /// Takes a packet. All records due must have been taken before.
    pub(super) fn packet(&mut self, time: Timestamp, packet: &Packet<'_>, tally: &mut Tally) -> Result<(), Unusable> {
        let broker_port = self.broker_port(packet);
        if broker_port.is_none() && !self.ports.is_empty() {
            return Err(Unusable::OtherPort);
        }
        let forward = packet.source <= packet.destination;
        let (low, high) =
            if forward { (packet.source, packet.destination) } else { (packet.destination, packet.source) };
        let (from, to) = if forward { (0, 1) } else { (1, 0) };
        self.make_room(&(low, high), time, tally);
        let mut connection = match self.known.remove(&(low, high)) {
            Some(old) if old.is_another(packet, from, time) => {
                self.end(&old, time);
                self.begin(low, high, tally)
            }
            Some(known) => known,
            None => self.begin(low, high, tally),
        };
        let late = connection.closed;
        let handled = if late {
            connection.late(packet)
        } else {
            connection.last = time;
            connection.handshake(packet, from, to);
            connection.acknowledge(packet, from, to);
            self.payload(time, packet, &mut connection, from, broker_port, tally)
        };
        if !late && connection.finish(packet, from) {
            connection.closed = true;
            self.end_behind(&connection, time);
        }
        self.known.insert((low, high), connection);
        handled
    }

    /// The port asked for that one of the ends has; the destination's where both have one.
    fn broker_port(&self, packet: &Packet<'_>) -> Option<u16> {
        let ports = [packet.destination.port(), packet.source.port()];
        ports.into_iter().find(|port| self.ports.contains(port))
    }

    fn begin(&mut self, low: SocketAddr, high: SocketAddr, tally: &mut Tally) -> Connection {
        tally.connections += 1;
        let mut end = |address| {
            let cookie = Cookie(self.next_cookie);
            self.next_cookie += 1;
            End {
                address,
                cookie,
                origin: Origin::Unknown,
                start: None,
                next: None,
                acknowledged: None,
                fin: None,
                copied: 0,
            }
        };
        let ends = [end(low), end(high)];
        Connection { ends, announced: false, closed: false, last: Timestamp(0) }
    }

    fn payload(
        &mut self,
        time: Timestamp,
        packet: &Packet<'_>,
        connection: &mut Connection,
        from: usize,
        broker_port: Option<u16>,
        tally: &mut Tally,
    ) -> Result<(), Unusable> {
        if packet.length == 0 {
            return Ok(());
        }
        tally.payload_packets += 1;
        tally.payload_bytes += packet.length as u64;
        tally.captured_bytes += packet.payload.len() as u64;
        if !connection.announced {
            connection.announced = true;
            connection.ends[from].next.get_or_insert(packet.sequence);
            let broker_port = connection.broker_port(broker_port, &self.ports);
            for (own, other) in [(0, 1), (1, 0)] {
                connection.ends[own].copied = connection.ends[other].first();
                self.due.push_back(Record::Socket(connection.socket(own, other, time, broker_port)));
            }
        }
        let end = &mut connection.ends[from];
        let behind = packet.sequence.wrapping_add(packet.length as u32);
        if end.next.is_none_or(|next| (behind.wrapping_sub(next) as i32) > 0) {
            end.next = Some(behind);
        }
        if !packet.payload.is_empty() {
            self.bytes.clear();
            self.bytes.extend_from_slice(packet.payload);
            self.segment = Some(Segment {
                time,
                cookie: end.cookie,
                direction: Direction::Egress,
                sequence: packet.sequence,
                acknowledged: end.acknowledged.unwrap_or(0),
                length: packet.payload.len() as u32,
                offset: 0,
                bytes: &[],
                more: false,
                lost: 0,
            });
        }
        if packet.payload.len() < packet.length { Err(Unusable::PayloadCut) } else { Ok(()) }
    }

    /// A connection that is replaced ends before the new one begins.
    fn end(&mut self, connection: &Connection, time: Timestamp) {
        if connection.announced && !connection.closed {
            self.due.extend(connection.closed_ends(time));
        }
    }

    fn end_behind(&mut self, connection: &Connection, time: Timestamp) {
        if connection.announced {
            self.due_behind.extend(connection.closed_ends(time));
        }
    }

    /// When there are too many connections, forgets those that have ended, and the longest silent eighth of the rest.
    fn make_room(&mut self, wanted: &(SocketAddr, SocketAddr), time: Timestamp, tally: &mut Tally) {
        if self.known.len() < MAX_CONNECTIONS || self.known.contains_key(wanted) {
            return;
        }
        self.known.retain(|_, connection| !connection.closed);
        if self.known.len() < MAX_CONNECTIONS - MAX_CONNECTIONS / 8 {
            return;
        }
        let mut ages: Vec<(Timestamp, u64)> =
            self.known.values().map(|connection| (connection.last, connection.ends[0].cookie.0)).collect();
        ages.sort_unstable();
        let limit = ages.get(MAX_CONNECTIONS / 8).copied().unwrap_or_default();
        let mut gone: Vec<Connection> = self
            .known
            .extract_if(|_, connection| (connection.last, connection.ends[0].cookie.0) < limit)
            .map(|(_, connection)| connection)
            .collect();
        // The same file gives the same records, whatever the table's order.
        gone.sort_unstable_by_key(|connection| connection.ends[0].cookie);
        tally.evicted += gone.len() as u64;
        for connection in &gone {
            self.end(connection, time);
        }
    }
}

impl Connection {
    /// Whether the packet belongs to a later connection of the same addresses and ports.
    fn is_another(&self, packet: &Packet<'_>, from: usize, time: Timestamp) -> bool {
        if packet.rst {
            return false;
        }
        let end = &self.ends[from];
        if packet.syn {
            let known = end.start.or(if self.announced { end.next } else { None });
            return match end.start {
                Some(start) => start != packet.sequence,
                // Joined in the middle: a handshake now is another connection's.
                None => known.is_some(),
            };
        }
        self.closed && !packet.payload.is_empty() && time.since(self.last) > LINGER
    }

    /// Who connected, and where the streams begin.
    fn handshake(&mut self, packet: &Packet<'_>, from: usize, to: usize) {
        if !packet.syn || packet.rst {
            return;
        }
        let (own, other) = match packet.acknowledged {
            None => (Origin::Connected, Origin::Accepted),
            Some(_) => (Origin::Accepted, Origin::Connected),
        };
        self.ends[from].origin = own;
        self.ends[to].origin = other;
        self.ends[from].start = Some(packet.sequence);
        self.ends[from].next.get_or_insert(packet.sequence);
        if let Some(acknowledged) = packet.acknowledged {
            self.ends[to].start.get_or_insert(acknowledged);
            self.ends[to].next.get_or_insert(acknowledged);
        }
    }

    fn acknowledge(&mut self, packet: &Packet<'_>, from: usize, to: usize) {
        let Some(acknowledged) = packet.acknowledged else { return };
        self.ends[from].acknowledged = Some(acknowledged);
        self.ends[to].next.get_or_insert(acknowledged);
    }

    /// Whether the connection has ended: a reset, or both directions closed and acknowledged.
    fn finish(&mut self, packet: &Packet<'_>, from: usize) -> bool {
        if packet.fin {
            self.ends[from].fin = Some(packet.sequence.wrapping_add(packet.length as u32));
        }
        let [low, high] = &self.ends;
        packet.rst || (low.is_finished(high) && high.is_finished(low))
    }

    /// The ends of both sockets.
    fn closed_ends(&self, time: Timestamp) -> [Record<'static>; 2] {
        let [low, high] = &self.ends;
        [low.closed(high, time), high.closed(low, time)]
    }

    /// A packet behind the end: a repetition, or a loss.
    fn late(&self, packet: &Packet<'_>) -> Result<(), Unusable> {
        if packet.length == 0 {
            return Ok(());
        }
        let behind = packet.sequence.wrapping_add(packet.length as u32);
        let from = self.ends.iter().find(|end| end.address == packet.source);
        let repeated = from.and_then(|end| end.next).is_some_and(|next| (behind.wrapping_sub(next) as i32) <= 0);
        if repeated { Ok(()) } else { Err(Unusable::AfterEnd) }
    }

    /// The server's port where both ends have one that was asked for.
    fn broker_port(&self, found: Option<u16>, ports: &[u16]) -> Option<u16> {
        let accepted = self.ends.iter().find(|end| end.origin == Origin::Accepted).map(|end| end.address.port());
        accepted.filter(|port| ports.contains(port)).or(found)
    }

    fn socket(&self, own: usize, other: usize, time: Timestamp, broker_port: Option<u16>) -> Socket {
        let (own, other) = (&self.ends[own], &self.ends[other]);
        Socket {
            time,
            cookie: own.cookie,
            local: own.address,
            remote: other.address,
            netns: 0,
            cgroup: 0,
            origin: own.origin,
            broker_port,
            send_next: own.first(),
            copied: own.copied,
            from_start: own.start.is_some() && other.start.is_some(),
            reads_seen: false,
            owner: None,
        }
    }
}

impl End {
    /// Sequence number of the first byte that the capture knows of.
    fn first(&self) -> u32 {
        self.start.or(self.next).unwrap_or(0)
    }

    /// It has closed its direction, and the other end knows.
    fn is_finished(&self, other: &End) -> bool {
        let known = other.acknowledged.zip(self.fin);
        known.is_some_and(|(acknowledged, fin)| (acknowledged.wrapping_sub(fin) as i32) > 0)
    }

    /// What it acknowledged last, it had received: all that the other one sent, but for the number that a FIN takes.
    fn closed(&self, other: &End, time: Timestamp) -> Record<'static> {
        let sent = other.fin.filter(|_| other.is_finished(self));
        let copied = sent.or(self.acknowledged).unwrap_or(self.copied);
        Record::Closed(Closed { time, cookie: self.cookie, copied })
    }
}
