//! What the lifecycle stage says: the vocabulary between the state machine and everything that shows it.

use std::net::SocketAddr;

use crate::capture::Owner;
use crate::names::Name;
use crate::protocol::operation::log::Batch;
use crate::protocol::operation::{ChannelId, Identity, TraceContext};
use crate::time::Timestamp;

/// The states of a message (`Created` to `Expired`), and of each of its deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the definitions of the design; docs/events.md describes each")]
pub enum State {
    Created,
    Confirmed,
    PublishFailed,
    Returned,
    Expired,
    Dispatched,
    Processing,
    Acknowledged,
    Rejected,
    Failed,
    Retrying,
    DeadLettered,
    Dropped,
}

impl State {
    /// All of them, in the order of a message's life.
    pub const ALL: [State; 13] = [
        State::Created,
        State::Confirmed,
        State::PublishFailed,
        State::Returned,
        State::Expired,
        State::Dispatched,
        State::Processing,
        State::Acknowledged,
        State::Rejected,
        State::Failed,
        State::Retrying,
        State::DeadLettered,
        State::Dropped,
    ];

    /// The name in every output.
    pub fn name(self) -> &'static str {
        match self {
            State::Created => "Created",
            State::Confirmed => "Confirmed",
            State::PublishFailed => "PublishFailed",
            State::Returned => "Returned",
            State::Expired => "Expired",
            State::Dispatched => "Dispatched",
            State::Processing => "Processing",
            State::Acknowledged => "Acknowledged",
            State::Rejected => "Rejected",
            State::Failed => "Failed",
            State::Retrying => "Retrying",
            State::DeadLettered => "DeadLettered",
            State::Dropped => "Dropped",
        }
    }
}

/// How a conclusion was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Evidence {
    /// The wire said so.
    Observed,
    /// It follows from what the wire said before (declarations, a lost connection), and later evidence may correct it.
    Inferred,
}

impl Evidence {
    /// The name in every output.
    pub fn name(self) -> &'static str {
        match self {
            Evidence::Observed => "observed",
            Evidence::Inferred => "inferred",
        }
    }
}

/// Why a message entered a state, where there is more to say than the state's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The consumer rejected it without requeue (basic.reject, basic.nack).
    Rejected,
    /// The consumer gave it back (requeue=1).
    Requeued,
    /// basic.recover.
    Recovered,
    /// Its time to live passed in the queue.
    Expired,
    /// The queue was full.
    Maxlen,
    /// The quorum queue's delivery limit was reached.
    DeliveryLimit,
    /// The connection ended with the delivery, or the confirm, outstanding.
    ConnectionLost,
    /// The channel ended with the delivery, or the confirm, outstanding.
    ChannelClosed,
    /// No queue was bound for it.
    Unroutable,
    /// The broker refused the publish (basic.nack).
    Refused,
    /// The exchange does not exist, or may not be written to.
    ExchangeRefused,
    /// A retry queue or topic took it, to bring it back later.
    RetryTopic,
    /// The application published it again elsewhere and settled the original.
    Republished,
    /// The queue was deleted with the message in it.
    QueueDeleted,
    /// The queue was purged.
    Purged,
    /// The consumer did not settle in the broker's time.
    AckTimeout,
    /// The partition was given to another member of the group, or anew to the same one.
    Rebalanced,
    /// The group's offset was set back.
    OffsetReset,
    /// The broker sent it again to those who had it, for a reason that the wire does not show.
    Refetched,
    /// Its transaction was aborted.
    Aborted,
}

impl Reason {
    /// All of them.
    pub const ALL: [Reason; 20] = [
        Reason::Rejected,
        Reason::Requeued,
        Reason::Recovered,
        Reason::Expired,
        Reason::Maxlen,
        Reason::DeliveryLimit,
        Reason::ConnectionLost,
        Reason::ChannelClosed,
        Reason::Unroutable,
        Reason::Refused,
        Reason::ExchangeRefused,
        Reason::RetryTopic,
        Reason::Republished,
        Reason::QueueDeleted,
        Reason::Purged,
        Reason::AckTimeout,
        Reason::Rebalanced,
        Reason::OffsetReset,
        Reason::Refetched,
        Reason::Aborted,
    ];

