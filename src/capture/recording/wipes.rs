//! What must not be kept of the streams in a recording.
//!
//! Wiping is done once for each segment, directly before its block is written: by then everything is known that concerns it,
//! and no segment has to be looked for. What is wiped of a stream piece by piece becomes one stretch, so that a stream of which
//! nothing is understood costs no more than any other.

use std::collections::VecDeque;
use std::ops::Range;

use hashbrown::HashMap;

use crate::capture::{Cookie, Direction};

/// Where a stream's bytes are taken.
pub(super) type Tap = (Cookie, Direction);

/// More taps than this are not remembered: a retransmission of the oldest login is the least likely.
const MOST_TAPS: usize = 1 << 16;
/// A tap's latest wipes are remembered for what is still to come.
const REMEMBERED: usize = 8;
/// Where a tap has more at once, they are widened to what lies between them.
const MOST_PER_TAP: usize = 4096;
/// No wipe grows longer than this by what goes on behind it.
const LONGEST: u64 = 1 << 28;
/// A stream that has gone on so far behind a wipe will not repeat it; its sequence numbers may come round again.
const FAR: u32 = 1 << 30;

/// A stretch of a stream that must not be kept.
#[derive(Clone, Copy, Debug)]
struct Wipe {
    start: u32,
    length: u64,
    /// Number of the last block of which it is certain that it may need it: the one that was being filled when the wipe was
    /// told, or else when it was no longer remembered.
    block: u64,
}

/// Where the bytes of a segment are in the block.
pub(super) struct Stretch {
    pub tap: Tap,
    /// Sequence number of the first byte.
    pub sequence: u32,
    pub at: usize,
    pub length: usize,
}

/// The wipes of all taps.
#[derive(Default)]
pub(super) struct Wipes {
    taps: HashMap<Tap, Known>,
    /// Taps and their turns, the longest without a new wipe first. Where a tap has had another turn since, it says nothing.
    order: VecDeque<(Tap, u64)>,
    turns: u64,
    /// Taps to be forgotten with this block, unless they have another turn.
    leaving: VecDeque<(u64, Tap, u64)>,
    /// The parts of one stretch, kept for its memory.
    parts: Vec<Range<usize>>,
}

/// A tap's wipes.
#[derive(Default)]
struct Known {
    /// The last [`REMEMBERED`] of them concern what is still to come as well. None goes before its block is written.
    wipes: VecDeque<Wipe>,
    /// Number of its last turn.
    turn: u64,
}

impl Wipes {
    /// Adds a stretch of a tap's stream. In memory are the blocks with the numbers from the first to the last of `blocks`.
    pub fn add(&mut self, tap: Tap, start: u32, length: u64, blocks: (u64, u64)) {
        let wipe = Wipe { start, length: length.min(1 << 32), block: blocks.1 };
        let known = self.taps.entry(tap).or_default();
        if !known.add(wipe, blocks) {
            return;
        }
        self.turns += 1;
        known.turn = self.turns;
        self.order.push_back((tap, self.turns));
        while self.taps.len() > MOST_TAPS + self.leaving.len() {
            let Some((oldest, turn)) = self.order.pop_front() else { break };
            self.leave(oldest, Some(turn), blocks.1);
        }
        if self.order.len() > 2 * self.taps.len() + 64 {
            self.order.retain(|(tap, turn)| self.taps.get(tap).is_some_and(|known| known.turn == *turn));
        }
    }

    /// A socket's end was recorded in this block.
    pub fn close(&mut self, cookie: Cookie, block: u64) {
        for direction in [Direction::Egress, Direction::Ingress] {
            self.leave((cookie, direction), None, block);
        }
    }

    /// Overwrites what must not be kept of a stretch in this block, and these parts of it; gives how many bytes.
    pub fn apply(
        &mut self,
        stretch: &Stretch,
        own: impl Iterator<Item = Range<usize>>,
        raw: &mut [u8],
        block: u64,
    ) -> u64 {
        self.parts.clear();
        self.parts.extend(own);
        if let Some(known) = self.taps.get_mut(&stretch.tap) {
            // What is wiped altogether may be forged, and says nothing of how far the stream is.
            let believed = !self.parts.iter().any(|part| part.len() >= stretch.length);
            known.wipes.retain(|wipe| {
                let ahead = stretch.sequence.wrapping_sub(wipe.start);
                wipe.block >= block || !believed || !(FAR..1 << 31).contains(&ahead)
            });
            self.parts.extend(known.wipes.iter().flat_map(|wipe| stretch.covered(*wipe)));
        }
        self.parts.sort_unstable_by_key(|part| part.start);
        let bytes = raw.get_mut(stretch.at..stretch.at + stretch.length).unwrap_or_default();
        let (mut reached, mut wiped) = (0, 0);
        for part in &self.parts {
            let part = part.start.max(reached)..part.end.min(bytes.len());
            if let Some(bytes) = bytes.get_mut(part.clone()) {
                bytes.fill(0);
                wiped += bytes.len() as u64;
                reached = part.end;
            }
        }
        wiped
    }

