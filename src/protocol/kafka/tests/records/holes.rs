//! Holes in every place.

use super::*;
use crate::protocol::kafka::batches::Loss;

/// Ten batches of a response, all of the same length.
fn ten() -> (Vec<u8>, usize) {
    let batches: Vec<_> = (0..10).map(|number| encode::Batch::new(3 * number, Codec::None, three()).write()).collect();
    (batches.concat(), batches[0].len())
}

fn with_hole(bytes: &[u8], from: usize, length: usize) -> Seen {
    let pieces = [Piece::Data(&bytes[..from]), Piece::Hole(length as u64), Piece::Data(&bytes[from + length..])];
    read(Side::Fetch, RECORDS, bytes.len() as u64, &pieces)
}

fn offsets(seen: &Seen) -> Vec<i64> {
    seen.batches().iter().map(|batch| batch.base_offset).collect()
}

#[test]
fn a_hole_inside_the_records_costs_what_was_in_it() {
    let (bytes, size) = ten();
    for from in 3 * size + crate::protocol::kafka::batch::HEADER..4 * size {
        let seen = with_hole(&bytes, from, 4 * size - from);
        assert_eq!((offsets(&seen).len(), seen.lost().len()), (10, 0));
        let end = seen.ends()[3];
        assert_eq!((end.missing, end.outcome, end.checksum), ((4 * size - from) as u64, Outcome::Incomplete, None));
        assert_eq!((seen.ends()[4].outcome, seen.ends()[4].missing), (Outcome::Read, 0));
        assert!(end.records < 3 && seen.records().len() == 27 + end.records as usize);
    }
}

#[test]
fn a_hole_over_a_header_costs_its_batch() {
    let (bytes, size) = ten();
    for from in 3 * size - 5..3 * size + crate::protocol::kafka::batch::HEADER {
        let seen = with_hole(&bytes, from, 20);
        let start = 3 * size as u64;
        if from + 20 <= 3 * size {
            continue;
        }
        assert_eq!(offsets(&seen), [0, 3, 6, 12, 15, 18, 21, 24, 27], "{from}");
        assert_eq!(seen.lost(), [Lost { from: start, bytes: size as u64, why: Loss::Hole }]);
        // The length of the lost batch was seen, so that the next is where it has to be; else it is only certain at the
        // header after it, when its records have passed.
        let known = from >= 3 * size + 12;
        assert_eq!(seen.outcomes()[3], if known { Outcome::Read } else { Outcome::Missed }, "{from}");
        assert_eq!(seen.outcomes()[4], Outcome::Read);
    }
}

#[test]
fn a_batch_behind_a_hole_that_ends_with_the_field_is_read() {
    let (bytes, size) = ten();
    let seen = with_hole(&bytes, 3 * size, 6 * size - 10);
    assert_eq!((offsets(&seen), seen.outcomes()), (vec![0, 3, 6, 27], vec![Outcome::Read; 4]));
    assert_eq!(seen.ends()[3].checksum, Some(true));
}

#[test]
fn the_truncated_batch_at_the_end_confirms_the_one_before_it() {
    let (bytes, size) = ten();
    let seen = with_hole(&bytes[..10 * size - 20], 3 * size, 5 * size);
    assert_eq!(offsets(&seen), [0, 3, 6, 24, 27]);
    assert!(seen.batches()[4].truncated);
}

#[test]
fn what_nobody_confirms_is_lost() {
    let (bytes, size) = ten();
    // A single batch between two holes: its end is in the second one.
    let (hole, total) = (2 * size, 10 * size as u64);
    let pieces = [
        Piece::Hole(hole as u64),
        Piece::Data(&bytes[hole..hole + size / 2]),
        Piece::Hole(total - (hole + size / 2) as u64),
    ];
    let seen = read(Side::Fetch, RECORDS, total, &pieces);
    assert_eq!((seen.batches().len(), seen.lost()), (0, vec![Lost { from: 0, bytes: total, why: Loss::Hole }]));
}

#[test]
fn offsets_that_do_not_ascend_are_not_a_batch() {
    let (bytes, size) = ten();
    let again = [&bytes[..5 * size], &bytes[..2 * size]].concat();
    let seen = with_hole(&again, 4 * size, size);
    assert_eq!(offsets(&seen), [0, 3, 6, 9]);
    assert_eq!(seen.lost(), [Lost { from: 4 * size as u64, bytes: 3 * size as u64, why: Loss::Hole }]);
}

