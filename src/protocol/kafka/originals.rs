//! What applications were sent lately, to recognise it where they publish it again without saying so.
//!
//! Whatever a consumer is sent may come back in a dead-letter topic, and nobody knows before it does. So batches are kept as they
//! came, unread, within a budget of bytes, and only of applications that are likely to publish: those that hold a producer; of
//! others only small batches, for a producer may be made when it is needed first. When an application publishes into a retry or
//! dead-letter topic, what is kept of it is read, once, and found by fingerprints from then on.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use hashbrown::HashMap;
use slab::Slab;

use super::batch::Batch;
use super::codec::{Budget, Scratch};
use super::copies::{CopySettings, Kind, Kinds};
use super::likeness::{Likeness, Prints};
use super::reader::Reader;
use crate::names::Name;
use crate::protocol::operation::log::{Partition, Sent};
use crate::stream::{ConnectionId, Facts, Flow};
use crate::time::Timestamp;

/// Where clients run together: what is sent to one of them, another one may publish.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Whereabouts {
    /// A process of this host.
    Process(u32),
    /// Another host.
    Host(IpAddr),
    /// Nobody knows: nothing else is there.
    Connection(ConnectionId),
}

impl Whereabouts {
    /// Of the client of a connection.
    pub fn of(connection: ConnectionId, client: Flow, facts: Option<&Facts>) -> Whereabouts {
        let Some(end) = facts.map(|facts| &facts.ends[client.index()]) else {
            return Whereabouts::Connection(connection);
        };
        match &end.owner {
            Some(owner) => Whereabouts::Process(owner.pid),
            // Every process of this host has this address.
            None if end.local || end.address.ip().is_loopback() => Whereabouts::Connection(connection),
            None => Whereabouts::Host(end.address.ip()),
        }
    }
}

/// The clients of one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Application(usize);

/// A batch that was sent.
struct Kept {
    number: u64,
    partition: Partition,
    connection: ConnectionId,
    first: i64,
    sent: Timestamp,
    body: Body,
}

enum Body {
    /// As it came.
    Unread(Box<(Batch, Box<[u8]>)>),
    /// The fingerprints of its records, and their places in it.
    Read(Vec<(u64, u32)>),
}

impl Kept {
    /// What it costs in memory; a fingerprint is in two tables.
    fn cost(&self) -> usize {
        let body = match &self.body {
            Body::Unread(unread) => size_of::<Batch>() + unread.1.len(),
            Body::Read(prints) => prints.len() * PRINT,
        };
        size_of::<Kept>() + size_of::<(usize, u64)>() + body
    }
}

/// Memory for one fingerprint in bytes.
const PRINT: usize = size_of::<(u64, u32)>() + 2 * size_of::<(u64, u64, u32)>();

#[derive(Default)]
struct Known {
    whereabouts: Option<Whereabouts>,
    connections: usize,
    /// It holds a producer.
    produces: bool,
    /// It holds a consumer.
    consumes: bool,
    /// In the order in which they were sent.
    kept: VecDeque<Kept>,
    unread: usize,
    /// Fingerprint, batch, place in it.
    prints: BTreeSet<(u64, u64, u32)>,
    cost: usize,
    /// When the last was sent that is not kept, or was not read to its end.
    missed: Option<Timestamp>,
}

impl Known {
    fn miss(&mut self, sent: Timestamp) {
        self.missed = self.missed.max(Some(sent));
    }

    /// Forgets its oldest batch; what that cost.
    fn forget_first(&mut self) -> usize {
        let Some(kept) = self.kept.pop_front() else { return 0 };
        let cost = kept.cost();
        self.cost -= cost;
        match &kept.body {
            Body::Unread(_) => self.unread -= 1,
            Body::Read(prints) => {
                for (print, place) in prints {
                    self.prints.remove(&(*print, kept.number, *place));
                }
            }
        }
        self.miss(kept.sent);
        cost
    }

    /// Those with a fingerprint, the latest first.
    fn with(&self, print: Option<u64>) -> Vec<(u64, u32)> {
        let Some(print) = print else { return Vec::new() };
        let range = self.prints.range((print, 0, 0)..=(print, u64::MAX, u32::MAX));
        range.rev().take(Originals::ALIKE).map(|(_, number, place)| (*number, *place)).collect()
    }

