//! Where a record was before: the headers that frameworks write on retries and dead letters.
//!
//! [`CONVENTIONS`] is the whole knowledge. Exception messages and stack traces are left out on purpose: they quote payload.

use super::pieces::Malformed;

/// The longest text that is kept of a header's value, in bytes. Topics have at most 249.
pub(super) const LONGEST_TEXT: usize = 256;
/// The longest name of a header that means anything here, in bytes.
pub(super) const LONGEST_NAME: usize = 48;

/// Who writes such headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Convention {
    /// Spring Kafka's `DeadLetterPublishingRecoverer`.
    #[default]
    SpringDeadLetter,
    /// Spring Kafka's retry topics (`@RetryableTopic`), and their dead-letter topic.
    SpringRetryTopic,
    /// Whatever else says where the original was: Spring Cloud Stream's Kafka binder, Karafka, Silverback, and what applications
    /// do by themselves.
    Original,
    /// Kafka Connect's `DeadLetterQueueReporter` (KIP-298).
    KafkaConnect,
    /// Kafka Streams (KIP-1034).
    KafkaStreams,
    /// The broker, for a share group (KIP-1191).
    ShareGroup,
    /// SmallRye Reactive Messaging (Quarkus), `dead-letter-queue`.
    SmallRye,
    /// SmallRye Reactive Messaging (Quarkus), `delayed-retry-topic`.
    SmallRyeRetry,
}

impl Convention {
    /// Conventions of one family share some headers: the group of Spring's retry topics is that of its dead letters.
    fn family(self) -> Convention {
        match self {
            Convention::SpringRetryTopic | Convention::Original => Convention::SpringDeadLetter,
            other => other,
        }
    }

    /// Writes its headers before those that the record had already; others write them behind.
    fn is_in_front(self) -> bool {
        matches!(self, Convention::SmallRye | Convention::SmallRyeRetry)
    }
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Topic,
    Partition,
    Offset,
    Timestamp,
    Group,
    Attempts,
    Due,
    Exception,
    Cause,
    Reason,
}

/// How a header says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    /// UTF-8.
    Text,
    /// A decimal number as text.
    Decimal,
    /// A two's complement number, big-endian, of one to eight bytes: Java's `ByteBuffer.putInt` and `putLong`, and the
    /// shortest form, `BigInteger.toByteArray`.
    Binary,
    /// Such a number of four bytes, or, where others than Spring write the same header, a decimal one as text. Four digits taken
    /// for such a number would be more than any partition's.
    Int,
    /// The same with eight bytes: eight digits would be more than any offset.
    Long,
}

use Encoding::{Binary, Decimal, Int, Long, Text};

/// The headers of one convention: their common beginning, and the rest of each name. A longer beginning comes before those
/// that it begins with.
struct Headers {
    prefix: &'static str,
    convention: Convention,
    fields: &'static [(&'static str, Field, Encoding)],
}

/// What is behind the beginnings that mean "original" ([`Convention::Original`]).
const ORIGINAL: &[(&str, Field, Encoding)] = &[
    ("topic", Field::Topic, Text),
    ("partition", Field::Partition, Int),
    ("offset", Field::Offset, Long),
    ("timestamp", Field::Timestamp, Long),
    ("consumer-group", Field::Group, Text),
    ("consumer-group-id", Field::Group, Text),
    ("consumer_group", Field::Group, Text),
];

