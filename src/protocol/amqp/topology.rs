//! Queues, exchanges, bindings, consumers: requests, and what is true once they are answered.

use super::channel::Channel;
use super::consumers;
use super::method::{Binding, Method};
use super::requests::Request;
use super::table::{Table, Value};
use crate::names::{Name, Names};
use crate::protocol::operation::{Operation, Peer, QueueArguments};
use crate::protocol::output::Output;

const EXCHANGE_DECLARE_OK: (u16, u16) = (40, 11);
const EXCHANGE_DELETE_OK: (u16, u16) = (40, 21);
const EXCHANGE_BIND_OK: (u16, u16) = (40, 31);
const EXCHANGE_UNBIND_OK: (u16, u16) = (40, 51);
const QUEUE_DECLARE_OK: (u16, u16) = (50, 11);
const QUEUE_BIND_OK: (u16, u16) = (50, 21);
const QUEUE_PURGE_OK: (u16, u16) = (50, 31);
const QUEUE_DELETE_OK: (u16, u16) = (50, 41);
const QUEUE_UNBIND_OK: (u16, u16) = (50, 51);
const CONSUME_OK: (u16, u16) = (60, 21);
const CANCEL_OK: (u16, u16) = (60, 31);
const RECOVER_OK: (u16, u16) = (60, 111);

impl Channel {
    /// Takes a method that [`Channel::method`] left.
    pub fn topology(&mut self, method: &Method<'_>, from: Peer, out: &mut Output<'_>) {
        match (method, from) {
            (Method::ExchangeDeclare { .. } | Method::ExchangeDelete { .. } | Method::Bind(_), _) => {
                self.change_exchange(method, out);
            }
            (Method::ExchangeDeclareOk, _) => self.done(EXCHANGE_DECLARE_OK, out),
            (Method::ExchangeDeleteOk, _) => self.done(EXCHANGE_DELETE_OK, out),
            (Method::BindOk { method }, _) => self.done(*method, out),
            (Method::QueueDeclare { queue, passive, durable, exclusive, auto_delete, nowait, arguments }, _) => {
                let arguments = (!passive).then(|| {
                    let (durable, exclusive, auto_delete) = (*durable, *exclusive, *auto_delete);
                    QueueArguments { durable, exclusive, auto_delete, ..queue_arguments(*arguments, out.names) }
                });
                self.declare_queue(name(queue, out), arguments.map(Box::new), *nowait, out);
            }
            (Method::QueueDeclareOk { queue, messages, consumers }, _) => {
                self.queue_declared(queue, *messages, *consumers, out);
            }
            (Method::QueuePurge { queue, nowait }, _) => self.empty_queue(name(queue, out), false, *nowait, out),
            (Method::QueueDelete { queue, nowait }, _) => self.empty_queue(name(queue, out), true, *nowait, out),
            (Method::QueuePurgeOk { messages }, _) => self.queue_emptied(QUEUE_PURGE_OK, *messages, out),
            (Method::QueueDeleteOk { messages }, _) => self.queue_emptied(QUEUE_DELETE_OK, *messages, out),
            (Method::Consume { queue, consumer, no_ack, nowait }, _) => {
                let (queue, consumer) = (name(queue, out), name(consumer, out));
                match consumer {
                    Some(consumer) if *nowait => self.start_consumer(consumer, queue, *no_ack, out),
                    consumer => self.ask(Request::Consume { queue, consumer, no_ack: *no_ack }, out),
                }
            }
            (Method::ConsumeOk { consumer }, _) => self.consumer_started(consumer, out),
            (Method::Get { queue, no_ack }, _) => {
                let queue = name(queue, out);
                self.ask(Request::Get { queue, no_ack: *no_ack }, out);
            }
            (Method::Cancel { consumer, nowait: false }, Peer::Client) => {
                let consumer = out.name(consumer);
                self.ask(Request::Cancel { consumer }, out);
            }
            (Method::Cancel { consumer, .. }, by) => self.cancel_consumer(consumer, by, by == Peer::Broker, out),
            (Method::CancelOk { consumer }, Peer::Broker) => {
                self.requests.answered(CANCEL_OK, out.time, |_| None);
                self.cancel_consumer(consumer, Peer::Client, true, out);
            }
            (Method::Recover { asynchronous: true }, _) => self.recovered(out),
            (Method::Recover { asynchronous: false }, Peer::Client) => out.push(Operation::RecoverAsked(self.id)),
            (Method::RecoverOk, _) => {
                self.requests.answered(RECOVER_OK, out.time, |_| None);
                self.recovered(out);
            }
            _ => {}
        }
    }

