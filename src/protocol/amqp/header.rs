//! Content headers: body size, properties, headers.

use super::cursor::{Cursor, Flaw};
use super::identity::{self, BodyDigest, Stable, StableProperty};
use super::table::{Table, Value};
use crate::names::{Name, Names, clean};
use crate::protocol::Trouble;
use crate::protocol::operation::{Death, Extras, Identity, IdentitySource, Message};
use crate::protocol::traceparent::traceparent;

/// The most entries of x-death that are kept. There is one for each queue and reason that a message died of.
const MOST_DEATHS: usize = 64;

/// What a content header says.
#[derive(Debug)]
pub(super) struct Header {
    pub body_size: u64,
    pub message_id: Option<Name>,
    /// The identity by message-id, where it has one.
    pub identity: Option<Identity>,
    pub stable: Stable,
    pub extras: Option<Box<Extras>>,
    /// The properties could not be read to their end: there is no fingerprint.
    pub flaw: Option<Flaw>,
}

/// The properties in the order of their flags, from bit 15 down.
#[derive(Clone, Copy, Debug, Default)]
struct Properties<'a> {
    content_type: Option<&'a [u8]>,
    content_encoding: Option<&'a [u8]>,
    headers: Option<Table<'a>>,
    correlation_id: Option<&'a [u8]>,
    expiration: Option<&'a [u8]>,
    message_id: Option<&'a [u8]>,
    kind: Option<&'a [u8]>,
    user_id: Option<&'a [u8]>,
    app_id: Option<&'a [u8]>,
}

impl Header {
    /// Reads a header frame's payload. Fails only where not even the body's size can be read; all else is a flaw of the
    /// message.
    pub fn read(payload: &[u8], names: &mut Names) -> Result<Header, Flaw> {
        let mut cursor = Cursor::new(payload);
        let body_size = read_size(&mut cursor)?;
        let mut header =
            Header { body_size, message_id: None, identity: None, stable: Stable::default(), extras: None, flaw: None };
        match read_properties(&mut cursor) {
            Ok(None) => {}
            Ok(Some(properties)) => header.take(&properties, names),
            Err(flaw) => header.flaw = Some(flaw),
        }
        Ok(header)
    }

    /// What was wrong with it.
    pub fn trouble(&self) -> Option<Trouble> {
        Some(match self.flaw? {
            Flaw::TooDeep => Trouble::TooDeep,
            Flaw::Incomplete | Flaw::Malformed => Trouble::Malformed,
        })
    }

    /// The message that it is of, with this body: taken out of here, not copied.
    pub fn message(&mut self, digest: Option<BodyDigest>) -> Message {
        let size = self.body_size;
        let readable = !matches!(self.flaw, Some(Flaw::Incomplete | Flaw::Malformed));
        let fingerprint = || digest.filter(|_| readable).map(|digest| self.stable.fingerprint(size, digest));
        Message {
            identity: self.identity.or_else(fingerprint),
            source: if self.identity.is_some() { IdentitySource::MessageId } else { self.stable.source() },
            body: digest.map(|digest| self.stable.loose(size, digest)),
            body_size: Some(size),
            message_id: self.message_id.take(),
            extras: self.extras.take(),
        }
    }

    fn take(&mut self, properties: &Properties<'_>, names: &mut Names) {
        if let Some(id) = properties.message_id.filter(|id| !id.is_empty()) {
            self.message_id = Some(text(id));
            self.identity = Some(identity::of_message_id(id));
        }
        for (property, value) in [
            (StableProperty::ContentType, properties.content_type),
            (StableProperty::ContentEncoding, properties.content_encoding),
            (StableProperty::CorrelationId, properties.correlation_id),
            (StableProperty::Type, properties.kind),
            (StableProperty::AppId, properties.app_id),
            (StableProperty::UserId, properties.user_id),
        ] {
            if let Some(value) = value {
                self.stable.property(property, value);
            }
        }
        if let Some(id) = properties.correlation_id {
            self.extras().correlation_id = Some(text(id));
        }
        if let Some(milliseconds) = properties.expiration.and_then(decimal) {
            self.extras().expiration_ms = Some(milliseconds);
        }
        for entry in properties.headers.iter().flat_map(|table| table.entries()) {
            match entry {
                Ok((key, value)) => self.header(key, value, names),
                Err(flaw) => self.flaw = Some(flaw),
            }
        }
    }

