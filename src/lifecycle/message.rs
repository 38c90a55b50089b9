//! The messages that are known, found by identity, and forgotten in a fixed order.

use std::num::{NonZeroU32, NonZeroU64, NonZeroU128};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
use std::hash::BuildHasher;

use super::transition::{Evidence, Reason, State};
use crate::names::Name;
use crate::protocol::operation::{Extras, Identity};
use crate::time::Timestamp;

use super::party::Party;

/// Exchange and routing key of a publish, shared by all messages that took it.
#[derive(Debug)]
pub(super) struct Route {
    pub exchange: Name,
    pub routing_key: Name,
    /// The most queues that a message of this route was seen in.
    reach: AtomicU32,
}

impl PartialEq for Route {
    fn eq(&self, other: &Route) -> bool {
        self.exchange == other.exchange && self.routing_key == other.routing_key
    }
}

/// A time that may not be known, in the space of one: there are many messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moment(Option<NonZeroU64>);

impl Moment {
    pub fn get(self) -> Option<Timestamp> {
        self.0.map(|nanoseconds| Timestamp(nanoseconds.get()))
    }

    /// Keeps the earlier of two.
    pub fn get_or_insert(&mut self, time: Timestamp) {
        self.0 = self.0.or(NonZeroU64::new(time.0));
    }
}

impl From<Timestamp> for Moment {
    fn from(time: Timestamp) -> Moment {
        Moment(NonZeroU64::new(time.0))
    }
}

/// One message: what its publish showed, and a chain of deliveries for each queue that it was seen in.
#[derive(Debug)]
pub(super) struct Message {
    /// What a publish or delivery with the same bytes yields; `None` where a hole took them.
    pub key: Option<NonZeroU128>,
    /// The identity shown, where it is not the key: of a copy that an application republished with changed headers.
    pub shown: Option<Box<Identity>>,
    /// State before, and apart from, any delivery.
    pub state: State,
    /// How the state was reached.
    pub evidence: Evidence,
    /// There were other messages with the same identity, so that deliveries were matched first in, first out.
    pub ambiguous: bool,
    /// Where it was published to; of a message whose publish was not seen, where its first delivery said it was.
    pub route: Arc<Route>,
    pub publisher: Option<Arc<Party>>,
    pub message_id: Option<Name>,
    pub extras: Option<Box<Extras>>,
    pub body: Option<NonZeroU64>,
    /// Length of the body plus one.
    body_size: Option<NonZeroU64>,
    pub created: Moment,
    pub confirmed: Moment,
    pub chains: Chains,
    /// Order of first sight, for twins.
    sequence: u64,
    list: List,
    newer: u32,
    older: u32,
    generation: u32,
}

impl Message {
    /// A message first seen now, without chains.
    pub fn new(key: Option<Identity>, state: State, route: Arc<Route>) -> Message {
        let key = key.and_then(|identity| NonZeroU128::new(identity.0));
        Message {
            key,
            shown: None,
            state,
            evidence: Evidence::Observed,
            ambiguous: false,
            route,
            publisher: None,
            message_id: None,
            extras: None,
            body: None,
            body_size: None,
            created: Moment::default(),
            confirmed: Moment::default(),
            chains: Chains::default(),
            sequence: 0,
            list: List::Active,
            newer: NONE,
            older: NONE,
            generation: 0,
        }
    }

    /// The identity to print.
    pub fn identity(&self) -> Option<Identity> {
        self.shown.as_deref().copied().or(self.key.map(|key| Identity(key.get())))
    }

    /// Length of the body in bytes.
    pub fn body_size(&self) -> Option<u64> {
        self.body_size.map(|size| size.get() - 1)
    }

    /// Keeps what a publish or delivery says of the body.
    pub fn set_body(&mut self, hash: Option<u64>, size: Option<u64>) {
        self.body = self.body.or(hash.and_then(NonZeroU64::new));
        self.body_size = self.body_size.or(size.and_then(|size| NonZeroU64::new(size.saturating_add(1))));
    }

