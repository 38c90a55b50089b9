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
//!
//! For a publisher that is never quiet nothing more can be had from the tags. Let a sequence of publishes and acks agree with
//! a base: then it agrees with that base plus one as well. Each ack speaks of the publish before the one it seemed to speak
//! of, which is earlier still, and the latest one is not answered for yet, as under a publisher that lets one more be
//! outstanding. So acks bound the base from below, and from above only knowledge of the publisher does: that it waits
//! (quiet), or how many it lets be outstanding (counted before). A publisher that sends one at a time and one that sends the
//! next but one when it hears of the last look the same. To take one for the other would give a refusal to the wrong message.

use std::time::Duration;

use crate::protocol::operation::Tags;
use crate::time::Timestamp;

/// How long a channel must not have published before what was acked last is taken for all that was published.
const QUIET: Duration = Duration::from_secs(1);
/// Publishes that must have been counted for each one outstanding before the largest number outstanding is believed.
const HISTORY: u64 = 8;
/// Refused tags kept until the base is known.
const MOST_REFUSED: usize = 64;

/// What is known of a channel's publish tags.
#[derive(Clone, Debug, Default)]
pub(super) enum Confirms {
    /// No confirms were asked for.
    #[default]
    Off,
    /// Counted from confirm.select.
    Counted(Count),
    /// Confirms may be on, and the base is unknown.
    Unknown(Box<Search>),
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
    /// Publishes counted before the gap, whether from an inferred base, and up to where they were answered for.
    counted: u64,
    counted_inferred: bool,
    counted_acked: u64,
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
    refused: Vec<Tags>,
}

/// What an answer of the broker speaks of. Neither: no confirms were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// Publishes whose tags are known, and whether they were inferred.
    pub known: Option<(Tags, bool)>,
    /// Publishes whose tags are not known.
    pub unmatched: Option<Tags>,
}

/// A base was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Learned {
    /// The tag of the first publish that had none.
    pub first: u64,
    /// How many had none.
    pub publishes: u64,
    /// The broker has answered for everything up to here.
    pub answered: u64,
    /// What it refused of them.
    pub refused: Vec<Tags>,
}

impl Confirms {
    /// Of a channel that was not seen from its opening on.
    pub fn unknown() -> Confirms {
        Confirms::Unknown(Box::default())
    }

    /// confirm.select was sent. Repeating it changes nothing.
    pub fn select(&mut self) {
        match self {
            Confirms::Off => *self = Confirms::Counted(Count::default()),
            Confirms::Unknown(search) if search.acked == 0 && search.counted == 0 => {
                *self = Confirms::Counted(Count::default());
            }
            Confirms::Unknown(_) | Confirms::Counted(_) | Confirms::Inferred(_) => {}
        }
    }

    /// Infers the base, if that is possible now; to be asked before anything of the channel is handled at `time`.
    pub fn learn(&mut self, time: Timestamp) -> Option<Learned> {
        let Confirms::Unknown(search) = self else { return None };
        if !search.is_base_known(time) {
            return None;
        }
        let learned = Learned {
            first: search.bound + 1,
            publishes: search.published,
            answered: search.acked,
            refused: std::mem::take(&mut search.refused),
        };
        *self = Confirms::Inferred(Count {
            published: search.bound + search.published,
            acked: search.acked,
            most_outstanding: search.window.unwrap_or(0),
        });
        Some(learned)
    }

    /// A publish: its tag, if that is known.
    pub fn published(&mut self, time: Timestamp) -> Option<u64> {
        match self {
            Confirms::Off => None,
            Confirms::Counted(count) | Confirms::Inferred(count) => Some(count.publish()),
            Confirms::Unknown(search) => {
                search.publish(time);
                None
            }
        }
    }

    /// The broker answered for these.
    pub fn answered(&mut self, tags: Tags, refused: bool, time: Timestamp) -> Answer {
        let (Tags::One(tag) | Tags::UpTo(tag)) = tags else { return self.answered_all() };
        match self {
            Confirms::Off => Answer::default(),
            Confirms::Counted(count) => {
                count.acked = count.acked.max(tag.min(count.published));
                Answer { known: Some((tags, false)), unmatched: None }
            }
            Confirms::Inferred(count) if tag > count.published => {
                let mut search = Box::new(Search { window: count.window(), ..Search::default() });
                search.answer(tag, time);
                *self = Confirms::Unknown(search);
                Answer { known: None, unmatched: Some(tags) }
            }
            Confirms::Inferred(count) => {
                count.acked = count.acked.max(tag);
                Answer { known: Some((tags, true)), unmatched: None }
            }
            Confirms::Unknown(search) => search.answered(tags, refused, time),
        }
    }

