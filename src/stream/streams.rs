//! Records in, byte streams out.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use hashbrown::HashMap;
use slab::Slab;

use super::connection::{Connection, Connections, Outlet};
use super::reassembly::{Content, Part, Place, Reassembly};
use super::recency::Recency;
use super::table::{Pair, Pairs};
use super::{ConnectionId, Event, Flow, Position, Statistics};
use crate::capture::{Closed, Cookie, Direction, Read, Record, Segment, Socket};
use crate::time::Timestamp;

/// A packet cannot be larger (GRO and GSO end at some hundred KiB); a length beyond it is a lie.
const LARGEST_PACKET: u32 = 16 << 20;

/// Bounds of the stream stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections known at once. The one that was quiet longest makes room.
    pub connections: usize,
    /// Memory of all reorder buffers, in bytes.
    pub waiting_bytes: usize,
    /// Memory of one connection's reorder buffers, in bytes.
    pub waiting_bytes_per_connection: usize,
    /// How long a gap is waited for, in the records' own time.
    pub gap_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 65_536,
            waiting_bytes: 32 << 20,
            waiting_bytes_per_connection: 4 << 20,
            gap_timeout: Duration::from_millis(500),
        }
    }
}

/// The stream stage: see the [module](super).
pub struct Streams {
    limits: Limits,
    sockets: HashMap<Cookie, SocketPlace>,
    connections: Connections,
    ids: HashMap<ConnectionId, u32>,
    pairs: Pairs,
    recency: Recency,
    /// When to look at a connection's gaps again; at most one entry per flow.
    deadlines: BinaryHeap<Reverse<(Timestamp, ConnectionId, usize)>>,
    next_id: u64,
    waiting: usize,
    statistics: Statistics,
    /// The taps of connections that have ended, by flow; `None`: nobody asks for them.
    ended: Option<Vec<(ConnectionId, [Taps; 2])>>,
    /// What waited in them when they were given up.
    evicted: Vec<(ConnectionId, Flow, Range<Position>)>,
    /// Of the last segment's bytes, those that nobody was given, nor will be.
    unread: Vec<Range<usize>>,
    every_packet: bool,
}

/// Where a flow's bytes are tapped: at its sender and its receiver.
type Taps = [Option<(Cookie, Direction)>; 2];

/// Which end of which connection a socket is.
#[derive(Clone, Copy)]
struct SocketPlace {
    index: u32,
    end: usize,
}

impl Streams {
    /// An empty stage.
    pub fn new(limits: Limits) -> Streams {
        Streams {
            limits: Limits { connections: limits.connections.clamp(1, u32::MAX as usize - 1), ..limits },
            sockets: HashMap::new(),
            connections: Connections(Slab::new()),
            ids: HashMap::new(),
            pairs: Pairs::default(),
            recency: Recency::default(),
            deadlines: BinaryHeap::new(),
            next_id: 0,
            waiting: 0,
            statistics: Statistics::default(),
            ended: None,
            evicted: Vec::new(),
            unread: Vec::new(),
            every_packet: false,
        }
    }

    /// The records are all packets of a capture in their order: what is acknowledged and was not seen, is missing. The kernel
    /// stage's records are not: bodies are skipped, and told of later.
    pub fn expect_every_packet(&mut self) {
        self.every_packet = true;
    }

