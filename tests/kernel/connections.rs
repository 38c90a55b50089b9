//! Every kind of connection, byte by byte.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{self, Command, Stdio};
use std::thread;

use acktrail::capture::{Direction, Origin};
use acktrail::kernel::Options;

use crate::sockets::{Namespaces, bound, connect_bound, in_namespace, repaired, set_option};
use crate::support::{self, Pair, Tap, only, pattern};

/// Both directions of a connection are there, each byte once, at the right sequence numbers, with both owners.
fn captures_a_connection(listen: &str, connect: &str, port: u16) {
    let mut tap = Tap::new(&only(port));
    let listener = support::listen(listen.parse().unwrap());
    let mut pair = Pair::with(&listener, connect.parse().unwrap());
    let (request, answer) = (pattern(1, 100_000), pattern(2, 70_001));
    pair.exchange(&request, &answer);
    let (client, server) = (pair.client_address(), pair.server_address());
    pair.close();
    tap.until("both ends", |tap| tap.closed.len() == 2);

    let (client, server) = (tap.socket(client).clone(), tap.socket(server).clone());
    assert!(client.from_start && server.from_start);
    assert_eq!((client.origin, server.origin), (Origin::Connected, Origin::Accepted));
    assert_eq!((client.broker_port, server.broker_port), (Some(port), Some(port)));
    assert_eq!((client.send_next, server.send_next), (server.copied, client.copied));
    for end in [&client, &server] {
        let owner = end.owner.as_ref().expect("an owner");
        assert_eq!(owner.pid, process::id());
        assert!(owner.executable.starts_with("kernel-"), "{}", owner.executable);
    }
    assert!(tap.bytes(client.cookie, Direction::Egress, client.send_next) == request);
    assert!(tap.bytes(server.cookie, Direction::Egress, server.send_next) == answer);
    assert!(tap.of(client.cookie, Direction::Ingress).is_empty());
    assert!(tap.of(server.cookie, Direction::Ingress).is_empty());
    let last = tap.reads.iter().rfind(|read| read.cookie == client.cookie).expect("reads of the client");
    assert_eq!((last.copied, last.pid), (server.send_next.wrapping_add(answer.len() as u32), process::id()));
    assert!(tap.reads.iter().all(|read| read.cookie != server.cookie), "nobody asks when the broker reads");
    let counters = tap.capture.counters();
    assert_eq!(counters.captured_bytes, tap.segments.iter().map(|segment| segment.bytes.len() as u64).sum::<u64>());
    assert_eq!(counters.payload_bytes, counters.captured_bytes);
    assert_eq!(counters.ring_full_records, 0);
}

#[test]
#[ignore = "needs root"]
fn ipv4_loopback() {
    captures_a_connection("127.0.0.1:21001", "127.0.0.1:21001", 21001);
}

/// What a publisher reads is not asked for: one record less per message. Everything else that is read is reported.
#[test]
#[ignore = "needs root"]
fn reading_a_confirm_is_not_reported() {
    let mut tap = Tap::new(&only(21016));
    let mut pair = Pair::new("127.0.0.1:21016".parse().unwrap());
    let confirm = |end| [&[1, 0, 1, 0, 0, 0, 13, 0, 60, 0, 80, 0, 0, 0, 0, 0, 0, 0, 9, 0][..], &[end]].concat();
    let delivery = pattern(1, 100);
    let answers = [confirm(0xce), confirm(0xce), delivery, confirm(0xce), confirm(0xcd), confirm(0xce)];
    let mut end = 0;
    let mut reported = Vec::new();
    for (number, answer) in answers.iter().enumerate() {
        pair.exchange(b"x", answer);
        end += answer.len() as u32;
        if [2, 4].contains(&number) {
            reported.push(end);
        }
    }
    let client = pair.client_address();
    pair.close();
    tap.until("both ends", |tap| tap.closed.len() == 2);
    let client = tap.socket(client);
    let reads = tap.reads.iter().filter(|read| read.cookie == client.cookie);
    assert_eq!(reads.map(|read| read.copied.wrapping_sub(client.copied)).collect::<Vec<_>>(), reported, "{tap}");
}

