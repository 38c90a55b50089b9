//! Conversations, and what a session makes of them. Each line of a transcript is one operation.

mod holes;
mod hostile;
mod late;
mod secrets;

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
        talk.sessions.keep_secrets();
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
        Operation::Confirmed { tags, inferred, earlier, .. } => {
            let earlier = if *earlier { " earlier" } else { "" };
            format!("confirmed {}{}{earlier}", tagged(*tags), if *inferred { " inferred" } else { "" })
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
        Operation::Recovered { spared, .. } if spared.is_empty() => "recovered".to_owned(),
        Operation::Recovered { spared, .. } => {
            let spared: Vec<_> = spared.iter().map(|tags| tagged(*tags)).collect();
            format!("recovered, but {}", spared.join(" "))
        }
        Operation::RecoverAsked(channel) => format!("recover asked {}.{}", channel.number, channel.incarnation),
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
        Operation::ConsumerStarted { consumer, queue, automatic, learned, answered, .. } => {
            let how = match (learned, answered) {
                (true, _) => " learned",
                (false, true) => "",
                (false, false) => " unanswered",
            };
            format!("consumer {consumer} of {queue} automatic={automatic:?}{how}")
        }
        Operation::ConsumerCancelled { consumer, queue, by, answered, .. } => {
            let how = if *answered { "" } else { " unanswered" };
            format!("consumer {consumer} of {} cancelled by {by:?}{how}", queue.as_deref().unwrap_or("?"))
        }
        Operation::Gap(gap) => format!(
            "gap {} channel={} bytes={} deliveries={}",
            if gap.from_broker { "broker" } else { "client" },
            gap.channel.map_or("*".into(), |channel| channel.number.to_string()),
            number(gap.bytes),
            number(gap.deliveries)
        ),
        Operation::ConnectionEnded { by, error, agreed } => {
            let by = by.map_or("nobody".into(), |by| format!("{by:?}"));
            let error = error.as_ref().map_or(String::new(), |error| format!(" {}", error.code));
            format!("connection ended by {by}{error}{}", if *agreed { "" } else { ", not agreed" })
        }
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
        channel 1.0 closed by Client with its connection
        connection ended by Client",
    );
    assert!(talk.sessions.is_empty());
    assert_eq!(talk.sessions.cost(), 0);
}

#[test]
fn confirms_and_returns() {
    let mut talk = Talk::open();
    talk.client(&wire::confirm_select(1)).broker(&wire::confirm_select_ok(1));
    for _ in 0..3 {
        talk.client(&publish(b"x"));
    }
    talk.broker(&wire::ack(1, 1, false)).broker(&wire::nack(1, 3, true, false));
    let unroutable = [wire::publish(1, "", "nowhere", true), wire::message(1, b"y")].concat();
    talk.client(&unroutable);
    talk.broker(&[wire::returned(1, "", "nowhere"), wire::message(1, b"y"), wire::ack(1, 4, false)].concat());
    talk.expect(
        "
        published 1.0 tag=1 to=ex:key size=1
        published 1.0 tag=2 to=ex:key size=1
        published 1.0 tag=3 to=ex:key size=1
        confirmed 1
        publish failed <=3
        published 1.0 tag=4 to=:nowhere mandatory size=1
        returned 312 :nowhere size=1
        confirmed 4",
    );
}

#[test]
fn settlements_of_every_kind() {
    let mut talk = Talk::open();
    talk.client(&wire::ack(1, 0, true)).client(&wire::ack(1, 5, true)).client(&wire::nack(1, 6, false, true));
    talk.client(&wire::nack(1, 7, true, false)).client(&wire::reject(1, 8, true)).client(&wire::reject(1, 9, false));
    talk.client(&wire::recover(1)).broker(&wire::recover_ok(1));
    talk.client(&wire::method(1, 60, 100, wire::Bytes::default().octet(1)));
    talk.expect(
        "
        settled all Acknowledged
        settled <=5 Acknowledged
        settled 6 RequeuedByNack
        settled <=7 RejectedByNack
        settled 8 RequeuedByReject
        settled 9 RejectedByReject
        recover asked 1.0
        recovered
        recovered",
    );
}

