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

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::destination::{Destination, GENERATED, fold};
use crate::lifecycle::transition::Attributes;
use crate::names::Name;

/// Stands for everything that the table has no room for.
pub const OTHER: &str = "other";

/// A route's number, below [`Routes::bound`]. A retired route's number is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteId(u32);

impl RouteId {
    /// No route.
    pub const NONE: RouteId = RouteId(u32::MAX);

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
    /// The queue, folded, or the consumer group; `None` for what happens before any, or without.
    pub queue: Option<Name>,
}

/// The table.
pub struct Routes {
    cache: Vec<Cached>,
    entries: Vec<Option<Entry>>,
    scopes: Vec<Option<Scope>>,
    free_entries: Vec<u32>,
    free_scopes: Vec<u32>,
    by_route: HashTable<u32>,
    by_scope: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// Scratch: the name of the route looked for.
    name: String,
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
            by_route: HashTable::new(),
            by_scope: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            name: String::new(),
            lines: 0,
            folded: 0,
        }
    }

    /// The route of a line. Pushes the routes that were retired to make room: their numbers may come back as other routes,
    /// so whoever keeps something by route has to move it to [`Routes::other`] or forget it, before it asks again.
    pub fn of(&mut self, attributes: &Attributes<'_>, retired: &mut Vec<(RouteId, Route)>) -> RouteId {
        self.lines += 1;
        let addresses = Addresses::of(attributes);
        let slot = addresses.slot();
        if let Some(cached) = self.cache.get(slot)
            && cached.addresses.are(&addresses)
        {
            let route = cached.route;
            self.used(route);
            return route;
        }
        let route = self.look_up(attributes, retired);
        if let Some(cached) = self.cache.get_mut(slot) {
            let routing_key = attributes.routing_key.or(attributes.topic);
            let names = [attributes.exchange, routing_key, attributes.queue_or_group(), attributes.vhost];
            *cached = Cached { addresses, _held: names.map(|name| name.cloned()), route };
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
        self.insert(&Parts { system: retired.system, vhost: None, exchange: "", routing_key: OTHER, queue }, true)
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
        let mut parts = Parts::of(attributes);
        if let Some(route) = self.find(&parts) {
            return route;
        }
        if self.find_scope(&parts.scope()).is_none() && self.scope_count() >= 2 * Self::SCOPES {
            // Retiring costs as much as the table is long, so it has to be earned by as many lines.
            if self.lines >= 16 * Self::SCOPES as u64 {
                self.retire(retired);
            } else {
                self.folded += 1;
                let queue = if parts.queue.is_empty() { "" } else { OTHER };
                return self.insert(&Parts { vhost: None, exchange: "", routing_key: OTHER, queue, ..parts }, true);
            }
        }
        let scope = self.find_scope(&parts.scope()).and_then(|number| self.scope(number));
        let crowded = scope.is_some_and(|scope| scope.destinations >= Self::DESTINATIONS);
        if crowded || self.by_route.len() >= Self::ROUTES {
            self.folded += 1;
            // The default exchange's scope is the routing key itself, which stays.
            if parts.is_log() {
                parts.queue = if parts.queue.is_empty() { "" } else { OTHER };
            } else if !(parts.queue.is_empty() && parts.exchange.is_empty()) {
                parts.routing_key = OTHER;
            }
        }
        self.insert(&parts, false)
    }

    /// The route with this name, if there is one; leaves the name in `self.name`.
    fn find(&mut self, parts: &Parts<'_>) -> Option<RouteId> {
        self.name.clear();
        parts.destination().append_to(&mut self.name);
        let key = RouteKey { system: parts.system, vhost: parts.vhost, destination: &self.name, queue: parts.queue };
        let same = |number: &u32| self.entry(*number).is_some_and(|entry| entry.route.key() == key);
        self.by_route.find(self.hasher.hash_one(&key), same).map(|number| RouteId(*number))
    }

    fn find_scope(&self, key: &ScopeKey<'_>) -> Option<u32> {
        let same = |number: &u32| self.scope(*number).is_some_and(|scope| scope.key() == *key);
        self.by_scope.find(self.hasher.hash_one(key), same).copied()
    }

    fn insert(&mut self, parts: &Parts<'_>, permanent: bool) -> RouteId {
        if let Some(route) = self.find(parts) {
            return route;
        }
        let scope = self.scope_for(&parts.scope(), permanent);
        let entry = Entry { route: parts.route(&self.name), scope, recent: 0 };
        let hash = self.hasher.hash_one(entry.route.key());
        let number = place(&mut self.entries, &mut self.free_entries, entry);
        let (entries, hasher) = (&self.entries, &self.hasher);
        self.by_route.insert_unique(hash, number, |number| {
            let entry = entries.get(*number as usize).and_then(Option::as_ref);
            entry.map_or(0, |entry| hasher.hash_one(entry.route.key()))
        });
        RouteId(number)
    }

    /// The scope's number, for one more destination.
    fn scope_for(&mut self, key: &ScopeKey<'_>, permanent: bool) -> u32 {
        let number = match self.find_scope(key) {
            Some(number) => number,
            None => {
                let number = place(&mut self.scopes, &mut self.free_scopes, Scope::new(key, permanent));
                let (scopes, hasher) = (&self.scopes, &self.hasher);
                self.by_scope.insert_unique(hasher.hash_one(key), number, |number| {
                    let scope = scopes.get(*number as usize).and_then(Option::as_ref);
                    scope.map_or(0, |scope| hasher.hash_one(scope.key()))
                });
                number
            }
        };
        if let Some(Some(scope)) = self.scopes.get_mut(number as usize) {
            scope.destinations += 1;
        }
        number
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
                let hash = self.hasher.hash_one(entry.route.key());
                if let Ok(found) = self.by_route.find_entry(hash, |other| *other == number) {
                    found.remove();
                }
                self.free_entries.push(number);
                retired.push((RouteId(number), entry.route));
            }
        }
        for number in leaving {
            if let Some(scope) = self.scopes.get_mut(number as usize).and_then(Option::take) {
                let hash = self.hasher.hash_one(scope.key());
                if let Ok(found) = self.by_scope.find_entry(hash, |other| *other == number) {
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

/// The addresses of a line's system and names; 0 for a name that is absent.
#[derive(Clone, Copy)]
struct Addresses([usize; 5]);

impl Addresses {
    /// No line has these: a system is never at address 0.
    const NONE: Addresses = Addresses([0; 5]);

    fn of(attributes: &Attributes<'_>) -> Addresses {
        let address = |name: Option<&Name>| name.map_or(0, |name| name.as_ptr().addr());
        Addresses([
            attributes.system.as_ptr().addr(),
            address(attributes.exchange),
            address(attributes.routing_key.or(attributes.topic)),
            address(attributes.queue_or_group()),
            address(attributes.vhost),
        ])
    }

    /// Word by word: comparing arrays calls a function for it.
    fn are(&self, other: &Addresses) -> bool {
        self.0.iter().zip(&other.0).all(|(one, two)| one == two)
    }

    fn slot(self) -> usize {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let [_, exchange, routing_key, queue, vhost] = self.0.map(|address| address as u64);
        let hash = (exchange.rotate_left(40) ^ routing_key.rotate_left(20) ^ queue).wrapping_mul(ODD) ^ vhost;
        (hash.wrapping_mul(ODD) >> 54) as usize & (CACHE - 1)
    }
}

/// A line's addresses, the names that they belong to (held, so that no other name comes to the same address), and its route.
#[derive(Clone)]
struct Cached {
    addresses: Addresses,
    _held: [Option<Name>; 4],
    route: RouteId,
}

impl Default for Cached {
    fn default() -> Cached {
        Cached { addresses: Addresses::NONE, _held: [None, None, None, None], route: RouteId::NONE }
    }
}

/// The names that decide about a route, folded.
#[derive(Clone, Copy)]
struct Parts<'a> {
    system: &'static str,
    vhost: Option<&'a str>,
    exchange: &'a str,
    routing_key: &'a str,
    queue: &'a str,
}

impl<'a> Parts<'a> {
    fn of(attributes: &Attributes<'a>) -> Parts<'a> {
        let text = |name: Option<&'a Name>| name.map_or("", |name| fold(name));
        Parts {
            system: attributes.system,
            vhost: attributes.vhost.map(|name| &**name),
            exchange: text(attributes.exchange),
            routing_key: text(attributes.routing_key.or(attributes.topic)),
            queue: text(attributes.queue_or_group()),
        }
    }

    fn destination(&self) -> Destination<'a> {
        if self.is_log() {
            return Destination::new("", self.routing_key, "");
        }
        Destination::new(self.exchange, self.routing_key, self.queue)
    }

    /// A topic has no place in its groups' names: they are apart.
    fn is_log(&self) -> bool {
        self.system == crate::lifecycle::KAFKA
    }

    fn scope(&self) -> ScopeKey<'a> {
        let (kind, name) = match (self.queue, self.exchange) {
            _ if self.is_log() => (3, self.routing_key),
            ("", "") => (0, self.routing_key),
            ("", exchange) => (1, exchange),
            (queue, _) => (2, queue),
        };
        ScopeKey { system: self.system, vhost: self.vhost, kind, name }
    }

    fn route(&self, name: &str) -> Route {
        Route {
            system: self.system,
            vhost: self.vhost.map(Name::from),
            destination: name.into(),
            generated: self.destination().parts().contains(&GENERATED),
            queue: Some(self.queue).filter(|queue| !queue.is_empty()).map(Name::from),
        }
    }
}

/// What makes a route: everything that its users show of it, so that no two look alike.
#[derive(PartialEq, Eq, Hash)]
struct RouteKey<'a> {
    system: &'static str,
    vhost: Option<&'a str>,
    destination: &'a str,
    queue: &'a str,
}

