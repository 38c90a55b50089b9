//! The semantic conventions 1.44.0 for messaging, RabbitMQ and Kafka, as far as this agent's telemetry can meet them, written down
//! from the conventions' own tables; every span and point that a test lets out is judged by them.

use std::collections::{BTreeMap, HashSet};

use opentelemetry_semantic_conventions::{attribute as known, metric as known_metric, resource as known_resource};
use serde_json::Value;

/// A span as a back end sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct SeenSpan {
    pub resource: BTreeMap<String, Value>,
    pub trace: String,
    pub id: String,
    pub parent: Option<String>,
    pub kind: &'static str,
    pub name: String,
    pub start: u64,
    pub end: u64,
    pub attributes: BTreeMap<String, Value>,
    pub links: Vec<(String, String)>,
    pub events: Vec<(u64, String)>,
    pub error: bool,
}

impl SeenSpan {
    pub fn text(&self, key: &str) -> &str {
        self.attributes.get(key).and_then(Value::as_str).unwrap_or("")
    }

    pub fn context(&self) -> (String, String) {
        (self.trace.clone(), self.id.clone())
    }
}

/// A metric point as a back end sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct SeenPoint {
    pub resource: BTreeMap<String, Value>,
    pub metric: String,
    pub unit: String,
    /// `sum`, `monotonic sum`, `histogram`.
    pub kind: &'static str,
    pub cumulative: bool,
    pub attributes: BTreeMap<String, Value>,
    pub start: u64,
    pub time: u64,
    /// A sum's value, or a histogram's count.
    pub count: u64,
    pub bounds: Vec<f64>,
    pub buckets: Vec<u64>,
    pub sum: f64,
}

/// Every key of the conventions that may appear on a span, and its type.
const SPAN_KEYS: &[(&str, Kind)] = &[
    (known::MESSAGING_SYSTEM, Kind::Text),
    (known::MESSAGING_OPERATION_NAME, Kind::Text),
    (known::MESSAGING_OPERATION_TYPE, Kind::Text),
    (known::MESSAGING_DESTINATION_NAME, Kind::Text),
    (known::MESSAGING_DESTINATION_TEMPLATE, Kind::Text),
    (known::MESSAGING_DESTINATION_ANONYMOUS, Kind::Bool),
    (known::MESSAGING_MESSAGE_ID, Kind::Text),
    (known::MESSAGING_MESSAGE_CONVERSATION_ID, Kind::Text),
    (known::MESSAGING_MESSAGE_BODY_SIZE, Kind::Int),
    (known::MESSAGING_BATCH_MESSAGE_COUNT, Kind::Int),
    (known::MESSAGING_CONSUMER_GROUP_NAME, Kind::Text),
    (known::MESSAGING_DESTINATION_PARTITION_ID, Kind::Text),
    (known::MESSAGING_KAFKA_OFFSET, Kind::Int),
    (known::MESSAGING_CLIENT_ID, Kind::Text),
    (known::MESSAGING_RABBITMQ_DESTINATION_ROUTING_KEY, Kind::Text),
    (known::MESSAGING_RABBITMQ_MESSAGE_DELIVERY_TAG, Kind::Int),
    (known::ERROR_TYPE, Kind::Text),
    (known::SERVER_ADDRESS, Kind::Text),
    (known::SERVER_PORT, Kind::Int),
    (known::NETWORK_PEER_ADDRESS, Kind::Text),
    (known::NETWORK_PEER_PORT, Kind::Int),
];

/// Every key of the conventions that may appear on a messaging metric, and its type.
const POINT_KEYS: &[(&str, Kind)] = &[
    (known::MESSAGING_SYSTEM, Kind::Text),
    (known::MESSAGING_OPERATION_NAME, Kind::Text),
    (known::MESSAGING_OPERATION_TYPE, Kind::Text),
    (known::MESSAGING_DESTINATION_NAME, Kind::Text),
    (known::MESSAGING_DESTINATION_TEMPLATE, Kind::Text),
    (known::MESSAGING_CONSUMER_GROUP_NAME, Kind::Text),
    (known::ERROR_TYPE, Kind::Text),
    (known::SERVER_ADDRESS, Kind::Text),
    (known::SERVER_PORT, Kind::Int),
];

const RESOURCE_KEYS: &[(&str, Kind)] = &[
    (known_resource::SERVICE_NAME, Kind::Text),
    (known_resource::SERVICE_VERSION, Kind::Text),
    (known_resource::HOST_NAME, Kind::Text),
    (known_resource::PROCESS_PID, Kind::Int),
    (known_resource::PROCESS_EXECUTABLE_NAME, Kind::Text),
];

/// Keys of the conventions that appear in JSON lines only.
const LINE_KEYS: &[&str] = &[known::CLIENT_ADDRESS, known::CLIENT_PORT];

/// The conventions' metrics: name, kind, unit, attributes that are required besides messaging.system.
const METRICS: &[(&str, &str, &str)] = &[
    (known_metric::MESSAGING_CLIENT_SENT_MESSAGES, "monotonic sum", "{message}"),
    (known_metric::MESSAGING_CLIENT_CONSUMED_MESSAGES, "monotonic sum", "{message}"),
    (known_metric::MESSAGING_CLIENT_OPERATION_DURATION, "histogram", "s"),
    (known_metric::MESSAGING_PROCESS_DURATION, "histogram", "s"),
];

const BOUNDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Text,
    Int,
    Bool,
}

