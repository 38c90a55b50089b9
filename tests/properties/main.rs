//! What must hold of every conversation, however it is cut, reordered, repeated, or full of holes.

#[path = "../support/amqp.rs"]
mod amqp;
#[path = "../support/conversation.rs"]
mod conversation;
#[path = "../support/follower.rs"]
mod follower;
#[path = "../support/knowledge.rs"]
mod knowledge;
#[path = "../support/owned.rs"]
mod owned;

mod budget;
mod credentials;

use std::collections::BTreeSet;
use std::ops::Range;

use acktrail::protocol::operation::{Gap, Operation};
use conversation::{Side, conversation, converse};
use follower::{Follower, Piece, config, draws, noise, shuffled, whole};
use proptest::collection::vec;
use proptest::prelude::*;

fn follow(starts: [u32; 2], pieces: &[Piece]) -> Vec<Operation> {
    let mut follower = Follower::new(starts, true);
    pieces.iter().for_each(|piece| follower.piece(piece));
    follower.outcome()
}

const CUTS: u32 = 750;
const HOLES: u32 = 2000;
const RECOVERIES: u32 = 1500;
const LATE: u32 = 2000;

proptest! {
    #![proptest_config(config(CUTS))]

    /// Any cut into segments, any order, duplicates and sequence wrap: the same operations.
    #[test]
    fn packets_do_not_matter(draws in draws(60), starts: [u32; 2], seed: u64, near_wrap: bool, polite: bool) {
        let starts = if near_wrap { starts.map(|start| u32::MAX - start % 5000) } else { starts };
        let writes = conversation(&draws, polite);
        let expected = follow([7, 9], &whole(&writes));
        prop_assert!(!expected.iter().any(|operation| matches!(operation, Operation::Trouble(_) | Operation::Gap(_))));
        let found = follow(starts, &shuffled(&writes, &mut noise(seed)));
        let positions = |operation: &Operation| knowledge::without_position(operation);
        let (expected, found): (Vec<_>, Vec<_>) =
            (expected.iter().map(positions).collect(), found.iter().map(positions).collect());
        prop_assert_eq!(found, expected);
    }
}

proptest! {
    #![proptest_config(config(HOLES))]

    /// A hole removes knowledge; it never makes anything up.
    #[test]
    fn holes_only_remove_knowledge(
        draws in draws(60),
        seed: u64,
        holes in vec((any::<bool>(), any::<u16>(), 1u32..3000), 1..4),
        polite: bool,
    ) {
        let (writes, transacted) = converse(&draws, polite);
        let expected = follow([7, 9], &whole(&writes));
        let mut noise = noise(seed);
        let pieces = with_holes(whole(&writes), &holes, &mut noise);
        let found = follow([7, 9], &pieces);
        let client_hole = holes.iter().any(|(client, ..)| *client);
        if let Err(wrong) = knowledge::is_part_of(&found, &expected, client_hole, &transacted) {
            let list = |operations: &[Operation]| operations.iter().map(|one| format!("  {one:?}\n")).collect::<String>();
            let text = format!("{wrong}\nfound:\n{}expected:\n{}", list(&found), list(&expected));
            return Err(TestCaseError::fail(text));
        }
    }
}

/// Takes byte ranges out of the flows. What is left of a cut piece may be smaller or larger packets.
fn with_holes(pieces: Vec<Piece>, holes: &[(bool, u16, u32)], noise: &mut impl FnMut() -> u32) -> Vec<Piece> {
    let total =
        |side: Side| pieces.iter().filter(|piece| piece.side == side).map(|piece| piece.bytes.len()).sum::<usize>();
    let ranges: Vec<(Side, Range<u32>)> = holes
        .iter()
        .map(|(client, place, length)| {
            let side = if *client { Side::Client } else { Side::Broker };
            let start = (total(side) as u64 * u64::from(*place) / 65_536) as u32;
            (side, start..start + length)
        })
        .collect();
    let mut left = Vec::new();
    let mut lost = [0u32; 2];
    for piece in pieces {
        let length = piece.bytes.len();
        let holes: Vec<Range<u32>> =
            ranges.iter().filter(|(side, _)| *side == piece.side).map(|(_, hole)| hole.clone()).collect();
        let missing = |at: usize| holes.iter().any(|hole| hole.contains(&(piece.offset + at as u32)));
        // It changes nowhere but at the ends of a hole: asking for each byte is what takes longest without optimisation.
        let ends = holes.iter().flat_map(|hole| [hole.start, hole.end]).filter_map(|end| end.checked_sub(piece.offset));
        let inside = ends.map(|end| end as usize).filter(|end| (1..length).contains(end));
        let changes: BTreeSet<usize> = inside.filter(|end| missing(*end) != missing(*end - 1)).collect();
        let mut at = 0;
        for end in changes.into_iter().chain([length]) {
            let bytes = &piece.bytes[at..end];
            if missing(at) {
                lost[piece.side as usize] += 1;
            } else {
                let half = if noise().is_multiple_of(3) { noise() as usize % bytes.len().max(1) } else { 0 };
                for (from, bytes) in [(0, &bytes[..half]), (half, &bytes[half..])] {
                    if !bytes.is_empty() {
                        let offset = piece.offset + (at + from) as u32;
                        let lost = lost[piece.side as usize];
                        left.push(Piece { offset, bytes: bytes.to_vec(), lost, ..piece.clone() });
                    }
                }
            }
            at = end;
        }
    }
    left
}

/// Packets behind a hole that may be needed to find the next frame.
const WITHIN: usize = 4;

