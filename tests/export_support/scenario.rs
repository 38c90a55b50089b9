//! A made-up day of a broker: messages with every kind of fate, as the lifecycle tells them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use acktrail::capture::Owner;
use acktrail::lifecycle::transition::{Attributes, Evidence, Reason, Settlement, State, Timings, Transition};
use acktrail::names::Name;
use acktrail::protocol::operation::{Identity, TraceContext};
use acktrail::time::Timestamp;

/// The broker's end, the producer's and the consumer's.
static SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5672);
static PRODUCER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 40_000);
static CONSUMER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 40_002);

/// When it begins.
pub const START: u64 = 1_795_357_867_000_000_000;
/// A millisecond.
pub const MS: u64 = 1_000_000;

/// The messages, by the last byte of their identity.
pub mod message {
    pub const ACKNOWLEDGED: u128 = 1;
    pub const RETRIED: u128 = 2;
    pub const DEAD: u128 = 3;
    pub const RETURNED: u128 = 4;
    pub const REFUSED: u128 = 5;
    pub const TRACED: u128 = 6;
    pub const SLOW: u128 = 7;
    pub const EXPIRED: u128 = 8;
    pub const REPLY: u128 = 9;
    pub const FAN_OUT: u128 = 10;
}

/// The context that the application gave to message TRACED.
pub const OWN_TRACE: TraceContext = TraceContext { trace_id: [0x4b; 16], span_id: [0x0f; 8], flags: 1 };

/// Identities are hashes: uniform in every bit.
pub fn identity(message: u128) -> Identity {
    let mut bytes = [0x5a; 16];
    bytes[8] = 0;
    bytes[15] = message as u8;
    Identity(u128::from_be_bytes(bytes))
}

/// The `message` field of a message.
pub fn hex(message: u128) -> String {
    format!("{:032x}", identity(message).0)
}

/// Names and processes of the day.
pub struct Scenario {
    exchange: Name,
    key: Name,
    queue: Name,
    other_queue: Name,
    dlq: Name,
    reply: Name,
    empty: Name,
    text: Name,
    producer: Owner,
    consumer: Owner,
}

impl Scenario {
    pub fn new() -> Scenario {
        Scenario {
            exchange: "shop".into(),
            key: "order.new".into(),
            queue: "billing".into(),
            other_queue: "audit".into(),
            dlq: "billing.dlq".into(),
            reply: "amq.gen-Jq0vX2".into(),
            empty: "".into(),
            text: "NO_ROUTE".into(),
            producer: Owner { pid: 1001, executable: "shop-api".into() },
            consumer: Owner { pid: 1002, executable: "billing-worker".into() },
        }
    }

