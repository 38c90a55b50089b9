//! Conversations, and what a session makes of them. Each line of a transcript is one operation.

use std::fmt::Write as _;

use super::encode as wire;
use crate::protocol::operation::{Message, Observed, Operation, Tags};
use crate::protocol::{Limits, Sessions};
use crate::stream::{ConnectionId, End, Event, Facts, Flow, HoleCause, Position};
use crate::time::Timestamp;

const CONNECTION: ConnectionId = ConnectionId(7);

/// Both ends of a connection, writing; time moves on by a millisecond with each packet.
struct Talk {
    sessions: Sessions,
    positions: [Position; 2],
    now: u64,
    operations: Vec<Observed>,
}

impl Talk {
    fn new(from_start: bool) -> Talk {
        let mut talk = Talk {
            sessions: Sessions::new(Limits::default()),
            positions: [1000, 2000],
            now: 0,
            operations: Vec::new(),
        };
        let end = |port| End { address: ([127, 0, 0, 1], port).into(), owner: None, local: true, reads_seen: true };
        let facts = Facts { ends: [end(40_000), end(5672)], roles_known: true, from_start };
        talk.sessions.handle_event(&Event::Facts(CONNECTION, &facts), &mut talk.operations);
        talk
    }

    /// A connection that is open, with channel 1 open on it; what led to that is forgotten.
    fn open() -> Talk {
        let mut talk = Talk::new(true);
        talk.log_in();
        talk.client(&wire::channel_open(1)).broker(&wire::channel_open_ok(1));
        talk.lines();
        talk
    }

    fn log_in(&mut self) {
        self.client(wire::PREFACE).broker(&wire::start()).client(&wire::start_ok("app", "secret"));
        self.broker(&wire::tune(10, 8192)).client(&[wire::tune_ok(10, 8192), wire::open("/")].concat());
        self.broker(&wire::open_ok());
    }

    fn time(&mut self) -> Timestamp {
        self.now += 1;
        Timestamp(self.now * 1_000_000)
    }

    fn send(&mut self, flow: Flow, bytes: &[u8], packet_start: bool) {
        let (connection, position, time) = (CONNECTION, self.positions[flow.index()], self.time());
        self.positions[flow.index()] += bytes.len() as u64;
        let event = Event::Data { connection, flow, position, time, bytes, packet_start };
        self.sessions.handle_event(&event, &mut self.operations);
    }

    fn client(&mut self, bytes: &[u8]) -> &mut Talk {
        self.send(Flow::Forward, bytes, true);
        self
    }

    fn broker(&mut self, bytes: &[u8]) -> &mut Talk {
        self.send(Flow::Backward, bytes, true);
        self
    }

    fn hole(&mut self, flow: Flow, length: u64) -> &mut Talk {
        let (connection, position, time) = (CONNECTION, self.positions[flow.index()], self.time());
        self.positions[flow.index()] += length;
        let cause = HoleCause::RingFull;
        let event = Event::Hole { connection, flow, position, length: Some(length), time, cause };
        self.sessions.handle_event(&event, &mut self.operations);
        self
    }

    fn client_loses(&mut self, bytes: &[u8]) -> &mut Talk {
        self.hole(Flow::Forward, bytes.len() as u64)
    }

    fn broker_loses(&mut self, bytes: &[u8]) -> &mut Talk {
        self.hole(Flow::Backward, bytes.len() as u64)
    }

    fn wait(&mut self, milliseconds: u64) -> &mut Talk {
        self.now += milliseconds;
        self
    }

    fn hang_up(&mut self) -> &mut Talk {
        let event = Event::Closed { connection: CONNECTION, time: self.time() };
        self.sessions.handle_event(&event, &mut self.operations);
        self
    }

    /// What has happened since the last call.
    fn lines(&mut self) -> String {
        let operations = std::mem::take(&mut self.operations);
        operations.iter().fold(String::new(), |mut lines, observed| {
            writeln!(lines, "{}", render(&observed.operation)).expect("a string takes everything");
            lines
        })
    }

    #[track_caller]
    fn expect(&mut self, expected: &str) -> &mut Talk {
        let expected: String = expected.lines().map(|line| format!("{}\n", line.trim())).skip(1).collect();
        assert_eq!(self.lines().trim_end(), expected.trim_end());
        self
    }
}

