//! What a login keeps secret is in no recording, wherever the capture begins and whatever it loses; and what is left gives a
//! replay the same operations. Nothing here is random but by its seed: a failure names it.

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;

use acktrail::capture::recording::{Header, Reader};
use acktrail::capture::{Closed, Cookie, Direction, Origin, Record, Segment, Socket};
use acktrail::pipeline;
use acktrail::protocol::operation::Observed;
use acktrail::protocol::{Limits, Sessions};
use acktrail::recorder::Recorder;
use acktrail::stream::{self, Streams};
use acktrail::time::Timestamp;

use crate::amqp::{self as wire, Bytes, Properties};
use crate::conversation::Side;
use crate::follower::{BROKER, CLIENT, config, noise};
use crate::owned::Owned;

const SEEDS: u32 = 375;
const FRAME_MAX: u32 = 4096;
/// In every three bytes of a credential one is at least this, and hardly any other is.
const MARK: u8 = 0xf0;

type Noise<'n> = &'n mut dyn FnMut() -> u32;

/// What both sides write, and where the client's credentials are.
#[derive(Default)]
struct Talk {
    writes: Vec<(Side, Vec<u8>)>,
    client: Vec<u8>,
    secrets: Vec<Range<usize>>,
}

impl Talk {
    fn client(&mut self, bytes: &[u8]) {
        self.client.extend(bytes);
        self.writes.push((Side::Client, bytes.to_vec()));
    }

    fn broker(&mut self, bytes: Vec<u8>) {
        self.writes.push((Side::Broker, bytes));
    }

    /// A method of class connection with a credential in it, between what comes before it and behind it.
    fn credential(&mut self, method: u16, before: Bytes, after: Bytes, noise: Noise<'_>) {
        let secret = credential(noise);
        let arguments = before.long_string(&secret).raw(after.0);
        let frame = wire::method(0, 10, method, arguments);
        let at = frame.windows(secret.len()).position(|window| window == secret).expect("it is in there");
        let start = self.client.len() + at;
        self.secrets.push(start..start + secret.len());
        self.client(&frame);
    }

    fn update_secret(&mut self, noise: Noise<'_>) {
        self.credential(70, Bytes::default(), Bytes::default().short_string("refresh"), noise);
        self.broker(wire::method(0, 10, 71, Bytes::default()));
    }

    /// A whole connection: the login, then publishes, among and within which the secret is updated.
    fn new(noise: Noise<'_>) -> Talk {
        let mut talk = Talk::default();
        let properties = Bytes::default().text_entry("product", "tester").text_entry("connection_name", "app");
        talk.client(wire::PREFACE);
        talk.broker(wire::start());
        let before = Bytes::default().table(properties).short_string("PLAIN");
        talk.credential(11, before, Bytes::default().short_string("en_US"), noise);
        for _ in 0..noise() % 3 {
            talk.broker(wire::method(0, 10, 20, Bytes::default().long_string("challenge")));
            talk.credential(21, Bytes::default(), Bytes::default(), noise);
        }
        talk.broker(wire::tune(10, FRAME_MAX));
        talk.client(&[wire::tune_ok(10, FRAME_MAX), wire::open("/")].concat());
        talk.broker(wire::open_ok());
        for channel in 1..=2 {
            talk.client(&wire::channel_open(channel));
            talk.broker(wire::channel_open_ok(channel));
        }
        talk.client(&wire::confirm_select(1));
        talk.broker(wire::confirm_select_ok(1));
        let mut confirmed = 0;
        for number in 0..4 + noise() % 12 {
            let channel = 1 + u16::from(noise().is_multiple_of(4));
            talk.publish(channel, number, noise);
            if channel == 1 {
                confirmed += 1;
                talk.broker(wire::ack(1, confirmed, false));
            }
            match noise() % 8 {
                0 => talk.client(&wire::heartbeat()),
                1 | 2 => talk.update_secret(noise),
                _ => {}
            }
        }
        talk
    }

