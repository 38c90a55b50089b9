//! Whether one list of operations knows nothing that another does not.

use std::collections::BTreeSet;

use acktrail::protocol::operation::{ChannelId, Message, Operation, Tags};

/// The operation with positions taken out, which depend on where the sequence numbers begin.
pub fn without_position(operation: &Operation) -> Operation {
    let mut operation = operation.clone();
    if let Operation::Delivered { end, .. } = &mut operation {
        *end = 0;
    }
    operation
}

/// Checks that each operation found is one of those expected, each of which counts once, with nothing added to it.
///
/// `client_hole`: the client's frames have holes. Then publishes' tags may be inferred, and are not compared; and what was
/// published or settled on the channels in `transacted` may never have been committed, for nobody can know of a transaction
/// whose beginning was lost.
pub fn is_part_of(
    found: &[Operation],
    expected: &[Operation],
    client_hole: bool,
    transacted: &BTreeSet<u16>,
) -> Result<(), String> {
    let mut free: Vec<Option<&Operation>> = expected.iter().map(Some).collect();
    for operation in found {
        let uncommitted = match operation {
            Operation::Published { channel, .. } | Operation::Settled { channel, .. } => {
                client_hole && transacted.contains(&channel.number)
            }
            _ => false,
        };
        if uncommitted || says_nothing_of_messages(operation) {
            continue;
        }
        let fits = |other: &Operation| knows_no_more(operation, other, client_hole);
        if client_hole && is_confirmed(operation, expected) {
            continue;
        }
        // Said again when something of the client's became known only after its channel was closed.
        if matches!(operation, Operation::ChannelClosed { .. }) && expected.iter().any(fits) {
            continue;
        }
        // Learned from a delivery; its basic.consume, found late between two holes, is told as well.
        if matches!(operation, Operation::ConsumerStarted { learned: true, .. }) && expected.iter().any(fits) {
            continue;
        }
        let place = free.iter().position(|other| other.is_some_and(fits));
        match place {
            Some(place) => free[place] = None,
            None => return Err(format!("made up: {operation:?}")),
        }
    }
    Ok(())
}

/// Whether an answer for publishes whose count was seen is, or is part of, an answer expected. After a hole the part that was
/// counted is told apart from the rest. What was inferred says so, and may be wrong.
fn is_confirmed(found: &Operation, expected: &[Operation]) -> bool {
    use Operation as O;
    let covers = |channel: &ChannelId, tags: &Tags, by: &ChannelId, full: &Tags| {
        same(channel, by)
            && match (tags, full) {
                (Tags::UpTo(tag), Tags::UpTo(last)) => tag <= last,
                (tags, full) => tags == full,
            }
    };
    match found {
        O::Confirmed { inferred: true, .. } | O::PublishFailed { inferred: true, .. } => true,
        O::Confirmed { channel, tags, .. } => expected
            .iter()
            .any(|other| matches!(other, O::Confirmed { channel: c, tags: t, .. } if covers(channel, tags, c, t))),
        O::PublishFailed { channel, tags, .. } => expected
            .iter()
            .any(|other| matches!(other, O::PublishFailed { channel: c, tags: t, .. } if covers(channel, tags, c, t))),
        _ => false,
    }
}

/// What a hole itself brings about.
fn says_nothing_of_messages(operation: &Operation) -> bool {
    match operation {
        Operation::Gap(_)
        | Operation::Trouble(_)
        | Operation::Session(_)
        | Operation::UnmatchedConfirm { .. }
        | Operation::TagsLearned { .. } => true,
        // A channel whose end was lost, told by its number's next use, or by the connection's end.
        Operation::ChannelClosed { by: None, .. } => true,
        Operation::ChannelClosed { connection: true, .. } => true,
        // That it was closed, and in order, may be in the hole; but not that the broker agreed.
        Operation::ConnectionEnded { agreed: false, .. } => true,
        // A channel whose opening was lost, told by its tags.
        Operation::ChannelOpened(_) => true,
        _ => false,
    }
}