    /// Takes one record; its consequences go to `sink` before this returns.
    pub fn handle_record(&mut self, record: &Record<'_>, sink: &mut impl FnMut(Event<'_>)) {
        self.unread.clear();
        if !self.deadlines.is_empty() {
            self.handle_timeout(record.time(), sink);
        }
        match record {
            Record::Segment(segment) => self.segment(segment, sink),
            Record::Read(read) => self.read(read, sink),
            Record::Socket(socket) => self.socket(socket, sink),
            Record::Closed(closed) => self.closed(closed, sink),
            Record::Counters(_) => {}
        }
    }

    /// Gives up the gaps that have been waited for long enough at `now`.
    pub fn handle_timeout(&mut self, now: Timestamp, sink: &mut impl FnMut(Event<'_>)) {
        while let Some(&Reverse((at, id, flow))) = self.deadlines.peek() {
            if at > now {
                return;
            }
            self.deadlines.pop();
            self.gap_due(at, id, flow, sink);
        }
    }

    /// When [`Streams::handle_timeout`] should be called next, if no record comes before. It may find nothing to do.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.deadlines.peek().map(|Reverse((at, ..))| *at)
    }

    /// Where a flow's bytes are tapped: the sender's egress and the receiver's ingress, as far as they are on this host. Also
    /// of connections that have ended since the last [`Streams::remember_ended`].
    pub fn taps(&self, id: ConnectionId, flow: Flow) -> impl Iterator<Item = (Cookie, Direction)> {
        let connection = self.ids.get(&id).and_then(|&index| self.connections.0.get(index as usize));
        let ended = || self.ended.iter().flatten().find(|(ended, _)| *ended == id);
        let taps = connection.map(|connection| connection.taps(flow));
        let taps = taps.or_else(|| ended().map(|(_, taps)| taps[flow.index()]));
        taps.unwrap_or_default().into_iter().flatten()
    }

    /// From now on the taps of connections that end are remembered, and those of earlier ones forgotten.
    pub fn remember_ended(&mut self) {
        self.ended.get_or_insert_default().clear();
        self.evicted.clear();
    }

    /// What waited in connections that were given up since the last [`Streams::remember_ended`]: nobody will be given it.
    pub fn evicted(&self) -> &[(ConnectionId, Flow, Range<Position>)] {
        &self.evicted
    }

    /// Of the last record's bytes, those that nobody was given, or will be: its socket or its place was not known, or they came
    /// when they had been given up. Bytes that came twice are among them, but not those that a broker sent.
    pub fn unread(&self) -> &[Range<usize>] {
        &self.unread
    }

    /// What is known of a connection that has not ended.
    pub fn facts(&self, connection: ConnectionId) -> Option<&super::Facts> {
        let index = *self.ids.get(&connection)?;
        self.connections.0.get(index as usize).map(|connection| &connection.facts)
    }

    /// Memory of all reorder buffers, in bytes; 0 where nothing waits.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting
    }

    /// The counters.
    pub fn statistics(&self) -> Statistics {
        let waiting_bytes = self.connections.0.iter().map(|(_, connection)| connection.waiting_bytes() as u64).sum();
        Statistics { connections: self.connections.0.len() as u64, waiting_bytes, ..self.statistics }
    }

    fn segment(&mut self, segment: &Segment<'_>, sink: &mut impl FnMut(Event<'_>)) {
        self.statistics.segments += 1;
        self.statistics.bytes_seen += segment.bytes.len() as u64;
        let Some(&SocketPlace { index, end }) = self.sockets.get(&segment.cookie) else {
            self.statistics.bytes_unannounced += segment.bytes.len() as u64;
            self.unread.push(0..segment.bytes.len());
            return;
        };
        self.touch(index);
        let Some(connection) = self.connections.0.get_mut(index as usize) else { return };
        let flow = flow_at(end, segment.direction);
        let mut outlet = Outlet { id: connection.id, flow, statistics: &mut self.statistics, sink };
        let before = connection.flows[flow.index()].cost();
        // What it acknowledges, its sender had when it sent this, which may be the answer to it.
        connection.acknowledge(flow, segment, self.every_packet, &mut outlet);
        let lost = connection.lost_before(end, segment);
        let length = if segment.length > LARGEST_PACKET { 0 } else { segment.length };
        let reassembly = &mut connection.flows[flow.index()];
        let place = reassembly
            .place(segment.sequence, length, lost.unwrap_or(0), segment.time, &mut |piece| outlet.emit(piece));
        let from_broker = connection.facts.roles_known && flow == Flow::Backward;
        let mut insert = |reassembly: &mut Reassembly, part: Part<'_>, outlet: &mut Outlet<'_, _>| {
            for duplicate in reassembly.insert(part, &mut |piece| outlet.emit(piece)) {
                outlet.statistics.bytes_duplicate += duplicate.end - duplicate.start;
                // Only a part's bytes are duplicates, and they are in memory.
                let [from, until] = [duplicate.start, duplicate.end].map(|end| (end - part.position) as usize);
                self.unread.extend((!from_broker).then_some(from..until));
            }
        };
        match place {
            Place::At(position) if lost.is_none() && connection.is_whole(end, segment, length) => {
                let content = Content::Bytes(segment.bytes);
                let part = Part { position, content, time: segment.time, packet_start: true };
                insert(&mut connection.flows[flow.index()], part, &mut outlet);
            }
            Place::At(position) => {
                let parts = connection.parts(end, segment, position, length, lost.is_some());
                let reassembly = &mut connection.flows[flow.index()];
                if let Some(position) = parts.lost_before {
                    reassembly.lost_before(position, segment.time, &mut |piece| outlet.emit(piece));
                }
                for part in parts.parts.into_iter().flatten() {
                    insert(reassembly, part, &mut outlet);
                }
            }
            Place::Stray => {
                outlet.statistics.bytes_stray += segment.bytes.len() as u64;
                self.unread.push(0..segment.bytes.len());
            }
        }
        let (id, after) = (connection.id, connection.flows[flow.index()].cost());
        if before | after != 0 || self.waiting != 0 {
            self.waited(index, id, flow, sink);
        }
    }

    /// Keeps the account of what waits, arms the timeout, and makes room where the budget is spent.
    fn waited(&mut self, index: u32, id: ConnectionId, flow: Flow, sink: &mut impl FnMut(Event<'_>)) {
        let Some(connection) = self.connections.0.get_mut(index as usize) else { return };
        while connection.cost() > self.limits.waiting_bytes_per_connection {
            self.statistics.budget_gaps += 1;
            let (flow, since) = connection.largest();
            let mut outlet = Outlet { id, flow, statistics: &mut self.statistics, sink };
            connection.flows[flow.index()].give_up(since, &mut |piece| outlet.emit(piece));
        }
        self.account(index);
        self.arm(index, flow);
        self.arm(index, flow.reverse());
        while self.waiting > self.limits.waiting_bytes {
            let Some(Reverse((_, id, flow))) = self.deadlines.pop() else { return };
            self.statistics.budget_gaps += 1;
            self.give_up_first_gap(id, flow, None, sink);
        }
    }

    /// Brings the sum of what waits up to date with one connection.
    fn account(&mut self, index: u32) {
        if let Some(connection) = self.connections.0.get_mut(index as usize) {
            let cost = connection.cost();
            self.waiting = self.waiting - connection.accounted + cost;
            connection.accounted = cost;
        }
    }

    fn arm(&mut self, index: u32, flow: Flow) {
        let Some(connection) = self.connections.0.get_mut(index as usize) else { return };
        let since = connection.flows[flow.index()].gap_since();
        if let (Some(since), false) = (since, connection.armed[flow.index()]) {
            connection.armed[flow.index()] = true;
            self.deadlines.push(Reverse((since.plus(self.limits.gap_timeout), connection.id, flow.index())));
        }
    }

    fn gap_due(&mut self, at: Timestamp, id: ConnectionId, flow: usize, sink: &mut impl FnMut(Event<'_>)) {
        self.give_up_first_gap(id, flow, Some(at), sink);
    }

    /// Gives up a flow's first gap: if it is due at `at`, or in any case.
    fn give_up_first_gap(
        &mut self,
        id: ConnectionId,
        flow: usize,
        at: Option<Timestamp>,
        sink: &mut impl FnMut(Event<'_>),
    ) {
        let Some(&index) = self.ids.get(&id) else { return };
        let Some(connection) = self.connections.0.get_mut(index as usize) else { return };
        let flow = if flow == 0 { Flow::Forward } else { Flow::Backward };
        connection.armed[flow.index()] = false;
        if let Some(since) = connection.flows[flow.index()].gap_since() {
            let due = since.plus(self.limits.gap_timeout);
            if at.is_none_or(|at| due <= at) {
                let mut outlet = Outlet { id, flow, statistics: &mut self.statistics, sink };
                connection.flows[flow.index()].give_up(at.unwrap_or(since), &mut |piece| outlet.emit(piece));
            }
        }
        self.account(index);
        self.arm(index, flow);
    }

    fn read(&mut self, read: &Read, sink: &mut impl FnMut(Event<'_>)) {
        let Some(&SocketPlace { index, end }) = self.sockets.get(&read.cookie) else { return };
        self.touch(index);
        self.read_at(index, end, read, sink);
    }

    fn read_at(&mut self, index: u32, end: usize, read: &Read, sink: &mut impl FnMut(Event<'_>)) {
        let Some(connection) = self.connections.0.get_mut(index as usize) else { return };
        let flow = flow_at(end, Direction::Ingress);
        let mut outlet = Outlet { id: connection.id, flow, statistics: &mut self.statistics, sink };
        connection.read(flow, read, &mut outlet);
        if self.waiting != 0 {
            self.account(index);
        }
    }

    fn closed(&mut self, closed: &Closed, sink: &mut impl FnMut(Event<'_>)) {
        let Some(&SocketPlace { index, end }) = self.sockets.get(&closed.cookie) else { return };
        // What was not told to be read before was read at a time that nobody knows.
        let copied = closed.copied;
        let read = Read { time: closed.time, cookie: closed.cookie, from: copied, copied, pid: 0 };
        self.read_at(index, end, &read, sink);
        let Some(connection) = self.connections.0.get_mut(index as usize) else { return };
        if connection.socket_closed(end) {
            self.end(index, closed.time, sink);
        }
    }

    /// Ends a connection: what waits is handed on, then it is forgotten.
    fn end(&mut self, index: u32, time: Timestamp, sink: &mut impl FnMut(Event<'_>)) {
        let Some(mut connection) = self.forget(index) else { return };
        for flow in [Flow::Forward, Flow::Backward] {
            let mut outlet = Outlet { id: connection.id, flow, statistics: &mut self.statistics, sink };
            connection.flows[flow.index()].end_here(time, &mut |piece| outlet.emit(piece));
        }
        sink(Event::Closed { connection: connection.id, time });
    }

    /// Gives the connection up that was quiet longest: nobody will know what happens on it from now on.
    fn evict(&mut self, time: Timestamp, sink: &mut impl FnMut(Event<'_>)) {
        let Some(connection) = self.recency.oldest().and_then(|index| self.forget(index)) else { return };
        self.statistics.evicted_connections += 1;
        self.statistics.bytes_evicted += connection.waiting_bytes() as u64;
        if self.ended.is_some() {
            let of_flow = |flow: Flow| Some((connection.id, flow, connection.flows[flow.index()].waiting()?));
            self.evicted.extend([Flow::Forward, Flow::Backward].into_iter().filter_map(of_flow));
        }
        connection.give_up(time, &mut self.statistics, sink);
        sink(Event::Closed { connection: connection.id, time });
    }

    fn forget(&mut self, index: u32) -> Option<Connection> {
        if !self.connections.0.contains(index as usize) {
            return None;
        }
        self.recency.remove(&mut self.connections, index);
        let connection = self.connections.0.remove(index as usize);
        self.waiting -= connection.accounted;
        self.pairs.remove(connection.pair, index);
        self.ids.remove(&connection.id);
        for cookie in connection.cookies() {
            self.sockets.remove(&cookie);
        }
        if let Some(ended) = &mut self.ended {
            ended.push((connection.id, [Flow::Forward, Flow::Backward].map(|flow| connection.taps(flow))));
        }
        Some(connection)
    }

    fn touch(&mut self, index: u32) {
        if !self.recency.is_newest(index) {
            self.recency.touch(&mut self.connections, index);
        }
    }

    fn socket(&mut self, socket: &Socket, sink: &mut impl FnMut(Event<'_>)) {
        if let Some(&SocketPlace { index, end }) = self.sockets.get(&socket.cookie) {
            let Some(connection) = self.connections.0.get_mut(index as usize) else { return };
            if connection.is_at(end, socket.local, socket.remote) {
                if connection.learn(end, socket) {
                    sink(Event::Facts(connection.id, &connection.facts));
                }
                return self.touch(index);
            }
            // The same cookie with other addresses: its end went unseen.
            self.end(index, socket.time, sink);
        }
        let pair = Pair::of(socket);
        for index in self.pairs.find(pair) {
            let Some(connection) = self.connections.0.get_mut(index as usize) else { continue };
            let Some(end) = connection.end_of(socket.local, socket.remote) else { continue };
            if connection.fits(end, socket) {
                connection.join(end, socket);
                self.sockets.insert(socket.cookie, SocketPlace { index, end });
                sink(Event::Facts(connection.id, &connection.facts));
                return self.touch(index);
            }
            if connection.must_have_ended(end, socket) {
                self.end(index, socket.time, sink);
            }
        }
        self.open(pair, socket, sink);
    }

    fn open(&mut self, pair: Pair, socket: &Socket, sink: &mut impl FnMut(Event<'_>)) {
        while self.connections.0.len() >= self.limits.connections {
            self.evict(socket.time, sink);
        }
        let id = ConnectionId(self.next_id);
        self.next_id += 1;
        let (connection, end) = Connection::new(id, pair, socket);
        let index = self.connections.0.insert(connection) as u32;
        self.recency.insert(&mut self.connections, index);
        self.pairs.insert(pair, index);
        self.ids.insert(id, index);
        self.sockets.insert(socket.cookie, SocketPlace { index, end });
        if let Some(connection) = self.connections.0.get(index as usize) {
            sink(Event::Facts(id, &connection.facts));
        }
    }
}

/// The flow that passes a connection's end in a direction.
fn flow_at(end: usize, direction: Direction) -> Flow {
    match (end, direction) {
        (0, Direction::Egress) | (1, Direction::Ingress) => Flow::Forward,
        _ => Flow::Backward,
    }
}

/// Addresses of a socket and its peer, as one end sees them.
pub(super) fn mirrored(ends: &[super::End; 2], end: usize, local: SocketAddr, remote: SocketAddr) -> bool {
    let same = |end: usize, address: SocketAddr| {
        let known = ends[end & 1].address;
        known.ip() == address.ip() && known.port() == address.port()
    };
    same(end, local) && same(end + 1, remote)
}
