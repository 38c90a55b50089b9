//! Batches that the Java client wrote (kafka-clients 3.9.1, `MemoryRecordsBuilder`): three records, the second of them with
//! trace context where the format has headers, the third a tombstone; and the two ends of a transaction.

use super::*;

const FIXTURES: &str = include_str!("java.txt");

fn fixtures() -> Vec<(String, Codec, Vec<u8>)> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    let codec = |name: &str| match name {
        "none" => Codec::None,
        "gzip" => Codec::Gzip,
        "snappy" => Codec::Snappy,
        "lz4" => Codec::Lz4,
        "zstd" => Codec::Zstd,
        other => panic!("{other}"),
    };
    let fixture = |line: &str| {
        let [kind, name, hex] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        (kind.to_owned(), codec(name), hex.as_bytes().chunks(2).map(byte).collect())
    };
    FIXTURES.lines().map(fixture).collect()
}

#[test]
fn what_the_java_client_writes_is_read() {
    let values = [
        Some(&b"value-1 value-1 value-1 value-1 value-1 value-1"[..]),
        Some(b"value-2 value-2 value-2 value-2 value-2 value-2"),
        None,
    ];
    let keys = [Some(&b"key-1"[..]), None, Some(b"key-3")];
    let mut checked = 0;
    for (kind, codec, bytes) in fixtures().into_iter().filter(|(kind, ..)| kind.len() == 1) {
        let seen = fetched(&bytes);
        let records = seen.records();
        let name = format!("magic {kind} {codec:?}");
        assert_eq!(
            records.iter().map(|record| record.key).collect::<Vec<_>>(),
            keys.map(|key| key.map(digest)),
            "{name}"
        );
        assert_eq!(
            records.iter().map(|record| record.value).collect::<Vec<_>>(),
            values.map(|value| value.map(digest))
        );
        assert!(seen.outcomes().iter().all(|outcome| *outcome == Outcome::Read), "{name} {:?}", seen.outcomes());
        assert!(seen.batches().iter().all(|batch| batch.attributes.codec == codec && !batch.attributes.reserved));
        let bases =
            seen.ends().iter().flat_map(|end| (0..end.records).map(|_| end.base_offset.unwrap())).collect::<Vec<_>>();
        let offsets: Vec<_> = records.iter().zip(bases).map(|(record, base)| base + record.offset_delta).collect();
        assert_eq!(offsets, [100, 101, 102], "{name}");
        if kind == "2" {
            let (batch, end) = (seen.batches()[0], seen.ends()[0]);
            assert_eq!((end.checksum, batch.count, batch.last_offset()), (Some(true), Some(3), 102), "{name}");
            assert_eq!((batch.base_timestamp, batch.max_timestamp), (1_700_000_000_000, 1_700_000_000_007));
            assert_eq!(
                (batch.producer_id, batch.producer_epoch, batch.base_sequence, batch.leader_epoch),
                (4711, 3, 17, 5)
            );
            assert_eq!(records.iter().map(|record| record.timestamp_delta).collect::<Vec<_>>(), [0, 7, 5]);
            assert_eq!((records[1].headers, records[1].trace.unwrap().span_id[7]), (2, 0x31));
        }
        checked += 1;
    }
    assert_eq!(checked, 13);
}

#[test]
fn the_ends_of_transactions_are_told_apart() {
    for (kind, _, bytes) in fixtures() {
        let expected = match &*kind {
            "commit" => Marker::Commit,
            "abort" => Marker::Abort,
            _ => continue,
        };
        let seen = fetched(&bytes);
        let attributes = seen.batches()[0].attributes;
        assert!(attributes.control && attributes.transactional);
        assert_eq!((seen.records()[0].marker, seen.batches()[0].base_sequence), (Some(expected), -1));
        assert_eq!((seen.ends()[0].checksum, seen.outcomes()), (Some(true), vec![Outcome::Read]));
    }
}
