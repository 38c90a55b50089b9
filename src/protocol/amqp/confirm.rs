//! Publish tags: what a broker's ack means is the n-th publish of its channel since confirm.select.
//!
//! Where the counting was seen from its beginning it is exact. After a late join or a gap in the client's frames the number of
//! earlier publishes, the *base*, is unknown; no ack can exceed what was published, so each one gives a lower bound. The bound
//! is taken for the truth when
//!
//! - nothing was published for [`QUIET`] since the last ack: then everything is confirmed; or
//! - the publisher had never more than W publishes outstanding while it was counted, and now the distance between acks and
//!   publishes has moved through all of 0 to W.
//!
//! Both are inferences and say so; an ack beyond the count disproves them, and the search begins anew.

use std::time::Duration;

use crate::time::Timestamp;

/// How long a channel must not have published before what was acked last is taken for all that was published.
const QUIET: Duration = Duration::from_secs(1);
/// Publishes that must have been counted for each one outstanding before the largest number outstanding is believed.
const HISTORY: u64 = 8;

/// What is known of a channel's publish tags.
#[derive(Clone, Debug, Default)]
pub(super) enum Confirms {
    /// No confirms were asked for.
    #[default]
    Off,
    /// Counted from confirm.select.
    Counted(Count),
    /// Confirms may be on, and the base is unknown.
    Unknown(Search),
    /// Counted from an inferred base.
    Inferred(Count),
}

/// A count of publishes, and what its publisher keeps outstanding.
#[derive(Clone, Debug, Default)]
pub(super) struct Count {
    published: u64,
    acked: u64,
    most_outstanding: u64,
}

/// The search for a base.
#[derive(Clone, Debug, Default)]
pub(super) struct Search {
    /// Publishes seen since the search began.
    published: u64,
    /// The largest tag acked since then; 0: none.
    acked: u64,
    /// The largest base that is too small for none of the acks; meaningful once there was one.
    bound: u64,
    /// How far behind the bound the acks have been.
    furthest_behind: u64,
    /// When the last publish was, or the search began.
    quiet_since: Option<Timestamp>,
    /// An ack came after the last publish.
    acked_since: bool,
    /// The publisher's largest number outstanding, from when it was counted.
    window: Option<u64>,
}

/// What an ack of the broker speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// Publishes whose tags were counted.
    Counted,
    /// Publishes whose tags were inferred.
    Inferred,
    /// Publishes whose tags are not known.
    Unmatched,
    /// Nothing: no confirms were asked for.
    Unexpected,
}

impl Confirms {
    /// Of a channel that was not seen from its opening on.
    pub fn unknown() -> Confirms {
        Confirms::Unknown(Search::default())
    }

    /// confirm.select was sent. Repeating it changes nothing.
    pub fn select(&mut self) {
        match self {
            Confirms::Off => *self = Confirms::Counted(Count::default()),
            Confirms::Unknown(search) if search.acked == 0 => *self = Confirms::Counted(Count::default()),
            Confirms::Unknown(_) | Confirms::Counted(_) | Confirms::Inferred(_) => {}
        }
    }

    /// A publish: its tag, if that is known.
    pub fn published(&mut self, time: Timestamp) -> Option<u64> {
        if let Confirms::Unknown(search) = self
            && let Some(count) = search.base(time)
        {
            *self = Confirms::Inferred(count);
        }
        match self {
            Confirms::Off => None,
            Confirms::Counted(count) | Confirms::Inferred(count) => Some(count.publish()),
            Confirms::Unknown(search) => {
                search.publish(time);
                None
            }
        }
    }

    /// The broker answered for `tag` (and with `multiple`, for all before; 0 then means all).
    pub fn answered(&mut self, tag: u64, time: Timestamp) -> Match {
        match self {
            Confirms::Off => Match::Unexpected,
            Confirms::Counted(count) => {
                count.acked = count.acked.max(tag.min(count.published));
                Match::Counted
            }
            Confirms::Inferred(count) if tag > count.published => {
                let mut search = Search { window: count.window(), ..Search::default() };
                search.answer(tag, time);
                *self = Confirms::Unknown(search);
                Match::Unmatched
            }
            Confirms::Inferred(count) => {
                count.acked = count.acked.max(tag);
                Match::Inferred
            }
            Confirms::Unknown(search) => {
                search.answer(tag, time);
                Match::Unmatched
            }
        }
    }

    /// Publishes, or a confirm.select, may have been lost.
    pub fn gap(&mut self, time: Timestamp) {
        let (window, bound) = match self {
            Confirms::Off => (None, 0),
            Confirms::Counted(count) | Confirms::Inferred(count) => (count.window(), count.published),
            Confirms::Unknown(search) => (search.window, search.bound),
        };
        *self = Confirms::Unknown(Search { window, bound, quiet_since: Some(time), ..Search::default() });
    }
}

impl Count {
    fn publish(&mut self) -> u64 {
        self.published += 1;
        self.most_outstanding = self.most_outstanding.max(self.published - self.acked.min(self.published));
        self.published
    }

    /// How many publishes this publisher lets be outstanding, if it was watched for long enough to tell.
    fn window(&self) -> Option<u64> {
        let seen_often = self.most_outstanding > 0 && self.published >= self.most_outstanding.saturating_mul(HISTORY);
        seen_often.then_some(self.most_outstanding)
    }
}

