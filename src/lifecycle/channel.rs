//! What is outstanding on a channel: deliveries that wait for a settlement, publishes that wait for a confirm.

use std::collections::{BTreeMap, VecDeque};

use crate::names::Name;
use crate::protocol::operation::Tags;
use crate::stream::Position;
use crate::time::Timestamp;

use super::endings::Way;
use super::messages::MessageRef;

/// A delivery in a consumer's hands.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub tag: u64,
    pub message: MessageRef,
    /// Which of the message's chains.
    pub chain: u32,
    /// The chain's number of deliveries with this one: a later one makes this one stale.
    pub attempt: u32,
    pub consumer: Option<Name>,
    pub redelivered: bool,
    /// How often the broker says that it failed before (x-delivery-count of quorum queues).
    pub failures: u32,
    /// Position behind its last byte, in the broker's flow.
    pub end: Position,
    /// A settlement of it may have been lost in a hole.
    pub doubtful: bool,
    /// Whether its consumer settles at all is not known: its start was not seen.
    pub unsure: bool,
    /// Its queue was deleted: it has nowhere to go back to.
    pub queue_gone: bool,
}

/// Entries in ascending order of tag, from which any one can be taken.
#[derive(Debug)]
pub(super) struct Outstanding<T> {
    entries: VecDeque<(u64, Option<T>)>,
    live: usize,
}

impl<T> Default for Outstanding<T> {
    fn default() -> Self {
        Outstanding { entries: VecDeque::new(), live: 0 }
    }
}

impl<T> Outstanding<T> {
    /// Fewer are left alone.
    const LONG: usize = 4096;

    /// How many are outstanding.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.live
    }

    /// Adds one. Tags ascend on the wire; one that does not (after a hole was bridged wrongly) is refused.
    pub fn push(&mut self, tag: u64, value: T) -> Result<(), T> {
        if self.entries.back().is_some_and(|(last, _)| *last >= tag) {
            return Err(value);
        }
        self.entries.push_back((tag, Some(value)));
        self.live += 1;
        Ok(())
    }

    /// Whether there are so many that [`Outstanding::trim`] is due with each push.
    pub fn is_long(&self) -> bool {
        self.entries.len() >= Self::LONG
    }

    /// Forgets the oldest as far as nobody needs them any more, two at a time: one push adds one. Leaves a short one alone.
    pub fn trim(&mut self, is_stale: impl Fn(&T) -> bool) {
        if !self.is_long() {
            return;
        }
        for _ in 0..2 {
            match self.entries.front() {
                Some((_, Some(value))) if is_stale(value) => self.live -= 1,
                Some((_, None)) => {}
                _ => return,
            }
            self.entries.pop_front();
        }
    }

    /// The one with this tag.
    pub fn get(&self, tag: u64) -> Option<&T> {
        self.entries[self.place(tag)?].1.as_ref()
    }

    /// Takes those that a settlement names, in order of their tags.
    pub fn take(&mut self, tags: Tags) -> Vec<T> {
        let taken = match tags {
            Tags::One(tag) => self.take_one(tag).into_iter().collect(),
            Tags::UpTo(last) => {
                let end = self.entries.partition_point(|(tag, _)| *tag <= last);
                self.entries.drain(..end).filter_map(|(_, value)| value).collect()
            }
            Tags::All => self.entries.drain(..).filter_map(|(_, value)| value).collect::<Vec<T>>(),
        };
        if !matches!(tags, Tags::One(_)) {
            self.live -= taken.len();
        }
        taken
    }

    /// Takes those for which this is true.
    pub fn take_if(&mut self, is_wanted: impl Fn(&T) -> bool) -> Vec<T> {
        let wanted = self.entries.iter_mut().filter(|(_, value)| value.as_ref().is_some_and(&is_wanted));
        let taken: Vec<T> = wanted.filter_map(|(_, value)| value.take()).collect();
        self.live -= taken.len();
        self.entries.retain(|(_, value)| value.is_some());
        taken
    }

    /// Takes the one with this tag.
    pub fn take_one(&mut self, tag: u64) -> Option<T> {
        let place = self.place(tag)?;
        let value = self.entries[place].1.take()?;
        self.live -= 1;
        while self.entries.front().is_some_and(|(_, value)| value.is_none()) {
            self.entries.pop_front();
        }
        // A delivery that is never settled must not keep the places of all later ones.
        if self.entries.len() > 64 && self.entries.len() > 4 * self.live {
            self.entries.retain(|(_, value)| value.is_some());
        }
        Some(value)
    }

    /// The last tag.
    pub fn last(&self) -> Option<u64> {
        self.entries.back().map(|(tag, _)| *tag)
    }

    /// How many are outstanding up to a tag.
    pub fn count_to(&self, tag: u64) -> usize {
        let end = self.entries.partition_point(|(other, _)| *other <= tag);
        self.entries.range(..end).filter(|(_, value)| value.is_some()).count()
    }

    /// One for which this is true, among the first `most` behind a tag, and from the beginning on.
    pub fn find(&self, behind: u64, most: usize, is_wanted: impl Fn(&T) -> bool) -> Option<&T> {
        let start = self.entries.partition_point(|(tag, _)| *tag <= behind);
        let (first, then) = (self.entries.range(start..), self.entries.range(..start));
        first.chain(then).take(most).filter_map(|(_, value)| value.as_ref()).find(|value| is_wanted(value))
    }

    /// How many places [`Outstanding::find`] may have to look at.
    pub fn places(&self) -> usize {
        self.entries.len()
    }

    /// All that are outstanding, in order of their tags.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().filter_map(|(_, value)| value.as_ref())
    }

    /// All that are outstanding, to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().filter_map(|(_, value)| value.as_mut())
    }

    fn place(&self, tag: u64) -> Option<usize> {
        // Without gaps the place follows from the first tag.
        let guess = usize::try_from(tag.checked_sub(self.entries.front()?.0)?).ok()?;
        if self.entries.get(guess).is_some_and(|(found, _)| *found == tag) {
            return Some(guess);
        }
        self.entries.binary_search_by_key(&tag, |(found, _)| *found).ok()
    }
}

