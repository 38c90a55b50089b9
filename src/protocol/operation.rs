//! What a session says happened: the vocabulary between the protocols and the lifecycle.
//!
//! The words are broker-neutral. A *channel* is whatever settlements are numbered in (an AMQP channel, a Kafka group's
//! partition); a *tag* is a delivery's or a publish's number in it.

pub mod log;

use std::rc::Rc;

use crate::names::Name;
use crate::stream::{ConnectionId, Flow, Position};
use crate::time::Timestamp;

use super::Trouble;

/// An operation, with where and when it was seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// When the last byte of the deciding frame passed.
    pub time: Timestamp,
    /// On which connection.
    pub connection: ConnectionId,
    /// What.
    pub operation: Operation,
}

/// A channel, never used again: the incarnation changes each time the protocol opens the number anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelId {
    /// Its connection.
    pub connection: ConnectionId,
    /// Its number on the wire.
    pub number: u16,
    /// How often that number had been opened before on this connection.
    pub incarnation: u32,
}

/// Which deliveries, or publishes, of a channel a settlement speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tags {
    /// This one.
    One(u64),
    /// This one and everything outstanding before it.
    UpTo(u64),
    /// Everything outstanding.
    All,
}

impl Tags {
    /// Whether this one is among them.
    pub fn covers(self, tag: u64) -> bool {
        match self {
            Tags::One(one) => tag == one,
            Tags::UpTo(last) => tag <= last,
            Tags::All => true,
        }
    }
}

/// How a consumer, or the protocol for it, settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// basic.ack: done.
    Acknowledged,
    /// basic.reject with requeue=0: not again to this queue.
    RejectedByReject,
    /// basic.nack with requeue=0.
    RejectedByNack,
    /// basic.reject with requeue=1.
    RequeuedByReject,
    /// basic.nack with requeue=1 (quorum queues of RabbitMQ ≥ 4.3 do not count it as a failed delivery).
    RequeuedByNack,
    /// basic.recover: everything outstanding comes again.
    Recovered,
}

/// Who closed or cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// The application.
    Client,
    /// The broker.
    Broker,
}

/// A broker's error: its code and text (cleaned, capped).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerError {
    /// Reply code, such as 406.
    pub code: u16,
    /// Reply text as the broker gave it.
    pub text: Name,
    /// Class and method that caused it; (0, 0) if none.
    pub method: (u16, u16),
}

/// Where a message was published to: the words of a publish, also repeated in each delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Exchange; empty is the default exchange.
    pub exchange: Name,
    /// Routing key.
    pub routing_key: Name,
}

/// The identity of a message: the same on every host and in every run that sees the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity(pub u128);

/// What the identity was made from, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IdentitySource {
    /// The message-id property.
    MessageId,
    /// Trace context and fingerprint.
    TraceContext,
    /// Fingerprint of body and stable properties.
    Fingerprint,
}

/// W3C trace context found in a message's headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// trace-id, never all zero.
    pub trace_id: [u8; 16],
    /// parent-id, never all zero.
    pub span_id: [u8; 8],
    /// trace-flags.
    pub flags: u8,
}

/// One entry of `x-death`, most recent first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// The queue it died in.
    pub queue: Name,
    /// rejected, expired, maxlen or delivery_limit.
    pub reason: Name,
    /// How often it died there for that reason.
    pub count: u64,
    /// The exchange it had been published to.
    pub exchange: Name,
    /// The first of its routing keys.
    pub routing_key: Option<Name>,
    /// When it died there first, in seconds since the epoch, as the broker says.
    pub time_seconds: Option<u64>,
}

