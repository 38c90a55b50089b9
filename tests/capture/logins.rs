//! What a login keeps secret is in no recording, however its connection came and went.

#[path = "../support/amqp.rs"]
mod wire;

use std::time::Duration;

use acktrail::capture::recording::{Header, Reader};
use acktrail::capture::{Closed, Cookie, Counters, Direction, Origin, Record, Segment, Socket};
use acktrail::pipeline::Limits;
use acktrail::recorder;
use acktrail::time::Timestamp;

const CLIENT: Cookie = Cookie(7);
const PASSWORD: &[u8] = b"hunter2";

struct Recorder {
    recorder: recorder::Recorder<Vec<u8>>,
    sequence: u32,
    now: Timestamp,
}

impl Recorder {
    fn new() -> Recorder {
        Recorder::within(Limits::default())
    }

    fn within(limits: Limits) -> Recorder {
        let header = Header { created: Timestamp(0), acktrail: "0.1.0".to_owned(), kernel: None, host: None };
        let recorder = recorder::Recorder::new(Vec::new(), &header, limits).expect("to memory");
        Recorder { recorder, sequence: 1, now: Timestamp(0) }
    }

    fn record(&mut self, record: &Record<'_>) {
        self.recorder.record(record).expect("possible");
    }

    fn socket(&mut self) {
        self.socket_of(CLIENT, true);
    }

    fn socket_of(&mut self, cookie: Cookie, from_start: bool) {
        self.record(&Record::Socket(Socket {
            time: self.now,
            cookie,
            local: ([127, 0, 0, 1], 40_000 + cookie.0 as u16).into(),
            remote: ([127, 0, 0, 1], 5672).into(),
            netns: 1,
            cgroup: 1,
            origin: Origin::Connected,
            broker_port: Some(5672),
            send_next: 1,
            copied: 1,
            from_start,
            reads_seen: true,
            owner: None,
        }));
    }

    fn send(&mut self, bytes: &[u8]) {
        self.send_at(CLIENT, self.sequence, bytes);
        self.sequence += bytes.len() as u32;
    }

    fn send_at(&mut self, cookie: Cookie, sequence: u32, bytes: &[u8]) {
        self.record(&Record::Segment(Segment {
            time: self.now,
            cookie,
            direction: Direction::Egress,
            sequence,
            acknowledged: 1,
            length: bytes.len() as u32,
            offset: 0,
            bytes,
            more: false,
            lost: 0,
        }));
    }

    /// Time passes, then what may be written is written. Gives how much may not.
    fn commit(&mut self, later: Duration) -> usize {
        self.now = self.now.plus(later);
        self.record(&Record::Counters(Counters { time: self.now, ..Counters::default() }));
        self.recorder.commit(self.now).expect("to memory");
        self.recorder.pending_bytes()
    }

    fn close(&mut self) {
        self.record(&Record::Closed(Closed { time: Timestamp(0), cookie: CLIENT, copied: 1 }));
    }

    /// All bytes of the recording.
    fn bytes(self) -> Vec<u8> {
        let (file, _) = self.recorder.finish(Timestamp(0)).expect("to memory");
        let mut reader = Reader::new(&file[..]).expect("a recording");
        let mut bytes = Vec::new();
        while let Some(record) = reader.next().expect("whole") {
            if let Record::Segment(segment) = record {
                bytes.extend(segment.bytes);
            }
        }
        bytes
    }
}

fn login() -> Vec<u8> {
    wire::start_ok("app", std::str::from_utf8(PASSWORD).expect("text"))
}

fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

#[test]
fn a_login_is_wiped_though_its_connection_has_ended_since() {
    let mut recorder = Recorder::new();
    recorder.socket();
    recorder.send(wire::PREFACE);
    recorder.send(&login());
    recorder.close();
    let bytes = recorder.bytes();
    assert!(holds(&bytes, b"tester") && !holds(&bytes, PASSWORD));
}

/// The login waits behind a gap, and comes to light only with the connection's end.
#[test]
fn a_login_is_wiped_that_only_the_end_brings_to_light() {
    let mut recorder = Recorder::new();
    recorder.socket();
    recorder.sequence += 8;
    recorder.send(&login());
    recorder.close();
    assert!(!holds(&recorder.bytes(), PASSWORD));
}

