//! What makes a message the same message at its publish, at each delivery and behind a dead-letter exchange.
//!
//! Best is its message-id. Without one it is a fingerprint: the body's length and first bytes, and the properties that the
//! broker does not change. The broker sorts and re-encodes headers, adds its own, and on dead-lettering drops the expiration
//! and changes exchange and routing key; none of that may count. Hashes are xxh3 with seeds that name the version and the
//! kind of what is hashed, so that equal bytes give equal identities on every host and in every run.

use xxhash_rust::xxh3::{Xxh3, xxh3_128_with_seed};

use super::table::{DEEPEST, Table, Value};
use crate::protocol::operation::{Identity, IdentitySource, TraceContext};

/// How much of a body goes into its fingerprint.
pub(super) const FINGERPRINT_BYTES: u64 = 1024;

/// Changes whenever the same bytes would give another identity.
const VERSION: u64 = 1;

/// What a hash is of.
#[derive(Clone, Copy)]
enum Kind {
    MessageId = 1,
    Fingerprint,
    Body,
    // 4 was a hash that is no longer made.
    Property = 5,
    Header,
    Value,
}

fn seed(kind: Kind, detail: u8) -> u64 {
    VERSION << 32 | (kind as u64) << 8 | u64::from(detail)
}

fn hash(kind: Kind, detail: u8, bytes: &[u8]) -> u128 {
    xxh3_128_with_seed(bytes, seed(kind, detail))
}

/// The identity of a message with this message-id.
pub(super) fn of_message_id(message_id: &[u8]) -> Identity {
    Identity(hash(Kind::MessageId, 0, message_id))
}

/// What a content header contributes to a fingerprint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stable {
    /// Sum of the hashes of properties and headers: their order does not matter.
    sum: u128,
    correlation: u128,
    trace: Option<TraceContext>,
}

/// The properties that the broker leaves alone, by their place in the hash.
#[derive(Clone, Copy)]
pub(super) enum StableProperty {
    ContentType,
    ContentEncoding,
    CorrelationId,
    Type,
    AppId,
    UserId,
}

impl Stable {
    /// Adds a property.
    pub fn property(&mut self, property: StableProperty, value: &[u8]) {
        let hash = hash(Kind::Property, property as u8, value);
        if matches!(property, StableProperty::CorrelationId) {
            self.correlation = hash;
        }
        self.sum = self.sum.wrapping_add(hash);
    }

    /// Adds a header, unless it is one that the broker adds, changes or removes. False if it was nested too deep to be
    /// brought into canonical form.
    pub fn header(&mut self, key: &[u8], value: Value<'_>) -> bool {
        if is_brokers_own(key) {
            return true;
        }
        let mut sound = true;
        self.sum = self.sum.wrapping_add(entry(key, value, DEEPEST, &mut sound));
        sound
    }

    /// Sets the trace context.
    pub fn trace(&mut self, trace: TraceContext) {
        self.trace = Some(trace);
    }

    /// What the identity is made from, if there is no message-id.
    pub fn source(&self) -> IdentitySource {
        if self.trace.is_some() { IdentitySource::TraceContext } else { IdentitySource::Fingerprint }
    }

    /// The fingerprint of a message with these properties and this body.
    pub fn fingerprint(&self, body_size: u64, body: BodyDigest) -> Identity {
        let mut bytes = [0u8; 64];
        bytes[..8].copy_from_slice(&body_size.to_le_bytes());
        bytes[8..24].copy_from_slice(&body.0.to_le_bytes());
        bytes[24..40].copy_from_slice(&self.sum.to_le_bytes());
        if let Some(trace) = &self.trace {
            bytes[40..56].copy_from_slice(&trace.trace_id);
            bytes[56..].copy_from_slice(&trace.span_id);
        }
        Identity(hash(Kind::Fingerprint, u8::from(self.trace.is_some()), &bytes))
    }

    /// What body and correlation-id alone yield, for use in this process only: its parts are hashes already, so that mixing
    /// them is enough.
    pub fn loose(&self, body_size: u64, body: BodyDigest) -> u64 {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let fold = |hash: u128| (hash >> 64) as u64 ^ hash as u64;
        fold(body.0) ^ fold(self.correlation).rotate_left(32) ^ body_size.wrapping_mul(ODD)
    }
}

