//! One group's way through one partition: which offsets it was handed and has not committed.
//!
//! A *piece* is a range of offsets that have the same fate so far. Pieces are cut where fates part and joined where they meet
//! again, so that a group that keeps up costs a few pieces, however many messages it is behind.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use super::super::message::Moment;
use super::super::party::Party;
use super::super::transition::State;
use super::done::Done;
use super::gaps::{self, Gaps, Part};
use super::lag::Mark;
use super::single::Single;
use super::stalled::Watched;
use crate::stream::ConnectionId;
use crate::time::Timestamp;

/// Messages in a consumer's hands that have had the same fate so far.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    /// Offset of the first.
    pub first: i64,
    /// Offset of the last.
    pub last: i64,
    /// How many there are between the two.
    pub count: u64,
    /// How often the group was handed them, with this time.
    pub delivery: u32,
    /// Dispatched, or Processing.
    pub state: State,
    /// When the broker sent them.
    pub dispatched: Timestamp,
    /// When the application read them.
    pub processing: Moment,
    /// When they came back first.
    pub first_failed: Moment,
    /// The assignment of partitions by which they were handed out.
    pub assignment: u64,
    /// Its count is known, and not only what is possible.
    pub counted: bool,
    /// Whose hands.
    pub holder: Rc<Party>,
    /// It is one message that is followed by itself.
    pub single: Option<Rc<Single>>,
}

/// A range of offsets that holds messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub first: i64,
    pub last: i64,
    pub count: u64,
    /// The count is known, and not only what is possible.
    pub counted: bool,
}

impl Extent {
    /// Takes away what lies before the end of a part of it, or all.
    pub fn take_until(&mut self, last: i64, gaps: &Gaps) -> Part {
        let mut part = Part { count: self.count, counted: self.counted };
        if last < self.last {
            part = gaps.before(self.count, (self.first, self.last), last.saturating_add(1));
            part.counted &= self.counted;
        }
        *self =
            Extent { first: last.saturating_add(1), count: self.count - part.count, counted: part.counted, ..*self };
        part
    }
}

impl Piece {
    /// Cuts off what lies before `offset`, which is inside.
    fn split(&mut self, offset: i64, gaps: &Gaps) -> Piece {
        let Part { count, counted } = gaps.before(self.count, (self.first, self.last), offset);
        self.counted &= counted;
        let head = Piece { last: offset - 1, count, ..self.clone() };
        self.first = offset;
        self.count -= count;
        head
    }

    fn goes_on_as(&self, next: &Piece) -> bool {
        self.last + 1 == next.first
            && self.delivery == next.delivery
            && self.state == next.state
            && self.processing.get().is_some() == next.processing.get().is_some()
            && self.first_failed == next.first_failed
            && self.assignment == next.assignment
            && self.counted == next.counted
            && Rc::ptr_eq(&self.holder, &next.holder)
            && self.single.is_none()
            && next.single.is_none()
    }
}

/// Messages that came back, or will: what their next delivery has to know.
#[derive(Clone, Debug)]
pub(super) struct Before {
    pub first: i64,
    pub last: i64,
    pub state: State,
    pub delivery: u32,
    pub first_failed: Moment,
    pub refetched: bool,
    /// Of some of them that may not be so.
    pub guessed: bool,
    /// Who had them.
    pub holder: Rc<Party>,
}

impl Before {
    /// What somebody has, as it is now.
    fn of(piece: &Piece) -> Before {
        let Piece { first, last, state, delivery, first_failed, ref holder, .. } = *piece;
        let (refetched, guessed, holder) = (false, false, holder.clone());
        Before { first, last, state, delivery, first_failed, refetched, guessed, holder }
    }
}

/// Messages of a range that is handed out now, as far as they have the same past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Delivery {
    pub first: i64,
    pub last: i64,
    /// What they were before; `None`: the group has not seen them.
    pub previous: Option<State>,
    /// How often the group was handed them, with this time.
    pub number: u32,
    /// When they came back first.
    pub first_failed: Moment,
    /// They are still in the same hands: they were only sent again.
    pub refetched: bool,
    /// Of some of them that may not be so.
    pub guessed: bool,
}

