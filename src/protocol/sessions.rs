//! One session per connection, within a budget.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use hashbrown::HashMap;

use super::Trouble;
use super::amqp::LONGEST_DOUBT;
use super::kafka::{CopySettings, Originals, TopicNames, TraceSettings, TraceStatistics, Traces};
use super::operation::{Observed, Operation};
use super::output::{Ledger, Output};
use super::session::Session;
use crate::capture::Demand;
use crate::names::Names;
use crate::stream::{ConnectionId, Event, Flow, Position};
use crate::time::Timestamp;

/// Ranges of secrets kept apart; beyond it, those of one flow are told as one range with all that lies between.
const MOST_SECRETS: usize = 4096;
/// Entries of the table of method counts.
const MOST_COUNTS: usize = 1 << 20;

/// Bounds of the protocol stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sessions at once. The one that was quiet longest makes room.
    pub connections: usize,
    /// Memory of all sessions, in bytes.
    pub bytes: usize,
    /// Memory of one session, in bytes.
    pub bytes_per_connection: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { connections: 65_536, bytes: 256 << 20, bytes_per_connection: 8 << 20 }
    }
}

/// The protocol stage: see the [module](super).
pub struct Sessions {
    limits: Limits,
    sessions: HashMap<ConnectionId, Entry>,
    names: Names,
    topics: TopicNames,
    originals: Originals,
    traces: Traces,
    secrets: Secrets,
    demands: Demands,
    /// Sessions with bytes that wait for a decision, and since when; only while secrets are kept.
    undecided: BTreeSet<(Timestamp, ConnectionId)>,
    counts: Option<MethodCounts>,
    /// Memory of all sessions.
    cost: usize,
    /// Grows with each event: who was used when.
    clock: u64,
    /// The time of the last event that had one.
    now: Timestamp,
    evicted: u64,
}

struct Entry {
    session: Session,
    cost: usize,
    used: u64,
    /// Its entry in [`Sessions::undecided`].
    undecided: Option<Timestamp>,
}

impl Sessions {
    /// An empty stage.
    pub fn new(limits: Limits) -> Sessions {
        Sessions {
            limits,
            sessions: HashMap::new(),
            names: Names::default(),
            topics: TopicNames::default(),
            originals: Originals::default(),
            traces: Traces::default(),
            secrets: Secrets::default(),
            demands: Demands::default(),
            undecided: BTreeSet::new(),
            counts: None,
            cost: 0,
            clock: 0,
            now: Timestamp::default(),
            evicted: 0,
        }
    }

    /// How far records of logs are looked at for traces of their own, from now on.
    pub fn set_traces(&mut self, settings: TraceSettings) {
        self.traces.set(settings);
    }

    /// What could not be looked at for it.
    pub fn trace_statistics(&self) -> TraceStatistics {
        self.traces.statistics()
    }

    /// How copies of messages are recognised. To be said before the first event: what is known is forgotten.
    pub fn set_copies(&mut self, settings: CopySettings) {
        self.originals = Originals::new(settings);
    }

    /// Keeps the positions of secrets from now on ([`Sessions::secrets`]).
    pub fn keep_secrets(&mut self) {
        self.secrets.kept = true;
    }

    /// Keeps what is demanded of flows from now on ([`Sessions::demands`]).
    pub fn keep_demands(&mut self) {
        self.demands.kept = true;
    }

