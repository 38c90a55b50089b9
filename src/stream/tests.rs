//! Sockets and segments, and what the stream stage makes of them. Each line of a transcript is one event.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::{ConnectionId, Event, Flow, HoleCause, Limits, Streams};
use crate::capture::{Closed, Cookie, Direction, Origin, Owner, Read, Record, Segment, Socket};
use crate::time::Timestamp;

const CLIENT: Cookie = Cookie(1);
const SERVER: Cookie = Cookie(2);
/// Where the two sides' sequence numbers begin; the client's wrap soon.
const CLIENT_START: u32 = u32::MAX - 4;
const SERVER_START: u32 = 1000;

struct Tap {
    streams: Streams,
    text: String,
    now: u64,
}

fn millis(milliseconds: u64) -> Timestamp {
    Timestamp(milliseconds * 1_000_000)
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// A socket of a connection from its first byte on.
fn socket(cookie: Cookie, origin: Origin) -> Socket {
    let (local, remote) = (address("10.0.0.1:40000"), address("10.0.0.2:5672"));
    let client = origin == Origin::Connected;
    Socket {
        time: Timestamp(0),
        cookie,
        local: if client { local } else { remote },
        remote: if client { remote } else { local },
        netns: 1,
        cgroup: 0,
        origin,
        broker_port: None,
        send_next: if client { CLIENT_START } else { SERVER_START },
        copied: if client { SERVER_START } else { CLIENT_START },
        reads_seen: true,
        from_start: true,
        owner: None,
    }
}

impl Tap {
    fn new(limits: Limits) -> Tap {
        Tap { streams: Streams::new(limits), text: String::new(), now: 0 }
    }

    /// Both ends of a connection on this host.
    fn local() -> Tap {
        let mut tap = Tap::new(Limits::default());
        tap.socket(socket(CLIENT, Origin::Connected)).socket(socket(SERVER, Origin::Accepted));
        tap.text.clear();
        tap
    }

    fn record(&mut self, record: &Record<'_>) -> &mut Tap {
        let text = &mut self.text;
        self.streams.handle_record(record, &mut |event| writeln!(text, "{}", render(&event)).expect("a string"));
        self
    }

    fn socket(&mut self, socket: Socket) -> &mut Tap {
        self.record(&Record::Socket(Socket { time: millis(self.now), ..socket }))
    }

    /// A whole packet at its sender.
    fn send(&mut self, cookie: Cookie, sequence: u32, bytes: &[u8]) -> &mut Tap {
        self.segment(Segment { bytes, length: bytes.len() as u32, ..packet(cookie, sequence) })
    }

    fn segment(&mut self, segment: Segment<'_>) -> &mut Tap {
        self.record(&Record::Segment(Segment { time: millis(self.now), ..segment }))
    }

    fn read(&mut self, cookie: Cookie, copied: u32) -> &mut Tap {
        self.read_from(cookie, 0, copied)
    }

    fn read_from(&mut self, cookie: Cookie, from: u32, copied: u32) -> &mut Tap {
        self.record(&Record::Read(Read { time: millis(self.now), cookie, from, copied, pid: 42 }))
    }

    fn close(&mut self, cookie: Cookie, copied: u32) -> &mut Tap {
        self.record(&Record::Closed(Closed { time: millis(self.now), cookie, copied }))
    }

    fn wait(&mut self, milliseconds: u64) -> &mut Tap {
        self.now += milliseconds;
        let (now, text) = (millis(self.now), &mut self.text);
        self.streams.handle_timeout(now, &mut |event| writeln!(text, "{}", render(&event)).expect("a string"));
        self
    }

    #[track_caller]
    fn expect(&mut self, expected: &str) -> &mut Tap {
        let expected: String = expected.lines().skip(1).map(|line| format!("{}\n", line.trim())).collect();
        assert_eq!(std::mem::take(&mut self.text).trim_end(), expected.trim_end());
        self
    }
}

/// A packet without payload, as its sender's tap sees it.
fn packet(cookie: Cookie, sequence: u32) -> Segment<'static> {
    Segment {
        time: Timestamp(0),
        cookie,
        direction: Direction::Egress,
        sequence,
        acknowledged: if cookie == CLIENT { SERVER_START } else { CLIENT_START },
        length: 0,
        offset: 0,
        bytes: b"",
        more: false,
        lost: 0,
    }
}

