//! The summary: what became of all messages, and what the capture did and lost, so that `seen + Σ lost = sent` can be
//! checked.

use hashbrown::HashMap;

use super::json;
use super::lags;
use super::registry::EVENTS;
use super::routes::{Route, RouteId, Routes};
use crate::lifecycle::Lag;
use crate::lifecycle::transition::{Attributes, Event, Evidence, Observer, Reason, State, Transition};
use crate::names::Name;
use crate::time::Timestamp;

/// Something that was lost somewhere, counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Where: `kernel`, `stream`, `protocol`, `lifecycle`, `export`.
    pub stage: &'static str,
    /// Why.
    pub reason: &'static str,
    /// How much, since the start.
    pub count: u64,
    /// Of what: `segment`, `byte`, `record`, `message`, `line`, `span`, …
    pub unit: &'static str,
}

/// Everything that can be lost, each stage and reason once. An entry with count 0 is shown: it says that it was looked for.
pub type LossTable = Vec<Loss>;

/// What the capture did since it was attached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaptureTotals {
    /// Packets with payload that passed watched sockets.
    pub segments: u64,
    /// Their payload.
    pub bytes: u64,
    /// The part of it that was copied.
    pub captured_bytes: u64,
    /// The part that was left out on purpose.
    pub skipped_bytes: u64,
    /// Places in streams where bytes were missing.
    pub holes: u64,
    /// Settled messages that were forgotten, the oldest first, because so many were settled since.
    pub forgotten: u64,
    /// What was lost.
    pub lost: LossTable,
}

/// What a summary says besides its totals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SummaryFacts<'a> {
    /// When it is made.
    pub time: Timestamp,
    /// When the capture began.
    pub attached_at: Option<Timestamp>,
    /// The kernel's release; `None` in a replay.
    pub kernel: Option<&'a str>,
    /// What the capture did.
    pub capture: &'a CaptureTotals,
    /// How far consumer groups are behind, and how many more groups' partitions there are.
    pub lags: &'a (Vec<Lag>, usize),
}

/// One row of the totals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Total {
    /// messaging.system.
    pub system: &'static str,
    /// Virtual host, where known.
    pub vhost: Option<Name>,
    /// messaging.destination.name, folded.
    pub destination: Name,
    /// The queue; `None` for what happens before any queue.
    pub queue: Option<Name>,
    /// The state.
    pub state: State,
    /// Messages that entered it, less those that a later line took back.
    pub count: u64,
    /// The part of `count` that was inferred.
    pub inferred: u64,
    /// Why, as far as there were reasons.
    pub reasons: Vec<(Reason, u64)>,
}

impl Total {
    /// Takes over what another row counted; always true.
    fn add(&mut self, other: &Total) -> bool {
        self.count += other.count;
        self.inferred += other.inferred;
        for (reason, count) in &other.reasons {
            match self.reasons.iter_mut().find(|(known, _)| known == reason) {
                Some((_, known)) => *known += count,
                None => self.reasons.push((*reason, *count)),
            }
        }
        self.reasons.sort_unstable();
        true
    }
}

/// Counts transitions per system, virtual host, destination, queue and state.
#[derive(Default)]
pub struct Totals {
    routes: Routes,
    rows: Vec<Row>,
    retired: Vec<(RouteId, Route)>,
    /// Names of what was counted without one: what it was called meanwhile, and its name.
    renamed: HashMap<Name, Name>,
    events: [u64; EVENTS.len()],
}

impl Totals {
    /// Names that are given to what was counted without one. What finds no room keeps what it was called.
    const RENAMED: usize = 4096;

    /// Nothing counted yet.
    pub fn new() -> Totals {
        Totals::default()
    }