/// A message that was copied to another topic.
#[derive(Debug)]
struct Copied {
    offset: i64,
    state: State,
    delivery: Option<u32>,
    first_failed: Moment,
    single: Option<Rc<Single>>,
}

/// How well a message fits a copy that does not say where it comes from, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// It is in the copier's hands.
    Held,
    /// The copier had it, and its delivery failed.
    Failed,
    /// The copier had it and has committed it, not long ago.
    Done,
    /// It is being retried.
    Retrying,
    /// It is dead already.
    DeadLettered,
}

/// What a message was before it was copied.
pub(super) struct Past {
    /// Its state in the group; `None`: it was not seen.
    pub state: Option<State>,
    /// How often the group was handed it.
    pub delivery: Option<u32>,
    /// When it came back first.
    pub first_failed: Moment,
    /// It was followed by itself.
    pub single: Option<Rc<Single>>,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Chain {
    /// In order, none overlapping another.
    open: VecDeque<Piece>,
    /// In order, none overlapping another; only what the group has not been handed again.
    before: VecDeque<Before>,
    /// What was committed, in the order in which it was.
    pub(super) done: VecDeque<Done>,
    /// What was copied elsewhere, and is done here, whatever is committed: offset, state, delivery, first failure.
    copied: VecDeque<Copied>,
    /// What the group has committed: all before it is done.
    pub committed: Option<i64>,
    /// When the group was last heard to say where it stands.
    pub heard: Option<Timestamp>,
    /// Behind the last offset that the group was handed.
    pub reached: Option<i64>,
    /// Where the group stands, for its lag: also as others than its committing members told.
    pub standing: Option<Mark>,
    /// Whether its member goes on.
    pub watched: Watched,
    /// What holds nothing.
    pub gaps: gaps::Shared,
    /// Ranges that were forgotten before they were handed out again. Not yet counted.
    pub forgotten: u64,
}

impl Chain {
    /// Ranges to be handed out again that are remembered. Beyond it the first are forgotten: they come as if for the first time.
    const BEFORE: usize = 1024;
    /// Copied messages that are remembered, should they be copied again.
    const COPIED: usize = 4096;
    /// For so long after a commit what it covers may still be copied: an application must be back for more by then, or others
    /// get what it has (`max.poll.interval.ms`, its default).
    const COPIED_LATE: Duration = Duration::from_secs(300);

    /// The beginning of a way through a partition that lacks these offsets.
    pub fn through(gaps: gaps::Shared) -> Chain {
        Chain { gaps, ..Chain::default() }
    }

    /// Whether an application has, or had last, what is at an offset.
    pub fn is_known_to(&self, party: &Party, offset: i64) -> bool {
        let holds =
            |piece: &Piece| (piece.first..=piece.last).contains(&offset) && piece.holder.is_same_application(party);
        self.open.iter().any(holds) || self.copied.iter().any(|copied| copied.offset == offset)
    }

    /// Whether somebody has what is at an offset.
    pub fn has(&self, offset: i64) -> bool {
        let at = self.open.partition_point(|piece| piece.last < offset);
        self.open.get(at).is_some_and(|piece| piece.first <= offset)
    }

    /// Whether the group has committed what is at an offset, as far as that is remembered.
    pub fn has_done(&self, offset: i64) -> bool {
        self.done.iter().any(|done| (done.first..=done.last).contains(&offset))
    }

    /// Whether a message that was sent over a connection may be what was copied now.
    pub fn standing(&self, offset: i64, connection: ConnectionId, now: Timestamp) -> Option<Standing> {
        let had = |holder: &Party| holder.connection == connection;
        if let Some(copied) = self.copied.iter().find(|copied| copied.offset == offset) {
            let is_retried = copied.state == State::Retrying;
            return Some(if is_retried { Standing::Retrying } else { Standing::DeadLettered });
        }
        let at = self.open.partition_point(|piece| piece.last < offset);
        if self.open.get(at).is_some_and(|piece| piece.first <= offset && had(&piece.holder)) {
            return Some(Standing::Held);
        }
        if self.before.iter().any(|before| (before.first..=before.last).contains(&offset) && had(&before.holder)) {
            return Some(Standing::Failed);
        }
        let is_done = |done: &Done| {
            (done.first..=done.last).contains(&offset) && had(&done.holder) && now.since(done.time) <= Self::COPIED_LATE
        };
        self.done.iter().any(is_done).then_some(Standing::Done)
    }

