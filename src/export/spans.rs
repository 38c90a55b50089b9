//! Spans of the messages that matter, by the semantic conventions 1.44.0 (docs/messaging/messaging-spans.md).
//!
//! Made of transitions alone. Of a broker's messages: a producer's span from Created to Confirmed, a consumer's span per delivery from the
//! application's reading to the settlement, and a span where the broker moves a message to a dead-letter queue. Which
//! messages get them, and how their ids come about, stands in docs/metrics.md. Of logs, see `ranges`.

mod budget;
mod build;
mod chance;
mod ids;
mod outlet;
mod pairs;
mod ranges;

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use hashbrown::DefaultHashBuilder;

pub use self::ids::{Role, SpanContext, creation_context, span_id, trace_id};

use self::budget::Budget;
use self::chance::Chance;
use self::outlet::Outlet;
use self::ranges::{Desk, Ranges};
use super::metrics::Value;
use super::registry::Attribute;
use super::resource::Resource;
use crate::lifecycle::transition::{Event, Observer, Reason, State, Transition};
use crate::time::Timestamp;

/// Which messages get spans.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// The share of messages that get spans whatever becomes of them, 0 to 1. Decided by the trace id, so that every agent
    /// that sees the message decides alike.
    pub ratio: f64,
    /// Where that is more than so many messages a second, the share shrinks to about as many. A ratio of 1 means all.
    pub per_second: u64,
    /// A message that took longer than this from Created to Acknowledged gets spans, within [`Spans::BUDGET`].
    pub slow: Duration,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling { ratio: 0.01, per_second: 100, slow: Duration::from_secs(10) }
    }
}

/// What a span stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Sending, where the message carries no context of its own.
    Producer,
    /// Sending a message that carries a context made by the application.
    Client,
    /// Processing a delivery.
    Consumer,
}

/// What a span follows from.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// The ids of the other span.
    pub context: SpanContext,
    /// What the messages of this link do not share with those of the others.
    pub attributes: Vec<(&'static Attribute, Value)>,
}

impl From<SpanContext> for Link {
    fn from(context: SpanContext) -> Link {
        Link { context, attributes: Vec::new() }
    }
}