/// One channel.
#[derive(Debug, Default)]
pub(super) struct Channel {
    pub held: Outstanding<Held>,
    pub unconfirmed: Outstanding<MessageRef>,
    /// The latest publishes without a confirm tag, for a channel close that names one of them.
    recent: VecDeque<MessageRef>,
    /// How many of these, the oldest, a hole in the broker's frames came after.
    recent_before_hole: usize,
    /// Its opening was seen, and all that the broker has sent on it since.
    pub complete: bool,
    /// What its consumers do of which nobody saw whether they settle, by tag.
    habits: BTreeMap<Name, Habit>,
    /// The latest time at which frames of the client were lost, or at which it settled a delivery that was not known. Each
    /// direction is put in order by itself, so a delivery from before may still come.
    pub doubt_until: Option<Timestamp>,
    /// Frames of the broker were lost: a confirm may have been among them.
    pub confirms_doubtful: bool,
    /// Tag of the last publish before they were: a confirm in the hole may have been for it, or for one before it.
    last_before_hole: u64,
    /// The client has asked for everything outstanding again.
    pub recovering: bool,
    /// The broker cancelled a consumer, which ends its deliveries (ack timeout of quorum queues, RabbitMQ ≥ 4.3).
    pub cancelled_by_broker: bool,
    /// Its consumers by their tags: the queue and its number. Bounded by what the session keeps.
    pub consumers: BTreeMap<Name, (Name, u64)>,
    /// Tag of the delivery that was last seen to be in another consumer's hands: the next is likely to be the one behind it.
    pub handed_on: u64,
    /// Where its latest publish led.
    pub way: Option<Way>,
}

/// What a consumer does that began before the capture, so that nobody saw whether it settles.
#[derive(Debug, Default)]
pub(super) struct Habit {
    /// It has settled something.
    pub settles: bool,
    /// Its deliveries so far.
    pub deliveries: u64,
    /// It was concluded that it does not settle.
    pub presumed_automatic: bool,
}

impl Channel {
    const MOST_RECENT: usize = 4096;
    /// Consumers whose habits are watched at most.
    const MOST_HABITS: usize = 1024;

    /// The habit of a consumer that began before the capture; `None` if there are too many of them, and for basic.get, of which
    /// each is free to do otherwise.
    pub fn habit(&mut self, consumer: Option<&Name>) -> Option<&mut Habit> {
        let consumer = consumer?;
        if self.habits.len() >= Self::MOST_HABITS && !self.habits.contains_key(consumer) {
            return None;
        }
        Some(self.habits.entry(consumer.clone()).or_default())
    }

    /// Whether it is certain that a delivery's consumer settles.
    pub fn settles(&self, held: &Held) -> bool {
        !held.unsure
            || held.consumer.as_ref().and_then(|consumer| self.habits.get(consumer)).is_some_and(|habit| habit.settles)
    }

    /// Whether it was concluded that this consumer does not settle.
    pub fn is_presumed_automatic(&self, consumer: Option<&Name>) -> bool {
        !self.habits.is_empty()
            && consumer.and_then(|consumer| self.habits.get(consumer)).is_some_and(|habit| habit.presumed_automatic)
    }

    /// A settlement has named this delivery.
    pub fn was_settled(&mut self, held: &Held) {
        if held.unsure
            && let Some(habit) = self.habit(held.consumer.as_ref())
        {
            *habit = Habit { settles: true, ..Habit::default() };
        }
    }

