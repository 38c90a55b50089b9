//! Each codec's formats, bombs, and what a budget refuses.

use super::encode::{compress, lz4, snappy, xerial};
use super::*;
use crate::protocol::kafka::codec::{Failure, Refusal};
use lz4_flex::frame::BlockMode;
use std::ops::ControlFlow;

fn expand(codec: Codec, input: &[u8], budget: &Budget) -> (Vec<u8>, Result<(), Failure>) {
    let mut all = Vec::new();
    let (made, result) = Scratch::default().decompress(codec, input, budget, |bytes| {
        all.extend_from_slice(bytes);
        ControlFlow::Continue(())
    });
    assert_eq!(made, all.len() as u64);
    assert!(made <= budget.output.max(Budget::FREE));
    (all, result)
}

/// Neither random nor of one piece.
fn prose(length: usize) -> Vec<u8> {
    (0u64..).flat_map(|number| format!("{:x} ", number.wrapping_mul(0x9e37_79b9)).into_bytes()).take(length).collect()
}

#[test]
fn whatever_was_compressed_comes_out() {
    for length in [0, 1, 100, 70_000, 300_000] {
        let plain = prose(length);
        for (codec, compressed) in [
            (Codec::None, plain.clone()),
            (Codec::Gzip, compress(Codec::Gzip, &plain)),
            (Codec::Snappy, snappy(&plain)),
            (Codec::Snappy, xerial(&plain, 32 << 10)),
            (Codec::Snappy, [xerial(&plain[..length / 2], 1000), xerial(&plain[length / 2..], 1000)].concat()),
            (Codec::Lz4, lz4(&plain, BlockMode::Independent)),
            (Codec::Lz4, lz4(&plain, BlockMode::Linked)),
            (Codec::Zstd, compress(Codec::Zstd, &plain)),
        ] {
            let (expanded, result) = expand(codec, &compressed, &GENEROUS);
            assert_eq!(result, Ok(()), "{codec:?} {length}");
            assert!(expanded == plain, "{codec:?} {length}");
        }
    }
}

#[test]
fn zstd_frames_may_follow_each_other_and_be_skipped() {
    let skippable = [&0x184d_2a53u32.to_le_bytes()[..], &3u32.to_le_bytes(), b"abc"].concat();
    let frames =
        [&compress(Codec::Zstd, b"one "), &skippable, &compress(Codec::Zstd, b"two")].map(|frame| &frame[..]).concat();
    assert_eq!(expand(Codec::Zstd, &frames, &GENEROUS), (b"one two".to_vec(), Ok(())));
    let endless = [&0x184d_2a53u32.to_le_bytes()[..], &u32::MAX.to_le_bytes(), b"abc"].concat();
    assert_eq!(expand(Codec::Zstd, &endless, &GENEROUS), (Vec::new(), Err(Failure::Malformed)));
}

#[test]
fn everything_that_a_header_of_gzip_may_have_is_stepped_over() {
    let time_and_system = [1, 2, 3, 4, 2, 3];
    let extra = b"\x05\0extra";
    for (flags, parts) in [
        (0, &[][..]),
        (1 << 2, extra),
        (1 << 3, b"name\0"),
        (1 << 4, b"comment\0"),
        (1 << 1, b"cc"),
        (0x1f, &[extra, &b"name\0comment\0cc"[..]].concat()),
    ] {
        let header = [&[flags][..], &time_and_system, parts].concat();
        let stream = encode::gzip_with(&header, b"hello, hello");
        assert_eq!(expand(Codec::Gzip, &stream, &GENEROUS), (b"hello, hello".to_vec(), Ok(())), "{flags:x}");
        assert_eq!(expand(Codec::Gzip, &stream[..9 + parts.len()], &GENEROUS), (Vec::new(), Err(Failure::Malformed)));
    }
    assert_eq!(expand(Codec::Gzip, b"PK\x03\x04 and so on", &GENEROUS), (Vec::new(), Err(Failure::Malformed)));
}