#[test]
#[ignore = "needs root"]
fn ipv6_loopback() {
    captures_a_connection("[::1]:21002", "[::1]:21002", 21002);
}

#[test]
#[ignore = "needs root"]
fn ipv4_mapped() {
    captures_a_connection("[::]:21003", "127.0.0.1:21003", 21003);
}

#[test]
#[ignore = "needs root"]
fn ipv6_with_extension_headers() {
    let mut tap = Tap::new(&only(21004));
    let mut pair = Pair::new("[::1]:21004".parse().unwrap());
    // A destination-options header of eight bytes: next header and length are the kernel's, then PadN(4).
    let options: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];
    set_option(&pair.client, libc::IPPROTO_IPV6, libc::IPV6_DSTOPTS, &options);
    let request = pattern(3, 5_000);
    pair.exchange(&request, b"seen");
    let client = pair.client_address();
    pair.close();
    tap.until("both ends", |tap| tap.closed.len() == 2);
    let client = tap.socket(client).clone();
    assert!(tap.bytes(client.cookie, Direction::Egress, client.send_next) == request);
    assert_eq!(tap.capture.counters().unreadable_packets, 0);
}

#[test]
#[ignore = "needs root"]
fn megabytes_in_large_writes() {
    let mut tap = Tap::new(&Options { ring_bytes: 64 << 20, ..only(21005) });
    let mut pair = Pair::new("127.0.0.1:21005".parse().unwrap());
    let (request, answer) = (pattern(4, 7 << 20), pattern(5, 3 << 20));
    pair.exchange(&request, &answer);
    let (client, server) = (pair.client_address(), pair.server_address());
    pair.close();
    tap.until("both ends", |tap| tap.closed.len() == 2);
    let (client, server) = (tap.socket(client).clone(), tap.socket(server).clone());
    assert!(tap.bytes(client.cookie, Direction::Egress, client.send_next) == request);
    assert!(tap.bytes(server.cookie, Direction::Egress, server.send_next) == answer);
    let largest = tap.segments.iter().map(|segment| segment.length).max();
    assert!(largest > Some(32_768), "no large packets seen: {largest:?}");
}

/// BIG TCP: IPv6 packets of more than 64 KiB, which take several records.
#[test]
#[ignore = "needs root"]
fn packets_of_more_than_64_kib() {
    let namespaces = Namespaces::new("ak7", "ak8");
    namespaces.allow_big_tcp();
    let mut tap = Tap::new(&Options { ring_bytes: 64 << 20, ..only(21016) });
    let mut pair = in_namespace("ak7", || Pair::new("[::1]:21016".parse().unwrap()));
    let request = pattern(13, 6 << 20);
    pair.exchange(&request, b"ok");
    let client = pair.client_address();
    pair.close();
    tap.until("both ends", |tap| tap.closed.len() == 2);
    let client = tap.socket(client).clone();
    assert!(tap.bytes(client.cookie, Direction::Egress, client.send_next) == request);
    let segments = tap.of(client.cookie, Direction::Egress);
    let first = segments.iter().position(|segment| segment.length > 65_536).expect("a packet of more than 64 KiB");
    assert!(segments[first].more && segments[first].offset == 0);
    let parts = segments[first..].iter().take_while(|segment| segment.sequence == segments[first].sequence);
    assert_eq!(parts.map(|part| part.bytes.len()).sum::<usize>(), segments[first].length as usize);
    let counters = tap.capture.counters();
    assert_eq!((counters.skipped_bytes, counters.ring_full_records), (0, 0));
}

#[test]
#[ignore = "needs root"]
fn sendfile_has_no_user_buffer_and_is_captured() {
    let mut tap = Tap::new(&only(21006));
    let mut pair = Pair::new("127.0.0.1:21006".parse().unwrap());
    let content = pattern(6, 300_000);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&content).unwrap();
    let reader = thread::spawn({
        let mut server = pair.server.try_clone().unwrap();
        let mut received = vec![0; content.len()];
        move || server.read_exact(&mut received).map(|()| received).unwrap()
    });
    let (mut offset, mut left) = (0, content.len());
    while left > 0 {
        // SAFETY: both descriptors are open; the kernel writes one offset.
        let sent = unsafe { libc::sendfile(pair.client.as_raw_fd(), file.as_raw_fd(), &mut offset, left) };
        left -= usize::try_from(sent).expect("sendfile");
    }
    assert!(reader.join().unwrap() == content);
    pair.client.flush().unwrap();
    let client = pair.client_address();
    pair.close();
    tap.until("both ends", |tap| tap.closed.len() == 2);
    let client = tap.socket(client).clone();
    assert!(tap.bytes(client.cookie, Direction::Egress, client.send_next) == content);
}