    fn header(&mut self, key: &[u8], value: Value<'_>, names: &mut Names) {
        match key {
            b"x-death" => {
                if let Value::Array(deaths) = value {
                    let tables = deaths.values().filter_map(|value| match value {
                        Ok(Value::Table(table)) => death(table, names),
                        _ => None,
                    });
                    self.extras().deaths = tables.take(MOST_DEATHS).collect();
                }
            }
            b"x-delivery-count" => self.extras().delivery_count = value.unsigned(),
            b"x-acquired-count" => self.extras().acquired_count = value.unsigned(),
            b"x-stream-offset" => self.extras().stream_offset = value.unsigned(),
            b"CC" | b"BCC" => self.extras().carbon_copies = true,
            b"traceparent" => match value.text().and_then(traceparent) {
                Some(trace) => {
                    self.extras().trace = Some(trace);
                    self.stable.trace(trace);
                }
                None => self.stable_header(key, value),
            },
            _ => self.stable_header(key, value),
        }
    }

    fn stable_header(&mut self, key: &[u8], value: Value<'_>) {
        if !self.stable.header(key, value) {
            self.flaw = Some(Flaw::TooDeep);
        }
    }

    fn extras(&mut self) -> &mut Extras {
        self.extras.get_or_insert_default()
    }
}

/// Checks a header frame's payload in full: for finding frame boundaries.
pub(super) fn validate(payload: &[u8]) -> Result<u64, Flaw> {
    let mut cursor = Cursor::new(payload);
    let size = read_size(&mut cursor)?;
    let properties = read_properties(&mut cursor)?;
    if let Some(headers) = properties.and_then(|properties| properties.headers) {
        headers.validate()?;
    }
    Ok(size)
}

/// A name that few messages share: not worth a place among the shared ones.
pub(super) fn text(wire: &[u8]) -> Name {
    let plain = wire.len() <= Names::LONGEST && wire.iter().all(|byte| matches!(byte, b' '..=b'~'));
    match std::str::from_utf8(wire) {
        Ok(text) if plain => text.into(),
        _ => clean(wire).into(),
    }
}

fn read_size(cursor: &mut Cursor<'_>) -> Result<u64, Flaw> {
    const BASIC: u16 = 60;
    let (class, _weight, size) = (cursor.u16()?, cursor.u16()?, cursor.u64()?);
    if class == BASIC { Ok(size) } else { Err(Flaw::Malformed) }
}

/// The properties; `None` if there are none but some that say nothing of the message, as from many clients.
fn read_properties<'a>(cursor: &mut Cursor<'a>) -> Result<Option<Properties<'a>>, Flaw> {
    const DELIVERY_MODE: u16 = 1 << 12;
    const PRIORITY: u16 = 1 << 11;
    let flags = cursor.u16()?;
    if flags & !(DELIVERY_MODE | PRIORITY) == 0 {
        cursor.take(flags.count_ones() as usize)?;
        return cursor.finish().map(|()| None);
    }
    let mut more = flags & 1 != 0;
    while more {
        // Further flags have no meaning yet; their number is bounded by the frame.
        more = cursor.u16()? & 1 != 0;
    }
    let has = |bit: u32| flags >> bit & 1 != 0;
    let string = |bit: u32, cursor: &mut Cursor<'a>| has(bit).then(|| cursor.short_string()).transpose();
    let content_type = string(15, cursor)?;
    let content_encoding = string(14, cursor)?;
    let headers = has(13).then(|| Table::read(cursor)).transpose()?;
    for _ in 0..u8::from(has(12)) + u8::from(has(11)) {
        cursor.u8()?;
    }
    let correlation_id = string(10, cursor)?;
    string(9, cursor)?;
    let expiration = string(8, cursor)?;
    let message_id = string(7, cursor)?;
    if has(6) {
        cursor.u64()?;
    }
    let kind = string(5, cursor)?;
    let user_id = string(4, cursor)?;
    let app_id = string(3, cursor)?;
    string(2, cursor)?;
    cursor.finish()?;
    Ok(Some(Properties {
        content_type,
        content_encoding,
        headers,
        correlation_id,
        expiration,
        message_id,
        kind,
        user_id,
        app_id,
    }))
}

