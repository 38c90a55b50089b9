//! A bounded table of the places that messages pass: system, virtual host, destination and queue.
//!
//! Every total and every metric is kept per route, and names come from the wire, so their number has to be bounded without
//! losing a count. Three rules do that:
//!
//! - generated names fold into one ([`super::destination::GENERATED`]);
//! - a *scope* (a queue; for what happens before any queue, an exchange) has at most [`Routes::DESTINATIONS`] destinations,
//!   further ones share the scope's route `other`, so that counts per queue stay exact under any routing keys;
//! - beyond [`Routes::SCOPES`] scopes the least used are retired, and what finds no room goes to a route named `other`.
//!
//! A look-up costs a few nanoseconds as long as names are shared ([`crate::names::Names`]): a small cache is keyed by their
//! addresses, and holds them, so that an address cannot come to mean another name.

use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::destination::{Destination, fold};
use crate::lifecycle::transition::Attributes;
use crate::names::Name;

/// Stands for everything that the table has no room for.
pub const OTHER: &str = "other";

/// A route's number, below [`Routes::bound`]. A retired route's number is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteId(u32);

impl RouteId {
    /// For tables indexed by route.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a route's lines have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// messaging.system.
    pub system: &'static str,
    /// Virtual host, where known.
    pub vhost: Option<Name>,
    /// messaging.destination.name, folded.
    pub destination: Name,
    /// A part of the destination's name was generated, and folded.
    pub generated: bool,
    /// The queue, folded; `None` for what happens before any queue.
    pub queue: Option<Name>,
}

/// The table.
pub struct Routes {
    cache: Vec<Cached>,
    entries: Vec<Option<Entry>>,
    scopes: Vec<Option<Scope>>,
    free_entries: Vec<u32>,
    free_scopes: Vec<u32>,
    entries_by_key: HashTable<u32>,
    scopes_by_key: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// Lines since scopes were last retired.
    lines: u64,
    folded: u64,
}

impl Routes {
    /// Scopes that are kept apart; the rest is `other`. Between two retirements there may be twice as many.
    pub const SCOPES: usize = 1000;
    /// Destinations of a scope that are kept apart.
    pub const DESTINATIONS: u32 = 64;
    /// Routes in all that are kept apart; beyond, a new destination is its scope's `other`.
    pub const ROUTES: usize = 4096;

    /// An empty table.
    pub fn new() -> Routes {
        Routes {
            cache: vec![Cached::default(); CACHE],
            entries: Vec::new(),
            scopes: Vec::new(),
            free_entries: Vec::new(),
            free_scopes: Vec::new(),
            entries_by_key: HashTable::new(),
            scopes_by_key: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            lines: 0,
            folded: 0,
        }
    }

    /// The route of a line. Pushes the routes that were retired to make room: their numbers may come back as other routes,
    /// so whoever keeps something by route has to move it to [`Routes::other`] or forget it, before it asks again.
    pub fn of(&mut self, attributes: &Attributes<'_>, retired: &mut Vec<(RouteId, Route)>) -> RouteId {
        self.lines += 1;
        let slot = cache_slot(attributes);
        if let Some(cached) = self.cache.get(slot)
            && cached.is(attributes)
        {
            let route = cached.route;
            self.used(route);
            return route;
        }
        let route = self.look_up(attributes, retired);
        if let Some(cached) = self.cache.get_mut(slot) {
            *cached = Cached::new(attributes, route);
        }
        self.used(route);
        route
    }

    /// What a route stands for.
    pub fn get(&self, route: RouteId) -> Option<&Route> {
        self.entries.get(route.index())?.as_ref().map(|entry| &entry.route)
    }

    /// The route that takes over what a retired one had.
    pub fn other(&mut self, retired: &Route) -> RouteId {
        let queue = if retired.queue.is_some() { OTHER } else { "" };
        self.insert(&Key { system: retired.system, vhost: None, exchange: "", routing_key: OTHER, queue }, true)
    }