impl Route {
    fn key(&self) -> RouteKey<'_> {
        RouteKey {
            system: self.system,
            vhost: self.vhost.as_deref(),
            destination: &self.destination,
            queue: self.queue.as_deref().unwrap_or_default(),
        }
    }
}

/// A queue, or before any queue an exchange, or a routing key of the default exchange (which is a queue's name); a topic.
#[derive(PartialEq, Eq, Hash)]
struct ScopeKey<'a> {
    system: &'static str,
    vhost: Option<&'a str>,
    kind: u8,
    name: &'a str,
}

struct Entry {
    route: Route,
    scope: u32,
    /// Lines lately; halved at each retirement.
    recent: u64,
}

struct Scope {
    system: &'static str,
    vhost: Option<Name>,
    kind: u8,
    name: Name,
    destinations: u32,
    /// An `other`, which stays.
    permanent: bool,
}

impl Scope {
    fn new(key: &ScopeKey<'_>, permanent: bool) -> Scope {
        let vhost = key.vhost.map(Name::from);
        Scope { system: key.system, vhost, kind: key.kind, name: key.name.into(), destinations: 0, permanent }
    }

    fn key(&self) -> ScopeKey<'_> {
        ScopeKey { system: self.system, vhost: self.vhost.as_deref(), kind: self.kind, name: &self.name }
    }
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
            let mut others = Vec::new();
            for (number, gone) in retired {
                assert_eq!(known.remove(&number).as_ref(), Some(&gone));
                others.push(routes.other(&gone));
            }
            let now = routes.get(route).unwrap().clone();
            assert_eq!(known.entry(route).or_insert_with(|| now.clone()), &now);
            for other in others {
                known.insert(other, routes.get(other).unwrap().clone());
            }
        }
    }
}
