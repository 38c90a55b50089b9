//! What must hold of every conversation, however it is cut, reordered, repeated, damaged, or made of nonsense.

#[path = "support/amqp.rs"]
mod amqp;
#[path = "support/conversation.rs"]
mod conversation;
#[path = "support/knowledge.rs"]
mod knowledge;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use acktrail::capture::{Closed, Cookie, Direction, Origin, Record, Segment, Socket};
use acktrail::protocol::operation::{Observed, Operation};
use acktrail::protocol::{self, Sessions};
use acktrail::stream::{self, Streams};
use acktrail::time::Timestamp;
use conversation::{Draw, Side, Write, conversation, converse};
use proptest::collection::vec;
use proptest::prelude::*;

/// Counts what this thread's tests hold; all tests of this binary run in one process, so that figures are upper bounds.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed on to the system's allocator unchanged; counting touches no memory of the caller's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps `dealloc`'s contract, and the pointer came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const CLIENT: Cookie = Cookie(11);
const BROKER: Cookie = Cookie(22);

/// A piece of a flow as a tap sees it.
#[derive(Clone, Debug)]
struct Piece {
    side: Side,
    /// Offset in the flow.
    offset: u32,
    bytes: Vec<u8>,
    /// Tapped at the receiver too, or only there.
    tap: u8,
    /// Records lost on this flow before it.
    lost: u32,
}

/// Both stages, fed with records.
struct Follower {
    streams: Streams,
    sessions: Sessions,
    starts: [u32; 2],
    now: u64,
    operations: Vec<Observed>,
    limits: (stream::Limits, protocol::Limits),
}

impl Follower {
    fn new(starts: [u32; 2], from_start: bool) -> Follower {
        Follower::within(starts, from_start, stream::Limits::default(), protocol::Limits::default())
    }

    fn within(starts: [u32; 2], from_start: bool, streams: stream::Limits, sessions: protocol::Limits) -> Follower {
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
                from_start,
                owner: None,
            };
            follower.record(&Record::Socket(socket));
        }
        follower
    }

    fn record(&mut self, record: &Record<'_>) {
        let Follower { streams, sessions, operations, .. } = self;
        streams.handle_record(record, &mut |event| sessions.handle_event(&event, operations));
    }

    fn piece(&mut self, piece: &Piece) {
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

    fn close(&mut self) {
        for cookie in [CLIENT, BROKER] {
            let copied = self.starts[usize::from(cookie == CLIENT)];
            self.record(&Record::Closed(Closed { time: Timestamp(self.now + 1), cookie, copied }));
        }
    }

    /// What was observed, without the times.
    fn outcome(mut self) -> Vec<Operation> {
        self.close();
        self.operations.into_iter().map(|observed| observed.operation).collect()
    }
}

/// One piece per write, in order.
fn whole(writes: &[Write]) -> Vec<Piece> {
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
fn shuffled(writes: &[Write], noise: &mut impl FnMut() -> u32) -> Vec<Piece> {
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
            if noise() % 8 == 0 {
                // A retransmission that covers a little more than one piece.
                let length = (length + noise() as usize % 50).min(rest.len());
                cut.push(Piece { offset, bytes: rest[..length].to_vec(), tap: noise() as u8, ..piece.clone() });
            }
            offset += length as u32;
            rest = later;
        }
        for index in (1..cut.len()).rev() {
            if noise() % 3 == 0 {
                cut.swap(index, noise() as usize % (index + 1));
            }
        }
        pieces.extend(cut);
    }
    pieces
}

/// A stream of numbers that depends on nothing but its seed.
fn noise(mut seed: u64) -> impl FnMut() -> u32 {
    move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as u32
    }
}

fn draws(most: usize) -> impl Strategy<Value = Vec<Draw>> {
    vec(any::<Draw>(), 0..most)
}

fn follow(starts: [u32; 2], pieces: &[Piece]) -> Vec<Operation> {
    let mut follower = Follower::new(starts, true);
    pieces.iter().for_each(|piece| follower.piece(piece));
    follower.outcome()
}