fn render(event: &Event<'_>) -> String {
    let arrow = |flow: &Flow| if *flow == Flow::Forward { ">" } else { "<" };
    match event {
        Event::Facts(connection, facts) => {
            let [first, second] = &facts.ends;
            let roles = if facts.roles_known { "client" } else { "one" };
            let local = |end: &super::End| if end.local { "" } else { " (remote)" };
            format!(
                "{} {roles} {}{} other {}{}{}",
                connection.0,
                first.address,
                local(first),
                second.address,
                local(second),
                if facts.from_start { "" } else { " late" }
            )
        }
        Event::Data { connection, flow, bytes, packet_start, .. } => {
            let start = if *packet_start { "" } else { " inside" };
            format!("{} {} {}{start}", connection.0, arrow(flow), String::from_utf8_lossy(bytes))
        }
        Event::Hole { connection, flow, length, cause, .. } => {
            let length = length.map_or("?".into(), |length| length.to_string());
            format!("{} {} <{} {length}>", connection.0, arrow(flow), cause.name())
        }
        Event::Read { connection, flow, from, position, .. } => {
            let taken = position - from;
            let taken = if taken < 1 << 20 { format!(" took {taken}") } else { String::new() };
            format!("{} {} read {position}{taken}", connection.0, arrow(flow))
        }
        Event::Closed { connection, .. } => format!("{} closed", connection.0),
    }
}

#[test]
fn two_sockets_are_two_ends_of_one_connection() {
    let mut tap = Tap::new(Limits::default());
    tap.socket(socket(SERVER, Origin::Accepted)).socket(socket(CLIENT, Origin::Connected));
    tap.send(CLIENT, CLIENT_START, b"hello").send(SERVER, SERVER_START, b"welcome");
    tap.read(SERVER, 0).read(SERVER, 0).close(CLIENT, SERVER_START + 7).close(SERVER, 0);
    tap.expect(
        "
        0 client 10.0.0.1:40000 (remote) other 10.0.0.2:5672
        0 client 10.0.0.1:40000 other 10.0.0.2:5672
        0 > hello
        0 < welcome
        0 > read 8589934592 took 0
        0 < read 4294968303 took 0
        0 closed",
    );
    assert_eq!(tap.streams.statistics().connections, 0);
}

/// The third read tells that another one came before it; the fourth was lost, and only the end tells of it.
#[test]
fn a_read_says_what_it_took_itself() {
    let mut tap = Tap::local();
    tap.send(SERVER, SERVER_START, b"abcdefgh");
    tap.read_from(CLIENT, SERVER_START, SERVER_START + 2).read_from(CLIENT, SERVER_START + 2, SERVER_START + 3);
    tap.read_from(CLIENT, SERVER_START + 5, SERVER_START + 6).close(CLIENT, SERVER_START + 8);
    tap.expect(
        "
        0 < abcdefgh
        0 < read 4294968298 took 2
        0 < read 4294968299 took 1
        0 < read 4294968302 took 1
        0 < read 4294968304 took 0",
    );
}

#[test]
fn what_both_taps_saw_counts_once() {
    let mut tap = Tap::local();
    let ingress = |sequence, bytes: &'static [u8]| Segment {
        direction: Direction::Ingress,
        bytes,
        length: bytes.len() as u32,
        ..packet(SERVER, sequence)
    };
    tap.send(CLIENT, CLIENT_START, b"ab").segment(ingress(CLIENT_START, b"ab"));
    tap.segment(ingress(CLIENT_START.wrapping_add(2), b"cd")).send(CLIENT, CLIENT_START.wrapping_add(2), b"cdef");
    tap.expect(
        "
        0 > ab
        0 > cd
        0 > ef inside",
    );
    assert_eq!(tap.streams.statistics().bytes_duplicate, 4);
    let taps: Vec<_> = tap.streams.taps(ConnectionId(0), Flow::Forward).collect();
    assert_eq!(taps, [(CLIENT, Direction::Egress), (SERVER, Direction::Ingress)]);
}

