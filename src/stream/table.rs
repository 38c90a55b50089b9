//! Which sockets are the two ends of one connection: found by their addresses.

use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::capture::Socket;

/// What the two sockets of a connection have in common. Loopback addresses mean something only within a network
/// namespace; others are taken to be the same in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pair {
    low: (IpAddr, u16),
    high: (IpAddr, u16),
    netns: u32,
}

impl Pair {
    /// The pair of a socket.
    pub fn of(socket: &Socket) -> Pair {
        let (local, remote) = (plain(socket.local), plain(socket.remote));
        let loopback = local.0.is_loopback() || remote.0.is_loopback();
        let netns = if loopback { socket.netns } else { 0 };
        Pair { low: local.min(remote), high: local.max(remote), netns }
    }
}

/// Without flow label and scope, which differ between the two ends.
fn plain(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip(), address.port())
}

/// Connections by pair. Several may have the same one: containers of separate networks with equal addresses.
#[derive(Default)]
pub(super) struct Pairs {
    table: HashTable<(Pair, u32)>,
    hasher: DefaultHashBuilder,
}

impl Pairs {
    /// Adds a connection by its index.
    pub fn insert(&mut self, pair: Pair, index: u32) {
        let hasher = &self.hasher;
        self.table.insert_unique(hasher.hash_one(pair), (pair, index), |(pair, _)| hasher.hash_one(pair));
    }

    /// Takes a connection out.
    pub fn remove(&mut self, pair: Pair, index: u32) {
        if let Ok(entry) = self.table.find_entry(self.hasher.hash_one(pair), |entry| *entry == (pair, index)) {
            entry.remove();
        }
    }

    /// The connections with this pair, at most a handful.
    pub fn find(&self, pair: Pair) -> Vec<u32> {
        let same = self.table.iter_hash(self.hasher.hash_one(pair)).filter(|(other, _)| *other == pair);
        let mut found: Vec<u32> = same.map(|(_, index)| *index).collect();
        found.sort_unstable();
        found
    }
}