/// A finished span.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Whose.
    pub resource: Resource,
    /// Its ids.
    pub context: SpanContext,
    /// Its parent, in the same trace and perhaps in another process.
    pub parent: Option<[u8; 8]>,
    /// What it stands for.
    pub kind: Kind,
    /// `{operation} {destination}`.
    pub name: String,
    /// When it began.
    pub start: Timestamp,
    /// When it ended; not before `start`.
    pub end: Timestamp,
    /// Keys and values.
    pub attributes: Vec<(&'static Attribute, Value)>,
    /// What it follows from.
    pub links: Vec<Link>,
    /// Links that found no room.
    pub dropped_links: u32,
    /// What happened before or within it.
    pub events: Vec<(Timestamp, &'static str)>,
    /// It ended in failure.
    pub failed: bool,
    /// It is here because of what became of its message, not by chance: the last to be given up where there are too many.
    pub important: bool,
}

/// Listens to the lifecycle and makes spans.
pub struct Spans {
    sampling: Sampling,
    chance: Chance,
    out: Outlet,
    ranges: Ranges,
    pending: HashMap<u128, Span, DefaultHashBuilder>,
    pending_order: VecDeque<(Timestamp, u128)>,
    emitted: Recent,
    budget: Budget,
}

impl Spans {
    /// How long a producer's span waits for the broker's confirm.
    pub const CONFIRM_WAIT: Duration = Duration::from_secs(5);
    /// Producers' spans that wait at once; beyond, the oldest goes out without its confirm.
    pub const PENDING: usize = 4096;
    /// Lines a second that get spans for what became of their message; beyond, a share of the messages does, and the rest is
    /// counted.
    pub const BUDGET: u64 = 2000;
    /// Finished spans that wait to be taken; beyond, new ones are lost and counted.
    pub const READY: usize = Outlet::MOST;

    /// By these rules. A ratio outside 0 to 1 is taken as the nearer of the two.
    pub fn new(sampling: Sampling) -> Spans {
        Spans {
            sampling,
            chance: Chance::new(sampling.ratio, sampling.per_second),
            out: Outlet::default(),
            ranges: Ranges::default(),
            pending: HashMap::default(),
            pending_order: VecDeque::new(),
            emitted: Recent::default(),
            budget: Budget::new(Self::BUDGET),
        }
    }

    /// By other rules from now on. A message that is on its way may get a part of its spans.
    pub fn set_sampling(&mut self, sampling: Sampling) {
        self.sampling = sampling;
        self.chance = Chance::new(sampling.ratio, sampling.per_second);
    }

    /// Releases what has waited long enough for a confirm.
    pub fn poll(&mut self, now: Timestamp) {
        let (ranges, mut desk) = self.split();
        ranges.flush(&mut desk);
        while let Some((since, identity)) = self.pending_order.front().copied() {
            if now.since(since) < Self::CONFIRM_WAIT && self.pending_order.len() <= Self::PENDING {
                break;
            }
            self.pending_order.pop_front();
            if let Some(span) = self.pending.remove(&identity) {
                self.emit(span);
            }
        }
    }

    /// Releases everything that waits: the end has come.
    pub fn finish(&mut self) {
        let (ranges, mut desk) = self.split();
        ranges.flush(&mut desk);
        while let Some((_, identity)) = self.pending_order.pop_front() {
            if let Some(span) = self.pending.remove(&identity) {
                self.emit(span);
            }
        }
    }

    /// Takes the finished spans.
    pub fn take(&mut self) -> Vec<Span> {
        self.out.take()
    }

    /// Whether there are finished spans.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Spans lost because nobody took them.
    pub fn lost(&self) -> u64 {
        self.out.lost()
    }

    /// Lines without spans because there were too many of their kind ([`Spans::BUDGET`]).
    pub fn over_budget(&self) -> u64 {
        self.budget.refused()
    }

    /// Whether a line that matters gets spans. What is sampled does in any case.
    fn admits(&mut self, line: &Transition<'_>, sampled: bool) -> bool {
        sampled || self.budget.admits(line.time, ids::randomness(line, ids::identity_of(line)))
    }

    fn emit(&mut self, span: Span) {
        self.out.emit(span);
    }

    fn split(&mut self) -> (&mut Ranges, Desk<'_>) {
        let Spans { sampling, chance, out, ranges, budget, .. } = self;
        (ranges, Desk { chance, budget, slow: sampling.slow, out })
    }

    /// A producer's span that waits for its confirm.
    fn created(&mut self, line: &Transition<'_>) {
        let Some(identity) = line.message else { return };
        let span = build::producer(line, false);
        match self.pending.insert(identity.0, span) {
            // A twin: the first one goes out as it is.
            Some(twin) => self.emit(twin),
            None => self.pending_order.push_back((line.time, identity.0)),
        }
        self.poll(line.time);
    }

    fn confirmed(&mut self, line: &Transition<'_>) {
        if let Some(identity) = line.message
            && let Some(mut span) = self.pending.remove(&identity.0)
        {
            span.end = span.end.max(line.time);
            self.emit(span);
        }
    }

    /// A publish that failed, or came back.
    fn publish_failed(&mut self, line: &Transition<'_>) {
        if let Some(identity) = line.message {
            self.pending.remove(&identity.0);
            self.emitted.insert(identity.0);
        }
        self.emit(build::failed_producer(line));
    }

    /// The producer's span of a message that was not sampled, once it matters after all.
    fn producer_after_all(&mut self, line: &Transition<'_>) {
        let (Some(identity), Some(_)) = (line.message, line.timings.created) else { return };
        let is_first = line.timings.first_failed.is_none_or(|failed| failed >= line.time);
        // The first failing line of a queue emits it; the set knows of other queues, and of other reasons.
        if self.emitted.insert(identity.0) && is_first {
            self.emit(build::producer(line, true));
        }
    }

    fn is_slow(&self, line: &Transition<'_>) -> bool {
        line.timings.created.is_some_and(|created| line.time.since(created) > self.sampling.slow)
    }
}

impl Observer for Spans {
    fn transition(&mut self, line: &Transition<'_>) {
        if line.attributes.topic.is_some() {
            let (ranges, mut desk) = self.split();
            return ranges.transition(line, &mut desk);
        }
        let sampled = self.chance.samples(line);
        match line.state {
            State::Created if sampled && line.reason == Some(Reason::Republished) => {
                // No confirm is waited for: it would be taken for the original's, whose identity it shares.
                self.emit(build::producer(line, false));
            }
            State::Created if sampled => self.created(line),
            State::Confirmed if sampled => self.confirmed(line),
            State::PublishFailed | State::Returned if self.admits(line, sampled) => self.publish_failed(line),
            State::Acknowledged => {
                let matters = line.delivery.is_some_and(|delivery| delivery > 1) || self.is_slow(line);
                let important = matters && self.admits(line, sampled);
                if important && !sampled {
                    self.producer_after_all(line);
                }
                if (important || sampled) && line.corrects.is_none() {
                    self.emit(build::consumer(line, important));
                }
            }
            State::Rejected | State::Failed if self.admits(line, sampled) => {
                if !sampled {
                    self.producer_after_all(line);
                }
                if line.corrects.is_none() {
                    self.emit(build::consumer(line, true));
                }
            }
            State::DeadLettered if self.admits(line, sampled) => {
                if !sampled {
                    self.producer_after_all(line);
                }
                self.emit(build::dead_letter(line));
            }
            State::Expired | State::Dropped if self.admits(line, sampled) => {
                if !sampled {
                    self.producer_after_all(line);
                }
                // Lost in the consumer's receive buffer.
                if matches!(line.previous, Some(State::Dispatched | State::Processing)) {
                    self.emit(build::consumer(line, true));
                }
            }
            _ => {}
        }
    }

    fn event(&mut self, event: &Event<'_>) {
        let (ranges, mut desk) = self.split();
        ranges.event(event, &mut desk);
    }
}

/// The identities whose producer's span went out lately for a reason, in two generations.
#[derive(Default)]
struct Recent {
    young: HashSet<u128, DefaultHashBuilder>,
    old: HashSet<u128, DefaultHashBuilder>,
}

impl Recent {
    const GENERATION: usize = 16_384;

    /// False if it was there already.
    fn insert(&mut self, identity: u128) -> bool {
        if self.young.contains(&identity) || self.old.contains(&identity) {
            return false;
        }
        if self.young.len() >= Self::GENERATION {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        self.young.insert(identity)
    }
}
