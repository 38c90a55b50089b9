//! Which messages without trouble get a trace: a share of them, and at most so many a second. A busy broker's hundredth part
//! is more than anybody reads: at 60,000 messages a second it took a quarter of the agent's time.

use std::collections::VecDeque;

use super::ids;
use crate::lifecycle::transition::{State, Transition};
use crate::time::Timestamp;

/// Seconds whose share is remembered, for lines about messages that were created in them; older ones have the oldest's.
const REMEMBERED: usize = 64;

/// A share of the identities. Where it is more than so many a second, it shrinks, one second behind; what is sampled by a
/// smaller share is sampled by a larger one too, so that agents with different loads agree about the rarest.
#[derive(Debug)]
pub(super) struct Chance {
    ratio: f64,
    /// Messages a second; a ratio of 1 means all.
    most: u64,
    /// The ratio's own.
    threshold: u64,
    second: u64,
    /// Messages of this second that the ratio would give a trace.
    created: u64,
    /// Since when which threshold holds.
    since: VecDeque<(Timestamp, u64)>,
}

impl Chance {
    pub(super) fn new(ratio: f64, most: u64) -> Chance {
        let threshold = ids::threshold(ratio);
        let since = VecDeque::from([(Timestamp(0), threshold)]);
        Chance { ratio, most, threshold, second: 0, created: 0, since }
    }

    /// Whether a line's message gets its spans whatever becomes of it. All lines of a message go by the share that held when it
    /// was created.
    pub(super) fn samples(&mut self, line: &Transition<'_>) -> bool {
        // A line without identity cannot be sampled, because other lines of the same message could not follow.
        let Some(identity) = line.message else { return false };
        let created = line.timings.created.unwrap_or(line.time);
        self.draws(ids::randomness(line, identity), created, (line.state == State::Created).then_some(line.time))
    }

    /// Whether what was created at a time and has this randomness gets its spans; `new`: it counts, at this time, as one more that
    /// is created.
    pub(super) fn draws(&mut self, randomness: u64, created: Timestamp, new: Option<Timestamp>) -> bool {
        if !ids::reaches(randomness, self.threshold) {
            return false;
        }
        if let Some(time) = new
            && self.ratio < 1.0
        {
            self.created(time);
        }
        let holds = self.since.iter().rev().find(|(since, _)| *since <= created).or(self.since.front());
        holds.is_none_or(|(_, threshold)| ids::reaches(randomness, *threshold))
    }

    fn created(&mut self, time: Timestamp) {
        let second = time.0 / 1_000_000_000;
        if second > self.second {
            let share = match second - self.second {
                1 if self.created > self.most => self.most as f64 / self.created as f64,
                _ => 1.0,
            };
            let threshold = ids::threshold(self.ratio * share);
            if self.since.back().is_none_or(|(_, latest)| *latest != threshold) {
                self.since.push_back((Timestamp(second * 1_000_000_000), threshold));
                if self.since.len() > REMEMBERED {
                    self.since.pop_front();
                }
            }
            (self.second, self.created) = (second, 0);
        }
        self.created += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::operation::Identity;

    fn line(state: State, number: u64, created: u64) -> Transition<'static> {
        let identity = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        let mut line = Transition::new(Timestamp(created), state);
        line.message = Some(Identity(identity));
        line.timings.created = Some(line.time);
        line
    }

    /// Messages of one second that get a trace.
    fn second(chance: &mut Chance, second: u64, messages: u64) -> Vec<(u64, u64)> {
        let place = |number: u64| (number, second * 1_000_000_000 + number * 1_000);
        let sampled =
            (0..messages).map(place).filter(|(number, at)| chance.samples(&line(State::Created, *number, *at)));
        sampled.collect()
    }

    #[test]
    fn so_many_a_second_and_all_lines_of_a_message_agree() {
        let mut chance = Chance::new(0.01, 100);
        let quiet = second(&mut chance, 10, 5_000);
        assert!((30..80).contains(&quiet.len()), "{}", quiet.len());
        let burst = second(&mut chance, 11, 100_000);
        assert!((800..1200).contains(&burst.len()), "nobody knew: {}", burst.len());
        let bounded = second(&mut chance, 12, 100_000);
        assert!((60..150).contains(&bounded.len()), "{}", bounded.len());
        assert_eq!(second(&mut chance, 13, 100_000).len(), bounded.len(), "the same identities");
        for (number, created) in quiet.iter().chain(&burst).chain(&bounded) {
            assert!(chance.samples(&line(State::Acknowledged, *number, *created)), "{number} of {created}");
        }
        let settled = (0..100_000)
            .filter(|number| chance.samples(&line(State::Acknowledged, *number, 12_000_000_000 + number * 1_000)));
        assert_eq!(settled.count(), bounded.len(), "and no others");
        second(&mut chance, 20, 1_000);
        let again = second(&mut chance, 21, 5_000);
        assert_eq!(again.len(), quiet.len(), "it was quiet in between");
    }

    #[test]
    fn all_means_all() {
        let mut chance = Chance::new(1.0, 1);
        for at in 1..5 {
            assert_eq!(second(&mut chance, at, 1_000).len(), 1_000);
        }
        assert!(chance.since.len() == 1);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut chance = Chance::new(0.5, 10);
        for at in 0..1_000 {
            second(&mut chance, at, 100 + at % 7 * 50);
        }
        assert!(chance.since.len() <= REMEMBERED);
    }
}
