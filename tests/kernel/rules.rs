//! Which sockets are watched.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use acktrail::capture::{Direction, Origin};
use acktrail::kernel::{Options, Verdict, cgroup};

use crate::processes;
use crate::support::{self, Pair, Tap, only, pattern};

const HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";

/// basic.ack on channel 1: a method frame of class 60.
fn ack(end: u8) -> Vec<u8> {
    let mut frame = vec![1, 0, 1, 0, 0, 0, 13, 0, 60, 0, 80];
    frame.extend([0, 0, 0, 0, 0, 0, 0, 9, 0, end]);
    frame
}

fn discovery() -> Options {
    Options { discover: true, skip_bodies_from: None, ..Options::default() }
}

fn pair(port: u16) -> Pair {
    Pair::new(format!("127.0.0.1:{port}").parse().unwrap())
}

/// Everything that any record says about connections with this port.
fn knows(tap: &Tap, port: u16) -> bool {
    tap.sockets.iter().any(|socket| [socket.local.port(), socket.remote.port()].contains(&port))
}

/// A watched connection from beginning to end: when it has been seen, so has everything before.
fn marker(tap: &mut Tap, port: u16, first: &[u8]) {
    let mut marker = pair(port);
    marker.exchange(first, b"marker");
    let address = marker.client_address();
    marker.close();
    tap.until("the marker's end", |tap| {
        let marker = tap.sockets.iter().find(|socket| socket.local == address);
        marker.is_some_and(|marker| tap.closed.iter().any(|end| end.cookie == marker.cookie))
    });
}

#[test]
#[ignore = "needs root"]
fn an_unwatched_port_leaves_no_trace() {
    let mut tap = Tap::new(&only(21020));
    let mut other = pair(21021);
    other.exchange(&pattern(1, 10_000), HEADER);
    other.close();
    marker(&mut tap, 21020, b"x");
    assert!(!knows(&tap, 21021), "{tap}");
    assert_eq!(tap.capture.counters().payload_bytes, 1 + 6);
}

#[test]
#[ignore = "needs root"]
fn first_bytes_prove_a_broker() {
    let mut tap = Tap::new(&discovery());
    let mut amqp = pair(21022);
    amqp.exchange(&[HEADER, b" and more"].concat(), &pattern(2, 9_000));
    let mut newer = pair(21023);
    newer.exchange(b"AMQP\x00\x01\x00\x00", b"no");
    let mut web = pair(21024);
    web.exchange(b"GET / HTTP/1.1\r\n\r\n", HEADER);
    let mut server_first = pair(21025);
    let mut greeting = [0; 3];
    server_first.server.write_all(b"220").unwrap();
    server_first.client.read_exact(&mut greeting).unwrap();
    server_first.exchange(HEADER, b"no");
    let (client, server) = (amqp.client_address(), amqp.server_address());
    for pair in [amqp, newer, web, server_first] {
        pair.close();
    }
    marker(&mut tap, 21026, HEADER);

    let (client, server) = (tap.between(client, server).clone(), tap.between(server, client).clone());
    assert!(client.from_start && server.from_start);
    assert_eq!((client.origin, server.origin), (Origin::Connected, Origin::Accepted));
    assert_eq!((client.broker_port, server.broker_port), (Some(21022), Some(21022)));
    assert_eq!(tap.bytes(client.cookie, Direction::Egress, client.send_next), [HEADER, b" and more"].concat());
    assert!(tap.bytes(server.cookie, Direction::Egress, server.send_next) == pattern(2, 9_000));
    assert!(
        tap.of(client.cookie, Direction::Ingress).is_empty() && tap.of(server.cookie, Direction::Ingress).is_empty()
    );
    assert!(knows(&tap, 21023), "AMQP 1.0 is watched so that it can be named");
    assert!(!knows(&tap, 21024) && !knows(&tap, 21025), "{tap}");
}

#[test]
#[ignore = "needs root"]
fn a_whole_frame_proves_a_broker_late() {
    let mut amqp = pair(21027);
    amqp.exchange(HEADER, b"tune");
    let mut nonsense = pair(21028);
    nonsense.exchange(HEADER, b"tune");
    let mut tap = Tap::new(&discovery());
    nonsense.exchange(&ack(0xCD), b"nothing");
    let mut lying = ack(0xCE);
    lying[6] = 14;
    nonsense.exchange(&lying, b"nothing");
    amqp.exchange(&pattern(3, 100), &pattern(4, 100));
    amqp.exchange(&ack(0xCE), b"something");
    amqp.exchange(&ack(0xCE), b"more");
    let (address, server) = (amqp.client_address(), amqp.server_address());
    nonsense.close();
    amqp.close();
    marker(&mut tap, 21029, HEADER);
    let client = tap.between(address, server).clone();
    assert!(!client.from_start);
    assert_eq!(tap.captured(client.cookie, Direction::Egress), 2 * ack(0xCE).len());
    assert!(!knows(&tap, 21028), "{tap}");
}

