//! Whether bytes are Kafka's, and where a frame begins among bytes that are.

use std::cmp::Ordering;

use super::header::RequestHeader;
use super::layout::{Direction, Layout};
use super::scribe::api;
use super::session::{LARGEST, REQUEST_HEAD, SIZE};

/// The least that a request has behind its size: its header, and the length of a client id.
const SMALLEST: usize = RequestHeader::LENGTH + 2;
/// The longest client id that is believed while nothing else is known.
const LONGEST_CLIENT_ID: usize = 255;
/// The largest API key there is (org.apache.kafka.common.protocol.ApiKeys of 4.4.0). Of most of them nothing is wanted.
pub(super) const LARGEST_API: i16 = 94;
/// API keys and versions beyond these are none, known or not.
const LARGEST_KEY: i16 = 127;
const LARGEST_VERSION: i16 = 40;

/// The header of a request that may be one, whether its API is known or not.
pub(super) fn header(head: &[u8; REQUEST_HEAD]) -> Option<RequestHeader> {
    let header = RequestHeader::read(*head.last_chunk()?);
    let sane = (0..=LARGEST_KEY).contains(&header.api_key) && (0..=LARGEST_VERSION).contains(&header.api_version);
    sane.then_some(header)
}

/// Whether a request begins with these bytes: its API and version are known, it has a client id that can be read, or this one,
/// and it ends where the bytes do, or another one begins there, or it produces what is longer than a packet. Bytes that are all
/// zero, as in what was wiped, are none.
pub(super) fn is_request(bytes: &[u8], client_id: Option<&[u8]>) -> bool {
    let Some((head, rest)) = bytes.split_first_chunk::<REQUEST_HEAD>() else { return false };
    let Some((size, header)) = head.first_chunk().map(|size| i32::from_be_bytes(*size)).zip(header(head)) else {
        return false;
    };
    let Ok(size) = usize::try_from(size) else { return false };
    let fits = match (size + SIZE).cmp(&bytes.len()) {
        _ if size < SMALLEST => false,
        Ordering::Equal => true,
        Ordering::Less => begins(bytes, size + SIZE, client_id),
        Ordering::Greater => size <= LARGEST as usize && header.api_key == api::PRODUCE && is_produce(rest, header),
    };
    // The first request of a connection is one of these; a later one may be any. What brokers tell each other has a name, but in a
    // recording all of it is wiped behind the head.
    let is_first =
        [api::API_VERSIONS, api::SASL_HANDSHAKE, api::METADATA].contains(&header.api_key) || is_between_brokers(header);
    fits && is_known(header) && is_client_id(rest, client_id, is_first && size + SIZE == bytes.len())
}

/// What a request to produce has behind its client id: a transactional id, if any, how many replicas must have the records, and
/// how long the producer waits (ProduceRequest.json).
fn is_produce(rest: &[u8], header: RequestHeader) -> bool {
    const LONGEST_WAIT_MS: i32 = 24 * 3600 * 1000;
    produce_head(rest, header.api_version)
        .is_some_and(|(acks, wait)| (-1..=1).contains(&acks) && (0..=LONGEST_WAIT_MS).contains(&wait))
}

/// Acks and time-out of a request to produce.
fn produce_head(mut rest: &[u8], version: i16) -> Option<(i16, i32)> {
    const TRANSACTIONAL: i16 = 3;
    const FLEXIBLE: i16 = 9;
    let client = i16::from_be_bytes(take(&mut rest)?);
    skip(&mut rest, client.into())?;
    if version >= FLEXIBLE {
        // No tagged fields; a compact string's length is one more than that.
        let [0, transactional] = take(&mut rest)? else { return None };
        skip(&mut rest, i32::from(transactional) - 1)?;
    } else if version >= TRANSACTIONAL {
        let transactional = i16::from_be_bytes(take(&mut rest)?);
        skip(&mut rest, transactional.into())?;
    }
    Some((i16::from_be_bytes(take(&mut rest)?), i32::from_be_bytes(take(&mut rest)?)))
}

fn take<const LENGTH: usize>(bytes: &mut &[u8]) -> Option<[u8; LENGTH]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

/// Passes over a string; one of negative length is null.
fn skip(bytes: &mut &[u8], length: i32) -> Option<()> {
    *bytes = bytes.get(usize::try_from(length).unwrap_or(0)..)?;
    Some(())
}

/// Whether the next request begins, as far as there are bytes, at a place.
fn begins(bytes: &[u8], at: usize, client_id: Option<&[u8]>) -> bool {
    let Some((head, rest)) = bytes.get(at..).and_then(|bytes| bytes.split_first_chunk::<REQUEST_HEAD>()) else {
        return true;
    };
    header(head).is_some_and(is_known) && is_client_id(rest, client_id, false)
}

fn is_known(header: RequestHeader) -> bool {
    is_between_brokers(header) || Layout::find(header.api_key, Direction::Request, header.api_version).is_some()
}

