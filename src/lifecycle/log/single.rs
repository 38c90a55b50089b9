//! Messages of a log that have a life of their own, because their trace is sampled.

use std::rc::Rc;

use super::super::transition::{Observer, Transition};
use super::chain::Extent;
use super::gaps::Gaps;
use crate::protocol::operation::TraceContext;
use crate::protocol::operation::log::{Batch, Part};

/// A message that is followed by itself.
#[derive(Debug)]
pub(super) struct Single {
    /// The context that it brought.
    pub context: TraceContext,
    _alive: Rc<()>,
}

/// Those that are followed by themselves now.
#[derive(Debug, Default)]
pub(super) struct Singles {
    alive: Rc<()>,
}

impl Singles {
    /// So many. Further ones are followed with their neighbours.
    const MOST: usize = 65_536;

    /// Another one, if there is room.
    pub fn add(&self, context: &TraceContext) -> Option<Rc<Single>> {
        let has_room = Rc::strong_count(&self.alive) <= Self::MOST;
        has_room.then(|| Rc::new(Single { context: *context, _alive: self.alive.clone() }))
    }
}

/// Tells a line of a batch's messages, and of those that are told of singly each on its own. With offsets, in their order; without,
/// those that nothing tells apart come first.
pub(super) fn tell<'a>(line: &Transition<'a>, batch: &'a Batch, observer: &mut dyn Observer) {
    let mut line = *line;
    line.attributes.batches = std::slice::from_ref(batch);
    if batch.traced.is_none() {
        return observer.transition(&line);
    }
    let placed = line.attributes.offsets.is_some();
    let mut tell = |part: &Part<'a>, count: u64| {
        line.count = count;
        line.attributes.trace = part.trace;
        line.attributes.offsets = placed.then_some((part.first, part.last));
        observer.transition(&line);
        // The batch is told of once.
        line.attributes.batches = &[];
        line.attributes.body_size = None;
    };
    let parts = batch.parts();
    if placed {
        return parts.iter().for_each(|part| tell(part, part.count));
    }
    let (single, others): (Vec<&Part<'a>>, Vec<&Part<'a>>) = parts.iter().partition(|part| part.trace.is_some());
    if let Some(first) = others.first() {
        tell(first, others.iter().map(|part| part.count).sum());
    }
    single.into_iter().for_each(|part| tell(part, 1));
}

/// What is handed out of batches at once, in ranges: each message that is told of singly is one by itself.
pub(super) fn ranges<'a>(extent: Extent, batches: &'a [Batch], gaps: &Gaps) -> Vec<(Extent, Option<&'a TraceContext>)> {
    if batches.iter().all(|batch| batch.traced.is_none()) {
        return vec![(extent, None)];
    }
    let mut ranges: Vec<(Extent, Option<&TraceContext>)> = Vec::new();
    for part in batches.iter().flat_map(Batch::parts).filter(|part| part.last >= extent.first) {
        let asked = asked(&part, extent.first, gaps);
        match (ranges.last_mut(), part.trace) {
            _ if asked.count == 0 => {}
            (Some((before, None)), None) => {
                before.last = asked.last;
                before.count += asked.count;
                before.counted &= asked.counted;
            }
            _ => ranges.push((asked, part.trace)),
        }
    }
    ranges
}

/// What a consumer did not ask for of the first batch is not handed over.
fn asked(part: &Part<'_>, from: i64, gaps: &Gaps) -> Extent {
    let Part { first, last, count, .. } = *part;
    if from <= first {
        return Extent { first, last, count, counted: true };
    }
    let before = gaps.before(count, (first, last), from);
    Extent { first: from, last, count: count - before.count, counted: before.counted }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::operation::log::Traced;

    fn batch(first: i64, last: i64, traced: &[(u32, u32)]) -> Batch {
        let context = TraceContext { trace_id: [1; 16], span_id: [1; 8], flags: 1 };
        let traced = traced.iter().map(|(delta, place)| Traced { delta: *delta, place: *place, context });
        Batch {
            records: last.abs_diff(first) + 1,
            first,
            last,
            bytes: 100,
            checksum: None,
            sequence: None,
            timestamp: None,
            transactional: false,
            traced: Some(traced.collect()),
            gaps: None,
        }
    }

    fn seen(extent: (i64, i64, u64), batches: &[Batch]) -> Vec<(i64, i64, u64, bool)> {
        let (first, last, count) = extent;
        let extent = Extent { first, last, count, counted: true };
        let of = |(extent, trace): (Extent, Option<&TraceContext>)| {
            (extent.first, extent.last, extent.count, trace.is_some())
        };
        ranges(extent, batches, &Gaps::default()).into_iter().map(of).collect()
    }

    #[test]
    fn single_messages_are_cut_out_and_nothing_else() {
        let batches = [batch(10, 14, &[(0, 0), (3, 3)]), batch(15, 19, &[]), batch(20, 21, &[(0, 0), (1, 1)])];
        let expected = [
            (10, 10, 1, true),
            (11, 12, 2, false),
            (13, 13, 1, true),
            (14, 19, 6, false),
            (20, 20, 1, true),
            (21, 21, 1, true),
        ];
        assert_eq!(seen((10, 21, 12), &batches), expected);
        // Asked from the middle.
        assert_eq!(seen((12, 14, 3), &batches[..1]), [(12, 12, 1, false), (13, 13, 1, true), (14, 14, 1, false)]);
    }

    #[test]
    fn what_compaction_took_is_not_counted() {
        let mut gaps = Gaps::default();
        gaps.add(11, 12);
        gaps.add(16, 18);
        // 10, 13, 14, 15 and 19 are left; 14 has a trace of its own.
        let sparse = [Batch { records: 5, ..batch(10, 19, &[(4, 2)]) }];
        let of = |from, count, gaps: &Gaps| -> Vec<(i64, i64, u64, bool)> {
            let extent = Extent { first: from, last: 19, count, counted: true };
            let of = |(extent, _): (Extent, Option<&TraceContext>)| {
                (extent.first, extent.last, extent.count, extent.counted)
            };
            ranges(extent, &sparse, gaps).into_iter().map(of).collect()
        };
        assert_eq!(of(10, 5, &gaps), [(10, 13, 2, true), (14, 14, 1, true), (15, 19, 2, true)]);
        assert_eq!(of(12, 4, &gaps), [(12, 13, 1, true), (14, 14, 1, true), (15, 19, 2, true)]);
        assert_eq!(of(16, 1, &gaps), [(16, 19, 1, true)]);
        // Nobody knows which they are.
        assert_eq!(of(16, 1, &Gaps::default()), [(16, 19, 1, false)]);
    }

    #[test]
    fn what_contradicts_the_header_is_left_out() {
        for traced in [&[(9, 1)][..], &[(1, 9)], &[(2, 2), (1, 1)], &[(0, 3)]] {
            let batch = batch(0, 4, traced);
            let parts = batch.parts();
            assert_eq!(parts.iter().map(|part| part.count).sum::<u64>(), 5, "{traced:?} {parts:?}");
            assert!(parts.windows(2).all(|two| two[0].last < two[1].first) && parts.iter().all(|part| part.count > 0));
        }
    }

    #[test]
    fn there_are_only_so_many() {
        let singles = Singles::default();
        let context = TraceContext { trace_id: [1; 16], span_id: [1; 8], flags: 1 };
        let mut held: Vec<_> = (0..Singles::MOST).map(|_| singles.add(&context).unwrap()).collect();
        assert!(singles.add(&context).is_none());
        held.pop();
        assert!(singles.add(&context).is_some());
    }
}