/// A request to Kafka: this API in this version, from a client with this name.
fn request(api: i16, version: i16, client: Option<&str>, rest: &[u8]) -> Vec<u8> {
    let name = client.map_or(-1, |client| client.len() as i16);
    let head = [api.to_be_bytes(), version.to_be_bytes(), [0; 2], [0, 5], name.to_be_bytes()].concat();
    let body = [&head, client.unwrap_or_default().as_bytes(), rest].concat();
    [&(body.len() as u32).to_be_bytes()[..], &body].concat()
}

#[test]
#[ignore = "needs root"]
fn requests_prove_kafka() {
    let mut late = pair(21070);
    late.exchange(b"what came before", b"and its answer");
    let mut tap = Tap::new(&discovery());
    let versions = request(18, 4, Some("orders-7"), b"\x00\x05java\x064.4\x00");
    let mut new = pair(21071);
    new.exchange(&versions, b"yes");
    let mut nameless = pair(21072);
    nameless.exchange(&request(3, 0, None, b"\x00\x00\x00\x00"), b"yes");
    // In the middle only a request with a name is believed.
    late.exchange(&request(3, 0, None, b"\x00\x00\x00\x00"), b"no");
    let produce = request(0, 9, Some("orders-7"), &pattern(5, 300));
    late.exchange(&produce, b"yes");
    let mut others = Vec::new();
    let spoilt: [fn(&mut Vec<u8>); 5] = [
        |bytes| bytes[3] += 1,
        |bytes| bytes[4] = 1,
        |bytes| bytes[7] = 99,
        |bytes| bytes[13] = 200,
        |bytes| bytes[14] = 3,
    ];
    for (port, spoil) in (21073..).zip(spoilt) {
        let mut other = pair(port);
        let mut bytes = versions.clone();
        spoil(&mut bytes);
        other.exchange(&bytes, b"no");
        others.push(other);
    }
    let addresses = [&late, &new, &nameless].map(|pair| (pair.client_address(), pair.server_address()));
    for pair in others.into_iter().chain([late, new, nameless]) {
        pair.close();
    }
    marker(&mut tap, 21079, HEADER);
    for (port, (client, server)) in (21070..).zip(addresses) {
        let (client, server) = (tap.between(client, server), tap.between(server, client));
        assert_eq!((client.broker_port, server.broker_port), (Some(port), Some(port)));
        assert_eq!(client.from_start, port != 21070);
    }
    let (client, server) = addresses[0];
    assert_eq!(tap.captured(tap.between(client, server).cookie, Direction::Egress), produce.len());
    assert!((21073..21078).all(|port| !knows(&tap, port)), "{tap}");
}

#[test]
#[ignore = "needs root"]
fn ports_can_be_watched_and_left_while_running() {
    let mut tap = Tap::new(&only(21030));
    let mut late = pair(21031);
    late.exchange(b"not yet", b"no");
    tap.capture.watch_port(21031).unwrap();
    late.exchange(b"now", b"yes");
    tap.capture.unwatch_port(21031).unwrap();
    tap.capture.unwatch_port(21031).unwrap();
    late.exchange(b"no longer", b"no");
    let (client, server) = (late.client_address(), late.server_address());
    marker(&mut tap, 21030, b"x");
    let (client, server) = (tap.between(client, server).cookie, tap.between(server, client).cookie);
    let bytes = |cookie, direction| tap.of(cookie, direction).iter().flat_map(|s| s.bytes.clone()).collect::<Vec<_>>();
    assert_eq!(bytes(client, Direction::Egress), b"now");
    assert_eq!(bytes(server, Direction::Egress), b"yes");
    assert_eq!(bytes(client, Direction::Ingress), b"");
}

#[test]
#[ignore = "needs root"]
fn one_socket_can_be_ignored_or_forced() {
    let mut tap = Tap::new(&only(21032));
    let listener = support::listen("127.0.0.1:21032".parse().unwrap());
    let mut pairs = [0, 1].map(|_| Pair::with(&listener, listener.local_addr().unwrap()));
    for pair in &mut pairs {
        pair.exchange(b"one", b"two");
    }
    let address = pairs[0].client_address();
    tap.until("the sockets", |tap| tap.sockets.iter().any(|socket| socket.local == address));
    let cookie = tap.socket(address).cookie;
    tap.capture.override_cookie(cookie, Some(Verdict::Ignore)).unwrap();
    pairs[0].exchange(b"three", b"four");
    tap.capture.override_cookie(cookie, None).unwrap();
    pairs[0].exchange(b"five", b"six");
    let server = pairs[0].server_address();
    for pair in pairs {
        pair.close();
    }
    tap.until("all ends", |tap| tap.closed.len() == 4);
    let sent: Vec<u8> = tap.of(cookie, Direction::Egress).iter().flat_map(|s| s.bytes.clone()).collect();
    assert_eq!(sent, b"onefive");
    // Its peer is watched on its own: while the client is ignored, it takes both directions.
    let peer = tap.sockets.iter().find(|s| s.local == server && s.remote == address).unwrap().cookie;
    let received: Vec<u8> = tap.of(peer, Direction::Ingress).iter().flat_map(|s| s.bytes.clone()).collect();
    assert_eq!(received, b"three");
}