#[test]
#[ignore = "needs root"]
fn a_connection_that_was_open_before() {
    let mut pair = Pair::new("127.0.0.1:21007".parse().unwrap());
    pair.exchange(&pattern(7, 10_000), &pattern(8, 10_000));
    let mut tap = Tap::new(&only(21007));
    tap.until("both ends", |tap| tap.sockets.len() >= 2);
    let (client, server) = (tap.socket(pair.client_address()).clone(), tap.socket(pair.server_address()).clone());
    for end in [&client, &server] {
        assert!(!end.from_start);
        assert_eq!(end.origin, Origin::Unknown);
        assert_eq!(end.owner.as_ref().map(|owner| owner.pid), Some(process::id()));
    }
    assert_eq!((client.send_next, server.send_next), (server.copied, client.copied));
    let (request, answer) = (pattern(9, 20_000), pattern(10, 20_000));
    pair.exchange(&request, &answer);
    pair.close();
    tap.until("both ends", |tap| tap.closed.len() == 2);
    assert!(tap.bytes(client.cookie, Direction::Egress, client.send_next) == request);
    assert!(tap.bytes(server.cookie, Direction::Egress, server.send_next) == answer);
    assert!(tap.segments.iter().all(|segment| segment.direction == Direction::Egress));
}

#[test]
#[ignore = "needs root"]
fn a_socket_handed_to_a_child() {
    let mut tap = Tap::new(&only(21008));
    let Pair { client, mut server } = Pair::new("127.0.0.1:21008".parse().unwrap());
    let address = client.local_addr().unwrap();
    let mut child =
        Command::new("cat").stdin(OwnedFd::from(client.try_clone().unwrap())).stdout(Stdio::null()).spawn().unwrap();
    let pid = child.id();
    server.write_all(&pattern(11, 4_000)).unwrap();
    tap.until("the child's reads", |tap| tap.reads.iter().any(|read| read.pid == pid));
    let owner = tap.socket(address).owner.clone().unwrap();
    assert_eq!((owner.pid, owner.executable.as_str()), (pid, "cat"));
    assert!(tap.socket(address).from_start, "a new owner does not make the connection younger");
    server.shutdown(Shutdown::Both).unwrap();
    child.wait().unwrap();
}

#[test]
#[ignore = "needs root"]
fn half_close_and_reset() {
    let mut tap = Tap::new(&only(21009));
    let listener = support::listen("127.0.0.1:21009".parse().unwrap());
    let mut half = Pair::with(&listener, "127.0.0.1:21009".parse().unwrap());
    half.client.write_all(b"the last request").unwrap();
    half.client.shutdown(Shutdown::Write).unwrap();
    let late = pattern(12, 30_000);
    let (client, server) = (half.client_address(), half.server_address());
    support::transfer(&mut half.server, &mut half.client, &late);
    drop(half);
    tap.until("both ends", |tap| tap.closed.len() == 2);
    let (client, server) = (tap.socket(client).clone(), tap.socket(server).clone());
    assert_eq!(tap.bytes(client.cookie, Direction::Egress, client.send_next), b"the last request");
    assert!(tap.bytes(server.cookie, Direction::Egress, server.send_next) == late, "answers after the half-close");
    let end = tap.closed.iter().find(|end| end.cookie == client.cookie).unwrap();
    let read = end.copied.wrapping_sub(client.copied);
    assert!([30_000, 30_001].contains(&read), "the end may count the FIN: {read}");

    tap.closed.clear();
    let mut reset = Pair::with(&listener, "127.0.0.1:21009".parse().unwrap());
    reset.exchange(b"ping", b"pong");
    set_option(&reset.client, libc::SOL_SOCKET, libc::SO_LINGER, &[1i32, 0]);
    drop(reset.client);
    tap.until("both ends of the reset connection", |tap| tap.closed.len() == 2);
}

