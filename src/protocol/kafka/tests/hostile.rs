//! What nobody should send.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::super::encode::Told;
use super::*;

/// Nothing is told that the bytes do not pay for.
fn is_within(calls: &[Call], bytes: usize) -> bool {
    let records: usize = calls.iter().map(|call| if let Call::Records(bytes) = call { bytes.len() } else { 0 }).sum();
    let secrets = calls.iter().all(|call| match call {
        Call::Secret(from, length) => from + length <= bytes as u64,
        _ => true,
    });
    // An element is entered, left, and has a byte at least.
    calls.len() <= 4 * bytes + 8 && records <= bytes && secrets
}

fn any_layout() -> impl Strategy<Value = &'static Layout> {
    any::<Index>().prop_map(|which| {
        let all = all();
        all[which.index(all.len())].2
    })
}

/// Bytes that look like lengths and counts more often than chance would have it.
fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![4 => 0u8..4, 1 => any::<u8>(), 1 => Just(0xff), 1 => Just(0x80)];
    vec(byte, 0..400)
}

fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1500) }
}

proptest! {
    #![proptest_config(config())]

    /// Arbitrary bytes: an answer, within bounds, and the same one however they are cut.
    #[test]
    fn noise_is_answered(layout in any_layout(), bytes in any_bytes(), shares in vec(any::<Index>(), 0..8)) {
        let (calls, outcome) = whole(layout, &bytes);
        prop_assert!(is_within(&calls, bytes.len()), "{calls:?}");
        let cuts: Vec<usize> = shares.iter().map(|share| share.index(bytes.len().max(1))).collect();
        prop_assert_eq!(walk(layout, &bytes, &[], &cuts), (calls, outcome));
        let each: Vec<usize> = (0..bytes.len()).collect();
        prop_assert_eq!(walk(layout, &bytes, &[], &each).1, outcome);
    }

    /// Sound bodies of which bytes were changed, with holes.
    #[test]
    fn changed_bodies_are_answered(
        which in any::<Index>(),
        seed: u64,
        changes in vec((any::<Index>(), any::<u8>()), 1..6),
        holes in vec((any::<Index>(), 0usize..30), 0..3),
    ) {
        let all = all();
        let (message, version, layout) = all[which.index(all.len())];
        let mut body = draw(table(), message, version, &mut noise(seed));
        let length = body.bytes.len();
        for (at, value) in &changes {
            if let Some(byte) = body.bytes.get_mut(at.index(length.max(1))) {
                *byte = *value;
            }
        }
        let mut missing = vec![false; length];
        for (start, many) in &holes {
            missing.iter_mut().skip(start.index(length.max(1))).take(*many).for_each(|byte| *byte = true);
        }
        let (calls, outcome) = walk(layout, &body.bytes, &missing, &[]);
        prop_assert!(is_within(&calls, length), "{calls:?}");
        let each: Vec<usize> = (0..length).collect();
        prop_assert_eq!(walk(layout, &body.bytes, &missing, &each), (calls, outcome));
    }
}

const MOST: u32 = i32::MAX as u32;

/// A request to produce with these bytes behind client id, transactional id, acks and timeout.
fn produce(version: i16, rest: &[u8]) -> Outcome {
    let layout = Layout::find(0, Direction::Request, version).unwrap();
    let head: &[u8] =
        if version < 9 { &[0xff, 0xff, 0xff, 0xff, 0, 1, 0, 0, 0, 9] } else { &[0xff, 0xff, 0, 0, 0, 1, 0, 0, 0, 9] };
    whole(layout, &[head, rest].concat()).1
}

