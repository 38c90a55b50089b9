//! A snapshot of all metrics in neutral form: per resource, per metric, points with attributes.

use std::collections::BTreeMap;

use super::Health;
use super::group::Group;
use super::in_flight::InFlight;
use crate::export::histogram::Histogram;
use crate::export::lags::Series;
use crate::export::registry::{Attribute, METRICS, Metric, attribute, metric};
use crate::export::resource::{Endpoints, Resource};
use crate::export::routes::{Route, Routes};
use crate::lifecycle::transition::State;
use crate::time::Timestamp;

/// All metrics at one time.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When.
    pub time: Timestamp,
    /// Per resource, sorted.
    pub resources: Vec<ResourcePoints>,
}

/// The metrics of one resource.
#[derive(Clone, Debug)]
pub struct ResourcePoints {
    /// Whose.
    pub resource: Resource,
    /// In the order of the registry; only those that have points.
    pub metrics: Vec<MetricPoints>,
}

/// The points of one metric.
#[derive(Clone, Debug)]
pub struct MetricPoints {
    /// Which.
    pub metric: &'static Metric,
    /// No two have the same attributes.
    pub points: Vec<Point>,
}

/// A cumulative point.
#[derive(Clone, Debug)]
pub struct Point {
    /// When counting began.
    pub start: Timestamp,
    /// Keys and values.
    pub attributes: Vec<(&'static Attribute, Value)>,
    /// The number.
    pub number: Number,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Value {
    /// A name of the wire, or a text of ours: a copy, as points and spans are handed to another thread.
    Text(String),
    /// A word of ours.
    Word(&'static str),
    /// A whole number.
    Int(i64),
    /// true or false.
    Bool(bool),
}

/// The value of a point.
#[derive(Clone, Debug)]
pub enum Number {
    /// A counter's, or a gauge's.
    Count(u64),
    /// A histogram's.
    Histogram(Box<Histogram>),
}

/// Messages that wait: in consumers' hands, and for groups.
pub(super) struct Waiting<'a> {
    pub in_flight: &'a mut InFlight,
    pub lags: Vec<Series>,
}

pub(super) fn build<'a>(
    start: Timestamp,
    now: Timestamp,
    groups: impl Iterator<Item = &'a Group>,
    routes: &Routes,
    endpoints: &Endpoints,
    waiting: Waiting<'_>,
    health: &Health,
) -> Snapshot {
    let mut time = now;
    let mut by_resource: BTreeMap<Resource, Points> = BTreeMap::new();
    for group in groups {
        let (Some(route), Some(endpoint)) = (routes.get(group.route), endpoints.get(group.endpoint)) else { continue };
        time = time.max(group.last);
        let points = by_resource.entry(endpoint.resource.clone()).or_default();
        let place = place(route, endpoint.server);
        group_points(group, &place, points);
    }
    let agent = by_resource.entry(Resource::Agent).or_default();
    in_flight_points(start, waiting.in_flight, agent);
    lag_points(start, waiting.lags, agent);
    health_points(start, health, agent);
    let resources =
        by_resource.into_iter().map(|(resource, points)| ResourcePoints { resource, metrics: points.sorted() });
    Snapshot { time, resources: resources.collect() }
}

type Pairs = Vec<(&'static Attribute, Value)>;

/// Points by metric, in the registry's order.
#[derive(Default)]
struct Points {
    by_metric: BTreeMap<usize, MetricPoints>,
}

impl Points {
    fn add(&mut self, metric: &'static Metric, start: Timestamp, place: &Place, more: Pairs, number: Number) {
        let order = METRICS.iter().position(|other| std::ptr::eq(*other, metric)).unwrap_or(METRICS.len());
        let entry = self.by_metric.entry(order).or_insert_with(|| MetricPoints { metric, points: Vec::new() });
        let mut attributes = place.pairs.clone();
        attributes.extend(more);
        entry.points.push(Point { start, attributes, number });
    }

    fn count(&mut self, metric: &'static Metric, start: Timestamp, place: &Place, more: Pairs, count: u64) {
        self.add(metric, start, place, more, Number::Count(count));
    }

    fn sorted(self) -> Vec<MetricPoints> {
        self.by_metric.into_values().collect()
    }
}

/// The attributes that say where.
struct Place {
    system: &'static str,
    pairs: Pairs,
}

/// What a system's clients call what they do: a pushed message is counted where it is processed, a pulled one where it is received.
struct Operations {
    sending: &'static str,
    receiving: &'static str,
}

impl Operations {
    fn of(system: &str) -> Operations {
        match system {
            crate::lifecycle::KAFKA => Operations { sending: "send", receiving: "poll" },
            _ => Operations { sending: "publish", receiving: "process" },
        }
    }
}

fn place(route: &Route, server: Option<std::net::SocketAddr>) -> Place {
    let mut pairs: Pairs = vec![(&attribute::SYSTEM, Value::Word(route.system))];
    // A folded name is a template, not a destination.
    let destination = if route.generated { &attribute::DESTINATION_TEMPLATE } else { &attribute::DESTINATION_NAME };
    pairs.push((destination, Value::Text(route.destination.to_string())));
    if let Some(vhost) = &route.vhost {
        pairs.push((&attribute::VHOST, Value::Text(vhost.to_string())));
    }
    if let Some(queue) = &route.queue {
        pairs.push((queue_attribute(route.system), Value::Text(queue.to_string())));
    }
    if let Some(server) = server {
        pairs.push((&attribute::SERVER_ADDRESS, Value::Text(server.ip().to_string())));
        pairs.push((&attribute::SERVER_PORT, Value::Int(i64::from(server.port()))));
    }
    Place { system: route.system, pairs }
}

/// What a queue, or what stands for one, is called.
fn queue_attribute(system: &str) -> &'static Attribute {
    if system == crate::lifecycle::KAFKA { &attribute::GROUP } else { &attribute::QUEUE }
}

fn group_points(group: &Group, place: &Place, points: &mut Points) {
    let start = group.since;
    let operation = |name| vec![(&attribute::OPERATION_NAME, Value::Word(name))];
    let Operations { sending, receiving } = Operations::of(place.system);
    if group.sent > 0 {
        points.count(&metric::SENT, start, place, operation(sending), group.sent);
    }
    if group.consumed > 0 {
        points.count(&metric::CONSUMED, start, place, operation(receiving), group.consumed);
    }
    let mut send = operation(sending);
    send.push((&attribute::OPERATION_TYPE, Value::Word("send")));
    let outcomes = [
        (&metric::OPERATION_DURATION, &group.operation_duration, send),
        (&metric::PROCESS_DURATION, &group.process_duration, operation("process")),
    ];
    for (metric, durations, operation) in outcomes {
        for (error, histogram) in durations {
            let mut more = operation.clone();
            more.extend(error.map(|error| (&attribute::ERROR_TYPE, Value::Word(error))));
            points.add(metric, start, place, more, Number::Histogram(Box::new(histogram.clone())));
        }
    }
    for (entered, count) in &group.transitions {
        let mut more: Pairs = vec![(&attribute::STATE, Value::Word(entered.state.name()))];
        more.extend(entered.reason.map(|reason| (&attribute::REASON, Value::Word(reason.name()))));
        more.push((&attribute::EVIDENCE, Value::Word(entered.evidence.name())));
        points.count(&metric::TRANSITIONS, start, place, more, *count);
    }
    for (letter, count) in &group.dead_letters {
        let mut more: Pairs = Vec::new();
        let names = [
            (&attribute::DEAD_LETTER_SOURCE, &letter.source),
            (&attribute::DEAD_LETTER_DESTINATION, &letter.destination),
        ];
        for (key, name) in names {
            more.extend(name.as_ref().map(|name| (key, Value::Text(name.to_string()))));
        }
        more.extend(letter.reason.map(|reason| (&attribute::REASON, Value::Word(reason.name()))));
        more.push((&attribute::EVIDENCE, Value::Word(letter.evidence.name())));
        points.count(&metric::DEAD_LETTERS, start, place, more, *count);
    }
    for (state, histogram) in &group.retry_duration {
        let more = vec![(&attribute::STATE, Value::Word(State::name(*state)))];
        points.add(&metric::RETRY_DURATION, start, place, more, Number::Histogram(Box::new(histogram.clone())));
    }
    for (code, count) in &group.settle_failures {
        let more = code.map(|code| (&attribute::ERROR_TYPE, Value::Text(code.to_string())));
        points.count(&metric::SETTLE_FAILURES, start, place, more.into_iter().collect(), *count);
    }
    let plain = [
        (&metric::BROKER_DURATION, &group.broker_duration),
        (&metric::RECEIVE_BUFFER_DURATION, &group.receive_buffer_duration),
    ];
    for (metric, histogram) in plain {
        if let Some(histogram) = histogram {
            points.add(metric, start, place, Vec::new(), Number::Histogram(histogram.clone()));
        }
    }
}

fn in_flight_points(start: Timestamp, in_flight: &mut InFlight, points: &mut Points) {
    for (queue, count) in in_flight.shown() {
        let mut pairs: Pairs = vec![(&attribute::SYSTEM, Value::Word(queue.system))];
        pairs.extend(queue.vhost.map(|vhost| (&attribute::VHOST, Value::Text(vhost.to_string()))));
        let name = queue_attribute(queue.system);
        pairs.extend(queue.queue.map(|queue| (name, Value::Text(queue.to_string()))));
        points.count(&metric::IN_FLIGHT, start, &Place { system: queue.system, pairs }, Vec::new(), count);
    }
}

fn lag_points(start: Timestamp, lags: Vec<Series>, points: &mut Points) {
    for Series { system, group, topic, partition, lag } in lags {
        let mut pairs: Pairs = vec![
            (&attribute::SYSTEM, Value::Word(system)),
            (&attribute::GROUP, Value::Text(group.to_string())),
            (&attribute::DESTINATION_NAME, Value::Text(topic.to_string())),
        ];
        pairs.extend(partition.map(|partition| (&attribute::PARTITION, Value::Text(partition.to_string()))));
        points.count(&metric::CONSUMER_LAG, start, &Place { system, pairs }, Vec::new(), lag);
    }
}

fn health_points(start: Timestamp, health: &Health, points: &mut Points) {
    let nowhere = Place { system: "", pairs: Vec::new() };
    for loss in &health.lost {
        let more = vec![
            (&attribute::LOSS_STAGE, Value::Word(loss.stage)),
            (&attribute::LOSS_REASON, Value::Word(loss.reason)),
            (&attribute::LOSS_UNIT, Value::Word(loss.unit)),
        ];
        points.count(&metric::CAPTURE_LOST, start, &nowhere, more, loss.count);
    }
    if health.lost.is_empty() {
        // "Nothing was lost" has to be told from "nothing is known".
        points.count(&metric::CAPTURE_LOST, start, &nowhere, Vec::new(), 0);
    }
    points.count(&metric::CAPTURE_BYTES, start, &nowhere, Vec::new(), health.capture_bytes);
    points.count(&metric::CAPTURE_SEGMENTS, start, &nowhere, Vec::new(), health.capture_segments);
    for (trouble, count) in &health.parser_errors {
        let more = vec![(&attribute::ERROR_TYPE, Value::Word(trouble))];
        points.count(&metric::PARSER_ERRORS, start, &nowhere, more, *count);
    }
    for (table, count) in &health.evictions {
        points.count(&metric::TABLE_EVICTIONS, start, &nowhere, vec![(&attribute::TABLE, Value::Word(table))], *count);
    }
    for (signal, reason, count) in &health.export_failed {
        let more = vec![(&attribute::SIGNAL, Value::Word(signal)), (&attribute::LOSS_REASON, Value::Word(reason))];
        points.count(&metric::EXPORT_FAILED, start, &nowhere, more, *count);
    }
}
