//! Insides of Kafka's large batches are left out where they are not demanded, and nothing else ever is.

use std::time::Duration;

use acktrail::capture::{Demand, Direction};

use crate::skip::{Stream, capture_from, skipping};
use crate::support::{self, Pair, Tap, pattern};

/// The bytes of each large batch that are always copied (`KEPT_OF_BATCH`), and how large it must be (`SMALL_BATCH`).
const KEPT: usize = 512;
const SMALL: usize = 4096;
const FETCHED: [Demand; 2] = [Demand::FetchedHeaders { flexible: false }, Demand::FetchedHeaders { flexible: true }];

/// A batch of so many bytes of records.
fn batch(offset: i64, records: &[u8]) -> Vec<u8> {
    let mut bytes = offset.to_be_bytes().to_vec();
    bytes.extend((49 + records.len() as u32).to_be_bytes());
    bytes.extend([0, 0, 0, 7, 2, 0xde, 0xad, 0xbe, 0xef, 0, 2]);
    bytes.extend(99u32.to_be_bytes());
    bytes.extend([[0, 0, 1, 0x9a, 1, 2, 3, 4], [0, 0, 1, 0x9a, 1, 2, 3, 5], [0xff; 8]].concat());
    bytes.extend([0xff; 6]);
    bytes.extend(100u32.to_be_bytes());
    assert_eq!(bytes.len(), 61);
    bytes.extend(records);
    bytes
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

trait Kafka {
    fn field(&mut self, batches: &[Vec<u8>], cut: usize, length: Vec<u8>);
    fn response(&mut self, flexible: bool, partitions: &[(Vec<Vec<u8>>, usize)]) -> usize;
    fn request(&mut self, flexible: bool, batch: Vec<u8>);
    fn frame_around(&mut self, from: usize);
}

impl Kafka for Stream {
    /// A field of batches, of which the last lacks so many bytes.
    fn field(&mut self, batches: &[Vec<u8>], cut: usize, length: Vec<u8>) {
        self.bytes.extend(length);
        for (number, batch) in batches.iter().enumerate() {
            let end = batch.len() - if number + 1 == batches.len() { cut } else { 0 };
            let start = self.bytes.len();
            if end > SMALL {
                self.bodies.push(start + KEPT..start + end);
            }
            self.bytes.extend(&batch[..end]);
        }
    }

    /// A Fetch response with a field for each partition; where the first field begins.
    fn response(&mut self, flexible: bool, partitions: &[(Vec<Vec<u8>>, usize)]) -> usize {
        let from = self.bytes.len();
        let mut first = 0;
        self.bytes.extend([0; 4 + 4 + 1 + 4 + 2 + 4]);
        self.bytes.extend([2; 17]);
        for (number, (batches, cut)) in partitions.iter().enumerate() {
            let length = batches.iter().map(Vec::len).sum::<usize>() - cut;
            self.bytes.extend([0, 0, 0, number as u8, 0, 0]);
            self.bytes.extend([0, 0, 0, 0, 0, 9, 9, 9].repeat(3));
            let aborted: &[u8] = if flexible { &[1] } else { &[0, 0, 0, 0] };
            self.bytes.extend(aborted);
            self.bytes.extend([0xff; 4]);
            let length = if flexible { varint(length + 1) } else { (length as u32).to_be_bytes().to_vec() };
            if number == 0 {
                first = self.bytes.len() + length.len();
            }
            self.field(batches, *cut, length);
            self.bytes.extend(flexible.then_some(0));
        }
        self.bytes.extend([0, 0]);
        self.frame_around(from);
        first
    }

    fn request(&mut self, flexible: bool, batch: Vec<u8>) {
        let from = self.bytes.len();
        self.bytes
            .extend([0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 0, 3, b'a', b'p', b'p', 0, 0xff, 0xff, 0, 0, 0x75, 0x30]);
        self.bytes.extend([2, 7, b'o', b'r', b'd', b'e', b'r', b's', 2, 0, 0, 0, 0]);
        let length = batch.len();
        let length = if flexible { varint(length + 1) } else { (length as u32).to_be_bytes().to_vec() };
        self.field(&[batch], 0, length);
        self.bytes.extend([0, 0, 0]);
        self.frame_around(from);
    }

    fn frame_around(&mut self, from: usize) {
        let size = (self.bytes.len() - from - 4) as u32;
        self.bytes[from..from + 4].copy_from_slice(&size.to_be_bytes());
    }
}

/// Sends a stream of which this is demanded, and returns how much of it was copied.
fn capture(port: u16, demand: Demand, mut stream: Stream, pieces: impl Fn(usize) -> usize) -> usize {
    const BEFORE: usize = 5;
    let mut tap = Tap::new(&skipping(port));
    let mut pair = Pair::new(([127, 0, 0, 1], port).into());
    stream.bytes.splice(..0, *b"hello");
    stream.bodies.iter_mut().for_each(|body| *body = body.start + BEFORE..body.end + BEFORE);
    support::transfer(&mut pair.client, &mut pair.server, &stream.bytes[..BEFORE]);
    let address = pair.client_address();
    tap.until("the client", |tap| tap.sockets.iter().any(|socket| socket.local == address));
    tap.capture.demand(tap.socket(address).cookie, Direction::Egress, demand);
    let captured = capture_from(BEFORE, &mut tap, &mut pair, &stream, pieces);
    let counters = tap.capture.counters();
    assert_eq!(counters.payload_bytes, counters.captured_bytes + counters.skipped_bytes);
    captured - BEFORE
}

/// Responses as brokers send them: large batches, small ones, several partitions, a last batch that is cut off.
fn responses(flexible: bool) -> (Stream, Vec<usize>) {
    let mut stream = Stream::default();
    let mut pieces = Vec::new();
    for number in 0..30u64 {
        let from = stream.bytes.len();
        let large = |seed: u64| batch(seed as i64, &pattern(seed, 16_000 + 13 * seed as usize));
        let partitions = [
            (vec![large(number), large(number + 1), large(number + 2)], if number % 3 == 0 { 7_000 } else { 0 }),
            (vec![batch(5, &pattern(number, 300)), large(number + 50)], if number % 4 == 0 { 15_990 } else { 0 }),
        ];
        let first = stream.response(flexible, &partitions[..1 + number as usize % 2]);
        // What is before the batches is written by itself.
        pieces.extend([first - from, stream.bytes.len() - first]);
    }
    (stream, pieces)
}

#[test]
#[ignore = "needs root"]
fn fetched_batches() {
    for (port, demand) in (21060..).zip(FETCHED) {
        let (stream, pieces) = responses(demand == FETCHED[1]);
        let all = stream.bytes.len();
        let captured = capture(port, demand, stream, |piece| pieces[piece]);
        assert!(captured < all / 10, "{captured} of {all} bytes copied");
    }
}

#[test]
#[ignore = "needs root"]
fn packets_of_fetched_batches_end_anywhere() {
    let mut left_out = 0;
    for seed in 0..20u64 {
        let (stream, _) = responses(seed % 2 == 1);
        let all = stream.bytes.len();
        let sizes = pattern(seed, 400);
        let size = |piece: usize| usize::from(sizes[piece % 400]) << (piece % 9);
        let captured = capture(21062, FETCHED[seed as usize % 2], stream, size);
        left_out += all - captured;
    }
    assert!(left_out > 5 << 20, "hardly anything was left out: {left_out}");
}

#[test]
#[ignore = "needs root"]
fn produced_batches() {
    for flexible in [false, true] {
        let mut stream = Stream::default();
        for number in 0..100u64 {
            stream.request(flexible, batch(0, &pattern(number, [200, 16_000, 100_000][number as usize % 3])));
        }
        let all = stream.bytes.len();
        let captured = capture(21063, Demand::ProducedHeaders, stream, |piece| 1 + piece % 5 * 20_000);
        assert!(captured < all / 2, "{captured} of {all} bytes copied");
    }
}

/// What only looks like a batch is copied, and so is all that was not meant: records that hold a batch, other protocols.
#[test]
#[ignore = "needs root"]
fn what_is_no_batch_is_copied() {
    let inner = batch(77, &pattern(3, 50_000));
    let spoil: [fn(&mut Vec<u8>); 5] = [
        |bytes| bytes[16] = 1,
        |bytes| bytes[8] = 0x7f,
        |bytes| bytes[57..61].copy_from_slice(&200u32.to_be_bytes()),
        |bytes| bytes[57..61].fill(0),
        |bytes| bytes[43] = 0x80,
    ];
    for demand in [FETCHED[0], FETCHED[1], Demand::ProducedHeaders] {
        let mut streams = vec![
            // Nothing says how long a field is.
            [&pattern(1, 9)[..], &inner].concat(),
            pattern(2, 300_000),
            vec![0; 100_000],
            vec![0xff; 100_000],
            vec![2; 100_000],
        ];
        for spoil in spoil {
            let mut stream = Stream::default();
            let mut spoilt = inner.clone();
            spoil(&mut spoilt);
            match demand {
                Demand::FetchedHeaders { flexible } => _ = stream.response(flexible, &[(vec![spoilt], 0)]),
                _ => stream.request(true, spoilt),
            }
            streams.push(stream.bytes);
        }
        for (number, bytes) in streams.into_iter().enumerate() {
            let all = bytes.len();
            let captured = capture(21064, demand, Stream { bytes, bodies: Vec::new() }, |_| usize::MAX);
            assert_eq!(captured, all, "{demand:?}, stream {number}");
        }
    }
}

#[test]
#[ignore = "needs root"]
fn a_demand_is_taken_back() {
    let mut tap = Tap::new(&skipping(21065));
    let mut pair = Pair::new("127.0.0.1:21065".parse().unwrap());
    let mut stream = Stream::default();
    (0..20).for_each(|number| stream.request(true, batch(0, &pattern(number, 60_000))));
    let middle = stream.bytes.len() / 2;
    let address = pair.client_address();
    support::transfer(&mut pair.client, &mut pair.server, &stream.bytes[..10]);
    tap.until("the client", |tap| tap.sockets.iter().any(|socket| socket.local == address));
    let cookie = tap.socket(address).cookie;
    tap.capture.demand(cookie, Direction::Egress, Demand::ProducedHeaders);
    support::transfer(&mut pair.client, &mut pair.server, &stream.bytes[10..middle]);
    tap.capture.demand(cookie, Direction::Egress, Demand::Everything);
    tap.settle();
    assert!(tap.captured(cookie, Direction::Egress) < middle / 2);
    stream.bodies.retain(|body| body.start < middle);
    capture_from(middle, &mut tap, &mut pair, &stream, |_| 50_000);
}

#[test]
#[ignore = "needs root"]
fn reads_that_nobody_asks_for() {
    let mut tap = Tap::new(&skipping(21066));
    let mut pair = Pair::new("127.0.0.1:21066".parse().unwrap());
    let address = pair.client_address();
    let answer = |pair: &mut Pair, tap: &mut Tap| {
        (0..10).for_each(|_| support::transfer(&mut pair.server, &mut pair.client, b"answer"));
        tap.take(Duration::from_millis(1));
        tap.settle();
        std::mem::take(&mut tap.reads).len()
    };
    assert_eq!(answer(&mut pair, &mut tap), 10);
    let cookie = tap.socket(address).cookie;
    tap.capture.demand(cookie, Direction::Ingress, Demand::NoReads);
    assert_eq!(answer(&mut pair, &mut tap), 0);
    tap.capture.demand(cookie, Direction::Ingress, Demand::Everything);
    assert_eq!(answer(&mut pair, &mut tap), 10);
}