#[test]
fn a_gap_waits_for_its_packet_and_then_for_its_time() {
    let mut tap = Tap::local();
    tap.send(SERVER, SERVER_START + 2, b"cd").wait(499).send(SERVER, SERVER_START, b"ab");
    tap.expect(
        "
        0 < ab
        0 < cd",
    );
    tap.wait(1).expect("");
    assert_eq!(tap.streams.poll_timeout(), None);
    tap.send(SERVER, SERVER_START + 6, b"gh").wait(499).expect("");
    assert!(tap.streams.poll_timeout().is_some());
    tap.wait(1).expect(
        "
        0 < <missing 2>
        0 < gh",
    );
    // The records' own time is enough.
    tap.send(SERVER, SERVER_START + 10, b"kl");
    tap.now += 600;
    tap.send(CLIENT, CLIENT_START, b"x");
    tap.expect(
        "
        0 < <missing 2>
        0 < kl
        0 > x",
    );
}

#[test]
fn an_acknowledged_gap_is_final() {
    let mut tap = Tap::local();
    tap.send(SERVER, SERVER_START + 2, b"cd");
    tap.segment(Segment { acknowledged: SERVER_START + 1, bytes: b"x", length: 1, ..packet(CLIENT, CLIENT_START) });
    tap.expect(
        "
        0 > x",
    );
    let next = CLIENT_START.wrapping_add(1);
    tap.segment(Segment { acknowledged: SERVER_START + 4, bytes: b"y", length: 1, ..packet(CLIENT, next) });
    tap.expect(
        "
        0 < <missing 2>
        0 < cd
        0 > y",
    );
    // So is one that the application has read beyond.
    tap.send(SERVER, SERVER_START + 6, b"gh").read(CLIENT, SERVER_START + 8);
    tap.expect(
        "
        0 < <missing 2>
        0 < gh
        0 < read 4294968304 took 1008",
    );
}

#[test]
fn lost_and_skipped_bytes_are_holes_at_once() {
    let mut tap = Tap::local();
    let whole = packet(SERVER, SERVER_START);
    tap.segment(Segment { bytes: b"head", length: 100, more: true, ..whole.clone() });
    tap.segment(Segment { bytes: b"tail", length: 100, offset: 90, ..whole.clone() });
    tap.segment(Segment { bytes: b"next", length: 4, lost: 3, ..packet(SERVER, SERVER_START + 120) });
    tap.segment(Segment { bytes: b"", length: 50, lost: 3, ..packet(SERVER, SERVER_START + 124) });
    tap.segment(Segment { bytes: b"end", length: 13, offset: 10, lost: 3, ..packet(SERVER, SERVER_START + 174) });
    tap.expect(
        "
        0 < head
        0 < <skipped 86>
        0 < tail inside
        0 < <skipped 6>
        0 < <ring_full 20>
        0 < next
        0 < <skipped 50>
        0 < <skipped 10>
        0 < end inside",
    );
    let statistics = tap.streams.statistics();
    assert_eq!(statistics.holes_of(HoleCause::Skipped).bytes, 152);
    assert_eq!(statistics.holes_of(HoleCause::RingFull).bytes, 20);
    assert_eq!(statistics.bytes_seen, statistics.bytes_delivered);
}

#[test]
fn a_lost_record_inside_a_packet_is_not_taken_for_skipped() {
    let mut tap = Tap::local();
    let whole = packet(SERVER, SERVER_START);
    tap.segment(Segment { bytes: b"one", length: 9, more: true, ..whole.clone() });
    tap.segment(Segment { bytes: b"two", length: 9, offset: 6, lost: 1, ..whole.clone() });
    tap.expect(
        "
        0 < one
        0 < <ring_full 3>
        0 < two inside",
    );
}

#[test]
fn what_is_acknowledged_in_a_packet_capture_and_was_not_seen_is_missing_before_the_answer() {
    let answer = |every_packet: bool| {
        let mut tap = Tap::local();
        if every_packet {
            tap.streams.expect_every_packet();
        }
        tap.send(SERVER, SERVER_START, b"ab");
        let acknowledged = SERVER_START + 7;
        tap.segment(Segment { acknowledged, bytes: b"x", length: 1, ..packet(CLIENT, CLIENT_START) });
        tap
    };
    answer(true).expect(
        "
        0 < ab
        0 < <missing 5>
        0 > x",
    );
    // The kernel stage tells of skipped bytes only later.
    answer(false).expect(
        "
        0 < ab
        0 > x",
    );
}

