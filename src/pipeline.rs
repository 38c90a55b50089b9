//! Joins the pure stages: records in, transitions and events out.

use std::ops::Range;
use std::time::Duration;

use crate::capture::{Cookie, Counters, Demand, Direction, Record};
use crate::export::summary::{CaptureTotals, Loss, LossTable};
use crate::lifecycle::transition::Observer;
use crate::lifecycle::withheld::Withheld;
use crate::lifecycle::{self, Lag, Lifecycles, MessageLimits};
use crate::protocol::kafka::{CopySettings, TraceSettings};
use crate::protocol::operation::{Observed, Operation};
use crate::protocol::{self, Sessions, Trouble};
use crate::stream::{self, ConnectionId, Event, Flow, HoleCause, Position, Streams};
use crate::time::Timestamp;

/// Bounds of all stages.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Connections and waiting bytes.
    pub stream: stream::Limits,
    /// Sessions.
    pub protocol: protocol::Limits,
    /// Messages.
    pub messages: MessageLimits,
}

/// Bytes in a recording that are a login's, or may be: whose, from which TCP sequence number, how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// The sockets and directions at which these bytes were taken.
    pub taps: Vec<(Cookie, Direction)>,
    /// Sequence number of the first.
    pub start: u32,
    /// How many.
    pub length: u64,
}

/// How much of a flow is read from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demanded {
    /// The sockets and directions at which it is tapped.
    pub taps: Vec<(Cookie, Direction)>,
    /// How much.
    pub demand: Demand,
}

/// The stages from `stream` to `lifecycle`, in a row.
pub struct Pipeline {
    streams: Streams,
    sessions: Sessions,
    lifecycles: Lifecycles,
    withheld: Withheld,
    operations: Vec<Observed>,
    counters: Counters,
    troubles: Troubles,
    connections: u64,
    /// Not yet taken; `None`: nobody keeps records.
    secrets: Option<Vec<Secret>>,
}

/// Operations that are handed on together: each stage's code is large, and taking turns message by message would have the
/// processor fetch it anew each time.
const BATCH: usize = 64;
/// Operations wait for others no longer than this, in the records' own time.
const LONGEST_WAIT: Duration = Duration::from_millis(100);
// What an operation sets a deadline for must not fall due while it waits here.
const _: () = assert!(LONGEST_WAIT.as_nanos() < lifecycle::GRACE.as_nanos());

/// How often each trouble was met, in the order of [`Trouble::ALL`].
type Troubles = [u64; Trouble::ALL.len()];

impl Pipeline {
    /// Nothing seen yet.
    pub fn new(limits: Limits) -> Pipeline {
        Pipeline {
            streams: Streams::new(limits.stream),
            sessions: Sessions::new(limits.protocol),
            lifecycles: Lifecycles::new(limits.messages),
            withheld: Withheld::default(),
            operations: Vec::new(),
            counters: Counters::default(),
            troubles: Troubles::default(),
            connections: 0,
            secrets: None,
        }
    }

    /// Takes one record. What follows from it goes to `observer`, at the latest with [`Pipeline::flush`].
    pub fn handle(&mut self, record: &Record<'_>, observer: &mut dyn Observer) {
        if let Record::Counters(counters) = record {
            self.counters = *counters;
            self.lifecycles.handle_counters(counters);
        }
        if self.operations.first().is_some_and(|first| first.time.plus(LONGEST_WAIT) < record.time()) {
            self.flush(observer);
        }
        // What was due before this record comes before it, so that a replay says the same as the live run.
        if self.poll_timeout().is_some_and(|due| due <= record.time()) {
            self.handle_timeout(record.time(), observer);
        }
        let (streams, mut stages) = self.split();
        streams.handle_record(record, &mut |event| stages.follow(&event, observer));
        if self.secrets.is_some() {
            self.sessions.give_up_searches(record.time());
            self.collect_secrets();
        }
    }

    /// Time has passed: gives up what was waited for.
    pub fn handle_timeout(&mut self, now: Timestamp, observer: &mut dyn Observer) {
        let (streams, mut stages) = self.split();
        streams.handle_timeout(now, &mut |event| stages.follow(&event, observer));
        stages.flush(observer);
        self.lifecycles.handle_timeout(now, &mut self.withheld.before(observer));
        self.withheld.handle_timeout(now, observer);
        self.collect_secrets();
    }

    /// Tells what follows from the records so far: to be called when no more are at hand, and before anything is read from here.
    pub fn flush(&mut self, observer: &mut dyn Observer) {
        let (_, mut stages) = self.split();
        stages.flush(observer);
    }

    /// Nothing more will come: tells also what waited for a reason.
    pub fn finish(&mut self, observer: &mut dyn Observer) {
        self.flush(observer);
        self.withheld.release_all(observer);
    }

    /// Bytes that wait for others before them and have not been looked at.
    pub fn waiting_bytes(&self) -> usize {
        self.streams.waiting_bytes()
    }