/// What brokers tell each other on connections of their own, without any greeting. Nothing of it is wanted.
fn is_between_brokers(header: RequestHeader) -> bool {
    let newest = match header.api_key {
        // What a controller that is none of KRaft's tells its brokers: LeaderAndIsr, StopReplica, UpdateMetadata,
        // ControlledShutdown.
        4..=7 => 8,
        // WriteTxnMarkers: from a transaction's coordinator to the leaders of its partitions, its own broker among them.
        27 => 2,
        _ => return false,
    };
    header.api_version <= newest
}

/// Whether a client id follows the head: this one, or one that can be read; `none_is_one`: it may be empty, or null.
fn is_client_id(rest: &[u8], known: Option<&[u8]>, none_is_one: bool) -> bool {
    let Some((length, rest)) = rest.split_first_chunk() else { return none_is_one };
    let length = i16::from_be_bytes(*length);
    match (usize::try_from(length), known) {
        (Ok(length), Some(known)) => length == known.len() && known.starts_with(&rest[..rest.len().min(length)]),
        (Ok(0), None) => none_is_one,
        (Ok(length), None) => {
            let id = &rest[..rest.len().min(length)];
            length <= LONGEST_CLIENT_ID && id.iter().all(|byte| (0x20..0x7f).contains(byte))
        }
        // Null. Where a client is known to have a name it has one in each of its requests.
        (Err(_), known) => length == -1 && known.is_none() && none_is_one,
    }
}

/// The correlation id of a response that may begin with these bytes.
pub(super) fn response(bytes: &[u8]) -> Option<i32> {
    let (size, rest) = bytes.split_first_chunk()?;
    let correlation = rest.first_chunk()?;
    (SIZE as i32..=LARGEST).contains(&i32::from_be_bytes(*size)).then_some(i32::from_be_bytes(*correlation))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(key: i16, version: i16, client: &[u8], rest: &[u8]) -> Vec<u8> {
        let size = (SMALLEST + client.len() + rest.len()) as i32;
        let client_length = client.len() as i16;
        let head = [key.to_be_bytes(), version.to_be_bytes(), [0, 0], [0, 7], client_length.to_be_bytes()].concat();
        [&size.to_be_bytes(), &head[..], client, rest].concat()
    }

    #[test]
    fn requests_are_known_by_several_facts() {
        assert!(is_request(&request(18, 0, b"app", b""), None));
        assert!(is_request(&request(18, 0, b"", b""), None), "a greeting needs no name");
        assert!(!is_request(&request(12, 0, b"", b"rest"), None), "another one does");
        assert!(is_request(&request(12, 0, b"app", b"rest"), None));
        assert!(!is_request(&request(12, 0, b"app", b"rest"), Some(b"other")));
        assert!(!is_request(&request(12, 99, b"app", b"rest"), None), "no such version");
        assert!(is_request(&request(6, 6, b"1", b"what a controller says"), None));
        assert!(is_request(&request(27, 1, b"broker-1-txn-marker-sender", b"markers"), None));
        assert!(!is_request(&request(27, 3, b"broker-1-txn-marker-sender", b"markers"), None), "no such version");
        assert!(!is_request(&request(12, 0, b"a\0p", b"rest"), None), "no such name");
        let two = [request(12, 0, b"app", b"rest"), request(3, 1, b"app", b"")].concat();
        assert!(is_request(&two, None));
        assert!(!is_request(&[request(12, 0, b"app", b"rest"), b"nothing that is a request".to_vec()].concat(), None));
    }

    #[test]
    fn only_what_produces_may_be_longer_than_a_packet() {
        let waits = 30_000i32.to_be_bytes();
        let produce = request(0, 9, b"app", &[&[0, 0, 255, 255][..], &waits, &[7; 5000]].concat());
        assert!(is_request(&produce[..1000], None));
        let old = request(0, 3, b"app", &[&[255, 255, 0, 1][..], &waits, &[7; 5000]].concat());
        assert!(is_request(&old[..1000], None));
        let wrong = request(0, 9, b"app", &[&[0, 0, 9, 9][..], &waits, &[7; 5000]].concat());
        assert!(!is_request(&wrong[..1000], None), "nine replicas");
        assert!(!is_request(&request(1, 4, b"app", &[7; 5000])[..1000], None));
    }

    #[test]
    fn what_was_wiped_and_frames_of_amqp_are_none() {
        assert!(!is_request(&[0; 100], None));
        let mut wiped = request(6, 7, b"1", b"what a controller says");
        wiped[REQUEST_HEAD..].fill(0);
        assert!(is_request(&wiped, None), "its head says what it was");
        wiped.push(0);
        assert!(!is_request(&wiped, None), "if it ends with its packet");
        let body = [&[3, 0, 1, 0, 0, 13, 7, 0, 0, 0, 0, 4][..], b"text", &[0x61; 3400]].concat();
        assert!(!is_request(&body, None));
        assert!(!is_request(b"AMQP\0\0\x09\x01", None));
    }
}
