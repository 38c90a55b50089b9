//! Conversations of requests and responses drawn from the table, through whole sessions: the same operations however they are cut;
//! holes only remove; bytes that mean nothing do no harm.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::super::encode::noise;
use super::*;
use crate::protocol::operation::log::{LogOperation, Topic};
use crate::protocol::operation::{Observed, Operation};
use crate::protocol::{Limits, Sessions};
use crate::stream::{ConnectionId, End, Event, Facts, Flow};
use crate::time::Timestamp;

const CONNECTION: ConnectionId = ConnectionId(1);

/// A frame, and who sends it.
struct Frame {
    flow: Flow,
    bytes: Vec<u8>,
}

/// A client that introduces itself, and what it and its broker say then.
fn conversation(seed: u64, exchanges: usize) -> Vec<Frame> {
    let mut noise = noise(seed);
    let hello = b"\0\0\0\x0d\0\x12\0\0\0\0\0\0\0\x03app".to_vec();
    let mut frames = vec![
        Frame { flow: Flow::Forward, bytes: hello },
        Frame { flow: Flow::Backward, bytes: b"\0\0\0\x0a\0\0\0\0\0\0\0\0\0\0".to_vec() },
    ];
    let followed: Vec<_> = table().messages().iter().filter(|message| message.kind == Kind::Request).collect();
    for correlation in 1..=exchanges as i32 {
        let request = followed[noise() as usize % followed.len()];
        let versions = all();
        let of_request: Vec<_> = versions.iter().filter(|(message, _, _)| std::ptr::eq(*message, request)).collect();
        let (message, version, _) = of_request[noise() as usize % of_request.len()];
        let body = draw(table(), message, *version, &mut noise);
        let mut head = Vec::new();
        head.extend(message.key.to_be_bytes());
        head.extend(version.to_be_bytes());
        head.extend(correlation.to_be_bytes());
        frames.push(frame(Flow::Forward, &head, &body.bytes));
        let response = versions
            .iter()
            .find(|(other, of, _)| other.key == message.key && other.kind == Kind::Response && of == version)
            .expect("every request has a response");
        let body = draw(table(), response.0, *version, &mut noise);
        frames.push(frame(Flow::Backward, &correlation.to_be_bytes(), &body.bytes));
    }
    frames
}

fn frame(flow: Flow, head: &[u8], body: &[u8]) -> Frame {
    let size = u32::try_from(head.len() + body.len()).unwrap();
    Frame { flow, bytes: [&size.to_be_bytes(), head, body].concat() }
}

struct Listener {
    sessions: Sessions,
    operations: Vec<Observed>,
    positions: [u64; 2],
}

impl Listener {
    fn new() -> Listener {
        let mut listener =
            Listener { sessions: Sessions::new(Limits::default()), operations: Vec::new(), positions: [0; 2] };
        let end = |port| End { address: ([127, 0, 0, 1], port).into(), owner: None, local: true, reads_seen: true };
        let facts = Facts { ends: [end(40_000), end(9092)], roles_known: true, from_start: true };
        listener.sessions.handle_event(&Event::Facts(CONNECTION, &facts), &mut listener.operations);
        listener
    }

    fn hear(&mut self, flow: Flow, bytes: &[u8], packet_start: bool) {
        if bytes.is_empty() {
            return;
        }
        let position = self.positions[flow.index()];
        let (connection, time) = (CONNECTION, Timestamp(1));
        let event = Event::Data { connection, flow, position, time, bytes, packet_start };
        self.sessions.handle_event(&event, &mut self.operations);
        self.positions[flow.index()] += bytes.len() as u64;
        assert!(self.sessions.cost() < 1 << 20, "it keeps what it hears");
    }

    fn miss(&mut self, flow: Flow, length: u64) {
        let position = self.positions[flow.index()];
        let (connection, time, cause) = (CONNECTION, Timestamp(1), crate::stream::HoleCause::Missing);
        let event = Event::Hole { connection, flow, position, length: Some(length), time, cause };
        self.sessions.handle_event(&event, &mut self.operations);
        self.positions[flow.index()] += length;
    }

    fn end(mut self) -> Vec<Operation> {
        let event = Event::Closed { connection: CONNECTION, time: Timestamp(1) };
        self.sessions.handle_event(&event, &mut self.operations);
        self.operations.into_iter().map(|observed| observed.operation).collect()
    }
}