    fn sent(&self, (number, place): (u64, u32)) -> Option<Sent> {
        let at = self.kept.binary_search_by_key(&number, |kept| kept.number).ok()?;
        let Kept { partition, connection, first, .. } = self.kept.get(at)?;
        let offset = first.saturating_add(i64::from(place));
        Some(Sent { partition: partition.clone(), offset, connection: *connection })
    }
}

/// See the [module](self).
pub(in crate::protocol) struct Originals {
    kinds: Kinds,
    applications: Slab<Known>,
    places: HashMap<Whereabouts, usize>,
    /// All that are kept, and some that are not any more, in order.
    order: VecDeque<(usize, u64)>,
    kept: usize,
    cost: usize,
    budget: usize,
    next: u64,
    reader: Reader,
    scratch: Scratch,
}

impl Default for Originals {
    fn default() -> Self {
        Originals::new(CopySettings::default())
    }
}

impl Originals {
    /// Of an application without a producer, batches up to this size are kept,
    const SMALL: usize = 4 << 10;
    /// and so many bytes of them.
    const WINDOW: usize = 64 << 10;
    /// An application with a producer may take this part of the budget.
    const SHARE: usize = 4;
    /// Records that are alike which are told of.
    const ALIKE: usize = 64;
    /// What one record may cost in decompressed bytes until it is known what it is like; what is left unread is for the next one.
    const WORK: u64 = 16 << 20;
    /// What was missed longer ago does not count: an application must be back for more by then (`max.poll.interval.ms`, its
    /// default).
    const LATELY: Duration = Duration::from_secs(300);

    /// With these patterns and this memory.
    pub fn new(settings: CopySettings) -> Originals {
        Originals {
            budget: settings.bytes,
            kinds: Kinds::new(settings),
            applications: Slab::new(),
            places: HashMap::new(),
            order: VecDeque::new(),
            kept: 0,
            cost: 0,
            next: 0,
            reader: Reader::default(),
            scratch: Scratch::default(),
        }
    }

    /// What a topic's name says of it.
    pub(super) fn kind(&mut self, topic: &Name) -> Kind {
        self.kinds.of(topic)
    }

    /// A connection belongs to a place.
    pub(super) fn join(&mut self, whereabouts: Whereabouts) -> Application {
        let Originals { applications, places, .. } = self;
        let number = *places.entry(whereabouts).or_insert_with_key(|whereabouts| {
            applications.insert(Known { whereabouts: Some(whereabouts.clone()), ..Known::default() })
        });
        if let Some(known) = applications.get_mut(number) {
            known.connections += 1;
        }
        Application(number)
    }

    /// A connection has ended. With the last one nobody is left who could publish anything.
    pub(super) fn leave(&mut self, application: Application) {
        let Some(known) = self.applications.get_mut(application.0) else { return };
        known.connections = known.connections.saturating_sub(1);
        if known.connections == 0 {
            let known = self.applications.remove(application.0);
            self.kept -= known.kept.len();
            self.cost -= known.cost;
            known.whereabouts.map(|whereabouts| self.places.remove(&whereabouts));
        }
    }

    /// An application holds a producer.
    pub(super) fn produces(&mut self, application: Application) {
        if let Some(known) = self.applications.get_mut(application.0) {
            known.produces = true;
        }
    }

    /// An application holds a consumer.
    pub(super) fn consumes(&mut self, application: Application) {
        if let Some(known) = self.applications.get_mut(application.0) {
            known.consumes = true;
        }
    }

    /// Whether what an application publishes may be copies of what it was sent.
    pub(super) fn may_copy(&self, application: Application) -> bool {
        let Some(known) = self.applications.get(application.0) else { return true };
        // What else there is where it runs may not be known.
        known.consumes || matches!(known.whereabouts, None | Some(Whereabouts::Connection(_)))
    }

    /// Whether a batch that an application is sent is to be kept.
    pub(super) fn wants(&mut self, application: Application, size: u64, now: Timestamp) -> bool {
        let most = self.budget / Self::SHARE;
        let Some(known) = self.applications.get_mut(application.0) else { return false };
        let most = if known.produces { most } else { most.min(Self::SMALL) };
        let wanted = usize::try_from(size).is_ok_and(|size| size <= most);
        if !wanted {
            known.miss(now);
        }
        wanted
    }

    /// What was wanted was not there, or not whole.
    pub(super) fn missed(&mut self, application: Application, now: Timestamp) {
        if let Some(known) = self.applications.get_mut(application.0) {
            known.miss(now);
        }
    }

