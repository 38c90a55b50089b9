//! How records look in a block.

use super::*;
use proptest::prelude::*;

#[test]
fn integers_of_every_length() {
    for value in (0..64).flat_map(|bit| [1u64 << bit, (1u64 << bit) - 1]).chain([u64::MAX]) {
        let mut bytes = Vec::new();
        put(value, &mut bytes);
        assert_eq!(Input { rest: &bytes }.number(), Some(value));
        assert_eq!(Input { rest: &bytes[..bytes.len() - 1] }.number(), None);
        assert_eq!(unzigzag(zigzag(value as i64)), value as i64);
    }
    assert_eq!(Input { rest: &[0xff; 10] }.number(), None, "more than 64 bits");
    assert_eq!(Input { rest: &[0x80; 20] }.number(), None, "endless");
}

#[test]
fn a_busy_connection_costs_few_bytes_besides_its_payload() {
    let mut encoder = Encoder::default();
    let mut out = Vec::new();
    for number in 0..1000u32 {
        let segment = Segment {
            time: Timestamp(1_700_000_000_000_000_000 + u64::from(number) * 20_000),
            cookie: Cookie(77_777),
            direction: Direction::Egress,
            sequence: number.wrapping_mul(200).wrapping_sub(1000),
            acknowledged: number * 25,
            length: 200,
            offset: 0,
            bytes: &[7; 200],
            more: false,
            lost: 0,
        };
        assert!(encoder.encode(&Record::Segment(segment), &mut out).is_ok());
    }
    assert!(out.len() < 1000 * 210, "{} bytes", out.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn arbitrary_bytes_give_records_or_nothing(
        start in 0u8..8,
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0u8..16], 0..300),
    ) {
        let block: Vec<u8> = std::iter::once(start).chain(bytes).collect();
        let mut decoder = Decoder::default();
        let mut at = 0;
        let mut before = 0;
        while let Some(record) = decoder.decode(&block, &mut at) {
            prop_assert!(at > before && at <= block.len());
            if let Record::Segment(segment) = &record {
                prop_assert!(segment.offset as usize + segment.bytes.len() <= segment.length as usize);
            }
            before = at;
        }
        prop_assert!(decoder.known.len() <= block.len() / 9 + 1);
    }
}
