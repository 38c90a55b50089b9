//! Whose telemetry it is: the observed process at the application's end, never the agent that saw it (except for the
//! agent's own).

use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::capture::Owner;

/// What is observed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resource {
    /// The agent itself, and what belongs to no single process.
    Agent,
    /// A process of this host.
    Process {
        /// Process id.
        pid: u32,
        /// The base name of its executable.
        executable: Arc<str>,
    },
    /// An application on another host, or one whose process is not known.
    Unknown,
}

impl Resource {
    /// `service.name`: until more is known of a process, the name of its executable.
    pub fn service_name(&self) -> &str {
        match self {
            Resource::Agent => "acktrail",
            Resource::Process { executable, .. } if !executable.is_empty() => executable,
            Resource::Process { .. } | Resource::Unknown => "unknown_service",
        }
    }
}

/// Where an application meets a broker: its process and the broker's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The application.
    pub resource: Resource,
    /// The broker.
    pub server: Option<SocketAddr>,
}

/// The endpoints in use, bounded, with a cheap look-up for those seen last.
pub struct Endpoints {
    cache: [u32; CACHE],
    entries: Vec<Option<Endpoint>>,
    free: Vec<u32>,
    by_key: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Endpoints {
    /// Endpoints kept apart; further ones count as [`Resource::Unknown`] at no address.
    pub const MOST: usize = 4096;

    /// An empty table.
    pub fn new() -> Endpoints {
        Endpoints {
            cache: [u32::MAX; CACHE],
            entries: Vec::new(),
            free: Vec::new(),
            by_key: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
        }
    }

    /// The number of an endpoint.
    pub fn of(&mut self, process: Option<&Owner>, server: Option<SocketAddr>) -> u32 {
        let port = server.map_or(0, |server| server.port());
        let pid = process.map_or(0, |process| process.pid);
        let slot = (pid.wrapping_mul(0x9e37_79b1) >> 16 ^ u32::from(port)) as usize % CACHE;
        if let Some(cached) = self.cache.get(slot).copied()
            && self.get(cached).is_some_and(|endpoint| is(endpoint, process, server))
        {
            return cached;
        }
        let number = self.look_up(process, server);
        if let Some(cached) = self.cache.get_mut(slot) {
            *cached = number;
        }
        number
    }

    /// What a number stands for.
    pub fn get(&self, number: u32) -> Option<&Endpoint> {
        self.entries.get(number as usize)?.as_ref()
    }

    /// Forgets the endpoints that are not in use any more; their numbers are used again.
    pub fn keep(&mut self, used: impl Fn(u32) -> bool) {
        for number in 0..u32::try_from(self.entries.len()).unwrap_or(u32::MAX) {
            if used(number) {
                continue;
            }
            let Some(endpoint) = self.entries.get_mut(number as usize).and_then(Option::take) else { continue };
            let hash = hash(&self.hasher, pid_and_name(&endpoint), endpoint.server);
            if let Ok(found) = self.by_key.find_entry(hash, |other| *other == number) {
                found.remove();
            }
            self.free.push(number);
        }
        self.cache = [u32::MAX; CACHE];
    }

    fn look_up(&mut self, process: Option<&Owner>, server: Option<SocketAddr>) -> u32 {
        let process = process.filter(|process| process.pid != 0 || !process.executable.is_empty());
        let key = hash(&self.hasher, process.map(|process| (process.pid, process.executable.as_str())), server);
        let entries = &self.entries;
        let same = |number: &u32| matches!(entries.get(*number as usize), Some(Some(endpoint)) if is(endpoint, process, server));
        if let Some(number) = self.by_key.find(key, same) {
            return *number;
        }
        if self.by_key.len() >= Self::MOST && (process.is_some() || server.is_some()) {
            return self.look_up(None, None);
        }
        let resource = match process {
            Some(process) => Resource::Process { pid: process.pid, executable: process.executable.as_str().into() },
            None => Resource::Unknown,
        };
        let endpoint = Some(Endpoint { resource, server });
        let number = match self.free.pop() {
            Some(number) => number,
            None => {
                self.entries.push(None);
                u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX)
            }
        };
        if let Some(entry) = self.entries.get_mut(number as usize) {
            *entry = endpoint;
        }
        let (entries, hasher) = (&self.entries, &self.hasher);
        self.by_key.insert_unique(key, number, |number| {
            let endpoint = entries.get(*number as usize).and_then(Option::as_ref);
            endpoint.map_or(0, |endpoint| hash(hasher, pid_and_name(endpoint), endpoint.server))
        });
        number
    }
}

impl Default for Endpoints {
    fn default() -> Endpoints {
        Endpoints::new()
    }
}

/// Entries of the cache.
const CACHE: usize = 256;

fn is(endpoint: &Endpoint, process: Option<&Owner>, server: Option<SocketAddr>) -> bool {
    same_address(endpoint.server, server)
        && match (&endpoint.resource, process) {
            (Resource::Process { pid, executable }, Some(process)) => {
                *pid == process.pid && **executable == *process.executable
            }
            (Resource::Unknown, None) => true,
            _ => false,
        }
}

/// Equality of addresses, the common case first: this runs for every message.
fn same_address(left: Option<SocketAddr>, right: Option<SocketAddr>) -> bool {
    match (left, right) {
        (Some(SocketAddr::V4(left)), Some(SocketAddr::V4(right))) => {
            (left.port(), left.ip().to_bits()) == (right.port(), right.ip().to_bits())
        }
        (left, right) => left == right,
    }
}

fn pid_and_name(endpoint: &Endpoint) -> Option<(u32, &str)> {
    match &endpoint.resource {
        Resource::Process { pid, executable } => Some((*pid, executable)),
        Resource::Agent | Resource::Unknown => None,
    }
}

fn hash(hasher: &DefaultHashBuilder, process: Option<(u32, &str)>, server: Option<SocketAddr>) -> u64 {
    hasher.hash_one((process, server))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_told_apart_by_process_and_server() {
        let mut endpoints = Endpoints::new();
        let server = |port: u16| Some(SocketAddr::from(([127, 0, 0, 1], port)));
        let owner = |pid, name: &str| Owner { pid, executable: name.into() };
        let first = endpoints.of(Some(&owner(1, "a")), server(5672));
        assert_eq!(endpoints.of(Some(&owner(1, "a")), server(5672)), first);
        // A process id may be used again by another program.
        assert_ne!(endpoints.of(Some(&owner(1, "b")), server(5672)), first);
        assert_ne!(endpoints.of(Some(&owner(1, "a")), server(5673)), first);
        let unknown = endpoints.of(None, server(5672));
        assert_eq!(endpoints.get(unknown).unwrap().resource.service_name(), "unknown_service");
        endpoints.keep(|number| number == unknown);
        assert!(endpoints.get(first).is_none());
        assert_eq!(endpoints.of(None, server(5672)), unknown);
    }

    #[test]
    fn processes_without_end_are_bounded() {
        let mut endpoints = Endpoints::new();
        for pid in 1..20_000 {
            endpoints.of(Some(&Owner { pid, executable: format!("p{pid}") }), None);
        }
        assert!(endpoints.entries.len() <= Endpoints::MOST + 1);
        let overflow = endpoints.of(Some(&Owner { pid: 30_000, executable: "late".into() }), None);
        assert_eq!(endpoints.get(overflow).unwrap().resource, Resource::Unknown);
        endpoints.keep(|_| false);
        let number = endpoints.of(Some(&Owner { pid: 30_000, executable: "late".into() }), None);
        assert_eq!(endpoints.get(number).unwrap().resource.service_name(), "late");
    }
}
