//! Whatever comes, in whatever pieces.

use super::*;
use proptest::prelude::*;

fn records() -> impl Strategy<Value = Vec<encode::Record>> {
    let bytes = |most| proptest::option::weighted(0.9, proptest::collection::vec(any::<u8>(), 0..most));
    let name = proptest::sample::select(vec!["traceparent", "kafka_original-topic", "__dlq.errors.offset", "other"]);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let text = proptest::option::of(proptest::sample::select(vec![trace, "42", "orders"]));
    let header =
        (name, text).prop_map(|(name, text)| (name.as_bytes().to_vec(), text.map(|text| text.as_bytes().to_vec())));
    let record = (0i32..3, 0i64..1000, bytes(20), bytes(300), proptest::collection::vec(header, 0..3));
    proptest::collection::vec(record, 1..8).prop_map(|records| {
        let mut next = 0;
        let number = |(gap, timestamp_delta, key, value, headers): (i32, i64, Option<_>, Option<_>, Vec<_>)| {
            let offset_delta = next + gap;
            next = offset_delta + 1;
            encode::Record { offset_delta, timestamp_delta, key, value, headers }
        };
        records.into_iter().map(number).collect()
    })
}

fn codec() -> impl Strategy<Value = Codec> {
    proptest::sample::select(&CODECS[..])
}

/// The batches of a response, one behind the other.
fn field() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec((codec(), records(), 0i64..10), 1..5).prop_map(|batches| {
        let mut next = 0;
        let write = |(codec, records, gap): (Codec, Vec<encode::Record>, i64)| {
            let batch = encode::Batch::new(next + gap, codec, records);
            next = batch.base_offset + i64::from(batch.records.last().map_or(0, |record| record.offset_delta)) + 1;
            batch.write()
        };
        batches.into_iter().flat_map(write).collect()
    })
}

/// The bytes in pieces that end at these places; every piece whose number is in `holes` is a hole.
fn cut<'a>(bytes: &'a [u8], ends: &[prop::sample::Index], holes: u32) -> Vec<Piece<'a>> {
    let mut ends: Vec<usize> = ends.iter().map(|end| end.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
    ends.sort_unstable();
    let piece = |(number, ends): (usize, &[usize])| match holes >> number & 1 {
        0 => Piece::Data(&bytes[ends[0]..ends[1]]),
        _ => Piece::Hole((ends[1] - ends[0]) as u64),
    };
    ends.windows(2).enumerate().map(piece).collect()
}

/// Every byte is in a batch or lost.
fn accounted(seen: &Seen, total: u64) -> u64 {
    let inside: u64 = seen.batches().iter().map(|batch| batch.size.min(total - batch.start)).sum();
    inside + seen.lost().iter().map(|lost| lost.bytes).sum::<u64>()
}

/// The records of each batch, by its place.
fn by_batch(seen: &Seen) -> Vec<(Batch, Vec<Kept>)> {
    let mut batches: Vec<(Batch, Vec<Kept>)> = Vec::new();
    for event in &seen.events {
        match event {
            Event::Batch(batch) => batches.push((*batch, Vec::new())),
            Event::Record(record) => batches.last_mut().unwrap().1.push((**record).clone()),
            Event::End(_) | Event::Lost(_) => {}
        }
    }
    batches
}

const TIGHT: Budget = Budget { input: 2000, output: 3000, ratio: 5, memory: 2000 };

proptest! {
    #[test]
    fn any_split_gives_the_same(bytes in field(), ends in proptest::collection::vec(any::<prop::sample::Index>(), 0..12)) {
        let whole = fetched(&bytes);
        prop_assert!(whole.outcomes().iter().all(|outcome| *outcome == Outcome::Read));
        prop_assert_eq!(accounted(&whole, bytes.len() as u64), bytes.len() as u64);
        let cut = read(Side::Fetch, RECORDS, bytes.len() as u64, &cut(&bytes, &ends, 0));
        prop_assert_eq!(cut.events, whole.events);
    }

    #[test]
    fn any_hole_only_removes_knowledge(
        bytes in field(),
        ends in proptest::collection::vec(any::<prop::sample::Index>(), 1..8),
        holes in any::<u32>(),
    ) {
        let total = bytes.len() as u64;
        let whole = by_batch(&fetched(&bytes));
        let pieces = cut(&bytes, &ends, holes);
        let seen = read(Side::Fetch, RECORDS, total, &pieces);
        prop_assert_eq!(accounted(&seen, total), total);
        for (batch, records) in by_batch(&seen) {
            let known = whole.iter().find(|(known, _)| *known == batch);
            prop_assert!(known.is_some_and(|(_, known)| known.starts_with(&records)), "{:?}", batch);
        }
        let missing: u64 = seen.ends().iter().map(|end| end.missing).sum();
        let holes: u64 = pieces.iter().map(|piece| if let Piece::Hole(length) = piece { *length } else { 0 }).sum();
        prop_assert!(missing <= holes);
        // The bytes of a hole cut differently are the same hole.
        let finer: Vec<_> = pieces.iter().flat_map(|piece| match piece {
            Piece::Data(bytes) => bytes.chunks(7).map(Piece::Data).collect::<Vec<_>>(),
            Piece::Hole(length) => vec![Piece::Hole(length / 2), Piece::Hole(length - length / 2)],
        }).collect();
        prop_assert_eq!(read(Side::Fetch, RECORDS, total, &finer).events, seen.events);
    }

    #[test]
    fn bytes_that_were_changed_do_no_harm(
        bytes in field(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        ends in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
        holes in prop_oneof![Just(0), any::<u32>()],
        fetch in any::<bool>(),
    ) {
        let mut bytes = bytes;
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let (total, side) = (bytes.len() as u64, if fetch { Side::Fetch } else { Side::Produce });
        let pieces = cut(&bytes, &ends, holes);
        let seen = read(side, RECORDS, total, &pieces);
        prop_assert_eq!(accounted(&seen, total), total);
        let tight = read(side, Wish::Records(TIGHT), total, &pieces);
        for end in tight.ends() {
            prop_assert!(end.work <= TIGHT.input + Budget::FREE.min(TIGHT.output));
        }
        prop_assert_eq!(tight.batches(), seen.batches());
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(
        head in proptest::collection::vec(any::<u8>(), 0..200),
        magic in 0u8..4,
        codec in 0u8..8,
        length in 0i32..400,
        body in proptest::collection::vec(any::<u8>(), 0..400),
        total in 0u64..1000,
    ) {
        let mut bytes = [&head[..], &[0; 61], &body].concat();
        for (at, byte) in [(16, magic), (17, codec), (22, codec), (10, (length >> 8) as u8), (11, length as u8), (8, 0), (9, 0)] {
            bytes[at] = byte;
        }
        for side in [Side::Produce, Side::Fetch] {
            let seen = read(side, RECORDS, total, &[Piece::Data(&bytes)]);
            prop_assert_eq!(accounted(&seen, total), total);
        }
    }

    #[test]
    fn arbitrary_streams_stay_within_their_budget(
        plain in proptest::collection::vec(prop_oneof![3 => Just(0u8), 1 => any::<u8>()], 0..3000),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        codec in codec(),
    ) {
        let mut stream = encode::compress(codec, &plain);
        stream.push(0);
        for (at, byte) in changes {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        let mut most = 0;
        let (made, _) = Scratch::default().decompress(codec, &stream, &TIGHT, |bytes| {
            most = most.max(bytes.len());
            std::ops::ControlFlow::Continue(())
        });
        prop_assert!(made <= TIGHT.output && most as u64 <= TIGHT.output);
    }
}
