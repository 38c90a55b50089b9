//! Both stages fed with the segments of a conversation, cut, reordered and repeated.

#![allow(dead_code, reason = "each test uses a part of it")]

use acktrail::capture::{Closed, Cookie, Direction, Origin, Record, Segment, Socket};
use acktrail::protocol::operation::{Observed, Operation};
use acktrail::protocol::{self, Sessions};
use acktrail::stream::{self, Streams};
use acktrail::time::Timestamp;
use proptest::collection::vec;
use proptest::prelude::*;

use super::conversation::{Draw, Side, Write};

pub const CLIENT: Cookie = Cookie(11);
pub const BROKER: Cookie = Cookie(22);

/// A piece of a flow as a tap sees it.
#[derive(Clone, Debug)]
pub struct Piece {
    pub side: Side,
    /// Offset in the flow.
    pub offset: u32,
    pub bytes: Vec<u8>,
    /// Tapped at the receiver too, or only there.
    pub tap: u8,
    /// Records lost on this flow before it.
    pub lost: u32,
}

/// Both stages, fed with records.
pub struct Follower {
    pub streams: Streams,
    pub sessions: Sessions,
    pub starts: [u32; 2],
    pub now: u64,
    pub operations: Vec<Observed>,
    pub limits: (stream::Limits, protocol::Limits),
}

impl Follower {
    pub fn new(starts: [u32; 2], from_start: bool) -> Follower {
        Follower::within(starts, from_start, stream::Limits::default(), protocol::Limits::default())
    }

    pub fn within(starts: [u32; 2], from_start: bool, streams: stream::Limits, sessions: protocol::Limits) -> Follower {
        let mut follower = Follower {
            streams: Streams::new(streams),
            sessions: Sessions::new(sessions),
            starts,
            now: 0,
            operations: Vec::new(),
            limits: (streams, sessions),
        };
        let addresses = [([10, 0, 0, 1], 40_000).into(), ([10, 0, 0, 2], 5672).into()];
        for (end, cookie) in [(0, CLIENT), (1, BROKER)] {
            let socket = Socket {
                time: Timestamp(0),
                cookie,
                local: addresses[end],
                remote: addresses[1 - end],
                netns: end as u32,
                cgroup: 0,
                origin: if end == 0 { Origin::Connected } else { Origin::Accepted },
                broker_port: Some(5672),
                send_next: starts[end],
                copied: starts[1 - end],
                reads_seen: true,
                from_start,
                owner: None,
            };
            follower.record(&Record::Socket(socket));
        }
        follower
    }

    pub fn record(&mut self, record: &Record<'_>) {
        let Follower { streams, sessions, operations, .. } = self;
        streams.handle_record(record, &mut |event| sessions.handle_event(&event, operations));
    }

    pub fn piece(&mut self, piece: &Piece) {
        self.now += 1000;
        let (sender, receiver) = if piece.side == Side::Client { (CLIENT, BROKER) } else { (BROKER, CLIENT) };
        let taps: &[(Cookie, Direction)] = match piece.tap % 4 {
            0 | 1 => &[(sender, Direction::Egress)],
            2 => &[(sender, Direction::Egress), (receiver, Direction::Ingress)],
            _ => &[(receiver, Direction::Ingress)],
        };
        for (cookie, direction) in taps {
            let start = self.starts[piece.side as usize];
            self.record(&Record::Segment(Segment {
                time: Timestamp(self.now),
                cookie: *cookie,
                direction: *direction,
                sequence: start.wrapping_add(piece.offset),
                // Nothing is acknowledged: the order decides alone.
                acknowledged: self.starts[1 - piece.side as usize],
                length: piece.bytes.len() as u32,
                offset: 0,
                bytes: &piece.bytes,
                more: false,
                lost: piece.lost,
            }));
        }
    }

    pub fn close(&mut self) {
        for cookie in [CLIENT, BROKER] {
            let copied = self.starts[usize::from(cookie == CLIENT)];
            self.record(&Record::Closed(Closed { time: Timestamp(self.now + 1), cookie, copied }));
        }
    }

    /// What was observed, without the times.
    pub fn outcome(mut self) -> Vec<Operation> {
        self.close();
        self.operations.into_iter().map(|observed| observed.operation).collect()
    }
}

/// One piece per write, in order.
pub fn whole(writes: &[Write]) -> Vec<Piece> {
    let mut offsets = [0u32; 2];
    let piece = |write: &Write| {
        let offset = offsets[write.side as usize];
        offsets[write.side as usize] += write.bytes.len() as u32;
        Piece { side: write.side, offset, bytes: write.bytes.clone(), tap: 0, lost: 0 }
    };
    writes.iter().map(piece).collect()
}

/// Consecutive writes of one side become one stretch; each stretch is cut at random places, and its pieces come in random
/// order, some twice. What the two sides say keeps its order, for one answers the other.
pub fn shuffled(writes: &[Write], noise: &mut impl FnMut() -> u32) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut stretch: Vec<Piece> = Vec::new();
    for piece in whole(writes) {
        match stretch.last_mut().filter(|last| last.side == piece.side) {
            Some(last) => last.bytes.extend(piece.bytes),
            None => stretch.push(piece),
        }
    }
    for piece in stretch {
        let mut cut = Vec::new();
        let mut rest = &piece.bytes[..];
        let mut offset = piece.offset;
        while !rest.is_empty() {
            let longest = [3, 40, 1500, 60_000][noise() as usize % 4];
            let length = (1 + noise() as usize % longest).min(rest.len());
            let (now, later) = rest.split_at(length);
            cut.push(Piece { offset, bytes: now.to_vec(), tap: noise() as u8, ..piece.clone() });
            if noise().is_multiple_of(8) {
                // A retransmission that covers a little more than one piece.
                let length = (length + noise() as usize % 50).min(rest.len());
                cut.push(Piece { offset, bytes: rest[..length].to_vec(), tap: noise() as u8, ..piece.clone() });
            }
            offset += length as u32;
            rest = later;
        }
        for index in (1..cut.len()).rev() {
            if noise().is_multiple_of(3) {
                cut.swap(index, noise() as usize % (index + 1));
            }
        }
        pieces.extend(cut);
    }
    pieces
}

/// A stream of numbers that depends on nothing but its seed.
pub fn noise(mut seed: u64) -> impl FnMut() -> u32 {
    move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as u32
    }
}

/// Numbers for a conversation.
pub fn draws(most: usize) -> impl Strategy<Value = Vec<Draw>> {
    vec(any::<Draw>(), 0..most)
}

/// `PROPERTY_FACTOR` in the environment makes for a longer run: `make test` asks for four times as many.
pub fn config(cases: u32) -> ProptestConfig {
    let factor = std::env::var("PROPERTY_FACTOR").ok().and_then(|factor| factor.parse().ok()).unwrap_or(1);
    let cases = cases.saturating_mul(factor);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}