    /// A settlement has named a delivery that is not known: perhaps one of a consumer of which it was concluded that it does
    /// not settle.
    pub fn was_settled_unseen(&mut self) {
        for habit in self.habits.values_mut() {
            *habit = Habit { settles: habit.settles, ..Habit::default() };
        }
    }

    /// Remembers a publish that no confirm will name.
    pub fn remember(&mut self, message: MessageRef) {
        if self.recent.len() >= Self::MOST_RECENT {
            self.recent.pop_front();
            self.recent_before_hole = self.recent_before_hole.saturating_sub(1);
        }
        self.recent.push_back(message);
    }

    /// The last `publishes` without a tag count from `first` on, as was inferred.
    pub fn learn_tags(&mut self, first: u64, publishes: u64) {
        let known = usize::try_from(publishes).unwrap_or(usize::MAX).min(self.recent.len());
        let Some(first) = first.checked_add(publishes - known as u64) else { return };
        let kept = self.recent.len() - known;
        let before_hole = self.recent_before_hole.saturating_sub(kept) as u64;
        if before_hole > 0 {
            self.last_before_hole = self.last_before_hole.max(first.saturating_add(before_hole - 1));
        }
        self.recent_before_hole = self.recent_before_hole.min(kept);
        let learned = self.recent.split_off(kept);
        for (tag, message) in (first..).zip(learned) {
            // Tags that are known already are later ones; a contradiction is dropped, not guessed at.
            let _ = self.unconfirmed.push(tag, message);
        }
    }

    /// Frames of the broker were lost: confirms, perhaps, and what it took back.
    pub fn missed_broker(&mut self) {
        self.confirms_doubtful = true;
        self.complete = false;
        self.last_before_hole = self.unconfirmed.last().unwrap_or(0).max(self.last_before_hole);
        self.recent_before_hole = self.recent.len();
        if std::mem::take(&mut self.recovering) {
            self.held.iter_mut().for_each(|held| held.doubtful = true);
        }
    }

    /// Of how many publishes that an answer covers, the oldest, another answer may have been lost in a hole. Of the one that
    /// is named none was: the broker answers once.
    pub fn answered_unseen(&self, tags: Tags) -> usize {
        match tags {
            Tags::One(_) => 0,
            Tags::UpTo(tag) => self.published_before_hole(Tags::UpTo(tag.saturating_sub(1))),
            Tags::All => self.published_before_hole(Tags::All),
        }
    }

    /// How many publishes that an answer covers, the oldest, a hole in the broker's frames came after.
    pub fn published_before_hole(&self, tags: Tags) -> usize {
        let last = match tags {
            Tags::One(tag) => return usize::from(tag <= self.last_before_hole),
            Tags::UpTo(tag) => self.last_before_hole.min(tag),
            Tags::All => self.last_before_hole,
        };
        if last == 0 { 0 } else { self.unconfirmed.count_to(last) }
    }

    /// The publishes of this channel whose fate the broker has not told: those without a number, then those with one, the
    /// oldest of each first.
    pub fn untold(&self) -> impl Iterator<Item = MessageRef> {
        self.recent.iter().chain(self.unconfirmed.iter()).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_by_tag_in_any_order() {
        let mut outstanding = Outstanding::default();
        for tag in [1, 2, 5, 6, 9] {
            outstanding.push(tag, tag).unwrap();
        }
        assert_eq!(outstanding.push(9, 9), Err(9));
        assert_eq!(outstanding.take(Tags::One(5)), [5]);
        assert!(outstanding.take(Tags::One(5)).is_empty());
        assert!(outstanding.take(Tags::One(7)).is_empty());
        assert_eq!(outstanding.take(Tags::UpTo(6)), [1, 2, 6]);
        assert_eq!(outstanding.len(), 1);
        assert_eq!(outstanding.take(Tags::All), [9]);
        assert_eq!(outstanding.len(), 0);
    }

    #[test]
    fn what_nobody_needs_any_more_is_trimmed() {
        let mut outstanding = Outstanding::default();
        for tag in 1..100_000u64 {
            outstanding.push(tag, tag).unwrap();
            outstanding.trim(|stale| stale + 100 < tag);
        }
        assert!(outstanding.entries.len() <= Outstanding::<u64>::LONG, "{}", outstanding.entries.len());
        assert_eq!(outstanding.len(), outstanding.iter().count());
        assert_eq!(outstanding.get(99_999 - 100), Some(&(99_999 - 100)));
    }

    #[test]
    fn one_that_stays_does_not_keep_the_places_of_the_others() {
        let mut outstanding = Outstanding::default();
        outstanding.push(1, 1).unwrap();
        for tag in 2..100_000 {
            outstanding.push(tag, tag).unwrap();
            assert_eq!(outstanding.take_one(tag), Some(tag));
        }
        assert!(outstanding.entries.len() <= 128, "{}", outstanding.entries.len());
        assert_eq!(outstanding.get(1), Some(&1));
    }
}
