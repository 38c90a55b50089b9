//! What a login keeps secret is in no recording, however its connection came and went.

#[path = "../support/amqp.rs"]
mod wire;

use acktrail::capture::recording::{Header, Reader, Writer};
use acktrail::capture::{Closed, Cookie, Direction, Origin, Record, Segment, Socket};
use acktrail::lifecycle::transition::{Event, Observer, Transition};
use acktrail::pipeline::{Limits, Pipeline};
use acktrail::time::Timestamp;

const CLIENT: Cookie = Cookie(7);
const PASSWORD: &[u8] = b"hunter2";

struct Nobody;

impl Observer for Nobody {
    fn transition(&mut self, _: &Transition<'_>) {}
    fn event(&mut self, _: &Event<'_>) {}
}

/// The recorder, which asks for secrets as seldom as it may: before it writes anything.
struct Recorder {
    writer: Writer<Vec<u8>>,
    pipeline: Pipeline,
    sequence: u32,
}

impl Recorder {
    fn new() -> Recorder {
        let header = Header { created: Timestamp(0), acktrail: "0.1.0".to_owned(), kernel: None, host: None };
        let mut pipeline = Pipeline::new(Limits::default());
        pipeline.keep_secrets();
        Recorder { writer: Writer::new(Vec::new(), &header).expect("to memory"), pipeline, sequence: 1 }
    }

    fn record(&mut self, record: &Record<'_>) {
        self.writer.write(record).expect("possible");
        self.pipeline.handle(record, &mut Nobody);
    }

    fn socket(&mut self) {
        self.record(&Record::Socket(Socket {
            time: Timestamp(0),
            cookie: CLIENT,
            local: ([127, 0, 0, 1], 40_000).into(),
            remote: ([127, 0, 0, 1], 5672).into(),
            netns: 1,
            cgroup: 1,
            origin: Origin::Connected,
            broker_port: Some(5672),
            send_next: 1,
            copied: 1,
            from_start: true,
            reads_seen: true,
            owner: None,
        }));
    }

    fn send(&mut self, bytes: &[u8]) {
        self.record(&Record::Segment(Segment {
            time: Timestamp(0),
            cookie: CLIENT,
            direction: Direction::Egress,
            sequence: self.sequence,
            acknowledged: 1,
            length: bytes.len() as u32,
            offset: 0,
            bytes,
            more: false,
            lost: 0,
        }));
        self.sequence += bytes.len() as u32;
    }

    fn close(&mut self) {
        self.record(&Record::Closed(Closed { time: Timestamp(0), cookie: CLIENT, copied: 1 }));
    }

    /// All bytes of the recording.
    fn bytes(mut self) -> Vec<u8> {
        for secret in self.pipeline.take_secrets() {
            self.writer.wipe(&secret.taps, secret.start, secret.length);
        }
        let (file, _) = self.writer.finish().expect("to memory");
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