    /// Of each byte of the client, whether it is a credential's.
    fn is_secret(&self) -> Vec<bool> {
        let mut is_secret = vec![false; self.client.len()];
        self.secrets.iter().for_each(|secret| is_secret[secret.clone()].fill(true));
        is_secret
    }

    fn publish(&mut self, channel: u16, number: u32, noise: Noise<'_>) {
        let size = [0, 5, 60, 900, 4088, 9000][noise() as usize % 6] + noise() as usize % 40;
        let properties = Properties { message_id: Some(format!("m{number}")), ..Properties::default() };
        let largest = [FRAME_MAX as usize - 8, 50, 300][noise() as usize % 3].max(size / 20);
        self.client(&wire::publish(channel, "ex", "key", false));
        for frame in wire::content(channel, &properties, &vec![b'.'; size], largest) {
            // Channel 0 may speak between a content's frames.
            if noise().is_multiple_of(24) {
                self.update_secret(noise);
            }
            self.client(&frame);
        }
    }
}

/// Bytes of which no four follow each other anywhere else, and which look like the beginnings and ends of frames as often as
/// they can: what a token is made of is nobody's business.
fn credential(noise: Noise<'_>) -> Vec<u8> {
    let length = 4 + noise() as usize % [20, 200][noise() as usize % 2];
    let byte = |at: usize| match (at % 3, noise()) {
        (2, drawn) => MARK | (drawn % 16) as u8,
        (_, drawn) => [1, 2, 3, 8, b'A', 0xce, 0x16, (1 + drawn / 16 % 255) as u8][drawn as usize % 8],
    };
    (0..length).map(byte).collect()
}

/// Which sockets are on the host of the capture.
#[derive(Clone, Copy, PartialEq)]
enum Taps {
    Client,
    Broker,
    Both,
}

/// How the capture sees the connection.
struct View {
    taps: Taps,
    roles_known: bool,
    acknowledges: bool,
    /// Offsets in the client's flow; what was sent before the first byte seen was sent before the capture began.
    begins: usize,
    holes: Vec<Range<usize>>,
    /// The kernel says that it has lost records; else the bytes merely do not come.
    counted: bool,
    /// Lost packets are sent again later.
    sent_again: bool,
    /// The connection ends before the capture does.
    ends: bool,
    starts: [u32; 2],
}

impl View {
    fn new(talk: &Talk, noise: Noise<'_>) -> View {
        let place = |noise: Noise<'_>| match noise() % 4 {
            0 => noise() as usize % talk.client.len(),
            _ => {
                let secret = &talk.secrets[noise() as usize % talk.secrets.len()];
                (secret.start + noise() as usize % (secret.len() + 40)).saturating_sub(40)
            }
        };
        let late = noise().is_multiple_of(2);
        let begins = if late { place(noise) } else { 0 };
        let holes = (0..noise() % 4).map(|_| {
            let start = place(noise);
            start..start + 1 + noise() as usize % [8, 60, 400, 6000][noise() as usize % 4]
        });
        View {
            holes: holes.collect(),
            begins,
            taps: [Taps::Client, Taps::Broker, Taps::Both][noise() as usize % 3],
            roles_known: !noise().is_multiple_of(4),
            acknowledges: noise().is_multiple_of(2),
            counted: noise().is_multiple_of(2),
            sent_again: noise().is_multiple_of(2),
            ends: !noise().is_multiple_of(4),
            starts: [noise(), u32::MAX - noise() % 2000],
        }
    }

    /// The flow's sender and the way its bytes take at the tap.
    fn tap(&self, side: Side) -> (Cookie, Direction) {
        match (self.taps, side) {
            (Taps::Broker, Side::Client) => (BROKER, Direction::Ingress),
            (Taps::Client, Side::Broker) => (CLIENT, Direction::Ingress),
            (_, Side::Client) => (CLIENT, Direction::Egress),
            (_, Side::Broker) => (BROKER, Direction::Egress),
        }
    }

    fn is_missing(&self, at: usize) -> bool {
        self.holes.iter().any(|hole| hole.contains(&at))
    }

    fn sockets(&self, time: u64) -> Vec<Owned> {
        let addresses = [([10, 0, 0, 1], 40_000).into(), ([10, 0, 0, 2], 5672).into()];
        let ends = [(0, CLIENT, Taps::Broker), (1, BROKER, Taps::Client)];
        let socket = |(end, cookie, _): (usize, Cookie, Taps)| Socket {
            time: Timestamp(time),
            cookie,
            local: addresses[end],
            remote: addresses[1 - end],
            netns: end as u32,
            cgroup: 0,
            origin: Origin::Unknown,
            broker_port: self.roles_known.then_some(5672),
            send_next: self.starts[end],
            copied: self.starts[1 - end],
            reads_seen: true,
            from_start: self.begins == 0,
            owner: None,
        };
        let here = ends.into_iter().filter(|(.., without)| self.taps != *without);
        here.map(|end| Owned { record: Record::Socket(socket(end)), bytes: Vec::new() }).collect()
    }
}