#[test]
fn counts_and_lengths_that_lie_are_malformed() {
    let most = MOST.to_be_bytes();
    assert_eq!(produce(3, &[0, 0, 0, 0]), Outcome::Complete);
    assert_eq!(produce(3, &most), Outcome::Malformed, "topics");
    assert_eq!(produce(3, &[0xff; 4]), Outcome::Malformed, "null topics");
    assert_eq!(produce(3, &[0x80, 0, 0, 0]), Outcome::Malformed, "a negative count");
    // Two topics of six bytes at least each.
    assert_eq!(produce(3, &[0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Outcome::Complete);
    assert_eq!(produce(3, &[0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Outcome::Malformed);
    let topic = [0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1, 0, 0, 0, 5];
    assert_eq!(produce(3, &[&topic[..], &[0, 0, 0, 3], b"abc"].concat()), Outcome::Complete);
    assert_eq!(produce(3, &[&topic[..], &[0, 0, 0, 4], b"abc"].concat()), Outcome::Malformed, "records");
    assert_eq!(produce(3, &[&topic[..], &[0, 0, 0, 2], b"abc"].concat()), Outcome::Trailing);
    assert_eq!(produce(3, &[&topic[..], &[0xff; 4][..]].concat()), Outcome::Complete, "null records");
    assert_eq!(produce(3, &[&topic[..], &[0xff, 0xff, 0xff, 0xfe][..]].concat()), Outcome::Malformed);

    assert_eq!(produce(9, &[1, 0]), Outcome::Complete);
    assert_eq!(produce(9, &[0, 0]), Outcome::Malformed, "null topics");
    assert_eq!(produce(9, &[0xff, 0xff, 0xff, 0xff, 0x0f, 0]), Outcome::Malformed, "topics");
    assert_eq!(produce(9, &[0x81, 0x80, 0x80, 0x80, 0x00, 0]), Outcome::Complete, "the long way to write 1");
    assert_eq!(produce(9, &[0x81, 0x80, 0x80, 0x80, 0x80, 0, 0]), Outcome::Malformed, "six bytes of a varint");
    assert_eq!(produce(9, &[1, 1, 7, 2, b'x', b'y']), Outcome::Complete, "a tagged field that nobody knows");
    assert_eq!(produce(9, &[1, 1, 7, 3, b'x', b'y']), Outcome::Malformed, "which is too long");
    assert_eq!(produce(9, &[1, 0x7f, 7, 0]), Outcome::Malformed, "more tagged fields than fit");
}

#[test]
fn a_tagged_field_must_have_its_size() {
    let layout = Layout::find(1, Direction::Request, 15).unwrap();
    let request = |size: u8| {
        let head = [0xff, 0xff, 0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1];
        let replica = [0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 9, 0];
        whole(layout, &[&head[..], &[1, 1, size], &replica, &[0; 3]].concat()[..head.len() + 3 + 13]).1
    };
    assert_eq!(request(13), Outcome::Complete);
    assert_eq!(request(12), Outcome::Malformed);
    assert_eq!(request(14), Outcome::Malformed);
}

#[test]
fn a_length_of_two_gigabytes_takes_no_memory() {
    let layout = Layout::find(14, Direction::Response, 5).unwrap();
    let mut walk = Walk::new(layout, MOST);
    let mut recorder = Recorder::default();
    // Header's tags, throttle time, error, two nulls, then the length of the assignment.
    let mut head = &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0x81, 0x80, 0x04][..];
    assert_eq!(walk.feed(&mut head, &mut recorder), None);
    for piece in [[7u8; 1000]; 70].iter().take(65) {
        assert_eq!(walk.feed(&mut &piece[..], &mut recorder), None);
        assert!(walk.cost() <= 128 << 10, "{}", walk.cost());
    }
    assert!(walk.cost() > 60_000, "an assignment of 64 KiB is collected");
    walk.feed(&mut &[7; 536][..], &mut recorder);
    assert!(matches!(recorder.calls.last(), Some(Call::Value(Field::Assignment, _))));
    assert!(walk.cost() <= 1024, "and given back: {}", walk.cost());
    // Behind it are tagged fields, which nothing is known of.
    assert_eq!(walk.feed(&mut &[1, 0, 0xff, 0xff, 0xff, 0xff, 0x06][..], &mut recorder), None);
    assert_eq!(walk.left(), MOST - 65_536 - 12 - 7);
    let mut rest = u64::MAX;
    assert_eq!(walk.feed_hole(&mut rest, &mut recorder), Some(Outcome::Trailing));
}

#[test]
fn room_bounds_what_is_copied() {
    let layout = Layout::find(12, Direction::Request, 0).unwrap();
    // No client id, group, generation, member.
    let request = b"\xff\xff\0\x05group\0\0\0\x03\0\x06member";
    for (room, group, member) in [(6, "group", "member"), (5, "group", ""), (4, "", "")] {
        let mut walk = Walk::new(layout, request.len() as u32);
        walk.set_room(room);
        let mut recorder = Recorder::default();
        let outcome = request.chunks(3).map(|piece| walk.feed(&mut &piece[..], &mut recorder)).last();
        assert_eq!(outcome, Some(Some(Outcome::Complete)));
        let text = |text: &str| if text.is_empty() { Told::Unknown } else { Told::Text(text.into()) };
        assert_eq!(recorder.calls[1], Call::Value(Field::Group, text(group)));
        assert_eq!(recorder.calls[3], Call::Value(Field::Member, text(member)));
        // What lies in one piece is not copied.
        let mut walk = Walk::new(layout, request.len() as u32);
        walk.set_room(room);
        let mut recorder = Recorder::default();
        walk.feed(&mut &request[..], &mut recorder);
        assert_eq!(recorder.calls[3], Call::Value(Field::Member, Told::Text(b"member".to_vec())));
    }
}