    /// Keeps a batch that an application was sent.
    pub(super) fn keep(
        &mut self,
        application: Application,
        (partition, connection): (Partition, ConnectionId),
        batch: &Batch,
        body: Vec<u8>,
        now: Timestamp,
    ) {
        let Some(known) = self.applications.get_mut(application.0) else { return };
        let body = Body::Unread(Box::new((*batch, body.into_boxed_slice())));
        let kept = Kept { number: self.next, partition, connection, first: batch.base_offset, sent: now, body };
        self.order.push_back((application.0, self.next));
        self.next += 1;
        self.kept += 1;
        self.cost += kept.cost();
        known.cost += kept.cost();
        known.unread += 1;
        known.kept.push_back(kept);
        self.make_room(application);
    }

    /// Of what an application was sent, what is like a record, the latest first; and whether there may be more.
    pub(super) fn alike(&mut self, application: Application, wanted: Likeness, now: Timestamp) -> (Vec<Sent>, bool) {
        self.read(application, now);
        let Some(known) = self.applications.get(application.0) else { return (Vec::new(), false) };
        let (content, trace) = (known.with(wanted.content), known.with(wanted.trace));
        let both: Vec<_> = content.iter().copied().filter(|place| trace.contains(place)).collect();
        // What has the same content, and of that what has the same trace, if that is known.
        let best = [both, content, trace].into_iter().find(|found| !found.is_empty()).unwrap_or_default();
        let lately = known.missed.is_some_and(|missed| now.since(missed) <= Self::LATELY);
        (best.into_iter().filter_map(|place| known.sent(place)).collect(), lately || known.unread > 0)
    }

    /// Memory in bytes.
    pub fn cost(&self) -> usize {
        self.cost
    }

    /// Reads what is kept of an application and was not read before, the latest first.
    fn read(&mut self, application: Application, now: Timestamp) {
        let Originals { applications, reader, scratch, cost, budget, .. } = self;
        let Some(known) = applications.get_mut(application.0).filter(|known| known.unread > 0) else { return };
        let Known { kept, unread, prints, cost: own, missed, .. } = known;
        let mut work = Self::WORK;
        for kept in kept.iter_mut().rev() {
            let (before, number) = (kept.cost(), kept.number);
            let Body::Unread(waiting) = &kept.body else { continue };
            if work == 0 {
                break;
            }
            let (batch, body) = &**waiting;
            let most = *budget / Self::SHARE / PRINT;
            let mut found = Prints { most, ..Prints::default() };
            reader.begin(batch, &[], Budget { output: Self::WORK, ..Budget::default() });
            reader.data(batch, body, scratch, &mut found);
            let end = reader.end(batch, 0, scratch, &mut found);
            work = work.saturating_sub(end.work.max(1));
            if found.is_full || end.outcome != super::reader::Outcome::Read {
                *missed = (*missed).max(Some(now));
            }
            prints.extend(found.found.iter().map(|(print, place)| (*print, number, *place)));
            found.found.shrink_to_fit();
            kept.body = Body::Read(found.found);
            *unread -= 1;
            *own = *own + kept.cost() - before;
            *cost = *cost + kept.cost() - before;
        }
        self.make_room(application);
    }

    /// Forgets the oldest: of an application that has more than its share, and of all.
    fn make_room(&mut self, application: Application) {
        let Originals { applications, order, kept, cost, budget, .. } = self;
        if let Some(known) = applications.get_mut(application.0) {
            let share = *budget / Self::SHARE;
            let most = if known.produces { share } else { share.min(Self::WINDOW) };
            while known.cost > most && !known.kept.is_empty() {
                *cost -= known.forget_first();
                *kept -= 1;
            }
        }
        while *cost > *budget
            && let Some((owner, number)) = order.pop_front()
        {
            let owner = applications.get_mut(owner);
            let first = owner.filter(|known| known.kept.front().is_some_and(|kept| kept.number == number));
            if let Some(known) = first {
                *cost -= known.forget_first();
                *kept -= 1;
            }
        }
        if order.len() > 2 * *kept + 1024 {
            let oldest = |owner: usize| applications.get(owner).and_then(|known| known.kept.front());
            order.retain(|(owner, number)| oldest(*owner).is_some_and(|kept| kept.number <= *number));
        }
    }
}