#[rustfmt::skip]
const CONVENTIONS: &[Headers] = &[
    Headers { prefix: "kafka_dlt-", convention: Convention::SpringDeadLetter, fields: &[
        ("original-topic", Field::Topic, Text),
        ("original-partition", Field::Partition, Int),
        ("original-offset", Field::Offset, Long),
        ("original-timestamp", Field::Timestamp, Long),
        ("original-consumer-group", Field::Group, Text),
        ("exception-fqcn", Field::Exception, Text),
        ("exception-cause-fqcn", Field::Cause, Text),
        ("key-exception-fqcn", Field::Exception, Text),
    ] },
    Headers { prefix: "kafka_", convention: Convention::SpringRetryTopic, fields: &[
        ("original-topic", Field::Topic, Text),
        ("original-partition", Field::Partition, Int),
        ("original-offset", Field::Offset, Long),
        ("original-timestamp", Field::Timestamp, Long),
        ("exception-fqcn", Field::Exception, Text),
        ("exception-cause-fqcn", Field::Cause, Text),
    ] },
    Headers { prefix: "retry_topic-", convention: Convention::SpringRetryTopic, fields: &[
        ("attempts", Field::Attempts, Binary),
        ("original-timestamp", Field::Timestamp, Binary),
        ("backoff-timestamp", Field::Due, Binary),
    ] },
    // Spring Cloud Stream in binary, many applications as text.
    Headers { prefix: "x-original-", convention: Convention::Original, fields: ORIGINAL },
    Headers { prefix: "x-exception-", convention: Convention::Original, fields: &[("fqcn", Field::Exception, Text)] },
    // Applications.
    Headers { prefix: "original-", convention: Convention::Original, fields: ORIGINAL },
    Headers { prefix: "dlq-original-", convention: Convention::Original, fields: ORIGINAL },
    Headers { prefix: "dlq.original.", convention: Convention::Original, fields: ORIGINAL },
    Headers { prefix: "x-dlq-original-", convention: Convention::Original, fields: ORIGINAL },
    // Karafka, first and later versions.
    Headers { prefix: "original_", convention: Convention::Original, fields: ORIGINAL },
    Headers { prefix: "source_", convention: Convention::Original, fields: ORIGINAL },
    // Silverback.
    Headers { prefix: "x-source-", convention: Convention::Original, fields: ORIGINAL },
    Headers { prefix: "__connect.errors.", convention: Convention::KafkaConnect, fields: &[
        ("topic", Field::Topic, Text),
        ("partition", Field::Partition, Decimal),
        ("offset", Field::Offset, Decimal),
        ("connector.name", Field::Group, Text),
        ("stage", Field::Reason, Text),
        ("exception.class.name", Field::Exception, Text),
    ] },
    Headers { prefix: "__streams.errors.", convention: Convention::KafkaStreams, fields: &[
        ("topic", Field::Topic, Text),
        ("partition", Field::Partition, Decimal),
        ("offset", Field::Offset, Decimal),
        ("exception", Field::Exception, Text),
    ] },
    Headers { prefix: "__dlq.errors.", convention: Convention::ShareGroup, fields: &[
        ("topic", Field::Topic, Text),
        ("partition", Field::Partition, Decimal),
        ("offset", Field::Offset, Decimal),
        ("group", Field::Group, Text),
        ("delivery.count", Field::Attempts, Decimal),
        ("message", Field::Reason, Text),
    ] },
    Headers { prefix: "dead-letter-", convention: Convention::SmallRye, fields: &[
        ("topic", Field::Topic, Text),
        ("partition", Field::Partition, Decimal),
        ("offset", Field::Offset, Decimal),
        ("exception-class-name", Field::Exception, Text),
        ("cause-class-name", Field::Cause, Text),
    ] },
    Headers { prefix: "delayed-retry-", convention: Convention::SmallRyeRetry, fields: &[
        ("topic", Field::Topic, Text),
        ("partition", Field::Partition, Decimal),
        ("offset", Field::Offset, Decimal),
        ("original-timestamp", Field::Timestamp, Decimal),
        ("count", Field::Attempts, Decimal),
        ("exception-class-name", Field::Exception, Text),
        ("cause-class-name", Field::Cause, Text),
    ] },
];

/// What a header of this name means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meaning {
    convention: Convention,
    field: Field,
    encoding: Encoding,
}

impl Meaning {
    /// Of a header's name, in whatever case; `None` for all that say nothing of retries.
    pub fn of(name: &[u8]) -> Option<Meaning> {
        CONVENTIONS.iter().find_map(|headers| {
            let (prefix, suffix) = name.split_at_checked(headers.prefix.len())?;
            let is_it = |known: &str| known.as_bytes().eq_ignore_ascii_case(suffix);
            let fields = headers.fields.iter().filter(|_| headers.prefix.as_bytes().eq_ignore_ascii_case(prefix));
            let known = fields.into_iter().find(|(known, ..)| is_it(known));
            known.map(|&(_, field, encoding)| Meaning { convention: headers.convention, field, encoding })
        })
    }
}

