//! Messages of magic 0 and 1.

use super::encode::{BASE_TIMESTAMP, compress, message};
use super::*;
use crate::protocol::kafka::batches::Loss;

#[test]
fn each_message_is_a_batch_of_one() {
    for magic in [0, 1] {
        let bytes =
            [message(magic, 7, Codec::None, Some(b"key"), Some(b"value")), message(magic, 9, Codec::None, None, None)]
                .concat();
        let seen = fetched(&bytes);
        let [first, second] = seen.batches()[..] else { panic!() };
        let timestamp = if magic == 0 { -1 } else { BASE_TIMESTAMP };
        assert_eq!((first.magic, first.base_offset, first.count, first.base_timestamp), (magic, 7, Some(1), timestamp));
        assert_eq!((first.producer_id, first.leader_epoch, second.last_offset()), (-1, -1, 9));
        let records = seen.records();
        assert_eq!((records[0].key, records[0].value), (Some(digest(b"key")), Some(digest(b"value"))));
        assert_eq!((records[1].key, records[1].value, records[1].offset_delta), (None, None, 0));
        assert_eq!(seen.outcomes(), [Outcome::Read; 2]);
        assert_eq!((seen.ends()[1].base_offset, seen.ends()[1].checksum), (Some(9), None));
    }
}

#[test]
fn wrapped_messages_have_relative_offsets_from_magic_1_on() {
    for (magic, codec) in [0, 1].into_iter().flat_map(|magic| CODECS[1..].iter().map(move |codec| (magic, *codec))) {
        let inner = |offset, value: &[u8]| message(magic, offset, Codec::None, None, Some(value));
        let offsets = if magic == 0 { [98, 99, 101] } else { [0, 1, 3] };
        let messages: Vec<u8> = offsets.into_iter().flat_map(|offset| inner(offset, b"value")).collect();
        let bytes = message(magic, 101, codec, None, Some(&compress(codec, &messages)));
        let seen = fetched(&bytes);
        assert_eq!((seen.batches()[0].count, seen.batches()[0].base_offset), (None, 101));
        let end = seen.ends()[0];
        assert_eq!((end.outcome, end.records), (Outcome::Read, 3), "{magic} {codec:?}");
        let base = end.base_offset.unwrap();
        let real: Vec<_> = seen.records().iter().map(|record| base + record.offset_delta).collect();
        assert_eq!(real, [98, 99, 101]);
        let headers = read(Side::Fetch, Wish::HeadersOnly, bytes.len() as u64, &[Piece::Data(&bytes)]);
        assert_eq!((headers.batches(), headers.ends()[0].base_offset), (seen.batches(), None));
    }
}

#[test]
fn a_wrapper_without_an_offset_has_messages_from_0_on() {
    let inner: Vec<u8> =
        [0, 1].into_iter().flat_map(|offset| message(1, offset, Codec::None, None, Some(b"v"))).collect();
    let seen = produced(&message(1, 0, Codec::Gzip, None, Some(&compress(Codec::Gzip, &inner))));
    assert_eq!((seen.ends()[0].base_offset, seen.outcomes()), (Some(0), vec![Outcome::Read]));
}

#[test]
fn messages_that_lie() {
    let good = message(1, 5, Codec::None, Some(b"key"), Some(b"value"));
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    // The length of the key, and of the value.
    for bytes in [with(29, 200), with(29, 1), with(26, 0x80), with(36, 200), with(36, 1)] {
        assert_eq!(produced(&bytes).outcomes(), [Outcome::Malformed]);
    }
    // The message's own length.
    for length in [21, 255] {
        let lost = produced(&with(11, length)).lost();
        assert_eq!((lost.len(), lost[0].why), (1, Loss::Malformed), "{length}");
    }
}

#[test]
fn wrapped_messages_that_lie() {
    let inner = message(1, 5, Codec::None, Some(b"key"), Some(b"value"));
    let wrap = |messages: &[u8]| message(1, 5, Codec::Gzip, None, Some(&compress(Codec::Gzip, messages)));
    assert_eq!(produced(&wrap(&inner)).outcomes(), [Outcome::Read]);
    let other_magic = message(0, 5, Codec::None, None, None);
    let nested = message(1, 5, Codec::Gzip, None, Some(b"x"));
    let beyond = message(1, 6, Codec::None, None, None);
    for messages in [&[][..], &inner[..20], &[&inner[..], &[0]].concat(), &other_magic, &nested, &beyond] {
        assert_eq!(produced(&wrap(messages)).outcomes(), [Outcome::Malformed], "{messages:?}");
    }
    assert_eq!(produced(&message(1, 5, Codec::Gzip, None, None)).outcomes(), [Outcome::Malformed]);
    assert_eq!(produced(&message(1, 5, Codec::Lz4, None, Some(b"nonsense"))).outcomes(), [Outcome::Malformed]);
}
