//! Trace ids and span ids, the same in every agent that sees the same message, and the decision to sample.

use xxhash_rust::xxh3::Xxh3;

use crate::lifecycle::transition::{Attributes, Transition};
use crate::protocol::operation::log::Batch;
use crate::protocol::operation::{Identity, TraceContext};

/// A span's ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanContext {
    /// Trace id, never all zero.
    pub trace_id: [u8; 16],
    /// Span id, never all zero.
    pub span_id: [u8; 8],
}

/// What a span is to its message. Each has ids of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The publish.
    Publish,
    /// A delivery.
    Process,
    /// The broker's move to a dead-letter queue.
    DeadLetter,
    /// An application's publish of a copy, which shares the original's identity.
    Republish,
    /// A consumer's fetch.
    Poll,
    /// A settlement.
    Settle,
    /// An application's copy of a message to a topic that it is tried again from.
    Retry,
}

/// What was appended to a log together: where, and its first message's timestamp as its producer wrote it, which tells apart
/// topics of one name.
pub(super) fn batch_identity(topic: &str, partition: i32, batch: &Batch) -> Identity {
    hashed("batch", topic, partition, &[batch.first, batch.timestamp.unwrap_or(-1)])
}

/// One message of a log that has a context of its own.
pub(super) fn record_identity(topic: &str, partition: i32, offset: i64, own: &TraceContext) -> Identity {
    let [trace_high, trace_low] = [&own.trace_id[..8], &own.trace_id[8..]].map(number);
    hashed("record", topic, partition, &[offset, trace_high, trace_low, number(&own.span_id)])
}

/// What a group was handed, or did, at once: how often it was handed it, and a number that other topics of this name do not have.
pub(super) fn range_identity(
    (topic, partition): (&str, i32),
    group: &str,
    (first, last): (i64, i64),
    delivery: u32,
    salt: u64,
) -> Identity {
    let numbers = [first, last, i64::from(delivery), salt.cast_signed()];
    hashed(&format!("range\0{group}"), topic, partition, &numbers)
}

fn number(bytes: &[u8]) -> i64 {
    bytes.iter().fold(0, |number, byte| number << 8 | i64::from(*byte))
}

fn hashed(kind: &str, topic: &str, partition: i32, numbers: &[i64]) -> Identity {
    let mut hash = Xxh3::new();
    hash.update(kind.as_bytes());
    hash.update(&[0]);
    hash.update(topic.as_bytes());
    hash.update(&[0]);
    hash.update(&partition.to_be_bytes());
    for number in numbers {
        hash.update(&number.to_be_bytes());
    }
    Identity(hash.digest128().max(1))
}

/// The trace of a message: its own if it carries a context, else its identity, so that the trace id is the `message` of the
/// JSON lines.
pub fn trace_id(identity: Identity, own: Option<&TraceContext>) -> [u8; 16] {
    match own {
        Some(context) => context.trace_id,
        None => identity.0.max(1).to_be_bytes(),
    }
}

/// The id of a message's span in a role; `queue` and `delivery` are those of a delivery or dead letter; of a copy, `queue` is
/// its destination; else they are empty and 0.
pub fn span_id(identity: Identity, role: Role, queue: &str, delivery: u32) -> [u8; 8] {
    let mut hash = Xxh3::new();
    hash.update(&identity.0.to_be_bytes());
    hash.update(&[role as u8]);
    hash.update(&delivery.to_be_bytes());
    hash.update(queue.as_bytes());
    hash.digest().max(1).to_be_bytes()
}

/// The context that everything made of this message links to: the application's own, else that of our span of the publish.
pub fn creation_context(identity: Identity, own: Option<&TraceContext>) -> SpanContext {
    match own {
        Some(context) => SpanContext { trace_id: context.trace_id, span_id: context.span_id },
        None => publish_context(identity, None),
    }
}

/// The context of our span of the publish.
pub(super) fn publish_context(identity: Identity, own: Option<&TraceContext>) -> SpanContext {
    SpanContext { trace_id: trace_id(identity, own), span_id: span_id(identity, Role::Publish, "", 0) }
}

/// The identity of a line, or for one without (holes, several messages alike) a number that no other line has.
pub(super) fn identity_of(line: &Transition<'_>) -> Identity {
    line.message.unwrap_or_else(|| {
        let Attributes { server, client, delivery_tag, queue, .. } = &line.attributes;
        let mut hash = Xxh3::new();
        hash.update(&line.time.0.to_be_bytes());
        hash.update(format!("{server:?} {client:?} {delivery_tag:?}").as_bytes());
        hash.update(queue.map_or("", |queue| &**queue).as_bytes());
        Identity(hash.digest128().max(1))
    })
}

/// The rejection threshold of a ratio: an id is sampled if its lowest 56 bits reach it (OpenTelemetry specification,
/// trace/tracestate-probability-sampling.md).
pub(super) fn threshold(ratio: f64) -> u64 {
    let whole = (1u64 << 56) as f64;
    let rejected = whole * (1.0 - if ratio.is_nan() { 0.0 } else { ratio.clamp(0.0, 1.0) });
    rejected as u64
}

/// The bits of a line's trace id that decide about its sampling.
pub(super) fn randomness(line: &Transition<'_>, identity: Identity) -> u64 {
    match line.attributes.trace {
        Some(context) => u128::from_be_bytes(context.trace_id) as u64,
        None => identity.0 as u64,
    }
}

/// Whether an id with these bits is sampled.
pub(super) fn reaches(randomness: u64, threshold: u64) -> bool {
    randomness & ((1 << 56) - 1) >= threshold
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_take_all_none_and_a_share() {
        assert_eq!(threshold(1.0), 0);
        assert_eq!(threshold(7.0), 0);
        for none in [0.0, -1.0, f64::NAN] {
            assert_eq!(threshold(none), 1 << 56);
        }
        assert_eq!(threshold(0.25), 3 << 54);
    }

    #[test]
    fn ids_are_never_zero_and_differ_by_role_queue_and_delivery() {
        assert_ne!(trace_id(Identity(0), None), [0; 16]);
        let ids = [
            span_id(Identity(1), Role::Publish, "", 0),
            span_id(Identity(2), Role::Publish, "", 0),
            span_id(Identity(1), Role::Process, "", 0),
            span_id(Identity(1), Role::Process, "q", 1),
            span_id(Identity(1), Role::Process, "q", 2),
            span_id(Identity(1), Role::Process, "p", 1),
            span_id(Identity(1), Role::DeadLetter, "q", 1),
        ];
        let unique: std::collections::HashSet<_> = ids.iter().collect();
        assert_eq!(unique.len(), ids.len());
        // Other agents, and other versions, have to come to the same ids.
        assert_eq!(ids[0], 0x069b_7041_a35e_d739_u64.to_be_bytes());
    }
}
