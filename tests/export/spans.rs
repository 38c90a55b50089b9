//! Spans: which messages get them, that their links resolve, that their times are true, and that the conventions hold.

use std::collections::{HashMap, HashSet};

use acktrail::export::registry::ATTRIBUTES;
use acktrail::export::spans::{Sampling, Spans};
use acktrail::lifecycle::transition::{Observer, Reason, State};
use acktrail::names::Name;
use acktrail::protocol::operation::Identity;
use acktrail::time::Timestamp;

use crate::export_support::conventions::{SeenSpan, check_span, knows};
use crate::export_support::scenario::{MS, START, Scenario, hex, message};
use crate::export_support::{Life, seen_span, transition};

fn spans_of(ratio: f64) -> Vec<SeenSpan> {
    let mut spans = Spans::new(Sampling { ratio, ..Sampling::default() });
    Scenario::new().tell(&mut |line| spans.transition(line));
    spans.finish();
    assert_eq!(spans.lost(), 0);
    let spans: Vec<SeenSpan> = spans.take().iter().map(seen_span).collect();
    for span in &spans {
        check_span(span);
    }
    let ids: HashSet<_> = spans.iter().map(|span| &span.id).collect();
    assert_eq!(ids.len(), spans.len(), "a span twice");
    spans
}

fn of_message(spans: &[SeenSpan], message: u128) -> Vec<&SeenSpan> {
    spans.iter().filter(|span| span.text("acktrail.message") == hex(message)).collect()
}

fn names(spans: &[&SeenSpan]) -> Vec<String> {
    spans.iter().map(|span| span.name.clone()).collect()
}

#[test]
fn keys_that_are_not_ours_are_the_conventions() {
    for attribute in ATTRIBUTES {
        let ours = attribute.key.starts_with("acktrail.") || ["trace_id", "span_id"].contains(&attribute.key);
        assert!(ours || knows(attribute.key), "{}", attribute.key);
    }
}

#[test]
fn without_sampling_only_messages_that_matter_get_spans() {
    let spans = spans_of(0.0);
    for silent in [message::ACKNOWLEDGED, message::TRACED] {
        assert!(of_message(&spans, silent).is_empty());
    }
    let expect = |message, expected: &[&str]| assert_eq!(names(&of_message(&spans, message)), expected);
    expect(
        message::RETRIED,
        &["publish shop:order.new", "process shop:order.new:billing", "process shop:order.new:billing"],
    );
    // Who drains the dead-letter queue does nothing special.
    expect(message::DEAD, &["publish shop:order.new", "process shop:order.new:billing", "dead_letter billing.dlq"]);
    expect(message::RETURNED, &["publish shop:order.new"]);
    expect(message::REFUSED, &["publish shop:order.new"]);
    expect(message::SLOW, &["publish shop:order.new", "process shop:order.new:billing"]);
    expect(message::EXPIRED, &["publish shop:order.new", "dead_letter billing.dlq"]);
    expect(message::REPLY, &["publish amq.gen-*", "process amq.gen-*"]);
    let two = ["publish shop:order.new", "process shop:order.new:billing", "process shop:order.new:audit"];
    expect(message::FAN_OUT, &two);
    assert_eq!(spans.iter().filter(|span| !span.attributes.contains_key("acktrail.message")).count(), 1);
}

#[test]
fn with_full_sampling_every_message_gets_its_spans_once() {
    let spans = spans_of(1.0);
    let count = |message| of_message(&spans, message).len();
    assert_eq!(count(message::ACKNOWLEDGED), 2);
    assert_eq!(count(message::TRACED), 2);
    assert_eq!(count(message::DEAD), 4);
    assert_eq!(count(message::FAN_OUT), 3);
}

#[test]
fn links_resolve_and_every_dead_letter_leads_to_its_producer() {
    for ratio in [0.0, 1.0] {
        let spans = spans_of(ratio);
        let known: HashMap<_, _> = spans.iter().map(|span| (span.context(), span)).collect();
        let own = ("4b".repeat(16), "0f".repeat(8));
        for link in spans.iter().flat_map(|span| &span.links) {
            assert!(known.contains_key(link) || *link == own, "{link:?} leads nowhere");
        }
        let dead: Vec<_> = spans.iter().filter(|span| span.name.starts_with("dead_letter")).collect();
        assert_eq!(dead.len(), 2);
        for letter in dead {
            let producer = letter.links.iter().find_map(|link| known.get(link).filter(|span| span.kind == "PRODUCER"));
            let producer = producer.expect("a dead letter without its producer");
            assert_eq!(producer.text("acktrail.message"), letter.text("acktrail.message"));
            assert_eq!(producer.resource["service.name"], "shop-api");
        }
        let consumers: Vec<_> = spans.iter().filter(|span| span.kind == "CONSUMER").collect();
        assert!(consumers.iter().all(|span| span.text("acktrail.message").is_empty() || !span.links.is_empty()));
    }
}

