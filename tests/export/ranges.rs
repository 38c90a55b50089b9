//! Spans of logs, behind the real state machine: which there are, that they lead to each other, and that their times and counts
//! are those of the wire.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;

use acktrail::capture::Owner;
use acktrail::export::spans::{Sampling, Spans};
use acktrail::lifecycle::transition::{Event, Observer, Transition};
use acktrail::lifecycle::{KAFKA, Lifecycles, MessageLimits};
use acktrail::protocol::operation::log::{
    Acks, Batch, Copy, CopyFate, LogOperation, Member, Original, Partition, Patience, RequestId, Topic, Traced, Verdict,
};
use acktrail::protocol::operation::{Observed, Operation, SessionFacts, TraceContext};
use acktrail::stream::{ConnectionId, End, Facts, Flow};
use acktrail::time::Timestamp;
use serde_json::json;

use crate::export_support::conventions::{SeenSpan, check_span};
use crate::export_support::scenario::{MS, START};
use crate::export_support::seen_span;

const PRODUCER: u64 = 1;
const CONSUMER: u64 = 2;
const COORDINATOR: u64 = 3;

struct Listener(Spans);

impl Observer for Listener {
    fn transition(&mut self, transition: &Transition<'_>) {
        self.0.transition(transition);
    }

    fn event(&mut self, event: &Event<'_>) {
        self.0.event(event);
    }
}

/// A topic with one partition, its producer, and a group of one member. Everything that happens takes a millisecond.
struct Log {
    lifecycles: Lifecycles,
    spans: Listener,
    clock: u64,
    position: u64,
    request: u64,
}

fn partition() -> Partition {
    Partition { topic: Topic::Name("orders".into()), number: 3 }
}

fn member() -> Member {
    Member { group: "billing".into(), member: "m".into() }
}

fn batch(first: i64, last: i64) -> Batch {
    Batch {
        records: last.abs_diff(first) + 1,
        first,
        last,
        bytes: 1000,
        checksum: Some(first as u32),
        sequence: None,
        timestamp: Some(1_795_357_867_000 + first),
        transactional: false,
        traced: None,
        gaps: None,
    }
}

impl Log {
    fn new(ratio: f64) -> Log {
        let spans = Spans::new(Sampling { ratio, ..Sampling::default() });
        let lifecycles = Lifecycles::new(MessageLimits::default());
        let mut log = Log { lifecycles, spans: Listener(spans), clock: START, position: 0, request: 0 };
        for (connection, pid, executable) in
            [(PRODUCER, 1001, "shop-api"), (CONSUMER, 1002, "billing"), (COORDINATOR, 1002, "billing")]
        {
            log.connect(connection, pid, executable);
        }
        log.happens(
            COORDINATOR,
            LogOperation::Assigned { member: member(), partitions: vec![partition()], patience: Patience::default() },
        );
        log
    }

    fn connect(&mut self, connection: u64, pid: u32, executable: &str) {
        let end = |port: u64, owner| End {
            address: SocketAddr::from(([127, 0, 0, 1], port as u16)),
            owner,
            local: true,
            reads_seen: true,
        };
        let owner = Some(Owner { pid, executable: executable.into() });
        let facts =
            Facts { ends: [end(40_000 + connection, owner), end(9092, None)], roles_known: true, from_start: true };
        self.lifecycles.handle_facts(ConnectionId(connection), &facts);
        let client_name = Some(format!("{executable}-1").as_str().into());
        let session =
            SessionFacts { system: KAFKA, client_flow: Some(Flow::Forward), client_name, ..Default::default() };
        self.operation(connection, Operation::Session(Rc::new(session)));
    }

    fn operation(&mut self, connection: u64, operation: Operation) {
        self.clock += MS;
        let mut observed = Observed { time: Timestamp(self.clock), connection: ConnectionId(connection), operation };
        self.lifecycles.handle(&mut observed, &mut self.spans);
    }

    fn happens(&mut self, connection: u64, operation: LogOperation) {
        self.operation(connection, Operation::Log(operation));
    }

    fn produce(&mut self, acks: Acks, first: i64, last: i64) -> RequestId {
        let sent = Batch { first: 0, last: last - first, ..batch(first, last) };
        self.send(acks, sent)
    }

    fn send(&mut self, acks: Acks, sent: Batch) -> RequestId {
        self.request += 1;
        let request = RequestId(self.request);
        let copies = Vec::new();
        self.happens(PRODUCER, LogOperation::Produced { request, partition: partition(), batch: sent, acks, copies });
        request
    }