    /// All routes, by number.
    pub fn iter(&self) -> impl Iterator<Item = (RouteId, &Route)> {
        let number = |index: usize| RouteId(u32::try_from(index).unwrap_or(u32::MAX));
        self.entries.iter().enumerate().filter_map(move |(index, entry)| Some((number(index), &entry.as_ref()?.route)))
    }

    /// Every route's number is below it.
    pub fn bound(&self) -> usize {
        self.entries.len()
    }

    /// How many names went into an `other` so far: retired scopes, and look-ups that found no room.
    pub fn folded(&self) -> u64 {
        self.folded
    }

    fn used(&mut self, route: RouteId) {
        if let Some(Some(entry)) = self.entries.get_mut(route.index()) {
            entry.recent += 1;
        }
    }

    fn look_up(&mut self, attributes: &Attributes<'_>, retired: &mut Vec<(RouteId, Route)>) -> RouteId {
        let text = |name: Option<&Name>| -> Option<Name> { name.cloned() };
        let (exchange, routing_key) = (text(attributes.exchange), text(attributes.routing_key));
        let (queue, vhost) = (text(attributes.queue), text(attributes.vhost));
        let mut key = Key {
            system: attributes.system,
            vhost: vhost.as_deref(),
            exchange: fold(exchange.as_deref().unwrap_or_default()),
            routing_key: fold(routing_key.as_deref().unwrap_or_default()),
            queue: fold(queue.as_deref().unwrap_or_default()),
        };
        if let Some(route) = self.find(&key) {
            return route;
        }
        if self.find_scope(&key.scope()).is_none() && self.scope_count() >= 2 * Self::SCOPES {
            // Retiring costs as much as the table is long, so it has to be earned by as many lines.
            if self.lines >= 16 * Self::SCOPES as u64 {
                self.retire(retired);
            } else {
                self.folded += 1;
                let queue = if key.queue.is_empty() { "" } else { OTHER };
                return self.insert(&Key { vhost: None, exchange: "", routing_key: OTHER, queue, ..key }, true);
            }
        }
        let crowded = self.find_scope(&key.scope()).is_some_and(|scope| scope.destinations >= Self::DESTINATIONS);
        if crowded || self.entries_by_key.len() >= Self::ROUTES {
            self.folded += 1;
            // The default exchange's scope is the routing key itself, which stays.
            if !(key.queue.is_empty() && key.exchange.is_empty()) {
                key.routing_key = OTHER;
            }
        }
        self.insert(&key, false)
    }

    fn find(&self, key: &Key<'_>) -> Option<RouteId> {
        let same = |index: &u32| self.entry(*index).is_some_and(|entry| entry.key.borrowed() == *key);
        self.entries_by_key.find(self.hasher.hash_one(key), same).map(|index| RouteId(*index))
    }

    fn find_scope(&self, key: &ScopeKey<'_>) -> Option<&Scope> {
        let same = |index: &u32| self.scope(*index).is_some_and(|scope| scope.key.scope() == *key);
        self.scopes_by_key.find(self.hasher.hash_one(key), same).and_then(|index| self.scope(*index))
    }

