//! Insides of large bodies are left out, and nothing else ever is.

use std::ops::Range;

use acktrail::capture::{Direction, Socket};
use acktrail::kernel::Options;

use crate::support::{self, Pair, Tap, only, pattern};

/// The bytes of each body that are always copied.
const KEPT: usize = 1024;

/// A stream of frames, and which of its bytes may be left out.
#[derive(Default)]
pub struct Stream {
    pub bytes: Vec<u8>,
    pub bodies: Vec<Range<usize>>,
}

impl Stream {
    fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        self.bytes.push(kind);
        self.bytes.extend(channel.to_be_bytes());
        self.bytes.extend((payload.len() as u32).to_be_bytes());
        self.bytes.extend(payload);
        self.bytes.push(0xCE);
    }

    fn method(&mut self, channel: u16, class: u16, method: u16, arguments: &[u8]) {
        self.frame(1, channel, &[&class.to_be_bytes(), &method.to_be_bytes(), arguments].concat());
    }

    fn header(&mut self, channel: u16, size: usize) {
        self.frame(2, channel, &[&[0, 60, 0, 0][..], &(size as u64).to_be_bytes(), &[0, 0]].concat());
    }

    fn body(&mut self, channel: u16, part: &[u8], kept: usize) {
        let start = self.bytes.len() + 7;
        self.bodies.push(start + kept.min(part.len())..start + part.len());
        self.frame(3, channel, part);
    }

    /// A publish or deliver with its content, in frames of at most `frame_max` bytes.
    fn message(&mut self, channel: u16, method: u16, body: &[u8], frame_max: usize) {
        self.method(channel, 60, method, &[0, 0, 3, b'e', b'x', b'c', 2, b'r', b'k', 0]);
        self.header(channel, body.len());
        let mut kept = KEPT;
        for part in body.chunks(frame_max - 8) {
            self.body(channel, part, kept);
            kept -= kept.min(part.len());
        }
    }
}

pub fn skipping(port: u16) -> Options {
    Options { skip_bodies_from: Some(4096), ring_bytes: 64 << 20, ..only(port) }
}

/// Sends a stream in pieces, and returns what was captured of it after checking every byte.
fn capture(tap: &mut Tap, pair: &mut Pair, stream: &Stream, pieces: impl Fn(usize) -> usize) -> usize {
    capture_from(0, tap, pair, stream, pieces)
}

/// The same of a stream of which some bytes have been sent.
pub fn capture_from(
    mut sent: usize,
    tap: &mut Tap,
    pair: &mut Pair,
    stream: &Stream,
    pieces: impl Fn(usize) -> usize,
) -> usize {
    for number in 0.. {
        let piece = pieces(number).clamp(1, stream.bytes.len() - sent);
        support::transfer(&mut pair.client, &mut pair.server, &stream.bytes[sent..sent + piece]);
        sent += piece;
        if sent == stream.bytes.len() {
            break;
        }
    }
    support::transfer(&mut pair.server, &mut pair.client, b"done");
    let address = pair.client_address();
    tap.until("the answer", |tap| tap.segments.iter().any(|segment| segment.bytes == b"done"));
    let socket = tap.socket(address).clone();
    check(tap, &socket, stream)
}

fn check(tap: &Tap, socket: &Socket, stream: &Stream) -> usize {
    let mut copied = vec![false; stream.bytes.len()];
    let segments = tap.of(socket.cookie, Direction::Egress);
    for (number, segment) in segments.iter().enumerate() {
        let start = (segment.sequence.wrapping_sub(socket.send_next) + segment.offset) as usize;
        let range = start..start + segment.bytes.len();
        assert!(stream.bytes[range.clone()] == segment.bytes, "other bytes at {range:?}");
        copied[range].fill(true);
        let next = segments.get(number + 1).is_some_and(|next| next.sequence == segment.sequence);
        assert_eq!(segment.more, next && segments[number + 1].offset > segment.offset, "{number}: more records follow");
    }
    let allowed = |at: usize| stream.bodies.iter().any(|body| body.contains(&at));
    let wrong = (0..copied.len()).find(|at| !copied[*at] && !allowed(*at));
    assert_eq!(wrong, None, "left out though it is no inside of a body");
    copied.iter().filter(|copied| **copied).count()
}

#[test]
#[ignore = "needs root"]
fn messages_of_every_size() {
    let mut tap = Tap::new(&skipping(21050));
    let mut pair = Pair::new("127.0.0.1:21050".parse().unwrap());
    let mut stream = Stream::default();
    for (number, size) in [0, 1, 1023, 1024, 1025, 3_000, 5_000, 10_000, 65_000, 131_064, 131_065, 400_000, 3 << 20, 7]
        .into_iter()
        .enumerate()
    {
        stream.message(1, if number % 2 == 0 { 40 } else { 60 }, &pattern(number as u64, size), 131_072);
    }
    let captured = capture(&mut tap, &mut pair, &stream, |_| usize::MAX);
    assert!(captured < stream.bytes.len() / 10, "{captured} of {} bytes copied", stream.bytes.len());
    let counters = tap.capture.counters();
    assert_eq!(counters.payload_bytes, counters.captured_bytes + counters.skipped_bytes);
    assert_eq!(counters.captured_bytes, tap.segments.iter().map(|s| s.bytes.len() as u64).sum::<u64>());
    assert!(counters.ring_full_records == 0);
}