/// `PROPERTY_FACTOR` in the environment makes for a longer run.
fn config(cases: u32) -> ProptestConfig {
    let factor = std::env::var("PROPERTY_FACTOR").ok().and_then(|factor| factor.parse().ok()).unwrap_or(1);
    let cases = cases.saturating_mul(factor);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

const CUTS: u32 = 600;
const HOLES: u32 = 1500;
const NONSENSE: u32 = 600;

proptest! {
    #![proptest_config(config(CUTS))]

    /// Any cut into segments, any order, duplicates and sequence wrap: the same operations.
    #[test]
    fn packets_do_not_matter(draws in draws(60), starts: [u32; 2], seed: u64, near_wrap: bool, polite: bool) {
        let starts = if near_wrap { starts.map(|start| u32::MAX - start % 5000) } else { starts };
        let writes = conversation(&draws, polite);
        let expected = follow([7, 9], &whole(&writes));
        prop_assert!(!expected.iter().any(|operation| matches!(operation, Operation::Trouble(_) | Operation::Gap(_))));
        let found = follow(starts, &shuffled(&writes, &mut noise(seed)));
        let positions = |operation: &Operation| knowledge::without_position(operation);
        let (expected, found): (Vec<_>, Vec<_>) =
            (expected.iter().map(positions).collect(), found.iter().map(positions).collect());
        prop_assert_eq!(found, expected);
    }
}

proptest! {
    #![proptest_config(config(HOLES))]

    /// A hole removes knowledge; it never makes anything up.
    #[test]
    fn holes_only_remove_knowledge(
        draws in draws(60),
        seed: u64,
        holes in vec((any::<bool>(), any::<u16>(), 1u32..3000), 1..4),
        polite: bool,
    ) {
        let (writes, transacted) = converse(&draws, polite);
        let expected = follow([7, 9], &whole(&writes));
        let mut noise = noise(seed);
        let pieces = with_holes(whole(&writes), &holes, &mut noise);
        let found = follow([7, 9], &pieces);
        let client_hole = holes.iter().any(|(client, ..)| *client);
        if let Err(wrong) = knowledge::is_part_of(&found, &expected, client_hole, &transacted) {
            let list = |operations: &[Operation]| operations.iter().map(|one| format!("  {one:?}\n")).collect::<String>();
            let text = format!("{wrong}\nfound:\n{}expected:\n{}", list(&found), list(&expected));
            return Err(TestCaseError::fail(text));
        }
    }
}

/// Takes byte ranges out of the flows. What is left of a cut piece may be smaller or larger packets.
fn with_holes(pieces: Vec<Piece>, holes: &[(bool, u16, u32)], noise: &mut impl FnMut() -> u32) -> Vec<Piece> {
    let total =
        |side: Side| pieces.iter().filter(|piece| piece.side == side).map(|piece| piece.bytes.len()).sum::<usize>();
    let ranges: Vec<(Side, u32, u32)> = holes
        .iter()
        .map(|(client, place, length)| {
            let side = if *client { Side::Client } else { Side::Broker };
            let start = (total(side) as u64 * u64::from(*place) / 65_536) as u32;
            (side, start, start + length)
        })
        .collect();
    let mut left = Vec::new();
    let mut lost = [0u32; 2];
    for piece in pieces {
        let missing =
            |at: u32| ranges.iter().any(|(side, start, end)| *side == piece.side && (*start..*end).contains(&at));
        let mut at = 0;
        while at < piece.bytes.len() {
            let gone = missing(piece.offset + at as u32);
            let same = (at..piece.bytes.len()).take_while(|&at| missing(piece.offset + at as u32) == gone).count();
            let bytes = &piece.bytes[at..at + same];
            if gone {
                lost[piece.side as usize] += 1;
            } else {
                let half = if noise() % 3 == 0 { noise() as usize % bytes.len().max(1) } else { 0 };
                for (from, bytes) in [(0, &bytes[..half]), (half, &bytes[half..])] {
                    if !bytes.is_empty() {
                        let offset = piece.offset + (at + from) as u32;
                        let lost = lost[piece.side as usize];
                        left.push(Piece { offset, bytes: bytes.to_vec(), lost, ..piece.clone() });
                    }
                }
            }
            at += same;
        }
    }
    left
}

proptest! {
    #![proptest_config(config(NONSENSE))]

    /// Arbitrary bytes, and valid ones with damage, neither panic nor take more than the budget.
    #[test]
    fn nonsense_is_survived_within_the_budget(
        draws in draws(80),
        from_start: bool,
        damage in vec((any::<u16>(), any::<u8>(), 0u8..4), 0..40),
        garbage in vec(any::<u8>(), 0..2000),
        seed: u64,
    ) {
        let streams = stream::Limits { waiting_bytes: 64 << 10, waiting_bytes_per_connection: 32 << 10, ..Default::default() };
        let sessions = protocol::Limits { bytes: 96 << 10, bytes_per_connection: 64 << 10, ..Default::default() };
        let mut noise = noise(seed);
        let mut pieces = shuffled(&conversation(&draws, false), &mut noise);
        for (place, byte, kind) in &damage {
            let count = pieces.len();
            if count == 0 {
                break;
            }
            let piece = &mut pieces[usize::from(*place) % count];
            let at = noise() as usize % piece.bytes.len().max(1);
            match kind {
                0 => piece.bytes[at] = *byte,
                1 => piece.bytes[at] ^= 1 << (byte % 8),
                2 => piece.offset = piece.offset.wrapping_add(noise() % 5000),
                _ => piece.bytes = garbage.clone(),
            }
        }
        pieces.retain(|piece| !piece.bytes.is_empty());
        let before = HELD.load(Ordering::Relaxed);
        let mut follower = Follower::within([u32::MAX - 50, 77], from_start, streams, sessions);
        for piece in &pieces {
            follower.piece(piece);
            let cost = follower.sessions.cost();
            // One flow's search may overshoot by the packet at hand, of each flow.
            prop_assert!(cost <= follower.limits.1.bytes + (256 << 10), "{cost}");
            prop_assert!(follower.streams.statistics().waiting_bytes as usize <= follower.limits.0.waiting_bytes + (64 << 10));
            follower.operations.clear();
        }
        follower.close();
        prop_assert_eq!(follower.sessions.cost(), 0);
        let _ = before;
    }
}

#[test]
fn the_number_of_cases_is_told() {
    println!("properties: {CUTS} cuts, {HOLES} with holes, {NONSENSE} of nonsense");
}
