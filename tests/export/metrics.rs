//! Metrics: what each line counts as, bounds, and invariants over lives made up at random.

use std::collections::{HashMap, HashSet};

use acktrail::capture::Owner;
use acktrail::export::metrics::{Health, MetricPoints, Metrics, Number, Snapshot, Value};
use acktrail::export::registry::{ATTRIBUTES, Instrument, Metric, Type, metric};
use acktrail::export::resource::Resource;
use acktrail::export::summary::Loss;
use acktrail::lifecycle::Lag;
use acktrail::lifecycle::transition::{
    Attributes, Event, Evidence, Observer, Reason, Settlement, State, Timings, Transition,
};
use acktrail::names::Name;
use acktrail::time::Timestamp;
use proptest::prelude::*;

use crate::export_support::{Life, transition};

const MS: u64 = 1_000_000;

/// Series as a back end keys them.
type Series = HashMap<String, (&'static Metric, Timestamp, Number)>;

fn series(snapshot: &Snapshot) -> Series {
    let mut all = HashMap::new();
    for resource in &snapshot.resources {
        for metric in &resource.metrics {
            for point in &metric.points {
                let mut pairs: Vec<String> = Vec::new();
                for (key, value) in &point.attributes {
                    let registered = ATTRIBUTES.iter().find(|known| known.key == key.key).unwrap();
                    assert!(registered.places.contains('m'), "{} is not registered for metrics", key.key);
                    let (kind, text) = match value {
                        Value::Text(text) => (Type::Text, text.clone()),
                        Value::Word(word) => (Type::Text, (*word).to_owned()),
                        Value::Int(number) => (Type::Int, number.to_string()),
                        Value::Bool(flag) => (Type::Bool, flag.to_string()),
                    };
                    assert_eq!(kind, registered.kind, "{}", key.key);
                    assert!(!text.is_empty(), "{} is empty", key.key);
                    pairs.push(format!("{}={text}", key.key));
                }
                pairs.sort();
                let histogram = matches!(point.number, Number::Histogram(_));
                assert_eq!(histogram, metric.metric.instrument == Instrument::Histogram);
                let key = format!("{} {:?} {{{}}}", metric.metric.name, resource.resource, pairs.join(" "));
                assert!(point.start <= snapshot.time);
                let before = all.insert(key.clone(), (metric.metric, point.start, point.number.clone()));
                assert!(before.is_none(), "twice: {key}");
            }
        }
    }
    all
}

fn count(number: &Number) -> u64 {
    match number {
        Number::Count(count) => *count,
        Number::Histogram(histogram) => histogram.count(),
    }
}

/// The sum over the series of a metric whose key holds all these words.
fn sum(snapshot: &Snapshot, metric: &Metric, words: &[&str]) -> u64 {
    total(&series(snapshot), metric, words)
}

fn total(all: &Series, metric: &Metric, words: &[&str]) -> u64 {
    let prefix = format!("{} ", metric.name);
    let fits = |key: &&String| key.starts_with(&prefix) && words.iter().all(|word| key.contains(word));
    all.keys().filter(fits).map(|key| count(&all[key].2)).sum()
}

#[test]
fn a_life_is_counted_by_the_rules() {
    let mut metrics = Metrics::new(Timestamp(1));
    Life::new(2).feed(10, &mut |line| metrics.transition(line));
    let snapshot = metrics.snapshot(Timestamp(1_795_357_868_000_000_000), &Health::default());
    let of = |metric, words: &[&str]| sum(&snapshot, metric, words);
    assert_eq!(of(&metric::SENT, &["shop-api", "messaging.operation.name=publish", "server.port=5672"]), 10);
    assert_eq!(of(&metric::SENT, &["messaging.destination.name=shop:order.created.1 "]), 5);
    assert_eq!(of(&metric::CONSUMED, &["billing-worker", "acktrail.queue.name=billing-0"]), 5);
    assert_eq!(of(&metric::OPERATION_DURATION, &["shop-api", "messaging.operation.type=send"]), 10);
    assert_eq!(of(&metric::OPERATION_DURATION, &["error.type"]), 0);
    assert_eq!(of(&metric::PROCESS_DURATION, &["billing-worker"]), 10);
    assert_eq!(of(&metric::BROKER_DURATION, &[]), 10);
    assert_eq!(of(&metric::RECEIVE_BUFFER_DURATION, &[]), 10);
    assert_eq!(of(&metric::TRANSITIONS, &[]), 50);
    assert_eq!(of(&metric::TRANSITIONS, &["state=Acknowledged", "evidence=observed", "billing-1"]), 5);
    assert_eq!(of(&metric::IN_FLIGHT, &[]), 0);
    assert_eq!(of(&metric::RETRY_DURATION, &[]) + of(&metric::DEAD_LETTERS, &[]), 0);
    let all = series(&snapshot);
    let (_, (_, _, Number::Histogram(broker))) =
        all.iter().find(|(key, _)| key.starts_with("acktrail.broker.duration")).unwrap()
    else {
        panic!("not a histogram")
    };
    assert_eq!((broker.sum() * 1e3).round() as u64, 5 * 2);
    assert_eq!(broker.extremes(), Some((0.002, 0.002)));
    assert!(snapshot.resources.iter().any(|resource| resource.resource == Resource::Agent));
}

#[test]
fn failures_name_their_reason() {
    let queue: Name = "work".into();
    let dlq: Name = "work.dlq".into();
    let attributes = Attributes { system: "rabbitmq", queue: Some(&queue), ..Attributes::default() };
    let mut metrics = Metrics::new(Timestamp(0));
    let line = |state, previous, time: u64, reason| Transition {
        previous,
        reason,
        delivery: Some(1),
        attributes,
        timings: Timings { created: Some(Timestamp(0)), ..Timings::default() },
        ..transition(state, time)
    };
    metrics.transition(&line(State::PublishFailed, Some(State::Created), 7 * MS, Some(Reason::Refused)));
    metrics.transition(&line(State::Dispatched, None, 10 * MS, None));
    let mut failed = line(State::Failed, Some(State::Processing), 20 * MS, Some(Reason::ConnectionLost));
    failed.timings.processing = Some(Timestamp(12 * MS));
    failed.timings.first_failed = Some(failed.time);
    metrics.transition(&failed);
    let mut again = line(State::Dispatched, Some(State::Retrying), 30 * MS, None);
    again.delivery = Some(2);
    metrics.transition(&again);
    // The reading was not seen, but who rejects has read.
    let mut rejected = line(State::Rejected, Some(State::Dispatched), 40 * MS, Some(Reason::Rejected));
    rejected.delivery = Some(2);
    rejected.attributes.settlement = Some(Settlement::Explicit);
    metrics.transition(&rejected);
    let mut dead = line(State::DeadLettered, Some(State::Rejected), 120 * MS, Some(Reason::Rejected));
    dead.delivery = Some(2);
    dead.evidence = Evidence::Inferred;
    dead.timings.first_failed = Some(failed.time);
    dead.attributes.dead_letter_source = Some(&queue);
    dead.attributes.dead_letter_destination = Some(&dlq);
    metrics.transition(&dead);
    let event = Event {
        time: Timestamp(130 * MS),
        name: "settle_failed",
        count: None,
        detail: None,
        evidence: Evidence::Observed,
        attributes: Attributes { error_code: Some(406), ..attributes },
    };
    metrics.event(&event);

    let snapshot = metrics.snapshot(Timestamp(200 * MS), &Health::default());
    let of = |metric, words: &[&str]| sum(&snapshot, metric, words);
    assert_eq!(of(&metric::OPERATION_DURATION, &["error.type=refused"]), 1);
    assert_eq!(of(&metric::PROCESS_DURATION, &["error.type=connection_lost"]), 1);
    assert_eq!(of(&metric::PROCESS_DURATION, &[]), 1);
    assert_eq!(of(&metric::CONSUMED, &[]), 1);
    assert_eq!(of(&metric::BROKER_DURATION, &[]), 1);
    assert_eq!(of(&metric::RETRY_DURATION, &["state=DeadLettered"]), 1);
    let letter = ["source=work ", "destination=work.dlq", "reason=rejected", "evidence=inferred"];
    assert_eq!(of(&metric::DEAD_LETTERS, &letter), 1);
    assert_eq!(of(&metric::SETTLE_FAILURES, &["error.type=406", "Unknown"]), 1);
    assert_eq!(of(&metric::IN_FLIGHT, &[]), 0);
}

#[test]
fn the_publish_of_a_copy_ends_no_delivery() {
    let mut metrics = Metrics::new(Timestamp(0));
    metrics.transition(&transition(State::Dispatched, 1));
    let mut copy = transition(State::Created, 2);
    copy.previous = Some(State::Dispatched);
    metrics.transition(&copy);
    assert_eq!(metrics.in_flight(), 1);
}

#[test]
fn the_agents_own_health_is_never_absent() {
    let mut metrics = Metrics::new(Timestamp(5));
    let snapshot = metrics.snapshot(Timestamp(6), &Health::default());
    assert_eq!(series(&snapshot).len(), 3);
    let health = Health {
        lost: vec![Loss { stage: "kernel", reason: "ring_full", count: 3, unit: "record" }],
        capture_bytes: 100,
        capture_segments: 2,
        parser_errors: vec![("malformed", 1)],
        evictions: vec![("messages", 4)],
        export_failed: vec![("traces", "queue_full", 9)],
    };
    let snapshot = metrics.snapshot(Timestamp(7), &health);
    let of = |metric, words: &[&str]| sum(&snapshot, metric, words);
    assert_eq!(of(&metric::CAPTURE_LOST, &["stage=kernel", "reason=ring_full", "unit=record"]), 3);
    assert_eq!(of(&metric::PARSER_ERRORS, &["error.type=malformed"]), 1);
    assert_eq!(of(&metric::TABLE_EVICTIONS, &["acktrail.table=messages"]), 4);
    assert_eq!(of(&metric::EXPORT_FAILED, &["signal=traces", "reason=queue_full"]), 9);
    assert!(series(&snapshot).values().all(|(_, start, _)| *start == Timestamp(5)));
}

#[test]
fn queues_and_processes_without_end_are_bounded_and_lose_no_count() {
    let mut metrics = Metrics::new(Timestamp(0));
    let rounds = 40_000u64;
    for round in 0..rounds {
        let name: Name = format!("q{round}").into();
        let process = Owner { pid: round as u32 % 7000 + 1, executable: "worker".into() };
        let mut line = transition(State::Dispatched, round);
        line.attributes.queue = Some(&name);
        line.attributes.process = Some(&process);
        metrics.transition(&line);
        if round >= 100 {
            let name: Name = format!("q{}", round - 100).into();
            line.attributes.queue = Some(&name);
            (line.state, line.previous) = (State::Acknowledged, Some(State::Dispatched));
            metrics.transition(&line);
        }
    }
    assert_eq!(metrics.in_flight(), 100);
    let snapshot = metrics.snapshot(Timestamp(rounds), &Health::default());
    let all = series(&snapshot);
    assert!(all.len() < 3 * Metrics::GROUPS, "{}", all.len());
    assert_eq!(sum(&snapshot, &metric::IN_FLIGHT, &[]), 100);
    assert!(sum(&snapshot, &metric::TRANSITIONS, &["acktrail.queue.name=other"]) > 0);
    // What is idle ends.
    let later = metrics.snapshot(Timestamp(rounds).plus(Metrics::IDLE), &Health::default());
    assert_eq!(sum(&later, &metric::TRANSITIONS, &[]), 0);
    assert_eq!(sum(&later, &metric::IN_FLIGHT, &[]), 100);
}

#[test]
fn deliveries_that_the_lifecycle_gave_up_are_not_in_flight() {
    let (queue, tag): (Name, Name) = ("work".into(), "ctag".into());
    let mut metrics = Metrics::new(Timestamp(0));
    let mut line = transition(State::Dispatched, 1);
    line.count = 5;
    line.attributes.queue = Some(&queue);
    metrics.transition(&line);
    let mut event = Event {
        time: Timestamp(2),
        name: "fate_unknown",
        count: Some(3),
        detail: None,
        evidence: Evidence::Inferred,
        attributes: Attributes { consumer_tag: Some(&tag), ..line.attributes },
    };
    metrics.event(&event);
    assert_eq!(metrics.in_flight(), 2);
    // Messages waiting in the queue were never in flight.
    event.attributes.consumer_tag = None;
    event.name = "evicted";
    metrics.event(&event);
    assert_eq!(metrics.in_flight(), 2);
    // More than there is: the attach was late.
    event.attributes.delivery_tag = Some(1);
    metrics.event(&event);
    assert_eq!(metrics.in_flight(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn counters_only_rise_and_in_flight_is_exact(
        steps in prop::collection::vec((0..6usize, 0..4u32, 0..12usize, 1..4u64, 0..40u32), 1..400),
    ) {
        let names: Vec<Name> = (0..12).map(|number| Name::from(format!("q{number}"))).collect();
        let mut open: HashMap<usize, u64> = HashMap::new();
        let mut metrics = Metrics::new(Timestamp(0));
        let mut before: HashMap<String, (u64, Timestamp)> = HashMap::new();
        let mut transitions = 0;
        for (time, (step, pid, queue, amount, snapshot)) in steps.into_iter().enumerate() {
            let time = time as u64 * MS;
            let process = Owner { pid, executable: format!("p{pid}") };
            let held = open.get(&queue).copied().unwrap_or(0);
            let (state, previous, amount) = match step {
                0 => (State::Created, None, amount),
                1 | 2 => (State::Dispatched, None, amount),
                3 if held > 0 => (State::Processing, Some(State::Dispatched), 1),
                4 if held > 0 => (State::Acknowledged, Some(State::Processing), amount.min(held)),
                5 if held > 0 => (State::Failed, Some(State::Dispatched), amount.min(held)),
                _ => (State::Retrying, Some(State::Failed), amount),
            };
            match state {
                State::Dispatched => *open.entry(queue).or_default() += amount,
                State::Acknowledged | State::Failed => *open.entry(queue).or_default() -= amount,
                _ => {}
            }
            let mut line = transition(state, time);
            (line.previous, line.count) = (previous, amount);
            line.attributes.queue = Some(&names[queue]);
            line.attributes.process = Some(&process).filter(|process| process.pid != 0);
            metrics.transition(&line);
            transitions += amount;
            if snapshot == 0 {
                let now = metrics.snapshot(Timestamp(time), &Health::default());
                let all = series(&now);
                for (key, (metric, start, number)) in &all {
                    if metric.instrument != Instrument::UpDownCounter {
                        let (least, since) = before.get(key).copied().unwrap_or((0, *start));
                        prop_assert!(count(number) >= least && since == *start, "{key}");
                    }
                }
                prop_assert_eq!(total(&all, &metric::TRANSITIONS, &[]), transitions);
                for (queue, held) in &open {
                    let word = format!("acktrail.queue.name=q{queue} ");
                    prop_assert_eq!(total(&all, &metric::IN_FLIGHT, &[&word]), *held);
                }
                before = all.into_iter().map(|(key, (_, start, number))| (key, (count(&number), start))).collect();
            }
        }
        prop_assert_eq!(metrics.in_flight(), open.values().sum::<u64>());
        let resources: HashSet<_> = metrics
            .snapshot(Timestamp(1), &Health::default())
            .resources
            .into_iter()
            .map(|points| points.resource)
            .collect();
        prop_assert!(resources.len() <= 5);
    }
}

#[test]
fn lags_are_a_gauge_that_ends_when_they_are_told_no_more() {
    let lag = |group: &str, partition, lag| {
        let (group, topic) = (group.into(), "orders".into());
        Lag { system: "kafka", group, topic, partition, committed: 1, end: 1 + lag as i64, stable: None, lag }
    };
    let mut metrics = Metrics::new(Timestamp(1));
    metrics.lags([lag("billing", 1, 7), lag("audit", 0, 0)].into_iter());
    let shown = |metrics: &mut Metrics| -> Vec<String> {
        let snapshot = metrics.snapshot(Timestamp(2), &Health::default());
        let of_lag = |points: &&MetricPoints| points.metric.name == "acktrail.consumer.lag";
        let points = snapshot.resources.iter().flat_map(|resource| &resource.metrics).filter(of_lag);
        points
            .flat_map(|points| &points.points)
            .map(|point| format!("{:?}", (&point.attributes, &point.number)))
            .collect()
    };
    let found = shown(&mut metrics);
    assert_eq!(found.len(), 2);
    for (point, words) in
        found.iter().zip([["audit", "orders", "\"0\"", "Count(0)"], ["billing", "orders", "\"1\"", "Count(7)"]])
    {
        assert!(words.iter().all(|word| point.contains(word)), "{point}");
    }
    metrics.lags(std::iter::once(lag("audit", 0, 3)));
    assert_eq!(shown(&mut metrics).len(), 1);
    assert!(shown(&mut metrics).is_empty(), "told without having been told again");
}