    /// Gives up whatever bytes are waited for, and every boundary that is not proved, so that nothing waits any more.
    pub fn give_up_gaps(&mut self, now: Timestamp, observer: &mut dyn Observer) {
        let later = now.plus(Duration::from_secs(3600));
        let (streams, mut stages) = self.split();
        streams.handle_timeout(later, &mut |event| stages.follow(&event, observer));
        stages.flush(observer);
        self.sessions.give_up_all_searches();
        self.collect_secrets();
    }

    /// When [`Pipeline::handle_timeout`] has something to do, if no record comes before.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let stages = [self.streams.poll_timeout(), self.lifecycles.poll_timeout(), self.withheld.poll_timeout()];
        stages.into_iter().flatten().min()
    }

    /// Some of what a broker's clients are given is not seen: connections are left out, or are those of a node on another host.
    /// A recording says so by its counters.
    pub fn unseen(&mut self) {
        self.lifecycles.handle_unseen();
    }

    /// The records are all packets of another tool's capture ([`Streams::expect_every_packet`]).
    pub fn expect_every_packet(&mut self) {
        self.streams.expect_every_packet();
    }

    /// How far records of logs are looked at for traces of their own, from now on.
    pub fn set_traces(&mut self, settings: TraceSettings) {
        self.sessions.set_traces(settings);
    }

    /// How copies of messages in logs are recognised: to be said before the first record.
    pub fn set_copies(&mut self, settings: CopySettings) {
        self.sessions.set_copies(settings);
    }

    /// Keeps the places of logins from now on: for whoever keeps records, before the first.
    pub fn keep_secrets(&mut self) {
        self.secrets = Some(Vec::new());
        self.sessions.keep_secrets();
        self.streams.remember_ended();
    }

    /// Keeps what is demanded of flows from now on: for whoever can tell the kernel.
    pub fn keep_demands(&mut self) {
        self.sessions.keep_demands();
    }

    /// How much of flows is read from now on, where that has changed since the last call.
    pub fn take_demands(&mut self) -> impl Iterator<Item = Demanded> + '_ {
        let Pipeline { streams, sessions, .. } = self;
        let taps = |connection, flow| streams.taps(connection, flow).collect();
        sessions.demands().map(move |(connection, flow, demand)| Demanded { taps: taps(connection, flow), demand })
    }

    /// The bytes of logins, and those that were passed over and may be the rest of one, found since the last call: whoever
    /// keeps records must wipe them. To be asked before records are let go of.
    pub fn take_secrets(&mut self) -> Vec<Secret> {
        self.secrets.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Of the last record's bytes, those that nobody has looked at, or will: whoever keeps records must wipe them in this record
    /// alone, for others may have them as well. Without them a replay sees the same.
    pub fn unread(&self) -> &[Range<usize>] {
        self.streams.unread()
    }

    /// Since when bytes wait for the decision whether they are secret: whoever keeps records must not let go of those that were
    /// made at this time or later. It is never further back than some seconds of the records' own time.
    pub fn undecided_since(&self) -> Option<Timestamp> {
        self.sessions.undecided_since()
    }

    /// Finds out where secrets were tapped while that is still known.
    fn collect_secrets(&mut self) {
        let Some(secrets) = &mut self.secrets else { return };
        let streams = &self.streams;
        let secret = |connection: ConnectionId, flow: Flow, range: Range<Position>| Secret {
            taps: streams.taps(connection, flow).collect(),
            // A position's low 32 bits are its sequence number.
            start: (range.start & 0xffff_ffff) as u32,
            length: range.end.saturating_sub(range.start),
        };
        secrets.extend(self.sessions.secrets().map(|(connection, flow, range)| secret(connection, flow, range)));
        let evicted = streams.evicted().iter().cloned();
        secrets.extend(evicted.map(|(connection, flow, range)| secret(connection, flow, range)));
        self.streams.remember_ended();
    }

    /// Counts every method from now on ([`Sessions::method_counts`]).
    pub fn count_methods(&mut self) {
        self.sessions.count_methods();
    }

    /// The sessions.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Connections seen so far.
    pub fn connections(&self) -> u64 {
        self.connections
    }

    fn split(&mut self) -> (&mut Streams, Stages<'_>) {
        let Pipeline { streams, sessions, lifecycles, withheld, operations, troubles, connections, .. } = self;
        (streams, Stages { sessions, lifecycles, withheld, operations, troubles, connections })
    }

    /// The state machine's own counters.
    pub fn lifecycles(&self) -> &Lifecycles {
        &self.lifecycles
    }

    /// How far every consumer group is behind, in no order.
    pub fn lags(&self, now: Timestamp) -> impl Iterator<Item = Lag> + '_ {
        self.lifecycles.lags(now)
    }

    /// What the capture and the stages did and lost.
    pub fn totals(&self) -> CaptureTotals {
        let streams = self.streams.statistics();
        let counters = &self.counters;
        let holes = streams.holes.iter().map(|count| count.holes).sum();
        // A replay of another tool's capture has no counters of the kernel.
        let counted = counters.packets > 0;
        CaptureTotals {
            segments: if counted { counters.packets } else { streams.segments },
            bytes: if counted { counters.payload_bytes } else { streams.bytes_seen },
            captured_bytes: if counted { counters.captured_bytes } else { streams.bytes_seen },
            skipped_bytes: counters.skipped_bytes,
            holes,
            forgotten: self.lifecycles.statistics().forgotten_messages,
            lost: self.losses(),
        }
    }

    fn losses(&self) -> LossTable {
        let counters = &self.counters;
        let streams = self.streams.statistics();
        let mut losses = vec![
            loss("kernel", "ring_full", counters.ring_full_records, "record"),
            loss("kernel", "ring_full_bytes", counters.ring_full_bytes, "byte"),
            loss("kernel", "unreadable", counters.unreadable_packets, "segment"),
            loss("kernel", "untracked", counters.untracked_sockets, "socket"),
            loss("kernel", "sampled_out", counters.sampled_out_packets, "segment"),
            loss("stream", "ring_full", streams.holes_of(HoleCause::RingFull).bytes, "byte"),
            loss("stream", "missing", streams.holes_of(HoleCause::Missing).bytes, "byte"),
            loss("stream", "missing_unknown", streams.holes_of(HoleCause::Missing).unknown, "hole"),
            loss("stream", "unannounced", streams.bytes_unannounced, "byte"),
            loss("stream", "stray", streams.bytes_stray, "byte"),
            loss("stream", "evicted", streams.bytes_evicted, "byte"),
            loss("stream", "evicted_connections", streams.evicted_connections, "connection"),
        ];
        let troubles = Trouble::ALL.iter().zip(self.troubles);
        losses.extend(troubles.map(|(trouble, count)| loss("protocol", trouble.name(), count, "frame")));
        losses.push(loss("protocol", "evicted_sessions", self.sessions.evicted(), "connection"));
        let lifecycle::Statistics {
            evicted_messages,
            // No loss in itself: [`Pipeline::totals`] tells it.
            forgotten_messages: _,
            unknown_fates,
            lost_deliveries,
            unmatched_settlements,
            unmatched_confirms,
            refused_declarations,
        } = self.lifecycles.statistics();
        let logs = self.lifecycles.log_statistics();
        let traces = self.sessions.trace_statistics();
        losses.extend([
            loss("lifecycle", "evicted_batches", logs.evicted_batches, "batch"),
            loss("lifecycle", "unmatched_answers", logs.unmatched_answers, "answer"),
            loss("lifecycle", "forgotten_ranges", logs.forgotten_ranges, "range"),
            loss("lifecycle", "refused_partitions", logs.refused_partitions, "partition"),
            loss("protocol", "unread_traces", traces.refused_batches, "batch"),
            loss("protocol", "untold_traces", traces.refused_records, "record"),
            loss("lifecycle", "unmatched_copies", logs.unmatched_copies, "record"),
            loss("lifecycle", "evicted", evicted_messages, "message"),
            loss("lifecycle", "fate_unknown", unknown_fates, "delivery"),
            loss("lifecycle", "lost_deliveries", lost_deliveries, "delivery"),
            loss("lifecycle", "unmatched_settlements", unmatched_settlements, "settlement"),
            loss("lifecycle", "unmatched_confirms", unmatched_confirms, "confirm"),
            loss("lifecycle", "refused_declarations", refused_declarations, "declaration"),
        ]);
        losses
    }
}

