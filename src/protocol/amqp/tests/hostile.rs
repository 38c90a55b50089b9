//! What no honest peer sends.

use super::*;
use crate::protocol::Trouble;

fn troubles(talk: &mut Talk) -> Vec<Trouble> {
    let operations = std::mem::take(&mut talk.operations);
    let trouble = |observed: &Observed| match observed.operation {
        Operation::Trouble(trouble) => Some(trouble),
        _ => None,
    };
    operations.iter().filter_map(trouble).collect()
}

#[test]
fn other_protocols_are_named_once() {
    for (first, name) in [
        (&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], "TLS"),
        (b"AMQP\0\x01\0\0", "AMQP 1.0"),
        (b"AMQP\x03\x01\0\0", "AMQP 1.0"),
        (b"\x10\x2c\x00\x04MQTT\x04\xc2", "MQTT"),
        (b"GET / HTTP/1.1\r\n\r\n", "HTTP"),
        (b"hello, is there anybody?", "unknown"),
    ] {
        let mut talk = Talk::new(true);
        talk.client(first).client(b"and so on, and so on").client(b"and so on, and so on");
        talk.broker(wire::PREFACE).client(b"more").hang_up();
        let lines = talk.lines();
        assert_eq!(lines.matches("Trouble(NotThisProtocol)").count(), 1, "{lines}");
        assert_eq!(lines.matches("NotDecoded").count(), 1, "{lines}");
        assert!(lines.contains(&format!("\"{name}\"")) && lines.contains("client=Forward"), "{lines}");
        assert!(talk.sessions.secrets().next().is_some(), "{name}: its login may be in there");
    }
}

#[test]
fn a_wrong_guess_does_not_last() {
    let mut talk = Talk::new(true);
    talk.client(b"what is this? not the protocol at all").client(&vec![b'x'; 70_000]);
    talk.lines();
    talk.client(&publish(b"after all"));
    talk.expect(
        "
        published 1.0 tag=? to=ex:key size=9",
    );
}