    /// All rows that are not zero, sorted by system, virtual host, queue, destination and state.
    pub fn rows(&self) -> Vec<Total> {
        let mut totals: Vec<Total> = Vec::new();
        for (id, route) in self.routes.iter() {
            let Some(row) = self.rows.get(id.index()) else { continue };
            for state in State::ALL {
                let cell = row.cells[state as usize];
                if cell.count == 0 {
                    continue;
                }
                let reasons = row.reasons.iter().filter(|reason| reason.state == state);
                let mut summed: Vec<(Reason, u64)> = Vec::new();
                for reason in reasons.filter(|reason| reason.count > 0) {
                    match summed.iter_mut().find(|(other, _)| *other == reason.reason) {
                        Some((_, count)) => *count += reason.count,
                        None => summed.push((reason.reason, reason.count)),
                    }
                }
                summed.sort_unstable();
                totals.push(Total {
                    system: route.system,
                    vhost: route.vhost.clone(),
                    destination: self.renamed.get(&route.destination).unwrap_or(&route.destination).clone(),
                    queue: route.queue.clone(),
                    state,
                    count: cell.count,
                    inferred: cell.inferred,
                    reasons: summed,
                });
            }
        }
        let key = |total: &Total| {
            (total.system, total.vhost.clone(), total.queue.clone(), total.destination.clone(), total.state)
        };
        totals.sort_by_cached_key(key);
        if !self.renamed.is_empty() {
            totals.dedup_by(|next, total| key(next) == key(total) && total.add(next));
        }
        totals
    }

    /// Deliveries that nobody has settled yet, by place.
    pub fn in_flight(&self) -> impl Iterator<Item = (&Route, i64)> {
        self.routes.iter().filter_map(|(id, route)| Some((route, self.rows.get(id.index())?.in_flight)))
    }

    /// Messages that entered a state, over everything, less those taken back.
    pub fn of_state(&self, state: State) -> u64 {
        self.rows.iter().map(|row| row.cells[state as usize].count).sum()
    }

    /// How often each event happened, in the order of the registry.
    pub fn events(&self) -> impl Iterator<Item = (&'static str, u64)> {
        EVENTS.iter().copied().zip(self.events).filter(|(_, count)| *count > 0)
    }