fn render(operation: &Operation) -> String {
    match operation {
        Operation::Session(facts) => {
            let client = facts.client_flow.map_or("?".into(), |flow| format!("{flow:?}"));
            let text = |name: &Option<crate::names::Name>| name.as_deref().unwrap_or("?").to_string();
            let (name, vhost, broker) = (text(&facts.client_name), text(&facts.vhost), text(&facts.broker));
            format!(
                "session client={client} name={name} vhost={vhost} broker={broker}{}",
                if facts.late { " late" } else { "" }
            )
        }
        Operation::Published { channel, tag, destination, mandatory, message } => format!(
            "published {}.{} tag={} to={}:{}{}{}",
            channel.number,
            channel.incarnation,
            number(*tag),
            destination.exchange,
            destination.routing_key,
            if *mandatory { " mandatory" } else { "" },
            show(message)
        ),
        Operation::Confirmed { tags, inferred, .. } => {
            format!("confirmed {}{}", tagged(*tags), if *inferred { " inferred" } else { "" })
        }
        Operation::PublishFailed { tags, .. } => format!("publish failed {}", tagged(*tags)),
        Operation::UnmatchedConfirm { tags, refused, .. } => {
            format!("unmatched {}{}", tagged(*tags), if *refused { " refused" } else { "" })
        }
        Operation::Returned { error, destination, message, .. } => {
            format!("returned {} {}:{}{}", error.code, destination.exchange, destination.routing_key, show(message))
        }
        Operation::Delivered { channel, tag, consumer, queue, automatic, redelivered, message, .. } => format!(
            "delivered {}.{} tag={tag} consumer={} queue={} automatic={}{}{}",
            channel.number,
            channel.incarnation,
            consumer.as_deref().unwrap_or("-"),
            queue.as_deref().unwrap_or("?"),
            automatic.map_or("?".into(), |automatic| automatic.to_string()),
            if *redelivered { " redelivered" } else { "" },
            show(message)
        ),
        Operation::Settled { tags, outcome, .. } => format!("settled {} {outcome:?}", tagged(*tags)),
        Operation::SettleFailed { tag, error, .. } => format!("settle failed {} {}", number(*tag), error.code),
        Operation::ChannelOpened(channel) => format!("channel {}.{} opened", channel.number, channel.incarnation),
        Operation::ChannelClosed { channel, by, error, connection } => format!(
            "channel {}.{} closed by {}{}{}",
            channel.number,
            channel.incarnation,
            by.map_or("nobody".into(), |by| format!("{by:?}")),
            error.as_ref().map_or(String::new(), |error| format!(" {}", error.code)),
            if *connection { " with its connection" } else { "" }
        ),
        Operation::ConsumerStarted { consumer, queue, automatic, learned, .. } => {
            format!("consumer {consumer} of {queue} automatic={automatic:?}{}", if *learned { " learned" } else { "" })
        }
        Operation::ConsumerCancelled { consumer, queue, by, .. } => {
            format!("consumer {consumer} of {} cancelled by {by:?}", queue.as_deref().unwrap_or("?"))
        }
        Operation::Gap(gap) => format!(
            "gap {} channel={} bytes={} deliveries={}",
            if gap.from_broker { "broker" } else { "client" },
            gap.channel.map_or("*".into(), |channel| channel.number.to_string()),
            number(gap.bytes),
            number(gap.deliveries)
        ),
        other => format!("{other:?}"),
    }
}

fn number(number: Option<u64>) -> String {
    number.map_or("?".into(), |number| number.to_string())
}

fn tagged(tags: Tags) -> String {
    match tags {
        Tags::One(tag) => tag.to_string(),
        Tags::UpTo(tag) => format!("<={tag}"),
        Tags::All => "all".into(),
    }
}

fn show(message: &Message) -> String {
    let size = message.body_size.map_or("?".into(), |size| size.to_string());
    let id = message.message_id.as_ref().map_or(String::new(), |id| format!(" id={id}"));
    let identity = if message.identity.is_some() { "" } else { " unidentified" };
    format!(" size={size}{id}{identity}")
}

/// A publish with its content.
fn publish(body: &[u8]) -> Vec<u8> {
    [wire::publish(1, "ex", "key", false), wire::message(1, body)].concat()
}

fn deliver(tag: u64, body: &[u8]) -> Vec<u8> {
    [wire::deliver(1, "tag", tag, false, "ex", "key"), wire::message(1, body)].concat()
}

#[test]
fn a_connection_from_its_first_byte() {
    let mut talk = Talk::new(true);
    talk.log_in();
    talk.client(&wire::channel_open(1)).broker(&wire::channel_open_ok(1));
    talk.expect(
        "
        session client=Forward name=? vhost=? broker=?
        session client=Forward name=? vhost=? broker=RabbitMQ 3.10.8
        session client=Forward name=app vhost=? broker=RabbitMQ 3.10.8
        session client=Forward name=app vhost=/ broker=RabbitMQ 3.10.8
        channel 1.0 opened",
    );
    talk.client(&wire::consume(1, "orders", "tag", 0)).broker(&wire::consume_ok(1, "tag"));
    talk.client(&publish(b"hello")).broker(&deliver(1, b"hello")).client(&wire::ack(1, 1, false));
    talk.expect(
        "
        consumer tag of orders automatic=Some(false)
        published 1.0 tag=? to=ex:key size=5
        delivered 1.0 tag=1 consumer=tag queue=orders automatic=false size=5
        settled 1 Acknowledged",
    );
    talk.client(&wire::connection_close(200, "bye")).broker(&wire::connection_close_ok()).hang_up();
    talk.expect(
        "
        channel 1.0 closed by Client with its connection",
    );
    assert!(talk.sessions.is_empty());
    assert_eq!(talk.sessions.cost(), 0);
}
