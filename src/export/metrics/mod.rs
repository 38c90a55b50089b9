//! Metrics of every message: counted here, per observed process and per place, and handed out as snapshots that any
//! exporter can render.
//!
//! Counters and histograms are cumulative. Where the number of series reaches its bound, further places count as `other`;
//! a series that was idle for [`Metrics::IDLE`], or whose place was retired for a busier one, ends, and begins anew with a
//! start time of its own should it come back. A correction (`corrects`) takes nothing back from a counter, because counters
//! only rise: it shows as a transition of its own.

mod group;
mod in_flight;
mod snapshot;

use std::collections::HashMap;
use std::time::Duration;

pub use self::snapshot::{MetricPoints, Number, Point, ResourcePoints, Snapshot, Value};

use self::group::Group;
use self::in_flight::{InFlight, Place};
use super::lags::{self, Series};
use super::resource::Endpoints;
use super::routes::{OTHER, Route, RouteId, Routes};
use super::summary::LossTable;
use crate::lifecycle::Lag;
use crate::lifecycle::transition::{Event, Observer, Transition};
use crate::time::Timestamp;

/// The agent's own health, cumulative since it started, as its stages count it.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// What was lost.
    pub lost: LossTable,
    /// Payload that passed watched sockets, in bytes.
    pub capture_bytes: u64,
    /// Packets with payload that passed watched sockets.
    pub capture_segments: u64,
    /// What sessions could not read, by [`crate::protocol::Trouble`]'s name.
    pub parser_errors: Vec<(&'static str, u64)>,
    /// Entries forgotten, by table.
    pub evictions: Vec<(&'static str, u64)>,
    /// What could not be exported: signal (`traces`, `metrics`, `lines`), reason, how many.
    pub export_failed: Vec<(&'static str, &'static str, u64)>,
}

/// Listens to the lifecycle and counts.
pub struct Metrics {
    start: Timestamp,
    routes: Routes,
    retired: Vec<(RouteId, Route)>,
    endpoints: Endpoints,
    groups: Vec<Option<Group>>,
    free: Vec<u32>,
    by_key: HashMap<GroupKey, u32, hashbrown::DefaultHashBuilder>,
    cache: Vec<(GroupKey, u32)>,
    in_flight: InFlight,
    lags: Vec<Series>,
}

impl Metrics {
    /// Series of an idle place end after this long.
    pub const IDLE: Duration = Duration::from_secs(15 * 60);
    /// Pairs of process and place that are kept apart.
    pub const GROUPS: usize = 4096;

    /// Nothing counted; the agent's own counters start at `start`.
    pub fn new(start: Timestamp) -> Metrics {
        Metrics {
            start,
            routes: Routes::new(),
            retired: Vec::new(),
            endpoints: Endpoints::new(),
            groups: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::default(),
            cache: vec![NOTHING; CACHE],
            in_flight: InFlight::default(),
            lags: Vec::new(),
        }
    }

    /// Everything counted so far, and the agent's own health. Ends the series that were idle for too long.
    pub fn snapshot(&mut self, now: Timestamp, health: &Health) -> Snapshot {
        self.drop_idle(now);
        let groups = self.groups.iter().flatten();
        let lags = std::mem::take(&mut self.lags);
        let waiting = snapshot::Waiting { in_flight: &mut self.in_flight, lags };
        snapshot::build(self.start, now, groups, &self.routes, &self.endpoints, waiting, health)
    }

    /// How far consumer groups are behind, for the snapshot that follows.
    pub fn lags(&mut self, lags: impl Iterator<Item = Lag>) {
        self.lags = lags::series(lags);
    }

    /// Messages in flight over all queues.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.total()
    }

    /// The number of a line's group.
    fn group(&mut self, line: &Line<'_>) -> u32 {
        let route = self.routes.of(line.attributes, &mut self.retired);
        if !self.retired.is_empty() {
            let retired = std::mem::take(&mut self.retired);
            self.drop_groups(|group| retired.iter().any(|(route, _)| group.route == *route));
        }
        let endpoint = self.endpoints.of(line.attributes.process, line.attributes.server.copied());
        let key = GroupKey { route, endpoint };
        let slot = key.slot();
        if let Some((cached, number)) = self.cache.get(slot)
            && *cached == key
        {
            return *number;
        }
        let number = self.look_up(key, line.time);
        if let Some(cached) = self.cache.get_mut(slot) {
            *cached = (key, number);
        }
        number
    }

    fn look_up(&mut self, mut key: GroupKey, now: Timestamp) -> u32 {
        if self.by_key.len() >= Self::GROUPS && !self.by_key.contains_key(&key) {
            // No room: the place's `other`, at no process. There are only a few of those.
            key.endpoint = self.endpoints.of(None, None);
            if let Some(route) = self.routes.get(key.route).cloned() {
                key.route = self.routes.other(&route);
            }
        }
        if let Some(number) = self.by_key.get(&key) {
            return *number;
        }
        let queue = self.routes.get(key.route).and_then(|route| route.queue.as_deref());
        let is_of_one_queue = queue != Some(OTHER);
        let group = Some(Group::new(key.route, key.endpoint, is_of_one_queue, now));
        let number = match self.free.pop() {
            Some(number) => number,
            None => {
                self.groups.push(None);
                u32::try_from(self.groups.len() - 1).unwrap_or(u32::MAX)
            }
        };
        if let Some(slot) = self.groups.get_mut(number as usize) {
            *slot = group;
        }
        self.by_key.insert(key, number);
        number
    }

    fn drop_idle(&mut self, now: Timestamp) {
        self.drop_groups(|group| now.since(group.last) >= Self::IDLE);
        let mut used = std::collections::HashSet::new();
        used.extend(self.groups.iter().flatten().map(|group| group.endpoint));
        self.endpoints.keep(|endpoint| used.contains(&endpoint));
        self.cache.fill(NOTHING);
    }

    fn drop_groups(&mut self, gone: impl Fn(&Group) -> bool) {
        for (number, slot) in (0u32..).zip(&mut self.groups) {
            if let Some(group) = slot.take_if(|group| gone(group)) {
                self.by_key.remove(&GroupKey { route: group.route, endpoint: group.endpoint });
                self.free.push(number);
            }
        }
        self.cache.fill(NOTHING);
    }
}

