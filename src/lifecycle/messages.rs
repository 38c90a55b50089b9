//! The messages that are known, found by identity, and forgotten in a fixed order.

use std::hash::BuildHasher;
use std::num::NonZeroU128;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};

use super::message::{Chain, List, Message, Route, same_name};
use crate::names::Name;
use crate::protocol::operation::Identity;

/// A message's place in the table; stale once the message is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MessageRef {
    index: u32,
    generation: u32,
}

const NONE: u32 = u32::MAX;
/// Boxes kept for the next messages.
const MOST_SPARE: usize = 256;

/// A message's place in its list, and among its twins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Order of first sight.
    sequence: u64,
    list: List,
    newer: u32,
    older: u32,
    generation: u32,
}

impl Default for Place {
    fn default() -> Place {
        Place { sequence: 0, list: List::Active, newer: NONE, older: NONE, generation: 0 }
    }
}

#[derive(Clone, Copy)]
struct Ends {
    newest: u32,
    oldest: u32,
    length: usize,
}

impl Ends {
    const EMPTY: Ends = Ends { newest: NONE, oldest: NONE, length: 0 };
}

/// Messages with the same key.
enum Twins {
    One(u32),
    Many(Box<Group>),
}

/// Several messages with the same key, oldest first, and how far each queue has come in them. Queues are first in, first
/// out, so a queue's next first delivery is the oldest twin that it has not delivered yet.
struct Group {
    members: std::collections::VecDeque<u32>,
    cursors: Vec<Cursor>,
    /// Members that failed and may come again, in the order in which they failed.
    awaited: std::collections::VecDeque<MessageRef>,
}

/// How far one queue has come in a group, on one lane: messages that took different routes into the queue may overtake
/// each other on the way, those of one route may not.
struct Cursor {
    queue: Option<Name>,
    lane: usize,
    next: u64,
}

/// All messages that are known.
pub(super) struct Messages {
    slots: Vec<Slot>,
    free: u32,
    by_key: HashTable<(NonZeroU128, Twins)>,
    hasher: DefaultHashBuilder,
    routes: HashMap<(usize, usize), Arc<Route>>,
    /// The route asked for last: mostly it is the next one too.
    last_route: Option<Arc<Route>>,
    active: Ends,
    settled: Ends,
    complete: Ends,
    next_sequence: u64,
    limits: MessageLimits,
    /// Messages whose fate was open when they had to be forgotten, since somebody took them from here.
    #[expect(clippy::vec_box, reason = "they are in boxes already")]
    pub evicted: Vec<Box<Message>>,
    /// How many settled messages were forgotten of which something might still have been learned.
    pub forgotten: u64,
    /// Boxes of forgotten messages for the next ones: their memory is still in a cache.
    #[expect(clippy::vec_box, reason = "the boxes are what it keeps")]
    spare: Vec<Box<Message>>,
}

enum Slot {
    Used(Box<Message>),
    Free { next: u32, generation: u32 },
}

/// How many messages are kept.
#[derive(Clone, Copy, Debug)]
pub struct MessageLimits {
    /// Messages whose fate is open. Beyond it the oldest is forgotten, and counted.
    pub active: usize,
    /// Settled messages, kept for what may still be learned of them (another queue's delivery, a dead letter's arrival).
    /// Beyond it the oldest is forgotten, and counted, though nothing is lost if nothing more comes of it.
    pub settled: usize,
    /// Messages of which nothing more is expected. Few, so that their memory is still in a cache when it is used again.
    /// Beyond it the oldest is forgotten, as all are that went well; that is not counted.
    pub complete: usize,
}

impl Default for MessageLimits {
    fn default() -> Self {
        MessageLimits { active: 1_000_000, settled: 16_384, complete: 256 }
    }
}

impl Messages {
    pub fn new(limits: MessageLimits) -> Messages {
        Messages {
            slots: Vec::new(),
            free: NONE,
            by_key: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            routes: HashMap::new(),
            last_route: None,
            active: Ends::EMPTY,
            settled: Ends::EMPTY,
            complete: Ends::EMPTY,
            next_sequence: 0,
            limits,
            evicted: Vec::new(),
            forgotten: 0,
            spare: Vec::new(),
        }
    }

    /// How many messages have an open fate.
    pub fn active(&self) -> usize {
        self.active.length
    }

    /// How many settled messages are remembered.
    pub fn settled(&self) -> usize {
        self.settled.length + self.complete.length
    }

    pub fn get(&self, reference: MessageRef) -> Option<&Message> {
        match self.slots.get(reference.index as usize) {
            Some(Slot::Used(message)) if message.place.generation == reference.generation => Some(message),
            _ => None,
        }
    }

