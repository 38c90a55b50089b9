//! The exports behind the real state machine, driven by a small broker made up at random: what leaves equals what the broker
//! did.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;

use acktrail::capture::Owner;
use acktrail::export::metrics::{Health, Metrics, Number};
use acktrail::export::spans::{Sampling, Spans};
use acktrail::export::summary::Totals;
use acktrail::lifecycle::Lifecycles;
use acktrail::lifecycle::transition::{Event, Observer, State, Transition};
use acktrail::names::{Name, Names};
use acktrail::protocol::operation::{
    ChannelId, Death, Destination, Extras, Identity, IdentitySource, Message, Observed, Operation, Outcome,
    QueueArguments, SessionFacts, Tags,
};
use acktrail::stream::{ConnectionId, End, Facts, Flow};
use acktrail::time::Timestamp;
use proptest::prelude::*;

use crate::export_support::conventions::check_span;
use crate::export_support::scenario::{MS, START};
use crate::export_support::seen_span;

/// Everything that listens.
struct Exports {
    metrics: Metrics,
    spans: Spans,
    totals: Totals,
}

impl Observer for Exports {
    fn transition(&mut self, transition: &Transition<'_>) {
        self.metrics.transition(transition);
        self.spans.transition(transition);
        self.totals.transition(transition);
    }

    fn event(&mut self, event: &Event<'_>) {
        self.metrics.event(event);
        self.totals.event(event);
    }
}

#[derive(Clone)]
struct Ready {
    message: u64,
    redelivered: bool,
    dead: bool,
}

/// A consumer's connection: its number, its next tag, and what it holds: tag → (queue, message).
struct Consumer {
    connection: u64,
    next_tag: u64,
    held: BTreeMap<u64, (usize, Ready)>,
}

const QUEUES: [&str; 3] = ["work", "audit", "dead"];

struct Broker {
    names: Names,
    lifecycles: Lifecycles,
    exports: Exports,
    clock: u64,
    published: u64,
    next_connection: u64,
    queues: [VecDeque<Ready>; 3],
    consumers: Vec<Consumer>,
    /// State → how many messages must have entered it.
    truth: HashMap<State, u64>,
}

impl Broker {
    fn new() -> Broker {
        let mut broker = Broker {
            names: Names::default(),
            lifecycles: Lifecycles::new(acktrail::lifecycle::MessageLimits::default()),
            exports: Exports {
                metrics: Metrics::new(Timestamp(START)),
                spans: Spans::new(Sampling { ratio: 1.0, ..Sampling::default() }),
                totals: Totals::new(),
            },
            clock: START,
            published: 0,
            next_connection: 1,
            queues: Default::default(),
            consumers: Vec::new(),
            truth: HashMap::new(),
        };
        broker.connect(1, "shop-api");
        let arguments = |dead_letters: Option<Name>| QueueArguments {
            dead_letter_exchange: dead_letters.as_ref().map(|_| "".into()),
            dead_letter_routing_key: dead_letters,
            ..QueueArguments::default()
        };
        for (queue, dead_letters) in [("work", Some("dead".into())), ("audit", None), ("dead", None)] {
            let (queue, arguments) = (broker.name(queue), Some(Box::new(arguments(dead_letters))));
            broker.happens(1, Operation::QueueDeclared { queue, arguments, messages: None, consumers: None });
        }
        broker.next_connection = 2;
        for _ in 0..2 {
            let consumer = broker.new_consumer();
            broker.consumers.push(consumer);
        }
        broker
    }

    fn name(&mut self, text: &str) -> Name {
        self.names.intern(text.as_bytes())
    }

    fn happens(&mut self, connection: u64, operation: Operation) {
        self.clock += MS;
        let mut observed = Observed { time: Timestamp(self.clock), connection: ConnectionId(connection), operation };
        self.lifecycles.handle(&mut observed, &mut self.exports);
    }

    fn enters(&mut self, state: State, count: u64) {
        *self.truth.entry(state).or_default() += count;
    }

    fn connect(&mut self, connection: u64, executable: &str) {
        let owner = |pid, executable: &str| Some(Owner { pid, executable: executable.into() });
        let end = |port, owner| End {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            owner,
            local: true,
            reads_seen: true,
        };
        let client = end(40_000 + connection as u16, owner(1000 + connection as u32, executable));
        let facts = Facts { ends: [client, end(5672, owner(9, "beam.smp"))], roles_known: true, from_start: true };
        self.lifecycles.handle_facts(ConnectionId(connection), &facts);
        let vhost = Some(self.name("/"));
        let session = SessionFacts { client_flow: Some(Flow::Forward), vhost, ..SessionFacts::default() };
        self.happens(connection, Operation::Session(Rc::new(session)));
        self.happens(connection, Operation::ChannelOpened(channel(connection)));
    }