    fn change_exchange(&mut self, method: &Method<'_>, out: &mut Output<'_>) {
        let (answer, nowait, operation) = match method {
            Method::ExchangeDeclare { exchange, kind, passive, nowait, arguments } => {
                let (exchange, kind) = (out.name(exchange), (!passive).then(|| out.name(kind)));
                let alternate = text(*arguments, "alternate-exchange", out.names);
                (EXCHANGE_DECLARE_OK, *nowait, Operation::ExchangeDeclared { exchange, kind, alternate })
            }
            Method::ExchangeDelete { exchange, nowait } => {
                (EXCHANGE_DELETE_OK, *nowait, Operation::ExchangeDeleted { exchange: out.name(exchange) })
            }
            Method::Bind(binding) => (bind_answer(binding), binding.nowait, bind(binding, out)),
            _ => return,
        };
        match nowait {
            true => self.happened(operation, out),
            false => self.ask(Request::Then { answer, operation }, out),
        }
    }

    fn done(&mut self, answer: (u16, u16), out: &mut Output<'_>) {
        if let Some(Request::Then { operation, .. }) = self.requests.answered(answer, out.time, |_| None) {
            self.happened(operation, out);
        }
    }

    /// Says that something is so. An empty queue's name means the one declared last, and with it an empty routing key the
    /// queue's name.
    fn happened(&mut self, operation: Operation, out: &mut Output<'_>) {
        match operation {
            Operation::Binding { exchange, target, to_exchange: false, routing_key, bound, arguments }
                if target.is_empty() =>
            {
                let Some(target) = self.last_queue.clone() else { return };
                let routing_key = if routing_key.is_empty() { target.clone() } else { routing_key };
                out.push(Operation::Binding { exchange, target, to_exchange: false, routing_key, bound, arguments });
            }
            operation => out.push(operation),
        }
    }

    fn declare_queue(
        &mut self,
        queue: Option<Name>,
        arguments: Option<Box<QueueArguments>>,
        nowait: bool,
        out: &mut Output<'_>,
    ) {
        match queue {
            Some(queue) if nowait => {
                self.last_queue = Some(queue.clone());
                out.push(Operation::QueueDeclared { queue, arguments, messages: None, consumers: None });
            }
            queue => self.ask(Request::DeclareQueue { queue, arguments }, out),
        }
    }

    fn queue_declared(&mut self, queue: &[u8], messages: u32, consumers: u32, out: &mut Output<'_>) {
        let queue = out.name(queue);
        let request = self.requests.answered(QUEUE_DECLARE_OK, out.time, |request| match request {
            Request::DeclareQueue { queue: Some(asked), .. } => Some(*asked == queue),
            _ => None,
        });
        let arguments = match request {
            Some(Request::DeclareQueue { arguments, .. }) => arguments,
            _ => None,
        };
        self.last_queue = Some(queue.clone());
        let (messages, consumers) = (Some(u64::from(messages)), Some(u64::from(consumers)));
        out.push(Operation::QueueDeclared { queue, arguments, messages, consumers });
    }

    fn empty_queue(&mut self, queue: Option<Name>, deleted: bool, nowait: bool, out: &mut Output<'_>) {
        if !nowait {
            return self.ask(Request::EmptyQueue { queue, deleted }, out);
        }
        if let Some(queue) = queue.or_else(|| self.queue_declared_last()) {
            out.push(Operation::QueueEmptied { queue, deleted, messages: None });
        }
    }

    fn queue_emptied(&mut self, answer: (u16, u16), messages: u32, out: &mut Output<'_>) {
        let request = self.requests.answered(answer, out.time, |_| None);
        if let Some(Request::EmptyQueue { queue, deleted }) = request
            && let Some(queue) = queue.or_else(|| self.last_queue.clone())
        {
            out.push(Operation::QueueEmptied { queue, deleted, messages: Some(u64::from(messages)) });
        }
    }