#[test]
fn a_connection_joined_late_begins_where_it_is_first_seen() {
    let mut tap = Tap::new(Limits::default());
    let late = |origin, broker_port| Socket { from_start: false, broker_port, ..socket(SERVER, origin) };
    tap.socket(late(Origin::Unknown, Some(5672)));
    tap.segment(Segment { bytes: b"there", length: 5, lost: 7, ..packet(SERVER, SERVER_START - 5) });
    tap.socket(Socket {
        cookie: CLIENT,
        from_start: false,
        origin: Origin::Unknown,
        ..socket(CLIENT, Origin::Connected)
    });
    tap.send(CLIENT, 5, b"here").close(SERVER, 9).send(CLIENT, 9, b"more").close(CLIENT, SERVER_START);
    tap.expect(
        "
        0 client 10.0.0.1:40000 (remote) other 10.0.0.2:5672 late
        0 < there
        0 client 10.0.0.1:40000 other 10.0.0.2:5672 late
        0 > here
        0 > read 4294967305 took 0
        0 > more
        0 < read 4294968296 took 0
        0 closed",
    );
}

#[test]
fn the_order_of_the_ends_never_changes() {
    let mut tap = Tap::new(Limits::default());
    let unknown = Socket { origin: Origin::Unknown, ..socket(SERVER, Origin::Accepted) };
    tap.socket(unknown.clone()).socket(socket(CLIENT, Origin::Connected)).send(CLIENT, CLIENT_START, b"x");
    let owner = Some(Owner { pid: 7, executable: "beam.smp".into() });
    tap.socket(Socket { owner: owner.clone(), ..unknown.clone() }).socket(Socket { owner, ..unknown });
    tap.expect(
        "
        0 one 10.0.0.2:5672 other 10.0.0.1:40000 (remote)
        0 one 10.0.0.2:5672 other 10.0.0.1:40000
        0 < x
        0 one 10.0.0.2:5672 other 10.0.0.1:40000",
    );
    assert_eq!(tap.streams.facts(ConnectionId(0)).unwrap().ends[0].owner.as_ref().unwrap().pid, 7);
}

#[test]
fn a_port_that_is_used_again_is_a_new_connection() {
    let mut tap = Tap::local();
    tap.send(CLIENT, CLIENT_START, b"old").send(CLIENT, CLIENT_START.wrapping_add(5), b"waits");
    // The old socket's end was lost; its successor has the same addresses and other numbers.
    let again = Socket { send_next: 500, copied: 600, ..socket(Cookie(3), Origin::Connected) };
    tap.socket(again);
    tap.socket(Socket { send_next: 600, copied: 500, ..socket(Cookie(4), Origin::Accepted) });
    tap.send(Cookie(3), 500, b"new").send(CLIENT, CLIENT_START.wrapping_add(10), b"gone");
    tap.expect(
        "
        0 > old
        0 > <missing 2>
        0 > waits
        0 closed
        1 client 10.0.0.1:40000 other 10.0.0.2:5672 (remote)
        1 client 10.0.0.1:40000 other 10.0.0.2:5672
        1 > new",
    );
    assert_eq!(tap.streams.statistics().bytes_unannounced, 4);
}

#[test]
fn loopback_addresses_belong_to_their_namespace() {
    let mut tap = Tap::new(Limits::default());
    let loopback = |cookie, origin, netns| {
        let local = address(if origin == Origin::Connected { "127.0.0.1:40000" } else { "127.0.0.1:5672" });
        let remote = address(if origin == Origin::Connected { "127.0.0.1:5672" } else { "127.0.0.1:40000" });
        Socket { local, remote, netns, ..socket(Cookie(cookie), origin) }
    };
    tap.socket(loopback(1, Origin::Connected, 1)).socket(loopback(2, Origin::Accepted, 2));
    assert_eq!(tap.streams.statistics().connections, 2);
    tap.socket(loopback(3, Origin::Accepted, 1));
    assert_eq!(tap.streams.statistics().connections, 2);
    // Two containers behind one host reach each other from different namespaces.
    let mut tap = Tap::new(Limits::default());
    tap.socket(socket(CLIENT, Origin::Connected)).socket(Socket { netns: 9, ..socket(SERVER, Origin::Accepted) });
    assert_eq!(tap.streams.statistics().connections, 1);
}