    /// A message was copied elsewhere: it is in nobody's hands any more. What it was before; `None`: it was copied before, with
    /// no fate that it does not have yet.
    pub fn take_copied(&mut self, offset: i64, state: State) -> Option<Past> {
        let again = self.copied.iter_mut().find(|copied| copied.offset == offset);
        if let Some(again) = again {
            if again.state == State::DeadLettered {
                return None;
            }
            let Copied { state: before, delivery, first_failed, ref single, .. } = *again;
            let past = Past { state: Some(before), delivery, first_failed, single: single.clone() };
            again.state = state;
            return Some(past);
        }
        let past = match self.take(offset, offset).pop() {
            Some(piece) => {
                // Nobody may have committed it when the partition changes hands: then it comes again.
                self.comes_again(Before { state, ..Before::of(&piece) });
                let Piece { state, delivery, first_failed, single, .. } = piece;
                Past { state: Some(state), delivery: Some(delivery), first_failed, single }
            }
            None => self.past_copied(offset, state),
        };
        let Past { delivery, first_failed, ref single, .. } = past;
        self.note_copied(Copied { offset, state, delivery, first_failed, single: single.clone() });
        Some(past)
    }

    /// What a message was that is in nobody's hands when it is copied.
    fn past_copied(&mut self, offset: i64, state: State) -> Past {
        let failed = self.before.iter().position(|before| (before.first..=before.last).contains(&offset));
        if let Some(before) = failed.and_then(|at| self.before.remove(at)) {
            let part = |first, last, state| Before { first, last, state, ..before.clone() };
            let parts = [
                part(before.first, offset - 1, before.state),
                part(offset, offset, state),
                part(offset + 1, before.last, before.state),
            ];
            parts.into_iter().filter(|part| part.first <= part.last).for_each(|part| self.comes_again(part));
            let Before { state, delivery, first_failed, .. } = before;
            return Past { state: Some(state), delivery: Some(delivery), first_failed, single: None };
        }
        let done = self.done.iter().find(|done| (done.first..=done.last).contains(&offset));
        Past {
            state: done.map(|_| State::Acknowledged),
            delivery: done.map(|done| done.delivery),
            first_failed: Moment::default(),
            single: None,
        }
    }

    /// A message that is itself a copy was copied again: what becomes of it is told of the first original.
    pub fn passed_on(&mut self, offset: i64, state: State) {
        match self.copied.iter_mut().find(|copied| copied.offset == offset) {
            Some(again) => again.state = state,
            None => {
                let first_failed = Moment::default();
                self.note_copied(Copied { offset, state, delivery: None, first_failed, single: None });
            }
        }
    }

    fn note_copied(&mut self, copied: Copied) {
        if self.copied.len() >= Self::COPIED {
            self.copied.pop_front();
        }
        self.copied.push_back(copied);
    }

    /// Whether somebody has something of it on another connection.
    pub fn is_held_beyond(&self, connection: ConnectionId) -> bool {
        self.open.iter().any(|piece| piece.holder.connection != connection)
    }

    /// Takes over what is in a consumer's hands elsewhere and not here.
    pub fn absorb(&mut self, other: Chain) {
        for piece in other.open {
            let done = self.committed.is_some_and(|committed| piece.first < committed);
            let known = self.open.iter().any(|own| own.first <= piece.last && piece.first <= own.last);
            if !known && !done {
                self.put(piece);
            }
        }
        self.reached = self.reached.max(other.reached);
    }

