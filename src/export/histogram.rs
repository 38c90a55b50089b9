//! Histograms of durations with explicit buckets.

use std::time::Duration;

/// The bounds of a histogram: bucket `i` holds durations above bound `i - 1` up to and including bound `i`, the last
/// bucket everything above the last bound.
#[derive(Debug, PartialEq)]
pub struct Bounds {
    /// In seconds, as they are exported.
    pub seconds: &'static [f64],
    nanoseconds: &'static [u64],
}

macro_rules! bounds {
    ($($milliseconds:literal)*) => {
        Bounds {
            seconds: &[$($milliseconds as f64 / 1000.0),*],
            nanoseconds: &[$(($milliseconds as f64 * 1e6) as u64),*],
        }
    };
}

/// The bounds that the semantic conventions prescribe for messaging.client.operation.duration and
/// messaging.process.duration (1.44.0, docs/messaging/messaging-metrics.md).
pub static CONVENTIONS: Bounds = bounds![5 10 25 50 75 100 250 500 750 1000 2500 5000 7500 10000];

/// Ours: a receive buffer holds a message for microseconds, a queue for hours.
pub static WAITING: Bounds =
    bounds![0.1 1 5 10 25 50 100 250 500 1000 2500 5000 10000 30000 60000 300000 1800000 3600000];

/// Buckets of the longest bounds.
const MOST: usize = 19;

/// Counts of durations.
#[derive(Clone, Debug)]
pub struct Histogram {
    bounds: &'static Bounds,
    buckets: [u64; MOST],
    sum_ns: u128,
    least_ns: u64,
    most_ns: u64,
}

impl Histogram {
    /// An empty one.
    pub fn new(bounds: &'static Bounds) -> Histogram {
        debug_assert!(bounds.nanoseconds.len() < MOST);
        Histogram { bounds, buckets: [0; MOST], sum_ns: 0, least_ns: u64::MAX, most_ns: 0 }
    }

    /// Counts `count` durations alike.
    pub fn record(&mut self, duration: Duration, count: u64) {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = self.bounds.nanoseconds.partition_point(|bound| *bound < nanoseconds);
        if let Some(bucket) = self.buckets.get_mut(bucket) {
            *bucket += count;
        }
        self.sum_ns += u128::from(nanoseconds) * u128::from(count);
        self.least_ns = self.least_ns.min(nanoseconds);
        self.most_ns = self.most_ns.max(nanoseconds);
    }

    /// Its bounds.
    pub fn bounds(&self) -> &'static Bounds {
        self.bounds
    }

    /// One count per bound, and one for what is above the last.
    pub fn buckets(&self) -> &[u64] {
        self.buckets.get(..=self.bounds.nanoseconds.len()).unwrap_or_default()
    }

    /// How many durations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Their sum in seconds.
    pub fn sum(&self) -> f64 {
        self.sum_ns as f64 / 1e9
    }

    /// The shortest and the longest in seconds; `None` if there are none.
    pub fn extremes(&self) -> Option<(f64, f64)> {
        (self.least_ns <= self.most_ns).then(|| (self.least_ns as f64 / 1e9, self.most_ns as f64 / 1e9))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_conventions_bounds_are_theirs() {
        let prescribed = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
        assert_eq!(CONVENTIONS.seconds, prescribed);
    }

    #[test]
    fn bounds_rise_fit_and_agree_in_both_units() {
        for bounds in [&CONVENTIONS, &WAITING] {
            assert!(bounds.seconds.windows(2).all(|pair| pair[0] < pair[1]));
            assert!(bounds.seconds.len() < MOST);
            for (seconds, nanoseconds) in bounds.seconds.iter().zip(bounds.nanoseconds) {
                assert_eq!(Duration::from_secs_f64(*seconds), Duration::from_nanos(*nanoseconds));
            }
        }
    }

    proptest! {
        #[test]
        fn every_duration_is_in_the_bucket_whose_bounds_enclose_it(durations in prop::collection::vec((any::<u64>(), 0..63u32, 1..5u64), 1..50)) {
            let mut histogram = Histogram::new(&WAITING);
            let mut expected = vec![0; WAITING.seconds.len() + 1];
            let (mut total, mut sum) = (0, 0.0);
            for (value, shift, count) in durations {
                let duration = Duration::from_nanos(value >> shift);
                histogram.record(duration, count);
                let above = WAITING.seconds.iter().filter(|bound| Duration::from_secs_f64(**bound) < duration).count();
                expected[above] += count;
                total += count;
                sum += duration.as_secs_f64() * count as f64;
            }
            prop_assert_eq!(histogram.buckets(), expected);
            prop_assert_eq!(histogram.count(), total);
            prop_assert!((histogram.sum() - sum).abs() <= sum * 1e-9);
        }
    }
}
