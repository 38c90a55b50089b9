//! Recordings: what is written reads back the same, and what was damaged is never delivered.

use std::net::SocketAddr;

use acktrail::capture::recording::{Error, Header, MAGIC, Reader, Totals, VERSION, Writer};
use acktrail::capture::{Closed, Cookie, Counters, Direction, Origin, Owner, Read, Record, Segment, Socket};
use acktrail::time::Timestamp;
use proptest::prelude::*;

use crate::owned::Owned;

fn header() -> Header {
    Header {
        created: Timestamp(1_700_000_000_123_456_789),
        acktrail: "0.1.0".to_owned(),
        kernel: Some("6.1.0".to_owned()),
        host: None,
    }
}

fn write(records: &[Owned], commit_every: usize) -> (Vec<u8>, Totals) {
    let mut writer = Writer::new(Vec::new(), &header()).expect("to memory");
    for (number, record) in records.iter().enumerate() {
        writer.write(&record.borrow()).expect("a possible record");
        if number % commit_every == commit_every - 1 {
            writer.commit().expect("to memory");
        }
        if number % (7 * commit_every) == 5 * commit_every {
            writer.flush().expect("to memory");
            assert_eq!(writer.pending_bytes(), 0);
        }
    }
    writer.finish().expect("to memory")
}

/// Compares with what was written, as far as it goes; gives how many records came, and how it ended.
fn read(file: &[u8], expected: &[Owned]) -> (usize, Result<Option<Totals>, Error>) {
    let mut reader = match Reader::new(file) {
        Ok(reader) => reader,
        Err(error) => return (0, Err(error)),
    };
    assert_eq!(*reader.header(), header());
    let mut count = 0;
    loop {
        match reader.next() {
            Ok(Some(record)) => {
                assert_eq!(Some(record), expected.get(count).map(Owned::borrow), "record {count}");
                count += 1;
            }
            Ok(None) => return (count, Ok(reader.totals())),
            Err(error) => {
                assert!(matches!(reader.next(), Ok(None)), "an error is the last word");
                return (count, Err(error));
            }
        }
    }
}

fn address() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        (any::<[u8; 4]>(), any::<u16>()).prop_map(SocketAddr::from),
        (any::<[u8; 16]>(), any::<u16>(), any::<u32>(), any::<u32>())
            .prop_map(|(ip, port, flow, scope)| std::net::SocketAddrV6::new(ip.into(), port, flow, scope).into()),
    ]
}

fn cookie() -> impl Strategy<Value = Cookie> {
    prop_oneof![(1u64..6).prop_map(Cookie), any::<u64>().prop_map(Cookie)]
}

fn time() -> impl Strategy<Value = Timestamp> {
    prop_oneof![
        (0u64..5_000_000_000).prop_map(|offset| Timestamp(1_700_000_000_000_000_000 + offset)),
        any::<u64>().prop_map(Timestamp)
    ]
}

fn segment() -> impl Strategy<Value = Owned> {
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..400),
        (any::<u8>(), 0usize..70_000).prop_map(|(byte, length)| vec![byte; length]),
    ];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    let extent = (prop_oneof![Just(0u32), 0u32..70_000], prop_oneof![Just(0u32), 0u32..70_000]);
    (time(), cookie(), flags, any::<u32>(), any::<u32>(), extent, prop_oneof![Just(0u32), any::<u32>()], bytes)
        .prop_map(|(time, cookie, (ingress, more, exact), sequence, acknowledged, (offset, rest), lost, bytes)| {
            let (offset, rest) = if exact { (0, 0) } else { (offset, rest) };
            let segment = Segment {
                time,
                cookie,
                direction: if ingress { Direction::Ingress } else { Direction::Egress },
                sequence,
                acknowledged,
                length: offset + bytes.len() as u32 + rest,
                offset,
                bytes: &[],
                more,
                lost,
            };
            Owned { record: Record::Segment(segment), bytes }
        })
}

