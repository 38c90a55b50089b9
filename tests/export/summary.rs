//! The summary's totals and its line.

use acktrail::export::routes::{OTHER, Routes};
use acktrail::export::summary::{CaptureTotals, Loss, SummaryFacts, Totals};
use acktrail::lifecycle::transition::{Attributes, Event, Evidence, Observer, Reason, State};
use acktrail::names::Names;
use acktrail::time::Timestamp;
use serde_json::{Value, json};

use crate::export_support::transition;

fn line(totals: &Totals, capture: &CaptureTotals) -> Value {
    let kernel = Some("6.1.0");
    let lags = (Vec::new(), 0);
    let facts = SummaryFacts { time: Timestamp(9), attached_at: Some(Timestamp(1)), kernel, capture, lags: &lags };
    let mut out = Vec::new();
    totals.line(&facts, &mut out);
    assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
    serde_json::from_slice(&out).unwrap()
}

#[test]
fn totals_are_cumulative_and_corrections_take_back() {
    let mut names = Names::default();
    let (exchange, key, queue) = (names.intern(b"shop"), names.intern(b"new"), names.intern(b"work"));
    let mut totals = Totals::new();
    let mut feed = |state, reason, evidence, corrects, count, queue| {
        let mut subject = transition(state, 2);
        (subject.reason, subject.evidence, subject.corrects, subject.count) = (reason, evidence, corrects, count);
        subject.attributes =
            Attributes { exchange: Some(&exchange), routing_key: Some(&key), queue, ..subject.attributes };
        totals.transition(&subject);
    };
    let (observed, inferred) = (Evidence::Observed, Evidence::Inferred);
    feed(State::Created, None, observed, None, 5, None);
    feed(State::Rejected, Some(Reason::Rejected), observed, None, 3, Some(&queue));
    feed(State::DeadLettered, Some(Reason::Rejected), inferred, None, 3, Some(&queue));
    feed(State::DeadLettered, Some(Reason::Expired), observed, None, 1, Some(&queue));
    feed(State::Retrying, Some(Reason::RetryTopic), observed, Some(State::DeadLettered), 2, Some(&queue));
    let event = Event {
        time: Timestamp(3),
        name: "settle_failed",
        count: None,
        detail: None,
        evidence: observed,
        attributes: Attributes::default(),
    };
    totals.event(&event);
    totals.event(&event);

    let capture = CaptureTotals {
        segments: 10,
        bytes: 1000,
        forgotten: 3,
        lost: vec![
            Loss { stage: "kernel", reason: "ring_full", count: 2, unit: "record" },
            Loss { stage: "stream", reason: "missing", count: 0, unit: "byte" },
            Loss { stage: "kernel", reason: "unreadable", count: 1, unit: "segment" },
        ],
        ..CaptureTotals::default()
    };
    let row = |state: &str, count: u64| json!({"system": "rabbitmq", "destination": "shop:new:work", "queue": "work", "state": state, "count": count});
    let with = |mut row: Value, key: &str, value: Value| {
        row[key] = value;
        row
    };
    assert_eq!(
        line(&totals, &capture),
        json!({
            "kind": "summary",
            "time": "1970-01-01T00:00:00.000000009Z",
            "attached_at": "1970-01-01T00:00:00.000000001Z",
            "version": env!("CARGO_PKG_VERSION"),
            "kernel": "6.1.0",
            "totals": [
                {"system": "rabbitmq", "destination": "shop:new", "state": "Created", "count": 5},
                with(row("Rejected", 3), "reasons", json!({"rejected": 3})),
                with(row("Retrying", 2), "reasons", json!({"retry_topic": 2})),
                with(with(row("DeadLettered", 2), "inferred", json!(1)), "reasons", json!({"rejected": 1, "expired": 1})),
            ],
            "folded": 0,
            "events": {"settle_failed": 2},
            "capture": {
                "segments": 10, "bytes": 1000, "captured_bytes": 0, "skipped_bytes": 0, "holes": 0, "forgotten": 3,
                "lost": {
                    "kernel": {
                        "ring_full": {"count": 2, "unit": "record"},
                        "unreadable": {"count": 1, "unit": "segment"},
                    },
                    "stream": {"missing": {"count": 0, "unit": "byte"}},
                },
            },
        })
    );
}

