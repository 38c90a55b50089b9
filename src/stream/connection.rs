//! One connection: its ends, its sockets, its two flows.

use std::net::SocketAddr;

use slab::Slab;

use super::reassembly::{Content, Part, Piece, Reassembly};
use super::recency::{Linked, Links};
use super::streams::mirrored;
use super::table::Pair;
use super::{ConnectionId, End, Event, Facts, Flow, HoleCause, Position, Statistics};
use crate::capture::{Cookie, Direction, Origin, Read, Segment, Socket};
use crate::time::Timestamp;

/// How far two sockets' beginnings may differ and still be one connection's: data in a SYN (TCP Fast Open). Linux's initial
/// sequence numbers of equal addresses advance by 15 million a second, so that a port's next use is further away.
const SAME_BEGINNING: u64 = 64 << 10;
/// How far a socket's beginning may be from where a flow was joined late.
const NEAR: u64 = 64 << 20;

/// All connections, linked by recency.
pub(super) struct Connections(pub Slab<Connection>);

impl Linked for Connections {
    fn links(&mut self, index: u32) -> &mut Links {
        &mut self.0[index as usize].links
    }
}

pub(super) struct Connection {
    pub id: ConnectionId,
    pub facts: Facts,
    pub flows: [Reassembly; 2],
    pub pair: Pair,
    /// What the connection's reorder buffers cost when last added to the sum of all.
    pub accounted: usize,
    /// Flows with an entry among the deadlines.
    pub armed: [bool; 2],
    links: Links,
    sockets: [Option<Tapped>; 2],
    read: [Position; 2],
    /// By flow: what its sender acknowledged last, where that could be placed.
    acknowledged: [Option<u32>; 2],
}

/// A socket of this host at one end.
struct Tapped {
    cookie: Cookie,
    netns: u32,
    send_next: u32,
    copied: u32,
    from_start: bool,
    closed: bool,
    /// By direction: records lost so far; unknown before the first of a socket that was joined late.
    lost: [Option<u32>; 2],
    /// By direction: the packet whose further records are still to come, and how far its records reached.
    packet: [Option<(u32, u32)>; 2],
}

/// A segment taken apart: what it says about its flow, in order.
pub(super) struct Parts<'a> {
    /// Lost records explain what is missing before this position.
    pub lost_before: Option<Position>,
    /// Skipped before the bytes, the bytes, skipped behind them.
    pub parts: [Option<Part<'a>>; 3],
}

/// Where pieces of a flow go: counted, then to the sink.
pub(super) struct Outlet<'s, S> {
    pub id: ConnectionId,
    pub flow: Flow,
    pub statistics: &'s mut Statistics,
    pub sink: &'s mut S,
}