    /// How much of flows is read from now on, where that has changed since the last call.
    pub fn demands(&mut self) -> impl Iterator<Item = (ConnectionId, Flow, Demand)> + '_ {
        self.demands.changes.drain(..)
    }

    /// Counts every method by connection, channel, class and number from now on: to compare with another decoder. Not for a
    /// long run: connections that have ended stay in the table.
    pub fn count_methods(&mut self) {
        self.counts.get_or_insert_default();
    }

    /// The counts since [`Sessions::count_methods`].
    pub fn method_counts(&self) -> Option<&MethodCounts> {
        self.counts.as_ref()
    }

    /// Takes one event; the operations that it completes are appended to `out`.
    pub fn handle_event(&mut self, event: &Event<'_>, out: &mut Vec<Observed>) {
        self.clock += 1;
        match *event {
            Event::Facts(connection, facts) => {
                if !self.sessions.contains_key(&connection) {
                    self.insert(connection, Session::new(Some(facts)), out);
                }
                // What else there is to know comes to those who hear the event itself.
                self.with(connection, self.now, out, |session, out, _| session.facts(facts, out));
            }
            Event::Data { connection, flow, position, time, bytes, packet_start } => {
                let act = move |session: &mut Session, out: &mut Output<'_>, ledger: &mut Ledger<'_>| {
                    session.data(flow, position, bytes, packet_start, out, ledger);
                };
                if !self.with(connection, time, out, act) {
                    self.insert(connection, Session::new(None), out);
                    self.with(connection, time, out, act);
                }
            }
            Event::Hole { connection, flow, position, length, time, .. } => {
                self.with(connection, time, out, |session, out, ledger| {
                    session.hole(flow, position, length, out, ledger);
                });
            }
            Event::Read { connection, flow, from, position, time, .. } => {
                self.with(connection, time, out, |session, out, _| session.read(flow, from, position, out));
            }
            Event::Closed { connection, time } => {
                self.with(connection, time, out, |session, out, ledger| session.closed(out, ledger));
                self.remove(connection);
            }
        }
    }

    /// The byte ranges found since the last call that hold credentials: whoever keeps bytes has to wipe them before it keeps
    /// them, and to ask with each event. A range may reach beyond what has come so far. None is ever left out: if there are
    /// too many, they come as fewer and larger ones.
    pub fn secrets(&mut self) -> impl Iterator<Item = (ConnectionId, Flow, Range<Position>)> + '_ {
        self.secrets.ranges.drain(..)
    }

    /// Since when bytes wait for the decision whether they are frames, or to be wiped ([`Sessions::secrets`]), while secrets are
    /// kept: whoever keeps bytes must not let go of those that passed at this time or later. Never long before the time of the
    /// last [`Sessions::give_up_searches`].
    pub fn undecided_since(&self) -> Option<Timestamp> {
        self.undecided.first().map(|(since, _)| *since)
    }

    /// Decides what has been undecided for long, so that it need not be kept any longer. It is the decision that the next bytes
    /// would bring, whoever asks: records may come late by as much as they may be undecided.
    pub fn give_up_searches(&mut self, now: Timestamp) {
        let longest = u64::try_from(2 * LONGEST_DOUBT.as_nanos()).unwrap_or(u64::MAX);
        self.give_up_searches_before(Timestamp(now.0.saturating_sub(longest)));
    }

    /// Decides everything. The bytes that are still to come may be understood later for it than without.
    pub fn give_up_all_searches(&mut self) {
        self.give_up_searches_before(Timestamp(u64::MAX));
    }

    fn give_up_searches_before(&mut self, before: Timestamp) {
        while let Some((_, connection)) = self.undecided.first().copied().filter(|(since, _)| *since < before) {
            self.undecided.pop_first();
            let Some(entry) = self.sessions.get_mut(&connection) else { continue };
            entry.undecided = None;
            let mut ledger = Ledger { secrets: &mut self.secrets, counts: None };
            entry.session.give_up_searches(before, connection, &mut ledger);
            note_undecided(&mut self.undecided, connection, entry);
        }
    }

    /// Memory of all sessions in bytes, as far as it is accounted for.
    pub fn cost(&self) -> usize {
        self.cost
    }

    /// Memory in bytes for what applications were sent and may publish again.
    pub fn originals_cost(&self) -> usize {
        self.originals.cost()
    }

    /// How many connections are followed.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether no connection is followed.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Sessions given up because there were too many.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Lets `act` work on a session; false if there is none.
    fn with(
        &mut self,
        connection: ConnectionId,
        time: Timestamp,
        out: &mut Vec<Observed>,
        act: impl FnOnce(&mut Session, &mut Output<'_>, &mut Ledger<'_>),
    ) -> bool {
        self.now = time;
        let Some(entry) = self.sessions.get_mut(&connection) else { return false };
        entry.used = self.clock;
        let own = self.limits.bytes_per_connection.saturating_sub(entry.cost);
        let room = own.min(self.limits.bytes.saturating_sub(self.cost));
        let mut output = Output {
            operations: out,
            names: &mut self.names,
            topics: &mut self.topics,
            originals: &mut self.originals,
            traces: &mut self.traces,
            connection,
            time,
            room,
            demands: &mut self.demands,
        };
        let mut ledger = Ledger { secrets: &mut self.secrets, counts: self.counts.as_mut() };
        act(&mut entry.session, &mut output, &mut ledger);
        let cost = entry.session.cost();
        self.cost = self.cost + cost - entry.cost;
        entry.cost = cost;
        if self.secrets.kept {
            note_undecided(&mut self.undecided, connection, entry);
        }
        true
    }

    fn insert(&mut self, connection: ConnectionId, mut session: Session, out: &mut Vec<Observed>) {
        while self.sessions.len() >= self.limits.connections.max(1) {
            self.evict(out);
        }
        let cost = session.cost();
        self.cost += cost;
        let entry = Entry { session, cost, used: self.clock, undecided: None };
        self.sessions.insert(connection, entry);
    }

    fn evict(&mut self, out: &mut Vec<Observed>) {
        let oldest = self.sessions.iter().min_by_key(|(_, entry)| entry.used).map(|(connection, _)| *connection);
        if let Some(connection) = oldest {
            self.evicted += 1;
            self.with(connection, self.now, out, |session, out, ledger| {
                out.push(Operation::Trouble(Trouble::BudgetExhausted));
                session.given_up(out, ledger);
            });
            self.remove(connection);
        }
    }

    fn remove(&mut self, connection: ConnectionId) {
        if let Some(entry) = self.sessions.remove(&connection) {
            self.cost -= entry.cost;
            if let Some(since) = entry.undecided {
                self.undecided.remove(&(since, connection));
            }
        }
    }
}

