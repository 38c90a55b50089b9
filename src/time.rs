//! Points in time, as the pure stages see them: handed in with each record, never read from a clock.

use std::time::Duration;

/// Nanoseconds since the UNIX epoch, UTC. The kernel stamps records with its monotonic clock; the capture stage adds the
/// offset of the two clocks, which travels with the records so that a replay shows the same times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The time that passed since `earlier`; zero where `earlier` is later (records of two processors may cross).
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This time and `duration` more, never wrapping.
    pub fn plus(self, duration: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}