proptest! {
    #![proptest_config(config(RECOVERIES))]

    /// Behind a hole in what the broker sent everything is known again a few packets later, and how many deliveries the hole
    /// took is told exactly.
    #[test]
    fn what_comes_behind_a_hole_is_known_again(draws in draws(80), place: u16, length in 1u32..3000, seed: u64) {
        // Without the draws that close channels: tags that begin anew are counted by their opening.
        let draws: Vec<_> = draws.into_iter().filter(|[what, ..]| what % 24 != 20).collect();
        let writes = conversation(&draws, false);
        let pieces = whole(&writes);
        let expected = follow([7, 9], &pieces);
        let found = follow([7, 9], &with_holes(pieces.clone(), &[(false, place, length)], &mut noise(seed)));
        let broker: Vec<&Piece> = pieces.iter().filter(|piece| piece.side == Side::Broker).collect();
        let total: usize = broker.iter().map(|piece| piece.bytes.len()).sum();
        let hole_end = (total as u64 * u64::from(place) / 65_536) as u32 + length;
        let behind = broker.iter().filter(|piece| piece.offset >= hole_end).nth(WITHIN);
        let Some(known_from) = behind.map(|piece| u64::from(piece.offset)) else { return Ok(()) };
        let start = (1 << 32) + 9;
        for operation in &expected {
            let Operation::Delivered { channel, tag, end, message, .. } = operation else { continue };
            let again = found.iter().find_map(|other| match other {
                Operation::Delivered { channel: c, tag: t, message, .. } if (c.number, t) == (channel.number, tag) => Some(message),
                _ => None,
            });
            if *end - message.body_size.unwrap_or(0) - 200 > start + known_from {
                prop_assert_eq!(again, Some(message), "{:?}", operation);
            }
        }
        let last = |operations: &[Operation], number| operations.iter().rev().find_map(|operation| match operation {
            Operation::Delivered { channel, tag, .. } if channel.number == number => Some(*tag),
            _ => None,
        });
        let seen = |operations: &[Operation], number| operations.iter().map(|operation| match operation {
            Operation::Delivered { channel, .. } if channel.number == number => 1,
            Operation::Gap(Gap { channel: Some(channel), deliveries: Some(lost), .. }) if channel.number == number => *lost,
            _ => 0,
        }).sum::<u64>();
        for number in 1..=3 {
            if last(&expected, number) == last(&found, number) {
                prop_assert_eq!(seen(&found, number), seen(&expected, number));
            }
        }
    }
}

proptest! {
    #![proptest_config(config(LATE))]

    /// A connection that is joined in the middle is followed from there on, and nothing is made up of what came before.
    #[test]
    fn a_late_join_knows_no_more_and_soon_no_less(draws in draws(80), place: u16, cut: u16, polite: bool) {
        let (writes, transacted) = converse(&draws, polite);
        let mut pieces = whole(&writes);
        let expected = follow([7, 9], &pieces);
        let joined = usize::from(place) % pieces.len();
        pieces.drain(..joined);
        let from = usize::from(cut) % pieces[0].bytes.len();
        pieces[0].bytes.drain(..from);
        pieces[0].offset += from as u32;
        let mut follower = Follower::new([7, 9], false);
        pieces.iter().for_each(|piece| follower.piece(piece));
        let found = follower.outcome();
        if let Err(wrong) = knowledge::is_part_of(&found, &expected, true, &transacted) {
            let list = |operations: &[Operation]| operations.iter().map(|one| format!("  {one:?}\n")).collect::<String>();
            return Err(TestCaseError::fail(format!("{wrong}\nfound:\n{}expected:\n{}", list(&found), list(&expected))));
        }
        let Some(known) = pieces.iter().filter(|piece| piece.side == Side::Broker).nth(WITHIN) else { return Ok(()) };
        let known_from = (1 << 32) + 9 + u64::from(known.offset);
        for operation in &expected {
            let Operation::Delivered { tag, end, message, .. } = operation else { continue };
            if *end - message.body_size.unwrap_or(0) - 200 > known_from {
                let again = found.iter().any(|other| matches!(
                    other,
                    Operation::Delivered { tag: t, message: m, .. } if t == tag && m.identity == message.identity
                ));
                prop_assert!(again, "{operation:?}");
            }
        }
    }
}

#[test]
fn the_number_of_cases_is_told() {
    println!(
        "properties: {CUTS} conversations cut anew, {HOLES} with holes, {RECOVERIES} followed behind one, {LATE} joined late"
    );
}

/// Found by the property above.
#[test]
fn a_number_opened_anew_in_a_hole_tells_its_consumer_once() {
    let draws: Vec<[u16; 4]> = vec![
        [0, 24327, 0, 0],
        [62320, 57876, 0, 0],
        [29170, 0, 0, 0],
        [36173, 19263, 0, 2416],
        [0, 61150, 0, 0],
        [1080, 10245, 44896, 7785],
        [4056, 0, 9843, 13694],
        [16172, 2331, 6894, 0],
        [5016, 5323, 5376, 62161],
        [840, 45952, 6363, 21121],
        [0, 18956, 0, 0],
        [0, 13173, 0, 0],
        [624, 0, 5713, 11229],
        [14416, 27243, 25171, 37223],
        [1176, 5817, 54269, 38698],
        [0, 0, 48638, 21616],
        [40829, 32913, 256, 560],
    ];
    let holes: Vec<(bool, u16, u32)> = vec![(false, 24692, 1252), (true, 7698, 2404)];
    let (writes, transacted) = converse(&draws, false);
    let expected = follow([7, 9], &whole(&writes));
    let mut noise = noise(0);
    let pieces = with_holes(whole(&writes), &holes, &mut noise);
    let found = follow([7, 9], &pieces);
    let client_hole = holes.iter().any(|(client, ..)| *client);
    knowledge::is_part_of(&found, &expected, client_hole, &transacted).unwrap();
}
