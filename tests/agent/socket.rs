//! The agent's socket: requests, answers, slow clients, and the socket's file.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use acktrail::agent_socket::{BindError, Client, ClientError, Format, Server};
use acktrail::filter::Filter;
use acktrail::lifecycle::transition::{Attributes, Event, Evidence, State, Transition};
use acktrail::names::Name;
use acktrail::row::Row;
use acktrail::time::Timestamp;

struct Place {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

fn place() -> Place {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("run/acktrail.sock");
    Place { _directory: directory, path }
}

fn transition<'a>(queue: &'a Name, number: u64) -> Transition<'a> {
    Transition {
        attributes: Attributes { queue: Some(queue), ..Attributes::default() },
        ..Transition::new(Timestamp(number), State::Created)
    }
}

fn send(server: &Server, queue: &str, number: u64) {
    let queue: Name = queue.into();
    server.transition(&transition(&queue, number), |line| {
        line.extend_from_slice(format!("{{\"number\":{number}}}").as_bytes());
    });
}

fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..5000 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("never: {what}");
}

fn line(client: &mut Client) -> String {
    let line = client.next().expect("an answer").expect("a line");
    String::from_utf8_lossy(line).into_owned()
}

fn filter(text: &str) -> Filter {
    Filter::parse(text).expect("a filter")
}

#[test]
fn a_client_gets_what_its_filter_lets_pass() {
    let place = place();
    let server = Server::bind(&place.path).expect("bound");
    let queue: Name = "orders".into();
    assert!(!server.is_listening());
    server.transition(&transition(&queue, 0), |_| panic!("rendered for nobody"));
    let mut client = Client::trace(&place.path, &filter("queue=orders*"), Format::Json).expect("an agent");
    until("listening", || server.is_listening());
    let bills: Name = "bills".into();
    server.transition(&transition(&bills, 1), |_| panic!("rendered for nobody"));
    send(&server, "orders", 2);
    send(&server, "orders.eu", 3);
    assert_eq!(line(&mut client), "{\"number\":2}");
    assert_eq!(line(&mut client), "{\"number\":3}");
    drop(server);
    assert!(client.next().expect("a clean end").is_none());
}

#[test]
fn rows_and_events() {
    let place = place();
    let server = Server::bind(&place.path).expect("bound");
    let mut client = Client::trace(&place.path, &Filter::default(), Format::Rows).expect("an agent");
    until("listening", || server.is_listening());
    let queue: Name = "orders".into();
    server.transition(&transition(&queue, 7), |_| panic!("no JSON was asked for"));
    let event = Event {
        time: Timestamp(8),
        name: "channel_closed",
        count: None,
        detail: None,
        evidence: Evidence::Observed,
        attributes: Attributes { error_code: Some(406), ..Attributes::default() },
    };
    server.event(&event, |_| panic!("no JSON was asked for"));
    let row: Row = serde_json::from_str(&line(&mut client)).expect("a row");
    assert_eq!((row.time, row.what.as_str(), row.place.as_str()), (7, "Created", "orders"));
    let row: Row = serde_json::from_str(&line(&mut client)).expect("a row");
    assert_eq!((row.what.as_str(), row.detail.as_deref(), row.event), ("channel_closed", Some("406"), true));
}

#[test]
fn a_summary_is_one_line() {
    let place = place();
    let server = Server::bind(&place.path).expect("bound");
    let mut client = Client::summary(&place.path).expect("an agent");
    until("wanted", || server.is_summary_wanted());
    assert!(!server.is_listening());
    server.summary(b"{\"kind\":\"summary\"}");
    assert!(!server.is_summary_wanted());
    assert_eq!(line(&mut client), "{\"kind\":\"summary\"}");
    assert!(client.next().expect("a clean end").is_none());
}

#[test]
fn wrong_requests_are_refused_with_a_reason() {
    let place = place();
    let server = Server::bind(&place.path).expect("bound");
    for (request, part) in [
        ("{\"trace\":\"stat=dead\"}\n", "did you mean \\\"state\\\""),
        ("{\"trace\":\"\",\"format\":\"rows\",\"version\":\"0.0.0\"}\n", "ask for JSON lines"),
        ("{\"trace\":\"\",\"summary\":true}\n", "a request is one line"),
        ("{}\n", "a request is one line"),
        ("{\"follow\":\"\"}\n", "unknown field"),
        ("GET / HTTP/1.1\n", "a request is one line"),
        ("\n", "a request is one line"),
    ] {
        let mut stream = UnixStream::connect(&place.path).expect("connected");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        assert!(answer.starts_with("{\"error\":\"") && answer.contains(part), "{request}: {answer}");
    }
    let mut endless = UnixStream::connect(&place.path).expect("connected");
    let mut answer = String::new();
    // The agent stops reading at some point, and hangs up.
    let _ = endless.write_all(&vec![b'['; 100_000]);
    let _ = endless.read_to_string(&mut answer);
    assert!(!server.is_listening());
}

