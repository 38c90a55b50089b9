//! Every name that leaves the agent, in one place: the writers take them from here, and `tests/export/docs.rs` holds
//! `docs/events.md` and `docs/metrics.md` against these tables.
//!
//! OpenTelemetry's names are those of the semantic conventions 1.44.0, whose messaging area is still in development: a
//! renamed key is one line here.

/// The semantic conventions that the names are taken from.
pub const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.44.0";

/// The type of an attribute's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Text.
    Text,
    /// A whole number.
    Int,
    /// true or false.
    Bool,
}

/// An attribute: its key, its type, and what it says.
#[derive(Debug, PartialEq, Eq)]
pub struct Attribute {
    /// The key in every output.
    pub key: &'static str,
    /// `"key":`, as a JSON writer needs it.
    pub json: &'static str,
    /// The type of its value.
    pub kind: Type,
    /// Where it appears: `l`ines, `s`pans, `m`etric points, `r`esources.
    pub places: &'static str,
}

impl Attribute {
    /// Appears in the JSON lines.
    pub fn in_lines(&self) -> bool {
        self.places.contains('l')
    }

    /// Appears on spans, links, metric points or resources.
    pub fn in_telemetry(&self) -> bool {
        self.places.contains(['s', 'm', 'r'])
    }
}

macro_rules! attributes {
    ($($name:ident = $key:literal $kind:ident $places:literal;)*) => {
        /// The attributes, one each.
        pub mod attribute {
            use super::{Attribute, Type};
            $(
                #[doc = concat!("`", $key, "`")]
                pub static $name: Attribute =
                    Attribute { key: $key, json: concat!("\"", $key, "\":"), kind: Type::$kind, places: $places };
            )*
        }
        /// All attributes.
        pub static ATTRIBUTES: &[&Attribute] = &[$(&attribute::$name),*];
    };
}

attributes! {
    SYSTEM = "messaging.system" Text "lsm";
    OPERATION_NAME = "messaging.operation.name" Text "lsm";
    OPERATION_TYPE = "messaging.operation.type" Text "lsm";
    DESTINATION_NAME = "messaging.destination.name" Text "lsm";
    DESTINATION_TEMPLATE = "messaging.destination.template" Text "sm";
    DESTINATION_ANONYMOUS = "messaging.destination.anonymous" Bool "s";
    MESSAGE_ID = "messaging.message.id" Text "ls";
    CONVERSATION_ID = "messaging.message.conversation_id" Text "ls";
    BODY_SIZE = "messaging.message.body.size" Int "ls";
    CLIENT_ID = "messaging.client.id" Text "ls";
    ROUTING_KEY = "messaging.rabbitmq.destination.routing_key" Text "ls";
    DELIVERY_TAG = "messaging.rabbitmq.message.delivery_tag" Int "ls";
    EXCHANGE = "acktrail.rabbitmq.exchange" Text "ls";
    VHOST = "acktrail.rabbitmq.vhost" Text "lsm";
    CONSUMER_TAG = "acktrail.rabbitmq.consumer_tag" Text "ls";
    STREAM_OFFSET = "acktrail.rabbitmq.stream.offset" Int "ls";
    QUEUE = "acktrail.queue.name" Text "lsm";
    GROUP = "messaging.consumer.group.name" Text "lsm";
    PARTITION = "messaging.destination.partition.id" Text "lsm";
    OFFSET = "messaging.kafka.offset" Int "ls";
    OFFSET_LAST = "acktrail.kafka.offset.last" Int "ls";
    LAG = "acktrail.consumer.lag" Int "l";
    SETTLEMENT = "acktrail.settlement" Text "ls";
    REDELIVERED = "acktrail.message.redelivered" Bool "ls";
    DEAD_LETTER_SOURCE = "acktrail.dead_letter.source" Text "lsm";
    DEAD_LETTER_DESTINATION = "acktrail.dead_letter.destination" Text "lsm";
    DEAD_LETTER_PARTITION = "acktrail.dead_letter.partition.id" Text "l";
    DEAD_LETTER_OFFSET = "acktrail.dead_letter.offset" Int "l";
    ERROR_TYPE = "error.type" Text "lsm";
    ERROR_TEXT = "acktrail.error.text" Text "ls";
    SERVER_ADDRESS = "server.address" Text "lsm";
    SERVER_PORT = "server.port" Int "lsm";
    CLIENT_ADDRESS = "client.address" Text "l";
    CLIENT_PORT = "client.port" Int "l";
    PEER_ADDRESS = "network.peer.address" Text "s";
    PEER_PORT = "network.peer.port" Int "s";
    PROCESS_PID = "process.pid" Int "lr";
    PROCESS_EXECUTABLE = "process.executable.name" Text "lr";
    TRACE_ID = "trace_id" Text "l";
    SPAN_ID = "span_id" Text "l";
    MESSAGE = "acktrail.message" Text "s";
    STATE = "acktrail.message.state" Text "sm";
    REASON = "acktrail.message.reason" Text "sm";
    EVIDENCE = "acktrail.message.evidence" Text "sm";
    AMBIGUOUS = "acktrail.message.ambiguous" Bool "s";
    DELIVERY = "acktrail.message.delivery" Int "s";
    COUNT = "messaging.batch.message_count" Int "s";
    LOSS_STAGE = "acktrail.loss.stage" Text "m";
    LOSS_REASON = "acktrail.loss.reason" Text "m";
    LOSS_UNIT = "acktrail.loss.unit" Text "m";
    TABLE = "acktrail.table" Text "m";
    SIGNAL = "acktrail.export.signal" Text "m";
    SERVICE_NAME = "service.name" Text "r";
    SERVICE_VERSION = "service.version" Text "r";
    HOST_NAME = "host.name" Text "r";
}