    /// A block is written: forgets the taps that leave with it.
    pub fn written(&mut self, block: u64) {
        while let Some((_, tap, turn)) = self.leaving.front().copied().filter(|(last, ..)| *last <= block) {
            self.leaving.pop_front();
            if self.taps.get(&tap).is_some_and(|known| known.turn == turn) {
                self.taps.remove(&tap);
            }
        }
    }

    /// Has a tap forgotten with a block, if this is still its turn.
    fn leave(&mut self, tap: Tap, turn: Option<u64>, block: u64) {
        if let Some(known) = self.taps.get(&tap).filter(|known| turn.is_none_or(|turn| turn == known.turn)) {
            self.leaving.push_back((block, tap, known.turn));
        }
    }
}

impl Known {
    /// Adds a wipe; false if it merely goes on with the last one.
    fn add(&mut self, wipe: Wipe, blocks: (u64, u64)) -> bool {
        if self.wipes.back_mut().is_some_and(|last| last.goes_on_with(wipe)) {
            return false;
        }
        if self.wipes.len() < MOST_PER_TAP || !self.wipes.back_mut().is_some_and(|last| last.widen_to(wipe)) {
            self.wipes.push_back(wipe);
            // What has been recorded by now may still have to be wiped with the one that is no longer remembered.
            let forgotten = self.wipes.len().checked_sub(REMEMBERED + 1);
            if let Some(forgotten) = forgotten.and_then(|index| self.wipes.get_mut(index)) {
                forgotten.block = blocks.1;
            }
        }
        while self.wipes.len() > REMEMBERED && self.wipes.front().is_some_and(|oldest| oldest.block < blocks.0) {
            self.wipes.pop_front();
        }
        true
    }
}

impl Wipe {
    /// Whether `next` begins where this one ends; it is added then.
    fn goes_on_with(&mut self, next: Wipe) -> bool {
        let length = self.length + next.length;
        let goes_on = self.start.wrapping_add(self.length as u32) == next.start && length <= LONGEST;
        if goes_on {
            (self.length, self.block) = (length, next.block);
        }
        goes_on
    }

    /// Adds `other` and what lies between, if they are near each other.
    fn widen_to(&mut self, other: Wipe) -> bool {
        let (first, second) = if other.start.wrapping_sub(self.start) < FAR { (*self, other) } else { (other, *self) };
        let ahead = second.start.wrapping_sub(first.start);
        let near = ahead < FAR;
        if near {
            let length = first.length.max(u64::from(ahead) + second.length);
            *self = Wipe { start: first.start, length, block: other.block };
        }
        near
    }
}