/// Whether the conventions know a key that is not ours.
pub fn knows(key: &str) -> bool {
    let tables = [SPAN_KEYS, POINT_KEYS, RESOURCE_KEYS];
    tables.iter().flat_map(|table| table.iter()).any(|(other, _)| *other == key) || LINE_KEYS.contains(&key)
}

/// Judges one span; panics with what is wrong.
pub fn check_span(span: &SeenSpan) {
    let context = format!("{span:#?}");
    assert!(span.trace.len() == 32 && span.trace.bytes().any(|digit| digit != b'0'), "trace id: {context}");
    assert!(span.id.len() == 16 && span.id.bytes().any(|digit| digit != b'0'), "span id: {context}");
    assert!(span.start <= span.end && span.start > 0, "times: {context}");
    check_resource(&span.resource);
    check_keys(&span.attributes, SPAN_KEYS);

    let is_kafka = match span.text("messaging.system") {
        "kafka" => true,
        "rabbitmq" => false,
        other => panic!("messaging.system {other}: {context}"),
    };
    let operation = span.text("messaging.operation.name");
    assert!(!operation.is_empty(), "messaging.operation.name is required: {context}");
    let kinds: &[&str] = match span.text("messaging.operation.type") {
        "create" => &["PRODUCER"],
        "send" => &["PRODUCER", "CLIENT"],
        "receive" | "settle" => &["CLIENT"],
        "process" => &["CONSUMER"],
        other => panic!("messaging.operation.type {other}: {context}"),
    };
    assert!(kinds.contains(&span.kind), "kind: {context}");

    // Span name: `{operation} {destination}`, by its template where that is generated.
    let name = span.text("messaging.destination.name");
    assert!(!name.is_empty(), "messaging.destination.name is required: {context}");
    let template = span.text("messaging.destination.template");
    let shown = if template.is_empty() { name } else { template };
    assert_eq!(span.name, format!("{operation} {shown}"), "{context}");
    let anonymous = span.attributes.get("messaging.destination.anonymous");
    assert!(anonymous.is_none_or(|value| *value == true), "set only when true: {context}");
    assert!(!shown.contains("amq.gen-") || shown.contains("amq.gen-*"), "a generated name: {context}");

    // The node really contacted, only where one is: not on create and process.
    let peer = span.attributes.contains_key("network.peer.address");
    assert!(!peer || span.text("messaging.operation.type") != "process", "network.peer.address: {context}");
    let group = span.attributes.contains_key("messaging.consumer.group.name");
    assert!(is_kafka || !group, "a consumer group: {context}");
    let batch = span.attributes.get("messaging.batch.message_count");
    assert!(batch.is_none_or(|count| count.as_u64() > Some(1)), "a batch of one: {context}");
    assert_eq!(span.error, span.attributes.contains_key("error.type"), "error.type goes with the status: {context}");

    // A send with a context made before is a CLIENT span and links to it.
    if span.kind == "CLIENT" && span.text("messaging.operation.type") == "send" {
        assert!(!span.links.is_empty(), "{context}");
    }
    // A parent in place of links is allowed only beside them.
    if let Some(parent) = &span.parent {
        assert!(span.links.iter().any(|(trace, id)| *trace == span.trace && id == parent), "{context}");
    }
    let unique: HashSet<_> = span.links.iter().collect();
    assert_eq!(unique.len(), span.links.len(), "a link twice: {context}");
}

/// Judges one point; panics with what is wrong.
pub fn check_point(point: &SeenPoint) {
    let context = format!("{point:#?}");
    check_resource(&point.resource);
    check_keys(&point.attributes, POINT_KEYS);
    assert!(point.cumulative && point.start <= point.time && point.time > 0, "{context}");
    if point.metric.starts_with("messaging.") {
        let (_, kind, unit) = METRICS.iter().find(|(name, ..)| *name == point.metric).expect(&context);
        assert_eq!((point.kind, point.unit.as_str()), (*kind, *unit), "{context}");
        let system = point.attributes.get("messaging.system").and_then(Value::as_str);
        assert!(matches!(system, Some("rabbitmq" | "kafka")), "{context}");
        assert!(point.attributes.contains_key("messaging.operation.name"), "{context}");
        if *kind == "histogram" {
            assert_eq!(point.bounds, BOUNDS, "{context}");
        }
    } else {
        assert!(point.metric.starts_with("acktrail."), "{context}");
        assert!(!point.metric.ends_with("_total") && !point.metric.contains("second"), "{context}");
    }
    if point.kind == "histogram" {
        assert_eq!(point.buckets.len(), point.bounds.len() + 1, "{context}");
        assert_eq!(point.buckets.iter().sum::<u64>(), point.count, "{context}");
    }
}

fn check_resource(resource: &BTreeMap<String, Value>) {
    check_keys(resource, RESOURCE_KEYS);
    assert!(resource.get("service.name").is_some_and(Value::is_string), "service.name is required: {resource:?}");
}

fn check_keys(attributes: &BTreeMap<String, Value>, table: &[(&str, Kind)]) {
    for (key, value) in attributes {
        let kind = match value {
            Value::String(text) => {
                assert!(!text.is_empty(), "{key} is empty");
                Kind::Text
            }
            Value::Bool(_) => Kind::Bool,
            Value::Number(_) => Kind::Int,
            other => panic!("{key}: {other}"),
        };
        match table.iter().find(|(other, _)| other == key) {
            Some((_, expected)) => assert_eq!(kind, *expected, "{key}"),
            None => assert!(key.starts_with("acktrail."), "{key} is not in the conventions for this place"),
        }
    }
}