#[test]
fn nothing_of_one_stream_gets_into_the_next() {
    // A match of three bytes at a distance of one, before there are any.
    let before_the_beginning = [31, 139, 8, 0, 0, 0, 0, 0, 0, 255, 0x03, 0x02, 0x00];
    let read = |scratch: &mut Scratch, stream: &[u8]| {
        let mut all = Vec::new();
        let (_, result) = scratch.decompress(Codec::Gzip, stream, &GENEROUS, |bytes| {
            all.extend_from_slice(bytes);
            ControlFlow::Continue(())
        });
        (all, result)
    };
    let fresh = read(&mut Scratch::default(), &before_the_beginning);
    let mut used = Scratch::default();
    assert_eq!(read(&mut used, &compress(Codec::Gzip, &prose(200_000))).1, Ok(()));
    assert_eq!(read(&mut used, &before_the_beginning), fresh);
}

#[test]
fn the_header_checksum_of_lz4_does_not_count() {
    let mut frame = lz4(b"hello, hello, hello", BlockMode::Independent);
    let checksum = 4 + 2 + 8;
    frame[checksum] ^= 0xff;
    assert_eq!(expand(Codec::Lz4, &frame, &GENEROUS), (b"hello, hello, hello".to_vec(), Ok(())));
}

#[test]
fn bombs_of_every_codec_go_off_within_the_budget() {
    let zeros = vec![0; 24 << 20];
    let bombs = [
        (Codec::Gzip, compress(Codec::Gzip, &zeros)),
        (Codec::Snappy, snappy(&zeros)),
        (Codec::Snappy, xerial(&zeros, 32 << 10)),
        (Codec::Lz4, lz4(&zeros, BlockMode::Independent)),
        (Codec::Lz4, lz4(&zeros, BlockMode::Linked)),
        (Codec::Zstd, compress(Codec::Zstd, &zeros)),
    ];
    for (codec, bomb) in &bombs {
        let (made, result) = expand(*codec, bomb, &Budget { ratio: 10, ..GENEROUS });
        let refusal = if made.is_empty() { [Refusal::Ratio, Refusal::Memory] } else { [Refusal::Ratio; 2] };
        assert!(refusal.map(|refusal| Err(refusal.into())).contains(&result), "{codec:?} {result:?}");
        let budget = Budget { output: 1 << 20, ratio: u64::MAX, memory: 64 << 20, ..GENEROUS };
        assert_eq!(expand(*codec, bomb, &budget).1, Err(Refusal::Output.into()), "{codec:?}");
        let (made, result) = expand(*codec, bomb, &Budget { input: 100, ..budget });
        assert_eq!((made.len(), result), (0, Err(Refusal::Input.into())), "{codec:?}");
    }
    // The same in a batch, where the bomb is in a record's value.
    let mut records = three();
    records[2].value = Some(zeros);
    for codec in &CODECS[1..] {
        let bytes = encode::Batch::new(0, *codec, records.clone()).write();
        let budget = Budget { output: 1 << 20, ratio: u64::MAX, memory: 64 << 20, ..GENEROUS };
        let seen = read(Side::Produce, Wish::Records(budget), bytes.len() as u64, &[Piece::Data(&bytes)]);
        let end = seen.ends()[0];
        assert_eq!((end.outcome, end.checksum), (Outcome::Refused(Refusal::Output), None), "{codec:?}");
        assert!(end.work <= bytes.len() as u64 + budget.output, "{codec:?} {}", end.work);
    }
}

#[test]
fn uncompressed_batches_have_a_budget_as_well() {
    let bytes = encode::Batch::new(0, Codec::None, encode::records([vec![0; 5000]])).write();
    let wish = Wish::Records(Budget { output: 4000, ..GENEROUS });
    let seen = read(Side::Produce, wish, bytes.len() as u64, &[Piece::Data(&bytes)]);
    assert_eq!((seen.outcomes(), seen.ends()[0].work), (vec![Outcome::Refused(Refusal::Output)], 0));
    let bytes = encode::Batch::new(0, Codec::Gzip, encode::records([prose(5000)])).write();
    let wish = Wish::Records(Budget { input: 500, ..GENEROUS });
    let seen = read(Side::Produce, wish, bytes.len() as u64, &[Piece::Data(&bytes[..500]), Piece::Data(&bytes[500..])]);
    assert_eq!((seen.outcomes(), seen.ends()[0].work), (vec![Outcome::Refused(Refusal::Input)], 0));
}