/// Where a record was consumed that was then published again. Texts are as they were on the wire, at most [`LONGEST_TEXT`]
/// bytes; empty: not said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Who says so.
    pub convention: Convention,
    /// Its topic.
    pub topic: Vec<u8>,
    /// Its partition.
    pub partition: Option<i32>,
    /// Its offset.
    pub offset: Option<i64>,
    /// Its timestamp, in milliseconds since the epoch.
    pub timestamp: Option<i64>,
    /// The group that consumed it there; of Kafka Connect the connector.
    pub group: Vec<u8>,
}

impl Place {
    fn clear(&mut self, convention: Convention) {
        self.convention = convention;
        self.topic.clear();
        self.group.clear();
        (self.partition, self.offset, self.timestamp) = (None, None, None);
    }
}

/// What the headers of a record say of where it was before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Provenance {
    /// The place that is named first. Conventions that append (plain Spring) name each place, in order; those that do not name
    /// this one only.
    pub origin: Place,
    /// The place that is named last, if more than one is.
    later: Place,
    /// How many places are named; 0 if there are only headers about the failure.
    pub hops: u32,
    /// Who wrote the headers, where they name no place.
    convention: Convention,
    /// How often it was tried, as the convention counts.
    pub attempts: Option<i64>,
    /// Not to be tried again before, in milliseconds since the epoch.
    pub due: Option<i64>,
    /// The class of the exception; at most [`LONGEST_TEXT`] bytes, empty: not said.
    pub exception: Vec<u8>,
    /// The class of what caused it.
    pub cause: Vec<u8>,
    /// The broker's words (share groups), or the stage that failed (Kafka Connect).
    pub reason: Vec<u8>,
    /// Something was said.
    any: bool,
}

impl Provenance {
    /// Where it was consumed before it was published to where it is now, as far as its headers say.
    pub fn latest(&self) -> &Place {
        if self.hops > 1 && !self.origin.convention.is_in_front() { &self.later } else { &self.origin }
    }

    /// Who published the record again, the last time.
    pub fn convention(&self) -> Convention {
        if self.hops > 0 { self.latest().convention } else { self.convention }
    }

    /// Nothing was said.
    pub fn is_empty(&self) -> bool {
        !self.any
    }

    /// Forgets all, keeping the memory.
    pub fn clear(&mut self) {
        if self.any {
            self.origin.clear(Convention::default());
            self.later.clear(Convention::default());
            (self.hops, self.attempts, self.due, self.any) = (0, None, None, false);
            self.convention = Convention::default();
            self.exception.clear();
            self.cause.clear();
            self.reason.clear();
        }
    }

    /// Takes a header; `whole`: all of its value is there. One whose value cannot be read says nothing.
    pub fn header(&mut self, meaning: Meaning, value: &[u8], whole: bool) {
        let Ok(value) = Value::read(meaning.encoding, value, whole) else { return };
        self.any = true;
        self.convention = meaning.convention;
        match (meaning.field, value) {
            (Field::Attempts, Value::Number(number)) => self.attempts = Some(number),
            (Field::Due, Value::Number(number)) => self.due = Some(number),
            (Field::Exception, Value::Text(text)) => keep(&mut self.exception, text),
            (Field::Cause, Value::Text(text)) => keep(&mut self.cause, text),
            (Field::Reason, Value::Text(text)) => keep(&mut self.reason, text),
            (field, value) => return self.place(meaning.convention, field, value),
        }
        if meaning.convention == Convention::SpringRetryTopic {
            self.retried_by_spring();
        }
    }

    fn current(&mut self) -> &mut Place {
        if self.hops > 1 { &mut self.later } else { &mut self.origin }
    }

    /// Spring's first retry topics named the place as its dead letters do.
    fn retried_by_spring(&mut self) {
        let place = self.current();
        if place.convention == Convention::SpringDeadLetter {
            place.convention = Convention::SpringRetryTopic;
        }
    }