#[test]
fn times_outcomes_and_services_are_true() {
    let spans = spans_of(1.0);
    let find = |message, name: &str| -> Vec<&SeenSpan> {
        of_message(&spans, message).into_iter().filter(|span| span.name.starts_with(name)).collect()
    };
    let at = |milliseconds: u64| START + milliseconds * MS;
    let publish = find(message::ACKNOWLEDGED, "publish")[0];
    assert_eq!((publish.start, publish.end, publish.error), (at(0), at(1), false));
    assert_eq!(publish.resource["service.name"], "shop-api");
    assert_eq!(publish.trace, hex(message::ACKNOWLEDGED));
    let process = find(message::ACKNOWLEDGED, "process")[0];
    assert_eq!((process.start, process.end, process.error), (at(3), at(4), false));
    assert_eq!(process.events, [(at(2), "dispatched".to_owned())]);
    assert_eq!(process.resource["service.name"], "billing-worker");
    assert_eq!(process.parent.as_ref(), Some(&publish.id));

    let attempts = find(message::RETRIED, "process");
    assert_eq!((attempts[0].start, attempts[0].end, attempts[0].error), (at(103), at(110), true));
    assert_eq!(attempts[0].text("error.type"), "requeued");
    assert_eq!((attempts[1].start, attempts[1].end, attempts[1].error), (at(121), at(130), false));
    assert!(attempts[1].links.contains(&attempts[0].context()));

    assert_eq!(find(message::RETURNED, "publish")[0].text("error.type"), "312");
    assert_eq!(find(message::RETURNED, "publish")[0].end, at(301));
    assert_eq!(find(message::REFUSED, "publish")[0].text("error.type"), "refused");
    let dead = find(message::DEAD, "dead_letter")[0];
    assert_eq!((dead.start, dead.end), (at(210), at(210)));
    assert_eq!(dead.text("acktrail.dead_letter.source"), "billing");
    assert_eq!(dead.text("acktrail.message.evidence"), "inferred");
    let rejected = find(message::DEAD, "process")[0];
    assert_eq!(dead.parent.as_ref(), Some(&rejected.id));
    // The producer is on another host.
    assert_eq!(find(message::REPLY, "publish")[0].resource["service.name"], "unknown_service");
}

#[test]
fn an_applications_own_context_is_the_origin() {
    let spans = spans_of(1.0);
    let traced = of_message(&spans, message::TRACED);
    let own = ("4b".repeat(16), "0f".repeat(8));
    assert!(traced.iter().all(|span| span.trace == own.0 && span.links[0] == own));
    assert!(traced.iter().all(|span| span.parent.as_ref() == Some(&own.1)));
    let send = traced.iter().find(|span| span.kind == "CLIENT").unwrap();
    let process = traced.iter().find(|span| span.kind == "CONSUMER").unwrap();
    assert!(process.links.contains(&send.context()));
}

#[test]
fn agents_that_see_only_one_side_decide_and_link_alike() {
    let mut producer_side = Spans::new(Sampling { ratio: 0.5, ..Sampling::default() });
    let mut consumer_side = Spans::new(Sampling { ratio: 0.5, ..Sampling::default() });
    Life::new(3).feed(2000, &mut |line| {
        if matches!(line.state, State::Created | State::Confirmed) {
            producer_side.transition(line);
        } else {
            let mut line = *line;
            line.timings.created = None;
            line.attributes.producer = None;
            consumer_side.transition(&line);
        }
    });
    producer_side.finish();
    let published: HashMap<_, _> =
        producer_side.take().iter().map(|span| (seen_span(span).context(), seen_span(span))).collect();
    let processed = consumer_side.take();
    assert_eq!(published.len(), processed.len());
    for span in &processed {
        assert!(published.contains_key(&seen_span(span).links[0]));
    }
    assert!((800..1200).contains(&processed.len()), "{}", processed.len());
}

#[test]
fn the_share_of_sampled_messages_is_the_ratio() {
    let count = |ratio: f64| {
        let mut spans = Spans::new(Sampling { ratio, ..Sampling::default() });
        let mut taken = 0;
        for number in 0..20_000u64 {
            let mut line = transition(State::Created, START + number);
            line.message = Some(Identity(xxhash_rust::xxh3::xxh3_128(&number.to_be_bytes())));
            spans.transition(&line);
        }
        spans.finish();
        taken += spans.take().len();
        taken
    };
    assert_eq!(count(0.0), 0);
    assert_eq!(count(1.0), Spans::READY);
    // Hashes of fixed numbers: the same in every run. 0.1 × 20,000, give or take five standard deviations.
    assert!((1788..=2212).contains(&count(0.1)), "{}", count(0.1));
}