#[test]
#[ignore = "needs root"]
fn a_port_used_again() {
    let mut tap = Tap::new(&only(21010));
    let listener = support::listen("127.0.0.1:21010".parse().unwrap());
    let mut cookies = Vec::new();
    for round in 0..3u64 {
        let client = bound("127.0.0.1:21910");
        let mut pair = connect_bound(client, &listener);
        let request = pattern(20 + round, 1_000);
        pair.exchange(&request, b"ok");
        let address = pair.client_address();
        // A reset leaves no TIME_WAIT, so the same four numbers can be used at once.
        set_option(&pair.client, libc::SOL_SOCKET, libc::SO_LINGER, &[1i32, 0]);
        drop(pair.client);
        let ends = 2 * (round as usize + 1);
        tap.until("the end of the round", |tap| tap.closed.len() == ends);
        let client = tap.socket(address).clone();
        assert!(tap.bytes(client.cookie, Direction::Egress, client.send_next) == request);
        assert!(!cookies.contains(&client.cookie));
        cookies.push(client.cookie);
    }
    assert!(tap.segments.iter().all(|segment| segment.direction == Direction::Egress), "each direction once");
}

/// Sequence numbers that pass `edge`: every byte and every read is there.
fn sequence_numbers_pass(edge: u32, watched: u16) {
    let mut tap = Tap::new(&only(watched));
    let (broker, reader) = (format!("127.0.0.1:{watched}"), format!("127.0.0.1:{}", watched + 900));
    let (start, other) = (edge.wrapping_sub(700), 7);
    let a = repaired(&broker, &reader, start, other);
    let b = repaired(&reader, &broker, other, start);
    let mut pair = Pair { client: a, server: b };
    // Little at a time: sockets made this way have a small window.
    let request = pattern(30, 2_000);
    let end = start.wrapping_add(request.len() as u32);
    for part in request.chunks(1_000) {
        pair.exchange(part, b"passed");
    }
    let (address, reader) = (pair.client_address(), pair.server_address());
    let captured = |tap: &Tap| {
        let sockets = tap.sockets.iter().filter(|socket| socket.local == address);
        sockets.map(|socket| tap.captured(socket.cookie, Direction::Egress)).max() == Some(request.len())
    };
    tap.until("all bytes, and their reads", |tap| captured(tap) && tap.reads.iter().any(|read| read.copied == end));
    let sender = tap.socket(address).clone();
    assert!(sender.from_start);
    assert_eq!(sender.send_next, start);
    assert!(tap.bytes(sender.cookie, Direction::Egress, start) == request);
    let last =
        tap.of(sender.cookie, Direction::Egress).iter().map(|s| s.sequence).max_by_key(|s| s.wrapping_sub(start));
    assert!(last.is_some_and(|last| last.wrapping_sub(start) > 700), "no segment behind the edge");
    let reader = tap.socket(reader).cookie;
    let mut read_to = start;
    for read in tap.reads.iter().filter(|read| read.cookie == reader) {
        assert_eq!(read.from, read_to, "a read was left out; {tap}");
        read_to = read.copied;
    }
    assert_eq!(read_to, end);
}

#[test]
#[ignore = "needs root"]
fn sequence_numbers_wrap() {
    sequence_numbers_pass(0, 21011);
}

/// Where they change their sign, if they are taken for signed ones.
#[test]
#[ignore = "needs root"]
fn sequence_numbers_pass_half_way() {
    sequence_numbers_pass(1 << 31, 21018);
}