/// The announcement was lost: nobody looks at the bytes, so nobody can say that they are no login.
#[test]
fn bytes_of_an_unknown_socket_are_wiped() {
    let mut recorder = Recorder::new();
    recorder.send(wire::PREFACE);
    recorder.send(&login());
    let bytes = recorder.bytes();
    assert_eq!(bytes, vec![0; bytes.len()]);
    assert_eq!(bytes.len(), wire::PREFACE.len() + login().len());
}

const OTHER: Cookie = Cookie(8);

/// A late connection whose last bytes may begin a frame, and another one that is busy.
fn undecided() -> Recorder {
    let mut recorder = Recorder::new();
    recorder.socket_of(CLIENT, false);
    recorder.socket_of(OTHER, false);
    recorder.send(&[b"the rest of a token, ", &b"\x01\0\0\0\0\0\x20\0\x0a\0\x32hunter2"[..]].concat());
    recorder
}

/// Nobody knows whether its last bytes are a frame: so they are held back, and with them what came after. Not for long: then
/// they are decided, in a replay as well.
#[test]
fn what_is_undecided_is_held_back_for_a_while() {
    let mut recorder = undecided();
    let second = Duration::from_secs(1);
    assert_ne!(recorder.commit(second), 0);
    assert_ne!(recorder.commit(second), 0);
    assert_eq!(recorder.commit(Duration::from_millis(1)), 0);
    let bytes = recorder.bytes();
    assert_eq!(bytes, vec![0; bytes.len()]);
}

/// However much comes meanwhile, memory stays bounded: what was undecided is wiped.
#[test]
fn what_is_undecided_is_held_back_within_a_bound() {
    let mut recorder = undecided();
    let noise = [0; 60_000];
    let mut most = 0;
    for packet in 0..800 {
        recorder.send_at(OTHER, packet * noise.len() as u32, &noise);
        most = most.max(recorder.commit(Duration::from_micros(1)));
    }
    assert!(most > 30 << 20 && most < 40 << 20, "{most}");
    assert!(!holds(&recorder.bytes(), PASSWORD));
}

#[test]
fn what_is_undecided_at_the_end_is_wiped() {
    let bytes = undecided().bytes();
    assert_eq!(bytes, vec![0; bytes.len()]);
}

/// Before what is undecided everything may be written.
#[test]
fn what_came_before_the_undecided_is_not_held_back() {
    let mut recorder = Recorder::new();
    recorder.socket_of(CLIENT, false);
    recorder.socket_of(OTHER, false);
    let noise = [0; 60_000];
    for packet in 0..20 {
        recorder.send_at(OTHER, packet * noise.len() as u32, &noise);
    }
    recorder.now = recorder.now.plus(Duration::from_millis(1));
    recorder.send(b"\x01\0\0\0\0\0\x20");
    let left = recorder.commit(Duration::from_millis(1));
    assert!(left > 0 && left < 400_000, "{left}");
}

/// They waited for others before them when their connection was given up: nobody has looked at them.
#[test]
fn bytes_of_a_connection_that_was_given_up_are_wiped() {
    let mut limits = Limits::default();
    limits.stream.connections = 1;
    let mut recorder = Recorder::within(limits);
    recorder.socket();
    recorder.sequence += 8;
    recorder.send(&login());
    recorder.socket_of(OTHER, true);
    let bytes = recorder.bytes();
    assert_eq!(bytes, vec![0; bytes.len()]);
}

/// They were given up, and came all the same.
#[test]
fn bytes_that_come_when_they_are_given_up_are_wiped() {
    let mut recorder = Recorder::new();
    recorder.socket();
    recorder.send(wire::PREFACE);
    let (login, at) = (login(), recorder.sequence);
    recorder.sequence += login.len() as u32;
    recorder.send(&wire::heartbeat());
    recorder.now = recorder.now.plus(Duration::from_secs(1));
    recorder.send(&wire::heartbeat());
    recorder.send_at(CLIENT, at, &login);
    assert!(!holds(&recorder.bytes(), PASSWORD));
}
