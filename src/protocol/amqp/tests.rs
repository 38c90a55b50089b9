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
        let end = |port| End { address: ([127, 0, 0, 1], port).into(), owner: None, local: true };
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
        settled <=7 Rejected
        settled 8 RequeuedByReject
        settled 9 Rejected
        settled all Recovered
        settled all Recovered",
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
    talk.client(&[wire::queue_declare(1, "", 0, none()), wire::queue_bind(1, "", "ex", "")].concat());
    talk.client(&wire::consume(1, "", "", 2)).broker(&wire::queue_declare_ok(1, "amq.gen-1", 0));
    talk.broker(&wire::queue_bind_ok(1)).broker(&wire::consume_ok(1, "amq.ctag-1"));
    talk.client(&wire::consume(1, "", "mine", 8)).broker(&deliver(1, b"m"));
    talk.client(&wire::cancel(1, "mine", false)).broker(&wire::cancel_ok(1, "mine"));
    talk.broker(&wire::cancel(1, "amq.ctag-1", true));
    talk.expect(
        "
        QueueDeclared { queue: \"amq.gen-1\", arguments: Some(QueueArguments { dead_letter_exchange: None, dead_letter_routing_key: None, message_ttl_ms: None, expires_ms: None, max_length: None, max_length_bytes: None, overflow: None, queue_type: None, delivery_limit: None, single_active_consumer: false, max_priority: None }), messages: Some(0) }
        Binding { exchange: \"ex\", target: \"amq.gen-1\", to_exchange: false, routing_key: \"amq.gen-1\", bound: true, arguments: false }
        consumer amq.ctag-1 of amq.gen-1 automatic=Some(true)
        consumer mine of amq.gen-1 automatic=Some(false)
        delivered 1.0 tag=1 consumer=tag queue=? automatic=? size=1
        consumer mine of amq.gen-1 cancelled by Client
        consumer amq.ctag-1 of amq.gen-1 cancelled by Broker",
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
    talk.client(&wire::queue_declare(1, "work", 0, arguments)).broker(&wire::queue_declare_ok(1, "work", 5));
    let operations = std::mem::take(&mut talk.operations);
    let Operation::QueueDeclared { queue, arguments: Some(arguments), messages } = &operations[0].operation else {
        panic!("{operations:?}");
    };
    assert_eq!((&**queue, *messages), ("work", Some(5)));
    assert_eq!(arguments.dead_letter_exchange.as_deref(), Some(""));
    assert_eq!(arguments.dead_letter_routing_key.as_deref(), Some("dead"));
    assert_eq!((arguments.message_ttl_ms, arguments.delivery_limit), (Some(60_000), Some(-1)));
    assert_eq!(arguments.queue_type.as_deref(), Some("quorum"));
    assert!(arguments.single_active_consumer);

    talk.client(&wire::queue_declare(1, "work", 1, wire::Bytes::default()));
    talk.broker(&wire::queue_declare_ok(1, "work", 5));
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
        QueueDeclared { queue: \"work\", arguments: None, messages: Some(5) }
        ExchangeDeclared { exchange: \"ex\", kind: Some(\"topic\"), alternate: Some(\"ae\") }
        QueueEmptied { queue: \"work\", deleted: false, messages: Some(5) }
        QueueEmptied { queue: \"work\", deleted: true, messages: Some(0) }",
    );
}

#[test]
fn a_transaction_counts_when_it_is_committed() {
    let mut talk = Talk::open();
    talk.client(&wire::tx(1, 10)).broker(&wire::tx(1, 11));
    talk.client(&publish(b"a")).client(&wire::ack(1, 1, false)).client(&wire::tx(1, 20)).client(&publish(b"b"));
    talk.expect("");
    talk.broker(&wire::tx(1, 21));
    talk.client(&wire::tx(1, 30)).broker(&wire::tx(1, 31));
    talk.expect(
        "
        published 1.0 tag=? to=ex:key size=1
        settled 1 Acknowledged
        Transaction { channel: ChannelId { connection: ConnectionId(7), number: 1, incarnation: 0 }, committed: true, published: 1, settled: 1 }
        Transaction { channel: ChannelId { connection: ConnectionId(7), number: 1, incarnation: 0 }, committed: false, published: 1, settled: 0 }",
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
        channel 2.0 closed by nobody with its connection",
    );
    let mut talk = Talk::open();
    talk.broker(&wire::connection_close(320, "CONNECTION_FORCED - shutdown")).client(&wire::connection_close_ok());
    talk.hang_up();
    talk.expect(
        "
        channel 1.0 closed by Broker 320 with its connection",
    );
    let mut talk = Talk::open();
    talk.client(&wire::connection_close(200, "bye")).hang_up();
    talk.expect(
        "
        channel 1.0 closed by Client with its connection",
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

mod late {
    use super::*;

    #[test]
    fn a_consumer_that_began_unseen_gets_its_queue_from_the_default_exchange() {
        let mut talk = Talk::new(false);
        let deliver =
            |tag, key: &str| [wire::deliver(3, "ctag", tag, false, "", key), wire::message(3, b"body")].concat();
        talk.broker(&deliver(500, "orders")).broker(&deliver(501, "orders")).client(&wire::ack(3, 501, true));
        talk.broker(&deliver(502, "orders"));
        talk.expect(
            "
            session client=Forward name=? vhost=? broker=? late
            consumer ctag of orders automatic=None learned
            delivered 3.0 tag=500 consumer=ctag queue=orders automatic=? size=4
            delivered 3.0 tag=501 consumer=ctag queue=orders automatic=? size=4
            settled <=501 Acknowledged
            delivered 3.0 tag=502 consumer=ctag queue=orders automatic=false size=4",
        );
    }

    #[test]
    fn a_join_in_the_middle_of_a_body_begins_with_the_next_method() {
        let mut talk = Talk::new(false);
        let noise: Vec<u8> = (0..5000u32).map(|byte| (byte % 7) as u8).collect();
        talk.send(Flow::Forward, &noise, false);
        talk.client(&[&noise[..100], &[0xce], &publish(b"first")[..]].concat()).client(&publish(b"second"));
        talk.expect(
            "
            session client=Forward name=? vhost=? broker=? late
            published 1.0 tag=? to=ex:key size=5
            published 1.0 tag=? to=ex:key size=6",
        );
    }

    #[test]
    fn confirms_are_matched_once_the_channel_was_quiet() {
        let mut talk = Talk::new(false);
        talk.client(&publish(b"a")).broker(&wire::ack(1, 90, false)).wait(1500);
        talk.client(&publish(b"b")).broker(&wire::ack(1, 91, false));
        talk.expect(
            "
            session client=Forward name=? vhost=? broker=? late
            published 1.0 tag=? to=ex:key size=1
            unmatched 90
            published 1.0 tag=91 to=ex:key size=1
            confirmed 91 inferred",
        );
    }

    #[test]
    fn an_idle_connection_is_found_by_its_heartbeat() {
        let mut talk = Talk::new(false);
        talk.client(&wire::heartbeat()).broker(&wire::heartbeat()).client(&publish(b"a"));
        talk.expect(
            "
            session client=Forward name=? vhost=? broker=? late
            published 1.0 tag=? to=ex:key size=1",
        );
    }

    #[test]
    fn a_body_that_looks_like_frames_is_not_believed_for_its_beginning() {
        // One whole frame inside something else, neither at a packet's beginning nor at its end.
        let mut talk = Talk::new(false);
        let body = [&b"xxxx"[..], &wire::ack(1, 1, false), b"yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy"].concat();
        talk.client(&body).client(&body);
        talk.expect("");
        // A body frame alone proves nothing, wherever it lies.
        talk.client(&wire::frame(3, 1, b"body")).client(&wire::frame(3, 1, b"body"));
        talk.expect("");
    }

    #[test]
    fn roles_are_told_by_methods_where_the_ports_do_not_tell() {
        let mut talk = Talk::new(true);
        let mut sessions = Sessions::new(Limits::default());
        let end = |port| End { address: ([127, 0, 0, 1], port).into(), owner: None, local: true };
        let facts = Facts { ends: [end(1), end(2)], roles_known: false, from_start: false };
        sessions.handle_event(&Event::Facts(CONNECTION, &facts), &mut talk.operations);
        talk.sessions = sessions;
        talk.operations.clear();
        talk.broker(&publish(b"it is the client's")).client(&wire::ack(1, 1, false)).broker(&wire::ack(1, 7, false));
        talk.expect(
            "
            session client=Backward name=? vhost=? broker=? late
            published 1.0 tag=? to=ex:key size=18
            unmatched 1
            settled 7 Acknowledged",
        );
    }

    #[test]
    fn a_commit_tells_that_a_channel_has_transactions() {
        let mut talk = Talk::new(false);
        talk.client(&wire::tx(1, 20)).broker(&wire::tx(1, 21)).client(&publish(b"x"));
        let lines = talk.lines();
        assert!(lines.contains("committed: true") && !lines.contains("published 1.0"), "{lines}");
    }
}

mod holes {
    use super::*;

    fn consuming() -> Talk {
        let mut talk = Talk::open();
        talk.client(&wire::consume(1, "q", "tag", 0)).broker(&wire::consume_ok(1, "tag"));
        talk.lines();
        talk
    }

    #[test]
    fn inside_a_body_nothing_is_lost_but_the_fingerprint() {
        let mut talk = consuming();
        let body = vec![b'x'; 3000];
        let frame = wire::frame(3, 1, &body);
        let cases = [(1, 10..100, None), (2, 10..100, Some("m")), (3, 2000..3007, None), (4, 2000..3008, None)];
        for (tag, hole, id) in cases {
            let properties = wire::Properties { message_id: id.map(String::from), ..Default::default() };
            let lead = [wire::deliver(1, "tag", tag, false, "", "q"), wire::header(1, 3000, &properties)].concat();
            talk.broker(&lead).broker(&frame[..hole.start]).broker_loses(&frame[hole.clone()]);
            if hole.end < frame.len() {
                talk.send(Flow::Backward, &frame[hole.end..], false);
            }
        }
        let lines = talk.lines();
        let size = lines.matches("size=3000").count();
        assert_eq!((size, lines.matches("unidentified").count()), (4, 1), "{lines}");
        assert!(!lines.contains("gap"), "{lines}");
    }

    #[test]
    fn over_a_whole_message_its_loss_is_counted_by_the_tags() {
        let mut talk = consuming();
        talk.broker(&deliver(1, b"one")).broker_loses(&[deliver(2, b"two"), deliver(3, b"three")].concat());
        talk.broker(&deliver(4, b"four")).broker(&deliver(5, b"five"));
        talk.expect(
            "
            delivered 1.0 tag=1 consumer=tag queue=q automatic=false size=3
            gap broker channel=* bytes=132 deliveries=?
            gap broker channel=1 bytes=? deliveries=2
            delivered 1.0 tag=4 consumer=tag queue=q automatic=false size=4
            delivered 1.0 tag=5 consumer=tag queue=q automatic=false size=4",
        );
    }

    #[test]
    fn that_cut_a_message_leave_what_was_seen_of_it() {
        let mut talk = consuming();
        let whole = deliver(1, b"hello");
        let method = wire::deliver(1, "tag", 1, false, "ex", "key").len();
        talk.broker(&whole[..method]).broker_loses(&whole[method..]).broker(&deliver(2, b"two"));
        talk.expect(
            "
            delivered 1.0 tag=1 consumer=tag queue=q automatic=false size=? unidentified
            gap broker channel=* bytes=35 deliveries=?
            delivered 1.0 tag=2 consumer=tag queue=q automatic=false size=3",
        );
    }

    #[test]
    fn inside_a_method_lose_that_frame_alone() {
        let mut talk = consuming();
        let ack = wire::ack(1, 1, false);
        talk.client(&ack[..10]).client_loses(&ack[10..15]);
        talk.send(Flow::Forward, &[&ack[15..], &wire::ack(1, 2, false)].concat(), false);
        talk.expect(
            "
            gap client channel=1 bytes=21 deliveries=?
            settled 2 Acknowledged",
        );
    }

    #[test]
    fn in_the_clients_flow_make_publish_tags_unknown() {
        let mut talk = Talk::open();
        talk.client(&wire::confirm_select(1)).broker(&wire::confirm_select_ok(1));
        talk.client(&publish(b"1")).client_loses(&publish(b"2")).client(&publish(b"3"));
        talk.broker(&wire::ack(1, 3, true)).wait(1000).client(&publish(b"4")).broker(&wire::ack(1, 4, false));
        talk.expect(
            "
            published 1.0 tag=1 to=ex:key size=1
            gap client channel=* bytes=53 deliveries=?
            published 1.0 tag=? to=ex:key size=1
            unmatched <=3
            published 1.0 tag=4 to=ex:key size=1
            confirmed 4 inferred",
        );
    }

    #[test]
    fn in_a_large_body_may_hide_its_frames_heads() {
        let mut talk = consuming();
        let body = vec![b'x'; 50_000];
        let bytes = [
            wire::deliver(1, "tag", 1, false, "", "q"),
            wire::content(1, &wire::Properties::default(), &body, 8184).concat(),
        ]
        .concat();
        talk.broker(&bytes[..4000]).broker_loses(&bytes[4000..40_000]);
        talk.send(Flow::Backward, &bytes[40_000..], false);
        talk.broker(&deliver(2, b"two"));
        talk.expect(
            "
            delivered 1.0 tag=1 consumer=tag queue=q automatic=false size=50000
            delivered 1.0 tag=2 consumer=tag queue=q automatic=false size=3",
        );
    }

    #[test]
    fn that_hide_a_channels_end_and_its_next_opening() {
        let mut talk = consuming();
        talk.broker(&deliver(1, b"a")).broker(&deliver(2, b"b"));
        talk.client_loses(&[wire::channel_close(1, 200, "", (0, 0)), wire::channel_open(1)].concat());
        talk.broker_loses(&[wire::channel_close_ok(1), wire::channel_open_ok(1)].concat());
        talk.broker(&deliver(1, b"c")).broker(&deliver(2, b"d"));
        talk.lines();
        talk.broker(&deliver(3, b"e"));
        talk.expect(
            "
            delivered 1.1 tag=3 consumer=tag queue=? automatic=? size=1",
        );
    }

    #[test]
    fn of_unknown_length_are_survived() {
        let mut talk = consuming();
        let position = talk.positions[1];
        let event = Event::Hole {
            connection: CONNECTION,
            flow: Flow::Backward,
            position,
            length: None,
            time: Timestamp(5),
            cause: HoleCause::RingFull,
        };
        talk.sessions.handle_event(&event, &mut talk.operations);
        talk.positions[1] += 5 << 32;
        talk.broker(&deliver(9, b"nine"));
        talk.expect(
            "
            gap broker channel=* bytes=? deliveries=?
            gap broker channel=1 bytes=? deliveries=8
            delivered 1.0 tag=9 consumer=tag queue=q automatic=false size=4",
        );
    }
}

mod hostile {
    use super::*;
    use crate::protocol::Trouble;

    fn troubles(talk: &mut Talk) -> Vec<Trouble> {
        let operations = std::mem::take(&mut talk.operations);
        let trouble = |observed: &Observed| match observed.operation {
            Operation::Trouble(trouble) => Some(trouble),
            _ => None,
        };
        operations.iter().filter_map(trouble).collect()
    }

    #[test]
    fn other_protocols_are_named_once() {
        for (first, name) in [
            (&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], "TLS"),
            (b"AMQP\0\x01\0\0", "AMQP 1.0"),
            (b"AMQP\x03\x01\0\0", "AMQP 1.0"),
            (b"\x10\x2c\x00\x04MQTT\x04\xc2", "MQTT"),
            (b"GET / HTTP/1.1\r\n\r\n", "HTTP"),
            (b"hello, is there anybody?", "unknown"),
        ] {
            let mut talk = Talk::new(true);
            talk.client(first).client(b"and so on, and so on").client(b"and so on, and so on");
            talk.broker(b"\x15\x03\x03\x00\x02\x02\x28").client(b"more");
            let lines = talk.lines();
            assert_eq!(lines.matches("Trouble(NotThisProtocol)").count(), 1, "{lines}");
            assert_eq!(lines.matches("NotDecoded").count(), 1, "{lines}");
            assert!(lines.contains(&format!("\"{name}\"")), "{lines}");
            assert!(talk.sessions.secrets().next().is_some(), "{name}: its login may be in there");
        }
    }

    #[test]
    fn a_wrong_guess_does_not_last() {
        let mut talk = Talk::new(true);
        talk.client(b"what is this? not the protocol at all").client(&vec![b'x'; 70_000]);
        talk.lines();
        talk.client(&publish(b"after all"));
        talk.expect(
            "
            published 1.0 tag=? to=ex:key size=9",
        );
    }

    #[test]
    fn a_proxys_header_is_stepped_over() {
        let mut talk = Talk::new(true);
        talk.client(&[b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 5672\r\n", wire::PREFACE].concat());
        talk.broker(&wire::start()).client(&wire::start_ok("app", "password"));
        assert!(talk.lines().contains("name=app"));
        assert_eq!(talk.sessions.secrets().count(), 1);
    }

    #[test]
    fn a_frame_larger_than_agreed_is_counted_and_skipped() {
        let mut talk = Talk::open();
        talk.client(&wire::frame(1, 1, &vec![7; 9000])).client(&wire::ack(1, 1, false));
        talk.expect(
            "
            Trouble(FrameTooLarge)
            gap client channel=1 bytes=9008 deliveries=?
            settled 1 Acknowledged",
        );
        talk.client(&[&b"\x01\0\x01\x7f\xff\xff\xff"[..], &publish(b"x")].concat()).client(&wire::ack(1, 2, false));
        let lines = talk.lines();
        assert!(lines.contains("Trouble(FrameTooLarge)") && lines.contains("settled 2"), "{lines}");
    }

    #[test]
    fn malformed_frames_are_counted_and_the_session_goes_on() {
        let mut talk = Talk::open();
        let mut bad_end = wire::ack(1, 1, false);
        *bad_end.last_mut().unwrap() = 0;
        for (bytes, expected) in [
            (wire::frame(1, 1, &[0, 60, 0, 80, 0]), Trouble::Malformed),
            (wire::frame(1, 1, &[0]), Trouble::Malformed),
            (wire::frame(1, 1, &[0, 99, 0, 99]), Trouble::Unknown),
            (wire::frame(9, 1, b"x"), Trouble::Malformed),
            (bad_end, Trouble::Malformed),
            (wire::frame(2, 1, &[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]), Trouble::UnexpectedFrame),
            (wire::get_ok(1, 1, "", ""), Trouble::UnexpectedFrame),
            (wire::ack(9, 1, false), Trouble::UnexpectedFrame),
        ] {
            let mut talk_now = Talk::open();
            talk_now.client(&bytes);
            assert_eq!(troubles(&mut talk_now), [expected], "{bytes:?}");
            talk_now.client(&publish(b"still there"));
            assert!(talk_now.lines().contains("size=11"), "{bytes:?}");
        }
        talk.client(&publish(b"x"));
        assert!(troubles(&mut talk).is_empty());
    }

    #[test]
    fn tables_nested_a_thousand_deep_are_counted() {
        let mut entries = wire::Bytes::default();
        for _ in 0..1000 {
            entries = wire::Bytes::default().short_string("a").octet(b'F').table(entries);
        }
        let mut talk = Talk::open();
        let properties = wire::Properties { headers: Some(entries.0.clone()), ..Default::default() };
        let deep = [wire::publish(1, "", "q", false), wire::header(1, 0, &properties)].concat();
        talk.client(&deep).client(&publish(b"x"));
        talk.expect(
            "
            Trouble(TooDeep)
            published 1.0 tag=? to=:q size=0
            published 1.0 tag=? to=ex:key size=1",
        );
        talk.client(&wire::queue_declare(1, "q", 0, entries)).broker(&wire::queue_declare_ok(1, "q", 0));
        let lines = talk.lines();
        assert!(lines.contains("Trouble(TooDeep)") && lines.contains("QueueDeclared"), "{lines}");
    }

    #[test]
    fn a_header_whose_lengths_lie_leaves_the_message_without_identity() {
        let mut talk = Talk::open();
        let mut header =
            wire::header(1, 2, &wire::Properties { headers: Some(vec![1, b'a', b'S']), ..Default::default() });
        talk.client(&[wire::publish(1, "", "q", false), header.clone(), wire::frame(3, 1, b"hi")].concat());
        talk.expect(
            "
            Trouble(Malformed)
            published 1.0 tag=? to=:q size=2 unidentified",
        );
        header[7 + 17] = 200;
        talk.client(&[wire::publish(1, "", "q", false), header, wire::frame(3, 1, b"hi")].concat());
        talk.expect(
            "
            Trouble(Malformed)
            published 1.0 tag=? to=:q size=2 unidentified",
        );
    }

    #[test]
    fn more_of_everything_than_the_budget_allows() {
        let mut talk = Talk::new(true);
        let limits = Limits { connections: 2, bytes: 64 << 10, bytes_per_connection: 48 << 10 };
        talk.sessions = Sessions::new(limits);
        let end = |port| End { address: ([127, 0, 0, 1], port).into(), owner: None, local: true };
        let facts = Facts { ends: [end(40_000), end(5672)], roles_known: true, from_start: true };
        talk.sessions.handle_event(&Event::Facts(CONNECTION, &facts), &mut talk.operations);
        talk.client(wire::PREFACE);
        for channel in 1..500 {
            talk.client(&wire::channel_open(channel));
        }
        for number in 0..500 {
            talk.client(&wire::consume(1, "q", &format!("consumer {number}"), 8));
            talk.client(&wire::queue_declare(2, &format!("queue {number}"), 0, wire::Bytes::default()));
        }
        talk.client(&wire::tx(3, 10));
        for _ in 0..500 {
            talk.client(&[wire::publish(3, "", "q", false), wire::message(3, b"x")].concat());
        }
        talk.client(&wire::frame(1, 0, &vec![0; 40_000])[..30_000]);
        assert!(talk.sessions.cost() <= 50 << 10, "{}", talk.sessions.cost());
        assert!(troubles(&mut talk).contains(&Trouble::BudgetExhausted));
        for id in 100..110 {
            let id = ConnectionId(id);
            talk.sessions.handle_event(&Event::Facts(id, &facts), &mut talk.operations);
        }
        assert_eq!((talk.sessions.len(), talk.sessions.evicted()), (2, 9));
    }
}

mod secrets {
    use super::*;

    /// All ranges of secrets, as offsets in what the client sent.
    fn ranges(talk: &mut Talk) -> Vec<(Flow, std::ops::Range<u64>)> {
        talk.sessions.secrets().map(|(_, flow, range)| (flow, range.start - 1000..range.end - 1000)).collect()
    }

    fn find(bytes: &[u8], wanted: &[u8]) -> std::ops::Range<u64> {
        let start = bytes.windows(wanted.len()).position(|window| window == wanted).unwrap() as u64;
        start..start + wanted.len() as u64
    }

    /// However the login is cut, its secret is told with, or before, the packet that holds it.
    #[test]
    fn are_told_before_they_come() {
        let login = [wire::PREFACE, &wire::start_ok("app", "\0guest\0hunter2")].concat();
        let secret = find(&login, b"\0guest\0hunter2");
        for cut in 1..login.len() {
            let mut talk = Talk::new(true);
            talk.client(&login[..cut]);
            let mut known = ranges(&mut talk);
            assert!(
                (cut as u64) <= secret.start || known.iter().any(|(_, range)| range.contains(&secret.start)),
                "{cut}"
            );
            talk.client(&login[cut..]);
            known.extend(ranges(&mut talk));
            assert_eq!(known.len(), 1, "{cut}: {known:?}");
            let (flow, range) = &known[0];
            assert_eq!(*flow, Flow::Forward);
            assert!(range.start <= secret.start && secret.end <= range.end && range.end < login.len() as u64);
            assert!(talk.lines().contains("name=app"), "{cut}");
        }
    }

    #[test]
    fn that_come_later_are_told_too() {
        let mut talk = Talk::open();
        ranges(&mut talk);
        let before = talk.positions[0] - 1000;
        let update = wire::update_secret("token");
        talk.client(&update);
        let secret = find(&update, b"token");
        let known = ranges(&mut talk);
        assert!(
            known.iter().any(|(_, range)| range.start <= before + secret.start && before + secret.end <= range.end)
        );
    }

    #[test]
    fn wiped_bytes_make_the_same_session() {
        let login = wire::start_ok("app", "\0guest\0hunter2");
        let mut wiped = login.clone();
        let mut talk = Talk::new(true);
        talk.client(wire::PREFACE).broker(&wire::start()).client(&login).client(&wire::open("/"));
        for (_, range) in ranges(&mut talk) {
            wiped[range.start as usize - 8..range.end as usize - 8].fill(0);
        }
        assert_ne!(login, wiped);
        let mut again = Talk::new(true);
        again.client(wire::PREFACE).broker(&wire::start()).client(&wiped).client(&wire::open("/"));
        assert_eq!(talk.lines(), again.lines());
    }

    #[test]
    fn are_everything_that_cannot_be_read_before_the_login_is_over() {
        let mut talk = Talk::new(true);
        let login = wire::start_ok("app", "\0guest\0hunter2");
        talk.client(wire::PREFACE).broker(&wire::start()).client_loses(&login[..9]).client(&login[9..]);
        assert_eq!(ranges(&mut talk), [(Flow::Forward, 17..8 + login.len() as u64)]);
        talk.broker(&wire::tune(0, 0)).client(&[wire::tune_ok(0, 0), wire::open("/")].concat());
        talk.client(&wire::channel_open(1));
        assert!(ranges(&mut talk).is_empty());
        assert!(talk.lines().contains("vhost=/"));
    }
}