/// Connections between two network namespaces over a veth pair, and the same loopback numbers in both.
#[test]
#[ignore = "needs root"]
fn two_network_namespaces() {
    let _namespaces = Namespaces::new("ak1", "ak2");
    let mut tap = Tap::new(&only(21012));
    let address: SocketAddr = "10.213.7.2:21012".parse().unwrap();
    let server = in_namespace("ak2", move || support::listen(address));
    let client = in_namespace("ak1", move || TcpStream::connect(address).unwrap());
    let accepted = server.accept().unwrap().0;
    let mut pair = Pair { client, server: accepted };
    let (request, answer) = (pattern(40, 90_000), pattern(41, 90_000));
    pair.exchange(&request, &answer);
    let (client, server) = (pair.client_address(), pair.server_address());
    pair.close();
    tap.until("both ends", |tap| tap.closed.len() == 2);
    let (client, server) = (tap.socket(client).clone(), tap.socket(server).clone());
    assert_ne!(client.netns, server.netns);
    assert!(tap.bytes(client.cookie, Direction::Egress, client.send_next) == request);
    assert!(tap.bytes(server.cookie, Direction::Egress, server.send_next) == answer);
    assert!(tap.segments.iter().all(|segment| segment.direction == Direction::Egress), "each direction once");
}

/// 127.0.0.1 and the same ports in two namespaces are two connections.
#[test]
#[ignore = "needs root"]
fn the_same_loopback_numbers_in_two_namespaces() {
    let _namespaces = Namespaces::new("ak3", "ak4");
    let mut tap = Tap::new(&only(21013));
    let make = || {
        let listener = support::listen("127.0.0.1:21013".parse().unwrap());
        connect_bound(bound("127.0.0.1:21913"), &listener)
    };
    let mut pairs = [in_namespace("ak3", make), in_namespace("ak4", make)];
    for (number, pair) in pairs.iter_mut().enumerate() {
        pair.exchange(&pattern(50 + number as u64, 5_000), &pattern(60 + number as u64, 5_000));
    }
    for pair in pairs {
        pair.close();
    }
    tap.until("all ends", |tap| tap.closed.len() == 4);
    let clients: Vec<_> =
        tap.sockets.iter().filter(|s| s.local.port() == 21913).map(|s| (s.netns, s.clone())).collect();
    let clients: std::collections::BTreeMap<_, _> = clients.into_iter().collect();
    assert_eq!(clients.len(), 2);
    let mut sent: Vec<_> = clients.values().map(|s| tap.bytes(s.cookie, Direction::Egress, s.send_next)).collect();
    sent.sort();
    let mut expected = vec![pattern(50, 5_000), pattern(51, 5_000)];
    expected.sort();
    assert!(sent == expected);
    assert!(tap.segments.iter().all(|segment| segment.direction == Direction::Egress), "each direction once");
}

/// Where addresses are translated between two ends on this host, userspace could not join them: one end takes both
/// directions, and the broker's end retires.
#[test]
#[ignore = "needs root and nftables"]
fn translated_addresses() {
    let namespaces = Namespaces::new("ak5", "ak6");
    namespaces.translate("10.213.7.99:21014", "10.213.7.2:21015");
    for late in [false, true] {
        let server = in_namespace("ak6", || support::listen("10.213.7.2:21015".parse().unwrap()));
        let mut tap = (!late).then(|| Tap::new(&translated_ports()));
        let client = in_namespace("ak5", || TcpStream::connect("10.213.7.99:21014").unwrap());
        let mut pair = Pair { client, server: server.accept().unwrap().0 };
        let (client, server) = (pair.client.local_addr().unwrap(), pair.server.peer_addr().unwrap());
        assert_ne!(client, server, "nothing was translated");
        if late {
            pair.exchange(b"before", b"the capture");
        }
        let mut tap = tap.take().unwrap_or_else(|| Tap::new(&translated_ports()));
        let (request, answer) = (pattern(70, 50_000), pattern(71, 60_000));
        pair.exchange(&request, &answer);
        let local = pair.server.local_addr().unwrap();
        pair.close();
        tap.until("both ends", |tap| tap.closed.len() == 2);
        let (client, server) = (tap.socket(client).clone(), tap.socket(local).clone());
        assert!(tap.bytes(client.cookie, Direction::Egress, client.send_next) == request);
        assert!(tap.bytes(client.cookie, Direction::Ingress, client.copied) == answer);
        assert!(tap.segments.iter().all(|segment| segment.cookie == client.cookie), "the broker's end has retired");
        assert_eq!(tap.closed[0].cookie, server.cookie, "and said so");
    }
}

fn translated_ports() -> Options {
    Options { ports: vec![21014, 21015], ..only(21014) }
}