/// As the Java client writes: small frames are buffered, a large body goes past the buffer, its end octet comes alone.
#[test]
#[ignore = "needs root"]
fn bodies_in_packets_of_their_own() {
    let mut tap = Tap::new(&skipping(21054));
    let mut pair = Pair::new("127.0.0.1:21054".parse().unwrap());
    pair.client.set_nodelay(true).unwrap();
    let mut stream = Stream::default();
    let mut pieces = Vec::new();
    for number in 0..20 {
        let before = stream.bytes.len();
        stream.message(1, 40, &pattern(number, 100_000), 131_072);
        pieces.extend([stream.bytes.len() - before - 100_001, 100_000, 1]);
    }
    let captured = capture(&mut tap, &mut pair, &stream, |piece| pieces[piece]);
    assert!(captured < 20 * 2_500, "{captured} of {} bytes copied", stream.bytes.len());
}

/// Pieces end anywhere: in bodies, frame heads, headers, before end octets.
#[test]
#[ignore = "needs root"]
fn packets_that_end_anywhere() {
    let mut tap = Tap::new(&skipping(21051));
    let listener = support::listen("127.0.0.1:21051".parse().unwrap());
    let mut left_out = 0;
    for seed in 0..40u64 {
        tap.segments.clear();
        let mut pair = Pair::with(&listener, "127.0.0.1:21051".parse().unwrap());
        let numbers = pattern(seed, 600);
        let number = |at: usize| usize::from(numbers[at % 600]) * 256 + usize::from(numbers[(at + 1) % 600]);
        let mut stream = Stream::default();
        for message in 0..12 {
            let channel = (number(message) % 3) as u16 + 1;
            let frame_max = [4_096, 8_192, 131_072][number(message + 50) % 3];
            stream.message(channel, 60, &pattern(message as u64, number(message + 100)), frame_max);
            if message % 4 == 3 {
                stream.method(channel, 60, 80, &[0, 0, 0, 0, 0, 0, 0, 1, 0]);
                stream.frame(8, 0, &[]);
            }
        }
        let captured = capture(&mut tap, &mut pair, &stream, |piece| 1 + number(piece + 200) % 30_000);
        left_out += stream.bytes.len() - captured;
        pair.close();
    }
    assert!(left_out > 1 << 20, "hardly anything was left out: {left_out}");
}

#[test]
#[ignore = "needs root"]
fn contents_of_two_channels_alternate() {
    let mut tap = Tap::new(&skipping(21052));
    let mut pair = Pair::new("127.0.0.1:21052".parse().unwrap());
    let mut stream = Stream::default();
    let parts = pattern(9, 20_000);
    for _ in 0..10 {
        for channel in [1, 2] {
            stream.method(channel, 60, 40, &[0; 5]);
            stream.header(channel, 3 * parts.len());
        }
        for part in 0..3 {
            for channel in [1, 2] {
                stream.body(channel, &parts, if part == 0 { KEPT } else { 0 });
            }
        }
    }
    capture(&mut tap, &mut pair, &stream, |piece| 10_000 + piece % 7 * 9_999);
}

/// What only looks like a message is copied: wrong end octets, bodies longer than announced, other channels.
#[test]
#[ignore = "needs root"]
fn what_is_not_proven_is_copied() {
    let mut tap = Tap::new(&skipping(21053));
    let listener = support::listen("127.0.0.1:21053".parse().unwrap());
    let body = pattern(3, 20_000);
    let good = |stream: &mut Stream| stream.message(1, 40, &body, 131_072);
    let spoil: [fn(&mut Stream); 6] = [
        |stream| *stream.bytes.last_mut().unwrap() = 0xCD,
        |stream| stream.bytes[0] = 2,
        |stream| stream.bytes[8] = 50,
        // The header's size is one less than the body's.
        |stream| stream.bytes[22 + 7 + 11] -= 1,
        |stream| stream.bytes[22 + 2] = 9,
        // The body frame's type.
        |stream| stream.bytes[22 + 22] = 1,
    ];
    for spoil in spoil {
        tap.segments.clear();
        let mut pair = Pair::with(&listener, "127.0.0.1:21053".parse().unwrap());
        let mut stream = Stream::default();
        good(&mut stream);
        spoil(&mut stream);
        stream.bodies.clear();
        assert_eq!(capture(&mut tap, &mut pair, &stream, |_| usize::MAX), stream.bytes.len());
        pair.close();
    }
    // And the same unspoiled is not.
    tap.segments.clear();
    let mut pair = Pair::with(&listener, "127.0.0.1:21053".parse().unwrap());
    let mut stream = Stream::default();
    good(&mut stream);
    assert!(capture(&mut tap, &mut pair, &stream, |_| usize::MAX) < 2_000);
}