fn knows_no_more(found: &Operation, expected: &Operation, client_hole: bool) -> bool {
    use Operation as O;
    match (found, expected) {
        (O::ConnectionEnded { by, error, agreed: true }, O::ConnectionEnded { by: b, error: e, agreed: true }) => {
            by == b && part(error, e)
        }
        (
            O::Published { channel, tag, destination, mandatory, message },
            O::Published { channel: c, tag: t, destination: d, mandatory: m, message: full },
        ) => {
            same(channel, c)
                && (client_hole || part(tag, t))
                && (destination, mandatory) == (d, m)
                && message_part(message, full)
        }
        (
            O::Delivered { channel, tag, consumer, queue, automatic, redelivered, destination, message, flow, end },
            O::Delivered {
                channel: c,
                tag: t,
                consumer: k,
                queue: q,
                automatic: a,
                redelivered: r,
                destination: d,
                message: full,
                flow: f,
                end: e,
            },
        ) => {
            same(channel, c)
                && (tag, consumer, redelivered, destination, flow) == (t, k, r, d, f)
                && part(queue, q)
                && part(automatic, a)
                && message_part(message, full)
                && end <= e
        }
        (
            O::Returned { channel, error, destination, message },
            O::Returned { channel: c, error: e, destination: d, message: full },
        ) => same(channel, c) && (error, destination) == (e, d) && message_part(message, full),
        (O::Settled { channel, tags, outcome }, O::Settled { channel: c, tags: t, outcome: o }) => {
            same(channel, c) && (tags, outcome) == (t, o)
        }
        (O::Confirmed { channel, tags, .. }, O::Confirmed { channel: c, tags: t, .. })
        | (O::PublishFailed { channel, tags, .. }, O::PublishFailed { channel: c, tags: t, .. }) => {
            same(channel, c) && tags == t
        }
        (O::SettleFailed { channel, tag, error }, O::SettleFailed { channel: c, tag: t, error: e }) => {
            same(channel, c) && (tag, error) == (t, e)
        }
        (
            O::ChannelClosed { channel, by, error, connection },
            O::ChannelClosed { channel: c, by: b, error: e, connection: n },
        ) => same(channel, c) && by == b && part(error, e) && connection == n,
        (
            O::ConsumerStarted { channel, consumer, queue, automatic, .. },
            O::ConsumerStarted { channel: c, consumer: k, queue: q, automatic: a, .. },
        ) => same(channel, c) && (consumer, queue) == (k, q) && part(automatic, a),
        (
            O::ConsumerCancelled { channel, consumer, queue, by, .. },
            O::ConsumerCancelled { channel: c, consumer: k, queue: q, by: b, .. },
        ) => same(channel, c) && (consumer, by) == (k, b) && part(queue, q),
        (
            O::QueueDeclared { queue, arguments, messages, consumers },
            O::QueueDeclared { queue: q, arguments: a, messages: m, consumers: n },
        ) => queue == q && part(arguments, a) && part(messages, m) && part(consumers, n),
        // How many operations a transaction held depends on which of them were seen.
        (O::Transaction { channel, committed, .. }, O::Transaction { channel: c, committed: d, .. }) => {
            same(channel, c) && committed == d
        }
        (found, expected) => found == expected,
    }
}

/// The same number: after a hole it need not be known how often it had been opened.
fn same(found: &ChannelId, expected: &ChannelId) -> bool {
    found.number == expected.number
}

fn part<T: PartialEq>(found: &Option<T>, expected: &Option<T>) -> bool {
    found.is_none() || found == expected
}

fn message_part(found: &Message, expected: &Message) -> bool {
    let source = found.identity.is_none() || found.source == expected.source;
    source
        && part(&found.identity, &expected.identity)
        && part(&found.body, &expected.body)
        && part(&found.body_size, &expected.body_size)
        && part(&found.message_id, &expected.message_id)
        && (found.extras.is_none() || found.extras == expected.extras)
}