    /// Where it belongs, by what may still come.
    fn list(&self) -> List {
        let ended = matches!(self.state, State::Returned | State::PublishFailed | State::Expired | State::Dropped);
        let open = self.chains.iter().any(Chain::is_open) || (self.chains.is_empty() && !ended);
        if open {
            return List::Active;
        }
        // All queues that messages of this route were seen in have acknowledged it: nothing more is to be expected.
        let own = self.chains.iter().filter(|chain| chain.route.as_ref().is_some_and(|r| Arc::ptr_eq(r, &self.route)));
        let own = u32::try_from(own.count()).unwrap_or(u32::MAX);
        let known = self.route.reach.fetch_max(own, Ordering::Relaxed);
        let acknowledged = self.chains.iter().all(|chain| chain.state == State::Acknowledged);
        if acknowledged && own >= known { List::Complete } else { List::Settled }
    }
}

/// A message's way through one queue.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    /// The queue; `None` where it is not known.
    pub queue: Option<Name>,
    pub state: State,
    pub evidence: Evidence,
    /// Number of the latest delivery, where it is known how many there were.
    pub delivery: Option<NonZeroU32>,
    /// Number of the latest delivery that was seen here: tells a stale settlement from one of the latest delivery.
    pub attempt: u32,
    /// Streams give every consumer a chain of its own: its consumer tag.
    pub reader: Option<Box<Name>>,
    /// Exchange and routing key of the latest delivery: after dead-lettering not those of the publish.
    pub route: Option<Arc<Route>>,
    pub dispatched: Moment,
    pub processing: Moment,
    pub first_failed: Moment,
    /// Why it failed last.
    pub reason: Option<Reason>,
    /// Where it went when it died.
    pub destination: Option<Box<Name>>,
    /// Who was given the latest delivery.
    pub holder: Option<Arc<Party>>,
}

impl Chain {
    /// A chain that has not been delivered yet.
    pub fn new(queue: Option<Name>, state: State) -> Chain {
        Chain {
            queue,
            state,
            evidence: Evidence::Observed,
            delivery: None,
            attempt: 0,
            reader: None,
            route: None,
            dispatched: Moment::default(),
            processing: Moment::default(),
            first_failed: Moment::default(),
            reason: None,
            destination: None,
            holder: None,
        }
    }

    /// Something is still to come: a settlement, or a redelivery.
    pub fn is_open(&self) -> bool {
        matches!(
            self.state,
            State::Created | State::Confirmed | State::Dispatched | State::Processing | State::Failed | State::Retrying
        )
    }

    /// It failed, and a delivery of the same message may still come: to this queue again, or from a dead-letter queue.
    pub fn is_awaited(&self) -> bool {
        matches!(
            self.state,
            State::Failed | State::Retrying | State::Rejected | State::DeadLettered | State::Dropped | State::Expired
        )
    }

    /// It is in a consumer's hands.
    pub fn is_in_flight(&self) -> bool {
        matches!(self.state, State::Dispatched | State::Processing)
    }
}

/// The chains of a message: nearly always one, so that one is kept in place.
#[derive(Debug, Default)]
pub(super) struct Chains {
    first: Option<Chain>,
    #[expect(clippy::box_collection, reason = "one word in the many messages that have no second chain")]
    more: Option<Box<Vec<Chain>>>,
}

impl Chains {
    /// More queues than this are not followed for one message.
    const MOST: usize = 256;

    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Chain> {
        self.first.iter().chain(self.more.iter().flat_map(|more| more.iter()))
    }

    pub fn get(&self, index: usize) -> Option<&Chain> {
        if index == 0 { self.first.as_ref() } else { self.more.as_ref()?.get(index - 1) }
    }

    pub fn get_mut(&mut self, index: usize) -> Option<&mut Chain> {
        if index == 0 { self.first.as_mut() } else { self.more.as_mut()?.get_mut(index - 1) }
    }

    /// The chain of this queue.
    pub fn of_queue(&self, queue: Option<&Name>) -> Option<usize> {
        self.iter().position(|chain| same_name(chain.queue.as_ref(), queue))
    }

    /// Adds a chain and returns its index; `None` where there are too many.
    pub fn push(&mut self, chain: Chain) -> Option<usize> {
        if self.first.is_none() {
            self.first = Some(chain);
            return Some(0);
        }
        let more = self.more.get_or_insert_default();
        if more.len() + 1 >= Self::MOST {
            return None;
        }
        more.push(chain);
        Some(more.len())
    }
}

/// Whether two names, where known, are the same. Interned names mostly share their allocation.
pub(super) fn same_name(one: Option<&Name>, other: Option<&Name>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other) || one == other,
        (None, None) => true,
        _ => false,
    }
}

/// A message's place in the table; stale once the message is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MessageRef {
    index: u32,
    generation: u32,
}

