//! The capture on the running kernel. Needs root: `cargo test --test kernel -- --ignored`.
#![cfg(feature = "kernel")]

#[path = "kernel/support.rs"]
mod support;

use std::process;

use acktrail::capture::{Direction, Origin};
use support::{Pair, Tap, only, pattern};

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
    assert_eq!(counters.captured_bytes, (request.len() + answer.len()) as u64);
    assert_eq!(counters.payload_bytes, counters.captured_bytes);
    assert_eq!(counters.ring_full_records, 0);
}

#[test]
#[ignore = "needs root"]
fn ipv4_loopback() {
    captures_a_connection("127.0.0.1:21001", "127.0.0.1:21001", 21001);
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
