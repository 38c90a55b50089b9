//! Offsets of a partition that hold no message: what compaction took, and the ends of transactions.
//!
//! How many messages lie before an offset inside of a range follows from them, if all that the range lacks are known.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// Of one partition; all that go through it share them.
pub(super) type Shared = Rc<RefCell<Gaps>>;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Gaps {
    /// First and last offset of each, in order; none touches the next.
    ranges: VecDeque<(i64, i64)>,
}

/// A part of the messages of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub count: u64,
    /// It was counted. Else it is what is possible and nearest to the beginning.
    pub counted: bool,
}

impl Gaps {
    /// Ranges that are remembered. Those that are furthest from the one that is added are forgotten.
    const MOST: usize = 512;

    /// Nothing is at these offsets.
    pub fn add(&mut self, first: i64, last: i64) {
        if first > last {
            return;
        }
        let (mut first, mut last) = (first, last);
        let at = self.ranges.partition_point(|(_, end)| end.saturating_add(1) < first);
        while let Some((from, to)) = self.ranges.get(at).copied().filter(|(from, _)| *from <= last.saturating_add(1)) {
            (first, last) = (first.min(from), last.max(to));
            self.ranges.remove(at);
        }
        self.ranges.insert(at, (first, last));
        if self.ranges.len() > Self::MOST {
            if at < Self::MOST / 2 {
                self.ranges.pop_back()
            } else {
                self.ranges.pop_front()
            };
        }
    }

    /// How many offsets of a range are known to hold nothing.
    pub fn within(&self, first: i64, last: i64) -> u64 {
        let from = self.ranges.partition_point(|(_, end)| *end < first);
        let inside = self.ranges.range(from..).take_while(|(begin, _)| *begin <= last);
        inside.map(|(begin, end)| span(*begin.max(&first), *end.min(&last))).sum()
    }

    /// Whether nothing is between two offsets, which may have something.
    pub fn is_empty_between(&self, one: i64, other: i64) -> bool {
        let (first, last) = (one.saturating_add(1), other.saturating_sub(1));
        self.within(first, last) == span(first, last)
    }

    /// How many of `count` messages between two offsets lie before `offset`, which is behind the first and not behind the last.
    pub fn before(&self, count: u64, (first, last): (i64, i64), offset: i64) -> Part {
        let (before, behind) = (span(first, offset.saturating_sub(1)), span(offset, last));
        if before + behind == count {
            return Part { count: before, counted: true };
        }
        if before + behind == count + self.within(first, last) {
            let missing = self.within(first, offset.saturating_sub(1));
            return Part { count: before - missing, counted: true };
        }
        let count = count.saturating_sub(behind).max(before.min(count.saturating_sub(1)));
        Part { count, counted: false }
    }
}

/// How many offsets there are from one to another.
pub(super) fn span(first: i64, last: i64) -> u64 {
    if first > last { 0 } else { last.abs_diff(first).saturating_add(1) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a list of all offsets.
        #[test]
        fn what_is_counted_is_right(
            gaps in prop::collection::vec((0i64..80, 0i64..6), 0..20),
            unknown in prop::collection::vec(0i64..80, 0..2),
            range in (0i64..70, 1i64..30),
            cut in 0i64..30,
        ) {
            let mut known = Gaps::default();
            gaps.iter().for_each(|(first, length)| known.add(*first, first + length));
            let is_gap = |offset: i64| gaps.iter().any(|(first, length)| (*first..=first + length).contains(&offset));
            let (first, last) = (range.0, range.0 + range.1);
            let offset = (first + 1 + cut).min(last);
            prop_assert_eq!(known.within(first, last), (first..=last).filter(|offset| is_gap(*offset)).count() as u64);
            prop_assert!(known.ranges.iter().zip(known.ranges.iter().skip(1)).all(|(one, next)| one.1 + 1 < next.0));
            let held = |offset: &i64| !is_gap(*offset) && !unknown.contains(offset);
            let messages: Vec<i64> = (first..=last).filter(held).collect();
            let part = known.before(messages.len() as u64, (first, last), offset);
            let before = messages.iter().filter(|message| **message < offset).count() as u64;
            prop_assert!(!part.counted || part.count == before, "{} {}", part.count, before);
            let all_known = (first..=last).all(|offset| held(&offset) || is_gap(offset));
            prop_assert!(part.counted || !all_known);
            prop_assert!(part.count <= messages.len() as u64);
        }
    }

    #[test]
    fn those_nearby_are_remembered() {
        let mut gaps = Gaps::default();
        (0..2000).for_each(|number| gaps.add(number * 2, number * 2));
        assert_eq!(gaps.ranges.len(), Gaps::MOST);
        assert_eq!(gaps.within(3900, 3999), 50);
        assert_eq!(gaps.within(0, 100), 0);
        (0..2000).rev().for_each(|number| gaps.add(number * 2, number * 2));
        assert_eq!((gaps.ranges.len(), gaps.within(0, 99)), (Gaps::MOST, 50));
    }
}