#[test]
fn batches_inside_a_value_are_no_batches() {
    let value = [40, 43].map(|offset| encode::Batch::new(offset, Codec::None, three()).write()).concat();
    let outer = encode::Batch::new(1_000_003, Codec::None, encode::records([value])).write();
    let first = encode::Batch::new(1_000_000, Codec::None, three()).write();
    let start = first.len();
    let seen = with_hole(&[first, outer].concat(), start, 10);
    assert_eq!(offsets(&seen), [1_000_000], "offsets do not go back");
    // Where nothing is known of offsets, a single one is not confirmed by what follows it.
    let value = encode::Batch::new(40, Codec::None, three()).write();
    let bytes = encode::Batch::new(3, Codec::None, encode::records([value])).write();
    assert!(with_hole(&bytes, 0, 10).batches().is_empty());
}

#[test]
fn each_fact_about_a_header_counts() {
    let last = encode::Batch::new(3, Codec::None, three()).write();
    let bytes = [&encode::Batch::new(0, Codec::None, three()).write()[..], &last, &last].concat();
    let place = bytes.len() - last.len();
    let found = |at: usize, new: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[place + at..place + at + new.len()].copy_from_slice(new);
        offsets(&with_hole(&bytes, place - last.len(), last.len())).len() == 2
    };
    assert!(found(0, &[]));
    for (name, at, new) in [
        ("an offset before those that passed", 0, &2i64.to_be_bytes()[..]),
        ("an offset far away", 0, &(1i64 << 40).to_be_bytes()),
        ("a length that does not fit", 8, &1000i32.to_be_bytes()),
        ("an older epoch", 12, &4i32.to_be_bytes()),
        ("a much later epoch", 12, &5000i32.to_be_bytes()),
        ("an older format", 16, &[1]),
        ("a bit without a meaning", 21, &[1]),
        ("a codec without a meaning", 22, &[5]),
        ("more records than offsets", 23, &1i32.to_be_bytes()),
        ("a timestamp after 2100", 27, &(1i64 << 50).to_be_bytes()),
        ("a largest timestamp before the first", 35, &1000i64.to_be_bytes()),
        ("a producer without an epoch", 51, &(-1i16).to_be_bytes()),
        ("an epoch without a producer", 43, &(-1i64).to_be_bytes()),
        ("no records", 57, &0i32.to_be_bytes()),
    ] {
        assert!(!found(at, new), "{name}");
    }
}

#[test]
fn compressed_records_before_a_hole_are_read_as_far_as_their_codec_allows() {
    let values = (0..400u32).map(|number| number.to_be_bytes().repeat(100));
    let records: Vec<_> = encode::records(values);
    let body: Vec<u8> = records.iter().flat_map(encode::record).collect();
    for (codec, compressed, least) in [
        (Codec::Gzip, encode::compress(Codec::Gzip, &body), 100),
        (Codec::Snappy, encode::xerial(&body, 32 << 10), 100),
        (Codec::Lz4, encode::compress(Codec::Lz4, &body), 100),
        // Nothing can be made of half a block, and zstd keeps its window to the end.
        (Codec::Snappy, encode::compress(Codec::Snappy, &body), 0),
        (Codec::Zstd, encode::compress(Codec::Zstd, &body), 0),
    ] {
        let bytes = encode::Batch::new(0, codec, records.clone()).write_with(&compressed);
        let whole = fetched(&bytes);
        assert_eq!((whole.records().len(), whole.outcomes()), (400, vec![Outcome::Read]), "{codec:?}");
        let seen = with_hole(&bytes, bytes.len() - compressed.len() / 8, 5);
        let end = seen.ends()[0];
        assert_eq!((end.outcome, end.checksum, end.missing), (Outcome::Incomplete, None, 5), "{codec:?}");
        assert!((least..400).contains(&end.records), "{codec:?} {}", end.records);
        assert_eq!(seen.records(), whole.records()[..end.records as usize], "{codec:?}");
    }
}

#[test]
fn a_field_that_never_comes_is_lost_as_a_whole() {
    let seen = read(Side::Fetch, RECORDS, 1000, &[]);
    assert_eq!(seen.lost(), [Lost { from: 0, bytes: 1000, why: Loss::Hole }]);
    assert!(read(Side::Fetch, RECORDS, 0, &[Piece::Data(b"not of this field")]).events.is_empty());
}