    /// Messages are handed out that are in nobody's hands ([`Chain::take`] first). Tells them apart by what became of their last
    /// delivery.
    pub fn deliveries(&mut self, first: i64, last: i64) -> Vec<Delivery> {
        // What was committed before it was seen, or is not remembered any more, was handed out at least once.
        let done = self.committed.is_some_and(|committed| first < committed);
        if self.reached.is_some_and(|reached| first < reached) {
            // Who is handed it again may copy it again.
            let is_retried =
                |copied: &Copied| copied.state == State::Retrying && (first..=last).contains(&copied.offset);
            self.copied.retain(|copied| !is_retried(copied));
        }
        let (number, previous) = if done { (2, Some(State::Acknowledged)) } else { (1, None) };
        let first_failed = Moment::default();
        let new =
            |first, last| Delivery { first, last, previous, number, first_failed, refetched: done, guessed: false };
        let mut found = Vec::new();
        let mut next = first;
        let behind = self.before.back().is_none_or(|before| before.last < first);
        let known = if behind { VecDeque::new() } else { std::mem::take(&mut self.before) };
        for before in known {
            let (from, to) = (before.first.max(first), before.last.min(last));
            if from > to {
                self.before.push_back(before);
                continue;
            }
            if next < from {
                found.push(new(next, from - 1));
            }
            let Before { state, delivery, first_failed, refetched, guessed, .. } = before;
            let (previous, number) = (Some(state), delivery.saturating_add(1));
            found.push(Delivery { first: from, last: to, previous, number, first_failed, refetched, guessed });
            next = to + 1;
            for (first, last) in [(before.first, from - 1), (next, before.last)] {
                if first <= last {
                    self.before.push_back(Before { first, last, ..before.clone() });
                }
            }
        }
        if next <= last {
            found.push(new(next, last));
        }
        self.reached = self.reached.max(Some(last.saturating_add(1)));
        found
    }

    /// What of a range is in nobody's hands, in order.
    pub fn free(&self, first: i64, last: i64) -> Vec<(i64, i64)> {
        let mut free = Vec::new();
        let mut next = first;
        for piece in self.open.iter().filter(|piece| piece.first <= last && piece.last >= first) {
            if next < piece.first {
                free.push((next, piece.first - 1));
            }
            next = piece.last.saturating_add(1);
        }
        if next <= last {
            free.push((next, last));
        }
        free
    }

    /// Adds what was handed out. Nothing of it may be in anybody's hands.
    pub fn put(&mut self, piece: Piece) {
        let at = self.open.partition_point(|other| other.first < piece.first);
        if let Some(before) = at.checked_sub(1).and_then(|at| self.open.get_mut(at))
            && before.goes_on_as(&piece)
        {
            before.last = piece.last;
            before.count += piece.count;
            return;
        }
        self.open.insert(at, piece);
    }

    /// Takes what lies between two offsets out of the consumers' hands.
    pub fn take(&mut self, first: i64, last: i64) -> Vec<Piece> {
        self.cut(first);
        self.cut(last.saturating_add(1));
        let from = self.open.partition_point(|piece| piece.first < first);
        let to = self.open.partition_point(|piece| piece.first <= last);
        self.open.drain(from..to.max(from)).collect()
    }

    /// Takes everything before an offset.
    pub fn take_before(&mut self, offset: i64) -> Vec<Piece> {
        self.take(i64::MIN, offset.saturating_sub(1))
    }

    /// These will come again.
    pub fn failed(&mut self, piece: &Piece, time: Timestamp) {
        let first_failed = piece.first_failed.get().unwrap_or(time).into();
        self.comes_again(Before { state: State::Failed, first_failed, ..Before::of(piece) });
    }

    /// These are sent once more to those who have them.
    pub fn sent_again(&mut self, piece: &Piece) {
        self.comes_again(Before { refetched: true, ..Before::of(piece) });
    }

    /// The group has passed an offset: what failed before it does not come again.
    pub fn committed(&mut self, offset: i64) {
        self.before.retain(|before| before.last >= offset);
        self.committed = Some(offset);
    }

    pub(super) fn comes_again(&mut self, before: Before) {
        let at = self.before.partition_point(|other| other.first < before.first);
        self.before.insert(at, before);
        if self.before.len() > Self::BEFORE {
            self.before.pop_front();
            self.forgotten += 1;
        }
    }