#[test]
fn a_window_is_refused_before_it_is_made() {
    // Windows of 16 MiB and of 3.75 TiB, and one block of one byte.
    for (window, allowed) in [(13 << 3, false), (31 << 3 | 7, false), (12 << 3, true)] {
        let frame = [&0xfd2f_b528u32.to_le_bytes()[..], &[0, window], &[0x09, 0, 0, b'x']].concat();
        let expected = if allowed { (b"x".to_vec(), Ok(())) } else { (Vec::new(), Err(Refusal::Memory.into())) };
        let memory = Budget { memory: 4 << 20, ..GENEROUS };
        assert_eq!(expand(Codec::Zstd, &frame, &memory), expected, "{window:x}");
    }
    // One segment that says it has more than may come out, and one of declared 2^60 bytes.
    let frame = [&0xfd2f_b528u32.to_le_bytes()[..], &[0xa0], &(2u32 << 20).to_le_bytes(), &[0x09, 0, 0, b'x']].concat();
    let output = Budget { output: 1 << 20, ratio: u64::MAX, ..GENEROUS };
    assert_eq!(expand(Codec::Zstd, &frame, &output), (Vec::new(), Err(Refusal::Output.into())));
    let frame = [&0xfd2f_b528u32.to_le_bytes()[..], &[0xe0], &(1u64 << 60).to_le_bytes(), &[0x09, 0, 0, b'x']].concat();
    assert_eq!(expand(Codec::Zstd, &frame, &GENEROUS).1, Err(Refusal::Memory.into()));
}

#[test]
fn what_a_sender_declares_is_not_believed() {
    // Snappy: 4 GiB of a few bytes.
    let snappy = [&[0xff, 0xff, 0xff, 0xff, 0x0f][..], &[0; 20]].concat();
    assert_eq!(expand(Codec::Snappy, &snappy, &GENEROUS), (Vec::new(), Err(Failure::Malformed)));
    // A block behind the end.
    let mut blocks = xerial(&prose(1000), 1000);
    blocks[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(expand(Codec::Snappy, &blocks, &GENEROUS).1, Err(Failure::Malformed));
    // LZ4: a block larger than the frame allows, one that is cut off, a size that is none.
    let frame = |sizes: u8, block: &[u8]| {
        let length = (block.len() as u32).to_le_bytes();
        [&0x184d_2204u32.to_le_bytes()[..], &[0x60, sizes, 0], &length, block, &[0; 4]].concat()
    };
    let large = [&[0x1f, 0, 1, 0][..], &[255; 300], &[0, 0x10, 0]].concat();
    assert_eq!(expand(Codec::Lz4, &frame(0x40, &large), &GENEROUS).1, Err(Failure::Malformed));
    let (made, result) = expand(Codec::Lz4, &frame(0x70, &large), &Budget { ratio: 300, ..GENEROUS });
    assert!(result == Ok(()) && made == [0; 300 * 255 + 21], "{} {result:?}", made.len());
    assert_eq!(expand(Codec::Lz4, &frame(0x70, &large[..200]), &GENEROUS).1, Err(Failure::Malformed));
    assert_eq!(expand(Codec::Lz4, &frame(0x30, &[0x10, 0]), &GENEROUS).1, Err(Failure::Malformed));
}

#[test]
fn half_a_stream_is_malformed_but_not_nothing() {
    let plain = prose(300_000);
    for (codec, stream, some) in [
        (Codec::Gzip, compress(Codec::Gzip, &plain), true),
        (Codec::Snappy, xerial(&plain, 32 << 10), true),
        (Codec::Lz4, lz4(&plain, BlockMode::Linked), true),
        (Codec::Snappy, snappy(&plain), false),
        (Codec::Zstd, compress(Codec::Zstd, &plain), false),
    ] {
        let (made, result) = expand(codec, &stream[..stream.len() / 2], &GENEROUS);
        assert_eq!((result, made.is_empty()), (Err(Failure::Malformed), !some), "{codec:?}");
        assert!(plain.starts_with(&made), "{codec:?}");
    }
}

#[test]
fn a_sink_may_have_enough() {
    let plain = prose(100_000);
    for codec in CODECS {
        let mut had = 0;
        let (made, result) = Scratch::default().decompress(codec, &compress(codec, &plain), &GENEROUS, |bytes| {
            had += bytes.len();
            ControlFlow::Break(())
        });
        assert_eq!((result, made), (Err(Failure::Stopped), had as u64), "{codec:?}");
    }
}