    fn insert(&mut self, key: &Key<'_>, permanent: bool) -> RouteId {
        if let Some(route) = self.find(key) {
            return route;
        }
        let scope_key = key.scope();
        let scope_hash = self.hasher.hash_one(&scope_key);
        let scopes = &mut self.scopes;
        let same =
            |index: &u32| matches!(scopes.get(*index as usize), Some(Some(scope)) if scope.key.scope() == scope_key);
        let scope = match self.scopes_by_key.find(scope_hash, same) {
            Some(index) => *index,
            None => {
                let index =
                    place(scopes, &mut self.free_scopes, Scope { key: key.owned(), destinations: 0, permanent });
                let hasher = &self.hasher;
                self.scopes_by_key.insert_unique(scope_hash, index, |index| {
                    scopes
                        .get(*index as usize)
                        .and_then(Option::as_ref)
                        .map_or(0, |scope| hasher.hash_one(scope.key.scope()))
                });
                index
            }
        };
        if let Some(Some(scope)) = self.scopes.get_mut(scope as usize) {
            scope.destinations += 1;
        }
        let entry = Entry { key: key.owned(), route: key.route(), scope, recent: 0 };
        let entries = &mut self.entries;
        let index = place(entries, &mut self.free_entries, entry);
        let hasher = &self.hasher;
        self.entries_by_key.insert_unique(hasher.hash_one(key), index, |index| {
            entries
                .get(*index as usize)
                .and_then(Option::as_ref)
                .map_or(0, |entry| hasher.hash_one(entry.key.borrowed()))
        });
        RouteId(index)
    }

    /// Retires the least used scopes, down to [`Routes::SCOPES`].
    fn retire(&mut self, retired: &mut Vec<(RouteId, Route)>) {
        self.lines = 0;
        let mut uses = vec![0u64; self.scopes.len()];
        for entry in self.entries.iter_mut().flatten() {
            if let Some(sum) = uses.get_mut(entry.scope as usize) {
                *sum += entry.recent;
            }
            // Old merit fades, so that what is busy now wins in the end.
            entry.recent /= 2;
        }
        let mut candidates: Vec<(u64, u32)> = (0u32..)
            .zip(&self.scopes)
            .filter(|(_, scope)| scope.as_ref().is_some_and(|scope| !scope.permanent))
            .map(|(index, _)| (uses.get(index as usize).copied().unwrap_or(0), index))
            .collect();
        // Ties go by number, so that a replay retires the same ones.
        candidates.sort_unstable();
        candidates.truncate(self.scope_count().saturating_sub(Self::SCOPES));
        let leaving: std::collections::HashSet<u32> = candidates.into_iter().map(|(_, index)| index).collect();
        self.folded += leaving.len() as u64;
        for index in 0..self.entries.len() {
            let Some(slot) = self.entries.get_mut(index) else { break };
            if let Some(entry) = slot.take_if(|entry| leaving.contains(&entry.scope)) {
                let number = u32::try_from(index).unwrap_or(u32::MAX);
                let hash = self.hasher.hash_one(entry.key.borrowed());
                if let Ok(found) = self.entries_by_key.find_entry(hash, |other| *other == number) {
                    found.remove();
                }
                self.free_entries.push(number);
                retired.push((RouteId(number), entry.route));
            }
        }
        for number in leaving {
            if let Some(scope) = self.scopes.get_mut(number as usize).and_then(Option::take) {
                let hash = self.hasher.hash_one(scope.key.scope());
                if let Ok(found) = self.scopes_by_key.find_entry(hash, |other| *other == number) {
                    found.remove();
                }
                self.free_scopes.push(number);
            }
        }
        // Numbers are used again in a fixed order, whatever order the set had.
        self.free_entries.sort_unstable_by(|left, right| right.cmp(left));
        self.free_scopes.sort_unstable_by(|left, right| right.cmp(left));
        self.cache.fill(Cached::default());
    }

    fn scope_count(&self) -> usize {
        self.scopes.len() - self.free_scopes.len()
    }

    fn entry(&self, index: u32) -> Option<&Entry> {
        self.entries.get(index as usize)?.as_ref()
    }

    fn scope(&self, index: u32) -> Option<&Scope> {
        self.scopes.get(index as usize)?.as_ref()
    }
}

impl Default for Routes {
    fn default() -> Routes {
        Routes::new()
    }
}

/// Entries of the cache; a power of two.
const CACHE: usize = 1024;

/// The names of a line, by address, and its route.
#[derive(Clone)]
struct Cached {
    system: &'static str,
    names: [Option<Name>; 4],
    route: RouteId,
}

