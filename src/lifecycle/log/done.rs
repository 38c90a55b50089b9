//! What a group has committed, should it go back.

use std::rc::Rc;

use super::super::party::Party;
use super::super::transition::State;
use super::chain::{Before, Chain, Piece};
use super::gaps::Part;
use crate::time::Timestamp;

/// Messages that the group has committed.
#[derive(Clone, Debug)]
pub(super) struct Done {
    pub first: i64,
    pub last: i64,
    pub count: u64,
    pub delivery: u32,
    /// All of that is known of all of them. Else they were more ranges than are remembered, or their count is not known.
    pub counted: bool,
    /// Who had them.
    pub holder: Rc<Party>,
    /// When that was committed, or the last of it.
    pub time: Timestamp,
}

impl Chain {
    /// Committed ranges that are kept apart. Of more, the oldest two are joined: what is told of them later is inferred.
    const DONE: usize = 64;

    /// These are committed.
    pub fn done(&mut self, piece: &Piece, time: Timestamp) {
        let Piece { first, last, count, delivery, counted, ref holder, .. } = *piece;
        if let Some(before) = self.done.back_mut()
            && before.last < first
            && before.delivery == delivery
            && before.counted == counted
            && Rc::ptr_eq(&before.holder, holder)
            && self.gaps.borrow().is_empty_between(before.last, first)
        {
            before.last = last;
            before.count += count;
            before.time = time;
            return;
        }
        self.done.push_back(Done { first, last, count, delivery, counted, holder: holder.clone(), time });
        if self.done.len() > Self::DONE
            && let Some(oldest) = self.done.pop_front()
            && let Some(next) = self.done.front_mut()
        {
            next.join(&oldest);
        }
    }

    /// The group went back to an offset: what it had committed from there on, in the order in which it was. It comes again.
    pub fn gone_back(&mut self, offset: i64, time: Timestamp) -> Vec<Done> {
        let mut again = Vec::new();
        for done in std::mem::take(&mut self.done) {
            if done.last < offset {
                self.done.push_back(done);
                continue;
            }
            let Done { first, last, count, .. } = done;
            let mut back = Done { first: first.max(offset), ..done };
            if first < offset {
                let before = self.gaps.borrow().before(count, (first, last), offset);
                back.counted &= before.counted;
                back.count -= before.count;
                if before.count > 0 {
                    let Part { count, .. } = before;
                    self.done.push_back(Done { first, last: offset - 1, count, ..back.clone() });
                }
            }
            if back.count > 0 {
                let Done { first, delivery, ref holder, .. } = back;
                let (state, first_failed, refetched) = (State::Failed, time.into(), false);
                let (guessed, holder) = (!back.counted, holder.clone());
                self.comes_again(Before { first, last, state, delivery, first_failed, refetched, guessed, holder });
                again.push(back);
            }
        }
        self.committed = Some(offset);
        again
    }
}

impl Done {
    /// Takes an older one in. Whose each was, and how often it was handed out, is not known any more.
    fn join(&mut self, older: &Done) {
        self.first = self.first.min(older.first);
        self.last = self.last.max(older.last);
        self.count += older.count;
        self.delivery = self.delivery.max(older.delivery);
        self.counted = false;
    }
}

#[cfg(test)]
mod tests {
    use super::super::chain::tests::piece;
    use super::*;
    use crate::stream::ConnectionId;

    /// A group that commits every second offset only: the others were not for it.
    fn committed(many: i64) -> Chain {
        let holder = Party::unknown(ConnectionId(1));
        let mut chain = Chain::default();
        for offset in (0..many).map(|number| 2 * number) {
            chain.put(piece(offset, offset, &holder));
            for piece in chain.take_before(offset + 1) {
                chain.done(&piece, Timestamp(2));
            }
            chain.committed(offset + 1);
        }
        chain
    }

    fn counts(back: &[Done]) -> (u64, u64) {
        let sum = |counted| back.iter().filter(|done| done.counted == counted).map(|done| done.count).sum();
        (sum(true), sum(false))
    }

    #[test]
    fn what_was_committed_long_ago_still_counts() {
        let most = Chain::DONE as i64;
        assert_eq!(counts(&committed(most).gone_back(0, Timestamp(3))), (64, 0));
        assert_eq!(counts(&committed(1000).gone_back(0, Timestamp(3))), (63, 937));
        assert_eq!(counts(&committed(1000).gone_back(1990, Timestamp(3))), (5, 0));
        // In the middle of what was joined: as many as are possible behind it, and it is said that it is a guess.
        let mut chain = committed(1000);
        let (sure, guessed) = counts(&chain.gone_back(500, Timestamp(3)));
        assert_eq!((sure, guessed + chain.done.iter().map(|done| done.count).sum::<u64>()), (63, 937));
        let again = chain.deliveries(1990, 1990);
        assert_eq!((again.len(), again[0].number, again[0].guessed), (1, 2, false));
        assert!(chain.deliveries(600, 600)[0].guessed);
    }

    #[test]
    fn ranges_are_one_where_nothing_is_between_them() {
        let mut chain = committed(0);
        let holder = Party::unknown(ConnectionId(1));
        chain.gaps.borrow_mut().add(10, 10);
        for (first, last) in [(0, 9), (11, 19), (21, 29)] {
            chain.done(&piece(first, last, &holder), Timestamp(2));
        }
        let found: Vec<_> = chain.done.iter().map(|done| (done.first, done.last, done.count)).collect();
        assert_eq!(found, [(0, 19, 19), (21, 29, 9)]);
        let back = chain.gone_back(8, Timestamp(3));
        let found: Vec<_> = back.iter().map(|done| (done.first, done.last, done.count, done.counted)).collect();
        assert_eq!(found, [(8, 19, 11, true), (21, 29, 9, true)]);
    }
}
