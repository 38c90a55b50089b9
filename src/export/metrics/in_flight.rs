//! Messages dispatched and not settled, per queue: exact, and never negative.
//!
//! They are kept apart from the other series, because a queue that came and went in the bounded table of places would take
//! its deliveries' ends with it. The table here keeps every queue in which something is in flight, so the lifecycle's own
//! budget bounds it, and a bounded number of empty ones.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::export::destination::fold;
use crate::export::routes::OTHER;
use crate::lifecycle::transition::{Attributes, Event, Transition};
use crate::names::Name;

#[derive(Default)]
pub(super) struct InFlight {
    queues: Vec<Option<Queue>>,
    free: Vec<u32>,
    by_name: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// Counts removals: a [`Place`] from before one is not valid any more.
    epoch: u64,
}

/// Where a queue was found, to be found there again without its name.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    number: u32,
    /// 0: nowhere yet.
    epoch: u64,
}

/// A queue of a virtual host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct QueueKey {
    pub(super) system: &'static str,
    pub(super) vhost: Option<Name>,
    pub(super) queue: Option<Name>,
}

struct Queue {
    key: QueueKey,
    count: u64,
    /// Snapshots that showed it empty since it last changed.
    empty: u32,
}

impl InFlight {
    /// Queues shown by name; the rest is `other`.
    const SHOWN: usize = 1000;
    /// Empty queues are kept up to this size of the table, and shown this often.
    const KEPT: usize = 4096;
    const SHOWN_EMPTY: u32 = 90;

    /// Counts a line. `place` is kept by the caller for lines of the same queue.
    pub(super) fn transition(&mut self, line: &Transition<'_>, place: &mut Place) {
        match line.in_flight_change() {
            0 => {}
            more @ 1.. => self.add(&line.attributes, more.unsigned_abs(), place),
            less => self.subtract(&line.attributes, less.unsigned_abs(), place),
        }
    }

    /// Deliveries that the lifecycle gave up on have no end of their own.
    pub(super) fn event(&mut self, event: &Event<'_>) {
        let less = event.in_flight_change();
        if less < 0 {
            self.subtract(&event.attributes, less.unsigned_abs(), &mut Place::default());
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.queues.iter().flatten().map(|queue| queue.count).sum()
    }

    /// Every queue and its count, the fullest first, those beyond [`InFlight::SHOWN`] summed up under `other`.
    pub(super) fn shown(&mut self) -> Vec<(QueueKey, u64)> {
        for number in 0..u32::try_from(self.queues.len()).unwrap_or(u32::MAX) {
            let Some(Some(queue)) = self.queues.get_mut(number as usize) else { continue };
            queue.empty = if queue.count == 0 { queue.empty + 1 } else { 0 };
            if queue.empty > Self::SHOWN_EMPTY {
                self.remove(number);
            }
        }
        let mut shown: Vec<_> = self.queues.iter().flatten().map(|queue| (queue.key.clone(), queue.count)).collect();
        shown.sort_unstable_by(|left, right| right.1.cmp(&left.1).then_with(|| left.0.cmp(&right.0)));
        if shown.len() > Self::SHOWN {
            let rest = shown.split_off(Self::SHOWN);
            let system = rest.first().map_or("", |(key, _)| key.system);
            let other = QueueKey { system, vhost: None, queue: Some(OTHER.into()) };
            let sum = rest.iter().map(|(_, count)| count).sum();
            match shown.iter_mut().find(|(key, _)| *key == other) {
                Some((_, count)) => *count += sum,
                None => shown.push((other, sum)),
            }
        }
        shown
    }

    fn add(&mut self, attributes: &Attributes<'_>, count: u64, place: &mut Place) {
        let number = match self.find(attributes, place) {
            Some(number) => number,
            None => self.insert(attributes),
        };
        *place = Place { number, epoch: self.epoch + 1 };
        if let Some(Some(queue)) = self.queues.get_mut(number as usize) {
            queue.count += count;
            queue.empty = 0;
        }
    }

    fn subtract(&mut self, attributes: &Attributes<'_>, count: u64, place: &mut Place) {
        let Some(number) = self.find(attributes, place) else { return };
        *place = Place { number, epoch: self.epoch + 1 };
        let Some(Some(queue)) = self.queues.get_mut(number as usize) else { return };
        queue.count = queue.count.saturating_sub(count);
        queue.empty = 0;
        if queue.count == 0 && self.by_name.len() > Self::KEPT {
            self.remove(number);
        }
    }

    fn find(&self, attributes: &Attributes<'_>, place: &Place) -> Option<u32> {
        if place.epoch == self.epoch + 1 {
            return Some(place.number);
        }
        let names = Names::of(attributes);
        let same =
            |number: &u32| matches!(self.queues.get(*number as usize), Some(Some(queue)) if queue.names() == names);
        self.by_name.find(self.hasher.hash_one(&names), same).copied()
    }

    fn insert(&mut self, attributes: &Attributes<'_>) -> u32 {
        let names = Names::of(attributes);
        let queue = Some(Queue { key: names.key(), count: 0, empty: 0 });
        let number = match self.free.pop() {
            Some(number) => number,
            None => {
                self.queues.push(None);
                u32::try_from(self.queues.len() - 1).unwrap_or(u32::MAX)
            }
        };
        if let Some(slot) = self.queues.get_mut(number as usize) {
            *slot = queue;
        }
        let (queues, hasher) = (&self.queues, &self.hasher);
        self.by_name.insert_unique(hasher.hash_one(&names), number, |number| {
            let queue = queues.get(*number as usize).and_then(Option::as_ref);
            queue.map_or(0, |queue| hasher.hash_one(queue.names()))
        });
        number
    }

    fn remove(&mut self, number: u32) {
        let Some(queue) = self.queues.get_mut(number as usize).and_then(Option::take) else { return };
        let hash = self.hasher.hash_one(queue.names());
        if let Ok(found) = self.by_name.find_entry(hash, |other| *other == number) {
            found.remove();
        }
        self.free.push(number);
        self.epoch += 1;
    }
}

#[derive(PartialEq, Eq, Hash)]
struct Names<'a> {
    system: &'static str,
    vhost: Option<&'a str>,
    queue: Option<&'a str>,
}

impl<'a> Names<'a> {
    fn of(attributes: &Attributes<'a>) -> Names<'a> {
        let vhost = attributes.vhost.map(|name| &**name);
        Names { system: attributes.system, vhost, queue: attributes.queue_or_group().map(|name| fold(name)) }
    }

    fn key(&self) -> QueueKey {
        QueueKey { system: self.system, vhost: self.vhost.map(Name::from), queue: self.queue.map(Name::from) }
    }
}

impl Queue {
    fn names(&self) -> Names<'_> {
        Names { system: self.key.system, vhost: self.key.vhost.as_deref(), queue: self.key.queue.as_deref() }
    }
}