/// The fields of a JSON line, beside those inside `attributes`.
pub const FIELDS: &[&str] = &[
    "kind",
    "event",
    "time",
    "state",
    "previous",
    "evidence",
    "ambiguous",
    "corrects",
    "reason",
    "count",
    "message",
    "delivery",
    "detail",
    "attributes",
];

/// The names of events (`kind: event`), with what each says. A new event is a new line here and in docs/events.md.
pub const EVENTS: &[&str] = &[
    "settle_failed",
    "publish_failed",
    "channel_closed",
    "connection_lost",
    "connection_closed",
    "consumer_started",
    "consumer_cancelled",
    "rebalanced",
    "consumer_stalled",
    "consumer_resumed",
    "resynchronised",
    "settled_unseen",
    "fate_unknown",
    "transaction",
    "blocked",
    "unblocked",
    "not_decoded",
    "evicted",
    "queue_emptied",
    "automatic_presumed",
    "parse_trouble",
];

/// What kind of instrument a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instrument {
    /// Only rises.
    Counter,
    /// Rises and falls.
    UpDownCounter,
    /// What it is now.
    Gauge,
    /// Durations by bucket.
    Histogram,
}

/// A metric.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name in OTLP.
    pub name: &'static str,
    /// Its instrument.
    pub instrument: Instrument,
    /// Its unit (UCUM, with annotations in braces).
    pub unit: &'static str,
    /// What it says.
    pub says: &'static str,
}

macro_rules! metrics {
    ($($constant:ident = $name:literal $instrument:ident $unit:literal $says:literal;)*) => {
        /// The metrics, one each.
        pub mod metric {
            use super::{Instrument, Metric};
            $(
                #[doc = $says]
                pub static $constant: Metric =
                    Metric { name: $name, instrument: Instrument::$instrument, unit: $unit, says: $says };
            )*
        }
        /// All metrics.
        pub static METRICS: &[&Metric] = &[$(&metric::$constant),*];
    };
}

metrics! {
    SENT = "messaging.client.sent.messages" Counter "{message}" "Messages that producers tried to send";
    CONSUMED = "messaging.client.consumed.messages" Counter "{message}" "Messages that reached consumers, once per delivery";
    OPERATION_DURATION = "messaging.client.operation.duration" Histogram "s" "From a publish to the broker's confirm of it";
    PROCESS_DURATION = "messaging.process.duration" Histogram "s" "From the application's reading of a message to its settlement";
    TRANSITIONS = "acktrail.message.transitions" Counter "{message}" "Messages that entered a state";
    IN_FLIGHT = "acktrail.message.in_flight" UpDownCounter "{message}" "Messages dispatched to consumers and not settled";
    DEAD_LETTERS = "acktrail.dead_letter.messages" Counter "{message}" "Messages that were dead-lettered";
    RETRY_DURATION = "acktrail.retry.duration" Histogram "s" "From a message's first failure to its final acknowledgement or dead letter";
    SETTLE_FAILURES = "acktrail.settle.failures" Counter "{settlement}" "Settlements that the broker refused";
    BROKER_DURATION = "acktrail.broker.duration" Histogram "s" "From a publish to its first delivery";
    RECEIVE_BUFFER_DURATION = "acktrail.receive_buffer.duration" Histogram "s" "From a delivery to the application's reading of it";
    CONSUMER_LAG = "acktrail.consumer.lag" Gauge "{message}" "Messages that a consumer group is behind in a partition";
    CAPTURE_LOST = "acktrail.capture.lost" Counter "1" "What was lost, by stage and reason";
    CAPTURE_BYTES = "acktrail.capture.bytes" Counter "By" "Payload that passed watched sockets";
    CAPTURE_SEGMENTS = "acktrail.capture.segments" Counter "{segment}" "Packets with payload that passed watched sockets";
    PARSER_ERRORS = "acktrail.parser.errors" Counter "{error}" "What the protocol's sessions could not read";
    TABLE_EVICTIONS = "acktrail.table.evictions" Counter "{entry}" "Entries that tables forgot because their budget was reached";
    EXPORT_FAILED = "acktrail.export.failed" Counter "{item}" "Spans, points and lines that could not be exported";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn keys_are_unique_and_well_formed() {
        let mut seen = HashSet::new();
        for attribute in ATTRIBUTES {
            assert!(seen.insert(attribute.key), "{} twice", attribute.key);
            assert_eq!(attribute.json, format!("\"{}\":", attribute.key));
            assert!(!attribute.places.is_empty());
            // Naming rules of the semantic conventions: lower case, dots between words, snake_case inside them.
            let parts = attribute.key.split('.');
            for part in parts {
                assert!(part.starts_with(|first: char| first.is_ascii_lowercase()), "{}", attribute.key);
                assert!(part.ends_with(|last: char| last.is_ascii_alphanumeric()), "{}", attribute.key);
                assert!(part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'));
            }
        }
        let events: HashSet<_> = EVENTS.iter().collect();
        assert_eq!(events.len(), EVENTS.len());
    }
}