    fn answer(&mut self, request: RequestId, offset: Option<i64>, error: i16) {
        self.happens(PRODUCER, LogOperation::ProduceAnswered { request, partition: partition(), offset, error });
    }

    fn produced(&mut self, first: i64, last: i64) {
        let request = self.produce(Acks::All, first, last);
        self.answer(request, Some(first), 0);
    }

    fn fetch(&mut self, batches: &[(i64, i64)]) {
        self.fetch_all(batches.iter().map(|(first, last)| batch(*first, *last)).collect());
    }

    fn fetch_all(&mut self, batches: Vec<Batch>) {
        self.position += 100;
        let (from, end) = (Some(batches[0].first), self.position);
        let fetched =
            LogOperation::Fetched { partition: partition(), batches, from, aborted: false, flow: Flow::Backward, end };
        self.happens(CONSUMER, fetched);
    }

    fn read(&mut self) {
        let (flow, position) = (Flow::Backward, self.position);
        self.operation(CONSUMER, Operation::Read { flow, from: 0, position });
    }

    /// Half a millisecond passes between asking and the answer.
    fn commit(&mut self, offset: i64, error: i16) {
        let asked = Timestamp(self.clock + MS / 2);
        let committed = LogOperation::Committed {
            member: member(),
            partition: partition(),
            offset,
            error,
            transaction: None,
            asked,
        };
        self.happens(COORDINATOR, committed);
    }

    /// All spans, each held against the conventions, no context twice.
    fn spans(mut self) -> Vec<SeenSpan> {
        self.spans.0.finish();
        assert_eq!(self.spans.0.lost(), 0);
        let spans: Vec<SeenSpan> = self.spans.0.take().iter().map(seen_span).collect();
        spans.iter().for_each(check_span);
        let contexts: HashSet<_> = spans.iter().map(SeenSpan::context).collect();
        assert_eq!(contexts.len(), spans.len(), "a span twice");
        let known: HashSet<_> = spans.iter().map(SeenSpan::context).collect();
        for span in &spans {
            assert!(span.links.iter().all(|link| known.contains(link)), "a link leads nowhere: {span:#?}");
        }
        spans
    }
}

fn at(milliseconds: f64) -> u64 {
    START + (milliseconds * MS as f64) as u64
}

fn named<'a>(spans: &'a [SeenSpan], name: &str) -> Vec<&'a SeenSpan> {
    spans.iter().filter(|span| span.name == name).collect()
}

fn names(spans: &[SeenSpan]) -> Vec<&str> {
    spans.iter().map(|span| span.name.as_str()).collect()
}

#[test]
fn one_batch_from_hand_to_hand_is_one_trace() {
    let mut log = Log::new(1.0);
    log.produced(100, 119); // 5, 6
    log.fetch(&[(100, 119)]); // 7
    log.read(); // 8
    log.commit(120, 0); // asked at 8.5, 9
    let spans = log.spans();
    assert_eq!(names(&spans), ["send orders", "poll orders", "process orders", "commit orders"]);
    let [send, poll, process, commit] = spans.each_ref_of();
    assert_eq!([send, poll, process, commit].map(|span| span.kind), ["PRODUCER", "CLIENT", "CONSUMER", "CLIENT"]);
    assert_eq!((send.start, send.end), (at(5.0), at(6.0)));
    assert_eq!((poll.start, poll.end), (at(7.0), at(8.0)));
    assert_eq!((process.start, process.end), (at(8.0), at(9.0)));
    assert_eq!((commit.start, commit.end), (at(8.5), at(9.0)));
    assert_eq!(process.events, [(at(7.0), "dispatched".to_owned())]);
    for (span, parent) in [(poll, send), (process, poll), (commit, process)] {
        assert_eq!((&span.trace, span.parent.as_ref()), (&parent.trace, Some(&parent.id)));
    }
    assert!(process.links.contains(&send.context()));
    for span in &spans {
        assert_eq!(span.attributes["messaging.batch.message_count"], 20);
        assert_eq!(span.attributes["messaging.kafka.offset"], 100);
        assert_eq!(span.attributes["acktrail.kafka.offset.last"], 119);
        assert_eq!(span.text("messaging.destination.partition.id"), "3");
        assert!(!span.error);
    }
    assert_eq!(send.resource["service.name"], "shop-api");
    assert!(!send.attributes.contains_key("messaging.consumer.group.name"));
    for span in [poll, process, commit] {
        assert_eq!(span.resource["service.name"], "billing");
        assert_eq!(span.text("messaging.consumer.group.name"), "billing");
    }
    let types = [send, poll, process, commit].map(|span| span.text("messaging.operation.type"));
    assert_eq!(types, ["send", "receive", "process", "settle"]);
}