#[test]
fn a_refusal_reaches_the_client() {
    let place = place();
    let listener = {
        std::fs::create_dir_all(place.path.parent().expect("a parent")).expect("made");
        UnixListener::bind(&place.path).expect("bound")
    };
    let other = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accepted");
        stream.write_all(b"{\"error\":\"another version\"}\n").expect("sent");
        let mut request = String::new();
        BufReader::new(stream).read_line(&mut request).expect("read");
        request
    });
    let mut client = Client::trace(&place.path, &filter("queue=a"), Format::Rows).expect("connected");
    let error = client.next().expect_err("refused");
    assert!(matches!(&error, ClientError::Refused(reason) if reason == "another version"), "{error}");
    let request = other.join().expect("served");
    assert_eq!(
        request,
        format!("{{\"trace\":\"queue=a\",\"format\":\"rows\",\"version\":\"{}\"}}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn a_slow_client_is_told_what_it_missed_and_holds_nobody_up() {
    let place = place();
    let server = Server::bind(&place.path).expect("bound");
    let mut slow = Client::trace(&place.path, &filter("queue=orders"), Format::Json).expect("an agent");
    let mut rows = Client::trace(&place.path, &filter("queue=orders"), Format::Rows).expect("an agent");
    let mut quick = Client::trace(&place.path, &filter("queue=last"), Format::Json).expect("an agent");
    until("all listening", || server.listeners() == 3);
    let sent = 40_000u64;
    let padding = "x".repeat(200);
    let queue: Name = "orders".into();
    for number in 0..sent {
        server.transition(&transition(&queue, number), |line| {
            line.extend_from_slice(format!("{{\"number\":{number},\"padding\":\"{padding}\"}}").as_bytes());
        });
    }
    send(&server, "last", sent);
    assert_eq!(line(&mut quick), "{\"number\":40000}");
    let (mut received, mut dropped) = (0, 0);
    while received + dropped < sent {
        let line: serde_json::Value = serde_json::from_str(&line(&mut slow)).expect("whole lines");
        if line["event"] == "trace_dropped" {
            assert_eq!(line["kind"], "event");
            assert!(line["time"].as_str().expect("a time").starts_with("1970-01-01T"));
            dropped += line["count"].as_u64().expect("a count");
        } else {
            received += 1;
        }
    }
    assert!(received > 0 && dropped > 0, "{received} {dropped}");
    assert_eq!(received + dropped, sent);
    let (mut received, mut dropped) = (0, 0);
    while received + dropped < sent {
        let row: Row = serde_json::from_str(&line(&mut rows)).expect("whole rows");
        if row.what == "trace_dropped" { dropped += row.count.expect("a count") } else { received += 1 }
    }
    assert!(dropped > 0, "{received} {dropped}");
    assert_eq!(received + dropped, sent);
}

#[test]
fn clients_that_hang_up_are_forgotten_and_their_number_is_bounded() {
    let place = place();
    let server = Server::bind(&place.path).expect("bound");
    let mut clients = Vec::new();
    for _ in 0..16 {
        clients.push(Client::trace(&place.path, &filter("queue=nothing"), Format::Json).expect("an agent"));
    }
    let refused = || {
        let mut one_more = Client::trace(&place.path, &Filter::default(), Format::Json).expect("an agent");
        one_more.set_timeout(Some(Duration::from_millis(200))).expect("set");
        matches!(one_more.next(), Err(ClientError::Refused(reason)) if reason.contains("16 clients"))
    };
    until("refused", refused);
    drop(clients);
    // A place is free a moment after its client was forgotten.
    until("room", || !refused());
    until("nobody listens", || !server.is_listening());
    // One that only closes its writing side still reads, and is noticed when it goes.
    let mut half = UnixStream::connect(&place.path).expect("connected");
    half.write_all(b"{\"trace\":\"queue=orders\"}\n").expect("sent");
    half.shutdown(std::net::Shutdown::Write).expect("shut");
    until("listening", || server.is_listening());
    send(&server, "orders", 5);
    let mut reader = BufReader::new(half);
    let mut line = String::new();
    reader.read_line(&mut line).expect("a line");
    assert_eq!(line, "{\"number\":5}\n");
    drop(reader);
    until("nobody listens", || !server.is_listening());
}

#[test]
fn the_socket_s_file() {
    let place = place();
    let path: &Path = &place.path;
    assert!(matches!(Client::summary(path), Err(ClientError::NoAgent(_))));
    let server = Server::bind(path).expect("bound, and its directory made");
    assert_eq!(std::fs::metadata(path).expect("there").permissions().mode() & 0o7777, 0o660);
    assert!(matches!(Server::bind(path), Err(BindError::InUse(_))));
    drop(server);
    assert!(!path.exists());
    // A socket file that an agent left behind.
    drop(UnixListener::bind(path).expect("bound"));
    assert!(path.exists());
    assert!(matches!(Client::summary(path), Err(ClientError::NoAgent(_))));
    let server = Server::bind(path).expect("replaced");
    // Somebody else's file by now: it stays.
    std::fs::remove_file(path).expect("removed");
    std::fs::write(path, b"not a socket").expect("written");
    drop(server);
    assert!(path.exists());
    let error = Server::bind(path).err().expect("no socket");
    assert!(error.to_string().ends_with("exists and is no socket"), "{error}");
    assert_eq!(std::fs::read(path).expect("untouched"), b"not a socket");
}
