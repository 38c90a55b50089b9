//! A small encoder of AMQP 0-9-1 for tests: what clients and brokers write.

#![allow(dead_code, reason = "each test uses a part of it")]

/// What a client says first.
pub const PREFACE: &[u8] = b"AMQP\0\0\x09\x01";

/// Arguments of a method, or properties, under construction.
#[derive(Clone, Debug, Default)]
pub struct Bytes(pub Vec<u8>);

impl Bytes {
    pub fn octet(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub fn short(mut self, value: u16) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub fn long(mut self, value: u32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub fn longlong(mut self, value: u64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub fn short_string(mut self, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        self.0.push(u8::try_from(value.len()).expect("a short string"));
        self.0.extend(value);
        self
    }

    pub fn long_string(mut self, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        self.0.extend(u32::try_from(value.len()).expect("a long string").to_be_bytes());
        self.0.extend(value);
        self
    }

    pub fn raw(mut self, value: impl AsRef<[u8]>) -> Self {
        self.0.extend(value.as_ref());
        self
    }

    /// A table with its length.
    pub fn table(self, entries: Bytes) -> Self {
        self.long_string(entries.0)
    }

    /// A table's entry with a string.
    pub fn text_entry(self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.short_string(key).octet(b'S').long_string(value)
    }

    /// A table's entry with an integer.
    pub fn int_entry(self, key: &str, value: i64) -> Self {
        self.short_string(key).octet(b'l').longlong(value as u64)
    }
}

/// A frame.
pub fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    Bytes::default().octet(kind).short(channel).long_string(payload).octet(0xce).0
}

/// A method's frame.
pub fn method(channel: u16, class: u16, method: u16, arguments: Bytes) -> Vec<u8> {
    frame(1, channel, &Bytes::default().short(class).short(method).raw(arguments.0).0)
}

fn none() -> Bytes {
    Bytes::default()
}

pub fn heartbeat() -> Vec<u8> {
    frame(8, 0, &[])
}

pub fn start() -> Vec<u8> {
    let properties = none().text_entry("product", "RabbitMQ").text_entry("version", "3.10.8");
    method(0, 10, 10, none().octet(0).octet(9).table(properties).long_string("PLAIN AMQPLAIN").long_string("en_US"))
}

pub fn start_ok(name: &str, secret: &str) -> Vec<u8> {
    let properties = none().text_entry("product", "tester").text_entry("connection_name", name);
    method(0, 10, 11, none().table(properties).short_string("PLAIN").long_string(secret).short_string("en_US"))
}

pub fn tune(channel_max: u16, frame_max: u32) -> Vec<u8> {
    method(0, 10, 30, none().short(channel_max).long(frame_max).short(60))
}

pub fn tune_ok(channel_max: u16, frame_max: u32) -> Vec<u8> {
    method(0, 10, 31, none().short(channel_max).long(frame_max).short(60))
}

pub fn open(vhost: &str) -> Vec<u8> {
    method(0, 10, 40, none().short_string(vhost).short_string("").octet(0))
}

pub fn open_ok() -> Vec<u8> {
    method(0, 10, 41, none().short_string(""))
}

pub fn connection_close(code: u16, text: &str) -> Vec<u8> {
    method(0, 10, 50, none().short(code).short_string(text).short(0).short(0))
}

pub fn connection_close_ok() -> Vec<u8> {
    method(0, 10, 51, none())
}

pub fn update_secret(secret: &str) -> Vec<u8> {
    method(0, 10, 70, none().long_string(secret).short_string("refresh"))
}

pub fn blocked(reason: &str) -> Vec<u8> {
    method(0, 10, 60, none().short_string(reason))
}

pub fn unblocked() -> Vec<u8> {
    method(0, 10, 61, none())
}

pub fn channel_open(channel: u16) -> Vec<u8> {
    method(channel, 20, 10, none().short_string(""))
}

pub fn channel_open_ok(channel: u16) -> Vec<u8> {
    method(channel, 20, 11, none().long_string(""))
}

pub fn channel_flow(channel: u16, active: bool) -> Vec<u8> {
    method(channel, 20, 20, none().octet(u8::from(active)))
}

pub fn channel_close(channel: u16, code: u16, text: &str, cause: (u16, u16)) -> Vec<u8> {
    method(channel, 20, 40, none().short(code).short_string(text).short(cause.0).short(cause.1))
}

pub fn channel_close_ok(channel: u16) -> Vec<u8> {
    method(channel, 20, 41, none())
}

pub fn exchange_declare(channel: u16, exchange: &str, kind: &str, arguments: Bytes) -> Vec<u8> {
    let names = none().short(0).short_string(exchange).short_string(kind);
    method(channel, 40, 10, names.octet(0).table(arguments))
}

pub fn exchange_declare_ok(channel: u16) -> Vec<u8> {
    method(channel, 40, 11, none())
}

pub fn queue_declare(channel: u16, queue: &str, bits: u8, arguments: Bytes) -> Vec<u8> {
    method(channel, 50, 10, none().short(0).short_string(queue).octet(bits).table(arguments))
}

pub fn queue_declare_ok(channel: u16, queue: &str, messages: u32, consumers: u32) -> Vec<u8> {
    method(channel, 50, 11, none().short_string(queue).long(messages).long(consumers))
}

pub fn queue_bind(channel: u16, queue: &str, exchange: &str, key: &str) -> Vec<u8> {
    let names = none().short(0).short_string(queue).short_string(exchange).short_string(key);
    method(channel, 50, 20, names.octet(0).table(none()))
}

pub fn queue_bind_ok(channel: u16) -> Vec<u8> {
    method(channel, 50, 21, none())
}

pub fn queue_purge(channel: u16, queue: &str) -> Vec<u8> {
    method(channel, 50, 30, none().short(0).short_string(queue).octet(0))
}

pub fn queue_purge_ok(channel: u16, messages: u32) -> Vec<u8> {
    method(channel, 50, 31, none().long(messages))
}

pub fn queue_delete(channel: u16, queue: &str) -> Vec<u8> {
    method(channel, 50, 40, none().short(0).short_string(queue).octet(0))
}

pub fn queue_delete_ok(channel: u16, messages: u32) -> Vec<u8> {
    method(channel, 50, 41, none().long(messages))
}

pub fn qos(channel: u16, count: u16) -> Vec<u8> {
    method(channel, 60, 10, none().long(0).short(count).octet(0))
}

pub fn qos_ok(channel: u16) -> Vec<u8> {
    method(channel, 60, 11, none())
}

/// bits: 2 no-ack, 8 nowait.
pub fn consume(channel: u16, queue: &str, consumer: &str, bits: u8) -> Vec<u8> {
    let names = none().short(0).short_string(queue).short_string(consumer);
    method(channel, 60, 20, names.octet(bits).table(none()))
}

pub fn consume_ok(channel: u16, consumer: &str) -> Vec<u8> {
    method(channel, 60, 21, none().short_string(consumer))
}

pub fn cancel(channel: u16, consumer: &str, nowait: bool) -> Vec<u8> {
    method(channel, 60, 30, none().short_string(consumer).octet(u8::from(nowait)))
}

pub fn cancel_ok(channel: u16, consumer: &str) -> Vec<u8> {
    method(channel, 60, 31, none().short_string(consumer))
}

pub fn publish(channel: u16, exchange: &str, key: &str, mandatory: bool) -> Vec<u8> {
    let names = none().short(0).short_string(exchange).short_string(key);
    method(channel, 60, 40, names.octet(u8::from(mandatory)))
}

pub fn returned(channel: u16, exchange: &str, key: &str) -> Vec<u8> {
    let names = none().short(312).short_string("NO_ROUTE").short_string(exchange).short_string(key);
    method(channel, 60, 50, names)
}

pub fn deliver(channel: u16, consumer: &str, tag: u64, redelivered: bool, exchange: &str, key: &str) -> Vec<u8> {
    let arguments = none().short_string(consumer).longlong(tag).octet(u8::from(redelivered));
    method(channel, 60, 60, arguments.short_string(exchange).short_string(key))
}

pub fn get(channel: u16, queue: &str, no_ack: bool) -> Vec<u8> {
    method(channel, 60, 70, none().short(0).short_string(queue).octet(u8::from(no_ack)))
}

pub fn get_ok(channel: u16, tag: u64, exchange: &str, key: &str) -> Vec<u8> {
    let arguments = none().longlong(tag).octet(0).short_string(exchange).short_string(key);
    method(channel, 60, 71, arguments.long(0))
}

pub fn get_empty(channel: u16) -> Vec<u8> {
    method(channel, 60, 72, none().short_string(""))
}

pub fn ack(channel: u16, tag: u64, multiple: bool) -> Vec<u8> {
    method(channel, 60, 80, none().longlong(tag).octet(u8::from(multiple)))
}

pub fn reject(channel: u16, tag: u64, requeue: bool) -> Vec<u8> {
    method(channel, 60, 90, none().longlong(tag).octet(u8::from(requeue)))
}

pub fn nack(channel: u16, tag: u64, multiple: bool, requeue: bool) -> Vec<u8> {
    let bits = u8::from(multiple) | u8::from(requeue) << 1;
    method(channel, 60, 120, none().longlong(tag).octet(bits))
}

pub fn recover(channel: u16) -> Vec<u8> {
    method(channel, 60, 110, none().octet(1))
}

pub fn recover_ok(channel: u16) -> Vec<u8> {
    method(channel, 60, 111, none())
}

pub fn confirm_select(channel: u16) -> Vec<u8> {
    method(channel, 85, 10, none().octet(0))
}

pub fn confirm_select_ok(channel: u16) -> Vec<u8> {
    method(channel, 85, 11, none())
}

/// 10 select, 11 select-ok, 20 commit, 21 commit-ok, 30 rollback, 31 rollback-ok.
pub fn tx(channel: u16, number: u16) -> Vec<u8> {
    method(channel, 90, number, none())
}

/// The properties of a message that tests use.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Properties {
    pub headers: Option<Vec<u8>>,
    pub correlation_id: Option<String>,
    pub message_id: Option<String>,
}

/// A content header's frame.
pub fn header(channel: u16, body_size: u64, properties: &Properties) -> Vec<u8> {
    let mut flags = 0u16;
    let mut list = none();
    if let Some(headers) = &properties.headers {
        flags |= 1 << 13;
        list = list.long_string(headers);
    }
    if let Some(id) = &properties.correlation_id {
        flags |= 1 << 10;
        list = list.short_string(id);
    }
    if let Some(id) = &properties.message_id {
        flags |= 1 << 7;
        list = list.short_string(id);
    }
    frame(2, channel, &none().short(60).short(0).longlong(body_size).short(flags).raw(list.0).0)
}

/// Header and body frames, the body cut into frames of at most `largest` bytes.
pub fn content(channel: u16, properties: &Properties, body: &[u8], largest: usize) -> Vec<Vec<u8>> {
    let mut frames = vec![header(channel, body.len() as u64, properties)];
    frames.extend(body.chunks(largest).map(|part| frame(3, channel, part)));
    frames
}

/// A message of a body alone, as one piece of bytes.
pub fn message(channel: u16, body: &[u8]) -> Vec<u8> {
    content(channel, &Properties::default(), body, 131_064).concat()
}