    pub fn get_mut(&mut self, reference: MessageRef) -> Option<&mut Message> {
        match self.slots.get_mut(reference.index as usize) {
            Some(Slot::Used(message)) if message.place.generation == reference.generation => Some(message),
            _ => None,
        }
    }

    /// Where a message stands in the order of first sight.
    pub fn order(&self, reference: MessageRef) -> Option<u64> {
        Some(self.get(reference)?.place.sequence)
    }

    /// The shared route for these names.
    pub fn route(&mut self, exchange: &Name, routing_key: &Name) -> Arc<Route> {
        let is_it = |route: &&Arc<Route>| {
            Arc::ptr_eq(&route.exchange, exchange) && Arc::ptr_eq(&route.routing_key, routing_key)
        };
        if let Some(route) = self.last_route.as_ref().filter(is_it) {
            return route.clone();
        }
        let route = self.known_route(exchange, routing_key);
        self.last_route = Some(route.clone());
        route
    }

    fn known_route(&mut self, exchange: &Name, routing_key: &Name) -> Arc<Route> {
        const MOST: usize = 65_536;
        // Names are interned, so equal names nearly always share an address; a second route for the same names does no harm.
        let key = (address(exchange), address(routing_key));
        if let Some(route) = self.routes.get(&key)
            && Arc::ptr_eq(&route.exchange, exchange)
            && Arc::ptr_eq(&route.routing_key, routing_key)
        {
            return route.clone();
        }
        if self.routes.len() >= MOST {
            self.routes.retain(|_, route| Arc::strong_count(route) > 1);
            if self.routes.len() >= MOST {
                self.routes.clear();
            }
        }
        let route = Arc::new(Route::new(exchange, routing_key));
        self.routes.insert(key, route.clone());
        route
    }

    /// Takes a message in, forgetting the oldest where the table is full.
    pub fn insert(&mut self, mut message: Message) -> MessageRef {
        while self.active.length >= self.limits.active && self.active.oldest != NONE {
            if let Some(message) = self.remove(self.active.oldest) {
                self.evicted.push(message);
            }
        }
        message.place.sequence = self.next_sequence;
        self.next_sequence += 1;
        message.place.list = List::Active;
        let key = message.key;
        let index = match self.free {
            NONE => {
                let message = self.boxed(message);
                self.slots.push(Slot::Used(message));
                u32::try_from(self.slots.len() - 1).unwrap_or(NONE)
            }
            index => {
                if let Slot::Free { next, generation } = self.slots[index as usize] {
                    self.free = next;
                    message.place.generation = generation;
                }
                self.slots[index as usize] = Slot::Used(self.boxed(message));
                index
            }
        };
        self.link(index, List::Active);
        if let Some(key) = key {
            self.index(key, index);
        }
        self.reference(index)
    }

    /// After a message's state changed: moves it to the list where it belongs.
    pub fn settle(&mut self, reference: MessageRef) {
        let Some(message) = self.get(reference) else { return };
        let list = message.list();
        if message.place.list == list {
            return;
        }
        self.unlink(reference.index);
        self.link(reference.index, list);
        while self.settled.length > self.limits.settled {
            self.forget(self.settled.oldest);
            self.forgotten += 1;
        }
        while self.complete.length > self.limits.complete {
            self.forget(self.complete.oldest);
        }
    }

    /// All messages with an open fate, oldest first.
    pub fn active_messages(&self) -> impl Iterator<Item = MessageRef> {
        let mut index = self.active.oldest;
        std::iter::from_fn(move || {
            let message = self.slot(index)?;
            let reference = MessageRef { index, generation: message.place.generation };
            index = message.place.newer;
            Some(reference)
        })
    }

    /// The message with this key, where there is exactly one.
    pub fn only(&self, key: Identity) -> Option<(MessageRef, &Message)> {
        let key = NonZeroU128::new(key.0)?;
        match self.by_key.find(self.hasher.hash_one(key), |(other, _)| *other == key)? {
            (_, Twins::One(index)) => Some((self.reference(*index), self.slot(*index)?)),
            (_, Twins::Many(_)) => None,
        }
    }

    /// Says that a message is awaited again ([`Chain::is_awaited`]), so that [`Messages::find_awaited`] finds it.
    pub fn await_again(&mut self, reference: MessageRef) {
        let Some(key) = self.get(reference).and_then(|message| message.key) else { return };
        let hash = self.hasher.hash_one(key);
        if let Some((_, Twins::Many(group))) = self.by_key.find_mut(hash, |(other, _)| *other == key) {
            if group.awaited.len() >= Group::MOST_AWAITED {
                group.awaited.pop_front();
            }
            group.awaited.push_back(reference);
        }
    }

