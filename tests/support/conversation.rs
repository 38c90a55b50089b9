//! Random conversations of a client with a broker: valid, pipelined, on several channels at once, of everything that a
//! session follows. What is drawn is a list of numbers; a small model of both sides turns it into bytes, so that every list
//! is a valid conversation and a shorter list a shorter one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::amqp as wire;
use super::amqp::{Bytes, Properties};

/// Which side wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Broker,
}

/// One write: whole frames of one side.
#[derive(Clone, Debug)]
pub struct Write {
    pub side: Side,
    pub bytes: Vec<u8>,
}

/// The numbers that one step is made from.
pub type Draw = [u16; 4];

const CHANNELS: u16 = 3;
const FRAME_MAX: u32 = 4096;
const LARGEST_BODY_FRAME: usize = FRAME_MAX as usize - 8;
const QUEUES: [&str; 3] = ["orders", "work", "audit"];

#[derive(Default)]
struct Model {
    writes: Vec<Write>,
    channels: BTreeMap<u16, Channel>,
    consumers: u64,
    bodies: u64,
    blocked: bool,
    transacted: BTreeSet<u16>,
}

#[derive(Default)]
struct Channel {
    confirms: bool,
    published: u64,
    confirmed: u64,
    transaction: bool,
    consumers: Vec<(String, &'static str, bool)>,
    tag: u64,
    outstanding: VecDeque<u64>,
    /// Answers that the broker has still to give.
    answers: VecDeque<Answer>,
    named: u64,
}

enum Answer {
    Bytes(Vec<u8>),
    Consume(String, &'static str, bool),
    Cancel(String),
    Get(&'static str, bool),
    Declare(String),
}

/// The conversation of these draws, from the protocol header on. `polite`: it ends with the connection's close.
pub fn conversation(draws: &[Draw], polite: bool) -> Vec<Write> {
    converse(draws, polite).0
}

/// The same, and the channels that were ever used for transactions.
pub fn converse(draws: &[Draw], polite: bool) -> (Vec<Write>, BTreeSet<u16>) {
    let mut model = Model::default();
    model.log_in();
    for draw in draws {
        model.step(*draw);
    }
    if polite {
        model.client(wire::connection_close(200, "bye"));
        model.broker(wire::connection_close_ok());
    }
    (model.writes, model.transacted)
}

impl Model {
    fn client(&mut self, bytes: Vec<u8>) {
        self.writes.push(Write { side: Side::Client, bytes });
    }

    fn broker(&mut self, bytes: Vec<u8>) {
        self.writes.push(Write { side: Side::Broker, bytes });
    }

    fn log_in(&mut self) {
        self.client(wire::PREFACE.to_vec());
        self.broker(wire::start());
        self.client(wire::start_ok("conversation", "\0user\0password"));
        self.broker(wire::tune(CHANNELS, FRAME_MAX));
        self.client(wire::tune_ok(CHANNELS, FRAME_MAX));
        self.client(wire::open("/"));
        self.broker(wire::open_ok());
    }

    fn step(&mut self, [what, a, b, c]: Draw) {
        let number = 1 + a % CHANNELS;
        if !self.channels.contains_key(&number) {
            self.client(wire::channel_open(number));
            self.broker(wire::channel_open_ok(number));
            self.channels.insert(number, Channel::default());
            return;
        }
        match what % 24 {
            0..=4 => self.publish(number, b, c),
            5..=9 => self.deliver(number, b, c),
            10..=12 => self.settle(number, b, c),
            13..=14 => self.confirm(number, b, c),
            15 => self.select(number, b),
            16 => self.consume(number, b, c),
            17 => self.get(number, b, c),
            18 => self.declare(number, b, c),
            19 => self.end_transaction(number, b),
            20 => self.close(number, b, c),
            21 => self.cancel(number, b),
            22 => self.other(number, b),
            _ => self.interleave(number, b, c),
        }
        if c & 1 == 0 {
            self.answer(number);
        }
    }

    fn properties(&mut self, draw: u16) -> Properties {
        self.bodies += 1;
        let headers = Bytes::default().int_entry("n", i64::from(draw)).text_entry("s", "text");
        Properties {
            headers: (draw & 1 != 0).then_some(headers.0),
            correlation_id: (draw & 6 == 2).then(|| format!("c{}", self.bodies)),
            message_id: (draw & 8 != 0).then(|| format!("m{}", self.bodies)),
        }
    }

    /// A body of a size that is 0, small, or several frames, and different from all others.
    fn body(&mut self, draw: u16) -> Vec<u8> {
        self.bodies += 1;
        let size = match draw % 8 {
            0 => 0,
            1..=5 => usize::from(draw / 8) % 300,
            6 => usize::from(draw) % 3000,
            _ => usize::from(draw) % 12_000,
        };
        let mut body = format!("body {} ", self.bodies).into_bytes();
        body.resize(size, (self.bodies % 251) as u8);
        body
    }

    fn message(&mut self, number: u16, b: u16, c: u16) -> Vec<Vec<u8>> {
        let (properties, body) = (self.properties(b), self.body(c));
        wire::content(number, &properties, &body, LARGEST_BODY_FRAME)
    }

    fn publish(&mut self, number: u16, b: u16, c: u16) {
        let exchange = ["", "ex", "logs"][usize::from(b) % 3];
        let mut bytes = wire::publish(number, exchange, QUEUES[usize::from(c) % 3], b & 32 != 0);
        bytes.extend(self.message(number, b, c).concat());
        self.client(bytes);
        self.channel(number).published += 1;
        if b & 96 == 96 {
            let mut bytes = wire::returned(number, exchange, "nowhere");
            bytes.extend(self.message(number, b, c).concat());
            self.broker(bytes);
        }
    }

    fn channel(&mut self, number: u16) -> &mut Channel {
        self.channels.get_mut(&number).expect("opened by step")
    }

    /// A delivery's method, if there is a consumer to deliver to.
    fn delivery(&mut self, number: u16, b: u16) -> Option<Vec<u8>> {
        let channel = self.channel(number);
        let consumers = channel.consumers.len();
        let (consumer, queue, automatic) = channel.consumers.get(usize::from(b) % consumers.max(1))?.clone();
        channel.tag += 1;
        let tag = channel.tag;
        if !automatic {
            channel.outstanding.push_back(tag);
        }
        let (exchange, key) = if b & 16 == 0 { ("", queue) } else { ("ex", "some.key") };
        Some(wire::deliver(number, &consumer, tag, b & 64 != 0, exchange, key))
    }

    fn deliver(&mut self, number: u16, b: u16, c: u16) {
        if let Some(mut bytes) = self.delivery(number, b) {
            bytes.extend(self.message(number, b, c).concat());
            self.broker(bytes);
        }
    }

    fn settle(&mut self, number: u16, b: u16, c: u16) {
        let outstanding = &mut self.channel(number).outstanding;
        if outstanding.is_empty() {
            return;
        }
        let index = usize::from(b) % outstanding.len();
        let multiple = c & 2 != 0;
        let tag = outstanding[index];
        if multiple {
            outstanding.drain(..=index);
        } else {
            outstanding.remove(index);
        }
        self.client(match c / 4 % 4 {
            0 if !multiple => wire::reject(number, tag, c & 16 != 0),
            1 => wire::nack(number, tag, multiple, c & 16 != 0),
            _ => wire::ack(number, tag, multiple),
        });
    }

    fn confirm(&mut self, number: u16, b: u16, c: u16) {
        let channel = self.channel(number);
        if !channel.confirms || channel.confirmed == channel.published {
            return;
        }
        let until = channel.confirmed + 1 + u64::from(b) % (channel.published - channel.confirmed);
        let bytes = if c & 6 == 6 {
            wire::nack(number, until, true, false)
        } else if until == channel.confirmed + 1 {
            wire::ack(number, until, false)
        } else {
            wire::ack(number, until, true)
        };
        channel.confirmed = until;
        self.broker(bytes);
    }

    fn select(&mut self, number: u16, b: u16) {
        self.answer_all(number);
        let channel = self.channel(number);
        if channel.confirms || channel.transaction {
            return;
        }
        if b & 1 == 0 {
            (channel.confirms, channel.published) = (true, 0);
            self.client(wire::confirm_select(number));
            self.broker(wire::confirm_select_ok(number));
        } else {
            channel.transaction = true;
            self.transacted.insert(number);
            self.client(wire::tx(number, 10));
            self.broker(wire::tx(number, 11));
        }
    }

    fn end_transaction(&mut self, number: u16, b: u16) {
        self.answer_all(number);
        if self.channel(number).transaction {
            let method = if b & 1 == 0 { 20 } else { 30 };
            self.client(wire::tx(number, method));
            self.broker(wire::tx(number, method + 1));
        }
    }

    fn consume(&mut self, number: u16, b: u16, c: u16) {
        self.consumers += 1;
        let (queue, automatic) = (QUEUES[usize::from(b) % 3], c & 4 != 0);
        let consumer = format!("consumer-{}", self.consumers);
        let bits = if automatic { 2 } else { 0 };
        match c & 24 {
            8 => {
                self.client(wire::consume(number, queue, &consumer, bits | 8));
                self.channel(number).consumers.push((consumer, queue, automatic));
            }
            16 => {
                self.client(wire::consume(number, queue, "", bits));
                let consumer = format!("amq.ctag-{}", self.consumers);
                self.channel(number).answers.push_back(Answer::Consume(consumer, queue, automatic));
            }
            _ => {
                self.client(wire::consume(number, queue, &consumer, bits));
                self.channel(number).answers.push_back(Answer::Consume(consumer, queue, automatic));
            }
        }
    }

    fn cancel(&mut self, number: u16, b: u16) {
        let Some((consumer, ..)) = self.channel(number).consumers.first().cloned() else { return };
        if b & 1 == 0 {
            self.channel(number).consumers.remove(0);
            self.broker(wire::cancel(number, &consumer, true));
        } else {
            self.client(wire::cancel(number, &consumer, false));
            self.channel(number).answers.push_back(Answer::Cancel(consumer));
            self.answer_all(number);
        }
    }

    fn get(&mut self, number: u16, b: u16, c: u16) {
        let (queue, automatic) = (QUEUES[usize::from(b) % 3], c & 2 != 0);
        self.client(wire::get(number, queue, automatic));
        self.channel(number).answers.push_back(Answer::Get(queue, automatic));
    }

    fn declare(&mut self, number: u16, b: u16, c: u16) {
        let arguments = Bytes::default().text_entry("x-dead-letter-exchange", "dlx").int_entry("x-max-length", 9);
        let queue = QUEUES[usize::from(b) % 3];
        match c & 6 {
            0 => {
                let channel = self.channel(number);
                channel.named += 1;
                let name = format!("amq.gen-{number}-{}", channel.named);
                channel.answers.push_back(Answer::Declare(name));
                self.client(wire::queue_declare(number, "", 0, Bytes::default()));
            }
            2 => {
                self.client(wire::queue_declare(number, queue, 0, arguments));
                self.channel(number).answers.push_back(Answer::Declare(queue.into()));
            }
            4 => {
                self.client(wire::queue_bind(number, queue, "ex", "key.*"));
                self.channel(number).answers.push_back(Answer::Bytes(wire::queue_bind_ok(number)));
            }
            _ => {
                self.client(wire::queue_purge(number, queue));
                self.channel(number).answers.push_back(Answer::Bytes(wire::queue_purge_ok(number, u32::from(b))));
            }
        }
    }

    fn answer(&mut self, number: u16) {
        let Some(channel) = self.channels.get_mut(&number) else { return };
        let Some(answer) = channel.answers.pop_front() else { return };
        let bytes = match answer {
            Answer::Bytes(bytes) => bytes,
            Answer::Declare(name) => wire::queue_declare_ok(number, &name, 3, 1),
            Answer::Cancel(consumer) => {
                channel.consumers.retain(|(other, ..)| *other != consumer);
                wire::cancel_ok(number, &consumer)
            }
            Answer::Consume(consumer, queue, automatic) => {
                let bytes = wire::consume_ok(number, &consumer);
                channel.consumers.push((consumer, queue, automatic));
                bytes
            }
            Answer::Get(queue, automatic) if channel.tag % 3 != 2 => {
                channel.tag += 1;
                let tag = channel.tag;
                if !automatic {
                    channel.outstanding.push_back(tag);
                }
                let mut bytes = wire::get_ok(number, tag, "", queue);
                bytes.extend(self.message(number, 9, 41).concat());
                bytes
            }
            Answer::Get(..) => {
                channel.tag += 0;
                wire::get_empty(number)
            }
        };
        self.broker(bytes);
    }

    fn answer_all(&mut self, number: u16) {
        while self.channels.get(&number).is_some_and(|channel| !channel.answers.is_empty()) {
            self.answer(number);
        }
    }

    fn close(&mut self, number: u16, b: u16, c: u16) {
        if !b.is_multiple_of(3) {
            return;
        }
        self.answer_all(number);
        if c & 2 == 0 {
            self.client(wire::channel_close(number, 200, "done", (0, 0)));
            self.broker(wire::channel_close_ok(number));
        } else {
            let text = "PRECONDITION_FAILED - unknown delivery tag 77";
            self.client(wire::ack(number, 77_777, false));
            self.broker(wire::channel_close(number, 406, text, (60, 80)));
            self.client(wire::channel_close_ok(number));
        }
        self.channels.remove(&number);
    }

    fn other(&mut self, number: u16, b: u16) {
        match b % 4 {
            0 => self.client(wire::heartbeat()),
            1 => self.broker(wire::heartbeat()),
            2 => {
                self.blocked = !self.blocked;
                let bytes = if self.blocked { wire::blocked("memory") } else { wire::unblocked() };
                self.broker(bytes);
            }
            _ => {
                self.answer_all(number);
                self.client(wire::qos(number, b));
                self.broker(wire::qos_ok(number));
            }
        }
    }

    /// Two contents of one side, frame by frame in turn.
    fn interleave(&mut self, number: u16, b: u16, c: u16) {
        let other = 1 + number % CHANNELS;
        if other == number || !self.channels.contains_key(&other) {
            return;
        }
        let side = if b & 1 == 0 { Side::Client } else { Side::Broker };
        let mut lists = Vec::new();
        for number in [number, other] {
            let method = match side {
                Side::Client => {
                    self.channel(number).published += 1;
                    Some(wire::publish(number, "ex", "both", false))
                }
                Side::Broker => self.delivery(number, b),
            };
            let Some(method) = method else { continue };
            let mut frames = vec![method];
            frames.extend(self.message(number, b, c | 7));
            lists.push(frames.into_iter());
        }
        let mut bytes = Vec::new();
        loop {
            let frames: Vec<Vec<u8>> = lists.iter_mut().filter_map(Iterator::next).collect();
            if frames.is_empty() {
                break;
            }
            bytes.extend(frames.concat());
        }
        if !bytes.is_empty() {
            self.writes.push(Write { side, bytes });
        }
    }
}