fn loss(stage: &'static str, reason: &'static str, count: u64, unit: &'static str) -> Loss {
    Loss { stage, reason, count, unit }
}

/// The stages behind the streams.
struct Stages<'a> {
    sessions: &'a mut Sessions,
    lifecycles: &'a mut Lifecycles,
    withheld: &'a mut Withheld,
    operations: &'a mut Vec<Observed>,
    troubles: &'a mut Troubles,
    connections: &'a mut u64,
}

impl Stages<'_> {
    fn follow(&mut self, event: &Event<'_>, observer: &mut dyn Observer) {
        if let Event::Facts(connection, facts) = event {
            self.flush(observer);
            *self.connections = (*self.connections).max(connection.0 + 1);
            self.lifecycles.handle_facts(*connection, facts);
        }
        self.sessions.handle_event(event, self.operations);
        if self.operations.len() >= BATCH {
            self.flush(observer);
        }
        if let Event::Closed { connection, time } = event {
            self.flush(observer);
            self.lifecycles.handle_closed(*connection, *time, &mut self.withheld.before(observer));
        }
    }

    fn flush(&mut self, observer: &mut dyn Observer) {
        self.lifecycles.look_ahead(self.operations);
        let mut observer = self.withheld.before(observer);
        for observed in self.operations.iter_mut() {
            if let Operation::Trouble(trouble) = &observed.operation
                && let Some(place) = Trouble::ALL.iter().position(|other| other == trouble)
            {
                self.troubles[place] += 1;
            }
            self.lifecycles.handle(observed, &mut observer);
        }
        self.operations.clear();
    }
}