    /// The message with this key that has been awaited longest and fits.
    pub fn find_awaited(&mut self, key: Identity, fits: impl Fn(&Message) -> bool) -> Option<MessageRef> {
        let key = NonZeroU128::new(key.0)?;
        let hash = self.hasher.hash_one(key);
        let slots = &self.slots;
        let message = |reference: MessageRef| match slots.get(reference.index as usize) {
            Some(Slot::Used(message)) if message.place.generation == reference.generation => Some(&**message),
            _ => None,
        };
        let (_, twins) = self.by_key.find_mut(hash, |(other, _)| *other == key)?;
        match twins {
            Twins::One(index) => {
                let index = *index;
                fits(self.slot(index)?).then(|| self.reference(index))
            }
            Twins::Many(group) => {
                let awaited = |message: &Message| message.chains.iter().any(Chain::is_awaited);
                group.awaited.retain(|reference| message(*reference).is_some_and(awaited));
                let place = group.awaited.iter().position(|reference| message(*reference).is_some_and(&fits));
                let found = place.and_then(|place| group.awaited.remove(place));
                // Twins that became twins only after they failed are not in the list.
                let found = found.or_else(|| {
                    let fits = |index: &&u32| self.slot(**index).is_some_and(&fits);
                    let members = group_members(&self.by_key, hash, key)?;
                    members.iter().take(Group::MOST_SEARCHED).find(fits).map(|index| self.reference(*index))
                })?;
                Some(found)
            }
        }
    }

    /// The oldest message with this key that fits, among the `most` oldest.
    pub fn find(&mut self, key: Identity, most: usize, fits: impl Fn(&Message) -> bool) -> Option<MessageRef> {
        let key = NonZeroU128::new(key.0)?;
        let hash = self.hasher.hash_one(key);
        let (_, twins) = self.by_key.find(hash, |(other, _)| *other == key)?;
        match twins {
            Twins::One(index) => {
                let index = *index;
                fits(self.slot(index)?).then(|| self.reference(index))
            }
            Twins::Many(group) => {
                let fits = |index: &&u32| self.slot(**index).is_some_and(&fits);
                let index = *group.members.iter().take(most).find(fits)?;
                Some(self.reference(index))
            }
        }
    }

    /// The oldest message with this key that fits and that this `queue` and `lane` have not been given yet: first in, first
    /// out. `fits` must be the same question whenever queue and lane are the same.
    pub fn next_of_queue(
        &mut self,
        key: Identity,
        queue: Option<&Name>,
        lane: usize,
        fits: impl Fn(&Message) -> bool,
    ) -> Option<MessageRef> {
        let key = NonZeroU128::new(key.0)?;
        let hash = self.hasher.hash_one(key);
        let slots = &self.slots;
        let message = |index: u32| match slots.get(index as usize) {
            Some(Slot::Used(message)) => Some(&**message),
            _ => None,
        };
        let (_, twins) = self.by_key.find_mut(hash, |(other, _)| *other == key)?;
        let index = match twins {
            Twins::One(index) => Some(*index).filter(|index| message(*index).is_some_and(&fits)),
            Twins::Many(group) => group.advance(queue, lane, message, &fits),
        }?;
        Some(self.reference(index))
    }

    /// Two messages with the same key that took the same way at the same time: which of them a delivery is of, only their
    /// order tells. An id that a client gave twice is as ambiguous as a body without an id.
    fn mark_twins(&mut self, index: u32, older: &[u32]) {
        let Some(message) = self.slot(index) else { return };
        let route = message.route.clone();
        // Whoever copies a message holds it: the next delivery is the copy's.
        let original = message.origin.as_ref().map(|origin| origin.message.index);
        for other in older.iter().filter(|other| Some(**other) != original) {
            let Some(message) = self.slot_mut(*other) else { continue };
            if message.place.list == List::Active && message.route == route {
                message.ambiguous = true;
                if let Some(message) = self.slot_mut(index) {
                    message.ambiguous = true;
                }
                return;
            }
        }
    }

    fn reference(&self, index: u32) -> MessageRef {
        MessageRef { index, generation: self.slot(index).map_or(0, |message| message.place.generation) }
    }

    fn slot(&self, index: u32) -> Option<&Message> {
        match self.slots.get(index as usize) {
            Some(Slot::Used(message)) => Some(message),
            _ => None,
        }
    }

    fn slot_mut(&mut self, index: u32) -> Option<&mut Message> {
        match self.slots.get_mut(index as usize) {
            Some(Slot::Used(message)) => Some(message),
            _ => None,
        }
    }

