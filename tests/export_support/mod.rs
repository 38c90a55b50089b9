//! What the export tests share: transitions to feed.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod conventions;
pub mod scenario;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use acktrail::capture::Owner;
use acktrail::export::metrics::Value as Given;
use acktrail::export::spans::{Kind, Span, SpanContext};
use acktrail::lifecycle::transition::{Attributes, Settlement, State, Transition};
use acktrail::names::Name;
use acktrail::protocol::operation::Identity;
use acktrail::time::Timestamp;
use conventions::SeenSpan;
use serde_json::Value;

/// The broker's end, the producer's and the consumer's.
static SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5672);
static PRODUCER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 40_000);
static CONSUMER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 40_002);

/// A transition of one message with nothing optional but the system.
pub fn transition(state: State, time: u64) -> Transition<'static> {
    Transition {
        attributes: Attributes { system: "rabbitmq", ..Attributes::default() },
        ..Transition::new(Timestamp(time), state)
    }
}

/// Messages through `queues` queues with every name and address that real traffic has.
pub struct Life {
    names: Vec<[Name; 6]>,
    producer: Owner,
    consumer: Owner,
}

impl Life {
    /// With this many queues.
    pub fn new(queues: usize) -> Life {
        let name = |text: String| -> Name { text.into() };
        let names = (0..queues).map(|number| {
            [
                name("shop".into()),
                name(format!("order.created.{number}")),
                name(format!("billing-{number}")),
                name("/".into()),
                name(format!("0f8fad5b-d9cb-469f-a165-{number:012x}")),
                name("ctag1.4f0c2b1e".into()),
            ]
        });
        Life {
            names: names.collect(),
            producer: Owner { pid: 1001, executable: "shop-api".into() },
            consumer: Owner { pid: 1002, executable: "billing-worker".into() },
        }
    }

    /// Created, Confirmed, Dispatched, Processing, Acknowledged for each message, a millisecond apart.
    pub fn feed(&self, messages: u64, observe: &mut dyn FnMut(&Transition<'_>)) {
        const STEP: u64 = 1_000_000;
        for number in 0..messages {
            let names = &self.names[number as usize % self.names.len()];
            let start = 1_795_357_867_000_000_000 + number * 10_000;
            let mut line = transition(State::Created, start);
            line.message = Some(Identity(xxhash_rust::xxh3::xxh3_128(&number.to_be_bytes())));
            line.attributes = Attributes {
                operation: Some("publish"),
                exchange: Some(&names[0]),
                routing_key: Some(&names[1]),
                vhost: Some(&names[3]),
                message_id: Some(&names[4]),
                body_size: Some(512),
                server: Some(&SERVER),
                client: Some(&PRODUCER),
                process: Some(&self.producer),
                ..line.attributes
            };
            line.timings.created = Some(line.time);
            observe(&line);
            line.time = Timestamp(start + STEP);
            (line.state, line.previous) = (State::Confirmed, Some(State::Created));
            line.attributes.operation = Some("ack");
            line.timings.confirmed = Some(line.time);
            observe(&line);
            line.time = Timestamp(start + 2 * STEP);
            (line.state, line.previous) = (State::Dispatched, Some(State::Confirmed));
            line.delivery = Some(1);
            line.attributes = Attributes {
                operation: Some("deliver"),
                queue: Some(&names[2]),
                consumer_tag: Some(&names[5]),
                delivery_tag: Some(number),
                redelivered: Some(false),
                client: Some(&CONSUMER),
                process: Some(&self.consumer),
                producer: Some(&self.producer),
                ..line.attributes
            };
            line.timings.dispatched = Some(line.time);
            observe(&line);
            line.time = Timestamp(start + 3 * STEP);
            (line.state, line.previous) = (State::Processing, Some(State::Dispatched));
            line.timings.processing = Some(line.time);
            observe(&line);
            line.time = Timestamp(start + 4 * STEP);
            (line.state, line.previous) = (State::Acknowledged, Some(State::Processing));
            line.attributes.operation = Some("ack");
            line.attributes.settlement = Some(Settlement::Explicit);
            observe(&line);
        }
    }
}

/// A span as the conventions' checker judges it.
pub fn seen_span(span: &Span) -> SeenSpan {
    let hexadecimal = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let context = |context: &SpanContext| (hexadecimal(&context.trace_id), hexadecimal(&context.span_id));
    let mut attributes = BTreeMap::new();
    for (key, value) in &span.attributes {
        assert!(key.places.contains('s'), "{} is not registered for spans", key.key);
        let value = match value {
            Given::Text(text) => Value::from(text.as_str()),
            Given::Word(word) => Value::from(*word),
            Given::Int(number) => Value::from(*number),
            Given::Bool(flag) => Value::from(*flag),
        };
        assert!(attributes.insert(key.key.to_owned(), value).is_none(), "{} twice", key.key);
    }
    let (trace, id) = context(&span.context);
    SeenSpan {
        resource: BTreeMap::from([("service.name".to_owned(), span.resource.service_name().into())]),
        trace,
        id,
        parent: span.parent.map(|parent| hexadecimal(&parent)),
        kind: match span.kind {
            Kind::Producer => "PRODUCER",
            Kind::Client => "CLIENT",
            Kind::Consumer => "CONSUMER",
        },
        name: span.name.clone(),
        start: span.start.0,
        end: span.end.0,
        attributes,
        links: span.links.iter().map(|link| context(&link.context)).collect(),
        events: span.events.iter().map(|(time, name)| (time.0, (*name).to_owned())).collect(),
        error: span.failed,
    }
}