impl<S: FnMut(Event<'_>)> Outlet<'_, S> {
    pub fn emit(&mut self, piece: Piece<'_>) {
        let (connection, flow) = (self.id, self.flow);
        match piece {
            Piece::Data { position, bytes, time, packet_start } => {
                self.statistics.bytes_delivered += bytes.len() as u64;
                (self.sink)(Event::Data { connection, flow, position, time, bytes, packet_start });
            }
            Piece::Hole { position, length, time, cause } => {
                self.statistics.count_hole(cause, length);
                (self.sink)(Event::Hole { connection, flow, position, length, time, cause });
            }
        }
    }
}

impl Connection {
    /// A connection of which one socket is known, and which end that is.
    pub fn new(id: ConnectionId, pair: Pair, socket: &Socket) -> (Connection, usize) {
        let client = is_client(socket);
        let end = usize::from(client == Some(false));
        let known = End { address: socket.local, owner: None, local: false, reads_seen: false };
        let other = End { address: socket.remote, owner: None, local: false, reads_seen: false };
        let ends = if end == 0 { [known, other] } else { [other, known] };
        let facts = Facts { ends, roles_known: client.is_some(), from_start: socket.from_start };
        let mut connection = Connection {
            id,
            facts,
            flows: Default::default(),
            pair,
            accounted: 0,
            armed: [false; 2],
            links: Links::default(),
            sockets: [None, None],
            read: [0; 2],
            acknowledged: [None; 2],
        };
        connection.join(end, socket);
        (connection, end)
    }

    /// Whether these are the addresses that this end sees.
    pub fn is_at(&self, end: usize, local: SocketAddr, remote: SocketAddr) -> bool {
        mirrored(&self.facts.ends, end, local, remote)
    }

    /// The end with these addresses.
    pub fn end_of(&self, local: SocketAddr, remote: SocketAddr) -> Option<usize> {
        let free = |end: &usize| self.sockets.get(*end).is_some_and(Option::is_none);
        let matching = || (0..2).filter(|&end| self.is_at(end, local, remote));
        matching().find(free).or_else(|| matching().next())
    }

    /// Whether a new socket can be the other end: nobody is there yet, and the numbers agree.
    pub fn fits(&self, end: usize, socket: &Socket) -> bool {
        let (Some(None), Some(Some(other))) = (self.sockets.get(end), self.sockets.get(1 - end)) else { return false };
        let near = |a: u32, b: u32, reach: u64| (a.wrapping_sub(b) as i32).unsigned_abs() as u64 <= reach;
        if other.from_start && socket.from_start {
            return near(socket.send_next, other.copied, SAME_BEGINNING)
                && near(socket.copied, other.send_next, SAME_BEGINNING);
        }
        let agrees = |flow: usize, sequence| {
            self.flows[flow].next().is_none_or(|position| near(position as u32, sequence, NEAR))
        };
        !socket.from_start || agrees(end, socket.send_next) && agrees(1 - end, socket.copied)
    }

    /// Whether a new socket with these addresses that is not the other end proves this connection to be over.
    pub fn must_have_ended(&self, end: usize, socket: &Socket) -> bool {
        let same_place = |tapped: &Option<Tapped>| tapped.as_ref().is_some_and(|tapped| tapped.netns == socket.netns);
        match &self.sockets[end & 1] {
            Some(tapped) => tapped.netns == socket.netns,
            None => same_place(&self.sockets[(end + 1) & 1]),
        }
    }

    /// Puts a socket at an end.
    pub fn join(&mut self, end: usize, socket: &Socket) {
        let end = end & 1;
        if socket.from_start {
            self.flows[end].begin(socket.send_next);
            self.flows[1 - end].begin(socket.copied);
        }
        self.sockets[end] = Some(Tapped {
            cookie: socket.cookie,
            netns: socket.netns,
            send_next: socket.send_next,
            copied: socket.copied,
            from_start: socket.from_start,
            closed: false,
            lost: [socket.from_start.then_some(0); 2],
            packet: [None; 2],
        });
        self.facts.ends[end].local = true;
        self.facts.ends[end].reads_seen = socket.reads_seen;
        self.learn(end, socket);
    }

    /// Takes what an announcement says about an end; answers whether that is new. The order of the ends never changes, so
    /// that roles which contradict it stay unknown.
    pub fn learn(&mut self, end: usize, socket: &Socket) -> bool {
        let mut changed = false;
        let known = &mut self.facts.ends[end & 1];
        if socket.owner.is_some() && known.owner != socket.owner {
            known.owner.clone_from(&socket.owner);
            changed = true;
        }
        if !self.facts.roles_known && is_client(socket) == Some(end & 1 == 0) {
            self.facts.roles_known = true;
            changed = true;
        }
        changed
    }

    /// How many records were lost before this segment; `None` if none were.
    pub fn lost_before(&mut self, end: usize, segment: &Segment<'_>) -> Option<u32> {
        let tapped = self.sockets[end & 1].as_mut()?;
        let known = tapped.lost[direction_index(segment.direction)].replace(segment.lost)?;
        let lost = segment.lost.wrapping_sub(known);
        (lost != 0).then_some(lost)
    }

    /// Whether a segment is all of a packet, as most are: there is nothing to take apart.
    pub fn is_whole(&self, end: usize, segment: &Segment<'_>, length: u32) -> bool {
        let open = self.sockets[end & 1].as_ref().and_then(|tapped| tapped.packet[direction_index(segment.direction)]);
        segment.offset == 0 && !segment.more && segment.bytes.len() == length as usize && length != 0 && open.is_none()
    }

    /// Takes a segment apart. `packet` is the position of its packet's first byte, `length` the packet's length.
    pub fn parts<'a>(
        &mut self,
        end: usize,
        segment: &Segment<'a>,
        packet: Position,
        length: u32,
        lost: bool,
    ) -> Parts<'a> {
        let offset = segment.offset.min(length);
        let captured = offset.saturating_add(u32::try_from(segment.bytes.len()).unwrap_or(u32::MAX));
        let length = length.max(captured);
        let mut reached = 0;
        if let Some(tapped) = self.sockets[end & 1].as_mut() {
            let open = &mut tapped.packet[direction_index(segment.direction)];
            reached = open.filter(|(sequence, _)| *sequence == segment.sequence).map_or(0, |(_, reached)| reached);
            *open = segment.more.then_some((segment.sequence, captured));
        }
        let hole = |from: u32, until: u32| {
            (from < until).then_some(Part {
                position: packet + Position::from(from),
                content: Content::Hole(u64::from(until - from), HoleCause::Skipped),
                time: segment.time,
                packet_start: false,
            })
        };
        let position = packet + Position::from(offset);
        let bytes =
            Part { position, content: Content::Bytes(segment.bytes), time: segment.time, packet_start: offset == 0 };
        let before = if lost { None } else { hole(reached, offset) };
        let behind = if segment.more { None } else { hole(captured, length) };
        let bytes = (!segment.bytes.is_empty()).then_some(bytes);
        Parts { lost_before: lost.then_some(position), parts: [before, bytes, behind] }
    }

    /// The sender of `flow` has received the other flow up to the number that it acknowledges.
    /// `every_packet`: everything that it acknowledges should have been seen before.
    pub fn acknowledge<S: FnMut(Event<'_>)>(
        &mut self,
        flow: Flow,
        segment: &Segment<'_>,
        every_packet: bool,
        outlet: &mut Outlet<'_, S>,
    ) {
        let known = &mut self.acknowledged[flow.index()];
        if *known == Some(segment.acknowledged) {
            return;
        }
        let reverse = flow.reverse();
        let reassembly = &mut self.flows[reverse.index()];
        if let Some(position) = reassembly.position_of(segment.acknowledged) {
            *known = Some(segment.acknowledged);
            outlet.flow = reverse;
            reassembly.received(position, segment.time, &mut |piece| outlet.emit(piece));
            if every_packet {
                reassembly.give_up_received(segment.time, &mut |piece| outlet.emit(piece));
            }
            outlet.flow = flow;
        }
    }

    /// An application has read: what it took will not be sent again, and everybody is told if it is news.
    pub fn read<S: FnMut(Event<'_>)>(&mut self, flow: Flow, read: &Read, outlet: &mut Outlet<'_, S>) {
        let reassembly = &mut self.flows[flow.index()];
        let Some(position) = reassembly.position_of(read.copied) else { return };
        reassembly.received(position, read.time, &mut |piece| outlet.emit(piece));
        // A socket whose reads are not reported tells at its end only what it had received.
        let reported = self.facts.ends[flow.reverse().index()].reads_seen;
        if reported && position > self.read[flow.index()].max(reassembly.beginning()) {
            self.read[flow.index()] = position;
            // Where nothing was reported before, the difference means nothing, and is too large to cast a doubt.
            let from = position.saturating_sub(Position::from(read.copied.wrapping_sub(read.from)));
            (outlet.sink)(Event::Read { connection: self.id, flow, from, position, time: read.time, pid: read.pid });
        }
    }

    /// A socket has ended; answers whether the connection has.
    pub fn socket_closed(&mut self, end: usize) -> bool {
        if let Some(tapped) = self.sockets[end & 1].as_mut() {
            tapped.closed = true;
        }
        self.sockets.iter().flatten().all(|tapped| tapped.closed)
    }

    /// The sockets' names.
    pub fn cookies(&self) -> impl Iterator<Item = Cookie> {
        self.sockets.iter().flatten().map(|tapped| tapped.cookie)
    }

    /// Where a flow can be seen.
    pub fn taps(&self, flow: Flow) -> [Option<(Cookie, Direction)>; 2] {
        let at = |end: usize, direction| self.sockets[end].as_ref().map(|tapped| (tapped.cookie, direction));
        [at(flow.index(), Direction::Egress), at(1 - flow.index(), Direction::Ingress)]
    }

    /// What the reorder buffers cost.
    pub fn cost(&self) -> usize {
        self.flows[0].cost() + self.flows[1].cost()
    }

    /// Bytes that wait.
    pub fn waiting_bytes(&self) -> usize {
        self.flows[0].waiting_bytes() + self.flows[1].waiting_bytes()
    }

    /// The flow with the larger reorder buffer, and since when its gap holds it up.
    pub fn largest(&self) -> (Flow, Timestamp) {
        let flow = if self.flows[0].cost() >= self.flows[1].cost() { Flow::Forward } else { Flow::Backward };
        (flow, self.flows[flow.index()].gap_since().unwrap_or_default())
    }

    /// Says of both flows that nobody knows how they go on.
    pub fn give_up(&self, time: Timestamp, statistics: &mut Statistics, sink: &mut impl FnMut(Event<'_>)) {
        for flow in [Flow::Forward, Flow::Backward] {
            if let Some(position) = self.flows[flow.index()].next() {
                let mut outlet = Outlet { id: self.id, flow, statistics, sink };
                outlet.emit(Piece::Hole { position, length: None, time, cause: HoleCause::Missing });
            }
        }
    }
}

/// Whether a socket is its connection's client, where that can be told.
fn is_client(socket: &Socket) -> Option<bool> {
    match (socket.origin, socket.broker_port) {
        (Origin::Connected, _) => Some(true),
        (Origin::Accepted, _) => Some(false),
        (Origin::Unknown, Some(port)) => match (socket.local.port() == port, socket.remote.port() == port) {
            (true, false) => Some(false),
            (false, true) => Some(true),
            _ => None,
        },
        (Origin::Unknown, None) => None,
    }
}

fn direction_index(direction: Direction) -> usize {
    match direction {
        Direction::Egress => 0,
        Direction::Ingress => 1,
    }
}