    /// A part of a place. The topic is named once in each, so that one that comes again is of the next.
    fn place(&mut self, convention: Convention, field: Field, value: Value<'_>) {
        let hops = self.hops;
        let current = self.current();
        let next = field == Field::Topic && !current.topic.is_empty();
        if hops == 0 || next || current.convention.family() != convention.family() {
            self.hops = hops.saturating_add(1);
            self.current().clear(convention);
        }
        let place = self.current();
        match (field, value) {
            (Field::Topic, Value::Text(text)) => keep(&mut place.topic, text),
            (Field::Group, Value::Text(text)) => keep(&mut place.group, text),
            (Field::Partition, Value::Number(number)) => place.partition = i32::try_from(number).ok(),
            (Field::Offset, Value::Number(number)) => place.offset = Some(number),
            (Field::Timestamp, Value::Number(number)) if place.timestamp.is_none() => place.timestamp = Some(number),
            _ => {}
        }
    }
}

fn keep(text: &mut Vec<u8>, value: &[u8]) {
    text.clear();
    text.extend_from_slice(value);
}

enum Value<'a> {
    Text(&'a [u8]),
    Number(i64),
}

impl<'a> Value<'a> {
    fn read(encoding: Encoding, value: &'a [u8], whole: bool) -> Result<Value<'a>, Malformed> {
        match encoding {
            Encoding::Text => Ok(Value::Text(value)),
            Encoding::Decimal if whole => decimal(value).map(Value::Number).ok_or(Malformed),
            Encoding::Binary if whole => binary(value).map(Value::Number).ok_or(Malformed),
            Encoding::Int if whole => number::<4>(value).map(Value::Number).ok_or(Malformed),
            Encoding::Long if whole => number::<8>(value).map(Value::Number).ok_or(Malformed),
            Encoding::Decimal | Encoding::Binary | Encoding::Int | Encoding::Long => Err(Malformed),
        }
    }
}

fn decimal(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Decimal text, or else a binary number of so many bytes.
fn number<const WIDTH: usize>(bytes: &[u8]) -> Option<i64> {
    decimal(bytes).or_else(|| binary(bytes).filter(|_| bytes.len() == WIDTH))
}

fn binary(bytes: &[u8]) -> Option<i64> {
    if !(1..=8).contains(&bytes.len()) {
        return None;
    }
    let sign = if bytes.first()? & 0x80 != 0 { -1 } else { 0 };
    Some(bytes.iter().fold(sign, |value, byte| value << 8 | i64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(headers: &[(&str, &[u8])]) -> Provenance {
        let mut provenance = Provenance::default();
        for (name, value) in headers {
            provenance.header(Meaning::of(name.as_bytes()).unwrap(), value, true);
        }
        provenance
    }

    #[test]
    fn every_name_of_the_table_is_found_and_short_enough() {
        let mut names = std::collections::HashSet::new();
        for headers in CONVENTIONS {
            for (suffix, field, encoding) in headers.fields {
                let name = format!("{}{suffix}", headers.prefix);
                let found = Meaning::of(name.as_bytes()).unwrap();
                let expected = Meaning { convention: headers.convention, field: *field, encoding: *encoding };
                assert_eq!(found, expected, "{name}");
                assert!(name.len() <= LONGEST_NAME && names.insert(name.clone()), "{name}");
            }
        }
        for other in ["", "kafka_", "kafka_dlt-exception-message", "x-original", "__TypeId__", "traceparent", "topic"] {
            assert_eq!(Meaning::of(other.as_bytes()), None, "{other}");
        }
        assert_eq!(Meaning::of(b"X-Original-Topic"), Meaning::of(b"x-original-topic"));
    }

    #[test]
    fn plain_spring_appends_the_first_place_is_the_origin() {
        let provenance = read(&[
            ("kafka_dlt-original-topic", b"orders"),
            ("kafka_dlt-original-partition", &3i32.to_be_bytes()),
            ("kafka_dlt-original-offset", &42i64.to_be_bytes()),
            ("kafka_dlt-original-timestamp", &1_700_000_000_000i64.to_be_bytes()),
            ("kafka_dlt-original-consumer-group", b"billing"),
            ("kafka_dlt-original-topic", b"orders-dlt"),
            ("kafka_dlt-original-partition", &0i32.to_be_bytes()),
            ("kafka_dlt-original-offset", &7i64.to_be_bytes()),
            ("kafka_dlt-original-topic", b"orders-dlt-dlt"),
            ("kafka_dlt-original-offset", &8i64.to_be_bytes()),
            ("kafka_dlt-exception-fqcn", b"org.springframework.kafka.listener.ListenerExecutionFailedException"),
            ("kafka_dlt-exception-cause-fqcn", b"java.lang.IllegalStateException"),
        ]);
        let origin = &provenance.origin;
        assert_eq!((&*origin.topic, origin.partition, origin.offset), (&b"orders"[..], Some(3), Some(42)));
        assert_eq!((&*origin.group, origin.timestamp), (&b"billing"[..], Some(1_700_000_000_000)));
        let latest = provenance.latest();
        assert_eq!((&*latest.topic, latest.partition, latest.offset), (&b"orders-dlt-dlt"[..], None, Some(8)));
        assert_eq!((provenance.hops, &*latest.group), (3, &b""[..]));
        assert_eq!(provenance.cause, b"java.lang.IllegalStateException");
        assert_eq!(provenance.convention(), Convention::SpringDeadLetter);
    }

    #[test]
    fn retry_topics_count_in_binary_of_any_length() {
        for attempts in [&2i32.to_be_bytes()[..], &[2]] {
            let provenance = read(&[
                ("kafka_original-topic", b"orders"),
                ("kafka_original-offset", &42i64.to_be_bytes()),
                ("kafka_dlt-original-consumer-group", b"billing"),
                ("retry_topic-attempts", attempts),
                ("retry_topic-original-timestamp", &[0x01, 0x8b, 0xcf, 0xe5, 0x68, 0x00]),
                ("retry_topic-backoff-timestamp", &[0x01, 0x8b, 0xcf, 0xe5, 0x6b, 0xe8]),
            ]);
            assert_eq!((provenance.attempts, provenance.due), (Some(2), Some(1_700_000_001_000)));
            assert_eq!((provenance.hops, provenance.origin.timestamp), (1, Some(1_700_000_000_000)));
            assert_eq!(
                (provenance.convention(), &*provenance.origin.group),
                (Convention::SpringRetryTopic, &b"billing"[..])
            );
        }
        let first_version = read(&[("kafka_dlt-original-topic", b"orders"), ("retry_topic-attempts", &[1])]);
        assert_eq!((first_version.convention(), first_version.hops), (Convention::SpringRetryTopic, 1));
        assert_eq!(binary(&[0xff]), Some(-1));
        assert_eq!(binary(&[0x00, 0x80]), Some(128));
        assert_eq!((binary(&[]), binary(&[0; 9])), (None, None));
    }

    #[test]
    fn the_others_write_decimal_text() {
        for prefix in ["__connect.errors.", "__streams.errors.", "__dlq.errors.", "dead-letter-", "delayed-retry-"] {
            let [topic, partition, offset] = ["topic", "partition", "offset"].map(|field| format!("{prefix}{field}"));
            let provenance = read(&[(&topic, b"orders"), (&partition, b"3"), (&offset, b"9223372036854775807")]);
            assert_eq!((provenance.hops, &*provenance.origin.topic), (1, &b"orders"[..]), "{prefix}");
            assert_eq!((provenance.origin.partition, provenance.origin.offset), (Some(3), Some(i64::MAX)), "{prefix}");
        }
        let share = read(&[
            ("__dlq.errors.group", b"workers"),
            ("__dlq.errors.delivery.count", b"5"),
            ("__dlq.errors.message", b"Offset delivery count exceeded the threshold."),
        ]);
        assert_eq!((&*share.origin.group, share.attempts), (&b"workers"[..], Some(5)));
        assert_eq!(share.reason, b"Offset delivery count exceeded the threshold.");
    }

    #[test]
    fn spring_cloud_stream_writes_binary_and_applications_text_under_the_same_names() {
        fn headers(partition: &[u8], offset: &[u8]) -> Provenance {
            read(&[
                ("x-original-topic", b"orders"),
                ("x-original-partition", partition),
                ("x-original-offset", offset),
                ("x-exception-fqcn", b"java.lang.IllegalStateException"),
            ])
        }
        let place = |provenance: &Provenance| (provenance.origin.partition, provenance.origin.offset);
        let binary = headers(&3i32.to_be_bytes(), &42i64.to_be_bytes());
        assert_eq!((place(&binary), binary.hops), ((Some(3), Some(42)), 1));
        assert_eq!(binary.exception, b"java.lang.IllegalStateException");
        assert_eq!(place(&headers(b"3", b"42")), (Some(3), Some(42)));
        assert_eq!(place(&headers(b"1024", b"12345678")), (Some(1024), Some(12_345_678)), "as wide as the binary ones");
        assert_eq!(place(&headers(b"p3", b"\0\x2a")), (None, None), "neither");
        let old_client = read(&[("kafka_dlt-original-topic", b"orders"), ("kafka_dlt-original-offset", b"42")]);
        assert_eq!(old_client.origin.offset, Some(42), "written by hand, as Spring would");
    }

    #[test]
    fn applications_and_smaller_frameworks_name_the_original() {
        for (topic, partition, offset, group) in [
            ("original-topic", "original-partition", "original-offset", "original-consumer-group"),
            ("dlq-original-topic", "dlq-original-partition", "dlq-original-offset", "dlq-original-consumer-group"),
            ("dlq.original.topic", "dlq.original.partition", "dlq.original.offset", "dlq.original.consumer-group"),
            (
                "X-DLQ-Original-Topic",
                "X-DLQ-Original-Partition",
                "X-DLQ-Original-Offset",
                "x-dlq-original-consumer-group",
            ),
            ("original_topic", "original_partition", "original_offset", "original_consumer_group"),
            ("source_topic", "source_partition", "source_offset", "source_consumer_group"),
            ("x-source-topic", "x-source-partition", "x-source-offset", "x-source-consumer-group-id"),
        ] {
            let provenance = read(&[(topic, b"orders"), (partition, b"3"), (offset, b"42"), (group, b"billing")]);
            let Place { convention, topic: of, partition, offset, group, .. } = &provenance.origin;
            assert_eq!((&**of, *partition, *offset, &**group), (&b"orders"[..], Some(3), Some(42), &b"billing"[..]));
            assert_eq!((*convention, provenance.hops), (Convention::Original, 1), "{topic}");
        }
    }

    #[test]
    fn smallrye_writes_in_front_the_first_place_is_the_latest() {
        let provenance = read(&[
            ("delayed-retry-exception-class-name", b"java.lang.IllegalStateException"),
            ("delayed-retry-topic", b"orders_retry_10000"),
            ("delayed-retry-partition", b"0"),
            ("delayed-retry-offset", b"7"),
            ("delayed-retry-topic", b"orders"),
            ("delayed-retry-partition", b"3"),
            ("delayed-retry-offset", b"42"),
        ]);
        let latest = provenance.latest();
        assert_eq!((&*latest.topic, latest.partition, latest.offset), (&b"orders_retry_10000"[..], Some(0), Some(7)));
        assert_eq!(provenance.convention(), Convention::SmallRyeRetry);
    }

    #[test]
    fn two_frameworks_on_one_record_are_two_places() {
        let provenance = read(&[
            ("__connect.errors.topic", b"orders"),
            ("__connect.errors.partition", b"1"),
            ("__connect.errors.stage", b"VALUE_CONVERTER"),
            ("dead-letter-exception-class-name", b"java.lang.RuntimeException"),
            ("dead-letter-partition", b"2"),
            ("dead-letter-topic", b"orders-connect-dlq"),
        ]);
        assert_eq!((&*provenance.origin.topic, provenance.origin.partition), (&b"orders"[..], Some(1)));
        let latest = provenance.latest();
        assert_eq!((&*latest.topic, latest.partition), (&b"orders-connect-dlq"[..], Some(2)));
        assert_eq!((latest.convention, provenance.hops), (Convention::SmallRye, 2));
    }

    #[test]
    fn values_that_cannot_be_read_say_nothing() {
        let mut provenance = read(&[("__dlq.errors.partition", b"many"), ("retry_topic-attempts", &[0; 9])]);
        assert!(provenance.is_empty());
        provenance.header(Meaning::of(b"__dlq.errors.offset").unwrap(), b"12", false);
        assert!(provenance.is_empty(), "what is cut is not a number");
        provenance.header(Meaning::of(b"__dlq.errors.partition").unwrap(), b"5000000000", true);
        assert_eq!(provenance.origin.partition, None);
        provenance.clear();
        assert_eq!(provenance, Provenance::default());
    }
}
