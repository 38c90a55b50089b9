//! Percentiles for the closing table: how long messages of each queue took, and of each topic in each consumer group.

use std::rc::Rc;
use std::time::Duration;

use hashbrown::HashMap;

use super::closing::Percentiles;
use crate::lifecycle::transition::{Event, Observer, Settlement, State, Transition};
use crate::names::Name;

/// Queues beyond this many get no percentiles.
const MOST_QUEUES: usize = 1024;
/// Eight steps per power of two: at most 9 % off.
const STEPS: u32 = 8;
const BUCKETS: usize = (64 * STEPS) as usize;

/// Time from publish to delivery, and from reading to settlement, per queue. A range of a log counts as many messages as it has,
/// with the time of its first.
#[derive(Default)]
pub struct Latencies {
    places: HashMap<Key, usize>,
    queues: Vec<Queue>,
    /// The queue asked for last: mostly it is the next one too.
    last: Option<(Key, usize)>,
}

/// A queue, or a topic and who consumes it.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    place: Name,
    group: Option<Name>,
}

#[derive(Default)]
struct Queue {
    broker: Histogram,
    processing: Histogram,
}

/// Counts by the logarithm of nanoseconds.
#[derive(Default)]
struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Latencies {
    /// Created → Dispatched, and Processing → settled, in this queue or topic, for this group if it is a topic.
    pub fn of(&self, place: &Name, group: Option<&Name>) -> (Option<Percentiles>, Option<Percentiles>) {
        let key = Key { place: place.clone(), group: group.cloned() };
        let queue = self.places.get(&key).and_then(|number| self.queues.get(*number));
        queue.map_or((None, None), |queue| (queue.broker.percentiles(), queue.processing.percentiles()))
    }

    fn queue(&mut self, place: &Name, group: Option<&Name>) -> Option<&mut Queue> {
        let is_last = |last: &Key| {
            let same_group = match (&last.group, group) {
                (Some(last), Some(group)) => Rc::ptr_eq(last, group),
                (last, group) => last.is_none() && group.is_none(),
            };
            Rc::ptr_eq(&last.place, place) && same_group
        };
        let last = self.last.as_ref().filter(|(last, _)| is_last(last)).map(|(_, number)| *number);
        let number = match last {
            Some(number) => number,
            None => {
                let number = self.number(Key { place: place.clone(), group: group.cloned() })?;
                self.queues.resize_with(self.queues.len().max(number + 1), Queue::default);
                number
            }
        };
        self.queues.get_mut(number)
    }

    /// Known, or new if there is room for one.
    fn number(&mut self, key: Key) -> Option<usize> {
        let next = self.places.len();
        let number = match self.places.get(&key) {
            Some(number) => *number,
            None if next < MOST_QUEUES => *self.places.entry(key.clone()).or_insert(next),
            None => return None,
        };
        self.last = Some((key, number));
        Some(number)
    }
}

impl Observer for Latencies {
    fn transition(&mut self, line: &Transition<'_>) {
        let (attributes, timings) = (&line.attributes, &line.timings);
        let Some(place) = attributes.queue.or(attributes.topic) else { return };
        let since = match line.state {
            State::Dispatched if line.delivery == Some(1) => timings.created,
            // What is settled by being sent is not processed before it is settled.
            State::Acknowledged if line.attributes.settlement == Some(Settlement::Automatic) => None,
            State::Acknowledged | State::Rejected | State::Failed => timings.processing,
            _ => None,
        };
        let Some(since) = since else { return };
        let took = line.time.since(since);
        if let Some(queue) = self.queue(place, attributes.group) {
            let histogram = if line.state == State::Dispatched { &mut queue.broker } else { &mut queue.processing };
            histogram.add(took, line.count);
        }
    }

    fn event(&mut self, _: &Event<'_>) {}
}

impl Histogram {
    fn add(&mut self, took: Duration, messages: u64) {
        if self.counts.is_empty() {
            self.counts.resize(BUCKETS, 0);
        }
        let bucket = bucket(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += messages;
            self.total += messages;
        }
    }

    fn percentiles(&self) -> Option<Percentiles> {
        (self.total > 0).then(|| Percentiles { p50: self.percentile(50), p95: self.percentile(95) })
    }

    fn percentile(&self, percent: u64) -> Duration {
        let wanted = self.total.saturating_mul(percent).div_ceil(100);
        let mut passed = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            passed += *count;
            if passed >= wanted {
                return Duration::from_nanos(upper(bucket));
            }
        }
        Duration::MAX
    }
}

fn bucket(nanoseconds: u64) -> usize {
    let value = nanoseconds.max(STEPS.into());
    let power = value.ilog2();
    let step = (value >> (power - STEPS.ilog2())) & u64::from(STEPS - 1);
    (power * STEPS) as usize + step as usize
}

fn upper(bucket: usize) -> u64 {
    let (power, step) = (bucket as u32 / STEPS, bucket as u64 % u64::from(STEPS));
    let unit = 1u64 << power.saturating_sub(STEPS.ilog2()).min(60);
    (u64::from(STEPS) + step + 1).saturating_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_a_step() {
        let mut histogram = Histogram::default();
        for microseconds in 1..=1000 {
            histogram.add(Duration::from_micros(microseconds), 7);
        }
        let found = histogram.percentiles().unwrap();
        for (found, exact) in [(found.p50, 500.0), (found.p95, 950.0)] {
            let ratio = found.as_secs_f64() * 1e6 / exact;
            assert!((1.0..1.13).contains(&ratio), "{found:?} for {exact} us");
        }
    }

    #[test]
    fn every_duration_has_a_bucket() {
        for nanoseconds in [0, 1, 7, 8, 9, 1 << 40, u64::MAX] {
            assert!(bucket(nanoseconds) < BUCKETS);
            assert!(nanoseconds >> 60 != 0 || upper(bucket(nanoseconds)) >= nanoseconds);
        }
    }
}
