//! Bodies written by hand, and what a walk tells of them, in lines that can be read.

use std::fmt::Write as _;

use super::super::encode::Told;
use super::*;
use crate::protocol::kafka::frames::DEEPEST;
use crate::protocol::kafka::program::Instruction;

fn lines(calls: &[Call]) -> String {
    let mut lines = String::new();
    let mut depth = 0;
    for call in calls {
        let text = match call {
            Call::Leave(_) => {
                depth -= 1;
                continue;
            }
            Call::Enter(field) => format!("[{}]", field.word()),
            Call::Value(field, told) => format!("{} {}", field.word(), render(told)),
            Call::Records(bytes) => format!("records: {} bytes", bytes.len()),
            Call::Secret(from, length) => format!("secret: {length} bytes from {from}"),
        };
        writeln!(lines, "{:1$}{text}", "", 2 * depth).unwrap();
        depth += usize::from(matches!(call, Call::Enter(_)));
    }
    lines
}

fn render(told: &Told) -> String {
    match told {
        Told::Int(value) => value.to_string(),
        Told::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Told::Bytes(bytes) => format!("{bytes:02x?}"),
        Told::Uuid(bytes) => format!("{:x}", u128::from_be_bytes(*bytes)),
        Told::Count(count) => format!("× {count}"),
        Told::Null => "null".into(),
        Told::Unknown => "unknown".into(),
    }
}

fn check(key: i16, direction: Direction, version: i16, body: &[&[u8]], outcome: Outcome, expected: &str) {
    let layout = Layout::find(key, direction, version).unwrap();
    let body = body.concat();
    let found = whole(layout, &body);
    let expected: Vec<&str> = expected.lines().skip(1).map(|line| &line[line.len().min(8)..]).collect();
    assert_eq!(lines(&found.0).lines().collect::<Vec<_>>(), &expected[..expected.len() - 1]);
    assert_eq!(found.1, outcome);
}

use Direction::{Request, Response};
use Outcome::{Complete, Trailing};

#[test]
fn produce_by_name() {
    let body: &[&[u8]] = &[
        b"\0\x03app", // client id
        b"\0\x02tx",  // transactional id
        b"\xff\xff",  // acks
        b"\0\0\x75\x30",
        b"\0\0\0\x01\0\x06orders", // topics
        b"\0\0\0\x02",             // partitions
        b"\0\0\0\x07\0\0\0\x04abcd",
        b"\0\0\0\x08\xff\xff\xff\xff",
    ];
    let expected = "
        client_id app
        transactional_id tx
        acks -1
        topics × 1
        [topics]
          topic orders
          partitions × 2
          [partitions]
            partition 7
            records: 4 bytes
          [partitions]
            partition 8
            records null
        ";
    check(0, Request, 3, body, Complete, expected);
    check(0, Request, 8, body, Complete, expected);
}

#[test]
fn produce_by_id() {
    let body: &[&[u8]] = &[
        b"\0\x03app\0", // client id, tags of the header
        b"\0",          // transactional id
        b"\0\x01",      // acks
        b"\0\0\x75\x30",
        b"\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xca\xfe", // topics
        b"\x02\0\0\0\x07\x05abcd\0",                 // partitions
        b"\0\0",
    ];
    let expected = "
        client_id app
        transactional_id null
        acks 1
        topics × 1
        [topics]
          topic_id cafe
          partitions × 1
          [partitions]
            partition 7
            records: 4 bytes
        ";
    check(0, Request, 13, body, Complete, expected);
}

