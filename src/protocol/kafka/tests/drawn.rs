//! Bodies drawn from the table, of all versions: a walk tells what was written, however it is cut, and with holes the rest.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::super::encode::{Owner, Told};
use super::*;

#[test]
fn walks_tell_what_was_written() {
    for (message, version, layout) in all() {
        assert_eq!((layout.key(), layout.name(), layout.version()), (message.key, message.name, version));
        for seed in 0..10 {
            let body = draw(table(), message, version, &mut noise(seed));
            let (calls, outcome) = whole(layout, &body.bytes);
            assert_eq!(outcome, Outcome::Complete, "{message:?} {version} {seed}");
            assert_eq!(calls, body.calls, "{message:?} {version} {seed}");
        }
    }
}

#[test]
fn a_walk_takes_its_body_only() {
    for (message, version, layout) in all() {
        let mut body = draw(table(), message, version, &mut noise(7));
        let length = body.bytes.len();
        body.bytes.extend(b"next");
        for hole in [false, true] {
            let mut walk = Walk::new(layout, length as u32);
            let mut recorder = Recorder::default();
            if hole {
                let mut missing = length as u64 + 4;
                assert!(walk.feed_hole(&mut missing, &mut recorder).is_some());
                assert_eq!(missing, 4);
            } else {
                let mut input = &body.bytes[..];
                assert_eq!(walk.feed(&mut input, &mut recorder), Some(Outcome::Complete));
                assert_eq!(input, b"next");
            }
            // It is over, and stays so.
            let before = recorder.calls.len();
            assert!(walk.feed(&mut &b"next"[..], &mut recorder).is_some());
            assert_eq!((walk.left(), recorder.calls.len()), (0, before));
        }
    }
}

/// A body of any message, in any version.
fn any_body() -> impl Strategy<Value = (&'static Layout, Body)> {
    (any::<Index>(), any::<u64>()).prop_map(|(which, seed)| {
        let all = all();
        let (message, version, layout) = all[which.index(all.len())];
        (layout, draw(table(), message, version, &mut noise(seed)))
    })
}

fn places(length: usize, shares: &[Index]) -> Vec<usize> {
    shares.iter().map(|share| share.index(length.max(1))).collect()
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) }
}

proptest! {
    #![proptest_config(config(1500))]

    /// Any cut into pieces: the same calls.
    #[test]
    fn cuts_change_nothing((layout, body) in any_body(), shares in vec(any::<Index>(), 0..12)) {
        let cuts = places(body.bytes.len(), &shares);
        let (calls, outcome) = walk(layout, &body.bytes, &[], &cuts);
        prop_assert_eq!(outcome, Outcome::Complete);
        prop_assert_eq!(calls, body.calls);
    }

    /// Holes cost what they cover: a value that has a byte in one is unknown, all others are as they were written; where a
    /// hole covers what decides about the rest, the rest is not told, and what was before it is.
    #[test]
    fn holes_cost_what_they_cover(
        (layout, body) in any_body(),
        holes in vec((any::<Index>(), 1usize..40), 1..4),
        shares in vec(any::<Index>(), 0..6),
    ) {
        let mut missing = vec![false; body.bytes.len()];
        for (start, length) in &holes {
            let start = start.index(body.bytes.len().max(1));
            missing.iter_mut().skip(start).take(*length).for_each(|byte| *byte = true);
        }
        let cuts = places(body.bytes.len(), &shares);
        let (calls, outcome) = walk(layout, &body.bytes, &missing, &cuts);
        let lost_at = (0..missing.len()).find(|at| missing[*at] && body.owners[*at] == Owner::Structure);
        let mut expected = with_holes(&body, &missing);
        if let Some(lost_at) = lost_at {
            prop_assert_eq!(outcome, Outcome::Lost);
            let told = body.owners[..lost_at].iter().filter_map(|owner| match owner {
                Owner::Call(call) => Some(call + 1),
                _ => None,
            });
            prop_assert!(calls.len() >= told.max().unwrap_or(0));
            let mut calls = calls;
            if expected.iter().any(|call| matches!(call, Call::Secret(..))) || layout.key() == 36 {
                // What may be secret is up to the end then.
                let Some(Call::Secret(from, length)) = calls.pop() else {
                    return Err(TestCaseError::fail("the rest of a login is no secret"));
                };
                prop_assert_eq!(from + length, body.bytes.len() as u64);
            }
            prop_assert!(calls.len() <= expected.len());
            expected.truncate(calls.len());
            prop_assert_eq!(calls, expected);
        } else {
            prop_assert_eq!(outcome, Outcome::Complete);
            prop_assert_eq!(calls, expected);
        }
    }

    /// A body that ends too early is malformed, and one that goes on has something left.
    #[test]
    fn bodies_end_where_they_should((layout, body) in any_body(), at in any::<Index>(), share in any::<Index>()) {
        let end = at.index(body.bytes.len().max(1));
        let (calls, outcome) = walk(layout, &body.bytes[..end], &[], &[share.index(end.max(1))]);
        if !body.bytes.is_empty() {
            prop_assert_eq!(outcome, Outcome::Malformed);
            prop_assert!(calls.len() <= body.calls.len() + 1);
        }
        let longer = [&body.bytes[..], &[0]].concat();
        let (calls, outcome) = walk(layout, &longer, &[], &[end]);
        prop_assert_eq!(outcome, Outcome::Trailing);
        prop_assert_eq!(&calls[..body.calls.len()], &body.calls[..]);
    }
}

/// What is told of a body with these holes, if they cover no structure.
fn with_holes(body: &Body, missing: &[bool]) -> Vec<Call> {
    let mut calls = body.calls.clone();
    let mut in_records = 0;
    for (at, owner) in body.owners.iter().enumerate() {
        let Owner::Call(call) = owner else { continue };
        in_records = if at > 0 && body.owners[at - 1] == *owner { in_records + 1 } else { 0 };
        if missing[at] {
            match &mut calls[*call] {
                Call::Value(_, told) => *told = Told::Unknown,
                Call::Records(bytes) => bytes[in_records] = None,
                other => panic!("{other:?} has bytes"),
            }
        }
    }
    calls
}