    fn index(&mut self, key: NonZeroU128, index: u32) {
        let hash = self.hasher.hash_one(key);
        let hasher = &self.hasher;
        let mut older = Vec::new();
        match self.by_key.find_mut(hash, |(other, _)| *other == key) {
            Some((_, twins)) => match twins {
                Twins::One(first) => {
                    older.push(*first);
                    *twins = Twins::Many(Box::new(Group {
                        members: [*first, index].into(),
                        cursors: Vec::new(),
                        awaited: [].into(),
                    }));
                }
                Twins::Many(group) => {
                    older.extend(group.members.iter().rev().take(Group::MOST_COMPARED).copied());
                    group.members.push_back(index);
                }
            },
            None => {
                self.by_key.insert_unique(hash, (key, Twins::One(index)), |(key, _)| hasher.hash_one(key));
            }
        }
        self.mark_twins(index, &older);
    }

    fn unindex(&mut self, key: NonZeroU128, index: u32) {
        let hash = self.hasher.hash_one(key);
        let Ok(mut entry) = self.by_key.find_entry(hash, |(other, _)| *other == key) else { return };
        let empty = match &mut entry.get_mut().1 {
            Twins::One(only) => *only == index,
            Twins::Many(group) => {
                // The oldest goes first nearly always.
                if let Some(place) = group.members.iter().position(|member| *member == index) {
                    group.members.remove(place);
                }
                group.members.is_empty()
            }
        };
        if empty {
            entry.remove();
        }
    }

    fn forget(&mut self, index: u32) {
        let message = self.remove(index);
        if self.spare.len() < MOST_SPARE {
            self.spare.extend(message);
        }
    }

    fn boxed(&mut self, message: Message) -> Box<Message> {
        match self.spare.pop() {
            Some(mut place) => {
                *place = message;
                place
            }
            None => Box::new(message),
        }
    }

    fn remove(&mut self, index: u32) -> Option<Box<Message>> {
        self.unlink(index);
        let message = self.slot(index)?;
        let (key, generation) = (message.key, message.place.generation);
        if let Some(key) = key {
            self.unindex(key, index);
        }
        let free = Slot::Free { next: self.free, generation: generation.wrapping_add(1) };
        self.free = index;
        match std::mem::replace(self.slots.get_mut(index as usize)?, free) {
            Slot::Used(message) => Some(message),
            Slot::Free { .. } => None,
        }
    }

    fn ends(&mut self, list: List) -> &mut Ends {
        match list {
            List::Active => &mut self.active,
            List::Settled => &mut self.settled,
            List::Complete => &mut self.complete,
        }
    }

    fn link(&mut self, index: u32, list: List) {
        let newest = self.ends(list).newest;
        if let Some(message) = self.slot_mut(index) {
            message.place.list = list;
            message.place.older = newest;
            message.place.newer = NONE;
        }
        if let Some(previous) = self.slot_mut(newest) {
            previous.place.newer = index;
        }
        let ends = self.ends(list);
        ends.newest = index;
        if ends.oldest == NONE {
            ends.oldest = index;
        }
        ends.length += 1;
    }

    fn unlink(&mut self, index: u32) {
        let Some(message) = self.slot(index) else { return };
        let (newer, older, list) = (message.place.newer, message.place.older, message.place.list);
        if let Some(message) = self.slot_mut(newer) {
            message.place.older = older;
        }
        if let Some(message) = self.slot_mut(older) {
            message.place.newer = newer;
        }
        let ends = self.ends(list);
        if ends.newest == index {
            ends.newest = older;
        }
        if ends.oldest == index {
            ends.oldest = newer;
        }
        ends.length -= 1;
    }
}

impl Group {
    /// More queues than this share one cursor position: the beginning.
    const MOST_CURSORS: usize = 64;
    /// How far a search that no cursor shortens looks.
    const MOST_SEARCHED: usize = 4096;
    const MOST_AWAITED: usize = 65_536;
    /// How many older twins a new one is compared with.
    const MOST_COMPARED: usize = 8;

    fn advance<'m>(
        &mut self,
        queue: Option<&Name>,
        lane: usize,
        message: impl Fn(u32) -> Option<&'m Message>,
        fits: impl Fn(&Message) -> bool,
    ) -> Option<u32> {
        let is_it = |cursor: &Cursor| cursor.lane == lane && same_name(cursor.queue.as_ref(), queue);
        let known = self.cursors.iter().position(is_it);
        let cursor = known.map_or(0, |place| self.cursors[place].next);
        let sequence = |index: u32| message(index).map_or(0, |message| message.place.sequence);
        let start = self.members.partition_point(|index| sequence(*index) < cursor);
        let found = self.members.iter().skip(start).copied().find(|index| message(*index).is_some_and(&fits))?;
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

fn group_members(
    table: &HashTable<(NonZeroU128, Twins)>,
    hash: u64,
    key: NonZeroU128,
) -> Option<&std::collections::VecDeque<u32>> {
    match table.find(hash, |(other, _)| *other == key)? {
        (_, Twins::Many(group)) => Some(&group.members),
        _ => None,
    }
}

fn address(name: &Name) -> usize {
    Arc::as_ptr(name).cast::<u8>() as usize
}
