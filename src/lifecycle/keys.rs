//! Which messages have a key.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::num::NonZeroU128;

use hashbrown::{DefaultHashBuilder, HashTable};
use slab::Slab;

use super::message::{Message, same_name};
use super::messages::{MessageRef, Slots};
use crate::names::Name;

/// The messages that have a key, by their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Twins {
    One(u32),
    /// Several: a [`Keys::group`].
    Many(u32),
}

/// Several messages with the same key, oldest first, and how far each queue has come in them. Queues are first in, first
/// out, so a queue's next first delivery is the oldest twin that it has not delivered yet.
pub(super) struct Group {
    key: NonZeroU128,
    pub members: VecDeque<u32>,
    cursors: Vec<Cursor>,
    /// Members that failed and may come again, in the order in which they failed.
    pub awaited: VecDeque<MessageRef>,
}

/// How far one queue has come in a group, on one lane: messages that took different routes into the queue may overtake
/// each other on the way, those of one route may not.
struct Cursor {
    queue: Option<Name>,
    lane: usize,
    next: u64,
}

/// All keys. Each message is looked for three times, at a place that no other has been near: the table is as small as it can be,
/// so that it stays in a cache. Hash and key are the message's.
#[derive(Default)]
pub(super) struct Keys {
    table: HashTable<Entry>,
    groups: Slab<Group>,
    hasher: DefaultHashBuilder,
}

/// [`Twins`] in one word: the highest bit says that it is a group's number.
#[derive(Clone, Copy)]
struct Entry(u32);

impl Entry {
    const MANY: u32 = 1 << 31;

    fn of(twins: Twins) -> Entry {
        match twins {
            Twins::One(index) => Entry(index & !Entry::MANY),
            Twins::Many(number) => Entry(number | Entry::MANY),
        }
    }

    fn twins(self) -> Twins {
        match self.0 & Entry::MANY {
            0 => Twins::One(self.0),
            _ => Twins::Many(self.0 & !Entry::MANY),
        }
    }
}

impl Keys {
    pub fn find(&self, key: NonZeroU128, slots: &Slots) -> Option<Twins> {
        let hash = self.hasher.hash_one(key);
        Some(self.table.find(hash, |entry| key_of(&self.groups, *entry, slots) == Some(key))?.twins())
    }

    pub fn group(&self, number: u32) -> Option<&Group> {
        self.groups.get(number as usize)
    }

    pub fn group_mut(&mut self, number: u32) -> Option<&mut Group> {
        self.groups.get_mut(number as usize)
    }

    /// Adds a message; `older` is what was found for its key.
    pub fn insert(&mut self, key: NonZeroU128, index: u32, older: Option<Twins>, slots: &Slots) {
        let hash = self.hasher.hash_one(key);
        match older {
            None => {
                let Keys { table, groups, hasher } = self;
                let rehash = |entry: &Entry| hasher.hash_one(key_of(groups, *entry, slots).unwrap_or(key));
                table.insert_unique(hash, Entry::of(Twins::One(index)), rehash);
            }
            Some(Twins::One(first)) => {
                let members = [first, index].into();
                let group = Group { key, members, cursors: Vec::new(), awaited: VecDeque::new() };
                let number = u32::try_from(self.groups.insert(group)).unwrap_or(u32::MAX);
                let groups = &self.groups;
                let is_it = |entry: &Entry| key_of(groups, *entry, slots) == Some(key);
                if let Some(entry) = self.table.find_mut(hash, is_it) {
                    *entry = Entry::of(Twins::Many(number));
                }
            }
            Some(Twins::Many(number)) => {
                if let Some(group) = self.group_mut(number) {
                    group.members.push_back(index);
                }
            }
        }
    }

    /// Takes a message out.
    pub fn remove(&mut self, key: NonZeroU128, index: u32) {
        let hash = self.hasher.hash_one(key);
        let groups = &self.groups;
        // Without a look at the message of the entry: its memory may not be in a cache any more.
        let is_it = |entry: &Entry| match entry.twins() {
            Twins::One(only) => only == index,
            Twins::Many(number) => groups.get(number as usize).is_some_and(|group| group.key == key),
        };
        let Ok(entry) = self.table.find_entry(hash, is_it) else { return };
        let twins = entry.get().twins();
        let empty = match twins {
            Twins::One(_) => true,
            Twins::Many(number) => self.groups.get_mut(number as usize).is_none_or(|group| {
                // The oldest goes first nearly always.
                if let Some(place) = group.members.iter().position(|member| *member == index) {
                    group.members.remove(place);
                }
                group.members.is_empty()
            }),
        };
        if empty {
            entry.remove();
            if let Twins::Many(number) = twins {
                self.groups.try_remove(number as usize);
            }
        }
    }
}