impl Search {
    fn publish(&mut self, time: Timestamp) {
        self.published += 1;
        self.quiet_since = Some(time);
        self.acked_since = false;
        if self.acked > 0 {
            let behind = (self.bound + self.published).saturating_sub(self.acked);
            self.furthest_behind = self.furthest_behind.max(behind);
        }
    }

    fn answer(&mut self, tag: u64, time: Timestamp) {
        self.acked = self.acked.max(tag);
        self.acked_since = true;
        self.quiet_since.get_or_insert(time);
        let bound = self.acked.saturating_sub(self.published);
        if bound > self.bound {
            // What seemed to be outstanding so far was in truth more.
            self.furthest_behind += if self.furthest_behind > 0 { bound - self.bound } else { 0 };
            self.bound = bound;
        }
    }

    /// The count to go on with, if the base can be told before a publish at `time`.
    fn base(&self, time: Timestamp) -> Option<Count> {
        let quiet = self.acked_since && self.quiet_since.is_some_and(|since| time.since(since) >= QUIET);
        let outstanding = (self.bound + self.published).saturating_sub(self.acked);
        let spanned = self.acked > 0 && self.window == Some(self.furthest_behind) && outstanding < self.furthest_behind;
        let published = self.bound + self.published;
        (quiet || spanned).then_some(Count { published, acked: self.acked, most_outstanding: self.window.unwrap_or(0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Timestamp {
        Timestamp(milliseconds * 1_000_000)
    }

    #[test]
    fn counting_begins_with_select_and_goes_on_when_it_is_repeated() {
        let mut confirms = Confirms::default();
        assert_eq!(confirms.published(at(0)), None);
        assert_eq!(confirms.answered(1, at(0)), Match::Unexpected);
        confirms.select();
        assert_eq!(confirms.published(at(0)), Some(1));
        confirms.select();
        assert_eq!(confirms.published(at(0)), Some(2));
        assert_eq!(confirms.answered(2, at(0)), Match::Counted);
    }

    #[test]
    fn a_quiet_second_tells_the_base_of_a_late_join() {
        let mut confirms = Confirms::unknown();
        assert_eq!(confirms.published(at(0)), None);
        assert_eq!(confirms.published(at(1)), None);
        assert_eq!(confirms.answered(41, at(2)), Match::Unmatched);
        assert_eq!(confirms.answered(42, at(3)), Match::Unmatched);
        assert_eq!(confirms.published(at(500)), None, "it may have been outstanding");
        assert_eq!(confirms.answered(43, at(501)), Match::Unmatched);
        assert_eq!(confirms.published(at(1501)), Some(44));
        assert_eq!(confirms.answered(44, at(1502)), Match::Inferred);
    }

    #[test]
    fn an_ack_beyond_the_count_disproves_the_base() {
        let mut confirms = Confirms::unknown();
        confirms.published(at(0));
        confirms.answered(10, at(1));
        assert_eq!(confirms.published(at(1100)), Some(11));
        assert_eq!(confirms.answered(15, at(1101)), Match::Unmatched);
        assert_eq!(confirms.published(at(1102)), None);
        assert_eq!(confirms.answered(16, at(1103)), Match::Unmatched);
        assert_eq!(confirms.published(at(2200)), Some(17));
    }

    #[test]
    fn no_ack_since_the_last_publish_means_no_base() {
        let mut confirms = Confirms::unknown();
        confirms.answered(9, at(0));
        confirms.published(at(1));
        assert_eq!(confirms.published(at(5000)), None);
    }

    #[test]
    fn one_at_a_time_before_a_gap_is_one_at_a_time_behind_it() {
        let mut confirms = Confirms::default();
        confirms.select();
        for tag in 1..=20 {
            assert_eq!(confirms.published(at(tag)), Some(tag));
            assert_eq!(confirms.answered(tag, at(tag)), Match::Counted);
        }
        confirms.gap(at(21));
        assert_eq!(confirms.published(at(22)), None);
        assert_eq!(confirms.answered(31, at(22)), Match::Unmatched);
        assert_eq!(confirms.published(at(23)), None);
        assert_eq!(confirms.answered(32, at(23)), Match::Unmatched);
        assert_eq!(confirms.published(at(24)), Some(33));
        assert_eq!(confirms.answered(33, at(24)), Match::Inferred);
    }

    #[test]
    fn a_window_is_believed_only_when_all_of_it_was_seen() {
        let mut confirms = Confirms::default();
        confirms.select();
        let mut tag = 0;
        for _ in 0..20 {
            (0..5).for_each(|_| {
                assert_eq!(
                    confirms.published(at(0)),
                    Some({
                        tag += 1;
                        tag
                    })
                )
            });
            confirms.answered(tag, at(0));
        }
        confirms.gap(at(1));
        // Always four outstanding when an ack comes: the base stays unknown.
        confirms.published(at(1));
        for acked in 105..120 {
            confirms.answered(acked, at(1));
            assert_eq!(confirms.published(at(1)), None);
        }
        // Now all of them are acked: there were five outstanding just before, and none can be now.
        confirms.answered(124, at(1));
        assert_eq!(confirms.published(at(1)), Some(125));
    }
}
