//! Bytes that are missing.

use super::*;

fn consuming() -> Talk {
    let mut talk = Talk::open();
    talk.client(&wire::consume(1, "q", "tag", 0)).broker(&wire::consume_ok(1, "tag"));
    talk.lines();
    talk
}

#[test]
fn inside_a_body_nothing_is_lost_but_the_fingerprint() {
    let mut talk = consuming();
    let body = vec![b'x'; 3000];
    let frame = wire::frame(3, 1, &body);
    let cases = [(1, 10..100, None), (2, 10..100, Some("m")), (3, 2000..3007, None), (4, 2000..3008, None)];
    for (tag, hole, id) in cases {
        let properties = wire::Properties { message_id: id.map(String::from), ..Default::default() };
        let lead = [wire::deliver(1, "tag", tag, false, "", "q"), wire::header(1, 3000, &properties)].concat();
        talk.broker(&lead).broker(&frame[..hole.start]).broker_loses(&frame[hole.clone()]);
        if hole.end < frame.len() {
            talk.send(Flow::Backward, &frame[hole.end..], false);
        }
    }
    let lines = talk.lines();
    let size = lines.matches("size=3000").count();
    assert_eq!((size, lines.matches("unidentified").count()), (4, 1), "{lines}");
    assert!(!lines.contains("gap"), "{lines}");
}

#[test]
fn over_a_whole_message_its_loss_is_counted_by_the_tags() {
    let mut talk = consuming();
    talk.broker(&deliver(1, b"one")).broker_loses(&[deliver(2, b"two"), deliver(3, b"three")].concat());
    talk.broker(&deliver(4, b"four")).broker(&deliver(5, b"five"));
    talk.expect(
        "
        delivered 1.0 tag=1 consumer=tag queue=q automatic=false size=3
        gap broker channel=* bytes=132 deliveries=?
        gap broker channel=1 bytes=? deliveries=2
        delivered 1.0 tag=4 consumer=tag queue=q automatic=false size=4
        delivered 1.0 tag=5 consumer=tag queue=q automatic=false size=4",
    );
}

#[test]
fn that_cut_a_message_leave_what_was_seen_of_it() {
    let mut talk = consuming();
    let whole = deliver(1, b"hello");
    let method = wire::deliver(1, "tag", 1, false, "ex", "key").len();
    talk.broker(&whole[..method]).broker_loses(&whole[method..]).broker(&deliver(2, b"two"));
    talk.expect(
        "
        delivered 1.0 tag=1 consumer=tag queue=q automatic=false size=? unidentified
        gap broker channel=* bytes=35 deliveries=?
        delivered 1.0 tag=2 consumer=tag queue=q automatic=false size=3",
    );
}

#[test]
fn inside_a_method_lose_that_frame_alone() {
    let mut talk = consuming();
    let ack = wire::ack(1, 1, false);
    talk.client(&ack[..10]).client_loses(&ack[10..15]);
    talk.send(Flow::Forward, &[&ack[15..], &wire::ack(1, 2, false)].concat(), false);
    talk.expect(
        "
        gap client channel=1 bytes=21 deliveries=?
        settled 2 Acknowledged",
    );
}

#[test]
fn in_the_clients_flow_make_publish_tags_unknown() {
    let mut talk = Talk::open();
    talk.client(&wire::confirm_select(1)).broker(&wire::confirm_select_ok(1));
    talk.client(&publish(b"1")).client_loses(&publish(b"2")).client(&publish(b"3"));
    talk.broker(&wire::ack(1, 3, true)).wait(1000).client(&publish(b"4")).broker(&wire::ack(1, 4, false));
    talk.expect(
        "
        published 1.0 tag=1 to=ex:key size=1
        gap client channel=* bytes=53 deliveries=?
        published 1.0 tag=? to=ex:key size=1
        confirmed <=1
        unmatched <=3
        TagsLearned { channel: ChannelId { connection: ConnectionId(7), number: 1, incarnation: 0 }, first: 3, publishes: 1 }
        confirmed <=3 inferred earlier
        published 1.0 tag=4 to=ex:key size=1
        confirmed 4 inferred",
    );
}

#[test]
fn in_a_large_body_may_hide_its_frames_heads() {
    let mut talk = consuming();
    let body = vec![b'x'; 50_000];
    let bytes = [
        wire::deliver(1, "tag", 1, false, "", "q"),
        wire::content(1, &wire::Properties::default(), &body, 8184).concat(),
    ]
    .concat();
    talk.broker(&bytes[..4000]).broker_loses(&bytes[4000..40_000]);
    talk.send(Flow::Backward, &bytes[40_000..], false);
    talk.broker(&deliver(2, b"two"));
    talk.expect(
        "
        delivered 1.0 tag=1 consumer=tag queue=q automatic=false size=50000
        delivered 1.0 tag=2 consumer=tag queue=q automatic=false size=3",
    );
}

#[test]
fn that_hide_a_channels_end_and_its_next_opening() {
    let mut talk = consuming();
    talk.broker(&deliver(1, b"a")).broker(&deliver(2, b"b"));
    talk.client_loses(&[wire::channel_close(1, 200, "", (0, 0)), wire::channel_open(1)].concat());
    talk.broker_loses(&[wire::channel_close_ok(1), wire::channel_open_ok(1)].concat());
    talk.broker(&deliver(1, b"c")).broker(&deliver(2, b"d"));
    talk.lines();
    talk.broker(&deliver(3, b"e"));
    talk.expect(
        "
        delivered 1.1 tag=3 consumer=tag queue=? automatic=? size=1",
    );
}

#[test]
fn of_unknown_length_are_survived() {
    let mut talk = consuming();
    let position = talk.positions[1];
    let event = Event::Hole {
        connection: CONNECTION,
        flow: Flow::Backward,
        position,
        length: None,
        time: Timestamp(5),
        cause: HoleCause::RingFull,
    };
    talk.sessions.handle_event(&event, &mut talk.operations);
    talk.positions[1] += 5 << 32;
    talk.broker(&deliver(9, b"nine"));
    talk.expect(
        "
        gap broker channel=* bytes=? deliveries=?
        gap broker channel=1 bytes=? deliveries=8
        delivered 1.0 tag=9 consumer=tag queue=q automatic=false size=4",
    );
}