#[test]
fn a_copy_that_an_application_publishes_has_a_span_of_its_own() {
    let names: [Name; 4] = ["shop", "order.new", "parking", "billing"].map(Name::from);
    let mut spans = Spans::new(Sampling { ratio: 1.0, ..Sampling::default() });
    let mut original = transition(State::Created, START);
    original.message = Some(Identity(u128::MAX));
    original.timings.created = Some(original.time);
    original.attributes.exchange = Some(&names[0]);
    original.attributes.routing_key = Some(&names[1]);
    spans.transition(&original);
    let mut copy = original;
    copy.time = Timestamp(START + 5 * MS);
    copy.timings.created = Some(copy.time);
    (copy.previous, copy.reason) = (Some(State::Processing), Some(Reason::Republished));
    copy.attributes.routing_key = Some(&names[2]);
    spans.transition(&copy);
    let mut confirm = original;
    confirm.time = Timestamp(START + 9 * MS);
    confirm.state = State::Confirmed;
    spans.transition(&confirm);
    let taken: Vec<SeenSpan> = spans.take().iter().map(seen_span).collect();
    taken.iter().for_each(check_span);
    let [copy, original] = &taken[..] else { panic!("{taken:#?}") };
    assert_eq!((original.start, original.end), (START, START + 9 * MS));
    assert_eq!((copy.name.as_str(), copy.start), ("publish shop:parking", START + 5 * MS));
    assert_ne!(copy.id, original.id);
    assert_eq!(copy.links, [original.context()]);
}

#[test]
fn every_reader_of_a_stream_has_a_span_of_its_own() {
    let (queue, readers): (Name, [Name; 2]) = ("log".into(), ["reader-1".into(), "reader-2".into()]);
    let mut spans = Spans::new(Sampling { ratio: 1.0, ..Sampling::default() });
    for reader in &readers {
        let mut line = transition(State::Acknowledged, START);
        line.message = Some(Identity(u128::MAX));
        (line.previous, line.delivery) = (Some(State::Processing), Some(1));
        line.attributes.queue = Some(&queue);
        line.attributes.consumer_tag = Some(reader);
        line.attributes.stream_offset = Some(7);
        spans.transition(&line);
    }
    let taken: Vec<SeenSpan> = spans.take().iter().map(seen_span).collect();
    taken.iter().for_each(check_span);
    assert_ne!(taken[0].id, taken[1].id);
    assert_eq!(taken[0].links, taken[1].links);
}

#[test]
fn what_is_lost_in_a_receive_buffer_is_a_failed_delivery() {
    let queue: Name = "work".into();
    let mut spans = Spans::new(Sampling { ratio: 0.0, ..Sampling::default() });
    let mut line = transition(State::Dropped, START + MS);
    line.message = Some(Identity(7));
    (line.previous, line.delivery, line.reason) = (Some(State::Dispatched), Some(1), Some(Reason::ConnectionLost));
    line.timings.dispatched = Some(Timestamp(START));
    line.attributes.queue = Some(&queue);
    spans.transition(&line);
    // A rejected message without a dead-letter exchange has had its span.
    line.previous = Some(State::Rejected);
    spans.transition(&line);
    let taken: Vec<SeenSpan> = spans.take().iter().map(seen_span).collect();
    assert_eq!(taken.len(), 1);
    check_span(&taken[0]);
    assert_eq!((taken[0].start, taken[0].end, taken[0].text("error.type")), (START, START + MS, "connection_lost"));
}

#[test]
fn a_confirm_that_never_comes_is_not_waited_for_long() {
    let mut spans = Spans::new(Sampling { ratio: 1.0, ..Sampling::default() });
    let mut line = transition(State::Created, START);
    line.message = Some(Identity(u128::MAX));
    line.timings.created = Some(line.time);
    spans.transition(&line);
    spans.poll(line.time.plus(Spans::CONFIRM_WAIT / 2));
    assert!(spans.is_empty());
    spans.poll(line.time.plus(Spans::CONFIRM_WAIT));
    let taken = spans.take();
    assert_eq!((taken.len(), taken[0].end), (1, Timestamp(START)));
}

#[test]
fn what_waits_is_bounded() {
    let mut spans = Spans::new(Sampling { ratio: 1.0, ..Sampling::default() });
    for number in 0..100_000u128 {
        let mut line = transition(State::Created, START);
        line.message = Some(Identity(number << 70 | number));
        spans.transition(&line);
        if number % 1000 == 0 {
            assert!(spans.take().len() <= 1000);
        }
    }
    spans.finish();
    assert!(spans.take().len() <= Spans::PENDING + 1000);
}
