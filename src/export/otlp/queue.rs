//! What waits to be sent: bounded, and shared between the pipeline, which must never wait, and the sender.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use crate::export::metrics::Snapshot;
use crate::export::spans::Span;

/// Shared state. Every lock is held for the time of a few moves.
pub(super) struct Shared {
    state: Mutex<State>,
    /// Something came, or the end has.
    pub(super) spans_changed: Notify,
    pub(super) metrics_changed: Notify,
    pub(super) closing_changed: Notify,
    most_spans: usize,
}

#[derive(Default)]
struct State {
    ordinary: VecDeque<Span>,
    important: VecDeque<Span>,
    snapshot: Option<Snapshot>,
    /// Items taken, and not yet delivered or given up: signal → how many.
    in_hand: BTreeMap<&'static str, u64>,
    failed: BTreeMap<(&'static str, &'static str), u64>,
    delivered: BTreeMap<&'static str, u64>,
    problem: Option<String>,
    troubled: bool,
    deadline: Option<Instant>,
}

pub(super) const TRACES: &str = "traces";
pub(super) const METRICS: &str = "metrics";

impl Shared {
    pub(super) fn new(most_spans: usize) -> Shared {
        Shared {
            state: Mutex::default(),
            spans_changed: Notify::new(),
            metrics_changed: Notify::new(),
            closing_changed: Notify::new(),
            most_spans,
        }
    }

    /// Adds spans; where there is no room, the oldest ordinary ones go first, then the oldest of the others.
    pub(super) fn offer_spans(&self, spans: impl IntoIterator<Item = Span>) {
        let mut state = self.lock();
        let mut dropped = 0;
        for span in spans {
            let queue = if span.important { &mut state.important } else { &mut state.ordinary };
            queue.push_back(span);
            if state.important.len() + state.ordinary.len() > self.most_spans {
                dropped += 1;
                if state.ordinary.pop_front().is_none() {
                    state.important.pop_front();
                }
            }
        }
        if dropped > 0 {
            *state.failed.entry((TRACES, "queue_full")).or_default() += dropped;
        }
        drop(state);
        self.spans_changed.notify_one();
    }

    /// Replaces the snapshot that waits: they are cumulative, so a newer one says all that an older one would, and nothing
    /// is lost.
    pub(super) fn offer_snapshot(&self, snapshot: Snapshot) {
        self.lock().snapshot = Some(snapshot);
        self.metrics_changed.notify_one();
    }

    pub(super) fn take_spans(&self, most: usize) -> Vec<Span> {
        let mut state = self.lock();
        let important = state.important.len().min(most);
        let mut spans: Vec<Span> = state.important.drain(..important).collect();
        let ordinary = state.ordinary.len().min(most - important);
        spans.extend(state.ordinary.drain(..ordinary));
        *state.in_hand.entry(TRACES).or_default() += spans.len() as u64;
        spans
    }

    pub(super) fn take_snapshot(&self) -> Option<Snapshot> {
        self.lock().snapshot.take()
    }

    pub(super) fn waiting_spans(&self) -> usize {
        let state = self.lock();
        state.important.len() + state.ordinary.len()
    }

    pub(super) fn in_hand(&self, signal: &'static str, items: u64) {
        *self.lock().in_hand.entry(signal).or_default() += items;
    }

    /// The fate of a batch: `rejected` of its items were refused one by one, for that reason.
    pub(super) fn done(&self, signal: &'static str, items: u64, rejected: u64, reason: &'static str) {
        let mut state = self.lock();
        let in_hand = state.in_hand.entry(signal).or_default();
        *in_hand = in_hand.saturating_sub(items);
        let rejected = rejected.min(items);
        *state.delivered.entry(signal).or_default() += items - rejected;
        if rejected > 0 {
            *state.failed.entry((signal, reason)).or_default() += rejected;
        }
    }

    /// Notes trouble, to be reported once until something is delivered again.
    pub(super) fn trouble(&self, text: impl FnOnce() -> String) {
        let mut state = self.lock();
        if !state.troubled {
            state.troubled = true;
            state.problem = Some(text());
        }
    }

    pub(super) fn untroubled(&self) {
        self.lock().troubled = false;
    }

    pub(super) fn take_problem(&self) -> Option<String> {
        self.lock().problem.take()
    }

    pub(super) fn failed(&self) -> Vec<(&'static str, &'static str, u64)> {
        self.lock().failed.iter().map(|((signal, reason), count)| (*signal, *reason, *count)).collect()
    }

    pub(super) fn delivered(&self, signal: &'static str) -> u64 {
        self.lock().delivered.get(signal).copied().unwrap_or(0)
    }

    pub(super) fn close(&self, deadline: Instant) {
        self.lock().deadline = Some(deadline);
        self.spans_changed.notify_one();
        self.metrics_changed.notify_one();
        self.closing_changed.notify_waiters();
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.lock().deadline
    }

    /// Gives up everything that is left.
    pub(super) fn give_up(&self, reason: &'static str) {
        let mut state = self.lock();
        let waiting = (state.important.len() + state.ordinary.len()) as u64;
        state.important.clear();
        state.ordinary.clear();
        let mut left = std::mem::take(&mut state.in_hand);
        *left.entry(TRACES).or_default() += waiting;
        if let Some(snapshot) = state.snapshot.take() {
            let metrics = snapshot.resources.iter().flat_map(|resource| &resource.metrics);
            *left.entry(METRICS).or_default() += metrics.map(|metric| metric.points.len() as u64).sum::<u64>();
        }
        for (signal, items) in left.into_iter().filter(|(_, items)| *items > 0) {
            *state.failed.entry((signal, reason)).or_default() += items;
        }
    }

    /// The state is plain numbers and queues: a panic elsewhere cannot leave it inconsistent.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