impl Default for Cached {
    /// An entry that no line matches: no line's system is this string.
    fn default() -> Cached {
        Cached { system: "\0", names: [None, None, None, None], route: RouteId(0) }
    }
}

impl Cached {
    fn new(attributes: &Attributes<'_>, route: RouteId) -> Cached {
        Cached { system: attributes.system, names: names(attributes).map(|name| name.cloned()), route }
    }

    fn is(&self, attributes: &Attributes<'_>) -> bool {
        let same = |(held, given): (&Option<Name>, Option<&Name>)| match (held, given) {
            (Some(held), Some(given)) => Arc::ptr_eq(held, given),
            (None, None) => true,
            _ => false,
        };
        self.system == attributes.system && self.names.iter().zip(names(attributes)).all(same)
    }
}

fn names<'a>(attributes: &Attributes<'a>) -> [Option<&'a Name>; 4] {
    [attributes.exchange, attributes.routing_key, attributes.queue, attributes.vhost]
}

fn cache_slot(attributes: &Attributes<'_>) -> usize {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = 0u64;
    for name in names(attributes) {
        let address = name.map_or(0, |name| name.as_ptr().addr() as u64);
        hash = (hash.rotate_left(23) ^ address).wrapping_mul(ODD);
    }
    (hash >> 54) as usize & (CACHE - 1)
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key<'a> {
    system: &'static str,
    vhost: Option<&'a str>,
    exchange: &'a str,
    routing_key: &'a str,
    queue: &'a str,
}

/// A queue, or before any queue an exchange, or a routing key of the default exchange (which is a queue's name).
#[derive(PartialEq, Eq, Hash)]
struct ScopeKey<'a> {
    system: &'static str,
    vhost: Option<&'a str>,
    kind: u8,
    name: &'a str,
}

impl<'a> Key<'a> {
    fn scope(&self) -> ScopeKey<'a> {
        let (kind, name) = match (self.queue, self.exchange) {
            ("", "") => (0, self.routing_key),
            ("", exchange) => (1, exchange),
            (queue, _) => (2, queue),
        };
        ScopeKey { system: self.system, vhost: self.vhost, kind, name }
    }

    fn owned(&self) -> OwnedKey {
        OwnedKey {
            system: self.system,
            vhost: self.vhost.map(Name::from),
            exchange: self.exchange.into(),
            routing_key: self.routing_key.into(),
            queue: self.queue.into(),
        }
    }

    fn route(&self) -> Route {
        let destination = Destination::new(self.exchange, self.routing_key, self.queue);
        Route {
            system: self.system,
            vhost: self.vhost.map(Name::from),
            destination: destination.to_string().into(),
            generated: destination.parts().contains(&super::destination::GENERATED),
            queue: Some(self.queue).filter(|queue| !queue.is_empty()).map(Name::from),
        }
    }
}

struct OwnedKey {
    system: &'static str,
    vhost: Option<Name>,
    exchange: Name,
    routing_key: Name,
    queue: Name,
}

impl OwnedKey {
    fn borrowed(&self) -> Key<'_> {
        Key {
            system: self.system,
            vhost: self.vhost.as_deref(),
            exchange: &self.exchange,
            routing_key: &self.routing_key,
            queue: &self.queue,
        }
    }

    fn scope(&self) -> ScopeKey<'_> {
        self.borrowed().scope()
    }
}

struct Entry {
    key: OwnedKey,
    route: Route,
    scope: u32,
    /// Lines lately; halved at each retirement.
    recent: u64,
}

struct Scope {
    key: OwnedKey,
    destinations: u32,
    /// An `other`, which stays.
    permanent: bool,
}