/// Which list a message is in: what is still moving is forgotten only when the table is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum List {
    Active,
    Settled,
    Complete,
}

const NONE: u32 = u32::MAX;

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
    active: Ends,
    settled: Ends,
    complete: Ends,
    next_sequence: u64,
    limits: MessageLimits,
    /// Messages whose fate was open when they had to be forgotten.
    pub evicted_active: u64,
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
    pub settled: usize,
    /// Messages of which nothing more is expected.
    pub complete: usize,
}

impl Default for MessageLimits {
    fn default() -> Self {
        MessageLimits { active: 1_000_000, settled: 16_384, complete: 1024 }
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
            active: Ends::EMPTY,
            settled: Ends::EMPTY,
            complete: Ends::EMPTY,
            next_sequence: 0,
            limits,
            evicted_active: 0,
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
            Some(Slot::Used(message)) if message.generation == reference.generation => Some(message),
            _ => None,
        }
    }

    pub fn get_mut(&mut self, reference: MessageRef) -> Option<&mut Message> {
        match self.slots.get_mut(reference.index as usize) {
            Some(Slot::Used(message)) if message.generation == reference.generation => Some(message),
            _ => None,
        }
    }

    /// The shared route for these names.
    pub fn route(&mut self, exchange: &Name, routing_key: &Name) -> Arc<Route> {
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
        let route =
            Arc::new(Route { exchange: exchange.clone(), routing_key: routing_key.clone(), reach: AtomicU32::new(0) });
        self.routes.insert(key, route.clone());
        route
    }

    /// Takes a message in, forgetting the oldest where the table is full.
    pub fn insert(&mut self, mut message: Message) -> MessageRef {
        while self.active.length >= self.limits.active && self.active.oldest != NONE {
            self.evicted_active += 1;
            self.remove(self.active.oldest);
        }
        message.sequence = self.next_sequence;
        self.next_sequence += 1;
        message.list = List::Active;
        let key = message.key;
        let index = match self.free {
            NONE => {
                self.slots.push(Slot::Used(Box::new(message)));
                u32::try_from(self.slots.len() - 1).unwrap_or(NONE)
            }
            index => {
                if let Slot::Free { next, generation } = self.slots[index as usize] {
                    self.free = next;
                    message.generation = generation;
                }
                self.slots[index as usize] = Slot::Used(Box::new(message));
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
        if message.list == list {
            return;
        }
        self.unlink(reference.index);
        self.link(reference.index, list);
        while self.settled.length > self.limits.settled {
            self.remove(self.settled.oldest);
        }
        while self.complete.length > self.limits.complete {
            self.remove(self.complete.oldest);
        }
    }

    /// All messages with an open fate, oldest first.
    pub fn active_messages(&self) -> impl Iterator<Item = MessageRef> {
        let mut index = self.active.oldest;
        std::iter::from_fn(move || {
            let message = self.slot(index)?;
            let reference = MessageRef { index, generation: message.generation };
            index = message.newer;
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
            Some(Slot::Used(message)) if message.generation == reference.generation => Some(&**message),
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
        let Some(route) = self.slot(index).map(|message| message.route.clone()) else { return };
        for other in older {
            let Some(message) = self.slot_mut(*other) else { continue };
            if message.list == List::Active && message.route == route {
                message.ambiguous = true;
                if let Some(message) = self.slot_mut(index) {
                    message.ambiguous = true;
                }
                return;
            }
        }
    }

    fn reference(&self, index: u32) -> MessageRef {
        MessageRef { index, generation: self.slot(index).map_or(0, |message| message.generation) }
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

    fn remove(&mut self, index: u32) {
        self.unlink(index);
        let Some(message) = self.slot(index) else { return };
        let (key, generation) = (message.key, message.generation);
        if let Some(key) = key {
            self.unindex(key, index);
        }
        self.slots[index as usize] = Slot::Free { next: self.free, generation: generation.wrapping_add(1) };
        self.free = index;
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
            message.list = list;
            message.older = newest;
            message.newer = NONE;
        }
        if let Some(previous) = self.slot_mut(newest) {
            previous.newer = index;
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
        let (newer, older, list) = (message.newer, message.older, message.list);
        if let Some(message) = self.slot_mut(newer) {
            message.older = older;
        }
        if let Some(message) = self.slot_mut(older) {
            message.newer = newer;
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
        let sequence = |index: u32| message(index).map_or(0, |message| message.sequence);
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
