//! What walks tell of bodies: written down by hand in `examples`, drawn at random in `drawn`.

mod drawn;
mod examples;
mod hostile;
mod records;
mod sessions;

use super::encode::{Body, Call, Recorder, draw, noise};
use super::{Direction, Field, Kind, Layout, Message, Outcome, Walk, table};

/// The layout of a version of a message.
fn layout(message: &Message, version: i16) -> &'static Layout {
    let found = match message.kind {
        Kind::Request => Layout::find(message.key, Direction::Request, version),
        Kind::Response => Layout::find(message.key, Direction::Response, version),
        Kind::Data => {
            let field = if message.name.ends_with("Assignment") { Field::Assignment } else { Field::Subscription };
            Layout::of_membership(field, &version.to_be_bytes()).map(|(layout, _)| layout)
        }
    };
    found.unwrap()
}

/// All versions of all messages.
fn all() -> Vec<(&'static Message, i16, &'static Layout)> {
    let versions = |message: &'static Message| {
        let versions = message.versions.first..=message.versions.last;
        versions.map(move |version| (message, version, layout(message, version)))
    };
    table().messages().iter().flat_map(versions).collect()
}

/// What a walk tells of a body that comes in pieces. `missing` says which of its bytes do not come; a piece ends at `cuts`,
/// and where a hole begins or ends.
fn walk(layout: &'static Layout, bytes: &[u8], missing: &[bool], cuts: &[usize]) -> (Vec<Call>, Outcome) {
    let mut walk = Walk::new(layout, bytes.len() as u32);
    let mut recorder = Recorder::default();
    let mut outcome = None;
    let is_missing = |at: usize| missing.get(at).copied().unwrap_or(false);
    let mut ends: Vec<bool> = (0..bytes.len()).map(|at| at > 0 && is_missing(at) != is_missing(at - 1)).collect();
    cuts.iter().filter(|cut| **cut < bytes.len()).for_each(|cut| ends[*cut] = true);
    let mut at = 0;
    while at < bytes.len() {
        assert_eq!(outcome, None, "an outcome before the end");
        assert_eq!(walk.left() as usize, bytes.len() - at);
        let end = (at + 1..bytes.len()).find(|place| ends[*place]).unwrap_or(bytes.len());
        if is_missing(at) {
            let mut hole = (end - at) as u64;
            outcome = walk.feed_hole(&mut hole, &mut recorder);
            assert_eq!(hole, 0);
        } else {
            let mut piece = &bytes[at..end];
            outcome = walk.feed(&mut piece, &mut recorder);
            assert!(piece.is_empty());
        }
        assert!(walk.cost() <= 128 << 10, "{}", walk.cost());
        at = end;
    }
    if bytes.is_empty() {
        outcome = walk.feed(&mut &[][..], &mut recorder);
    }
    (recorder.calls, outcome.expect("an outcome at the end"))
}

/// What a walk tells of a body in one piece.
fn whole(layout: &'static Layout, bytes: &[u8]) -> (Vec<Call>, Outcome) {
    walk(layout, bytes, &[], &[])
}