    fn new_consumer(&mut self) -> Consumer {
        let connection = self.next_connection;
        self.next_connection += 1;
        self.connect(connection, "worker");
        Consumer { connection, next_tag: 1, held: BTreeMap::new() }
    }

    fn message(&mut self, number: u64, extras: Option<Extras>) -> Message {
        Message {
            identity: Some(Identity(xxhash_rust::xxh3::xxh3_128(&number.to_be_bytes()))),
            source: IdentitySource::MessageId,
            body: None,
            body_size: Some(10),
            message_id: Some(self.name(&format!("m{number}"))),
            extras: extras.map(Box::new),
        }
    }

    fn publish(&mut self, also_audit: bool) {
        self.published += 1;
        let number = self.published;
        let destination = Destination { exchange: self.name("x"), routing_key: self.name("k") };
        let message = self.message(number, None);
        let tag = Some(number);
        self.happens(1, Operation::Published { channel: channel(1), tag, destination, mandatory: false, message });
        let tags = Tags::One(number);
        self.happens(1, Operation::Confirmed { channel: channel(1), tags, inferred: false, earlier: false });
        self.enters(State::Created, 1);
        self.enters(State::Confirmed, 1);
        let ready = Ready { message: number, redelivered: false, dead: false };
        self.queues[0].push_back(ready.clone());
        if also_audit {
            self.queues[1].push_back(ready);
        }
    }

    fn deliver(&mut self, queue: usize, consumer: usize) {
        let Some(ready) = self.queues[queue].pop_front() else { return };
        let tag = self.consumers[consumer].next_tag;
        self.consumers[consumer].next_tag += 1;
        let connection = self.consumers[consumer].connection;
        let death = Death {
            queue: self.name("work"),
            reason: self.name("rejected"),
            count: 1,
            exchange: self.name("x"),
            routing_key: Some(self.name("k")),
            time_seconds: None,
        };
        let extras = ready.dead.then(|| Extras { deaths: vec![death], ..Extras::default() });
        let message = self.message(ready.message, extras);
        let (exchange, routing_key) = if ready.dead { ("", "dead") } else { ("x", "k") };
        let destination = Destination { exchange: self.name(exchange), routing_key: self.name(routing_key) };
        let delivered = Operation::Delivered {
            channel: channel(connection),
            tag,
            consumer: Some(self.name("ctag")),
            queue: Some(self.name(QUEUES[queue])),
            automatic: Some(false),
            redelivered: ready.redelivered,
            destination,
            message,
            flow: Flow::Backward,
            end: tag * 100,
        };
        self.happens(connection, delivered);
        self.enters(State::Dispatched, 1);
        self.consumers[consumer].held.insert(tag, (queue, ready));
    }

    fn read(&mut self, consumer: usize) {
        let (connection, tag) = (self.consumers[consumer].connection, self.consumers[consumer].next_tag);
        self.happens(connection, Operation::Read { flow: Flow::Backward, from: 0, position: tag * 100 });
    }

    fn settle(&mut self, consumer: usize, pick: usize, multiple: bool, outcome: Outcome) {
        let held = &self.consumers[consumer].held;
        let Some(tag) = held.keys().nth(pick % held.len().max(1)).copied() else { return };
        let tags = if multiple { Tags::UpTo(tag) } else { Tags::One(tag) };
        let connection = self.consumers[consumer].connection;
        self.happens(connection, Operation::Settled { channel: channel(connection), tags, outcome });
        let taken: Vec<u64> = held_tags(&self.consumers[consumer], tag, multiple);
        for tag in taken {
            let Some((queue, ready)) = self.consumers[consumer].held.remove(&tag) else { continue };
            match outcome {
                Outcome::Acknowledged => self.enters(State::Acknowledged, 1),
                Outcome::RejectedByReject => {
                    self.enters(State::Rejected, 1);
                    if QUEUES[queue] == "work" {
                        self.enters(State::DeadLettered, 1);
                        self.queues[2].push_back(Ready { dead: true, redelivered: false, ..ready });
                    } else {
                        self.enters(State::Dropped, 1);
                    }
                }
                _ => self.requeue(queue, ready),
            }
        }
    }