fn socket() -> impl Strategy<Value = Owned> {
    let owner = prop::option::of((any::<u32>(), "\\PC{0,20}"));
    let origin = prop::sample::select(vec![Origin::Unknown, Origin::Connected, Origin::Accepted]);
    let numbers = (any::<u32>(), any::<u64>(), any::<u32>(), any::<u32>());
    (time(), cookie(), address(), address(), numbers, origin, prop::option::of(any::<u16>()), any::<[bool; 2]>(), owner)
        .prop_map(
            |(
                time,
                cookie,
                local,
                remote,
                (netns, cgroup, send_next, copied),
                origin,
                broker_port,
                [from_start, reads_seen],
                owner,
            )| {
                let owner = owner.map(|(pid, executable)| Owner { pid, executable });
                let socket = Socket {
                    time,
                    cookie,
                    local,
                    remote,
                    netns,
                    cgroup,
                    origin,
                    broker_port,
                    send_next,
                    copied,
                    from_start,
                    reads_seen,
                    owner,
                };
                Owned { record: Record::Socket(socket), bytes: Vec::new() }
            },
        )
}

fn record() -> impl Strategy<Value = Owned> {
    let small = |record| Owned { record, bytes: Vec::new() };
    prop_oneof![
        6 => segment(),
        1 => socket(),
        2 => (time(), cookie(), any::<u32>(), any::<u32>(), any::<u32>())
            .prop_map(move |(time, cookie, from, copied, pid)| small(Record::Read(Read { time, cookie, from, copied, pid }))),
        1 => (time(), cookie(), any::<u32>())
            .prop_map(move |(time, cookie, copied)| small(Record::Closed(Closed { time, cookie, copied }))),
        1 => (time(), any::<[u64; 9]>(), prop_oneof![Just(0), any::<u64>()]).prop_map(move |(time, values, node_connections)| {
            let [packets, payload_bytes, captured_bytes, skipped_bytes, ring_full_records, ring_full_bytes, unreadable_packets, untracked_sockets, sampled_out_packets] = values;
            small(Record::Counters(Counters { time, packets, payload_bytes, captured_bytes, skipped_bytes, ring_full_records,
                ring_full_bytes, unreadable_packets, untracked_sockets, sampled_out_packets, node_connections }))
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_is_written_reads_back(records in prop::collection::vec(record(), 0..120), every in 1usize..50) {
        let (file, totals) = write(&records, every);
        let (count, end) = read(&file, &records);
        prop_assert_eq!(count, records.len());
        prop_assert_eq!(end.expect("whole"), Some(totals));
        prop_assert_eq!(totals.records, records.len() as u64);
        prop_assert_eq!(totals.bytes, records.iter().map(|record| record.bytes.len() as u64).sum::<u64>());
        prop_assert_eq!(write(&records, every).0, file, "the same records give the same file");
    }

    #[test]
    fn a_changed_byte_is_never_delivered(
        records in prop::collection::vec(record(), 1..40),
        every in 1usize..10,
        place in any::<prop::sample::Index>(),
        change in 1u8..,
    ) {
        let (mut file, _) = write(&records, every);
        let at = place.index(file.len());
        file[at] ^= change;
        let (_, end) = read(&file, &records);
        let error = end.expect_err("a changed file is not whole");
        prop_assert!(!error.to_string().is_empty());
    }

    #[test]
    fn a_cut_file_gives_what_came_before(
        records in prop::collection::vec(record(), 1..40),
        every in 1usize..10,
        place in any::<prop::sample::Index>(),
    ) {
        let (file, _) = write(&records, every);
        let at = place.index(file.len());
        let (_, end) = read(&file[..at], &records);
        let error = end.expect_err("a cut file is not whole");
        prop_assert!(error.is_truncation() || (at < 14 && matches!(error, Error::NotARecording)), "{at}: {error}");
    }

    #[test]
    fn a_block_out_of_place_is_noticed(records in prop::collection::vec(segment(), 2..20)) {
        let block = |records: &[Owned]| {
            let mut writer = Writer::new(Vec::new(), &header()).expect("to memory");
            for record in records {
                writer.write(&record.borrow()).expect("possible");
            }
            writer.flush().expect("to memory");
            writer
        };
        let start = Writer::new(Vec::new(), &header()).and_then(Writer::finish).expect("to memory").0;
        let empty = start.len();
        let (one, _) = block(&records[..1]).finish().expect("to memory");
        let body = one.len() - empty;
        let header_length = empty - (17 + 5 + 8);
        // The first block twice.
        let mut doubled = one[..header_length + body].to_vec();
        doubled.extend_from_slice(&one[header_length..]);
        let (count, end) = read(&doubled, &records);
        prop_assert!(count <= 1);
        prop_assert!(end.is_err());
    }

    #[test]
    fn arbitrary_bytes_are_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200), magic in any::<bool>()) {
        let mut file = Vec::new();
        if magic {
            file.extend_from_slice(MAGIC);
            file.extend_from_slice(&VERSION.to_le_bytes());
        }
        file.extend_from_slice(&bytes);
        prop_assert!(read(&file, &[]).1.is_err());
    }

    #[test]
    fn what_is_wiped_is_in_no_file(
        lengths in prop::collection::vec(1u32..2000, 1..30),
        first in any::<u32>(),
        from in 0u64..10_000,
        length in 1u64..10_000,
        wipe_after in 0usize..30,
        other_tap in any::<bool>(),
    ) {
        let tap = (Cookie(5), Direction::Egress);
        let mut writer = Writer::new(Vec::new(), &header()).expect("to memory");
        let mut position = 0u64;
        let mut stretches = Vec::new();
        for length in lengths {
            stretches.push((position, length));
            position += u64::from(length);
        }
        let again = stretches.clone();
        for (number, (position, bytes)) in stretches.iter().chain(&again).enumerate() {
            if number == wipe_after {
                let wiped = if other_tap { (Cookie(6), Direction::Egress) } else { tap };
                writer.wipe(&[(Cookie(9), Direction::Ingress), wiped], first.wrapping_add(from as u32), length);
            }
            let payload: Vec<u8> = (0..u64::from(*bytes)).map(|byte| ((position + byte) % 255) as u8 + 1).collect();
            writer.write(&Record::Segment(Segment {
                time: Timestamp(0),
                cookie: tap.0,
                direction: tap.1,
                sequence: first.wrapping_add(*position as u32),
                acknowledged: 0,
                length: *bytes,
                offset: 0,
                bytes: &payload,
                more: false,
                lost: 0,
            })).expect("possible");
        }
        let wiped_at_all = wipe_after < 2 * stretches.len();
        let (file, totals) = writer.finish().expect("to memory");
        let mut reader = Reader::new(&file[..]).expect("a recording");
        let mut zeros = 0;
        let mut number = 0;
        while let Some(record) = reader.next().expect("whole") {
            let Record::Segment(segment) = record else { panic!("segments only") };
            let (position, _) = stretches[number % stretches.len()];
            for (place, byte) in (position..).zip(segment.bytes) {
                let hidden = wiped_at_all && !other_tap && (from..from + length).contains(&place);
                prop_assert_eq!(*byte, if hidden { 0 } else { (place % 255) as u8 + 1 }, "position {}", place);
                zeros += u64::from(hidden);
            }
            number += 1;
        }
        prop_assert_eq!(totals.wiped_bytes, zeros);
    }
}

#[test]
fn other_files_and_other_versions_are_named() {
    let name = |file: &[u8]| read(file, &[]).1.expect_err("no recording").to_string();
    assert_eq!(name(b""), "not a recording of acktrail");
    assert_eq!(name(&[0xd4; 100]), "not a recording of acktrail");
    let (mut file, _) = write(&[], 1);
    file[8] = 9;
    assert_eq!(name(&file), "a recording of format version 9; this acktrail reads version 1");
    let (mut file, _) = write(&[], 1);
    file.push(0);
    assert!(name(&file).contains("behind the end marker"));
}

#[test]
fn lengths_that_lie_take_no_memory() {
    let (file, _) = write(&[], 1);
    let mut longer = file.clone();
    longer[10..14].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(read(&longer, &[]).1.expect_err("damaged").to_string().contains("longer than any header"));
}

#[test]
fn an_impossible_record_is_refused_and_the_recording_goes_on() {
    let mut writer = Writer::new(Vec::new(), &header()).expect("to memory");
    let bytes = vec![1; 10];
    let segment = Segment {
        time: Timestamp(1),
        cookie: Cookie(1),
        direction: Direction::Egress,
        sequence: 1,
        acknowledged: 0,
        length: 9,
        offset: 0,
        bytes: &bytes,
        more: false,
        lost: 0,
    };
    assert!(writer.write(&Record::Segment(segment.clone())).is_err());
    let good = Segment { length: 10, ..segment };
    writer.write(&Record::Segment(good.clone())).expect("possible");
    let (file, totals) = writer.finish().expect("to memory");
    assert_eq!(totals.records, 1);
    let mut reader = Reader::new(&file[..]).expect("a recording");
    assert_eq!(reader.next().expect("whole"), Some(Record::Segment(good)));
}

/// The segment with this number of a stream of large ones, of which three make a block.
fn large(number: u32, time: u32, bytes: &[u8]) -> Segment<'_> {
    Segment {
        time: Timestamp(u64::from(time)),
        cookie: Cookie(1),
        direction: Direction::Egress,
        sequence: number * 100_000,
        acknowledged: 0,
        length: 100_000,
        offset: 0,
        bytes,
        more: false,
        lost: 0,
    }
}