impl Observer for Metrics {
    fn transition(&mut self, transition: &Transition<'_>) {
        let line = Line { attributes: &transition.attributes, time: transition.time };
        let number = self.group(&line);
        if let Some(Some(group)) = self.groups.get_mut(number as usize) {
            group.transition(transition);
            // What was folded into `other` is of many queues.
            let place = if group.is_of_one_queue { &mut group.in_flight } else { &mut Place::default() };
            self.in_flight.transition(transition, place);
        }
    }

    fn event(&mut self, event: &Event<'_>) {
        self.in_flight.event(event);
        if event.name == "settle_failed" {
            let line = Line { attributes: &event.attributes, time: event.time };
            let number = self.group(&line);
            if let Some(Some(group)) = self.groups.get_mut(number as usize) {
                group.settle_failed(event);
            }
        }
    }
}

/// What decides about a line's group.
struct Line<'a> {
    attributes: &'a crate::lifecycle::transition::Attributes<'a>,
    time: Timestamp,
}

/// Entries of the cache.
const CACHE: usize = 1024;

/// A cache entry that no line matches.
const NOTHING: (GroupKey, u32) = (GroupKey { route: RouteId::NONE, endpoint: u32::MAX }, u32::MAX);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct GroupKey {
    route: RouteId,
    endpoint: u32,
}

impl GroupKey {
    fn slot(self) -> usize {
        self.route.index().wrapping_mul(31).wrapping_add(self.endpoint as usize) % CACHE
    }
}