#[test]
fn a_proxys_header_is_stepped_over() {
    let mut talk = Talk::new(true);
    talk.client(&[b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 5672\r\n", wire::PREFACE].concat());
    talk.broker(&wire::start()).client(&wire::start_ok("app", "password"));
    assert!(talk.lines().contains("name=app"));
    // The rest of the header, which nobody reads, and the login.
    assert_eq!(talk.sessions.secrets().count(), 2);
}

#[test]
fn a_frame_larger_than_agreed_is_counted_and_skipped() {
    let mut talk = Talk::open();
    talk.client(&wire::frame(1, 1, &vec![7; 9000])).client(&wire::ack(1, 1, false));
    talk.expect(
        "
        Trouble(FrameTooLarge)
        gap client channel=1 bytes=9008 deliveries=?
        settled 1 Acknowledged",
    );
    talk.client(&[&b"\x01\0\x01\x7f\xff\xff\xff"[..], &publish(b"x")].concat()).client(&wire::ack(1, 2, false));
    let lines = talk.lines();
    assert!(lines.contains("Trouble(FrameTooLarge)") && lines.contains("settled 2"), "{lines}");
}

#[test]
fn malformed_frames_are_counted_and_the_session_goes_on() {
    let mut talk = Talk::open();
    let mut bad_end = wire::ack(1, 1, false);
    *bad_end.last_mut().unwrap() = 0;
    for (bytes, expected) in [
        (wire::frame(1, 1, &[0, 60, 0, 80, 0]), Trouble::Malformed),
        (wire::frame(1, 1, &[0]), Trouble::Malformed),
        (wire::frame(1, 1, &[0, 99, 0, 99]), Trouble::Unknown),
        (wire::frame(9, 1, b"x"), Trouble::Malformed),
        (bad_end, Trouble::Malformed),
        (wire::frame(2, 1, &[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]), Trouble::UnexpectedFrame),
        (wire::get_ok(1, 1, "", ""), Trouble::UnexpectedFrame),
        (wire::ack(9, 1, false), Trouble::UnexpectedFrame),
    ] {
        let mut talk_now = Talk::open();
        talk_now.client(&bytes);
        assert_eq!(troubles(&mut talk_now), [expected], "{bytes:?}");
        talk_now.client(&publish(b"still there"));
        assert!(talk_now.lines().contains("size=11"), "{bytes:?}");
    }
    talk.client(&publish(b"x"));
    assert!(troubles(&mut talk).is_empty());
}

#[test]
fn tables_nested_a_thousand_deep_are_counted() {
    let mut entries = wire::Bytes::default();
    for _ in 0..1000 {
        entries = wire::Bytes::default().short_string("a").octet(b'F').table(entries);
    }
    let mut talk = Talk::open();
    let properties = wire::Properties { headers: Some(entries.0.clone()), ..Default::default() };
    let deep = [wire::publish(1, "", "q", false), wire::header(1, 0, &properties)].concat();
    talk.client(&deep).client(&publish(b"x"));
    talk.expect(
        "
        Trouble(TooDeep)
        published 1.0 tag=? to=:q size=0
        published 1.0 tag=? to=ex:key size=1",
    );
    talk.client(&wire::queue_declare(1, "q", 0, entries)).broker(&wire::queue_declare_ok(1, "q", 0, 0));
    let lines = talk.lines();
    assert!(lines.contains("Trouble(TooDeep)") && lines.contains("QueueDeclared"), "{lines}");
}

#[test]
fn a_header_whose_lengths_lie_leaves_the_message_without_identity() {
    let mut talk = Talk::open();
    let mut header = wire::header(1, 2, &wire::Properties { headers: Some(vec![1, b'a', b'S']), ..Default::default() });
    talk.client(&[wire::publish(1, "", "q", false), header.clone(), wire::frame(3, 1, b"hi")].concat());
    talk.expect(
        "
        Trouble(Malformed)
        published 1.0 tag=? to=:q size=2 unidentified",
    );
    header[7 + 17] = 200;
    talk.client(&[wire::publish(1, "", "q", false), header, wire::frame(3, 1, b"hi")].concat());
    talk.expect(
        "
        Trouble(Malformed)
        published 1.0 tag=? to=:q size=2 unidentified",
    );
}

#[test]
fn more_of_everything_than_the_budget_allows() {
    let mut talk = Talk::new(true);
    let limits = Limits { connections: 2, bytes: 64 << 10, bytes_per_connection: 48 << 10 };
    talk.sessions = Sessions::new(limits);
    let end = |port| End { address: ([127, 0, 0, 1], port).into(), owner: None, local: true, reads_seen: true };
    let facts = Facts { ends: [end(40_000), end(5672)], roles_known: true, from_start: true };
    talk.sessions.handle_event(&Event::Facts(CONNECTION, &facts), &mut talk.operations);
    talk.client(wire::PREFACE);
    for channel in 1..500 {
        talk.client(&wire::channel_open(channel));
    }
    for number in 0..500 {
        talk.client(&wire::consume(1, "q", &format!("consumer {number}"), 8));
        talk.client(&wire::queue_declare(2, &format!("queue {number}"), 0, wire::Bytes::default()));
    }
    talk.client(&wire::tx(3, 10));
    for _ in 0..500 {
        talk.client(&[wire::publish(3, "", "q", false), wire::message(3, b"x")].concat());
    }
    talk.client(&wire::frame(1, 0, &vec![0; 40_000])[..30_000]);
    assert!(talk.sessions.cost() <= 50 << 10, "{}", talk.sessions.cost());
    assert!(troubles(&mut talk).contains(&Trouble::BudgetExhausted));
    for id in 100..110 {
        let id = ConnectionId(id);
        talk.sessions.handle_event(&Event::Facts(id, &facts), &mut talk.operations);
    }
    assert_eq!((talk.sessions.len(), talk.sessions.evicted()), (2, 9));
}
