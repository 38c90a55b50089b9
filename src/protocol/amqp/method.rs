//! Methods that mean something to a message's life, read from their frames. All others are known by their numbers
//! ([`Specification`]) and counted.

use super::cursor::{Cursor, Flaw};
use super::specification::Specification;
use super::table::Table;
use crate::protocol::operation::Peer;

/// A method with the arguments that matter, borrowed from its frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Method<'a> {
    Start {
        server_properties: Table<'a>,
    },
    /// Read without what follows the properties: that is secret.
    StartOk {
        client_properties: Table<'a>,
    },
    TuneOk {
        channel_max: u16,
        frame_max: u32,
    },
    Open {
        vhost: &'a [u8],
    },
    OpenOk,
    ConnectionClose(Closing<'a>),
    ConnectionCloseOk,
    Blocked {
        reason: &'a [u8],
    },
    Unblocked,
    ChannelOpen,
    ChannelOpenOk,
    ChannelClose(Closing<'a>),
    ChannelCloseOk,
    ExchangeDeclare {
        exchange: &'a [u8],
        kind: &'a [u8],
        passive: bool,
        nowait: bool,
        arguments: Table<'a>,
    },
    ExchangeDeclareOk,
    ExchangeDelete {
        exchange: &'a [u8],
        nowait: bool,
    },
    ExchangeDeleteOk,
    Bind(Binding<'a>),
    BindOk {
        method: (u16, u16),
    },
    QueueDeclare {
        queue: &'a [u8],
        passive: bool,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
        nowait: bool,
        arguments: Table<'a>,
    },
    QueueDeclareOk {
        queue: &'a [u8],
        messages: u32,
        consumers: u32,
    },
    QueuePurge {
        queue: &'a [u8],
        nowait: bool,
    },
    QueuePurgeOk {
        messages: u32,
    },
    QueueDelete {
        queue: &'a [u8],
        nowait: bool,
    },
    QueueDeleteOk {
        messages: u32,
    },
    Consume {
        queue: &'a [u8],
        consumer: &'a [u8],
        no_ack: bool,
        nowait: bool,
    },
    ConsumeOk {
        consumer: &'a [u8],
    },
    Cancel {
        consumer: &'a [u8],
        nowait: bool,
    },
    CancelOk {
        consumer: &'a [u8],
    },
    Publish {
        exchange: &'a [u8],
        routing_key: &'a [u8],
        mandatory: bool,
    },
    Return {
        code: u16,
        text: &'a [u8],
        exchange: &'a [u8],
        routing_key: &'a [u8],
    },
    Deliver {
        consumer: &'a [u8],
        tag: u64,
        redelivered: bool,
        exchange: &'a [u8],
        routing_key: &'a [u8],
    },
    Get {
        queue: &'a [u8],
        no_ack: bool,
    },
    GetOk {
        tag: u64,
        redelivered: bool,
        exchange: &'a [u8],
        routing_key: &'a [u8],
    },
    GetEmpty,
    Ack {
        tag: u64,
        multiple: bool,
    },
    Reject {
        tag: u64,
        requeue: bool,
    },
    Nack {
        tag: u64,
        multiple: bool,
        requeue: bool,
    },
    Recover {
        asynchronous: bool,
    },
    RecoverOk,
    ConfirmSelect,
    ConfirmSelectOk,
    TxSelect,
    TxSelectOk,
    TxCommit,
    TxCommitOk,
    TxRollback,
    TxRollbackOk,
    /// Sound, and of no consequence.
    Other,
}

/// The arguments of channel.close and connection.close.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Closing<'a> {
    pub code: u16,
    pub text: &'a [u8],
    pub method: (u16, u16),
}

/// The arguments of queue.bind, queue.unbind, exchange.bind and exchange.unbind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Binding<'a> {
    pub exchange: &'a [u8],
    pub target: &'a [u8],
    pub routing_key: &'a [u8],
    pub to_exchange: bool,
    pub bound: bool,
    pub nowait: bool,
    pub arguments: bool,
}