    fn requeue(&mut self, queue: usize, ready: Ready) {
        self.enters(State::Failed, 1);
        self.enters(State::Retrying, 1);
        self.queues[queue].push_front(Ready { redelivered: true, ..ready });
    }

    fn lose(&mut self, consumer: usize) {
        let connection = self.consumers[consumer].connection;
        let closed = Operation::ChannelClosed { channel: channel(connection), by: None, error: None, connection: true };
        self.happens(connection, closed);
        self.lifecycles.handle_closed(ConnectionId(connection), Timestamp(self.clock), &mut self.exports);
        let fresh = self.new_consumer();
        let lost = std::mem::replace(&mut self.consumers[consumer], fresh);
        for (queue, ready) in lost.held.into_values().rev() {
            self.requeue(queue, ready);
        }
    }

    fn outstanding(&self) -> u64 {
        self.consumers.iter().map(|consumer| consumer.held.len() as u64).sum()
    }
}

fn channel(connection: u64) -> ChannelId {
    ChannelId { connection: ConnectionId(connection), number: 1, incarnation: 0 }
}

fn held_tags(consumer: &Consumer, tag: u64, multiple: bool) -> Vec<u64> {
    consumer.held.keys().copied().filter(|held| *held == tag || (multiple && *held < tag)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn what_leaves_equals_what_the_broker_did(
        steps in prop::collection::vec((0..12u8, 0..2usize, 0..3usize, 0..8usize), 1..300),
    ) {
        let mut broker = Broker::new();
        for (step, consumer, queue, pick) in steps {
            match step {
                0..=2 => broker.publish(pick % 3 == 0),
                3..=6 => broker.deliver(queue, consumer),
                7 => broker.read(consumer),
                8 => broker.settle(consumer, pick, pick % 2 == 0, Outcome::Acknowledged),
                9 => broker.settle(consumer, pick, false, Outcome::RejectedByReject),
                10 => broker.settle(consumer, pick, pick % 4 == 0, Outcome::RequeuedByNack),
                _ if pick == 0 => broker.lose(consumer),
                _ => broker.settle(consumer, pick, false, Outcome::RequeuedByReject),
            }
            prop_assert_eq!(broker.exports.metrics.in_flight(), broker.outstanding());
        }
        let truth = |state| broker.truth.get(&state).copied().unwrap_or(0);
        for state in State::ALL.into_iter().filter(|state| *state != State::Processing) {
            prop_assert_eq!(broker.exports.totals.of_state(state), truth(state), "{:?}", state);
        }

        let snapshot = broker.exports.metrics.snapshot(Timestamp(broker.clock), &Health::default());
        let counted: u64 = snapshot
            .resources
            .iter()
            .flat_map(|resource| &resource.metrics)
            .filter(|metric| metric.metric.name == "acktrail.dead_letter.messages")
            .flat_map(|metric| &metric.points)
            .map(|point| match &point.number { Number::Count(count) => *count, Number::Histogram(_) => 0 })
            .sum();
        prop_assert_eq!(counted, truth(State::DeadLettered));

        broker.exports.spans.finish();
        let spans: Vec<_> = broker.exports.spans.take().iter().map(seen_span).collect();
        spans.iter().for_each(check_span);
        let known: HashSet<_> = spans.iter().map(|span| span.context()).collect();
        prop_assert_eq!(known.len(), spans.len(), "a span twice");
        for link in spans.iter().flat_map(|span| &span.links) {
            prop_assert!(known.contains(link), "{:?} leads nowhere", link);
        }
        let count = |kind: &str, word: &str| {
            spans.iter().filter(|span| span.kind == kind && span.name.starts_with(word)).count() as u64
        };
        prop_assert_eq!(count("PRODUCER", "publish"), truth(State::Created));
        prop_assert_eq!(count("PRODUCER", "dead_letter"), truth(State::DeadLettered));
        let settled = truth(State::Acknowledged) + truth(State::Rejected) + truth(State::Failed);
        prop_assert_eq!(count("CONSUMER", "process"), settled);
        let producers = spans.iter().filter(|span| span.name.starts_with("publish"));
        prop_assert!(producers.clone().all(|span| span.resource["service.name"] == "shop-api"));
        prop_assert!(producers.clone().all(|span| span.end == span.start + MS));
    }
}
