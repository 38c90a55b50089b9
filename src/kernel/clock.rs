//! The offset between the kernel's monotonic clock, which stamps the records, and UNIX time.

use std::time::Duration;

use crate::capture::wire::ClockOffset;
use crate::time::Timestamp;

/// How often the offset is looked at,
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// and by how much it must have moved to be taken over: smaller steps are the noise of measuring it, and would only make
/// times run backwards.
const TOLERANCE_NS: u64 = 1_000_000;

/// Follows the offset of the two clocks.
pub(super) struct Clock {
    offset: ClockOffset,
    looked_at_ns: u64,
}

impl Clock {
    pub(super) fn new() -> Clock {
        Clock { offset: measure(), looked_at_ns: monotonic_ns() }
    }

    pub(super) fn offset(&self) -> ClockOffset {
        self.offset
    }

    /// The time now, on the records' scale.
    pub(super) fn now(&self) -> Timestamp {
        self.offset.unix(monotonic_ns())
    }

    /// Looks at the clocks if it is time to, and takes over an offset that has really moved: somebody set the clock.
    pub(super) fn refresh(&mut self) {
        let now = monotonic_ns();
        if now.saturating_sub(self.looked_at_ns) < LOOK_EVERY.as_nanos() as u64 {
            return;
        }
        self.looked_at_ns = now;
        let measured = measure();
        if measured.0.abs_diff(self.offset.0) > TOLERANCE_NS {
            self.offset = measured;
        }
    }
}

/// The least disturbed of a few readings: the one whose two monotonic times lie closest together.
fn measure() -> ClockOffset {
    let reading = |_| {
        let before = monotonic_ns();
        let unix = clock_ns(libc::CLOCK_REALTIME);
        let after = monotonic_ns();
        let middle = before + after.saturating_sub(before) / 2;
        (after.saturating_sub(before), unix.wrapping_sub(middle) as i64)
    };
    ClockOffset((0..5).map(reading).min().map_or(0, |(_, offset)| offset))
}

fn monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec.
    unsafe { libc::clock_gettime(clock, &mut time) };
    (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
}