    /// Publishes, or a confirm.select, may have been lost.
    pub fn gap(&mut self, time: Timestamp) {
        let mut search = match std::mem::take(self) {
            Confirms::Off => Box::default(),
            Confirms::Counted(count) => Box::new(Search::after(&count, false)),
            Confirms::Inferred(count) => Box::new(Search::after(&count, true)),
            Confirms::Unknown(search) => Box::new(Search {
                counted: search.counted,
                counted_inferred: search.counted_inferred,
                counted_acked: search.counted_acked,
                bound: search.bound,
                window: search.window,
                ..Search::default()
            }),
        };
        search.quiet_since = Some(time);
        *self = Confirms::Unknown(search);
    }

    /// Tag 0 and multiple: brokers do not send it, but it has a meaning.
    fn answered_all(&mut self) -> Answer {
        match self {
            Confirms::Off => Answer::default(),
            Confirms::Counted(_) => Answer { known: Some((Tags::All, false)), unmatched: None },
            Confirms::Inferred(_) => Answer { known: Some((Tags::All, true)), unmatched: None },
            Confirms::Unknown(_) => Answer { known: None, unmatched: Some(Tags::All) },
        }
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
    fn after(count: &Count, inferred: bool) -> Search {
        Search {
            counted: count.published,
            counted_inferred: inferred,
            counted_acked: count.acked,
            bound: count.published,
            window: count.window(),
            ..Search::default()
        }
    }

    fn publish(&mut self, time: Timestamp) {
        self.published += 1;
        self.quiet_since = Some(time);
        self.acked_since = false;
        if self.acked > 0 {
            let behind = (self.bound + self.published).saturating_sub(self.acked);
            self.furthest_behind = self.furthest_behind.max(behind);
        }
    }

    /// What was counted before the gap keeps its tags.
    fn answered(&mut self, tags: Tags, refused: bool, time: Timestamp) -> Answer {
        let (Tags::One(tag) | Tags::UpTo(tag)) = tags else { return Answer::default() };
        if tag <= self.counted {
            self.counted_acked = self.counted_acked.max(tag);
            return Answer { known: Some((tags, self.counted_inferred)), unmatched: None };
        }
        self.answer(tag, time);
        if refused && self.refused.len() < MOST_REFUSED {
            self.refused.push(tags);
        }
        let rest = matches!(tags, Tags::UpTo(_)) && self.counted_acked < self.counted;
        let known = rest.then_some((Tags::UpTo(self.counted), self.counted_inferred));
        if rest {
            self.counted_acked = self.counted;
        }
        Answer { known, unmatched: Some(tags) }
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

    fn is_base_known(&self, time: Timestamp) -> bool {
        if self.acked == 0 {
            return false;
        }
        let quiet = self.acked_since && self.quiet_since.is_some_and(|since| time.since(since) >= QUIET);
        let outstanding = (self.bound + self.published).saturating_sub(self.acked);
        quiet || self.window == Some(self.furthest_behind) && outstanding < self.furthest_behind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Timestamp {
        Timestamp(milliseconds * 1_000_000)
    }

    /// A publish as a channel makes it: what can be learned is learned before.
    fn publish(confirms: &mut Confirms, milliseconds: u64) -> Option<u64> {
        confirms.learn(at(milliseconds));
        confirms.published(at(milliseconds))
    }

    fn ack(confirms: &mut Confirms, tag: u64, milliseconds: u64) -> Answer {
        confirms.answered(Tags::One(tag), false, at(milliseconds))
    }

    fn counted(tag: u64) -> Answer {
        Answer { known: Some((Tags::One(tag), false)), unmatched: None }
    }

    fn inferred(tag: u64) -> Answer {
        Answer { known: Some((Tags::One(tag), true)), unmatched: None }
    }

    fn unmatched(tag: u64) -> Answer {
        Answer { known: None, unmatched: Some(Tags::One(tag)) }
    }

    #[test]
    fn counting_begins_with_select_and_goes_on_when_it_is_repeated() {
        let mut confirms = Confirms::default();
        assert_eq!(publish(&mut confirms, 0), None);
        assert_eq!(ack(&mut confirms, 1, 0), Answer::default());
        confirms.select();
        assert_eq!(publish(&mut confirms, 0), Some(1));
        confirms.select();
        assert_eq!(publish(&mut confirms, 0), Some(2));
        assert_eq!(ack(&mut confirms, 2, 0), counted(2));
    }

    #[test]
    fn a_quiet_second_tells_the_base_of_a_late_join() {
        let mut confirms = Confirms::unknown();
        assert_eq!(publish(&mut confirms, 0), None);
        assert_eq!(publish(&mut confirms, 1), None);
        assert_eq!(ack(&mut confirms, 41, 2), unmatched(41));
        assert_eq!(confirms.answered(Tags::One(42), true, at(3)), unmatched(42));
        assert_eq!(publish(&mut confirms, 500), None, "it may have been outstanding");
        assert_eq!(ack(&mut confirms, 43, 501), unmatched(43));
        let learned = Learned { first: 41, publishes: 3, answered: 43, refused: vec![Tags::One(42)] };
        assert_eq!(confirms.learn(at(1501)), Some(learned));
        assert_eq!(publish(&mut confirms, 1502), Some(44));
        assert_eq!(ack(&mut confirms, 44, 1503), inferred(44));
    }

    #[test]
    fn an_ack_beyond_the_count_disproves_the_base() {
        let mut confirms = Confirms::unknown();
        publish(&mut confirms, 0);
        ack(&mut confirms, 10, 1);
        assert_eq!(publish(&mut confirms, 1100), Some(11));
        assert_eq!(ack(&mut confirms, 15, 1101), unmatched(15));
        assert_eq!(publish(&mut confirms, 1102), None);
        assert_eq!(ack(&mut confirms, 16, 1103), unmatched(16));
        assert_eq!(publish(&mut confirms, 2200), Some(17));
    }

    #[test]
    fn no_ack_since_the_last_publish_means_no_base() {
        let mut confirms = Confirms::unknown();
        ack(&mut confirms, 9, 0);
        publish(&mut confirms, 1);
        assert_eq!(publish(&mut confirms, 5000), None);
    }

    #[test]
    fn what_was_counted_before_a_gap_keeps_its_tags() {
        let mut confirms = Confirms::default();
        confirms.select();
        (1..=5).for_each(|tag| assert_eq!(publish(&mut confirms, 0), Some(tag)));
        ack(&mut confirms, 1, 0);
        confirms.gap(at(1));
        publish(&mut confirms, 1);
        assert_eq!(ack(&mut confirms, 2, 1), counted(2));
        let answer = confirms.answered(Tags::UpTo(8), false, at(1));
        assert_eq!(answer, Answer { known: Some((Tags::UpTo(5), false)), unmatched: Some(Tags::UpTo(8)) });
        let answer = confirms.answered(Tags::UpTo(9), false, at(1));
        assert_eq!(answer, Answer { known: None, unmatched: Some(Tags::UpTo(9)) });
    }

    #[test]
    fn one_at_a_time_before_a_gap_is_one_at_a_time_behind_it() {
        let mut confirms = Confirms::default();
        confirms.select();
        for tag in 1..=20 {
            assert_eq!(publish(&mut confirms, tag), Some(tag));
            assert_eq!(ack(&mut confirms, tag, tag), counted(tag));
        }
        confirms.gap(at(21));
        assert_eq!(publish(&mut confirms, 22), None);
        assert_eq!(ack(&mut confirms, 31, 22), unmatched(31));
        assert_eq!(publish(&mut confirms, 23), None);
        assert_eq!(ack(&mut confirms, 32, 23), unmatched(32));
        assert_eq!(publish(&mut confirms, 24), Some(33));
        assert_eq!(ack(&mut confirms, 33, 24), inferred(33));
    }

    #[test]
    fn a_window_is_believed_only_when_all_of_it_was_seen() {
        let mut confirms = Confirms::default();
        confirms.select();
        for batch in 0..20 {
            (1..=5).for_each(|tag| assert_eq!(publish(&mut confirms, 0), Some(batch * 5 + tag)));
            ack(&mut confirms, batch * 5 + 5, 0);
        }
        confirms.gap(at(1));
        // Always four outstanding when an ack comes: the base stays unknown.
        publish(&mut confirms, 1);
        for acked in 105..120 {
            ack(&mut confirms, acked, 1);
            assert_eq!(publish(&mut confirms, 1), None);
        }
        // Now all of them are acked: there were five outstanding just before, and none can be now.
        ack(&mut confirms, 124, 1);
        assert_eq!(publish(&mut confirms, 1), Some(125));
    }
}
