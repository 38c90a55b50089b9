//! Counts and lengths that lie, and checksums that are wrong.

use super::*;
use crate::protocol::kafka::batches::Loss;

fn with(bytes: &[u8], at: usize, new: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + new.len()].copy_from_slice(new);
    bytes
}

#[test]
fn a_length_that_lies_ends_the_field() {
    let bytes =
        [encode::Batch::new(0, Codec::None, three()).write(), encode::Batch::new(3, Codec::None, three()).write()]
            .concat();
    let total = bytes.len() as u64;
    for length in [-1, i32::MIN, 0, 48] {
        let seen = fetched(&with(&bytes, 8, &i32::to_be_bytes(length)));
        assert_eq!(
            (seen.batches().len(), seen.lost()),
            (0, vec![Lost { from: 0, bytes: total, why: Loss::Malformed }])
        );
    }
    for length in [total as i32 - 11, i32::MAX] {
        let seen = produced(&with(&bytes, 8, &i32::to_be_bytes(length)));
        assert_eq!(
            (seen.batches().len(), seen.lost()),
            (0, vec![Lost { from: 0, bytes: total, why: Loss::Malformed }])
        );
    }
    // Too short by one: the next header is not one.
    let short = bytes.len() as i32 / 2 - 12 - 1;
    let seen = produced(&with(&bytes, 8, &short.to_be_bytes()));
    assert_eq!((seen.outcomes(), seen.batches().len()), (vec![Outcome::Malformed], 1));
    assert_eq!(seen.lost(), [Lost { from: total / 2 - 1, bytes: total / 2 + 1, why: Loss::Malformed }]);
}

#[test]
fn counts_that_lie_cost_their_batch() {
    let good = encode::Batch::new(0, Codec::None, three()).write();
    for (at, value) in [(57, -1), (57, 4), (57, i32::MAX), (23, -1), (23, 1)] {
        let bytes = [with(&good, at, &i32::to_be_bytes(value)), good.clone()].concat();
        let seen = produced(&bytes);
        assert_eq!((seen.batches().len(), seen.records().len()), (1, 3), "{at} {value}");
        assert_eq!(seen.lost(), [Lost { from: 0, bytes: good.len() as u64, why: Loss::Malformed }]);
    }
    // More records than bytes could hold.
    let many = with(&with(&good, 57, &1_000_000i32.to_be_bytes()), 23, &1_000_000i32.to_be_bytes());
    assert_eq!(produced(&many).lost().len(), 1);
}

#[test]
fn after_a_batch_that_lies_the_next_has_to_be_beyond_doubt() {
    let good = encode::Batch::new(0, Codec::None, three()).write();
    let bad = with(&good, 57, &i32::to_be_bytes(-1));
    let doubtful = with(&good, 21, &[0x80]);
    let seen = produced(&[bad, doubtful, good].concat());
    assert!(seen.batches().is_empty());
    assert_eq!(seen.lost().len(), 1);
}

#[test]
fn a_format_that_is_not_known_is_skipped_by_its_length() {
    let good = encode::Batch::new(0, Codec::None, three()).write();
    let seen = produced(&[with(&good, 16, &[3]), good.clone()].concat());
    assert_eq!((seen.batches().len(), seen.batches()[0].start), (1, good.len() as u64));
    assert_eq!(seen.lost(), [Lost { from: 0, bytes: good.len() as u64, why: Loss::Unknown }]);
}

#[test]
fn records_that_break_the_format_are_an_error_of_their_batch() {
    let record = |body: &[u8]| [&encode::varint(body.len() as i64)[..], body].concat();
    let good = encode::record(&three()[0]);
    for (name, body) in [
        ("a length of six bytes", vec![0x80; 6]),
        ("a negative length", encode::varint(-5)),
        ("no length", encode::varint(0)),
        ("a length behind the end", encode::varint(1000)),
        ("a key longer than its record", record(&[0, 0, 0, 100, 1, 0])),
        ("a key of a length below -1", record(&[0, 0, 0, 3, 1, 0])),
        ("a negative count of headers", record(&[0, 0, 0, 1, 1, 1])),
        ("more headers than bytes", record(&[0, 0, 0, 1, 1, 100, 2, b'a', 2, b'b'])),
        ("a header without a name", record(&[0, 0, 0, 1, 1, 2, 1, 1])),
        ("bytes behind the headers", record(&[0, 0, 0, 1, 1, 0, 0])),
        ("a timestamp of eleven bytes", record(&[0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1, 0, 1, 1, 0])),
        ("an offset beyond the last", record(&[0, 0, 100, 1, 1, 0])),
        ("a negative offset", record(&[0, 0, 1, 1, 1, 0])),
        ("the same offset again", [&good[..], &good].concat()),
        ("a record too many", three().iter().flat_map(encode::record).collect()),
        ("fewer records than promised", Vec::new()),
    ] {
        for codec in CODECS {
            // Long enough that there might be three.
            let tail = encode::Record { value: Some(vec![0; 100]), offset_delta: 2, ..Default::default() };
            let all = [&body[..], &encode::record(&tail)].concat();
            let seen = produced(&encode::Batch::new(0, codec, three()).write_with(&encode::compress(codec, &all)));
            assert_eq!(seen.outcomes(), [Outcome::Malformed], "{name} {codec:?}");
            assert_eq!((seen.lost(), seen.ends()[0].checksum), (vec![], Some(true)), "{name} {codec:?}");
            assert_eq!(seen.ends()[0].records as usize, seen.records().len());
        }
    }
}

#[test]
fn a_wrong_checksum_is_said() {
    for codec in CODECS {
        let good = encode::Batch::new(0, codec, three()).write();
        let seen = produced(&with(&good, 17, &[1, 2, 3, 4]));
        assert_eq!((seen.ends()[0].checksum, seen.ends()[0].outcome), (Some(false), Outcome::Read), "{codec:?}");
        // The leader epoch is the broker's, and not covered.
        let seen = fetched(&with(&good, 12, &[0, 0, 0, 99]));
        assert_eq!((seen.ends()[0].checksum, seen.batches()[0].leader_epoch), (Some(true), 99));
        let unasked = read(Side::Produce, Wish::HeadersOnly, good.len() as u64, &[Piece::Data(&good)]);
        assert_eq!(unasked.ends()[0].checksum, None);
    }
}

#[test]
fn a_codec_that_has_no_meaning_yet_is_refused() {
    use crate::protocol::kafka::codec::Refusal;
    let seen = produced(&encode::Batch::new(0, Codec::Unknown(6), three()).write());
    assert_eq!(seen.outcomes(), [Outcome::Refused(Refusal::Codec)]);
    assert_eq!((seen.batches()[0].count, seen.ends()[0].checksum), (Some(3), None));
}
