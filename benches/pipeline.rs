//! How fast streams and sessions are on traffic like PerfTest's: publishes and deliveries of 100-byte messages, confirmed
//! and acknowledged by ten. Prints the median of several rounds, in
//! processor time; `cargo bench --no-default-features --bench pipeline`.

#[path = "../tests/support/amqp.rs"]
mod amqp;

use acktrail::capture::{Cookie, Direction, Origin, Record, Segment, Socket};
use acktrail::protocol::{self, Sessions};
use acktrail::stream::{self, Event, Streams};
use acktrail::time::Timestamp;

const MESSAGES: u64 = 200_000;
const ROUNDS: usize = 9;
/// Messages that one write of the client, and one of the broker, carries: what TCP makes of a busy connection.
const BATCH: u64 = 10;
const CLIENT: Cookie = Cookie(1);
const BROKER: Cookie = Cookie(2);

fn main() {
    let packets = traffic();
    let bytes: usize = packets.iter().map(|(_, bytes)| bytes.len()).sum();
    println!("{MESSAGES} messages, {} packets, {} bytes a packet", packets.len(), bytes / packets.len());
    let mut segments = Vec::new();
    let mut both = Vec::new();
    for _ in 0..ROUNDS {
        segments.push(time(&packets, |streams, record| {
            streams.handle_record(record, &mut |event| {
                std::hint::black_box(&event);
            });
        }));
        let mut sessions = Sessions::new(protocol::Limits::default());
        let mut operations = Vec::new();
        both.push(time(&packets, |streams, record| {
            streams.handle_record(record, &mut |event: Event<'_>| sessions.handle_event(&event, &mut operations));
            std::hint::black_box(&operations);
            operations.clear();
        }));
    }
    println!("streams alone: {:.1} million segments a second", packets.len() as f64 / median(&mut segments) / 1e6);
    let seconds = median(&mut both);
    println!("streams and sessions: {:.2} million messages a second", MESSAGES as f64 / seconds / 1e6);
    println!("  {:.0} ns a message, {:.0} MB/s", seconds * 1e9 / MESSAGES as f64, bytes as f64 / seconds / 1e6);
}

/// Seconds for all packets.
fn time(packets: &[(bool, Vec<u8>)], mut handle: impl FnMut(&mut Streams, &Record<'_>)) -> f64 {
    let mut streams = Streams::new(stream::Limits::default());
    let addresses = [([127, 0, 0, 1], 40_000).into(), ([127, 0, 0, 1], 5672).into()];
    for (end, cookie) in [(0, CLIENT), (1, BROKER)] {
        let socket = Socket {
            time: Timestamp(0),
            cookie,
            local: addresses[end],
            remote: addresses[1 - end],
            netns: 1,
            cgroup: 1,
            origin: if end == 0 { Origin::Connected } else { Origin::Accepted },
            broker_port: Some(5672),
            send_next: 0,
            copied: 0,
            reads_seen: true,
            from_start: true,
            owner: None,
        };
        handle(&mut streams, &Record::Socket(socket));
    }
    let mut next = [0u32; 2];
    let started = cpu_seconds();
    for (number, (client, bytes)) in packets.iter().enumerate() {
        let side = usize::from(!client);
        let record = Record::Segment(Segment {
            time: Timestamp(number as u64 * 1000),
            cookie: if *client { CLIENT } else { BROKER },
            direction: Direction::Egress,
            sequence: next[side],
            acknowledged: next[1 - side],
            length: bytes.len() as u32,
            offset: 0,
            bytes,
            more: false,
            lost: 0,
        });
        handle(&mut streams, &record);
        next[side] = next[side].wrapping_add(bytes.len() as u32);
    }
    cpu_seconds() - started
}

/// Processor time of this thread: other programs on the machine do not count.
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of this frame, which the call fills.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(failed, 0, "Linux has a clock for threads");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Who wrote, and what, packet by packet.
fn traffic() -> Vec<(bool, Vec<u8>)> {
    let mut packets = vec![
        (true, amqp::PREFACE.to_vec()),
        (false, amqp::start()),
        (true, amqp::start_ok("perf", "secret")),
        (false, amqp::tune(2047, 131_072)),
        (true, [amqp::tune_ok(2047, 131_072), amqp::open("/")].concat()),
        (false, amqp::open_ok()),
    ];
    for channel in [1, 2] {
        packets.push((true, amqp::channel_open(channel)));
        packets.push((false, amqp::channel_open_ok(channel)));
    }
    packets.push((true, amqp::confirm_select(1)));
    packets.push((false, amqp::confirm_select_ok(1)));
    packets.push((true, amqp::consume(2, "perf", "consumer", 0)));
    packets.push((false, amqp::consume_ok(2, "consumer")));
    let mut body = [b'x'; 100];
    for batch in 0..MESSAGES / BATCH {
        let (mut client, mut broker) = (Vec::new(), Vec::new());
        for number in batch * BATCH + 1..=batch * BATCH + BATCH {
            body[..8].copy_from_slice(&number.to_be_bytes());
            client.extend(amqp::publish(1, "direct", "key", false));
            client.extend(amqp::message(1, &body));
            broker.extend(amqp::deliver(2, "consumer", number, false, "direct", "key"));
            broker.extend(amqp::message(2, &body));
        }
        broker.extend(amqp::ack(1, batch * BATCH + BATCH, true));
        packets.push((true, client));
        packets.push((false, broker));
        packets.push((true, amqp::ack(2, batch * BATCH + BATCH, true)));
    }
    packets
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