#[test]
fn what_is_handed_out_together_links_to_each_batch_with_its_offsets() {
    let mut log = Log::new(1.0);
    log.produced(0, 9);
    log.produced(10, 14);
    log.fetch(&[(0, 9), (10, 14)]);
    log.read();
    log.commit(15, 0);
    let Listener(spans) = &mut log.spans;
    spans.finish();
    let made = spans.take();
    let poll = made.iter().find(|span| span.name == "poll orders").unwrap();
    let said = |link: &acktrail::export::spans::Link| -> Vec<(String, serde_json::Value)> {
        let value = |value: &acktrail::export::metrics::Value| match value {
            acktrail::export::metrics::Value::Int(number) => json!(number),
            other => panic!("{other:?}"),
        };
        link.attributes.iter().map(|(key, given)| (key.key.to_owned(), value(given))).collect()
    };
    let pairs = |first: i64, last: i64, count: u64| {
        vec![
            ("messaging.kafka.offset".to_owned(), json!(first)),
            ("acktrail.kafka.offset.last".to_owned(), json!(last)),
            ("messaging.batch.message_count".to_owned(), json!(count)),
        ]
    };
    assert_eq!(poll.links.iter().map(said).collect::<Vec<_>>(), [pairs(0, 9, 10), pairs(10, 14, 5)]);
    let seen: Vec<SeenSpan> = made.iter().map(seen_span).collect();
    seen.iter().for_each(check_span);
    let [one, two] = named(&seen, "send orders")[..] else { panic!("{:?}", names(&seen)) };
    let poll = named(&seen, "poll orders")[0];
    assert_eq!(poll.links, [one.context(), two.context()]);
    assert!(poll.parent.is_none() && poll.trace != one.trace && poll.trace != two.trace);
    let process = named(&seen, "process orders")[0];
    assert_eq!((process.parent.as_ref(), &process.trace), (Some(&poll.id), &poll.trace));
    assert_eq!(process.attributes["messaging.batch.message_count"], 15);
}

#[test]
fn each_poll_has_its_own_times_though_all_are_committed_together() {
    let mut log = Log::new(1.0);
    log.fetch(&[(0, 9)]); // 5
    log.fetch(&[(10, 19)]); // 6
    log.read(); // 7
    log.fetch(&[(20, 29)]); // 8
    log.read(); // 9
    log.commit(25, 0); // 10
    log.commit(30, 0); // 11
    log.spans.0.finish();
    let spans: Vec<SeenSpan> = log.spans.0.take().iter().map(seen_span).collect();
    let times: Vec<(u64, u64)> = named(&spans, "poll orders").iter().map(|span| (span.start, span.end)).collect();
    assert_eq!(times, [(at(5.0), at(7.0)), (at(6.0), at(7.0)), (at(8.0), at(9.0))]);
    let work = named(&spans, "process orders");
    let said =
        |span: &&SeenSpan| (span.start, span.end, span.attributes["messaging.kafka.offset"].clone(), span.links.len());
    // Three polls and their three batches; then what is left of the third.
    let expected = [(at(7.0), at(10.0), json!(0), 6), (at(9.0), at(11.0), json!(25), 2)];
    assert_eq!(work.iter().map(said).collect::<Vec<_>>(), expected);
    assert!(work[0].parent.is_none());
    assert_eq!(named(&spans, "commit orders").len(), 2);
}

#[test]
fn failures_have_spans_without_any_sampling_and_lead_to_their_producer() {
    let mut log = Log::new(0.0);
    log.produced(0, 9); // 5, 6
    log.produced(10, 19);
    log.fetch(&[(0, 9), (10, 19)]); // 9
    log.read(); // 10
    log.commit(10, 0); // 11: nothing wrong with these
    log.happens(COORDINATOR, LogOperation::MemberLeft(member())); // 12
    let spans = log.spans();
    assert_eq!(names(&spans), ["send orders", "poll orders", "process orders"]);
    let [send, poll, process] = spans.each_ref_of();
    assert_eq!(send.attributes["messaging.kafka.offset"], 10, "only the batch that failed");
    assert_eq!((send.start, send.end), (at(7.0), at(8.0)));
    assert_eq!((process.start, process.end, process.error), (at(10.0), at(12.0), true));
    assert_eq!((process.text("error.type"), process.text("acktrail.message.reason")), ("rebalanced", "rebalanced"));
    assert_eq!(process.parent.as_ref(), Some(&poll.id));
    assert!(process.links.contains(&send.context()));
}