    /// The name in every output.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Rejected => "rejected",
            Reason::Requeued => "requeued",
            Reason::Recovered => "recovered",
            Reason::Expired => "expired",
            Reason::Maxlen => "maxlen",
            Reason::DeliveryLimit => "delivery_limit",
            Reason::ConnectionLost => "connection_lost",
            Reason::ChannelClosed => "channel_closed",
            Reason::Unroutable => "unroutable",
            Reason::Refused => "refused",
            Reason::ExchangeRefused => "exchange_refused",
            Reason::RetryTopic => "retry_topic",
            Reason::Republished => "republished",
            Reason::QueueDeleted => "queue_deleted",
            Reason::Purged => "purged",
            Reason::AckTimeout => "ack_timeout",
            Reason::Rebalanced => "rebalanced",
            Reason::OffsetReset => "offset_reset",
            Reason::Refetched => "refetched",
            Reason::Aborted => "aborted",
        }
    }
}

/// How a delivery was settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Settlement {
    /// By a settlement that named it.
    Explicit,
    /// By one that covered it and others.
    Multiple,
    /// By being sent (no-ack consumers).
    Automatic,
}

impl Settlement {
    /// The name in every output.
    pub fn name(self) -> &'static str {
        match self {
            Settlement::Explicit => "explicit",
            Settlement::Multiple => "multiple",
            Settlement::Automatic => "automatic",
        }
    }
}

/// One transition of one message, or of `count` messages alike. Borrows from the state machine's tables: whoever wants to
/// keep it renders or copies what is needed.
#[derive(Clone, Copy, Debug)]
pub struct Transition<'a> {
    /// When the deciding byte passed the socket.
    pub time: Timestamp,
    /// The state entered.
    pub state: State,
    /// The state left.
    pub previous: Option<State>,
    /// Observed or inferred.
    pub evidence: Evidence,
    /// Twins without identity were matched first in, first out.
    pub ambiguous: bool,
    /// The state that this line takes back.
    pub corrects: Option<State>,
    /// Why.
    pub reason: Option<Reason>,
    /// The channel whose end, still to be seen, says why.
    pub awaits: Option<ChannelId>,
    /// How many messages; at least 1.
    pub count: u64,
    /// The message's identity, where it is known.
    pub message: Option<Identity>,
    /// 1 for the first delivery of this message in this queue.
    pub delivery: Option<u32>,
    /// The attributes that apply.
    pub attributes: Attributes<'a>,
    /// The times of what went before.
    pub timings: Timings,
}

impl Transition<'_> {
    /// One message enters a state, observed, and nothing more is known of it.
    pub fn new(time: Timestamp, state: State) -> Self {
        Transition {
            time,
            state,
            previous: None,
            evidence: Evidence::Observed,
            ambiguous: false,
            corrects: None,
            reason: None,
            awaits: None,
            count: 1,
            message: None,
            delivery: None,
            attributes: Attributes::default(),
            timings: Timings::default(),
        }
    }

    /// How many deliveries more, or less, are in somebody's hands now.
    pub fn in_flight_change(&self) -> i64 {
        // The publish of a copy goes on from the original's state, but ends no delivery of it.
        if matches!(self.state, State::Created | State::Confirmed | State::PublishFailed | State::Returned) {
            return 0;
        }
        // A consumer without a group settles nothing, so that nothing of it would ever leave.
        if self.attributes.topic.is_some() && self.attributes.group.is_none() {
            return 0;
        }
        let holds = |state: State| matches!(state, State::Dispatched | State::Processing);
        let count = i64::try_from(self.count).unwrap_or(i64::MAX);
        match (self.previous.is_some_and(holds), holds(self.state)) {
            (false, true) => count,
            (true, false) => -count,
            _ => 0,
        }
    }
}