/// A packet: its side, its offset in the flow, its bytes, and whether it is lost.
struct Packet {
    side: Side,
    offset: usize,
    bytes: Vec<u8>,
    lost: bool,
}

/// The packets of a conversation: writes that follow each other may share one, and are cut anywhere, at least where holes begin
/// and end.
fn packets(talk: &Talk, view: &View, noise: Noise<'_>) -> Vec<Packet> {
    let mut stretches: Vec<(Side, usize, Vec<u8>)> = Vec::new();
    let mut offsets = [0, 0];
    for (side, bytes) in &talk.writes {
        match stretches.last_mut() {
            Some((last, _, all)) if last == side && !noise().is_multiple_of(3) => all.extend(bytes),
            _ => stretches.push((*side, offsets[*side as usize], bytes.clone())),
        }
        offsets[*side as usize] += bytes.len();
    }
    let mut packets = Vec::new();
    for (side, mut offset, bytes) in stretches {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let longest = [6, 60, 1448, 60_000, 60_000][noise() as usize % 5];
            let mut length = (1 + noise() as usize % longest).min(rest.len());
            let mut lost = false;
            if side == Side::Client {
                lost = view.is_missing(offset);
                let change = |at: &usize| view.is_missing(*at) != lost || *at == view.begins;
                length = (offset + 1..offset + length).find(change).map_or(length, |end| end - offset);
            }
            let (now, later) = rest.split_at(length);
            packets.push(Packet { side, offset, bytes: now.to_vec(), lost });
            offset += length;
            rest = later;
        }
    }
    packets
}

/// What the capture delivers, in its order.
fn records(talk: &Talk, view: &View, noise: Noise<'_>) -> Vec<Owned> {
    let mut packets = packets(talk, view, noise);
    let first = packets.iter().position(|packet| packet.side == Side::Client && packet.offset >= view.begins);
    packets.drain(..first.unwrap_or(0));
    let mut order: Vec<(usize, bool)> = Vec::new();
    for (number, packet) in packets.iter().enumerate() {
        order.push((number, packet.lost));
        if (packet.lost && view.sent_again) || noise().is_multiple_of(16) {
            let at = order.len() - noise() as usize % order.len().min(3);
            order.insert(at, (number, false));
            let last = order.len() - 1;
            order.swap(at, last.min(at + noise() as usize % 4));
        }
        if noise().is_multiple_of(16) && order.len() > 1 {
            let last = order.len() - 1;
            order.swap(last, last - 1);
        }
    }
    let mut time = 1_000_000_000;
    let mut sent = [0usize; 2];
    let mut lost = 0;
    let mut records = view.sockets(time);
    for (number, is_lost) in order {
        let packet = &packets[number];
        time += match noise() % 40 {
            0 => 400_000_000,
            1 => 1_100_000_000,
            2 => 2_500_000_000,
            _ => 1_000_000,
        };
        let side = packet.side as usize;
        sent[side] = sent[side].max(packet.offset + packet.bytes.len());
        if is_lost {
            lost += u32::from(view.counted);
            continue;
        }
        let (cookie, direction) = view.tap(packet.side);
        let acknowledged = if view.acknowledges { sent[1 - side] as u32 } else { 0 };
        let segment = Segment {
            time: Timestamp(time),
            cookie,
            direction,
            sequence: view.starts[side].wrapping_add(packet.offset as u32),
            acknowledged: view.starts[1 - side].wrapping_add(acknowledged),
            length: packet.bytes.len() as u32,
            offset: 0,
            bytes: &[],
            more: false,
            lost: if packet.side == Side::Client { lost } else { 0 },
        };
        records.push(Owned { record: Record::Segment(segment), bytes: packet.bytes.clone() });
    }
    for cookie in [CLIENT, BROKER].into_iter().filter(|_| view.ends) {
        let copied = view.starts[usize::from(cookie == CLIENT)];
        let closed = Closed { time: Timestamp(time + 1_000_000), cookie, copied };
        records.push(Owned { record: Record::Closed(closed), bytes: Vec::new() });
    }
    records
}