    /// Appends the summary as a JSON line.
    pub fn line(&self, facts: &SummaryFacts<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"kind\":\"summary\",\"time\":\"");
        json::time(facts.time, out);
        out.push(b'"');
        if let Some(attached_at) = facts.attached_at {
            out.extend_from_slice(b",\"attached_at\":\"");
            json::time(attached_at, out);
            out.push(b'"');
        }
        out.extend_from_slice(b",\"version\":");
        json::string(env!("CARGO_PKG_VERSION"), out);
        if let Some(kernel) = facts.kernel {
            out.extend_from_slice(b",\"kernel\":");
            json::string(kernel, out);
        }
        out.extend_from_slice(b",\"totals\":[");
        list(&self.rows(), out, total_object);
        let (lags, lags_folded) = facts.lags;
        if !lags.is_empty() {
            out.extend_from_slice(b"],\"lags\":[");
            list(lags, out, lags::object);
            out.extend_from_slice(b"],\"lags_folded\":");
            json::number(*lags_folded as u64, out);
        } else {
            out.push(b']');
        }
        out.extend_from_slice(b",\"folded\":");
        json::number(self.routes.folded(), out);
        out.extend_from_slice(b",\"events\":{");
        let events: Vec<_> = self.events().collect();
        list(&events, out, |(name, count), out| {
            json::string(name, out);
            out.push(b':');
            json::number(*count, out);
        });
        out.extend_from_slice(b"},\"capture\":");
        capture_object(facts.capture, out);
        out.extend_from_slice(b"}\n");
    }

    fn count(&mut self, transition: &Transition<'_>) {
        let id = self.route(&transition.attributes);
        if let Some(row) = self.rows.get_mut(id.index()) {
            row.add(transition);
        }
        if let Some(corrected) = transition.corrects {
            let id = self.place_of(corrected, transition).unwrap_or(id);
            self.take_back(id, corrected, transition.count);
        }
    }

    /// Where a corrected line had been counted: what precedes any queue was counted without one.
    fn place_of(&mut self, corrected: State, transition: &Transition<'_>) -> Option<RouteId> {
        if !matches!(corrected, State::Created | State::Confirmed | State::PublishFailed | State::Returned) {
            return None;
        }
        Some(self.route(&Attributes { queue: None, ..transition.attributes }))
    }

    /// Where lines with these attributes are counted; there is a row.
    fn route(&mut self, attributes: &Attributes<'_>) -> RouteId {
        let id = self.routes.of(attributes, &mut self.retired);
        if !self.retired.is_empty() {
            self.fold_retired();
        }
        if id.index() >= self.rows.len() {
            self.rows.resize_with(id.index() + 1, Row::default);
        }
        id
    }

    /// A corrected line's count leaves the state that it was counted in: by rule on the same route, else, where that route
    /// was folded meanwhile, wherever the count went.
    fn take_back(&mut self, id: RouteId, state: State, count: u64) {
        let mut left = count;
        if let Some(row) = self.rows.get_mut(id.index()) {
            left = row.take_back(state, left);
        }
        if left == 0 {
            return;
        }
        let queue = self.routes.get(id).and_then(|route| route.queue.clone());
        for same_queue in [true, false] {
            for (other, route) in self.routes.iter() {
                if left > 0
                    && (!same_queue || route.queue == queue)
                    && let Some(row) = self.rows.get_mut(other.index())
                {
                    left = row.take_back(state, left);
                }
            }
        }
    }

    fn fold_retired(&mut self) {
        for (id, route) in std::mem::take(&mut self.retired) {
            let Some(row) = self.rows.get_mut(id.index()).map(std::mem::take) else { continue };
            let other = self.routes.other(&route);
            if other.index() >= self.rows.len() {
                self.rows.resize_with(other.index() + 1, Row::default);
            }
            if let Some(into) = self.rows.get_mut(other.index()) {
                into.merge(row);
            }
        }
    }
}

impl Observer for Totals {
    fn transition(&mut self, transition: &Transition<'_>) {
        self.count(transition);
    }

    fn renamed(&mut self, from: &Name, to: &Name) {
        if self.renamed.len() < Self::RENAMED {
            self.renamed.insert(from.clone(), to.clone());
        }
    }

    fn event(&mut self, event: &Event<'_>) {
        if let Some(index) = EVENTS.iter().position(|name| *name == event.name)
            && let Some(count) = self.events.get_mut(index)
        {
            *count += 1;
        }
        let change = event.in_flight_change();
        if change != 0 {
            let id = self.route(&event.attributes);
            if let Some(row) = self.rows.get_mut(id.index()) {
                row.in_flight += change;
            }
        }
    }
}

#[derive(Default)]
struct Row {
    cells: [Cell; State::ALL.len()],
    reasons: Vec<ReasonCount>,
    /// The routes of a queue share its deliveries: only their sum says something.
    in_flight: i64,
}

#[derive(Clone, Copy, Default)]
struct Cell {
    count: u64,
    inferred: u64,
}

struct ReasonCount {
    state: State,
    reason: Reason,
    evidence: Evidence,
    count: u64,
}

impl Row {
    fn add(&mut self, transition: &Transition<'_>) {
        self.in_flight += transition.in_flight_change();
        let cell = &mut self.cells[transition.state as usize];
        cell.count += transition.count;
        if transition.evidence == Evidence::Inferred {
            cell.inferred += transition.count;
        }
        if let Some(reason) = transition.reason {
            self.add_reason(transition.state, reason, transition.evidence, transition.count);
        }
    }

