//! The messages that are known, found by identity, and forgotten in a fixed order.

use std::num::NonZeroU128;
use std::rc::Rc;

use hashbrown::HashMap;

use super::keys::{Group, Keys, Twins};
use super::message::{Chain, List, Message, Route};
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
const MOST_SPARE: usize = 4096;

/// A message's place in its list, and among its twins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Order of first sight.
    pub sequence: u64,
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

/// All messages that are known.
pub(super) struct Messages {
    slots: Slots,
    free: u32,
    keys: Keys,
    routes: HashMap<(usize, usize), Rc<Route>>,
    /// The route asked for last: mostly it is the next one too.
    last_route: Option<Rc<Route>>,
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

/// Messages by their places.
#[derive(Default)]
pub(super) struct Slots(Vec<Slot>);

impl Slots {
    pub fn get(&self, index: u32) -> Option<&Message> {
        match self.0.get(index as usize) {
            Some(Slot::Used(message)) => Some(message),
            _ => None,
        }
    }

    fn get_mut(&mut self, index: u32) -> Option<&mut Message> {
        match self.0.get_mut(index as usize) {
            Some(Slot::Used(message)) => Some(message),
            _ => None,
        }
    }
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
            slots: Slots::default(),
            free: NONE,
            keys: Keys::default(),
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
        self.slots.get(reference.index).filter(|message| message.place.generation == reference.generation)
    }

    pub fn get_mut(&mut self, reference: MessageRef) -> Option<&mut Message> {
        self.slots.get_mut(reference.index).filter(|message| message.place.generation == reference.generation)
    }

    /// Where a message stands in the order of first sight.
    pub fn order(&self, reference: MessageRef) -> Option<u64> {
        Some(self.get(reference)?.place.sequence)
    }

    /// The shared route for these names.
    pub fn route(&mut self, exchange: &Name, routing_key: &Name) -> Rc<Route> {
        let is_it =
            |route: &&Rc<Route>| Rc::ptr_eq(&route.exchange, exchange) && Rc::ptr_eq(&route.routing_key, routing_key);
        if let Some(route) = self.last_route.as_ref().filter(is_it) {
            return route.clone();
        }
        let route = self.known_route(exchange, routing_key);
        self.last_route = Some(route.clone());
        route
    }

    fn known_route(&mut self, exchange: &Name, routing_key: &Name) -> Rc<Route> {
        const MOST: usize = 65_536;
        // Names are interned, so equal names nearly always share an address; a second route for the same names does no harm.
        let key = (address(exchange), address(routing_key));
        if let Some(route) = self.routes.get(&key)
            && Rc::ptr_eq(&route.exchange, exchange)
            && Rc::ptr_eq(&route.routing_key, routing_key)
        {
            return route.clone();
        }
        if self.routes.len() >= MOST {
            self.routes.retain(|_, route| Rc::strong_count(route) > 1);
            if self.routes.len() >= MOST {
                self.routes.clear();
            }
        }
        let route = Rc::new(Route::new(exchange, routing_key));
        self.routes.insert(key, route.clone());
        route
    }

