//! Messages of a log that have a life of their own, because their trace is sampled.

use std::rc::Rc;

use super::super::transition::{Observer, Transition};
use super::chain::Extent;
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
pub(super) fn ranges(extent: Extent, batches: &[Batch]) -> Vec<(Extent, Option<&TraceContext>)> {
    if batches.iter().all(|batch| batch.traced.is_none()) {
        return vec![(extent, None)];
    }
    let mut ranges: Vec<(Extent, Option<&TraceContext>)> = Vec::new();
    let parts = batches.iter().flat_map(Batch::parts).filter(|part| part.last >= extent.first);
    for Part { first, last, count, trace } in parts {
        // What a consumer did not ask for of the first batch is not handed over.
        let first = first.max(extent.first);
        let count = count.min(last.abs_diff(first) + 1);
        match (ranges.last_mut(), trace) {
            (Some((before, None)), None) => {
                before.last = last;
                before.count += count;
            }
            _ => ranges.push((Extent { first, last, count }, trace)),
        }
    }
    ranges
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
        }
    }

    fn seen(extent: (i64, i64, u64), batches: &[Batch]) -> Vec<(i64, i64, u64, bool)> {
        let (first, last, count) = extent;
        let of = |(extent, trace): (Extent, Option<&TraceContext>)| {
            (extent.first, extent.last, extent.count, trace.is_some())
        };
        ranges(Extent { first, last, count }, batches).into_iter().map(of).collect()
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