fn key_of(groups: &Slab<Group>, entry: Entry, slots: &Slots) -> Option<NonZeroU128> {
    match entry.twins() {
        Twins::One(index) => slots.get(index)?.key,
        Twins::Many(number) => Some(groups.get(number as usize)?.key),
    }
}

impl Group {
    /// More queues than this share one cursor position: the beginning.
    const MOST_CURSORS: usize = 64;
    /// How far a search that no cursor shortens looks.
    pub const MOST_SEARCHED: usize = 4096;
    pub const MOST_AWAITED: usize = 65_536;
    /// How many older twins a new one is compared with.
    pub const MOST_COMPARED: usize = 8;

    /// The next twin that fits and that this queue and lane have not been given yet.
    pub fn advance(
        &mut self,
        queue: Option<&Name>,
        lane: usize,
        slots: &Slots,
        fits: impl Fn(&Message) -> bool,
    ) -> Option<u32> {
        let is_it = |cursor: &Cursor| cursor.lane == lane && same_name(cursor.queue.as_ref(), queue);
        let known = self.cursors.iter().position(is_it);
        let cursor = known.map_or(0, |place| self.cursors[place].next);
        let sequence = |index: u32| slots.get(index).map_or(0, |message| message.place.sequence);
        let start = self.members.partition_point(|index| sequence(*index) < cursor);
        let found = self.members.iter().skip(start).copied().find(|index| slots.get(*index).is_some_and(&fits))?;
        let next = sequence(found) + 1;
        match known {
            Some(place) => self.cursors[place].next = next,
            None if self.cursors.len() < Self::MOST_CURSORS => {
                self.cursors.push(Cursor { queue: queue.cloned(), lane, next });
            }
            None => {}
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::MessageLimits;
    use super::super::message::Chain;
    use super::super::messages::Messages;
    use super::super::transition::State;
    use super::*;
    use crate::protocol::operation::Identity;

    /// Numbers that look random, the same in every run.
    struct Numbers(u64);

    impl Numbers {
        fn next(&mut self, below: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % below
        }
    }

    #[test]
    fn each_key_leads_to_its_oldest_message_whatever_came_and_went() {
        let (mut numbers, route_of) = (Numbers(1), ["".into(), "work".into()]);
        let mut messages = Messages::new(MessageLimits { active: 100_000, settled: 0, complete: 0 });
        let route = messages.route(&route_of[0], &route_of[1]);
        let mut model: HashMap<u128, Vec<MessageRef>> = HashMap::new();
        let (mut alone, mut among, mut none) = (0, 0, 0);
        for round in 0..40_000u64 {
            // Many messages first, then fewer and fewer; a tenth of the keys are used often.
            let range = if numbers.next(4) == 0 { 500 } else { 20_000 };
            let key = 1 + u128::from(numbers.next(range));
            let known = model.entry(key).or_default();
            if numbers.next(40_000) > round {
                known.push(messages.insert(Some(Identity(key)), route.clone(), |_| ()));
            } else if !known.is_empty() {
                let place = numbers.next(known.len() as u64) as usize;
                let gone = known.remove(place);
                let entry = messages.get_mut(gone).unwrap();
                entry.chains.push(Chain::new(None, State::Acknowledged));
                messages.settle(gone);
                assert!(messages.get(gone).is_none(), "nothing settled is kept here");
            }
            let known = &model[&key];
            assert_eq!(messages.find(Identity(key), 1, |_| true), known.first().copied(), "round {round}");
            match known[..] {
                [] => none += 1,
                [_] => alone += 1,
                _ => among += 1,
            }
        }
        let left: usize = model.values().map(Vec::len).sum();
        assert_eq!(messages.active(), left);
        assert!(alone > 1000 && among > 1000 && none > 1000, "{alone} {among} {none}");
    }
}