    /// At most states × reasons × evidence entries, in practice a handful.
    fn add_reason(&mut self, state: State, reason: Reason, evidence: Evidence, count: u64) {
        let same = |entry: &&mut ReasonCount| (entry.state, entry.reason, entry.evidence) == (state, reason, evidence);
        match self.reasons.iter_mut().find(same) {
            Some(entry) => entry.count += count,
            None => self.reasons.push(ReasonCount { state, reason, evidence, count }),
        }
    }

    /// Takes back up to `count`, inferred ones first (only those are ever corrected), and says how many are left to take.
    fn take_back(&mut self, state: State, count: u64) -> u64 {
        let cell = &mut self.cells[state as usize];
        let taken = count.min(cell.count);
        cell.count -= taken;
        cell.inferred -= taken.min(cell.inferred);
        let mut reasons = taken;
        for evidence in [Evidence::Inferred, Evidence::Observed] {
            for entry in self.reasons.iter_mut().filter(|entry| entry.state == state && entry.evidence == evidence) {
                let part = reasons.min(entry.count);
                entry.count -= part;
                reasons -= part;
            }
        }
        count - taken
    }

    fn merge(&mut self, other: Row) {
        self.in_flight += other.in_flight;
        for (cell, more) in self.cells.iter_mut().zip(other.cells) {
            cell.count += more.count;
            cell.inferred += more.inferred;
        }
        for entry in other.reasons {
            self.add_reason(entry.state, entry.reason, entry.evidence, entry.count);
        }
    }
}

fn list<T>(items: &[T], out: &mut Vec<u8>, mut write: impl FnMut(&T, &mut Vec<u8>)) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(item, out);
    }
}

fn total_object(total: &Total, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"system\":");
    json::string(total.system, out);
    let queue = if total.system == crate::lifecycle::KAFKA { "group" } else { "queue" };
    let names =
        [("vhost", total.vhost.as_ref()), ("destination", Some(&total.destination)), (queue, total.queue.as_ref())];
    for (key, name) in names.into_iter().filter_map(|(key, name)| Some((key, name?))) {
        out.push(b',');
        json::string(key, out);
        out.push(b':');
        json::string(name, out);
    }
    out.extend_from_slice(b",\"state\":");
    json::string(total.state.name(), out);
    out.extend_from_slice(b",\"count\":");
    json::number(total.count, out);
    if total.inferred > 0 {
        out.extend_from_slice(b",\"inferred\":");
        json::number(total.inferred, out);
    }
    if !total.reasons.is_empty() {
        out.extend_from_slice(b",\"reasons\":{");
        list(&total.reasons, out, |(reason, count), out| {
            json::string(reason.name(), out);
            out.push(b':');
            json::number(*count, out);
        });
        out.push(b'}');
    }
    out.push(b'}');
}

fn capture_object(capture: &CaptureTotals, out: &mut Vec<u8>) {
    let numbers = [
        ("segments", capture.segments),
        ("bytes", capture.bytes),
        ("captured_bytes", capture.captured_bytes),
        ("skipped_bytes", capture.skipped_bytes),
        ("holes", capture.holes),
        ("forgotten", capture.forgotten),
    ];
    out.push(b'{');
    for (key, value) in numbers {
        json::string(key, out);
        out.push(b':');
        json::number(value, out);
        out.push(b',');
    }
    out.extend_from_slice(b"\"lost\":{");
    let mut stages: Vec<&'static str> = capture.lost.iter().map(|loss| loss.stage).collect();
    stages.sort_unstable();
    stages.dedup();
    list(&stages, out, |stage, out| {
        json::string(stage, out);
        out.extend_from_slice(b":{");
        let of_stage: Vec<&Loss> = capture.lost.iter().filter(|loss| loss.stage == *stage).collect();
        list(&of_stage, out, |loss, out| {
            json::string(loss.reason, out);
            out.extend_from_slice(b":{\"count\":");
            json::number(loss.count, out);
            out.extend_from_slice(b",\"unit\":");
            json::string(loss.unit, out);
            out.push(b'}');
        });
        out.push(b'}');
    });
    out.extend_from_slice(b"}}");
}