    fn consumer_started(&mut self, consumer: &[u8], out: &mut Output<'_>) {
        let consumer = out.name(consumer);
        let request = self.requests.answered(CONSUME_OK, out.time, |request| match request {
            Request::Consume { consumer: Some(asked), .. } => Some(*asked == consumer),
            _ => None,
        });
        if let Some(Request::Consume { queue, no_ack, .. }) = request {
            let queue = queue.or_else(|| self.last_queue.clone());
            self.add_consumer(consumer, queue, no_ack, true, out);
        }
    }

    fn start_consumer(&mut self, consumer: Name, queue: Option<Name>, no_ack: bool, out: &mut Output<'_>) {
        let queue = queue.or_else(|| self.queue_declared_last());
        self.add_consumer(consumer, queue, no_ack, false, out);
    }

    fn add_consumer(
        &mut self,
        consumer: Name,
        queue: Option<Name>,
        no_ack: bool,
        answered: bool,
        out: &mut Output<'_>,
    ) {
        let Some(queue) = queue else { return };
        if !out.take_room(consumers::COST) {
            return;
        }
        self.consumers.start(consumer.clone(), queue.clone(), no_ack);
        let (channel, automatic) = (self.id, Some(no_ack));
        out.push(Operation::ConsumerStarted { channel, consumer, queue, automatic, learned: false, answered });
    }

    fn cancel_consumer(&mut self, consumer: &[u8], by: Peer, answered: bool, out: &mut Output<'_>) {
        let consumer = out.name(consumer);
        let queue = self.consumers.cancel(&consumer);
        out.push(Operation::ConsumerCancelled { channel: self.id, consumer, queue, by, answered });
    }

    /// The queue declared last, if no answer under way can change which that is.
    fn queue_declared_last(&self) -> Option<Name> {
        self.last_queue.clone().filter(|_| !self.requests.declares_queue())
    }
}

fn bind(binding: &Binding<'_>, out: &mut Output<'_>) -> Operation {
    Operation::Binding {
        exchange: out.name(binding.exchange),
        target: out.name(binding.target),
        to_exchange: binding.to_exchange,
        routing_key: out.name(binding.routing_key),
        bound: binding.bound,
        arguments: binding.arguments,
    }
}

fn bind_answer(binding: &Binding<'_>) -> (u16, u16) {
    match (binding.to_exchange, binding.bound) {
        (true, true) => EXCHANGE_BIND_OK,
        (true, false) => EXCHANGE_UNBIND_OK,
        (false, true) => QUEUE_BIND_OK,
        (false, false) => QUEUE_UNBIND_OK,
    }
}

/// A name that may be left empty.
fn name(wire: &[u8], out: &mut Output<'_>) -> Option<Name> {
    (!wire.is_empty()).then(|| out.name(wire))
}

fn text(table: Table<'_>, key: &str, names: &mut Names) -> Option<Name> {
    table.get(key).and_then(Value::text).map(|text| names.intern(text))
}

fn queue_arguments(table: Table<'_>, names: &mut Names) -> QueueArguments {
    let number = |key: &str| table.get(key).and_then(Value::unsigned);
    QueueArguments {
        dead_letter_exchange: text(table, "x-dead-letter-exchange", names),
        dead_letter_routing_key: text(table, "x-dead-letter-routing-key", names),
        message_ttl_ms: number("x-message-ttl"),
        expires_ms: number("x-expires"),
        max_length: number("x-max-length"),
        max_length_bytes: number("x-max-length-bytes"),
        overflow: text(table, "x-overflow", names),
        queue_type: text(table, "x-queue-type", names),
        delivery_limit: match table.get("x-delivery-limit") {
            Some(Value::Int(limit)) => Some(limit),
            _ => None,
        },
        single_active_consumer: table.get("x-single-active-consumer") == Some(Value::Bool(true)),
        max_priority: number("x-max-priority"),
        durable: false,
        exclusive: false,
        auto_delete: false,
    }
}