/// What the stages make of records.
fn operations(records: &[Owned]) -> Vec<Observed> {
    let mut streams = Streams::new(stream::Limits::default());
    let mut sessions = Sessions::new(Limits::default());
    let mut operations = Vec::new();
    for record in records {
        streams.handle_record(&record.borrow(), &mut |event| sessions.handle_event(&event, &mut operations));
    }
    operations
}

/// Records, and reads the recording back.
fn recorded(records: &[Owned], noise: Noise<'_>) -> Vec<Owned> {
    let header = Header { created: Timestamp(0), acktrail: "0.1.0".to_owned(), kernel: None, host: None };
    let mut recorder = Recorder::new(Vec::new(), &header, pipeline::Limits::default()).expect("to memory");
    let mut now = Timestamp(0);
    for record in records {
        now = record.borrow().time();
        recorder.record(&record.borrow()).expect("possible");
        if noise().is_multiple_of(3) {
            recorder.commit(now).expect("to memory");
        }
    }
    let (file, _) = recorder.finish(now).expect("to memory");
    let mut reader = Reader::new(&file[..]).expect("a recording");
    let mut found = Vec::new();
    while let Some(record) = reader.next().expect("whole") {
        found.push(match record {
            Record::Segment(segment) => {
                let bytes = segment.bytes.to_vec();
                Owned { record: Record::Segment(Segment { bytes: &[], ..segment }), bytes }
            }
            Record::Socket(socket) => Owned { record: Record::Socket(socket), bytes: Vec::new() },
            Record::Read(read) => Owned { record: Record::Read(read), bytes: Vec::new() },
            Record::Closed(closed) => Owned { record: Record::Closed(closed), bytes: Vec::new() },
            Record::Counters(counters) => Owned { record: Record::Counters(counters), bytes: Vec::new() },
        });
    }
    found
}

/// The bytes of credentials that can be read in records: offsets in the client's flow.
fn readable(talk: &Talk, is_secret: &[bool], view: &View, records: &[Owned]) -> Vec<usize> {
    let mut readable = Vec::new();
    for owned in records {
        let Record::Segment(segment) = &owned.record else { continue };
        if (segment.cookie, segment.direction) != view.tap(Side::Client) {
            continue;
        }
        let offset = segment.sequence.wrapping_sub(view.starts[0]) as usize;
        for (at, byte) in (offset..).zip(&owned.bytes) {
            if is_secret[at] && *byte == talk.client[at] {
                readable.push(at);
            }
        }
    }
    readable.sort_unstable();
    readable.dedup();
    readable
}