#[test]
fn a_publish_thought_lost_that_arrives_is_taken_back_where_it_was_counted() {
    let mut names = Names::default();
    let keys = ["first", "second"].map(|key| names.intern(key.as_bytes()));
    let queue = names.intern(b"work");
    let mut totals = Totals::new();
    for key in &keys {
        let mut line = transition(State::PublishFailed, 1);
        line.evidence = Evidence::Inferred;
        line.attributes.routing_key = Some(key);
        totals.transition(&line);
    }
    let mut arrived = transition(State::Dispatched, 2);
    arrived.corrects = Some(State::PublishFailed);
    arrived.attributes.routing_key = Some(&keys[1]);
    arrived.attributes.queue = Some(&queue);
    totals.transition(&arrived);
    let failed: Vec<_> = totals.rows().into_iter().filter(|row| row.state == State::PublishFailed).collect();
    assert_eq!(failed.len(), 1);
    assert_eq!((&*failed[0].destination, failed[0].count), ("first", 1));
}

#[test]
fn nothing_is_lost_by_folding() {
    let mut names = Names::default();
    let mut totals = Totals::new();
    let rounds = 60_000u64;
    for round in 0..rounds {
        // Ever new queues and one that is always used; corrections of what was folded meanwhile.
        for name in [format!("q{round}"), "busy".into()] {
            let queue = names.intern(name.as_bytes());
            let mut subject = transition(State::DeadLettered, round);
            subject.evidence = Evidence::Inferred;
            subject.attributes.queue = Some(&queue);
            totals.transition(&subject);
        }
        if round % 3 == 0 {
            let queue = names.intern(format!("q{}", round / 2).as_bytes());
            let mut subject = transition(State::Retrying, round);
            subject.corrects = Some(State::DeadLettered);
            subject.attributes.queue = Some(&queue);
            totals.transition(&subject);
        }
    }
    let corrected = rounds.div_ceil(3);
    assert_eq!(totals.of_state(State::DeadLettered), 2 * rounds - corrected);
    assert_eq!(totals.of_state(State::Retrying), corrected);
    let rows = totals.rows();
    assert_eq!(rows.iter().map(|row| row.count).sum::<u64>(), 2 * rounds);
    assert!(rows.iter().all(|row| row.inferred <= row.count));
    assert!(rows.len() <= 4 * Routes::SCOPES + 4, "{}", rows.len());
    assert!(rows.iter().any(|row| row.queue.as_deref() == Some(OTHER) && row.count > 0));
    let line = line(&totals, &CaptureTotals::default());
    assert!(line["folded"].as_u64().unwrap() > 0);
    assert_eq!(line["capture"]["lost"], json!({}));
}

/// What was counted under a topic's id is part of what is counted under its name, once that is known.
#[test]
fn a_name_that_is_learned_late_is_everything_s() {
    let mut names = Names::default();
    let (id, name, other) = (names.intern(b"AAAAAAAAAAAAAAAAAAAAAQ"), names.intern(b"orders"), names.intern(b"other"));
    let mut totals = Totals::new();
    for (topic, count, reason) in
        [(&id, 2, Reason::Refetched), (&name, 3, Reason::Refetched), (&other, 5, Reason::Aborted)]
    {
        let mut subject = transition(State::Dispatched, 2);
        (subject.count, subject.reason) = (count, Some(reason));
        subject.attributes = Attributes { topic: Some(topic), ..Attributes::default() };
        totals.transition(&subject);
    }
    totals.renamed(&id, &name);
    let rows: Vec<_> =
        totals.rows().into_iter().map(|row| (row.destination.to_string(), row.count, row.reasons)).collect();
    let expected =
        [("orders".to_owned(), 5, vec![(Reason::Refetched, 5)]), ("other".to_owned(), 5, vec![(Reason::Aborted, 5)])];
    assert_eq!(rows, expected);
}