    /// Makes an offset the beginning of a piece, if it is inside one.
    fn cut(&mut self, offset: i64) {
        let at = self.open.partition_point(|piece| piece.last < offset);
        if let Some(piece) = self.open.get_mut(at)
            && piece.first < offset
        {
            let head = piece.split(offset, &self.gaps.borrow());
            self.open.insert(at, head);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Records that were dispatched once.
    pub fn piece(first: i64, last: i64, holder: &Rc<Party>) -> Piece {
        Piece {
            first,
            last,
            count: last.abs_diff(first) + 1,
            delivery: 1,
            state: State::Dispatched,
            dispatched: Timestamp(1),
            processing: Moment::default(),
            first_failed: Moment::default(),
            assignment: 0,
            counted: true,
            holder: holder.clone(),
            single: None,
        }
    }

    fn ranges(chain: &Chain) -> Vec<(i64, i64, u64)> {
        chain.open.iter().map(|piece| (piece.first, piece.last, piece.count)).collect()
    }

    #[test]
    fn neighbours_become_one_piece_and_part_where_they_are_cut() {
        let holder = Party::unknown(ConnectionId(1));
        let mut chain = Chain::default();
        chain.put(piece(0, 9, &holder));
        chain.put(piece(10, 19, &holder));
        assert_eq!(ranges(&chain), [(0, 19, 20)]);
        let taken = chain.take(5, 11);
        assert_eq!(taken.iter().map(|piece| (piece.first, piece.last, piece.count)).collect::<Vec<_>>(), [(5, 11, 7)]);
        assert_eq!(ranges(&chain), [(0, 4, 5), (12, 19, 8)]);
        assert_eq!(chain.take_before(13).len(), 2);
        assert_eq!(ranges(&chain), [(13, 19, 7)]);
        assert!(chain.take(0, 12).is_empty());
    }

    #[test]
    fn what_failed_is_known_when_it_comes_again() {
        let holder = Party::unknown(ConnectionId(1));
        let mut chain = Chain::default();
        chain.put(piece(0, 9, &holder));
        for piece in chain.take(4, 9) {
            chain.failed(&piece, Timestamp(7));
        }
        let new = |first, last| Delivery {
            first,
            last,
            previous: None,
            number: 1,
            first_failed: Moment::default(),
            refetched: false,
            guessed: false,
        };
        let again = |first, last| Delivery {
            previous: Some(State::Failed),
            number: 2,
            first_failed: Timestamp(7).into(),
            ..new(first, last)
        };
        assert_eq!(chain.deliveries(6, 11), [again(6, 9), new(10, 11)]);
        assert_eq!(chain.deliveries(3, 5), [new(3, 3), again(4, 5)]);
        assert_eq!(chain.deliveries(4, 9), [new(4, 9)], "told once");
    }

    #[test]
    fn a_group_that_goes_back_is_handed_again_what_it_had_done() {
        let holder = Party::unknown(ConnectionId(1));
        let mut chain = Chain::default();
        chain.put(piece(0, 9, &holder));
        for piece in chain.take_before(8) {
            chain.done(&piece, Timestamp(7));
        }
        chain.committed(8);
        let again = chain.gone_back(5, Timestamp(7));
        assert_eq!(again.iter().map(|done| (done.first, done.last, done.count)).collect::<Vec<_>>(), [(5, 7, 3)]);
        assert_eq!(chain.committed, Some(5));
        assert_eq!(chain.deliveries(5, 7).iter().map(|delivery| delivery.number).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn gaps_are_shared_out_without_losing_a_message() {
        let holder = Party::unknown(ConnectionId(1));
        for offset in 1..=9 {
            let mut chain = Chain::default();
            chain.put(Piece { count: 4, ..piece(0, 9, &holder) });
            let taken = chain.take_before(offset);
            let sum: u64 = taken.iter().chain(chain.open.iter()).map(|piece| piece.count).sum();
            assert_eq!(sum, 4);
            assert!(taken.iter().all(|piece| piece.count <= piece.last.abs_diff(piece.first) + 1));
        }
    }
}