#[test]
fn nothing_is_written_before_it_is_committed() {
    let mut writer = Writer::new(Vec::new(), &header()).expect("to memory");
    let secret = vec![b'#'; 100_000];
    for number in 0..20u32 {
        writer.write(&Record::Segment(large(number, number, &secret))).expect("possible");
    }
    assert!(writer.pending_bytes() > 2_000_000);
    writer.wipe(&[(Cookie(1), Direction::Egress)], 0, u64::MAX);
    writer.commit().expect("to memory");
    assert!(writer.pending_bytes() < 400_000, "full blocks are gone");
    let (file, totals) = writer.finish().expect("to memory");
    assert_eq!(totals.wiped_bytes, 2_000_000);
    assert!(file.len() < 100_000 && !file.windows(8).any(|window| window == b"########"));
}

#[test]
fn what_is_held_stays_with_all_that_came_after() {
    let mut writer = Writer::new(Vec::new(), &header()).expect("to memory");
    let bytes = vec![b'#'; 100_000];
    for number in 0..20u32 {
        // Records of two processors may cross.
        writer.write(&Record::Segment(large(number, number ^ 1, &bytes))).expect("possible");
    }
    for (held, left) in [(0, 20), (3, 20), (4, 17), (6, 14), (7, 14), (20, 2)] {
        writer.commit_before(Timestamp(held)).expect("to memory");
        assert_eq!(writer.pending_bytes() / 100_000, left, "{held}");
    }
}

