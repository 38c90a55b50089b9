//! JSON lines as a reader sees them: golden lines, and that every line parses whatever the names hold.

use acktrail::capture::Owner;
use acktrail::export::json::{event_line, transition_line};
use acktrail::export::registry::{ATTRIBUTES, EVENTS, FIELDS, Type};
use acktrail::lifecycle::transition::{Attributes, Event, Evidence, Reason, Settlement, State, Transition};
use acktrail::names::{Name, clean};
use acktrail::protocol::operation::{Identity, TraceContext};
use acktrail::time::Timestamp;
use proptest::prelude::*;
use serde_json::Value;

use crate::export_support::transition;

fn line(transition: &Transition<'_>) -> String {
    let mut out = Vec::new();
    transition_line(transition, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_line_without_anything_optional() {
    let mut created = transition(State::Created, 1_795_357_867_000_000_001);
    created.attributes.system = "";
    assert_eq!(
        line(&created),
        "{\"kind\":\"transition\",\"time\":\"2026-11-22T14:31:07.000000001Z\",\"state\":\"Created\",\
         \"evidence\":\"observed\",\"count\":1,\"attributes\":{}}\n"
    );
}

#[test]
fn a_line_with_everything() {
    let name = |text: &str| -> Name { text.into() };
    let names =
        ["orders", "eu.new", "billing", "/", "m-1", "c-9", "app", "ctag1", "NOT_FOUND", "billing.dlq"].map(name);
    let [exchange, routing_key, queue, vhost, message_id, conversation_id, client_id, consumer_tag, text, dlq] = &names;
    let process = Owner { pid: 4711, executable: "python3.11".into() };
    let mut rejected = transition(State::DeadLettered, 1_795_357_867_123_456_789);
    rejected.previous = Some(State::Rejected);
    rejected.evidence = Evidence::Inferred;
    rejected.ambiguous = true;
    rejected.corrects = Some(State::Retrying);
    rejected.reason = Some(Reason::DeliveryLimit);
    rejected.count = 2;
    rejected.message = Some(Identity(0x0123_4567_89ab_cdef_0000_0000_0000_00ff));
    rejected.delivery = Some(3);
    let (server, client) = ("127.0.0.1:5672".parse().unwrap(), "[2001:db8::1]:40000".parse().unwrap());
    let trace = TraceContext { trace_id: [0xab; 16], span_id: [0x01; 8], flags: 1 };
    rejected.attributes = Attributes {
        batches: &[],
        unanswered: false,
        requested: None,
        system: "rabbitmq",
        operation: Some("nack"),
        exchange: Some(exchange),
        routing_key: Some(routing_key),
        queue: Some(queue),
        vhost: Some(vhost),
        message_id: Some(message_id),
        conversation_id: Some(conversation_id),
        body_size: Some(1024),
        client_id: Some(client_id),
        consumer_tag: Some(consumer_tag),
        delivery_tag: Some(17),
        redelivered: Some(true),
        settlement: Some(Settlement::Multiple),
        stream_offset: Some(0),
        dead_letter_source: Some(queue),
        dead_letter_destination: Some(dlq),
        error_code: Some(404),
        error_text: Some(text),
        server: Some(&server),
        client: Some(&client),
        process: Some(&process),
        producer: None,
        trace: Some(&trace),
        // Not RabbitMQ's: see below.
        topic: None,
        partition: None,
        offsets: None,
        group: None,
        lag: None,
        dead_letter_partition: None,
        dead_letter_offset: None,
    };
    assert_eq!(
        line(&rejected),
        "{\"kind\":\"transition\",\"time\":\"2026-11-22T14:31:07.123456789Z\",\"state\":\"DeadLettered\",\
         \"previous\":\"Rejected\",\"evidence\":\"inferred\",\"corrects\":\"Retrying\",\"reason\":\"delivery_limit\",\
         \"ambiguous\":true,\"count\":2,\"message\":\"0123456789abcdef00000000000000ff\",\"delivery\":3,\"attributes\":{\
         \"messaging.system\":\"rabbitmq\",\"messaging.operation.name\":\"nack\",\"messaging.operation.type\":\"settle\",\
         \"messaging.destination.name\":\"orders:eu.new:billing\",\"messaging.message.id\":\"m-1\",\
         \"messaging.message.conversation_id\":\"c-9\",\"messaging.message.body.size\":1024,\
         \"messaging.client.id\":\"app\",\"messaging.rabbitmq.destination.routing_key\":\"eu.new\",\
         \"messaging.rabbitmq.message.delivery_tag\":17,\"acktrail.rabbitmq.exchange\":\"orders\",\
         \"acktrail.rabbitmq.vhost\":\"/\",\"acktrail.queue.name\":\"billing\",\
         \"acktrail.rabbitmq.consumer_tag\":\"ctag1\",\"acktrail.rabbitmq.stream.offset\":0,\
         \"acktrail.message.redelivered\":true,\"acktrail.settlement\":\"multiple\",\
         \"acktrail.dead_letter.source\":\"billing\",\"acktrail.dead_letter.destination\":\"billing.dlq\",\
         \"error.type\":\"404\",\"acktrail.error.text\":\"NOT_FOUND\",\
         \"server.address\":\"127.0.0.1\",\"server.port\":5672,\"client.address\":\"2001:db8::1\",\"client.port\":40000,\
         \"process.pid\":4711,\"process.executable.name\":\"python3.11\",\
         \"trace_id\":\"abababababababababababababababab\",\"span_id\":\"0101010101010101\"}}\n"
    );
}

#[test]
fn a_line_of_a_log() {
    let (topic, group): (Name, Name) = ("orders".into(), "billing".into());
    let mut committed = transition(State::Acknowledged, 1);
    committed.count = 7;
    committed.attributes = Attributes {
        system: "kafka",
        operation: Some("commit"),
        topic: Some(&topic),
        partition: Some(3),
        offsets: Some((40, 49)),
        group: Some(&group),
        error_code: Some(-1),
        ..Attributes::default()
    };
    assert_eq!(
        line(&committed),
        "{\"kind\":\"transition\",\"time\":\"1970-01-01T00:00:00.000000001Z\",\"state\":\"Acknowledged\",\
         \"evidence\":\"observed\",\"count\":7,\"attributes\":{\
         \"messaging.system\":\"kafka\",\"messaging.operation.name\":\"commit\",\"messaging.operation.type\":\"settle\",\
         \"messaging.destination.name\":\"orders\",\"messaging.consumer.group.name\":\"billing\",\
         \"messaging.destination.partition.id\":\"3\",\"messaging.kafka.offset\":40,\"acktrail.kafka.offset.last\":49,\
         \"error.type\":\"-1\"}}\n"
    );
}

#[test]
fn a_dead_letter_of_a_log() {
    let (topic, dead): (Name, Name) = ("orders".into(), "orders-dlt".into());
    let mut copied = transition(State::DeadLettered, 1);
    copied.attributes = Attributes {
        system: "kafka",
        topic: Some(&topic),
        partition: Some(3),
        offsets: Some((40, 40)),
        dead_letter_source: Some(&topic),
        dead_letter_destination: Some(&dead),
        dead_letter_partition: Some(0),
        dead_letter_offset: Some(7),
        ..Attributes::default()
    };
    let place = "\"acktrail.dead_letter.partition.id\":\"0\",\"acktrail.dead_letter.offset\":7";
    assert!(line(&copied).contains(place), "{}", line(&copied));
}

#[test]
fn an_event_line() {
    let queue: Name = "work".into();
    let event = Event {
        time: Timestamp(1),
        name: "settle_failed",
        count: Some(3),
        detail: Some("unknown \"tag\" 9"),
        evidence: Evidence::Observed,
        attributes: Attributes {
            system: "rabbitmq",
            queue: Some(&queue),
            error_code: Some(406),
            ..Attributes::default()
        },
    };
    let mut out = Vec::new();
    event_line(&event, &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "{\"kind\":\"event\",\"event\":\"settle_failed\",\"time\":\"1970-01-01T00:00:00.000000001Z\",\
         \"evidence\":\"observed\",\"count\":3,\"detail\":\"unknown \\\"tag\\\" 9\",\"attributes\":{\
         \"messaging.system\":\"rabbitmq\",\"messaging.destination.name\":\"work\",\
         \"acktrail.queue.name\":\"work\",\"error.type\":\"406\"}}\n"
    );
}

#[test]
fn the_default_exchange_has_no_name() {
    let (empty, key): (Name, Name) = ("".into(), "work".into());
    let mut created = transition(State::Created, 5);
    created.attributes.exchange = Some(&empty);
    created.attributes.routing_key = Some(&key);
    let parsed: Value = serde_json::from_str(&line(&created)).unwrap();
    assert_eq!(parsed["attributes"]["messaging.destination.name"], "work");
    assert!(parsed["attributes"].get("acktrail.rabbitmq.exchange").is_none());
    created.attributes.routing_key = Some(&empty);
    let parsed: Value = serde_json::from_str(&line(&created)).unwrap();
    assert_eq!(parsed["attributes"]["messaging.destination.name"], "amq.default");
}

fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[\"\\\\\u{0}-\u{1f}\u{7f}a:é\u{2028}\u{10ffff}]{0,300}",
        prop::collection::vec(any::<u8>(), 0..900).prop_map(|bytes| clean(&bytes)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn every_line_parses_and_gives_its_text_back(
        texts in prop::array::uniform8(hostile()),
        time in any::<u64>(),
        count in any::<u64>(),
        identity in any::<u128>(),
        address in any::<std::net::SocketAddr>(),
        state in 0..State::ALL.len(),
    ) {
        let names: Vec<Name> = texts.iter().map(|text| text.as_str().into()).collect();
        let process = Owner { pid: 1, executable: texts[7].clone() };
        let mut subject = transition(State::ALL[state], time);
        subject.count = count;
        subject.message = Some(Identity(identity));
        subject.attributes = Attributes {
            system: "rabbitmq",
            exchange: Some(&names[0]),
            routing_key: Some(&names[1]),
            queue: Some(&names[2]),
            message_id: Some(&names[3]),
            client_id: Some(&names[4]),
            error_text: Some(&names[5]),
            dead_letter_destination: Some(&names[6]),
            server: Some(&address),
            process: Some(&process),
            ..Attributes::default()
        };
        let text = line(&subject);
        prop_assert_eq!(text.matches('\n').count(), 1);
        let parsed: Value = serde_json::from_str(&text).unwrap();
        check_against_registry(&parsed);
        prop_assert_eq!(parsed["count"].as_u64(), Some(count));
        prop_assert_eq!(parsed["message"].as_str().unwrap(), format!("{identity:032x}"));
        let same = |key: &str, value: &str| {
            parsed["attributes"].get(key).and_then(Value::as_str).unwrap_or("") == value
        };
        prop_assert!(same("acktrail.rabbitmq.exchange", &texts[0]));
        prop_assert!(same("messaging.rabbitmq.destination.routing_key", &texts[1]));
        prop_assert!(same("acktrail.queue.name", &texts[2]));
        prop_assert!(same("messaging.message.id", &texts[3]));
        prop_assert!(same("messaging.client.id", &texts[4]));
        prop_assert!(same("acktrail.error.text", &texts[5]));
        prop_assert!(same("acktrail.dead_letter.destination", &texts[6]));
        prop_assert!(same("process.executable.name", &texts[7]));
        prop_assert!(same("server.address", &address.ip().to_string()));
    }
}

/// Only registered fields and attributes, each of its registered type, none empty.
fn check_against_registry(line: &Value) {
    for (field, value) in line.as_object().unwrap() {
        assert!(FIELDS.contains(&field.as_str()), "field {field}");
        assert!(!value.is_null() && value != "", "{field} is empty");
    }
    if let Some(event) = line.get("event") {
        assert!(EVENTS.contains(&event.as_str().unwrap()));
    }
    for (key, value) in line["attributes"].as_object().unwrap() {
        let attribute = ATTRIBUTES.iter().find(|attribute| attribute.key == key).expect(key);
        assert!(attribute.in_lines(), "{key} is not registered for lines");
        let right = match attribute.kind {
            Type::Text => value.as_str().is_some_and(|text| !text.is_empty()),
            Type::Int => value.is_u64(),
            Type::Bool => value.is_boolean(),
        };
        assert!(right, "{key}: {value}");
    }
}