    /// Takes a message in that is seen first now, forgetting the oldest where the table is full. `fill` says what is known of it.
    pub fn insert(&mut self, key: Option<Identity>, route: Rc<Route>, fill: impl FnOnce(&mut Message)) -> MessageRef {
        while self.active.length >= self.limits.active && self.active.oldest != NONE {
            if let Some(message) = self.remove(self.active.oldest) {
                self.evicted.push(message);
            }
        }
        let mut message = match self.spare.pop() {
            Some(mut message) => {
                message.renew(key, route);
                message
            }
            None => Box::new(Message::new(key, route)),
        };
        fill(&mut message);
        message.place.sequence = self.next_sequence;
        self.next_sequence += 1;
        let key = message.key;
        let index = match self.free {
            NONE => {
                self.slots.0.push(Slot::Used(message));
                u32::try_from(self.slots.0.len() - 1).unwrap_or(NONE)
            }
            index => {
                if let Slot::Free { next, generation } = self.slots.0[index as usize] {
                    self.free = next;
                    message.place.generation = generation;
                }
                self.slots.0[index as usize] = Slot::Used(message);
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
        match self.keys.find(key, &self.slots)? {
            Twins::One(index) => Some((self.reference(index), self.slot(index)?)),
            Twins::Many(_) => None,
        }
    }

    /// Reads what a look-up by this key will read. What it answers means nothing.
    pub fn look_at(&self, key: Identity) -> u64 {
        let Some((reference, message)) = self.only(key) else { return 0 };
        let route = Rc::as_ptr(&message.route) as u64;
        u64::from(reference.generation) ^ message.created.get().map_or(0, |time| time.0) ^ route
    }

    /// Says that a message is awaited again ([`Chain::is_awaited`]), so that [`Messages::find_awaited`] finds it.
    pub fn await_again(&mut self, reference: MessageRef) {
        let Some(key) = self.get(reference).and_then(|message| message.key) else { return };
        if let Some(Twins::Many(group)) = self.keys.find(key, &self.slots)
            && let Some(group) = self.keys.group_mut(group)
        {
            if group.awaited.len() >= Group::MOST_AWAITED {
                group.awaited.pop_front();
            }
            group.awaited.push_back(reference);
        }
    }

    /// The message with this key that has been awaited longest and fits.
    pub fn find_awaited(&mut self, key: Identity, fits: impl Fn(&Message) -> bool) -> Option<MessageRef> {
        let key = NonZeroU128::new(key.0)?;
        let slots = &self.slots;
        let message = |reference: MessageRef| {
            slots.get(reference.index).filter(|message| message.place.generation == reference.generation)
        };
        match self.keys.find(key, slots)? {
            Twins::One(index) => fits(self.slot(index)?).then(|| self.reference(index)),
            Twins::Many(group) => {
                let group = self.keys.group_mut(group)?;
                let awaited = |message: &Message| message.chains.iter().any(Chain::is_awaited);
                group.awaited.retain(|reference| message(*reference).is_some_and(awaited));
                let place = group.awaited.iter().position(|reference| message(*reference).is_some_and(&fits));
                if let Some(found) = place.and_then(|place| group.awaited.remove(place)) {
                    return Some(found);
                }
                // Twins that became twins only after they failed are not in the list.
                let mut members = group.members.iter().take(Group::MOST_SEARCHED).copied();
                let index = members.find(|index| slots.get(*index).is_some_and(&fits))?;
                Some(self.reference(index))
            }
        }
    }

    /// The oldest message with this key that fits, among the `most` oldest.
    pub fn find(&mut self, key: Identity, most: usize, fits: impl Fn(&Message) -> bool) -> Option<MessageRef> {
        let fits = |index: &u32| self.slot(*index).is_some_and(&fits);
        let index = match self.keys.find(NonZeroU128::new(key.0)?, &self.slots)? {
            Twins::One(index) => Some(index).filter(fits),
            Twins::Many(group) => self.keys.group(group)?.members.iter().copied().take(most).find(fits),
        }?;
        Some(self.reference(index))
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
        let slots = &self.slots;
        let index = match self.keys.find(NonZeroU128::new(key.0)?, slots)? {
            Twins::One(index) => Some(index).filter(|index| slots.get(*index).is_some_and(&fits)),
            Twins::Many(group) => self.keys.group_mut(group)?.advance(queue, lane, slots, &fits),
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
        self.slots.get(index)
    }

    fn slot_mut(&mut self, index: u32) -> Option<&mut Message> {
        self.slots.get_mut(index)
    }

    fn index(&mut self, key: NonZeroU128, index: u32) {
        let known = self.keys.find(key, &self.slots);
        let older = match known {
            None => Vec::new(),
            Some(Twins::One(first)) => vec![first],
            Some(Twins::Many(group)) => {
                let members = self.keys.group(group).into_iter().flat_map(|group| group.members.iter().rev());
                members.take(Group::MOST_COMPARED).copied().collect()
            }
        };
        self.keys.insert(key, index, known, &self.slots);
        if !older.is_empty() {
            self.mark_twins(index, &older);
        }
    }

    fn forget(&mut self, index: u32) {
        let Some(mut message) = self.remove(index) else { return };
        if self.spare.len() < MOST_SPARE {
            message.empty();
            self.spare.push(message);
        }
    }

    fn remove(&mut self, index: u32) -> Option<Box<Message>> {
        self.unlink(index);
        let message = self.slot(index)?;
        let (key, generation) = (message.key, message.place.generation);
        if let Some(key) = key {
            self.keys.remove(key, index);
        }
        let free = Slot::Free { next: self.free, generation: generation.wrapping_add(1) };
        self.free = index;
        match std::mem::replace(self.slots.0.get_mut(index as usize)?, free) {
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

fn address(name: &Name) -> usize {
    Rc::as_ptr(name).cast::<u8>() as usize
}