/// What a message's properties and headers say, besides its identity.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extras {
    /// Trace context.
    pub trace: Option<TraceContext>,
    /// correlation-id.
    pub correlation_id: Option<Name>,
    /// expiration, in milliseconds.
    pub expiration_ms: Option<u64>,
    /// x-death, most recent first.
    pub deaths: Vec<Death>,
    /// x-delivery-count (quorum queues).
    pub delivery_count: Option<u64>,
    /// x-acquired-count (quorum queues, RabbitMQ ≥ 4.3).
    pub acquired_count: Option<u64>,
    /// x-stream-offset.
    pub stream_offset: Option<u64>,
    /// The message has a CC header, or at its publish a BCC header, which the broker removes: it may be in queues that its
    /// routing key does not name.
    pub carbon_copies: bool,
}

/// A message as one publish or delivery shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Its identity; `None` where a hole took the content header, or the body of a message that has no id.
    pub identity: Option<Identity>,
    /// What the identity was made from.
    pub source: IdentitySource,
    /// A hash of body and correlation id alone: joins a copy that an application republished with changed headers.
    /// `None` where the body is missing.
    pub body: Option<u64>,
    /// Length of the body in bytes; `None` where a hole took the content header.
    pub body_size: Option<u64>,
    /// message-id, cleaned.
    pub message_id: Option<Name>,
    /// What most messages do not have.
    pub extras: Option<Box<Extras>>,
}