#[test]
fn produce_answered_with_a_new_leader() {
    let body: &[&[u8]] = &[
        b"\0",                                            // tags of the header
        b"\x02\x07orders\x02",                            // topics, partitions
        b"\0\0\0\x07\0\x06",                              // partition, error
        b"\xff\xff\xff\xff\xff\xff\xff\xff",              // base offset
        b"\xff\xff\xff\xff\xff\xff\xff\xff",              // log append time
        b"\0\0\0\0\0\0\0\x05",                            // log start offset
        b"\x02\0\0\0\x03\x04bad\0",                       // record errors
        b"\0",                                            // error message
        b"\x02\0\x09\0\0\0\x02\0\0\0\x0b\0",              // tags of the partition: the leader,
        b"\x09\x01x",                                     // and one that is not known
        b"\0",                                            // tags of the topic
        b"\0\0\0\0",                                      // throttle time
        b"\x01\0\x0d\x02\0\0\0\x02\x02h\0\0\x23\x84\0\0", // tags: the leaders' addresses
    ];
    let expected = "
        topics × 1
        [topics]
          topic orders
          partitions × 1
          [partitions]
            partition 7
            error_code 6
            base_offset -1
            log_append_time -1
            log_start_offset 5
            record_errors × 1
            [record_errors]
              batch_index 3
            [current_leader]
              leader 2
              leader_epoch 11
        ";
    check(0, Response, 10, body, Complete, expected);
}

#[test]
fn fetch_with_aborted_transactions() {
    let body: &[&[u8]] = &[
        b"\0",                                           // tags of the header
        b"\0\0\0\0\0\0\0\0\0\x63",                       // throttle time, error, session
        b"\x02\x07orders\x02",                           // topics, partitions
        b"\0\0\0\x07\0\0",                               // partition, error
        b"\0\0\0\0\0\0\0\x64",                           // high watermark
        b"\0\0\0\0\0\0\0\x63",                           // last stable offset
        b"\0\0\0\0\0\0\0\0",                             // log start offset
        b"\x02\0\0\0\0\0\0\x03\xe8\0\0\0\0\0\0\0\x60\0", // aborted
        b"\xff\xff\xff\xff",                             // preferred replica
        b"\x06abcde",                                    // records
        b"\x01\0\x0d\0\0\0\x01\0\0\0\0\0\0\0\x09\0",     // tags: where logs diverge
        b"\0\0",
    ];
    let expected = "
        error_code 0
        session 99
        topics × 1
        [topics]
          topic orders
          partitions × 1
          [partitions]
            partition 7
            error_code 0
            high_watermark 100
            last_stable_offset 99
            log_start_offset 0
            aborted × 1
            [aborted]
              producer_id 1000
              first_offset 96
            preferred_replica -1
            records: 5 bytes
        ";
    check(1, Response, 12, body, Complete, expected);
}

#[test]
fn structs_that_may_be_null() {
    let head: &[u8] = b"\0\0\0\0\0\0\0\0\x02m\0\0\0\x05\0\0\x13\x88";
    let expected = "
        error_code 0
        member m
        generation 5
        assigned null
        ";
    check(68, Response, 0, &[head, b"\xff\0"], Complete, expected);
    let assignment: &[u8] = b"\x01\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xca\xfe\x03\0\0\0\x01\0\0\0\x02\0\0\0";
    let expected = "
        error_code 0
        member m
        generation 5
        [assigned]
          topics × 1
          [topics]
            topic_id cafe
            partition × 2
            partition 1
            partition 2
        ";
    check(68, Response, 1, &[head, assignment], Complete, expected);
}

#[test]
fn an_unsupported_version_is_answered_in_version_0() {
    let expected = "
        error_code 35
        ";
    check(18, Response, 4, &[b"\0\x23\0\0\0\x01\0\x12\0\0\0\x04"], Complete, expected);
    check(18, Response, 1, &[b"\0\x23\0\0\0\0"], Complete, expected);
    check(18, Response, 4, &[b"\0\x23\0\0\0\0\0\0\0\0"], Trailing, expected);
    let expected = "
        error_code 0
        ";
    // No tags in the header. One API, throttle time, features that are not read.
    check(18, Response, 3, &[b"\0\0\x02\0\x12\0\0\0\x04\0\0\0\0\0\x01\x01\x08\0\0\0\0\0\0\0\x09"], Complete, expected);
    check(18, Response, 0, &[b"\0\0\0\0\0\0"], Complete, expected);
}