#[test]
fn what_comes_again_at_once_is_another_poll() {
    let mut log = Log::new(1.0);
    log.fetch(&[(0, 9)]); // 5
    log.read(); // 6
    log.happens(COORDINATOR, LogOperation::MemberLeft(member())); // 7
    log.happens(
        COORDINATOR,
        LogOperation::Assigned { member: member(), partitions: vec![partition()], patience: Patience::default() },
    ); // 8
    log.fetch(&[(0, 9)]); // 9
    log.read(); // 10
    log.commit(10, 0); // 11
    log.spans.0.finish();
    let spans: Vec<SeenSpan> = log.spans.0.take().iter().map(seen_span).collect();
    let [one, two] = named(&spans, "poll orders")[..] else { panic!("{:?}", names(&spans)) };
    let [failed, done] = named(&spans, "process orders")[..] else { panic!("{:?}", names(&spans)) };
    assert_eq!(
        (failed.parent.as_ref(), failed.error, failed.start, failed.end),
        (Some(&one.id), true, at(6.0), at(7.0))
    );
    assert_eq!((done.parent.as_ref(), done.error, done.start, done.end), (Some(&two.id), false, at(10.0), at(11.0)));
    assert_eq!([one, two].map(|span| span.attributes["acktrail.message.delivery"].as_u64()), [Some(1), Some(2)]);
}

#[test]
fn refused_batches_and_commits_fail_by_the_name_that_the_protocol_gives() {
    let mut log = Log::new(0.0);
    let request = log.produce(Acks::All, 0, 4); // 5
    log.answer(request, None, 10); // 6
    log.fetch(&[(5, 9)]); // 7
    log.read(); // 8
    log.commit(10, 27); // 9
    let spans = log.spans();
    assert_eq!(names(&spans), ["send orders", "commit orders"]);
    let [send, commit] = spans.each_ref_of();
    assert_eq!((send.start, send.end, send.error), (at(5.0), at(6.0), true));
    assert_eq!(send.text("error.type"), "MESSAGE_TOO_LARGE");
    assert_eq!(send.attributes["messaging.batch.message_count"], 5);
    assert_eq!((commit.start, commit.end, commit.error), (at(8.5), at(9.0), true));
    assert_eq!((commit.text("error.type"), commit.kind), ("REBALANCE_IN_PROGRESS", "CLIENT"));
}

#[test]
fn nobody_answers_without_acks() {
    let mut log = Log::new(1.0);
    log.produce(Acks::None, 0, 4);
    let spans = log.spans();
    assert_eq!(names(&spans), ["send orders"]);
    assert_eq!((spans[0].start, spans[0].end), (at(5.0), at(5.0)));
    assert!(!spans[0].attributes.contains_key("messaging.kafka.offset"), "nobody told it");
}

#[test]
fn a_dead_letter_is_work_that_failed_and_a_message_sent_on() {
    for (fate, name) in [(CopyFate::DeadLetter, "dead_letter orders-dlt"), (CopyFate::Retry, "retry orders-dlt")] {
        let mut log = Log::new(0.0);
        log.produced(0, 9); // 5, 6
        log.fetch(&[(0, 9)]); // 7
        log.read(); // 8
        let (group, cause) = (Some("billing".into()), Some("java.lang.IllegalStateException".into()));
        let original = Original::Named { partition: partition(), offset: 4, group, presumed: false, cause };
        let copied = LogOperation::Produced {
            request: RequestId(9),
            partition: Partition { topic: Topic::Name("orders-dlt".into()), number: 0 },
            batch: batch(0, 0),
            acks: Acks::None,
            copies: vec![Copy { place: 0, fate, original }],
        };
        log.happens(CONSUMER, copied); // 9
        log.commit(10, 0);
        let spans = log.spans();
        assert_eq!(names(&spans), ["send orders", "process orders", name]);
        let [send, process, letter] = spans.each_ref_of();
        assert_eq!((process.start, process.end, process.error), (at(8.0), at(9.0), true));
        assert_eq!(process.attributes["messaging.kafka.offset"], 4);
        assert!(!process.attributes.contains_key("messaging.batch.message_count"));
        assert_eq!(process.text("acktrail.error.text"), "java.lang.IllegalStateException");
        assert_eq!(process.parent.as_ref(), Some(&send.id));
        assert_eq!((letter.parent.as_ref(), letter.kind), (Some(&process.id), "PRODUCER"));
        assert!(letter.links.contains(&send.context()));
        assert_eq!(letter.text("acktrail.dead_letter.source"), "orders");
        assert_eq!(letter.text("messaging.destination.name"), "orders-dlt");
    }
}