/// A part of one record, which others have as well.
#[test]
fn a_part_of_one_record_is_wiped_alone() {
    let mut writer = Writer::new(Vec::new(), &header()).expect("to memory");
    let segment = Segment {
        time: Timestamp(1),
        cookie: Cookie(1),
        direction: Direction::Egress,
        sequence: 7,
        acknowledged: 0,
        length: 6,
        offset: 0,
        bytes: b"abcdef",
        more: false,
        lost: 0,
    };
    for (own, wiped) in [(0..0, 0..0), (1..3, 4..9), (0..6, 6..6)] {
        writer.write(&Record::Segment(segment.clone())).expect("possible");
        writer.wipe_last(own);
        writer.wipe_last(wiped);
    }
    writer.wipe(&[(Cookie(1), Direction::Egress)], 12, 1);
    let (file, totals) = writer.finish().expect("to memory");
    let mut reader = Reader::new(&file[..]).expect("a recording");
    for expected in [&b"abcde\0"[..], b"a\0\0d\0\0", &[0; 6]] {
        let bytes = match reader.next().expect("whole") {
            Some(Record::Segment(segment)) => segment.bytes.to_vec(),
            other => panic!("{other:?}"),
        };
        assert_eq!(bytes, expected);
    }
    assert_eq!(totals.wiped_bytes, 1 + 4 + 6);
}

#[test]
fn a_block_is_written_when_its_oldest_record_is_old() {
    let mut writer = Writer::new(Vec::new(), &header()).expect("to memory");
    for second in [10, 11] {
        let read = Read { time: Timestamp(second * 1_000_000_000), cookie: Cookie(1), from: 0, copied: 0, pid: 1 };
        writer.write(&Record::Read(read)).expect("possible");
        writer.commit().expect("to memory");
        assert_eq!(writer.pending_bytes() == 0, second == 11);
    }
}