impl<'a> Method<'a> {
    /// Reads a method from its frame's payload, which begins with class and method number. Arguments must fill it exactly,
    /// but for those of the login, of which the caller keeps only the public beginning.
    pub fn read(specification: &Specification, payload: &'a [u8]) -> Result<Method<'a>, Flaw> {
        let mut cursor = Cursor::new(payload);
        let numbers = (cursor.u16()?, cursor.u16()?);
        let method = match numbers.0 {
            10 => read_connection(&mut cursor, numbers.1)?,
            20 => read_channel(&mut cursor, numbers.1)?,
            40 => read_exchange(&mut cursor, numbers.1)?,
            50 => read_queue(&mut cursor, numbers.1)?,
            60 => read_basic(&mut cursor, numbers.1)?,
            _ => read_modes(numbers),
        };
        match (method, numbers) {
            (_, (10, 11 | 21 | 70)) => {}
            (Method::Other, _) | (_, (85 | 90, _)) => specification.validate(payload.get(4..).unwrap_or_default())?,
            _ => cursor.finish()?,
        }
        Ok(method)
    }

    /// Who sends a content that begins with this method.
    pub fn content_sender(&self) -> Peer {
        if matches!(self, Method::Publish { .. }) { Peer::Client } else { Peer::Broker }
    }

    /// Reads a sound basic.publish or basic.deliver.
    pub fn read_content(payload: &'a [u8]) -> Option<Method<'a>> {
        let (numbers, arguments) = payload.split_first_chunk()?;
        let mut cursor = Cursor::new(arguments);
        let method = match numbers {
            [0, 60, 0, 40] => read_publish(&mut cursor),
            [0, 60, 0, 60] => read_deliver(&mut cursor),
            _ => return None,
        };
        cursor.finish().ok()?;
        method.ok()
    }
}

fn read_connection<'a>(cursor: &mut Cursor<'a>, method: u16) -> Result<Method<'a>, Flaw> {
    Ok(match method {
        10 => {
            cursor.u16()?;
            let server_properties = Table::read(cursor)?;
            cursor.long_string()?;
            cursor.long_string()?;
            Method::Start { server_properties }
        }
        11 => Method::StartOk { client_properties: Table::read(cursor)? },
        31 => {
            let (channel_max, frame_max, _heartbeat) = (cursor.u16()?, cursor.u32()?, cursor.u16()?);
            Method::TuneOk { channel_max, frame_max }
        }
        40 => {
            let vhost = cursor.short_string()?;
            cursor.short_string()?;
            cursor.u8()?;
            Method::Open { vhost }
        }
        41 => {
            cursor.short_string()?;
            Method::OpenOk
        }
        50 => Method::ConnectionClose(read_closing(cursor)?),
        51 => Method::ConnectionCloseOk,
        60 => Method::Blocked { reason: cursor.short_string()? },
        61 => Method::Unblocked,
        _ => Method::Other,
    })
}

fn read_channel<'a>(cursor: &mut Cursor<'a>, method: u16) -> Result<Method<'a>, Flaw> {
    Ok(match method {
        10 => {
            cursor.short_string()?;
            Method::ChannelOpen
        }
        11 => {
            cursor.long_string()?;
            Method::ChannelOpenOk
        }
        40 => Method::ChannelClose(read_closing(cursor)?),
        41 => Method::ChannelCloseOk,
        _ => Method::Other,
    })
}

fn read_closing<'a>(cursor: &mut Cursor<'a>) -> Result<Closing<'a>, Flaw> {
    Ok(Closing { code: cursor.u16()?, text: cursor.short_string()?, method: (cursor.u16()?, cursor.u16()?) })
}

fn read_exchange<'a>(cursor: &mut Cursor<'a>, method: u16) -> Result<Method<'a>, Flaw> {
    Ok(match method {
        10 => {
            cursor.u16()?;
            let (exchange, kind) = (cursor.short_string()?, cursor.short_string()?);
            let [passive, _durable, _auto_delete, _internal, nowait] = bits(cursor)?;
            Method::ExchangeDeclare { exchange, kind, passive, nowait, arguments: Table::read(cursor)? }
        }
        11 => Method::ExchangeDeclareOk,
        20 => {
            cursor.u16()?;
            let exchange = cursor.short_string()?;
            let [_if_unused, nowait] = bits(cursor)?;
            Method::ExchangeDelete { exchange, nowait }
        }
        21 => Method::ExchangeDeleteOk,
        30 | 40 => {
            cursor.u16()?;
            let (target, exchange) = (cursor.short_string()?, cursor.short_string()?);
            let routing_key = cursor.short_string()?;
            let [nowait] = bits(cursor)?;
            let arguments = !Table::read(cursor)?.bytes().is_empty();
            let bound = method == 30;
            Method::Bind(Binding { exchange, target, routing_key, to_exchange: true, bound, nowait, arguments })
        }
        31 | 51 => Method::BindOk { method: (40, method) },
        _ => Method::Other,
    })
}