fn death(table: Table<'_>, names: &mut Names) -> Option<Death> {
    let mut name = |key: &str| table.get(key).and_then(Value::text).map(|text| names.intern(text));
    let (queue, reason, exchange) = (name("queue")?, name("reason")?, name("exchange"));
    let routing_key = match table.get("routing-keys") {
        Some(Value::Array(keys)) => keys.values().next().and_then(Result::ok).and_then(Value::text),
        _ => None,
    };
    Some(Death {
        queue,
        reason,
        count: table.get("count").and_then(Value::unsigned).unwrap_or(1),
        exchange: exchange.unwrap_or_else(|| names.intern(b"")),
        routing_key: routing_key.map(|key| names.intern(key)),
        time_seconds: table.get("time").and_then(Value::unsigned),
    })
}

fn decimal(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(flags: u16, properties: &[u8]) -> Vec<u8> {
        [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5][..], &flags.to_be_bytes(), properties].concat()
    }

    fn table(entries: &[u8]) -> Vec<u8> {
        [&(entries.len() as u32).to_be_bytes()[..], entries].concat()
    }

    fn read(payload: &[u8]) -> Header {
        let header = Header::read(payload, &mut Names::default()).unwrap();
        assert_eq!(validate(payload).is_ok(), header.flaw.is_none());
        header
    }

    #[test]
    fn every_property_is_stepped_over_in_its_place() {
        let properties = [
            &b"\x02ct\x02ce"[..],
            &table(b"\x01at\x01"),
            b"\x02\x05\x03cid\x02rt\x0560000\x02m1\0\0\0\0\0\0\0\x09\x02ty\x02us\x02ap\x02cl",
        ]
        .concat();
        let header = read(&header(0xfffc, &properties));
        assert_eq!(header.flaw, None);
        assert_eq!((header.body_size, header.message_id.as_deref()), (5, Some("m1")));
        let extras = header.extras.unwrap();
        assert_eq!((extras.correlation_id.as_deref(), extras.expiration_ms), (Some("cid"), Some(60_000)));
    }

    #[test]
    fn x_death_and_counters() {
        let death = b"\x05countl\0\0\0\0\0\0\0\x03\x06reasonS\0\0\0\x08rejected\x05queueS\0\0\0\x04work\x04timeT\0\0\0\0\0\0\0\x07\
                      \x08exchangeS\0\0\0\0\x0crouting-keysA\0\0\0\x09S\0\0\0\x04work";
        let death = [&b"F"[..], &table(death)].concat();
        let headers = [
            &b"\x07x-deathA"[..],
            &table(&death),
            b"\x10x-delivery-countl\0\0\0\0\0\0\0\x02\x0fx-stream-offsetl\0\0\0\0\0\0\0\x63",
        ]
        .concat();
        let extras = read(&header(1 << 13, &table(&headers))).extras.unwrap();
        assert!(!extras.carbon_copies);
        for copies in [&b"\x02CCA\0\0\0\x06S\0\0\0\x01a"[..], b"\x03BCCA\0\0\0\x06S\0\0\0\x01a"] {
            assert!(read(&header(1 << 13, &table(copies))).extras.unwrap().carbon_copies);
        }
        assert_eq!((extras.delivery_count, extras.stream_offset), (Some(2), Some(99)));
        let death = &extras.deaths[0];
        assert_eq!((&*death.queue, &*death.reason, death.count, &*death.exchange), ("work", "rejected", 3, ""));
        assert_eq!((death.routing_key.as_deref(), death.time_seconds), (Some("work"), Some(7)));
    }

    #[test]
    fn flaws_leave_the_body_size() {
        let header_with_tail = read(&header(0, b"x"));
        assert_eq!((header_with_tail.flaw, header_with_tail.body_size), (Some(Flaw::Malformed), 5));
        assert_eq!(read(&header(1 << 15, b"\x09ct")).flaw, Some(Flaw::Incomplete));
        assert!(Header::read(&[0, 60, 0], &mut Names::default()).is_err());
        assert!(Header::read(&[0, 61, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &mut Names::default()).is_err());
    }
}