/// Headers that the broker adds, rewrites or strips on the way.
fn is_brokers_own(key: &[u8]) -> bool {
    const NAMES: [&[u8]; 9] = [
        b"x-death",
        b"x-delivery-count",
        b"x-acquired-count",
        b"x-stream-offset",
        b"CC",
        b"BCC",
        b"x-routed-by",
        b"x-received-from",
        b"timestamp_in_ms",
    ];
    const PREFIXES: [&[u8]; 3] = [b"x-first-death-", b"x-last-death-", b"x-opt-rabbitmq-"];
    NAMES.contains(&key) || PREFIXES.iter().any(|prefix| key.starts_with(prefix))
}

fn entry(key: &[u8], value: Value<'_>, depth: usize, sound: &mut bool) -> u128 {
    let mut bytes = [0u8; 32];
    bytes[..16].copy_from_slice(&hash(Kind::Header, 0, key).to_le_bytes());
    bytes[16..].copy_from_slice(&canonical(value, depth, sound).to_le_bytes());
    hash(Kind::Header, 1, &bytes)
}

/// The hash of a value, the same for all its encodings.
fn canonical(value: Value<'_>, depth: usize, sound: &mut bool) -> u128 {
    let of = |tag: u8, bytes: &[u8]| hash(Kind::Value, tag, bytes);
    match value {
        Value::Bool(flag) => of(b't', &[u8::from(flag)]),
        Value::Int(number) => of(b'l', &number.to_le_bytes()),
        Value::Float(bits) => of(b'd', &bits.to_le_bytes()),
        Value::Decimal(scale, number) => of(b'D', &[&[scale][..], &number.to_le_bytes()].concat()),
        Value::Text(text) => of(b'S', text),
        Value::Bytes(bytes) => of(b'x', bytes),
        Value::Time(seconds) => of(b'T', &seconds.to_le_bytes()),
        Value::Void => of(b'V', &[]),
        Value::Table(table) => match depth.checked_sub(1) {
            Some(depth) => of(b'F', &sum(table, depth, sound).to_le_bytes()),
            None => {
                *sound = false;
                of(b'F', table.bytes())
            }
        },
        Value::Array(array) => {
            let Some(depth) = depth.checked_sub(1) else {
                *sound = false;
                return of(b'A', &[]);
            };
            array.values().map_while(Result::ok).fold(of(b'A', &[]), |chain, value| {
                let mut bytes = [0u8; 32];
                bytes[..16].copy_from_slice(&chain.to_le_bytes());
                bytes[16..].copy_from_slice(&canonical(value, depth, sound).to_le_bytes());
                of(b'A', &bytes)
            })
        }
    }
}

fn sum(table: Table<'_>, depth: usize, sound: &mut bool) -> u128 {
    let entries = table.entries().map_while(Result::ok);
    entries.fold(0, |sum, (key, value)| sum.wrapping_add(entry(key, value, depth, sound)))
}

/// The hash of a body's first [`FINGERPRINT_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BodyDigest(u128);

impl BodyDigest {
    /// Of a body that is all there.
    pub fn of(body: &[u8]) -> BodyDigest {
        BodyDigest(hash(Kind::Body, 0, body.get(..FINGERPRINT_BYTES as usize).unwrap_or(body)))
    }
}

/// Hashes a body as it passes, without keeping it.
#[derive(Default)]
pub(super) struct BodyHash {
    state: State,
}

#[derive(Default)]
enum State {
    #[default]
    Empty,
    /// Everything that counts came in one piece, as it nearly always does.
    Whole(u128),
    Part(Box<Xxh3>, u64),
    /// Bytes that count are missing.
    Broken,
}