/// Attributes of a transition or event; what does not apply is `None`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attributes<'a> {
    /// messaging.system: `rabbitmq`, `kafka`.
    pub system: &'static str,
    /// messaging.operation.name: publish, deliver, get, ack, nack, reject, …: the wire's own word.
    pub operation: Option<&'static str>,
    /// Exchange; empty is the default exchange.
    pub exchange: Option<&'a Name>,
    /// Routing key.
    pub routing_key: Option<&'a Name>,
    /// The queue that a delivery, settlement or dead letter belongs to.
    pub queue: Option<&'a Name>,
    /// The topic of a log.
    pub topic: Option<&'a Name>,
    /// Its partition.
    pub partition: Option<i32>,
    /// The first and the last offset of the range that a line speaks of.
    pub offsets: Option<(i64, i64)>,
    /// The consumer group.
    pub group: Option<&'a Name>,
    /// What was appended or handed out together, with what the line speaks of: on the first line about a batch that is produced or
    /// confirmed, and on all about messages that are handed out. Offsets are those in the log, once they are known.
    pub batches: &'a [Batch],
    /// Nobody answers for what is produced (acks=0).
    pub unanswered: bool,
    /// When the request was sent that a settlement is the answer to.
    pub requested: Option<Timestamp>,
    /// How many messages that group is behind in that partition.
    pub lag: Option<u64>,
    /// Virtual host.
    pub vhost: Option<&'a Name>,
    /// message-id.
    pub message_id: Option<&'a Name>,
    /// correlation-id.
    pub conversation_id: Option<&'a Name>,
    /// Body size in bytes.
    pub body_size: Option<u64>,
    /// The client's name for its connection.
    pub client_id: Option<&'a Name>,
    /// Consumer tag.
    pub consumer_tag: Option<&'a Name>,
    /// Delivery tag.
    pub delivery_tag: Option<u64>,
    /// The broker's redelivered bit.
    pub redelivered: Option<bool>,
    /// How it was settled.
    pub settlement: Option<Settlement>,
    /// Offset in a stream queue.
    pub stream_offset: Option<u64>,
    /// The queue that the message died in.
    pub dead_letter_source: Option<&'a Name>,
    /// The queue that took it, or `exchange:routing key` where the queue is not known.
    pub dead_letter_destination: Option<&'a Name>,
    /// The partition of a log that took its copy.
    pub dead_letter_partition: Option<i32>,
    /// The copy's offset there.
    pub dead_letter_offset: Option<i64>,
    /// error.type: the broker's code.
    pub error_code: Option<i32>,
    /// The broker's text, or the class of the exception that a copy's headers name.
    pub error_text: Option<&'a Name>,
    /// The broker's end.
    pub server: Option<&'a SocketAddr>,
    /// The application's end.
    pub client: Option<&'a SocketAddr>,
    /// The application's process, where it is on this host.
    pub process: Option<&'a Owner>,
    /// The process that published the message, on the lines of its deliveries and of its fate, where that is known.
    pub producer: Option<&'a Owner>,
    /// The message's own trace context.
    pub trace: Option<&'a TraceContext>,
}

impl<'a> Attributes<'a> {
    /// The queue, or what stands for one in a log: the consumer group.
    pub fn queue_or_group(&self) -> Option<&'a Name> {
        self.queue.or(self.group)
    }
}

/// When the earlier steps of a message, and of the delivery at hand, happened. What was not seen is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Created.
    pub created: Option<Timestamp>,
    /// Confirmed.
    pub confirmed: Option<Timestamp>,
    /// This delivery's Dispatched.
    pub dispatched: Option<Timestamp>,
    /// This delivery's Processing, if that was observed.
    pub processing: Option<Timestamp>,
    /// The first Failed or Rejected of this message in this queue; equal to the line's own time on that very line.
    pub first_failed: Option<Timestamp>,
}

/// Something about a connection, a channel or a broker's answer that is no message state.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// When.
    pub time: Timestamp,
    /// What: one of the names in docs/events.md.
    pub name: &'static str,
    /// How many messages, settlements or bytes it speaks of, where it speaks of some.
    pub count: Option<u64>,
    /// More, in words.
    pub detail: Option<&'a str>,
    /// Observed or inferred.
    pub evidence: Evidence,
    /// The attributes that apply.
    pub attributes: Attributes<'a>,
}

impl Event<'_> {
    /// How many deliveries the lifecycle gave up on, which have no end of their own: 0 or less.
    pub fn in_flight_change(&self) -> i64 {
        let of_deliveries = self.attributes.consumer_tag.is_some() || self.attributes.delivery_tag.is_some();
        match matches!(self.name, "evicted" | "fate_unknown") && self.attributes.queue.is_some() && of_deliveries {
            true => -i64::try_from(self.count.unwrap_or(1)).unwrap_or(i64::MAX),
            false => 0,
        }
    }
}

/// Who listens to the state machine.
pub trait Observer {
    /// A message entered a state.
    fn transition(&mut self, transition: &Transition<'_>);
    /// Something else happened.
    fn event(&mut self, event: &Event<'_>);
    /// What transitions that wait for it ([`Transition::awaits`]) are told of a channel's end: `None` where nobody will know.
    fn explained(&mut self, _channel: ChannelId, _why: Option<Why>) {}
    /// What lines called a destination so far, for want of its name, is called by that from now on.
    fn renamed(&mut self, _from: &Name, _to: &Name) {}
}

/// Why a channel took its deliveries along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Why {
    /// In a word.
    pub reason: Reason,
    /// error.type: the broker's code.
    pub error_code: Option<i32>,
}
