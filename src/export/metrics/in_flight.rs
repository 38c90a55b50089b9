//! Messages dispatched and not settled, per queue: exact, and never negative.
//!
//! They are kept apart from the other series, because a queue that came and went in the bounded table of places would take
//! its deliveries' ends with it. The table here keeps every queue in which something is in flight, so the lifecycle's own
//! budget bounds it, and a bounded number of empty ones.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::export::destination::fold;
use crate::export::routes::OTHER;
use crate::lifecycle::transition::{Attributes, Event, State, Transition};
use crate::names::Name;

#[derive(Default)]
pub(super) struct InFlight {
    queues: HashTable<Queue>,
    hasher: DefaultHashBuilder,
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

    pub(super) fn transition(&mut self, line: &Transition<'_>) {
        // The publish of a copy goes on from the original's state, but ends no delivery of it.
        if matches!(line.state, State::Created | State::Confirmed | State::PublishFailed | State::Returned) {
            return;
        }
        let holds = |state: State| matches!(state, State::Dispatched | State::Processing);
        match (line.previous.is_some_and(holds), holds(line.state)) {
            (false, true) => self.add(&line.attributes, line.count),
            (true, false) => self.subtract(&line.attributes, line.count),
            _ => {}
        }
    }

    /// Deliveries that the lifecycle gave up on have no end of their own.
    pub(super) fn event(&mut self, event: &Event<'_>) {
        let of_deliveries = event.attributes.consumer_tag.is_some() || event.attributes.delivery_tag.is_some();
        if matches!(event.name, "evicted" | "fate_unknown") && event.attributes.queue.is_some() && of_deliveries {
            self.subtract(&event.attributes, event.count.unwrap_or(1));
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.queues.iter().map(|queue| queue.count).sum()
    }

    /// Every queue and its count, the fullest first, those beyond [`InFlight::SHOWN`] summed up under `other`.
    pub(super) fn shown(&mut self) -> Vec<(QueueKey, u64)> {
        self.queues.retain(|queue| {
            queue.empty = if queue.count == 0 { queue.empty + 1 } else { 0 };
            queue.empty <= Self::SHOWN_EMPTY
        });
        let mut shown: Vec<_> = self.queues.iter().map(|queue| (queue.key.clone(), queue.count)).collect();
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

    fn add(&mut self, attributes: &Attributes<'_>, count: u64) {
        let names = Names::of(attributes);
        let hash = self.hasher.hash_one(&names);
        if let Some(queue) = self.queues.find_mut(hash, |queue| queue.names() == names) {
            queue.count += count;
            queue.empty = 0;
            return;
        }
        let hasher = &self.hasher;
        let queue = Queue { key: names.key(), count, empty: 0 };
        self.queues.insert_unique(hash, queue, |queue| hasher.hash_one(queue.names()));
    }

    fn subtract(&mut self, attributes: &Attributes<'_>, count: u64) {
        let names = Names::of(attributes);
        let crowded = self.queues.len() > Self::KEPT;
        let hash = self.hasher.hash_one(&names);
        if let Ok(mut found) = self.queues.find_entry(hash, |queue| queue.names() == names) {
            let queue = found.get_mut();
            queue.count = queue.count.saturating_sub(count);
            queue.empty = 0;
            if queue.count == 0 && crowded {
                found.remove();
            }
        }
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
        Names { system: attributes.system, vhost, queue: attributes.queue.map(|name| fold(name)) }
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
