//! What may have been given to somebody without being seen here. From not having seen something be given, a fate may be concluded
//! only where all of it would have been seen.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Lifecycles;
use super::party::Party;
use crate::capture::Counters;
use crate::stream::ConnectionId;
use crate::time::Timestamp;

/// Behind a hole the next frame has to be found first, which takes a few packets.
const FOUND_AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Unseen {
    /// Some connections of brokers' clients are left out, or are those of a cluster's node on another host.
    elsewhere: bool,
    /// Open connections in protocols that are not read.
    foreign: BTreeSet<ConnectionId>,
    /// What the capture had lost when its counters were read last, and whether that had grown. The holes that are left by it show
    /// later, if ever.
    lost: u64,
    losing: bool,
    /// Until when something was lost.
    until: Option<Timestamp>,
}

impl Unseen {
    /// Something could not be read.
    pub fn missed(&mut self, time: Timestamp) {
        self.until = self.until.max(Some(time));
    }

    /// There is a hole in what a broker sends.
    pub fn hole(&mut self, time: Timestamp) {
        self.missed(time.plus(FOUND_AGAIN));
    }

    /// A connection speaks a protocol that is not read.
    pub fn not_decoded(&mut self, connection: ConnectionId) {
        self.foreign.insert(connection);
    }

    /// A connection is gone.
    pub fn left(&mut self, time: Timestamp, connection: ConnectionId) {
        if self.foreign.remove(&connection) {
            self.missed(time);
        }
    }
}

impl Lifecycles {
    /// What the capture counts, as of a moment up to which everything was handled.
    pub fn handle_counters(&mut self, counters: &Counters) {
        if counters.sampled_out_packets > 0 || counters.node_connections > 0 {
            self.handle_unseen();
        }
        let lost = counters.ring_full_records + counters.unreadable_packets + counters.untracked_sockets;
        let losing = lost > self.unseen.lost;
        if self.unseen.losing && !losing {
            self.unseen.missed(counters.time);
        }
        if losing {
            self.logs.missed_somewhere(counters.time);
        }
        (self.unseen.lost, self.unseen.losing) = (lost, losing);
    }

    /// Some connections of brokers' clients are not watched, or are those of a cluster's node on another host: from now on
    /// nothing is concluded from what was not seen.
    pub fn handle_unseen(&mut self) {
        if !std::mem::replace(&mut self.unseen.elsewhere, true) {
            self.endings.unseen();
            self.logs.leaves_out();
        }
    }

    /// Whether connections are left out.
    pub(super) fn leaves_out(&self) -> bool {
        self.unseen.elsewhere
    }

    /// Whether all connections are seen on which this client's broker gives anything to anybody.
    pub(super) fn sees_all(&self, party: &Party) -> bool {
        party.broker_seen && !self.unseen.elsewhere
    }

    /// Whether it was seen what this client's broker has given to anybody since then.
    pub(super) fn has_seen_all(&self, since: Option<Timestamp>, party: &Party) -> bool {
        let shares_broker =
            |id: &ConnectionId| self.connections.get(id).is_none_or(|other| other.party.shares_broker_with(party));
        self.sees_all(party)
            && !self.unseen.losing
            && (self.unseen.until.is_none() || since > self.unseen.until)
            && !self.unseen.foreign.iter().any(shares_broker)
    }
}