fn read_queue<'a>(cursor: &mut Cursor<'a>, method: u16) -> Result<Method<'a>, Flaw> {
    Ok(match method {
        10 => {
            cursor.u16()?;
            let queue = cursor.short_string()?;
            let [passive, durable, exclusive, auto_delete, nowait] = bits(cursor)?;
            let arguments = Table::read(cursor)?;
            Method::QueueDeclare { queue, passive, durable, exclusive, auto_delete, nowait, arguments }
        }
        11 => {
            let (queue, messages) = (cursor.short_string()?, cursor.u32()?);
            Method::QueueDeclareOk { queue, messages, consumers: cursor.u32()? }
        }
        20 | 50 => {
            cursor.u16()?;
            let (target, exchange) = (cursor.short_string()?, cursor.short_string()?);
            let routing_key = cursor.short_string()?;
            let bound = method == 20;
            let [nowait] = if bound { bits(cursor)? } else { [false] };
            let arguments = !Table::read(cursor)?.bytes().is_empty();
            Method::Bind(Binding { exchange, target, routing_key, to_exchange: false, bound, nowait, arguments })
        }
        21 | 51 => Method::BindOk { method: (50, method) },
        30 => {
            cursor.u16()?;
            let queue = cursor.short_string()?;
            let [nowait] = bits(cursor)?;
            Method::QueuePurge { queue, nowait }
        }
        31 => Method::QueuePurgeOk { messages: cursor.u32()? },
        40 => {
            cursor.u16()?;
            let queue = cursor.short_string()?;
            let [_if_unused, _if_empty, nowait] = bits(cursor)?;
            Method::QueueDelete { queue, nowait }
        }
        41 => Method::QueueDeleteOk { messages: cursor.u32()? },
        _ => Method::Other,
    })
}

fn read_basic<'a>(cursor: &mut Cursor<'a>, method: u16) -> Result<Method<'a>, Flaw> {
    Ok(match method {
        20 => {
            cursor.u16()?;
            let (queue, consumer) = (cursor.short_string()?, cursor.short_string()?);
            let [_no_local, no_ack, _exclusive, nowait] = bits(cursor)?;
            Table::read(cursor)?;
            Method::Consume { queue, consumer, no_ack, nowait }
        }
        21 => Method::ConsumeOk { consumer: cursor.short_string()? },
        30 => {
            let consumer = cursor.short_string()?;
            let [nowait] = bits(cursor)?;
            Method::Cancel { consumer, nowait }
        }
        31 => Method::CancelOk { consumer: cursor.short_string()? },
        40 => read_publish(cursor)?,
        50 => {
            let (code, text) = (cursor.u16()?, cursor.short_string()?);
            let (exchange, routing_key) = (cursor.short_string()?, cursor.short_string()?);
            Method::Return { code, text, exchange, routing_key }
        }
        60 => read_deliver(cursor)?,
        70 => {
            cursor.u16()?;
            let queue = cursor.short_string()?;
            let [no_ack] = bits(cursor)?;
            Method::Get { queue, no_ack }
        }
        71 => {
            let tag = cursor.u64()?;
            let [redelivered] = bits(cursor)?;
            let (exchange, routing_key) = (cursor.short_string()?, cursor.short_string()?);
            cursor.u32()?;
            Method::GetOk { tag, redelivered, exchange, routing_key }
        }
        72 => {
            cursor.short_string()?;
            Method::GetEmpty
        }
        80 => {
            let tag = cursor.u64()?;
            let [multiple] = bits(cursor)?;
            Method::Ack { tag, multiple }
        }
        90 => {
            let tag = cursor.u64()?;
            let [requeue] = bits(cursor)?;
            Method::Reject { tag, requeue }
        }
        100 | 110 => {
            let [_requeue] = bits(cursor)?;
            Method::Recover { asynchronous: method == 100 }
        }
        111 => Method::RecoverOk,
        120 => {
            let tag = cursor.u64()?;
            let [multiple, requeue] = bits(cursor)?;
            Method::Nack { tag, multiple, requeue }
        }
        _ => Method::Other,
    })
}