/// A queue's declaration, as far as it decides what becomes of messages.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueueArguments {
    /// x-dead-letter-exchange (`Some("")` is the default exchange).
    pub dead_letter_exchange: Option<Name>,
    /// x-dead-letter-routing-key.
    pub dead_letter_routing_key: Option<Name>,
    /// x-message-ttl in milliseconds.
    pub message_ttl_ms: Option<u64>,
    /// x-expires in milliseconds.
    pub expires_ms: Option<u64>,
    /// x-max-length.
    pub max_length: Option<u64>,
    /// x-max-length-bytes.
    pub max_length_bytes: Option<u64>,
    /// x-overflow: drop-head, reject-publish, reject-publish-dlx.
    pub overflow: Option<Name>,
    /// x-queue-type: classic, quorum, stream.
    pub queue_type: Option<Name>,
    /// x-delivery-limit; negative: none.
    pub delivery_limit: Option<i64>,
    /// x-single-active-consumer.
    pub single_active_consumer: bool,
    /// x-max-priority.
    pub max_priority: Option<u64>,
    /// It outlives the broker.
    pub durable: bool,
    /// Only this connection may use it, and it is deleted with the connection.
    pub exclusive: bool,
    /// It is deleted with its last consumer, once it has had one.
    pub auto_delete: bool,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// The session knows, or has learned more about, who speaks here. Comes before anything else of a connection.
    Session(Rc<SessionFacts>),
    /// A client published. `tag` counts from 1 since the channel's confirm.select; `None` without confirms, or where the
    /// count is not known (joined in the middle).
    Published {
        /// Where.
        channel: ChannelId,
        /// Number that a confirm will name.
        tag: Option<u64>,
        /// Exchange and routing key.
        destination: Destination,
        /// Ask for a return if unroutable.
        mandatory: bool,
        /// The message.
        message: Message,
    },
    /// The broker confirmed publishes of a channel (basic.ack from the broker).
    Confirmed {
        /// Where.
        channel: ChannelId,
        /// Which.
        tags: Tags,
        /// The tags were counted from an inferred base (joined in the middle).
        inferred: bool,
        /// The broker said so before, in frames that could not be matched then: whether one by one is not known any more.
        earlier: bool,
    },
    /// The broker refused publishes of a channel (basic.nack from the broker).
    PublishFailed {
        /// Where.
        channel: ChannelId,
        /// Which.
        tags: Tags,
        /// The tags were counted from an inferred base (joined in the middle).
        inferred: bool,
    },
    /// The client asked for everything outstanding again (basic.recover); that it was done, the broker says.
    RecoverAsked(ChannelId),
    /// Everything outstanding comes again. Not what a transaction has settled, which is committed, or rolled back, later: a
    /// recover itself is in none.
    Recovered {
        /// Where.
        channel: ChannelId,
        /// What the transaction has settled.
        spared: Vec<Tags>,
    },
    /// The broker answered for publishes whose tags are not known (joined in the middle, or after a gap), so that nobody can
    /// say which they were.
    UnmatchedConfirm {
        /// Where.
        channel: ChannelId,
        /// Which, as the broker counts.
        tags: Tags,
        /// It refused them.
        refused: bool,
    },
    /// The numbers of publishes that had none were inferred: the last `publishes` of this channel with `tag: None` count from
    /// `first` on, in their order. What the broker said of them before follows as [`Operation::PublishFailed`] and
    /// [`Operation::Confirmed`], both `inferred`.
    TagsLearned {
        /// Where.
        channel: ChannelId,
        /// The tag of the first of them.
        first: u64,
        /// How many.
        publishes: u64,
    },
    /// The broker gave a mandatory message back. Its confirm, if the channel has any, still follows.
    Returned {
        /// Where.
        channel: ChannelId,
        /// Why, such as 312 NO_ROUTE.
        error: BrokerError,
        /// Exchange and routing key.
        destination: Destination,
        /// The message.
        message: Message,
    },
    /// The broker handed a message to a consumer (basic.deliver, basic.get-ok).
    Delivered {
        /// Where.
        channel: ChannelId,
        /// The delivery tag.
        tag: u64,
        /// Consumer tag; `None` for basic.get.
        consumer: Option<Name>,
        /// The queue, where it is known.
        queue: Option<Name>,
        /// The delivery is settled by being sent. `None`: unknown (the consumer began before the capture); the settlement of
        /// one of its deliveries tells.
        automatic: Option<bool>,
        /// The broker's redelivered bit.
        redelivered: bool,
        /// Exchange and routing key of the publish (or of the last dead-lettering).
        destination: Destination,
        /// The message.
        message: Message,
        /// The flow that carried it.
        flow: Flow,
        /// Position behind its last byte: when the reader passes it, the application has the message.
        end: Position,
    },
    /// A consumer settled.
    Settled {
        /// Where.
        channel: ChannelId,
        /// Which deliveries.
        tags: Tags,
        /// How.
        outcome: Outcome,
    },
    /// The broker refused a settlement (406 unknown delivery tag). The channel's close follows as an operation of its own.
    SettleFailed {
        /// Where.
        channel: ChannelId,
        /// The tag that the broker named.
        tag: Option<u64>,
        /// Its error.
        error: BrokerError,
    },
    /// A channel opened.
    ChannelOpened(ChannelId),
    /// A channel ended: everything outstanding on it comes again. Also sent for each channel of a lost or closed connection.
    ChannelClosed {
        /// Which.
        channel: ChannelId,
        /// By whom; `None`: the connection was lost.
        by: Option<Peer>,
        /// The error, if it was one. For a connection's close it is the connection's.
        error: Option<BrokerError>,
        /// The whole connection ended.
        connection: bool,
    },
    /// A connection ended, and its channels before. Said once.
    ConnectionEnded {
        /// Who closed it; `None`: it was lost.
        by: Option<Peer>,
        /// The error, if it was one.
        error: Option<BrokerError>,
        /// The broker said so, or agreed: it has ended there as well.
        agreed: bool,
    },
    /// A consumer started, or the queue of one that began before the capture was learned (then `learned`).
    ConsumerStarted {
        /// Where.
        channel: ChannelId,
        /// Its tag.
        consumer: Name,
        /// Its queue.
        queue: Name,
        /// Deliveries are settled by being sent.
        automatic: Option<bool>,
        /// Not seen, but learned from what it was sent.
        learned: bool,
        /// The broker said that it started. A client may ask not to be answered; then it may have been refused as well.
        answered: bool,
    },
    /// A consumer ended: by itself, or because the broker cancelled it (queue deleted, node lost, ack timeout).
    ConsumerCancelled {
        /// Where.
        channel: ChannelId,
        /// Its tag.
        consumer: Name,
        /// Its queue, where known.
        queue: Option<Name>,
        /// By whom.
        by: Peer,
        /// The broker said so. A client may ask not to be answered; then the broker has still to hear of it.
        answered: bool,
    },
    /// A queue was declared (and the broker agreed).
    QueueDeclared {
        /// Its name, also where the broker chose it.
        queue: Name,
        /// What decides about its messages; `None` for a passive declare, which says nothing of them.
        arguments: Option<Box<QueueArguments>>,
        /// Messages ready in it, as the broker answered; `None` if the client asked not to be answered.
        messages: Option<u64>,
        /// Consumers of it, of whatever connection, as the broker answered.
        consumers: Option<u64>,
    },
    /// A queue was deleted, or purged of this many messages.
    QueueEmptied {
        /// Which.
        queue: Name,
        /// The queue itself is gone.
        deleted: bool,
        /// Messages that went with it, as the broker answered.
        messages: Option<u64>,
    },
    /// An exchange was declared.
    ExchangeDeclared {
        /// Which.
        exchange: Name,
        /// direct, fanout, topic, headers, x-…; `None` for a passive declare.
        kind: Option<Name>,
        /// alternate-exchange.
        alternate: Option<Name>,
    },
    /// An exchange was deleted.
    ExchangeDeleted {
        /// Which.
        exchange: Name,
    },
    /// A binding was made or removed.
    Binding {
        /// From this exchange.
        exchange: Name,
        /// To this queue, or exchange.
        target: Name,
        /// The target is an exchange.
        to_exchange: bool,
        /// Its key.
        routing_key: Name,
        /// Made (true) or removed.
        bound: bool,
        /// It has arguments (a headers exchange's match), which the routing inference does not follow.
        arguments: bool,
    },
    /// The application at this flow's receiving end has read everything before the position.
    Read {
        /// The flow that was read.
        flow: Flow,
        /// First byte that was read now. Where nothing was told of what lies before it, it was read earlier.
        from: Position,
        /// First byte not yet read.
        position: Position,
    },
    /// A transaction's end (tx.commit, tx.rollback). What it committed precedes it as operations of their own.
    Transaction {
        /// Where.
        channel: ChannelId,
        /// Committed or rolled back.
        committed: bool,
        /// Publishes in it.
        published: u64,
        /// Settlements in it.
        settled: u64,
    },
    /// The broker holds publishers back, or lets them go on (connection.blocked, unblocked).
    Blocked {
        /// Its reason; `None`: unblocked.
        reason: Option<Name>,
    },
    /// A hole took frames of a flow. Until something newer is seen, what was outstanding may have been settled unseen.
    Gap(Gap),
    /// Something that the session could not read; counted, skipped, and the session goes on.
    Trouble(Trouble),
    /// Something about a log.
    Log(log::LogOperation),
    /// The connection speaks something else, as far as its first bytes tell; said once, with
    /// [`Trouble::NotThisProtocol`].
    NotDecoded {
        /// What it looks like: `TLS`, `AMQP 1.0`, `MQTT`, `HTTP`, …, or `unknown`.
        protocol: &'static str,
    },
}

/// A hole that took whole frames, or may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The broker's frames were lost (deliveries, confirms) if true, the client's (publishes, settlements) if false.
    pub from_broker: bool,
    /// Only this channel's frames, where that is known.
    pub channel: Option<ChannelId>,
    /// Bytes that were lost; `None`: unknown.
    pub bytes: Option<u64>,
    /// How many deliveries of the channel were lost, where a jump of its tags told.
    pub deliveries: Option<u64>,
}

/// What is known of a session's two sides.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SessionFacts {
    /// The broker's kind: `rabbitmq`, `kafka`; empty while that is not known.
    pub system: &'static str,
    /// The client's flow; the other is the broker's.
    pub client_flow: Option<Flow>,
    /// Virtual host.
    pub vhost: Option<Name>,
    /// The connection's name as the client gave it (client property connection_name).
    pub client_name: Option<Name>,
    /// The client's product and version.
    pub client_product: Option<Name>,
    /// The broker's product and version.
    pub broker: Option<Name>,
    /// Joined in the middle.
    pub late: bool,
}
