//! Whether bytes are Kafka's, and where a frame begins among bytes that are.

use super::header::RequestHeader;
use super::layout::{Direction, Layout};
use super::scribe::api;
use super::session::{LARGEST, REQUEST_HEAD, SIZE};

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
/// and it ends where the bytes do or is one that is often longer than a packet.
pub(super) fn is_request(bytes: &[u8], client_id: Option<&[u8]>) -> bool {
    let Some((head, rest)) = bytes.split_first_chunk::<REQUEST_HEAD>() else { return false };
    let Some((size, header)) = head.first_chunk().map(|size| i32::from_be_bytes(*size)).zip(header(head)) else {
        return false;
    };
    let fits = usize::try_from(size).is_ok_and(|size| match (size + SIZE).cmp(&bytes.len()) {
        std::cmp::Ordering::Equal => true,
        std::cmp::Ordering::Less => begins(bytes, size + SIZE, client_id),
        std::cmp::Ordering::Greater => header.api_key == api::PRODUCE && size <= LARGEST as usize,
    });
    fits && is_known(header) && is_client_id(rest, client_id)
}

/// Whether the next request begins, as far as there are bytes, at a place.
fn begins(bytes: &[u8], at: usize, client_id: Option<&[u8]>) -> bool {
    let Some((head, rest)) = bytes.get(at..).and_then(|bytes| bytes.split_first_chunk::<REQUEST_HEAD>()) else {
        return true;
    };
    header(head).is_some_and(is_known) && is_client_id(rest, client_id)
}

fn is_known(header: RequestHeader) -> bool {
    Layout::find(header.api_key, Direction::Request, header.api_version).is_some()
}

fn is_client_id(rest: &[u8], known: Option<&[u8]>) -> bool {
    let Some((length, rest)) = rest.split_first_chunk() else { return true };
    let length = i16::from_be_bytes(*length);
    match (usize::try_from(length), known) {
        (Ok(length), Some(known)) => length == known.len() && known.starts_with(&rest[..rest.len().min(length)]),
        (Ok(length), None) => {
            let id = &rest[..rest.len().min(length)];
            length <= LONGEST_CLIENT_ID && id.iter().all(|byte| (0x20..0x7f).contains(byte))
        }
        // Null. Where a client is known to have a name it has one in each of its requests.
        (Err(_), known) => length == -1 && known.is_none(),
    }
}

/// The correlation id of a response that may begin with these bytes.
pub(super) fn response(bytes: &[u8]) -> Option<i32> {
    let (size, rest) = bytes.split_first_chunk()?;
    let correlation = rest.first_chunk()?;
    (SIZE as i32..=LARGEST).contains(&i32::from_be_bytes(*size)).then_some(i32::from_be_bytes(*correlation))
}