#[test]
fn gets_and_their_queues() {
    let mut talk = Talk::open();
    talk.client(&[wire::get(1, "a", false), wire::get(1, "b", true), wire::get(1, "c", false)].concat());
    talk.broker(&[wire::get_ok(1, 1, "", "a"), wire::message(1, b"m")].concat());
    talk.broker(&wire::get_empty(1)).broker(&[wire::get_ok(1, 2, "ex", "k"), wire::message(1, b"m")].concat());
    talk.expect(
        "
        delivered 1.0 tag=1 consumer=- queue=a automatic=false size=1
        delivered 1.0 tag=2 consumer=- queue=c automatic=false size=1",
    );
}

#[test]
fn queues_that_the_broker_names_and_the_queue_declared_last() {
    let mut talk = Talk::open();
    let none = wire::Bytes::default;
    talk.client(&[wire::queue_declare(1, "", 14, none()), wire::queue_bind(1, "", "ex", "")].concat());
    talk.client(&wire::consume(1, "", "", 2)).broker(&wire::queue_declare_ok(1, "amq.gen-1", 0, 0));
    talk.broker(&wire::queue_bind_ok(1)).broker(&wire::consume_ok(1, "amq.ctag-1"));
    talk.client(&wire::consume(1, "", "mine", 8)).broker(&deliver(1, b"m"));
    talk.client(&wire::cancel(1, "mine", false)).broker(&wire::cancel_ok(1, "mine"));
    talk.broker(&wire::cancel(1, "amq.ctag-1", true));
    talk.client(&wire::consume(1, "", "more", 8)).client(&wire::cancel(1, "more", true));
    talk.expect(
        "
        QueueDeclared { queue: \"amq.gen-1\", arguments: Some(QueueArguments { dead_letter_exchange: None, dead_letter_routing_key: None, message_ttl_ms: None, expires_ms: None, max_length: None, max_length_bytes: None, overflow: None, queue_type: None, delivery_limit: None, single_active_consumer: false, max_priority: None, durable: true, exclusive: true, auto_delete: true }), messages: Some(0), consumers: Some(0) }
        Binding { exchange: \"ex\", target: \"amq.gen-1\", to_exchange: false, routing_key: \"amq.gen-1\", bound: true, arguments: false }
        consumer amq.ctag-1 of amq.gen-1 automatic=Some(true)
        consumer mine of amq.gen-1 automatic=Some(false) unanswered
        delivered 1.0 tag=1 consumer=tag queue=? automatic=? size=1
        consumer mine of amq.gen-1 cancelled by Client
        consumer amq.ctag-1 of amq.gen-1 cancelled by Broker
        consumer more of amq.gen-1 automatic=Some(false) unanswered
        consumer more of amq.gen-1 cancelled by Client unanswered",
    );
}

#[test]
fn direct_replies_have_a_tag_of_their_own() {
    let mut talk = Talk::open();
    let reply =
        || [wire::deliver(1, "reply", 1, false, "", "amq.rabbitmq.reply-to.g1"), wire::message(1, b"r")].concat();
    talk.client(&wire::consume(1, "amq.rabbitmq.reply-to", "reply", 2)).broker(&wire::consume_ok(1, "reply"));
    talk.broker(&[deliver(1, b"m"), deliver(2, b"m"), reply(), reply(), deliver(3, b"m")].concat());
    talk.expect(
        "
        consumer reply of amq.rabbitmq.reply-to automatic=Some(true)
        delivered 1.0 tag=1 consumer=tag queue=? automatic=? size=1
        delivered 1.0 tag=2 consumer=tag queue=? automatic=? size=1
        delivered 1.0 tag=1 consumer=reply queue=amq.rabbitmq.reply-to automatic=true size=1
        delivered 1.0 tag=1 consumer=reply queue=amq.rabbitmq.reply-to automatic=true size=1
        delivered 1.0 tag=3 consumer=tag queue=? automatic=? size=1",
    );
}

#[test]
fn what_decides_about_a_queues_messages() {
    let mut talk = Talk::open();
    let arguments = wire::Bytes::default()
        .text_entry("x-dead-letter-exchange", "")
        .text_entry("x-dead-letter-routing-key", "dead")
        .int_entry("x-message-ttl", 60_000)
        .int_entry("x-delivery-limit", -1)
        .text_entry("x-queue-type", "quorum")
        .short_string("x-single-active-consumer")
        .octet(b't')
        .octet(1);
    talk.client(&wire::queue_declare(1, "work", 0, arguments)).broker(&wire::queue_declare_ok(1, "work", 5, 2));
    let operations = std::mem::take(&mut talk.operations);
    let Operation::QueueDeclared { queue, arguments: Some(arguments), messages, .. } = &operations[0].operation else {
        panic!("{operations:?}");
    };
    assert_eq!((&**queue, *messages), ("work", Some(5)));
    assert_eq!(arguments.dead_letter_exchange.as_deref(), Some(""));
    assert_eq!(arguments.dead_letter_routing_key.as_deref(), Some("dead"));
    assert_eq!((arguments.message_ttl_ms, arguments.delivery_limit), (Some(60_000), Some(-1)));
    assert_eq!(arguments.queue_type.as_deref(), Some("quorum"));
    assert!(arguments.single_active_consumer);

    talk.client(&wire::queue_declare(1, "work", 1, wire::Bytes::default()));
    talk.broker(&wire::queue_declare_ok(1, "work", 5, 2));
    talk.client(&wire::exchange_declare(
        1,
        "ex",
        "topic",
        wire::Bytes::default().text_entry("alternate-exchange", "ae"),
    ));
    talk.broker(&wire::exchange_declare_ok(1));
    talk.client(&wire::queue_purge(1, "work")).broker(&wire::queue_purge_ok(1, 5));
    talk.client(&wire::queue_delete(1, "work")).broker(&wire::queue_delete_ok(1, 0));
    talk.expect(
        "
        QueueDeclared { queue: \"work\", arguments: None, messages: Some(5), consumers: Some(2) }
        ExchangeDeclared { exchange: \"ex\", kind: Some(\"topic\"), alternate: Some(\"ae\") }
        QueueEmptied { queue: \"work\", deleted: false, messages: Some(5) }
        QueueEmptied { queue: \"work\", deleted: true, messages: Some(0) }",
    );
}

#[test]
fn a_transaction_counts_when_it_is_committed() {
    let mut talk = Talk::open();
    talk.client(&wire::tx(1, 10)).broker(&wire::tx(1, 11));
    talk.client(&publish(b"a")).client(&wire::ack(1, 1, false));
    talk.expect("");
    // The broker may deliver what was committed before it answers.
    talk.client(&wire::tx(1, 20)).client(&publish(b"b"));
    talk.expect(
        "
        published 1.0 tag=? to=ex:key size=1
        settled 1 Acknowledged",
    );
    talk.broker(&wire::tx(1, 21));
    talk.client(&wire::tx(1, 30)).broker(&wire::tx(1, 31));
    talk.expect(
        "
        Transaction { channel: ChannelId { connection: ConnectionId(7), number: 1, incarnation: 0 }, committed: true, published: 1, settled: 1 }
        Transaction { channel: ChannelId { connection: ConnectionId(7), number: 1, incarnation: 0 }, committed: false, published: 1, settled: 0 }",
    );
}

#[test]
fn a_recover_is_in_no_transaction_and_spares_what_the_transaction_has_settled() {
    let mut talk = Talk::open();
    talk.client(&wire::tx(1, 10)).broker(&wire::tx(1, 11));
    talk.client(&wire::ack(1, 2, true)).client(&wire::reject(1, 5, true));
    talk.client(&wire::recover(1)).broker(&wire::recover_ok(1)).client(&wire::tx(1, 20)).broker(&wire::tx(1, 21));
    talk.client(&wire::recover(1)).broker(&wire::recover_ok(1));
    talk.expect(
        "
        recover asked 1.0
        recovered, but <=2 5
        settled <=2 Acknowledged
        settled 5 RequeuedByReject
        Transaction { channel: ChannelId { connection: ConnectionId(7), number: 1, incarnation: 0 }, committed: true, published: 0, settled: 2 }
        recover asked 1.0
        recovered",
    );
}

#[test]
fn a_refused_settlement_closes_the_channel_and_what_was_on_its_way_is_not_lost() {
    let mut talk = Talk::open();
    let text = "PRECONDITION_FAILED - unknown delivery tag 17";
    talk.client(&wire::ack(1, 17, false)).broker(&wire::channel_close(1, 406, text, (60, 80)));
    talk.client(&publish(b"late")).client(&wire::ack(1, 18, false)).client(&wire::channel_close_ok(1));
    talk.client(&wire::channel_open(1)).broker(&wire::channel_open_ok(1));
    talk.client(&publish(b"new"));
    talk.expect(
        "
        settled 17 Acknowledged
        settle failed 17 406
        channel 1.0 closed by Broker 406
        published 1.0 tag=? to=ex:key size=4
        channel 1.0 closed by Broker 406
        channel 1.1 opened
        published 1.1 tag=? to=ex:key size=3",
    );
}

#[test]
fn a_channel_that_the_client_closes_ends_with_the_brokers_answer() {
    let mut talk = Talk::open();
    talk.client(&wire::consume(1, "q", "tag", 0)).broker(&wire::consume_ok(1, "tag"));
    talk.client(&wire::channel_close(1, 200, "", (0, 0))).broker(&deliver(1, b"m")).broker(&wire::channel_close_ok(1));
    talk.expect(
        "
        consumer tag of q automatic=Some(false)
        delivered 1.0 tag=1 consumer=tag queue=q automatic=false size=1
        channel 1.0 closed by Client",
    );
}

#[test]
fn connections_end_in_three_ways() {
    let mut talk = Talk::open();
    talk.client(&wire::channel_open(2)).broker(&wire::channel_open_ok(2)).hang_up();
    talk.expect(
        "
        channel 2.0 opened
        channel 1.0 closed by nobody with its connection
        channel 2.0 closed by nobody with its connection
        connection ended by nobody, not agreed",
    );
    let mut talk = Talk::open();
    talk.broker(&wire::connection_close(320, "CONNECTION_FORCED - shutdown")).client(&wire::connection_close_ok());
    talk.hang_up();
    talk.expect(
        "
        channel 1.0 closed by Broker 320 with its connection
        connection ended by Broker 320",
    );
    // Closed before, its channels leave nothing to say but this.
    let mut talk = Talk::open();
    talk.client(&wire::channel_close(1, 200, "bye", (0, 0))).broker(&wire::channel_close_ok(1));
    talk.client(&wire::connection_close(200, "bye")).broker(&wire::connection_close_ok()).hang_up();
    talk.expect(
        "
        channel 1.0 closed by Client
        connection ended by Client",
    );
    // The close itself may be in a hole; what answers it tells who began.
    let mut talk = Talk::open();
    talk.broker(&wire::connection_close_ok()).hang_up();
    talk.expect(
        "
        channel 1.0 closed by Client with its connection
        connection ended by Client",
    );
    let mut talk = Talk::open();
    talk.client(&wire::connection_close(200, "bye")).hang_up();
    talk.expect(
        "
        channel 1.0 closed by Client with its connection
        connection ended by Client, not agreed",
    );
}

#[test]
fn contents_of_two_channels_may_take_turns() {
    let mut talk = Talk::open();
    talk.client(&wire::channel_open(2)).broker(&wire::channel_open_ok(2));
    talk.client(&wire::publish(1, "ex", "one", false)).client(&wire::publish(2, "ex", "two", false));
    talk.client(&wire::header(1, 6, &wire::Properties::default()));
    talk.client(&wire::header(2, 3, &wire::Properties::default()));
    talk.client(&wire::frame(3, 1, b"abc")).client(&wire::frame(3, 2, b"xyz")).client(&wire::frame(3, 1, b"def"));
    talk.expect(
        "
        channel 2.0 opened
        published 2.0 tag=? to=ex:two size=3
        published 1.0 tag=? to=ex:one size=6",
    );
}

#[test]
fn a_body_of_no_bytes_has_no_frame() {
    let mut talk = Talk::open();
    talk.client(&publish(b"")).client(&publish(b"x"));
    talk.expect(
        "
        published 1.0 tag=? to=ex:key size=0
        published 1.0 tag=? to=ex:key size=1",
    );
}

#[test]
fn blocked_flow_and_heartbeats() {
    let mut talk = Talk::open();
    talk.client(&wire::heartbeat()).broker(&wire::heartbeat()).broker(&wire::channel_flow(1, false));
    talk.broker(&wire::blocked("memory")).broker(&wire::unblocked());
    talk.expect(
        "
        Blocked { reason: Some(\"memory\") }
        Blocked { reason: None }",
    );
}