fn whole(frames: &[Frame]) -> Vec<Operation> {
    let mut listener = Listener::new();
    frames.iter().for_each(|frame| listener.hear(frame.flow, &frame.bytes, true));
    listener.end()
}

fn is_about_a_log(operation: &Operation) -> bool {
    use LogOperation::*;
    // The others have numbers of requests, or positions, which count what was lost.
    matches!(
        operation,
        Operation::Log(Committed { .. } | TransactionEnded { .. } | TopicNamed { .. } | Position { .. })
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    /// Any cut into pieces: the same operations.
    #[test]
    fn cuts_of_conversations_change_nothing(seed in any::<u64>(), cuts in vec(any::<Index>(), 0..40)) {
        let frames = conversation(seed, 6);
        let mut listener = Listener::new();
        for (number, frame) in frames.iter().enumerate() {
            // The first request is what the protocol is known by.
            let share = if number == 0 { &[][..] } else { &cuts[..] };
            let mut places: Vec<usize> = share.iter().map(|cut| cut.index(frame.bytes.len() + 1)).collect();
            places.extend([0, frame.bytes.len()]);
            places.sort_unstable();
            for pair in places.windows(2) {
                listener.hear(frame.flow, &frame.bytes[pair[0]..pair[1]], pair[0] == 0);
            }
        }
        prop_assert_eq!(listener.end(), whole(&frames));
    }

    /// Holes take knowledge away, and add none.
    #[test]
    fn holes_in_conversations_only_remove(
        seed in any::<u64>(),
        holes in vec((any::<Index>(), any::<Index>(), 1usize..200), 1..6),
    ) {
        let frames = conversation(seed, 6);
        let mut listener = Listener::new();
        for (number, frame) in frames.iter().enumerate() {
            let length = frame.bytes.len();
            let in_frame = holes.iter().filter(|(which, ..)| number > 0 && which.index(frames.len()) == number);
            let mut missing = vec![false; length];
            for (_, start, count) in in_frame {
                missing.iter_mut().skip(start.index(length)).take(*count).for_each(|byte| *byte = true);
            }
            let mut at = 0;
            for run in missing.chunk_by(|one, other| one == other) {
                let bytes = &frame.bytes[at..at + run.len()];
                if run[0] { listener.miss(frame.flow, run.len() as u64) } else { listener.hear(frame.flow, bytes, at == 0) }
                at += run.len();
            }
        }
        let known = whole(&frames);
        for operation in listener.end().into_iter().filter(is_about_a_log) {
            prop_assert!(known.contains(&operation), "{operation:?}");
        }
    }

    /// Bytes that mean nothing, on a connection that speaks Kafka's protocol: no panic, no memory.
    #[test]
    fn noise_does_no_harm(
        pieces in vec((any::<bool>(), vec(any::<u8>(), 1..200), any::<bool>(), 0u64..400), 1..30),
        seed in any::<u64>(),
    ) {
        let mut listener = Listener::new();
        for frame in conversation(seed, 2) {
            listener.hear(frame.flow, &frame.bytes, true);
        }
        for (forward, bytes, packet_start, hole) in pieces {
            let flow = if forward { Flow::Forward } else { Flow::Backward };
            listener.hear(flow, &bytes, packet_start);
            if hole < 100 {
                listener.miss(flow, hole + 1);
            }
        }
        listener.end();
    }
}

#[test]
fn conversations_are_understood() {
    let operations: Vec<Operation> = (0..400).flat_map(|seed| whole(&conversation(seed, 6))).collect();
    let logs = operations.iter().filter(|operation| is_about_a_log(operation)).count();
    assert!(logs > 200, "{logs} of {}", operations.len());
    // Drawn record batches are noise; all else is as it should be.
    let lost = operations.iter().filter(|operation| matches!(operation, Operation::Gap(_))).count();
    assert_eq!(lost, 0);
}

fn request(key: i16, version: i16, correlation: i32, rest: &[u8]) -> Vec<u8> {
    let head = [&key.to_be_bytes()[..], &version.to_be_bytes(), &correlation.to_be_bytes(), b"\0\x03app"].concat();
    frame(Flow::Forward, &head, rest).bytes
}

/// Where groups stand and partitions end, as lines: what is told again is not said again, errors say nothing.
#[test]
fn ends_of_partitions_and_what_is_deleted() {
    let mut listener = Listener::new();
    let mut correlation = 0;
    let mut exchange = |key: i16, version: i16, asked: &[&[u8]], answer: &[&[u8]]| {
        listener.hear(Flow::Forward, &request(key, version, correlation, &asked.concat()), true);
        let answer = frame(Flow::Backward, &correlation.to_be_bytes(), &answer.concat()).bytes;
        listener.hear(Flow::Backward, &answer, true);
        correlation += 1;
    };
    let number = |number: i64| number.to_be_bytes();
    let topic = b"\0\0\0\x01\0\x01t\0\0\0\x01\0\0\0\x07";
    // Fetch: no replica, 1 byte, at once; readers of committed messages; from offset 5.
    let asked = [b"\xff\xff\xff\xff\0\0\0\0\0\0\0\x01\0\0\x10\0\x01", &topic[..], &number(5), b"\0\0\x10\0"].concat();
    let mut fetched = |error: &[u8], end: i64, stable: i64| {
        exchange(
            1,
            4,
            &[&asked],
            &[b"\0\0\0\0", topic, error, &number(end), &number(stable), b"\xff\xff\xff\xff\xff\xff\xff\xff"],
        );
    };
    fetched(b"\0\0", 100, 90);
    fetched(b"\0\0", 100, 90);
    fetched(b"\0\x06", -1, -1);
    fetched(b"\0\0", 101, -1);
    // ListOffsets: the end, asked for by both kinds of readers, and the beginning.
    for (isolation, time, offset) in [(b"\0", -1, 102), (b"\x01", -1, 95), (b"\0", -2, 3)] {
        let asked = [b"\xff\xff\xff\xff", &isolation[..], topic, &number(time)].concat();
        exchange(2, 2, &[&asked], &[b"\0\0\0\0", topic, b"\0\0", &number(-1), &number(offset)]);
    }
    // OffsetFetch of version 1, with an error and without.
    let group = b"\0\x01g";
    exchange(9, 1, &[group, topic], &[topic, &number(-1), b"\0\0", b"\0\x58"]);
    exchange(9, 1, &[group, topic], &[topic, &number(-1), b"\0\0", b"\0\0"]);
    // OffsetDelete, DeleteGroups, DeleteTopics: done, and refused.
    for error in [b"\0\0", b"\0\x45"] {
        exchange(47, 0, &[group, topic], &[b"\0\0\0\0\0\0", topic, error]);
        exchange(42, 0, &[b"\0\0\0\x01", group], &[b"\0\0\0\0\0\0\0\x01", group, error]);
        exchange(20, 0, &[b"\0\0\0\x01\0\x01t\0\0\0\0"], &[b"\0\0\0\x01\0\x01t", error]);
    }
    let said: Vec<String> = listener
        .end()
        .into_iter()
        .filter_map(|operation| match operation {
            Operation::Log(LogOperation::Reaches { partition, end, stable }) => {
                assert_eq!((partition.topic, partition.number), (Topic::Name("t".into()), 7));
                Some(format!("reaches {end:?} {stable:?}"))
            }
            Operation::Log(LogOperation::Position { offset, .. }) => Some(format!("stands {offset:?}")),
            Operation::Log(LogOperation::OffsetsDeleted { group, partition }) => {
                Some(format!("deleted {group} {:?}", partition.map(|partition| partition.number)))
            }
            Operation::Log(LogOperation::TopicGone(Topic::Name(name))) => Some(format!("gone {name}")),
            _ => None,
        })
        .collect();
    assert_eq!(
        said,
        [
            "reaches Some(100) Some(90)",
            "reaches Some(101) None",
            "reaches Some(102) None",
            "reaches None Some(95)",
            "stands None",
            "deleted g Some(7)",
            "deleted g None",
            "gone t",
        ]
    );
}

/// SaslHandshake of version 0: what follows has no header, and is secret, until a request is one again.
#[test]
fn a_login_without_headers_ends_where_requests_go_on() {
    let mut listener = Listener::new();
    listener.sessions.keep_secrets();
    listener.hear(Flow::Forward, &request(17, 0, 0, b"\0\x05PLAIN"), true);
    listener.hear(Flow::Backward, &frame(Flow::Backward, &0i32.to_be_bytes(), &[0; 6]).bytes, true);
    let token = frame(Flow::Forward, b"", b"\0alice\0alice-secret").bytes;
    let from = listener.positions[0] + 4;
    listener.hear(Flow::Forward, &token, true);
    listener.hear(Flow::Backward, &[0; 4], true);
    let secrets: Vec<_> = listener.sessions.secrets().map(|(_, _, range)| range).collect();
    assert_eq!(
        (secrets.first().map(|range| range.start), secrets.last().map(|range| range.end)),
        (Some(from), Some(listener.positions[0]))
    );
    // OffsetCommit of version 0: group, one topic, one partition.
    let commit = [&b"\0\x01g\0\0\0\x01\0\x01t\0\0\0\x01\0\0\0\0"[..], &7i64.to_be_bytes(), b"\xff\xff"].concat();
    listener.hear(Flow::Forward, &request(8, 0, 1, &commit), true);
    let answer = b"\0\0\0\x01\0\x01t\0\0\0\x01\0\0\0\0\0\0";
    listener.hear(Flow::Backward, &frame(Flow::Backward, &1i32.to_be_bytes(), answer).bytes, true);
    let committed = listener.end().into_iter().filter(is_about_a_log).count();
    assert_eq!(committed, 1, "the requests behind the login are not read");
}

/// Produce of version 3 with one partition, and its answer; with a hole in the answer nobody knows what it was.
#[test]
fn an_answer_with_a_hole_is_lost() {
    let produce =
        b"\0\0\0\x03\0\0\0\x01\0\x03app\xff\xff\xff\xff\0\0\0\0\0\0\0\x01\0\x01t\0\0\0\x01\0\0\0\0\xff\xff\xff\xff";
    let answer = [&b"\0\0\0\x01\0\x01t\0\0\0\x01\0\0\0\0\0\0"[..], &7i64.to_be_bytes(), &[0xff; 8], &[0; 4]].concat();
    let answered = |hole: Option<usize>| {
        let mut listener = Listener::new();
        listener.hear(Flow::Forward, &frame(Flow::Forward, produce, b"").bytes, true);
        let answer = frame(Flow::Backward, &1i32.to_be_bytes(), &answer).bytes;
        let (before, behind) = answer.split_at(hole.unwrap_or(0));
        listener.hear(Flow::Backward, before, true);
        let missing = usize::from(hole.is_some());
        if missing > 0 {
            listener.miss(Flow::Backward, 1);
        }
        listener.hear(Flow::Backward, &behind[missing..], false);
        let operations = listener.end();
        let has = |wanted: fn(&LogOperation) -> bool| {
            operations.iter().any(|operation| matches!(operation, Operation::Log(log) if wanted(log)))
        };
        (
            has(|log| matches!(log, LogOperation::ProduceAnswered { .. })),
            has(|log| matches!(log, LogOperation::AnswerLost { .. })),
        )
    };
    let frame = 8 + answer.len();
    assert_eq!(answered(None), (true, false));
    for hole in 0..frame {
        let (told, lost) = answered(Some(hole));
        assert!(lost, "a hole at {hole}");
        // The offset and the time that the broker gives are not needed; the error is.
        assert!(!told || hole > 24, "a hole at {hole}");
    }
}

/// What a coordinator of transactions says to a broker, on a connection that begins with it; and what is left of it in a recording.
#[test]
fn brokers_speak_to_each_other_without_a_greeting() {
    let marker = frame(Flow::Forward, b"\0\x1b\0\x01\0\0\0\0\0\x05sende\0\x02", &[7; 100]).bytes;
    let mut wiped = marker.clone();
    wiped[12..].fill(0);
    for first in [marker, wiped] {
        let mut listener = Listener::new();
        listener.sessions.keep_secrets();
        // More than a connection that is no AMQP may say before it is called unknown.
        for _ in 0..20_000 {
            let from = listener.positions[0] + 12;
            listener.hear(Flow::Forward, &first, true);
            listener.hear(Flow::Backward, &frame(Flow::Backward, &0i32.to_be_bytes(), &[0; 40]).bytes, true);
            let secrets: Vec<_> = listener.sessions.secrets().map(|(_, flow, range)| (flow, range)).collect();
            assert_eq!(secrets, [(Flow::Forward, from..listener.positions[0])], "nobody knows what is in it");
        }
        let troubles: Vec<_> =
            listener.end().into_iter().filter(|said| matches!(said, Operation::NotDecoded { .. })).collect();
        assert!(troubles.is_empty(), "{troubles:?}");
    }
}