/// Pieces of credentials in the recorded bytes, wherever they are.
fn pieces(talk: &Talk, records: &[Owned]) -> usize {
    let known: HashSet<&[u8]> = talk.secrets.iter().flat_map(|secret| talk.client[secret.clone()].windows(4)).collect();
    let windows = records.iter().flat_map(|record| record.bytes.windows(4));
    windows.filter(|window| window.iter().any(|byte| *byte >= MARK) && known.contains(window)).count()
}

/// Records what a view shows of a conversation. Gives how many bytes of credentials the taps delivered, and how many of them can
/// be read in the recording.
fn check(what: &str, talk: &Talk, view: &View, noise: Noise<'_>) -> (usize, usize) {
    let live = records(talk, view, noise);
    let is_secret = talk.is_secret();
    let kept = recorded(&live, noise);
    assert_eq!(live.len(), kept.len(), "{what}");
    assert_eq!(pieces(talk, &kept), 0, "{what}: pieces of credentials");
    let left = readable(talk, &is_secret, view, &kept);
    // A prediction looks at one octet, and has it kept if it is the one that ends a frame. That is no piece of anything.
    let telling: Vec<usize> = left.iter().copied().filter(|at| talk.client[*at] != 0xce).collect();
    assert!(telling.is_empty(), "{what}: bytes of credentials at {telling:?}");
    assert!(left.windows(2).all(|pair| pair[0] + 1 < pair[1]), "{what}: pieces of credentials in small packets");
    let (expected, found) = (operations(&live), operations(&kept));
    let same = expected.iter().zip(&found).take_while(|(one, other)| one == other).count();
    assert_eq!(found.get(same), expected.get(same), "{what}: a replay goes another way after {same} operations");
    assert_eq!(found.len(), expected.len(), "{what}: a replay goes another way");
    (readable(talk, &is_secret, view, &live).len(), left.len())
}

#[test]
fn are_in_no_recording() {
    let mut totals = (0, 0, 0);
    let seeds = u64::from(config(SEEDS).cases);
    for seed in 0..seeds {
        let mut noise = noise(seed);
        let talk = Talk::new(&mut noise);
        let view = View::new(&talk, &mut noise);
        let (delivered, left) = check(&format!("seed {seed}"), &talk, &view, &mut noise);
        totals = (totals.0 + usize::from(delivered > 0), totals.1 + delivered, totals.2 + left);
    }
    let (shown, delivered, left) = totals;
    println!(
        "credentials: {seeds} conversations, {delivered} bytes of credentials in {shown} of them, {left} readable"
    );
    assert!(shown as u64 > seeds / 2, "hardly anything was there to be wiped: {shown}");
}

/// Each byte of a login and of an update: joined there, or a hole of some length from there on, by turns; all of it with a
/// `PROPERTY_FACTOR`.
#[test]
fn are_in_no_recording_wherever_a_hole_is() {
    // None: joined there.
    const HOLES: [usize; 5] = [0, 1, 9, 40, 300];
    let thorough = config(1).cases > 1;
    let mut cases = 0;
    for (seed, counted) in [(1, true), (2, false)] {
        let talk = Talk::new(&mut noise(seed));
        let ends = talk.secrets.iter().flat_map(|secret| secret.start.saturating_sub(60)..secret.end + 12);
        for place in ends.collect::<BTreeSet<_>>() {
            let holes = HOLES.into_iter().enumerate().filter(|(turn, _)| thorough || place % HOLES.len() == *turn);
            for length in holes.map(|(_, length)| length) {
                let view = View {
                    taps: Taps::Both,
                    roles_known: true,
                    acknowledges: true,
                    begins: if length == 0 { place } else { 0 },
                    holes: (length > 0).then_some(place..place + length).into_iter().collect(),
                    counted,
                    sent_again: false,
                    ends: true,
                    starts: [7, 9],
                };
                check(&format!("seed {seed}, {length} bytes from {place}"), &talk, &view, &mut noise(place as u64));
                cases += 1;
            }
        }
    }
    println!("credentials: {cases} holes and joins, each at a byte of its own");
}
