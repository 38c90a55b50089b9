//! Packet captures of other tools, built byte by byte here, read as records.

use std::io::Cursor;
use std::net::{IpAddr, SocketAddr};

use acktrail::capture::pcap::{Error, Options, Reader, Tally, Unusable};
use acktrail::capture::source::{self, Source};
use acktrail::capture::{Cookie, Direction, Origin, Record, recording};
use acktrail::time::Timestamp;
use proptest::prelude::*;

const CLIENT: &str = "10.0.0.1:40000";
const SERVER: &str = "10.0.0.2:5672";
const START: u64 = 1_700_000_000_000_000_000;

const SYN: u8 = 2;
const ACK: u8 = 16;
const FIN: u8 = 1;
const RST: u8 = 4;

/// A TCP packet to build.
#[derive(Clone, Debug)]
struct Tcp {
    from: SocketAddr,
    to: SocketAddr,
    sequence: u32,
    acknowledged: u32,
    flags: u8,
    payload: Vec<u8>,
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn client(sequence: u32, acknowledged: u32, flags: u8, payload: &[u8]) -> Tcp {
    Tcp { from: address(CLIENT), to: address(SERVER), sequence, acknowledged, flags, payload: payload.to_vec() }
}

fn server(sequence: u32, acknowledged: u32, flags: u8, payload: &[u8]) -> Tcp {
    Tcp { from: address(SERVER), to: address(CLIENT), ..client(sequence, acknowledged, flags, payload) }
}

impl Tcp {
    fn segment(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&self.from.port().to_be_bytes());
        bytes.extend_from_slice(&self.to.port().to_be_bytes());
        bytes.extend_from_slice(&self.sequence.to_be_bytes());
        bytes.extend_from_slice(&self.acknowledged.to_be_bytes());
        // Twelve bytes of options, as most packets have (timestamps).
        bytes.extend_from_slice(&[8 << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        bytes.extend_from_slice(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    fn ip(&self) -> Vec<u8> {
        self.ip_with(&[], 6)
    }

    /// With IPv6 extension headers in between.
    fn ip_with(&self, extensions: &[u8], next: u8) -> Vec<u8> {
        let segment = self.segment();
        let mut bytes = Vec::new();
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let length = (20 + segment.len()) as u16;
                bytes.extend_from_slice(&[0x45, 0]);
                bytes.extend_from_slice(&length.to_be_bytes());
                bytes.extend_from_slice(&[0, 1, 0x40, 0, 64, 6, 0, 0]);
                bytes.extend_from_slice(&from.octets());
                bytes.extend_from_slice(&to.octets());
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let length = (extensions.len() + segment.len()) as u16;
                bytes.extend_from_slice(&[0x60, 0, 0, 0]);
                bytes.extend_from_slice(&length.to_be_bytes());
                bytes.extend_from_slice(&[next, 64]);
                bytes.extend_from_slice(&from.octets());
                bytes.extend_from_slice(&to.octets());
                bytes.extend_from_slice(extensions);
            }
            _ => panic!("two families"),
        }
        bytes.extend_from_slice(&segment);
        bytes
    }
}

fn ether_type(ip: &[u8]) -> [u8; 2] {
    if ip[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] }
}

/// A frame of this link type around an IP packet.
fn frame(link: u32, ip: &[u8]) -> Vec<u8> {
    let kind = ether_type(ip);
    let head = match link {
        1 => [&[0xaa; 12][..], &kind].concat(),
        113 => [&[0, 0, 3, 4, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0][..], &kind].concat(),
        276 => [&kind[..], &[0; 18]].concat(),
        0 => vec![2, 0, 0, 0],
        108 => vec![0, 0, 0, 2],
        _ => Vec::new(),
    };
    [head.as_slice(), ip].concat()
}

/// One frame, its time in nanoseconds behind [`START`], and how much of it the capture keeps.
struct Captured {
    time: u64,
    bytes: Vec<u8>,
    keep: usize,
}

fn captured(link: u32, packets: &[Tcp]) -> Vec<Captured> {
    let frames = packets.iter().enumerate();
    frames.map(|(number, packet)| whole(number as u64 * 1000, frame(link, &packet.ip()))).collect()
}

fn whole(time: u64, bytes: Vec<u8>) -> Captured {
    Captured { time, keep: bytes.len(), bytes }
}

fn pcap(link: u32, nanoseconds: bool, big_endian: bool, frames: &[Captured]) -> Vec<u8> {
    let word = |value: u32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let half = |value: u16| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let mut file = Vec::new();
    file.extend_from_slice(&word(if nanoseconds { 0xa1b2_3c4d } else { 0xa1b2_c3d4 }));
    file.extend_from_slice(&half(2));
    file.extend_from_slice(&half(4));
    for value in [0, 0, 262_144, link] {
        file.extend_from_slice(&word(value));
    }
    for captured in frames {
        let time = START + captured.time;
        let fraction = (time % 1_000_000_000) as u32;
        let fraction = if nanoseconds { fraction } else { fraction / 1000 };
        let fields = [(time / 1_000_000_000) as u32, fraction, captured.keep as u32, captured.bytes.len() as u32];
        for value in fields {
            file.extend_from_slice(&word(value));
        }
        file.extend_from_slice(&captured.bytes[..captured.keep]);
    }
    file
}

/// A section with one interface; its clock counts 2^-30 s (or µs) from 1000 s after the epoch.
fn pcapng(link: u16, power_of_two: bool, big_endian: bool, frames: &[Captured]) -> Vec<u8> {
    let word = |value: u32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let half = |value: u16| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let block = |kind: u32, body: &[u8]| {
        let padded = body.len().div_ceil(4) * 4;
        let length = word(12 + padded as u32);
        let padding = vec![0; padded - body.len()];
        [&word(kind)[..], &length, body, &padding, &length].concat()
    };
    let version = [half(1), half(0)].concat();
    let mut file = block(0x0a0d_0d0a, &[&word(0x1a2b_3c4d)[..], &version, &[0xff; 8]].concat());
    let mut interface = [&half(link)[..], &half(0), &word(0)].concat();
    if power_of_two {
        interface.extend_from_slice(&[&half(9)[..], &half(1), &[0x80 | 30, 0, 0, 0], &half(0), &half(0)].concat());
    }
    file.extend_from_slice(&block(1, &interface));
    // A block that nobody knows.
    file.extend_from_slice(&block(0x0bad_0bad, &[1, 2, 3]));
    for captured in frames {
        let time = u128::from(START + captured.time);
        let ticks = if power_of_two { (time << 30).div_ceil(1_000_000_000) } else { time / 1000 } as u64;
        let mut body = Vec::new();
        let fields = [0, (ticks >> 32) as u32, ticks as u32, captured.keep as u32, captured.bytes.len() as u32];
        for value in fields {
            body.extend_from_slice(&word(value));
        }
        body.extend_from_slice(&captured.bytes[..captured.keep]);
        file.extend_from_slice(&block(6, &body));
    }
    file
}

/// Records in words that a test can compare.
fn read_with(file: Vec<u8>, ports: &[u16]) -> (Vec<String>, Tally, Result<(), Error>) {
    let options = Options { ports: ports.to_vec() };
    let mut reader = match Reader::new(Cursor::new(file), &options) {
        Ok(reader) => reader,
        Err(error) => return (Vec::new(), Tally::default(), Err(error)),
    };
    let mut lines = Vec::new();
    let end = loop {
        match reader.next() {
            Ok(Some(record)) => lines.push(words(&record)),
            Ok(None) => break Ok(()),
            Err(error) => {
                assert!(matches!(reader.next(), Ok(None)), "an error is the last word");
                break Err(error);
            }
        }
    };
    (lines, *reader.tally(), end)
}

fn words(record: &Record<'_>) -> String {
    match record {
        Record::Socket(socket) => {
            let origin = match socket.origin {
                Origin::Unknown => "",
                Origin::Connected => " connected",
                Origin::Accepted => " accepted",
            };
            let start = if socket.from_start { " from start" } else { "" };
            let port = socket.broker_port.map(|port| format!(" broker {port}")).unwrap_or_default();
            format!(
                "socket {} {}->{}{origin}{start}{port} send {} copied {}",
                socket.cookie.0, socket.local, socket.remote, socket.send_next, socket.copied
            )
        }
        Record::Segment(segment) => {
            assert_eq!((segment.direction, segment.offset, segment.more), (Direction::Egress, 0, false));
            assert_eq!(segment.length as usize, segment.bytes.len());
            let text = String::from_utf8_lossy(segment.bytes);
            format!("segment {} {} {text:?} ack {}", segment.cookie.0, segment.sequence, segment.acknowledged)
        }
        Record::Read(_) => panic!("a capture sees no reads"),
        Record::Closed(closed) => format!("closed {} copied {}", closed.cookie.0, closed.copied),
        Record::Counters(counters) => {
            format!("counters {} {} {}", counters.packets, counters.payload_bytes, counters.captured_bytes)
        }
    }
}

fn read(packets: &[Tcp]) -> Vec<String> {
    let (lines, _, end) = read_with(pcap(101, true, false, &captured(101, packets)), &[]);
    end.expect("whole");
    lines
}

/// A handshake, two messages, and an orderly end.
fn conversation() -> Vec<Tcp> {
    vec![
        client(999, 0, SYN, b""),
        server(4999, 1000, SYN | ACK, b""),
        client(1000, 5000, ACK, b""),
        client(1000, 5000, ACK, b"AMQP"),
        server(5000, 1004, ACK, b"start"),
        client(1004, 5005, ACK | FIN, b""),
        server(5005, 1005, ACK | FIN, b""),
        client(1005, 5006, ACK, b""),
    ]
}

const CONVERSATION: [&str; 7] = [
    "socket 1 10.0.0.1:40000->10.0.0.2:5672 connected from start send 1000 copied 5000",
    "socket 2 10.0.0.2:5672->10.0.0.1:40000 accepted from start send 5000 copied 1000",
    "segment 1 1000 \"AMQP\" ack 5000",
    "segment 2 5000 \"start\" ack 1004",
    "closed 1 copied 5005",
    "closed 2 copied 1004",
    "counters 2 9 9",
];

#[test]
fn every_format_and_link_type_gives_the_same_records() {
    for link in [1, 113, 276, 0, 108, 101, 12, 14, 228] {
        let frames = captured(link, &conversation());
        for flags in 0..4 {
            let (one, big_endian) = (flags & 1 == 1, flags & 2 == 2);
            for file in [pcap(link, one, big_endian, &frames), pcapng(link as u16, one, big_endian, &frames)] {
                let (lines, tally, end) = read_with(file, &[]);
                end.expect("whole");
                assert_eq!(lines, CONVERSATION, "link type {link}, {flags}");
                assert_eq!((tally.packets, tally.connections), (8, 1));
                assert_eq!(Unusable::ALL.map(|reason| tally.unusable(reason)), [0; 9]);
            }
        }
    }
}

#[test]
fn times_are_exact() {
    let times = |file: Vec<u8>| {
        let mut reader = Reader::new(Cursor::new(file), &Options::default()).expect("a capture");
        let mut times = Vec::new();
        while let Some(record) = reader.next().expect("whole") {
            if let Record::Segment(segment) = record {
                times.push(segment.time);
            }
        }
        times
    };
    let frames = vec![
        whole(123_456_789, frame(101, &client(1, 1, ACK, b"a").ip())),
        whole(5_000_000_001, frame(101, &client(2, 1, ACK, b"b").ip())),
    ];
    let exact = [Timestamp(START + 123_456_789), Timestamp(START + 5_000_000_001)];
    let microseconds = [Timestamp(START + 123_456_000), Timestamp(START + 5_000_000_000)];
    assert_eq!(times(pcap(101, true, false, &frames)), exact);
    assert_eq!(times(pcap(101, false, true, &frames)), microseconds);
    assert_eq!(times(pcapng(101, true, false, &frames)), exact);
    assert_eq!(times(pcapng(101, false, true, &frames)), microseconds);
}

#[test]
fn tags_extension_headers_and_ipv6() {
    let packet = client(1, 1, ACK, b"x");
    let tag = |kind: [u8; 2]| [&kind[..], &[0, 7]].concat();
    let tagged = [&[0xaa; 12][..], &tag([0x88, 0xa8]), &tag([0x81, 0]), &[8, 0], &packet.ip()].concat();
    let six = Tcp { from: address("[fe80::1]:40000"), to: address("[fe80::2]:5672"), ..packet.clone() };
    // Hop-by-hop options, then destination options, then TCP.
    let extensions = [60, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0];
    let mapped =
        Tcp { from: address("[::ffff:10.0.0.1]:40000"), to: address("[::ffff:10.0.0.2]:5672"), ..packet.clone() };
    let padded = [frame(1, &packet.ip()), vec![0; 20]].concat();
    for (link, bytes, from) in [
        (1, tagged, CLIENT),
        (1, frame(1, &six.ip()), "[fe80::1]:40000"),
        (229, six.ip_with(&extensions, 0), "[fe80::1]:40000"),
        (276, frame(276, &mapped.ip()), CLIENT),
        (1, padded, CLIENT),
    ] {
        let (lines, _, end) = read_with(pcap(link, false, false, &[whole(0, bytes)]), &[]);
        end.expect("whole");
        assert!(lines[0].starts_with(&format!("socket 1 {from}->")), "{lines:?}");
        assert_eq!(lines[2], "segment 1 1 \"x\" ack 1");
    }
}

#[test]
fn what_cannot_be_used_is_counted_by_reason() {
    let tcp = client(1, 1, ACK, b"payload");
    let ip = tcp.ip();
    let change = |at: usize, value: u8| {
        let mut bytes = ip.clone();
        bytes[at] = value;
        bytes
    };
    let six = Tcp { from: address("[::1]:1"), to: address("[::1]:2"), ..tcp.clone() };
    let cut = |bytes: &[u8], keep: usize| Captured { time: 0, bytes: bytes.to_vec(), keep };
    for (link, packet, reason) in [
        (105, whole(0, ip.clone()), Unusable::LinkType),
        (1, whole(0, [&[0xaa; 12][..], &[8, 6], &ip].concat()), Unusable::NotIp),
        (101, whole(0, change(9, 17)), Unusable::NotTcp),
        (101, whole(0, change(6, 0x20)), Unusable::Fragment),
        (101, whole(0, change(7, 0x05)), Unusable::Fragment),
        (101, whole(0, six.ip_with(&[6, 0, 0, 9, 0, 0, 0, 1], 44)), Unusable::Fragment),
        (101, whole(0, change(0, 0x90)), Unusable::Malformed),
        (101, whole(0, change(0, 0x41)), Unusable::Malformed),
        (101, whole(0, change(3, 30)), Unusable::Malformed),
        (101, whole(0, change(32, 0x10)), Unusable::Malformed),
        (1, cut(&frame(1, &ip), 10), Unusable::HeadersCut),
        (101, cut(&ip, 0), Unusable::HeadersCut),
        (101, cut(&ip, 19), Unusable::HeadersCut),
        (101, cut(&ip, 45), Unusable::HeadersCut),
        (101, cut(&ip, 52), Unusable::PayloadCut),
        (101, cut(&ip, 55), Unusable::PayloadCut),
    ] {
        let kept = packet.keep;
        let (_, tally, end) = read_with(pcap(link, false, false, &[packet]), &[]);
        end.expect("whole");
        assert_eq!(tally.unusable(reason), 1, "{reason:?} {kept}");
        assert_eq!(Unusable::ALL.iter().map(|reason| tally.unusable(*reason)).sum::<u64>(), 1);
    }
}

#[test]
fn a_packet_that_was_cut_leaves_a_hole_at_the_next() {
    let first = client(1, 1, ACK, b"0123456789");
    let second = client(11, 1, ACK, b"ab");
    let cut = Captured { time: 0, keep: 56, bytes: first.ip() };
    let (lines, tally, _) = read_with(pcap(101, false, false, &[cut, whole(1, second.ip())]), &[]);
    assert_eq!(lines[2..], ["segment 1 1 \"0123\" ack 1", "segment 1 11 \"ab\" ack 1", "counters 2 12 6"]);
    assert_eq!((tally.payload_bytes, tally.captured_bytes), (12, 6));
}

#[test]
fn joined_in_the_middle_nothing_is_guessed() {
    let lines = read(&[client(1000, 5000, ACK, b"late"), server(5000, 1004, ACK, b"yes")]);
    let expected = [
        "socket 1 10.0.0.1:40000->10.0.0.2:5672 send 1000 copied 5000",
        "socket 2 10.0.0.2:5672->10.0.0.1:40000 send 5000 copied 1000",
        "segment 1 1000 \"late\" ack 5000",
        "segment 2 5000 \"yes\" ack 1004",
        "counters 2 7 7",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn one_half_of_the_handshake_tells_both_beginnings_only_if_it_is_the_answer() {
    let conversation = conversation();
    let without = |left_out: usize| {
        let packets = conversation.iter().enumerate().filter(|(number, _)| *number != left_out);
        read(&packets.map(|(_, packet)| packet.clone()).collect::<Vec<_>>())
    };
    assert_eq!(without(0), CONVERSATION);
    assert!(without(1)[0].contains(" connected send 1000 copied 5000"));
}

#[test]
fn packets_seen_twice_end_nothing_and_begin_nothing() {
    let twice: Vec<Tcp> = conversation().into_iter().flat_map(|packet| [packet.clone(), packet]).collect();
    let lines = read(&twice);
    assert_eq!(lines.iter().filter(|line| line.starts_with("socket")).count(), 2);
    assert_eq!(lines.iter().filter(|line| line.starts_with("closed")).count(), 2);
    assert_eq!(lines.iter().filter(|line| line.starts_with("segment")).count(), 4);
}

#[test]
fn a_reset_ends_both_and_a_port_used_again_is_a_new_connection() {
    let mut packets = conversation()[..5].to_vec();
    packets.push(server(5005, 0, RST, b""));
    packets.push(client(1004, 5005, ACK, b"too late"));
    packets.push(client(70_000, 0, SYN, b""));
    packets.push(server(80_000, 70_001, SYN | ACK, b""));
    packets.push(client(70_001, 80_001, ACK, b"again"));
    // Not even an end before the next one.
    packets.push(client(90_000, 0, SYN, b""));
    packets.push(client(90_001, 1, ACK, b"third"));
    let (lines, tally, _) = read_with(pcap(101, true, false, &captured(101, &packets)), &[]);
    let expected = [
        "closed 1 copied 5000",
        "closed 2 copied 1004",
        "socket 3 10.0.0.1:40000->10.0.0.2:5672 connected from start send 70001 copied 80001",
        "socket 4 10.0.0.2:5672->10.0.0.1:40000 accepted from start send 80001 copied 70001",
        "segment 3 70001 \"again\" ack 80001",
        "closed 3 copied 80001",
        "closed 4 copied 70001",
        "socket 5 10.0.0.1:40000->10.0.0.2:5672 connected send 90001 copied 1",
        "socket 6 10.0.0.2:5672->10.0.0.1:40000 accepted send 1 copied 90001",
        "segment 5 90001 \"third\" ack 1",
        "counters 4 19 19",
    ];
    assert_eq!(lines[4..], expected);
    assert_eq!(tally.unusable(Unusable::AfterEnd), 1);
    assert_eq!(tally.connections, 3);
}

#[test]
fn ports_choose_and_name_the_broker() {
    let other = Tcp { from: address("10.0.0.1:1"), to: address("10.0.0.2:80"), ..client(1, 1, ACK, b"GET") };
    let mut packets = conversation();
    packets.push(other);
    let file = pcap(101, true, false, &captured(101, &packets));
    let (lines, tally, _) = read_with(file.clone(), &[5672, 1]);
    assert!(lines[0].contains("from start broker 5672"), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("10.0.0.1:1->10.0.0.2:80 broker 1 ")));
    assert_eq!(tally.unusable(Unusable::OtherPort), 0);
    let (lines, tally, _) = read_with(file.clone(), &[5672]);
    assert_eq!(lines.iter().filter(|line| line.starts_with("socket")).count(), 2);
    assert_eq!(tally.unusable(Unusable::OtherPort), 1);
    // Both ends have a port that was asked for: the one that was connected to.
    let (lines, ..) = read_with(file, &[40000, 5672]);
    assert!(lines[0].ends_with("broker 5672 send 1000 copied 5000"), "{lines:?}");
}

#[test]
fn a_truncated_file_gives_what_came_before() {
    let frames = captured(1, &conversation());
    let (two, ..) = read_with(pcap(1, false, false, &frames[..4]), &[]);
    assert_eq!(two.len(), 4);
    for file in [pcap(1, false, false, &frames), pcapng(1, false, true, &frames)] {
        let mut lines = Vec::new();
        for length in 0..file.len() {
            let (found, _, end) = read_with(file[..length].to_vec(), &[]);
            match end {
                Err(Error::NotACapture) => assert!(length < 28 && found.is_empty(), "{length}"),
                Err(error) => assert!(error.is_truncation(), "{length}: {error}"),
                Ok(()) => {}
            }
            let found: Vec<String> = found.into_iter().filter(|line| !line.starts_with("counters")).collect();
            assert!(CONVERSATION.iter().zip(&found).all(|(expected, found)| expected == found));
            assert!(found.len() >= lines.len(), "more file, more records");
            lines = found;
        }
    }
}

#[test]
fn lengths_that_lie_are_damage() {
    let mut file = pcap(1, false, false, &captured(1, &conversation()));
    file[24 + 8..24 + 12].copy_from_slice(&u32::MAX.to_le_bytes());
    let (lines, _, end) = read_with(file, &[]);
    assert_eq!(lines, ["counters 0 0 0"]);
    let error = end.expect_err("damaged").to_string();
    assert!(error.contains("byte 24"), "{error}");
}

#[test]
fn a_source_knows_its_format_by_its_first_bytes() {
    let file = pcap(1, false, false, &captured(1, &conversation()));
    let options = Options::default();
    let mut reader = Reader::new(Cursor::new(file.clone()), &options).expect("a capture");
    let mut writer = recording::Writer::new(Vec::new(), &recording::Header::default()).expect("to memory");
    while let Some(record) = reader.next().expect("whole") {
        writer.write(&record).expect("possible");
    }
    let (recorded, _) = writer.finish().expect("to memory");
    let lines = |file: Vec<u8>, ports: &[u16]| {
        let mut source = Source::new(Box::new(Cursor::new(file)), ports).expect("a source");
        let mut lines = Vec::new();
        while source.next(|record| lines.push(words(record))).expect("whole") {}
        assert!(!source.next(|_| panic!("behind the end")).expect("still the end"));
        lines
    };
    assert_eq!(lines(file.clone(), &[]), CONVERSATION);
    assert_eq!(lines(recorded.clone(), &[]), CONVERSATION);
    assert_eq!(lines(recorded, &[80]), ["counters 2 9 9"]);
    assert_eq!(lines(file, &[80]), ["counters 0 0 0"]);
    let unknown = Source::new(Box::new(Cursor::new(b"hello, world".to_vec())), &[]).err().expect("no source");
    assert!(matches!(unknown, source::Error::Unknown), "{unknown}");
    let missing = Source::open(std::path::Path::new("/nonexistent"), &[]).err().expect("no file");
    assert!(matches!(missing, source::Error::Io(_)));
}

#[test]
fn the_table_of_connections_is_bounded() {
    let mut frames = Vec::new();
    for number in 0..70_000u32 {
        let from =
            SocketAddr::from((std::net::Ipv4Addr::from(0x0a00_0000 + number / 1000), 1024 + (number % 1000) as u16));
        frames.push(whole(u64::from(number), Tcp { from, ..client(1, 1, ACK, b"x") }.ip()));
    }
    let file = pcap(101, true, false, &frames);
    let (lines, tally, end) = read_with(file.clone(), &[]);
    end.expect("whole");
    assert_eq!(tally.connections, 70_000);
    assert_eq!(tally.evicted, 8192);
    assert_eq!(lines.iter().filter(|line| line.starts_with("closed")).count(), 2 * 8192);
    assert_eq!(read_with(file, &[]).0, lines, "the same file, the same records");
}

/// Packets of few addresses with arbitrary flags and numbers.
fn packet() -> impl Strategy<Value = Tcp> {
    let payload = prop::collection::vec(any::<u8>(), 0..40);
    (any::<bool>(), 0u32..300, 0u32..300, any::<u8>(), payload).prop_map(
        |(from_client, sequence, acknowledged, flags, payload)| {
            let build = if from_client { client } else { server };
            build(sequence, acknowledged, flags & 0x3f, &payload)
        },
    )
}

/// Whatever comes: sockets are announced once, before their segments, closed once, and never used again.
fn check_order(file: Vec<u8>) -> Result<(), TestCaseError> {
    let mut reader = match Reader::new(Cursor::new(file), &Options::default()) {
        Ok(reader) => reader,
        Err(_) => return Ok(()),
    };
    let mut open: Vec<Cookie> = Vec::new();
    let mut all: Vec<Cookie> = Vec::new();
    let mut counters = 0;
    while let Ok(Some(record)) = reader.next() {
        prop_assert_eq!(counters, 0, "counters are the last record");
        match record {
            Record::Socket(socket) => {
                prop_assert!(!all.contains(&socket.cookie));
                all.push(socket.cookie);
                open.push(socket.cookie);
            }
            Record::Segment(segment) => prop_assert!(open.contains(&segment.cookie)),
            Record::Closed(closed) => {
                prop_assert!(open.contains(&closed.cookie));
                open.retain(|cookie| *cookie != closed.cookie);
            }
            Record::Counters(_) => counters += 1,
            Record::Read(_) => prop_assert!(false),
        }
    }
    prop_assert_eq!(counters, 1);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arbitrary_packets(packets in prop::collection::vec(packet(), 0..40)) {
        check_order(pcap(101, true, false, &captured(101, &packets)))?;
    }

    #[test]
    fn arbitrary_frames(
        link in prop::sample::select(vec![0u32, 1, 12, 14, 101, 108, 113, 228, 229, 276, 9]),
        frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..120), 0..10),
    ) {
        let frames: Vec<Captured> = frames.into_iter().map(|bytes| whole(0, bytes)).collect();
        check_order(pcap(link, false, false, &frames))?;
    }

    #[test]
    fn damaged_files(
        formats in any::<(bool, bool, bool)>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let (ng, one, big_endian) = formats;
        let frames = captured(1, &conversation());
        let mut file = if ng { pcapng(1, one, big_endian, &frames) } else { pcap(1, one, big_endian, &frames) };
        for (at, value) in changes {
            let at = at.index(file.len());
            file[at] = value;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        check_order(file)?;
    }

    #[test]
    fn arbitrary_files(
        magic in prop::sample::select(vec![0xa1b2_c3d4u32, 0xa1b2_3c4d, 0xa1b2_cd34, 0x0a0d_0d0a, 0xd4c3_b2a1]),
        rest in prop::collection::vec(prop_oneof![any::<u8>(), 0u8..32], 0..400),
    ) {
        check_order([&magic.to_le_bytes()[..], &rest].concat())?;
    }
}