#[test]
fn a_login_is_not_told() {
    let expected = "
        client_id null
        secret: 8 bytes from 6
        ";
    check(36, Request, 0, &[b"\xff\xff\0\0\0\x08\0bob\0pwd"], Complete, expected);
    // What is behind it may be secret as well, and so may all of it where its length cannot be.
    let expected = "
        client_id null
        secret: 4 bytes from 6
        secret: 4 bytes from 10
        ";
    check(36, Request, 1, &[b"\xff\xff\0\0\0\x04\0bob\0pwd"], Trailing, expected);
    let expected = "
        client_id null
        secret: 8 bytes from 4
        ";
    check(36, Request, 2, &[b"\xff\xff\0\x7f\0bob\0pwd"], Outcome::Malformed, expected);
}

#[test]
fn memberships_of_classic_groups() {
    let lines_of = |field, bytes: &[u8]| {
        let (layout, bytes) = Layout::of_membership(field, bytes)?;
        let (calls, outcome) = whole(layout, bytes);
        Some((layout.version(), lines(&calls), outcome))
    };
    let assignment = b"\0\0\0\x01\0\x01t\0\0\0\x02\0\0\0\x04\0\0\0\x05\xff\xff\xff\xff";
    let expected = "topics × 1\n[topics]\n  topic t\n  partition × 2\n  partition 4\n  partition 5\n";
    for (version, known) in [(0, 0), (3, 3), (4, 3), (i16::MAX, 3)] {
        let bytes = [&i16::to_be_bytes(version)[..], assignment].concat();
        assert_eq!(lines_of(Field::Assignment, &bytes), Some((known, expected.into(), Complete)));
    }
    let newer = [&[0, 9], &assignment[..], b"more"].concat();
    assert_eq!(lines_of(Field::Assignment, &newer), Some((3, expected.into(), Trailing)));
    assert_eq!(lines_of(Field::Assignment, &[0xff, 0xff, 0, 0]), None);
    assert_eq!(lines_of(Field::Assignment, &[0]), None);
    assert_eq!(lines_of(Field::Secret, &newer), None);
    let subscription = b"\0\x01\0\0\0\x02\0\x01s\0\x01t\0\0\0\x01x\0\0\0\x01\0\x01t\0\0\0\x01\0\0\0\x04";
    let expected =
        "subscribed × 2\nsubscribed s\nsubscribed t\nowned × 1\n[owned]\n  topic t\n  partition × 1\n  partition 4\n";
    assert_eq!(lines_of(Field::Subscription, subscription), Some((1, expected.into(), Complete)));
}

#[test]
fn only_what_is_known_has_a_layout() {
    for (key, version, known) in [
        (0, 0, true),
        (0, 13, true),
        (0, 14, false),
        (0, -1, false),
        (0, i16::MIN, false),
        (78, 0, false),
        (78, 1, true),
        (4, 0, false),
        (80, 0, false),
        (-1, 0, false),
        (i16::MAX, i16::MAX, false),
    ] {
        for direction in [Request, Response] {
            let found = Layout::find(key, direction, version);
            assert_eq!(found.is_some(), known, "{key} {version}");
            assert!(found.is_none_or(|layout| (layout.key(), layout.version()) == (key, version)));
        }
    }
    assert_eq!(Layout::all().count(), all().len());
}

#[test]
fn programs_are_small_enough_for_their_places() {
    assert_eq!(size_of::<Instruction>(), 8);
    let programs = || Layout::all().map(|layout| &layout.program);
    assert_eq!(programs().map(|program| program.depth).max(), Some(DEEPEST));
    assert!(programs().all(|program| program.instructions.len() < 1000 && program.known.len() < 100));
    let secret: Vec<i16> = Layout::all().filter(|layout| layout.program.secret).map(Layout::key).collect();
    assert_eq!(secret, [36; 6]);
}