impl BodyHash {
    /// Takes the next bytes of a body of `size` bytes.
    pub fn update(&mut self, size: u64, bytes: &[u8]) {
        let wanted = size.min(FINGERPRINT_BYTES);
        let taken = |had: u64| bytes.get(..(wanted - had) as usize).unwrap_or(bytes);
        match &mut self.state {
            State::Empty if bytes.len() as u64 >= wanted => {
                self.state = State::Whole(hash(Kind::Body, 0, taken(0)));
            }
            State::Empty => {
                let mut hasher = Box::new(Xxh3::with_seed(seed(Kind::Body, 0)));
                hasher.update(bytes);
                self.state = State::Part(hasher, bytes.len() as u64);
            }
            State::Part(hasher, had) if *had < wanted => {
                let taken = taken(*had);
                hasher.update(taken);
                *had += taken.len() as u64;
            }
            State::Part(..) | State::Whole(_) | State::Broken => {}
        }
    }

    /// Bytes of the body are missing, from the `at`th on.
    pub fn hole(&mut self, at: u64) {
        if at < FINGERPRINT_BYTES {
            self.state = State::Broken;
        }
    }

    /// The digest of a body of `size` bytes, if all bytes that count were seen.
    pub fn digest(&self, size: u64) -> Option<BodyDigest> {
        let wanted = size.min(FINGERPRINT_BYTES);
        match &self.state {
            State::Empty if size == 0 => Some(BodyDigest(hash(Kind::Body, 0, &[]))),
            State::Whole(hash) => Some(BodyDigest(*hash)),
            State::Part(hasher, had) if *had >= wanted => Some(BodyDigest(hasher.digest128())),
            State::Empty | State::Part(..) | State::Broken => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::amqp::cursor::Cursor;

    fn headers(bytes: &[u8]) -> Stable {
        let framed = [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat();
        let table = Table::read(&mut Cursor::new(&framed)).unwrap();
        let mut stable = Stable::default();
        for entry in table.entries() {
            let (key, value) = entry.unwrap();
            assert!(stable.header(key, value));
        }
        stable
    }

    fn digest(size: u64, pieces: &[&[u8]]) -> Option<BodyDigest> {
        let mut hash = BodyHash::default();
        pieces.iter().for_each(|piece| hash.update(size, piece));
        hash.digest(size)
    }

    #[test]
    fn the_broker_may_sort_and_widen_headers_and_add_its_own() {
        let sent = headers(b"\x01bI\0\0\0\x05\x01aS\0\0\0\x01x");
        let delivered = headers(b"\x01aS\0\0\0\x01x\x01bl\0\0\0\0\0\0\0\x05\x10x-delivery-countl\0\0\0\0\0\0\0\x01");
        assert_eq!(sent, delivered);
        assert_ne!(sent, headers(b"\x01bI\0\0\0\x06\x01aS\0\0\0\x01x"));
        assert_ne!(sent, headers(b"\x01aI\0\0\0\x05\x01bS\0\0\0\x01x"));
        let (one, two) = (headers(b"\x01aA\0\0\0\x04t\x01t\0"), headers(b"\x01aA\0\0\0\x04t\0t\x01"));
        assert_ne!(one, two, "an array has an order");
    }

    #[test]
    fn a_body_gives_the_same_digest_however_it_is_cut() {
        let body: Vec<u8> = (0..3000u32).map(|byte| byte as u8).collect();
        let whole = digest(3000, &[&body]);
        assert!(whole.is_some());
        assert_eq!(whole, digest(3000, &[&body[..100], &body[100..1500], &body[1500..]]));
        assert_eq!(whole, digest(3000, &[&body[..1024]]), "only the beginning counts");
        assert_eq!(digest(3000, &[&body[..1023]]), None);
        assert_eq!(digest(5, &[b"hello"]), digest(5, &[b"he", b"", b"llo"]));
        assert!(digest(0, &[]).is_some());
        let mut broken = BodyHash::default();
        broken.hole(10);
        broken.update(3000, &body);
        assert_eq!(broken.digest(3000), None);
    }

    #[test]
    fn identities_are_of_one_kind_only() {
        let stable = Stable::default();
        let body = digest(2, &[b"hi"]).unwrap();
        assert_ne!(stable.fingerprint(2, body), stable.fingerprint(3, body));
        assert_ne!(of_message_id(b"hi"), stable.fingerprint(2, body));
        // Computed with another implementation of xxh3; another value breaks the join between hosts of different versions.
        assert_eq!(format!("{:032x}", of_message_id(b"m-1").0), "fbc1e786b341cb8be5c56cd817f78f66");
    }
}