#[test]
#[ignore = "needs root"]
fn sampling_keeps_or_drops_whole_connections() {
    let mut tap = Tap::new(&Options { sample_connections: 0.5, ..only(21033) });
    let listener = support::listen("127.0.0.1:21033".parse().unwrap());
    let mut addresses = Vec::new();
    for _ in 0..40 {
        let mut pair = Pair::with(&listener, listener.local_addr().unwrap());
        pair.exchange(b"request", b"answer");
        addresses.push(pair.client_address());
        pair.close();
    }
    tap.capture.set_sampling(1.0).unwrap();
    drop(listener);
    marker(&mut tap, 21033, b"x");
    let kept = addresses.iter().filter(|address| tap.sockets.iter().any(|s| s.local == **address)).count();
    let at_broker = addresses.iter().filter(|address| tap.sockets.iter().any(|s| s.remote == **address)).count();
    assert_eq!(kept, at_broker, "both ends agree");
    assert!((5..=35).contains(&kept), "half of 40, roughly: {kept}");
    let counters = tap.capture.counters();
    assert_eq!(counters.payload_bytes, kept as u64 * 13 + 7);
    // Each end counts its own packets, sent and received, and those without payload too.
    assert!(counters.sampled_out_packets >= (40 - kept as u64) * 4);
}

/// A directory of the cgroup v2 hierarchy, removed when dropped.
struct Group(PathBuf);

impl Group {
    fn new(parent: &Path, name: &str) -> Group {
        let path = parent.join(name);
        fs::create_dir(&path).unwrap();
        Group(path)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
#[ignore = "needs root"]
fn a_cgroup_limits_what_is_watched() {
    let root = cgroup::mounts().unwrap().remove(0);
    let outer = Group::new(&root, "ak-outer");
    let inner = Group::new(&outer.0, "inner");
    let listener = support::listen("127.0.0.1:21035".parse().unwrap());
    let mut tap = Tap::new(&Options { cgroups: vec![outer.0.clone()], ..only(21035) });
    let mut outside = Pair::with(&listener, listener.local_addr().unwrap());
    outside.exchange(b"outside", b"outside");
    outside.close();

    let procs = inner.0.join("cgroup.procs");
    let mut command = Command::new("bash");
    command.args(["-c", "exec 3<>/dev/tcp/127.0.0.1/21035 && printf inside >&3 && read -r line <&3"]);
    // SAFETY: only writes a file before the new program starts.
    unsafe { command.pre_exec(move || fs::write(&procs, "0")) };
    let mut child = command.stdin(Stdio::null()).spawn().unwrap();
    let (mut accepted, client) = listener.accept().unwrap();
    let mut request = [0; 6];
    accepted.read_exact(&mut request).unwrap();
    accepted.write_all(b"answer\n").unwrap();
    assert!(child.wait().unwrap().success());
    drop(accepted);
    tap.until("the client's end", |tap| !tap.closed.is_empty());

    let socket = tap.socket(client).clone();
    assert_eq!(socket.cgroup, cgroup::id(&inner.0).unwrap());
    assert!(tap.sockets.iter().all(|known| known.cookie == socket.cookie), "{tap}");
    assert_eq!(tap.bytes(socket.cookie, Direction::Egress, socket.send_next), b"inside");
    assert_eq!(tap.bytes(socket.cookie, Direction::Ingress, socket.copied), b"answer\n");
}

/// A process that looks like RabbitMQ, and listens.
fn fake_rabbitmq(directory: &Path, port: u16) -> processes::Child {
    let executable = directory.join("beam.smp");
    if !executable.exists() {
        fs::copy(std::env::current_exe().unwrap(), &executable).unwrap();
    }
    processes::spawn(Command::new(executable), "rules::rabbitmq_is_found_by_its_process", &port.to_string())
}

#[test]
#[ignore = "needs root"]
fn rabbitmq_is_found_by_its_process() {
    if let Some(port) = processes::role() {
        let listener = support::listen(format!("127.0.0.1:{port}").parse().unwrap());
        processes::ready();
        let mut accepted = listener.accept().unwrap().0;
        let mut byte = [0];
        while accepted.read(&mut byte).unwrap() > 0 {}
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let early = fake_rabbitmq(directory.path(), 21036);
    let mut tap = Tap::new(&discovery());
    let found = |tap: &Tap, port, pid| {
        tap.capture.brokers().iter().any(|known| known.address.port() == port && known.owner.pid == pid)
    };
    assert!(found(&tap, 21036, early.id()), "{:?}", tap.capture.brokers());
    let late = fake_rabbitmq(directory.path(), 21037);
    tap.until("the second broker", |tap| found(tap, 21037, late.id()));
    for (port, child) in [(21036, early), (21037, late)] {
        let mut client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let address = client.local_addr().unwrap();
        client.write_all(b"not AMQP, yet on a broker's port").unwrap();
        drop(client);
        child.wait();
        tap.until("its end", |tap| tap.sockets.iter().any(|socket| socket.local == address));
        assert_eq!(tap.socket(address).broker_port, Some(port));
    }
}