#[test]
fn what_dies_after_it_was_retried_failed_once() {
    let mut log = Log::new(1.0);
    log.produced(0, 4);
    log.produced(5, 9);
    log.fetch(&[(0, 4), (5, 9)]);
    log.read();
    for (topic, fate) in [("retry-1", CopyFate::Retry), ("retry-2", CopyFate::Retry), ("dlq", CopyFate::DeadLetter)] {
        let (group, cause) = (Some("billing".into()), None);
        let original = Original::Named { partition: partition(), offset: 4, group, presumed: false, cause };
        let copied = LogOperation::Produced {
            request: RequestId(9),
            partition: Partition { topic: Topic::Name(topic.into()), number: 0 },
            batch: batch(0, 0),
            acks: Acks::None,
            copies: vec![Copy { place: 0, fate, original }],
        };
        log.happens(CONSUMER, copied);
        log.commit(10, 0);
    }
    let spans = log.spans();
    let failed: Vec<_> = named(&spans, "process orders").into_iter().filter(|span| span.error).collect();
    let [work] = failed[..] else { panic!("{failed:#?}") };
    for name in ["retry retry-1", "retry retry-2", "dead_letter dlq"] {
        assert_eq!(
            (named(&spans, name)[0].parent.as_ref(), &named(&spans, name)[0].trace),
            (Some(&work.id), &work.trace)
        );
    }
}

/// The same with a message, so far behind the first, that brings a sampled trace.
fn with_trace(batch: Batch, delta: u32) -> Batch {
    let context = TraceContext { trace_id: [0x4b; 16], span_id: [0x0f; 8], flags: 1 };
    Batch { traced: Some([Traced { delta, place: delta, context }].into()), ..batch }
}

#[test]
fn a_sampled_trace_goes_on_through_spans_of_its_own() {
    let mut log = Log::new(1.0);
    let request = log.send(Acks::All, with_trace(Batch { first: 0, last: 9, ..batch(20, 29) }, 4)); // 5
    log.answer(request, Some(20), 0); // 6
    log.fetch_all(vec![with_trace(batch(20, 29), 4)]); // 7
    log.read(); // 8
    log.commit(30, 0); // 9
    log.spans.0.finish();
    let spans: Vec<SeenSpan> = log.spans.0.take().iter().map(seen_span).collect();
    spans.iter().for_each(check_span);
    let own = ("4b".repeat(16), "0f".repeat(8));
    let (single, ranges): (Vec<_>, Vec<_>) = spans.iter().partition(|span| span.trace == own.0);
    let names = |spans: &[&SeenSpan]| spans.iter().map(|span| span.name.clone()).collect::<Vec<_>>();
    // The range's are the same as without: one each, of all ten.
    assert_eq!(names(&ranges), ["send orders", "poll orders", "process orders", "commit orders"]);
    assert!(ranges.iter().all(|span| span.attributes["messaging.batch.message_count"] == 10), "{ranges:#?}");
    assert_eq!(names(&single), ["send orders", "process orders"]);
    let [send, process] = single[..] else { panic!() };
    assert_eq!((send.kind, send.start, send.end), ("CLIENT", at(5.0), at(6.0)));
    assert_eq!((process.kind, process.start, process.end), ("CONSUMER", at(8.0), at(9.0)));
    for span in [send, process] {
        assert_eq!(span.parent.as_ref(), Some(&own.1));
        assert!(span.links.contains(&own));
        assert_eq!(span.attributes["messaging.kafka.offset"], 24);
        assert!(!span.attributes.contains_key("messaging.batch.message_count"));
    }
    assert!(process.links.contains(&send.context()));
    assert_eq!(process.text("messaging.consumer.group.name"), "billing");
}