/// Brings a session's entry among the undecided up to date.
fn note_undecided(undecided: &mut BTreeSet<(Timestamp, ConnectionId)>, connection: ConnectionId, entry: &mut Entry) {
    let since = entry.session.undecided_since();
    if since != entry.undecided {
        let before = std::mem::replace(&mut entry.undecided, since);
        before.map(|since| undecided.remove(&(since, connection)));
        undecided.extend(since.map(|since| (since, connection)));
    }
}

/// Byte ranges that hold credentials.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    kept: bool,
    ranges: Vec<(ConnectionId, Flow, Range<Position>)>,
}

impl Secrets {
    /// Adds a range; one that goes on where the last one ended becomes one with it.
    pub fn add(&mut self, connection: ConnectionId, flow: Flow, range: Range<Position>) {
        if range.is_empty() || !self.kept {
            return;
        }
        let full = self.ranges.len() >= MOST_SECRETS;
        let of_flow = |entry: &&mut (ConnectionId, Flow, Range<Position>)| (entry.0, entry.1) == (connection, flow);
        let last =
            if full { self.ranges.iter_mut().rev().find(of_flow) } else { self.ranges.last_mut().filter(of_flow) };
        match last {
            Some((_, _, last)) if full || last.end == range.start => {
                *last = last.start.min(range.start)..last.end.max(range.end);
            }
            _ => self.ranges.push((connection, flow, range)),
        }
    }
}

/// How much of flows is read.
#[derive(Debug, Default)]
pub(super) struct Demands {
    kept: bool,
    changes: Vec<(ConnectionId, Flow, Demand)>,
}

impl Demands {
    /// Adds a change, if somebody asks for them.
    pub fn add(&mut self, connection: ConnectionId, flow: Flow, demand: Demand) {
        self.changes.extend(self.kept.then_some((connection, flow, demand)));
    }
}

/// How often each method was seen: by connection, channel number, class and method number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MethodCounts {
    table: BTreeMap<(ConnectionId, u16, (u16, u16)), u64>,
}

impl MethodCounts {
    /// All counts, in order of connection, channel, class and method.
    pub fn iter(&self) -> impl Iterator<Item = (ConnectionId, u16, (u16, u16), u64)> + '_ {
        self.table.iter().map(|(&(connection, channel, method), &count)| (connection, channel, method, count))
    }

    pub(super) fn add(&mut self, connection: ConnectionId, channel: u16, method: (u16, u16)) {
        let key = (connection, channel, method);
        if self.table.len() < MOST_COUNTS || self.table.contains_key(&key) {
            *self.table.entry(key).or_default() += 1;
        }
    }
}