    /// Tells it all, in order of time within each message.
    pub fn tell(&self, observe: &mut dyn FnMut(&Transition<'_>)) {
        self.acknowledged(message::ACKNOWLEDGED, 0, 4, None, observe);
        self.retried(observe);
        self.dead(observe);
        self.returned_and_refused(observe);
        self.acknowledged(message::TRACED, 500, 4, Some(&OWN_TRACE), observe);
        self.acknowledged(message::SLOW, 600, 20_000, None, observe);
        self.expired(observe);
        self.reply(observe);
        self.fan_out(observe);
        self.several_alike(observe);
    }

    fn published(&self, message: u128, at: u64, trace: Option<&'static TraceContext>) -> Transition<'_> {
        Transition {
            message: Some(identity(message)),
            attributes: Attributes {
                system: "rabbitmq",
                operation: Some("publish"),
                exchange: Some(&self.exchange),
                routing_key: Some(&self.key),
                body_size: Some(128),
                server: Some(&SERVER),
                client: Some(&PRODUCER),
                process: Some(&self.producer),
                trace,
                ..Attributes::default()
            },
            timings: Timings { created: Some(Timestamp(START + at * MS)), ..Timings::default() },
            ..Transition::new(Timestamp(START + at * MS), State::Created)
        }
    }

    /// The line of a delivery of a message that was published by `published`, in state Dispatched.
    fn delivered<'a>(&'a self, published: &Transition<'a>, at: u64, delivery: u32) -> Transition<'a> {
        let time = Timestamp(START + at * MS);
        Transition {
            time,
            state: State::Dispatched,
            previous: Some(if delivery == 1 { State::Created } else { State::Retrying }),
            delivery: Some(delivery),
            attributes: Attributes {
                operation: Some("deliver"),
                queue: Some(&self.queue),
                delivery_tag: Some(u64::from(delivery)),
                redelivered: Some(delivery > 1),
                client: Some(&CONSUMER),
                process: Some(&self.consumer),
                producer: Some(&self.producer),
                ..published.attributes
            },
            timings: Timings { dispatched: Some(time), ..published.timings },
            ..*published
        }
    }

    /// Moves a line on to its next state.
    fn next(line: &mut Transition<'_>, state: State, at: u64, reason: Option<Reason>) {
        line.time = Timestamp(START + at * MS);
        line.previous = Some(line.state);
        line.state = state;
        line.reason = reason;
        if state == State::Processing {
            line.timings.processing = Some(line.time);
        }
        if matches!(state, State::Acknowledged | State::Rejected) {
            line.attributes.settlement = Some(Settlement::Explicit);
            line.attributes.operation = Some(if state == State::Rejected { "reject" } else { "ack" });
        }
        if matches!(state, State::Failed | State::Rejected) {
            line.timings.first_failed.get_or_insert(line.time);
        }
    }

    /// Created, Confirmed 1 ms later, Dispatched after 2, Processing after 3, Acknowledged after `until` ms.
    fn acknowledged(
        &self,
        message: u128,
        at: u64,
        until: u64,
        trace: Option<&'static TraceContext>,
        observe: &mut dyn FnMut(&Transition<'_>),
    ) {
        let mut line = self.published(message, at, trace);
        observe(&line);
        Self::next(&mut line, State::Confirmed, at + 1, None);
        line.timings.confirmed = Some(line.time);
        observe(&line);
        let mut line = self.delivered(&line, at + 2, 1);
        observe(&line);
        Self::next(&mut line, State::Processing, at + 3, None);
        observe(&line);
        Self::next(&mut line, State::Acknowledged, at + until, None);
        observe(&line);
    }

    fn retried(&self, observe: &mut dyn FnMut(&Transition<'_>)) {
        let published = self.published(message::RETRIED, 100, None);
        observe(&published);
        let mut line = self.delivered(&published, 102, 1);
        observe(&line);
        Self::next(&mut line, State::Processing, 103, None);
        observe(&line);
        Self::next(&mut line, State::Failed, 110, Some(Reason::Requeued));
        observe(&line);
        let first_failed = line.timings.first_failed;
        Self::next(&mut line, State::Retrying, 110, Some(Reason::Requeued));
        observe(&line);
        let mut line = self.delivered(&published, 120, 2);
        line.timings.first_failed = first_failed;
        observe(&line);
        Self::next(&mut line, State::Processing, 121, None);
        observe(&line);
        Self::next(&mut line, State::Acknowledged, 130, None);
        observe(&line);
    }

    fn dead(&self, observe: &mut dyn FnMut(&Transition<'_>)) {
        let published = self.published(message::DEAD, 200, None);
        observe(&published);
        let mut line = self.delivered(&published, 202, 1);
        observe(&line);
        Self::next(&mut line, State::Processing, 203, None);
        observe(&line);
        Self::next(&mut line, State::Rejected, 210, Some(Reason::Rejected));
        observe(&line);
        Self::next(&mut line, State::DeadLettered, 210, Some(Reason::Rejected));
        line.evidence = Evidence::Inferred;
        line.attributes.operation = None;
        line.attributes.dead_letter_source = Some(&self.queue);
        line.attributes.dead_letter_destination = Some(&self.dlq);
        observe(&line);
        // Somebody drains the dead-letter queue.
        let mut line = self.delivered(&published, 220, 1);
        line.attributes.exchange = Some(&self.empty);
        line.attributes.routing_key = Some(&self.dlq);
        line.attributes.queue = Some(&self.dlq);
        line.previous = Some(State::DeadLettered);
        observe(&line);
        Self::next(&mut line, State::Acknowledged, 230, None);
        observe(&line);
    }

    fn returned_and_refused(&self, observe: &mut dyn FnMut(&Transition<'_>)) {
        let mut line = self.published(message::RETURNED, 300, None);
        observe(&line);
        Self::next(&mut line, State::Returned, 301, Some(Reason::Unroutable));
        line.attributes.error_code = Some(312);
        line.attributes.error_text = Some(&self.text);
        observe(&line);
        let mut line = self.published(message::REFUSED, 400, None);
        observe(&line);
        Self::next(&mut line, State::PublishFailed, 401, Some(Reason::Refused));
        observe(&line);
    }

    fn expired(&self, observe: &mut dyn FnMut(&Transition<'_>)) {
        let mut line = self.published(message::EXPIRED, 700, None);
        observe(&line);
        line.attributes = Attributes {
            operation: None,
            queue: Some(&self.queue),
            process: None,
            client: None,
            producer: Some(&self.producer),
            dead_letter_source: Some(&self.queue),
            dead_letter_destination: Some(&self.dlq),
            ..line.attributes
        };
        line.evidence = Evidence::Inferred;
        Self::next(&mut line, State::Expired, 1700, Some(Reason::Expired));
        observe(&line);
        Self::next(&mut line, State::DeadLettered, 1700, Some(Reason::Expired));
        observe(&line);
    }

    /// A reply to a generated queue, rejected; nobody confirms and the producer is on another host.
    fn reply(&self, observe: &mut dyn FnMut(&Transition<'_>)) {
        let mut published = self.published(message::REPLY, 800, None);
        published.attributes.process = None;
        published.attributes.exchange = Some(&self.empty);
        published.attributes.routing_key = Some(&self.reply);
        observe(&published);
        let mut line = self.delivered(&published, 802, 1);
        line.attributes.queue = Some(&self.reply);
        line.attributes.producer = None;
        observe(&line);
        Self::next(&mut line, State::Rejected, 810, Some(Reason::Rejected));
        observe(&line);
        Self::next(&mut line, State::Dropped, 810, Some(Reason::Rejected));
        observe(&line);
    }

    /// One message in two queues, failing in both.
    fn fan_out(&self, observe: &mut dyn FnMut(&Transition<'_>)) {
        let published = self.published(message::FAN_OUT, 900, None);
        observe(&published);
        for queue in [&self.queue, &self.other_queue] {
            let mut line = self.delivered(&published, 902, 1);
            line.attributes.queue = Some(queue);
            observe(&line);
            Self::next(&mut line, State::Failed, 910, Some(Reason::ConnectionLost));
            observe(&line);
        }
    }

    /// Three messages without identity, lost with their connection.
    fn several_alike(&self, observe: &mut dyn FnMut(&Transition<'_>)) {
        let mut published = self.published(0, 1000, None);
        (published.message, published.count) = (None, 3);
        published.timings = Timings::default();
        let mut line = self.delivered(&published, 1001, 1);
        line.delivery = None;
        observe(&line);
        Self::next(&mut line, State::Failed, 1010, Some(Reason::ChannelClosed));
        observe(&line);
    }
}