#[test]
fn half_a_connection_may_close_before_the_other_has_said_everything() {
    let mut tap = Tap::local();
    tap.close(CLIENT, SERVER_START).send(SERVER, SERVER_START, b"still").send(SERVER, SERVER_START + 7, b"here");
    tap.close(SERVER, CLIENT_START);
    tap.expect(
        "
        0 < still
        0 < <missing 2>
        0 < here
        0 closed",
    );
}

#[test]
fn the_reorder_budget_makes_holes_instead_of_growing() {
    let limits = Limits { waiting_bytes: 1 << 20, waiting_bytes_per_connection: 4096, ..Limits::default() };
    let mut tap = Tap::new(limits);
    tap.socket(socket(CLIENT, Origin::Connected));
    for number in 0..1000u32 {
        tap.send(CLIENT, CLIENT_START.wrapping_add(1 + 2 * number), b"x");
    }
    let statistics = tap.streams.statistics();
    assert!(statistics.waiting_bytes <= 4096 && statistics.budget_gaps > 900, "{statistics:?}");
    assert_eq!(statistics.bytes_seen, statistics.bytes_delivered + statistics.waiting_bytes);
    // The budget of all together gives up the oldest gap, whosever it is.
    let mut tap = Tap::new(Limits { waiting_bytes: 4096, ..Limits::default() });
    for number in 0..100u16 {
        let local = SocketAddr::new([10, 0, 0, 1].into(), 40_000 + number);
        let cookie = Cookie(u64::from(number) + 10);
        tap.socket(Socket { local, ..socket(cookie, Origin::Connected) });
        tap.wait(1).send(cookie, CLIENT_START.wrapping_add(1), &[b'y'; 100]);
    }
    assert!(tap.streams.statistics().waiting_bytes <= 4096);
    assert!(tap.text.contains("0 > <missing 1>") && !tap.text.contains("99 > <missing 1>"));
}

#[test]
fn the_connection_that_was_quiet_longest_makes_room() {
    let mut tap = Tap::new(Limits { connections: 2, ..Limits::default() });
    for number in 1..=3u16 {
        let local = SocketAddr::new([10, 0, 0, 1].into(), 40_000 + number);
        tap.socket(Socket { local, ..socket(Cookie(u64::from(number)), Origin::Connected) });
        if number == 2 {
            tap.send(Cookie(1), CLIENT_START, b"busy");
        }
    }
    tap.expect(
        "
        0 client 10.0.0.1:40001 other 10.0.0.2:5672 (remote)
        1 client 10.0.0.1:40002 other 10.0.0.2:5672 (remote)
        0 > busy
        1 > <missing ?>
        1 < <missing ?>
        1 closed
        2 client 10.0.0.1:40003 other 10.0.0.2:5672 (remote)",
    );
    assert_eq!(tap.streams.statistics().evicted_connections, 1);
}

#[test]
fn lies_in_a_segment_do_no_harm() {
    let mut tap = Tap::local();
    tap.segment(Segment { bytes: b"a", length: u32::MAX, ..packet(SERVER, SERVER_START) });
    tap.segment(Segment { bytes: b"b", length: 1, offset: u32::MAX, ..packet(SERVER, SERVER_START + 1) });
    tap.segment(Segment { bytes: b"c", length: 1, lost: u32::MAX, ..packet(SERVER, SERVER_START + 2) });
    tap.read(CLIENT, SERVER_START + (1 << 31)).read(Cookie(99), 5).close(Cookie(99), 5);
    tap.send(Cookie(99), 5, b"nobody");
    assert_eq!(tap.streams.statistics().bytes_unannounced, 6);
    assert!(tap.text.starts_with("0 < a\n"));
    assert_eq!(tap.streams.poll_timeout(), None);
}