fn read_publish<'a>(cursor: &mut Cursor<'a>) -> Result<Method<'a>, Flaw> {
    cursor.u16()?;
    let (exchange, routing_key) = (cursor.short_string()?, cursor.short_string()?);
    let [mandatory, _immediate] = bits(cursor)?;
    Ok(Method::Publish { exchange, routing_key, mandatory })
}

fn read_deliver<'a>(cursor: &mut Cursor<'a>) -> Result<Method<'a>, Flaw> {
    let (consumer, tag) = (cursor.short_string()?, cursor.u64()?);
    let [redelivered] = bits(cursor)?;
    let (exchange, routing_key) = (cursor.short_string()?, cursor.short_string()?);
    Ok(Method::Deliver { consumer, tag, redelivered, exchange, routing_key })
}

/// confirm.select's only argument is whether an answer is wanted: nothing depends on it.
fn read_modes<'a>(numbers: (u16, u16)) -> Method<'a> {
    match numbers {
        (85, 10) => Method::ConfirmSelect,
        (85, 11) => Method::ConfirmSelectOk,
        (90, 10) => Method::TxSelect,
        (90, 11) => Method::TxSelectOk,
        (90, 20) => Method::TxCommit,
        (90, 21) => Method::TxCommitOk,
        (90, 30) => Method::TxRollback,
        (90, 31) => Method::TxRollbackOk,
        _ => Method::Other,
    }
}

/// Up to eight bits that share an octet.
fn bits<const N: usize>(cursor: &mut Cursor<'_>) -> Result<[bool; N], Flaw> {
    let octet = cursor.u8()?;
    Ok(std::array::from_fn(|bit| octet >> bit & 1 != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(payload: &[u8]) -> Result<Method<'_>, Flaw> {
        let numbers = [u16::from_be_bytes([payload[0], payload[1]]), u16::from_be_bytes([payload[2], payload[3]])];
        Method::read(Specification::find(numbers[0], numbers[1]).unwrap(), payload)
    }

    #[test]
    fn publish_and_deliver() {
        assert_eq!(
            read(b"\0\x3c\0\x28\0\0\x02ex\x02rk\x01"),
            Ok(Method::Publish { exchange: b"ex", routing_key: b"rk", mandatory: true })
        );
        assert_eq!(
            read(b"\0\x3c\0\x3c\x03tag\0\0\0\0\0\0\0\x07\x01\0\x01q"),
            Ok(Method::Deliver { consumer: b"tag", tag: 7, redelivered: true, exchange: b"", routing_key: b"q" })
        );
    }

    #[test]
    fn bits_share_an_octet_from_the_lowest_up() {
        assert_eq!(
            read(b"\0\x3c\0\x78\0\0\0\0\0\0\0\x02\x02"),
            Ok(Method::Nack { tag: 2, multiple: false, requeue: true })
        );
        assert_eq!(
            read(b"\0\x3c\0\x14\0\0\x01q\x01c\x0a\0\0\0\0"),
            Ok(Method::Consume { queue: b"q", consumer: b"c", no_ack: true, nowait: true })
        );
    }

    #[test]
    fn the_arguments_must_fill_the_frame_exactly() {
        assert_eq!(read(b"\0\x3c\0\x50\0\0\0\0\0\0\0\x02"), Err(Flaw::Incomplete));
        assert_eq!(read(b"\0\x3c\0\x50\0\0\0\0\0\0\0\x02\0\0"), Err(Flaw::Malformed));
        assert_eq!(read(b"\0\x0a\0\x0b\0\0\0\0"), Ok(Method::StartOk { client_properties: Table::default() }));
        assert_eq!(read(b"\0\x55\0\x0a\x01"), Ok(Method::ConfirmSelect));
        assert_eq!(read(b"\0\x3c\0\x0a\0\0\0\0\0\x01\0"), Ok(Method::Other));
    }

    /// Whatever the generic table accepts, the typed reader accepts, and the other way round.
    #[test]
    fn typed_reading_agrees_with_the_table() {
        for row in Specification::all() {
            let secret = matches!((row.class, row.method), (10, 11 | 21 | 70));
            for filler in 0..=2u8 {
                for length in 0..40 {
                    let arguments = vec![filler; length];
                    let payload = [&row.class.to_be_bytes()[..], &row.method.to_be_bytes(), &arguments].concat();
                    let (typed, generic) = (Method::read(row, &payload), row.validate(&arguments));
                    if !secret {
                        assert_eq!(typed.is_ok(), generic.is_ok(), "{} {filler} {length}", row.name);
                    }
                }
            }
        }
    }
}
