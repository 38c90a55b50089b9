//! Percentiles for the closing table: how long messages of each queue took.

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

/// Time from publish to delivery, and from reading to settlement, per queue.
#[derive(Default)]
pub struct Latencies {
    places: HashMap<Name, usize>,
    queues: Vec<Queue>,
    /// The queue asked for last: mostly it is the next one too.
    last: Option<(Name, usize)>,
}

#[derive(Default)]
struct Queue {
    broker: Histogram,
    processing: Histogram,
}

/// Counts by the logarithm of nanoseconds.
#[derive(Default)]
struct Histogram {
    counts: Vec<u32>,
    total: u64,
}

impl Latencies {
    /// Created → Dispatched in this queue.
    pub fn broker(&self, queue: &str) -> Option<Percentiles> {
        self.queues.get(*self.places.get(queue)?)?.broker.percentiles()
    }

    /// Processing → settled in this queue.
    pub fn processing(&self, queue: &str) -> Option<Percentiles> {
        self.queues.get(*self.places.get(queue)?)?.processing.percentiles()
    }

    fn queue(&mut self, name: &Name) -> Option<&mut Queue> {
        let known = self.last.as_ref().filter(|(last, _)| Rc::ptr_eq(last, name)).map(|(_, place)| *place);
        let place = match known.or_else(|| self.places.get(name).copied()) {
            Some(place) => place,
            None if self.queues.len() < MOST_QUEUES => {
                self.queues.push(Queue::default());
                self.places.insert(name.clone(), self.queues.len() - 1);
                self.queues.len() - 1
            }
            None => return None,
        };
        if known.is_none() {
            self.last = Some((name.clone(), place));
        }
        self.queues.get_mut(place)
    }
}

impl Observer for Latencies {
    fn transition(&mut self, line: &Transition<'_>) {
        let (Some(name), timings) = (line.attributes.queue, &line.timings) else { return };
        let since = match line.state {
            State::Dispatched if line.delivery == Some(1) => timings.created,
            // What is settled by being sent is not processed before it is settled.
            State::Acknowledged if line.attributes.settlement == Some(Settlement::Automatic) => None,
            State::Acknowledged | State::Rejected | State::Failed => timings.processing,
            _ => None,
        };
        let Some(since) = since else { return };
        let took = line.time.since(since);
        if let Some(queue) = self.queue(name) {
            let histogram = if line.state == State::Dispatched { &mut queue.broker } else { &mut queue.processing };
            histogram.add(took);
        }
    }

    fn event(&mut self, _: &Event<'_>) {}
}

impl Histogram {
    fn add(&mut self, took: Duration) {
        if self.counts.is_empty() {
            self.counts.resize(BUCKETS, 0);
        }
        let bucket = bucket(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        if let Some(count) = self.counts.get_mut(bucket) {
            *count = count.saturating_add(1);
            self.total += 1;
        }
    }

    fn percentiles(&self) -> Option<Percentiles> {
        (self.total > 0).then(|| Percentiles { p50: self.percentile(50), p95: self.percentile(95) })
    }

    fn percentile(&self, percent: u64) -> Duration {
        let wanted = (self.total * percent).div_ceil(100);
        let mut passed = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            passed += u64::from(*count);
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
            histogram.add(Duration::from_micros(microseconds));
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