fn place<T>(table: &mut Vec<Option<T>>, free: &mut Vec<u32>, value: T) -> u32 {
    if let Some(index) = free.pop()
        && let Some(slot) = table.get_mut(index as usize)
    {
        *slot = Some(value);
        return index;
    }
    table.push(Some(value));
    u32::try_from(table.len() - 1).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Names;

    fn route_of(routes: &mut Routes, names: &mut Names, parts: [&str; 3]) -> (RouteId, Vec<(RouteId, Route)>) {
        let [exchange, routing_key, queue] = parts.map(|part| names.intern(part.as_bytes()));
        let queue = Some(&queue).filter(|queue| !queue.is_empty());
        let attributes = Attributes {
            system: "rabbitmq",
            exchange: Some(&exchange),
            routing_key: Some(&routing_key),
            queue,
            ..Attributes::default()
        };
        let mut retired = Vec::new();
        (routes.of(&attributes, &mut retired), retired)
    }

    #[test]
    fn equal_names_have_one_route_cached_or_not() {
        let (mut routes, mut names, mut more_names) = (Routes::new(), Names::default(), Names::default());
        let (first, _) = route_of(&mut routes, &mut names, ["x", "k", "q"]);
        assert_eq!(route_of(&mut routes, &mut names, ["x", "k", "q"]).0, first);
        assert_eq!(route_of(&mut routes, &mut more_names, ["x", "k", "q"]).0, first);
        assert_ne!(route_of(&mut routes, &mut names, ["x", "k", ""]).0, first);
        assert_eq!(&*routes.get(first).unwrap().destination, "x:k:q");
        let (generated, _) = route_of(&mut routes, &mut names, ["", "amq.gen-1", "amq.gen-1"]);
        assert_eq!(route_of(&mut routes, &mut names, ["", "amq.gen-2", "amq.gen-2"]).0, generated);
        assert!(routes.get(generated).unwrap().generated);
    }

    #[test]
    fn routing_keys_without_end_stay_with_their_queue() {
        let (mut routes, mut names) = (Routes::new(), Names::default());
        for number in 0..10_000 {
            let (route, retired) = route_of(&mut routes, &mut names, ["events", &format!("order.{number}"), "audit"]);
            assert_eq!(routes.get(route).unwrap().queue.as_deref(), Some("audit"));
            assert!(retired.is_empty());
        }
        assert_eq!(routes.bound(), Routes::DESTINATIONS as usize + 1);
        assert_eq!(routes.folded(), 10_000 - u64::from(Routes::DESTINATIONS));
    }

    #[test]
    fn queues_without_end_are_bounded_and_busy_ones_get_in() {
        let (mut routes, mut names) = (Routes::new(), Names::default());
        for number in 0..200_000u32 {
            route_of(&mut routes, &mut names, ["", &format!("q{number}"), &format!("q{number}")]);
            assert!(routes.bound() <= 2 * Routes::SCOPES + 4, "{}", routes.bound());
            if number > 100_000 {
                route_of(&mut routes, &mut names, ["", "busy", "busy"]);
            }
        }
        let (busy, _) = route_of(&mut routes, &mut names, ["", "busy", "busy"]);
        assert_eq!(routes.get(busy).unwrap().queue.as_deref(), Some("busy"));
        assert!(routes.iter().any(|(_, route)| route.queue.as_deref() == Some(OTHER)));
    }

    #[test]
    fn a_retired_number_never_comes_back_unannounced() {
        let (mut routes, mut names) = (Routes::new(), Names::default());
        let mut known: std::collections::HashMap<RouteId, Route> = std::collections::HashMap::new();
        for number in 0..100_000u32 {
            let name = format!("q{}", number.wrapping_mul(2_654_435_761) % 30_000);
            let (route, retired) = route_of(&mut routes, &mut names, ["", &name, &name]);
            for (number, gone) in retired {
                assert_eq!(known.remove(&number).as_ref(), Some(&gone));
                routes.other(&gone);
            }
            let now = routes.get(route).unwrap().clone();
            assert_eq!(known.entry(route).or_insert_with(|| now.clone()), &now);
            for (other, route) in routes.iter().filter(|(_, route)| &*route.destination == OTHER) {
                known.insert(other, route.clone());
            }
        }
    }
}
