//! Connections that were joined in the middle.

use super::*;

#[test]
fn a_consumer_that_began_unseen_gets_its_queue_from_the_default_exchange() {
    let mut talk = Talk::new(false);
    let deliver = |tag, key: &str| [wire::deliver(3, "ctag", tag, false, "", key), wire::message(3, b"body")].concat();
    talk.broker(&deliver(500, "orders")).broker(&deliver(501, "orders")).client(&wire::ack(3, 501, true));
    talk.broker(&deliver(502, "orders"));
    talk.expect(
        "
        session client=Forward name=? vhost=? broker=? late
        consumer ctag of orders automatic=None learned
        delivered 3.0 tag=500 consumer=ctag queue=orders automatic=? size=4
        delivered 3.0 tag=501 consumer=ctag queue=orders automatic=? size=4
        settled <=501 Acknowledged
        delivered 3.0 tag=502 consumer=ctag queue=orders automatic=false size=4",
    );
}

#[test]
fn a_join_in_the_middle_of_a_body_begins_with_the_next_method() {
    let mut talk = Talk::new(false);
    let noise: Vec<u8> = (0..5000u32).map(|byte| (byte % 7) as u8).collect();
    talk.send(Flow::Forward, &noise, false);
    talk.client(&[&noise[..100], &[0xce], &publish(b"first")[..]].concat()).client(&publish(b"second"));
    talk.expect(
        "
        session client=Forward name=? vhost=? broker=? late
        published 1.0 tag=? to=ex:key size=5
        published 1.0 tag=? to=ex:key size=6",
    );
}

#[test]
fn confirms_are_matched_once_the_channel_was_quiet() {
    let mut talk = Talk::new(false);
    talk.client(&publish(b"a")).broker(&wire::ack(1, 90, false)).wait(1500);
    talk.client(&publish(b"b")).broker(&wire::ack(1, 91, false));
    talk.expect(
        "
        session client=Forward name=? vhost=? broker=? late
        published 1.0 tag=? to=ex:key size=1
        unmatched 90
        TagsLearned { channel: ChannelId { connection: ConnectionId(7), number: 1, incarnation: 0 }, first: 90, publishes: 1 }
        confirmed <=90 inferred earlier
        published 1.0 tag=91 to=ex:key size=1
        confirmed 91 inferred",
    );
}

#[test]
fn confirms_are_matched_at_the_latest_when_a_quiet_channel_ends() {
    let mut talk = Talk::new(false);
    talk.client(&publish(b"a")).client(&publish(b"b")).broker(&wire::nack(1, 90, false, false));
    talk.broker(&wire::ack(1, 91, false)).wait(1500).client(&wire::channel_close(1, 200, "", (0, 0)));
    talk.broker(&wire::channel_close_ok(1));
    talk.expect(
        "
        session client=Forward name=? vhost=? broker=? late
        published 1.0 tag=? to=ex:key size=1
        published 1.0 tag=? to=ex:key size=1
        unmatched 90 refused
        unmatched 91
        TagsLearned { channel: ChannelId { connection: ConnectionId(7), number: 1, incarnation: 0 }, first: 90, publishes: 2 }
        publish failed 90
        confirmed <=91 inferred earlier
        channel 1.0 closed by Client",
    );
}

#[test]
fn an_idle_connection_is_found_by_its_heartbeat() {
    let mut talk = Talk::new(false);
    talk.client(&wire::heartbeat()).broker(&wire::heartbeat()).client(&publish(b"a"));
    talk.expect(
        "
        session client=Forward name=? vhost=? broker=? late
        published 1.0 tag=? to=ex:key size=1",
    );
}

#[test]
fn the_default_exchange_tells_the_queue_of_an_answer_whose_get_was_not_seen() {
    let mut talk = Talk::new(false);
    let got = |tag, exchange, key| [wire::get_ok(1, tag, exchange, key), wire::message(1, b"m")].concat();
    talk.client(&wire::heartbeat()).broker(&got(1, "", "orders")).broker(&got(2, "ex", "orders"));
    talk.expect(
        "
        session client=Forward name=? vhost=? broker=? late
        delivered 1.0 tag=1 consumer=- queue=orders automatic=? size=1
        delivered 1.0 tag=2 consumer=- queue=? automatic=? size=1",
    );
}

#[test]
fn a_body_that_looks_like_frames_is_not_believed_for_its_beginning() {
    // One whole frame inside something else, neither at a packet's beginning nor at its end.
    let mut talk = Talk::new(false);
    let body = [&b"xxxx"[..], &wire::ack(1, 1, false), b"yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy"].concat();
    talk.client(&body).client(&body);
    talk.expect("");
    // A body frame alone proves nothing, wherever it lies.
    talk.client(&wire::frame(3, 1, b"body")).client(&wire::frame(3, 1, b"body"));
    talk.expect("");
}

#[test]
fn roles_are_told_by_methods_where_the_ports_do_not_tell() {
    let mut talk = Talk::new(true);
    let mut sessions = Sessions::new(Limits::default());
    let end = |port| End { address: ([127, 0, 0, 1], port).into(), owner: None, local: true, reads_seen: true };
    let facts = Facts { ends: [end(1), end(2)], roles_known: false, from_start: false };
    sessions.handle_event(&Event::Facts(CONNECTION, &facts), &mut talk.operations);
    talk.sessions = sessions;
    talk.operations.clear();
    talk.broker(&publish(b"it is the client's")).client(&wire::ack(1, 1, false)).broker(&wire::ack(1, 7, false));
    talk.expect(
        "
        session client=Backward name=? vhost=? broker=? late
        published 1.0 tag=? to=ex:key size=18
        unmatched 1
        settled 7 Acknowledged",
    );
}

#[test]
fn a_commit_tells_that_a_channel_has_transactions() {
    let mut talk = Talk::new(false);
    talk.client(&wire::tx(1, 20)).broker(&wire::tx(1, 21)).client(&publish(b"x"));
    let lines = talk.lines();
    assert!(lines.contains("committed: true") && !lines.contains("published 1.0"), "{lines}");
}