impl Stretch {
    /// The part of it that a wipe covers. Sequence numbers wrap: the stretch may begin before the wipe or behind its start. Both
    /// readings count, because a byte too many costs nothing and one too few a password.
    fn covered(&self, wipe: Wipe) -> impl Iterator<Item = Range<usize>> + use<> {
        let ahead = self.sequence.wrapping_sub(wipe.start);
        let near = i64::from(ahead as i32);
        let far = Some(i64::from(ahead)).filter(|far| *far != near);
        let (own, length) = (self.length as i64, wipe.length as i64);
        [Some(near), far].into_iter().flatten().filter_map(move |ahead| {
            let from = ahead.saturating_neg().clamp(0, own);
            let to = length.saturating_sub(ahead).clamp(0, own);
            (from < to).then_some(from as usize..to as usize)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAP: Tap = (Cookie(1), Direction::Egress);

    /// What is left of `length` bytes of 1 at a sequence number, in this block: their places.
    fn left(wipes: &mut Wipes, sequence: u32, length: usize, block: u64) -> Vec<usize> {
        let mut raw = vec![1; length];
        let wiped = wipes.apply(&Stretch { tap: TAP, sequence, at: 0, length }, std::iter::empty(), &mut raw, block);
        let left: Vec<usize> = (0..length).filter(|at| raw[*at] == 1).collect();
        assert_eq!(wiped, (length - left.len()) as u64);
        left
    }

    #[test]
    fn what_goes_on_is_one_wipe_also_where_numbers_come_round() {
        let mut wipes = Wipes::default();
        for piece in 0..1000u32 {
            wipes.add(TAP, (piece * 10).wrapping_sub(50), 10, (0, 0));
        }
        assert_eq!(wipes.taps[&TAP].wipes.len(), 1);
        assert_eq!(left(&mut wipes, u32::MAX - 51, 20, 0), [0, 1]);
        assert_eq!(left(&mut wipes, 9940, 20, 0), (10..20).collect::<Vec<_>>());
    }

    #[test]
    fn none_is_forgotten_before_its_block_is_written() {
        let mut wipes = Wipes::default();
        for number in 0..100 {
            wipes.add(TAP, number * 20, 10, (0, 0));
        }
        wipes.close(TAP.0, 0);
        assert_eq!(left(&mut wipes, 1 << 30, 5, 0).len(), 5, "far ahead, but in the same block");
        assert_eq!(left(&mut wipes, 0, 2000, 0).len(), 1000);
        wipes.written(0);
        assert!(wipes.taps.is_empty());
    }

    /// What was to come when a wipe was told is in memory when the wipe is forgotten.
    #[test]
    fn what_is_in_memory_is_wiped_with_what_is_forgotten_since() {
        let mut wipes = Wipes::default();
        wipes.add(TAP, 0, 30, (0, 0));
        assert!(left(&mut wipes, 0, 10, 0).is_empty());
        wipes.written(0);
        for number in 2..50 {
            wipes.add(TAP, number * 20, 10, (1, 1));
        }
        assert_eq!(left(&mut wipes, 10, 25, 1), [20, 21, 22, 23, 24], "the rest of it is in this block");
        wipes.written(1);
        wipes.add(TAP, 2000, 10, (2, 2));
        assert_eq!(wipes.taps[&TAP].wipes.len(), REMEMBERED + 1, "the last to be forgotten stays for this block");
        assert_eq!(left(&mut wipes, 0, 30, 2).len(), 30);
    }

    #[test]
    fn sequence_numbers_come_round_again() {
        let mut wipes = Wipes::default();
        wipes.add(TAP, 0, 10, (0, 0));
        assert!(left(&mut wipes, 0, 10, 1).is_empty());
        let forged = Stretch { tap: TAP, sequence: 1 << 30, at: 0, length: 5 };
        assert_eq!(wipes.apply(&forged, std::iter::once(0..5), &mut [1; 5], 1), 5);
        assert!(left(&mut wipes, 0, 10, 1).is_empty(), "nobody believed that the stream was there");
        assert_eq!(left(&mut wipes, 1 << 30, 5, 1).len(), 5);
        assert_eq!(left(&mut wipes, 0, 10, 1).len(), 10);
    }

    #[test]
    fn too_many_become_wider_and_none_is_left_out() {
        let mut wipes = Wipes::default();
        let most = MOST_PER_TAP as u32 + 100;
        for number in (0..most).rev() {
            wipes.add(TAP, number * 20, 10, (0, 0));
        }
        assert_eq!(wipes.taps[&TAP].wipes.len(), MOST_PER_TAP);
        let left = left(&mut wipes, 0, most as usize * 20, 0);
        assert!(left.iter().all(|at| at % 20 >= 10));
        assert_eq!(left.len(), (MOST_PER_TAP - 1) * 10 + 10);
    }

    #[test]
    fn taps_are_bounded_but_for_what_is_in_memory() {
        let mut wipes = Wipes::default();
        let tap = |cookie: usize| (Cookie(cookie as u64), Direction::Egress);
        for cookie in 0..MOST_TAPS + 100 {
            wipes.add(tap(cookie), 0, 10, (0, 0));
        }
        // Its turn is now.
        wipes.add(tap(3), 100, 10, (0, 0));
        assert_eq!(wipes.taps.len(), MOST_TAPS + 100);
        wipes.written(0);
        assert!(wipes.taps.contains_key(&tap(3)) && !wipes.taps.contains_key(&tap(4)));
        for _ in 0..1000 {
            wipes.add(tap(5), 0, 10, (1, 1));
        }
        wipes.written(1);
        assert!(wipes.taps.len() <= MOST_TAPS + 1 && wipes.leaving.is_empty());
        assert!(wipes.order.len() <= 2 * wipes.taps.len() + 64);
    }
}
