//! How many messages get a trace for what became of them: a backlog makes every message slow, a storm makes every message
//! fail, and neither may make the agent cost several times as much.

use crate::time::Timestamp;

use super::ids;

/// A share of the identities that follows the demand, one second behind it, so that all lines of a message nearly always
/// agree.
#[derive(Debug)]
pub(super) struct Budget {
    per_second: u64,
    second: u64,
    demanded: u64,
    admitted: u64,
    threshold: u64,
    refused: u64,
}

impl Budget {
    pub(super) fn new(per_second: u64) -> Budget {
        Budget { per_second, second: 0, demanded: 0, admitted: 0, threshold: 0, refused: 0 }
    }

    /// Whether a line with this randomness gets its spans.
    pub(super) fn admits(&mut self, time: Timestamp, randomness: u64) -> bool {
        let second = time.0 / 1_000_000_000;
        if second > self.second {
            let share = match second - self.second {
                1 if self.demanded > self.per_second => self.per_second as f64 / self.demanded as f64,
                _ => 1.0,
            };
            *self = Budget { threshold: ids::threshold(share), second, demanded: 0, admitted: 0, ..*self };
        }
        self.demanded += 1;
        // Before the share is known, and where it grows too fast, the second's budget ends sharply.
        let admitted = ids::reaches(randomness, self.threshold) && self.admitted < 2 * self.per_second;
        self.admitted += u64::from(admitted);
        self.refused += u64::from(!admitted);
        admitted
    }

    /// Lines that got none so far.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(budget: &mut Budget, second: u64, lines: u64) -> Vec<u64> {
        let randomness = |line: u64| line.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8;
        let time = |line: u64| Timestamp(second * 1_000_000_000 + line);
        (0..lines).filter(|line| budget.admits(time(*line), randomness(*line))).collect()
    }

    #[test]
    fn what_fits_is_admitted_and_of_more_a_share_of_the_identities() {
        let mut budget = Budget::new(1000);
        assert_eq!(second(&mut budget, 10, 900).len(), 900);
        assert_eq!(second(&mut budget, 11, 50_000).len(), 2000, "nobody knew");
        let first = second(&mut budget, 12, 50_000);
        assert!((900..1100).contains(&first.len()), "{}", first.len());
        assert_eq!(first, second(&mut budget, 13, 50_000), "the same identities");
        assert_eq!(budget.refused(), 48_000 + 2 * (50_000 - first.len() as u64));
        assert_eq!(second(&mut budget, 20, 1500).len(), 1500, "it was quiet in between");
    }
}