#[test]
fn a_sampled_trace_is_told_where_nothing_else_is_and_where_it_fails() {
    let mut log = Log::new(0.0);
    let request = log.send(Acks::All, with_trace(Batch { first: 0, last: 9, ..batch(20, 29) }, 4));
    log.answer(request, Some(20), 0);
    log.fetch_all(vec![with_trace(batch(20, 29), 4)]);
    log.read();
    log.happens(COORDINATOR, LogOperation::MemberLeft(member()));
    log.spans.0.finish();
    let spans: Vec<SeenSpan> = log.spans.0.take().iter().map(seen_span).collect();
    spans.iter().for_each(check_span);
    let single: Vec<_> = spans.iter().filter(|span| span.trace == "4b".repeat(16)).collect();
    let said: Vec<_> = single.iter().map(|span| (span.name.as_str(), span.text("error.type"))).collect();
    assert_eq!(said, [("send orders", ""), ("process orders", "rebalanced")]);
    let failed = named(&spans, "process orders").into_iter().find(|span| span.trace != "4b".repeat(16)).unwrap();
    assert_eq!(failed.attributes["messaging.batch.message_count"], 10);
}

#[test]
fn a_share_groups_verdicts_are_settlements() {
    let mut log = Log::new(1.0);
    log.produced(0, 9); // 5, 6
    let member = member();
    let (flow, end) = (Flow::Backward, 100);
    let partition = partition();
    let acquired = LogOperation::Acquired {
        member: member.clone(),
        partition: partition.clone(),
        first: 0,
        last: 9,
        delivery: 1,
        flow,
        end,
    };
    log.position = 100;
    log.happens(CONSUMER, acquired); // 7
    log.read(); // 8
    let asked = Timestamp(log.clock + MS / 2);
    for (first, last, verdict) in [(0, 5, Verdict::Accept), (6, 9, Verdict::Release)] {
        let (member, partition) = (member.clone(), partition.clone());
        log.happens(CONSUMER, LogOperation::Judged { member, partition, first, last, verdict, error: 0, asked });
    }
    let spans = log.spans();
    let said: HashMap<(&str, u64), bool> = spans
        .iter()
        .map(|span| ((span.name.as_str(), span.attributes["messaging.kafka.offset"].as_u64().unwrap()), span.error))
        .collect();
    let expected = [
        (("send orders", 0), false),
        (("poll orders", 0), false),
        (("process orders", 0), false),
        (("acknowledge orders", 0), false),
        (("process orders", 6), true),
        // The broker took it back, as it was asked to.
        (("acknowledge orders", 6), false),
    ];
    assert_eq!(said, HashMap::from(expected));
    let released = named(&spans, "acknowledge orders")[1];
    assert_eq!((released.start, released.end), (at(8.5), at(10.0)));
}

#[test]
fn a_share_of_the_batches_is_traced_and_whoever_is_handed_one_of_them_is() {
    let mut log = Log::new(0.1);
    for number in 0..2_000 {
        log.produced(number * 10, number * 10 + 9);
        if number % 2 == 1 {
            let first = (number - 1) * 10;
            log.fetch(&[(first, first + 9), (first + 10, first + 19)]);
            log.read();
            log.commit(first + 20, 0);
        }
    }
    log.spans.0.finish();
    let spans: Vec<SeenSpan> = log.spans.0.take().iter().map(seen_span).collect();
    let first_of = |span: &&SeenSpan| span.attributes["messaging.kafka.offset"].as_u64().unwrap();
    let sent: HashSet<u64> = named(&spans, "send orders").iter().map(|span| first_of(span) / 20).collect();
    assert!((100..300).contains(&named(&spans, "send orders").len()), "{}", sent.len());
    for name in ["poll orders", "process orders", "commit orders"] {
        let handed: HashSet<u64> = named(&spans, name).iter().map(|span| first_of(span) / 20).collect();
        assert_eq!(handed, sent, "{name}");
    }
}

#[test]
fn a_storm_stays_within_the_budget() {
    let mut log = Log::new(0.0);
    for number in 0..50_000 {
        let request = log.produce(Acks::All, number, number);
        log.clock -= 2 * MS - MS / 100;
        log.answer(request, None, 3);
        log.clock -= MS - MS / 100;
    }
    log.spans.0.finish();
    let made = log.spans.0.take().len() as u64;
    assert!(made <= 3 * Spans::BUDGET, "{made}");
    assert_eq!(log.spans.0.over_budget(), 50_000 - made);
}

/// References to all elements of a list of known length.
trait EachRef<T> {
    fn each_ref_of<const N: usize>(&self) -> [&T; N];
}

impl<T: std::fmt::Debug> EachRef<T> for Vec<T> {
    fn each_ref_of<const N: usize>(&self) -> [&T; N] {
        self.iter().collect::<Vec<_>>().try_into().unwrap_or_else(|_| panic!("not {N}: {self:#?}"))
    }
}
