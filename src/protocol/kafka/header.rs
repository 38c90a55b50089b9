//! What every request and response begins with, before the layout is known that the rest has.
//!
//! Behind a frame's size, a request has api key, api version and correlation id; a response has the correlation id only, and
//! what it answers is known from the request. Whatever else a header holds depends on the version, and so it is a part of
//! the [`Layout`]: the client id of requests, which is an old-style string in all versions, and tagged fields where the
//! version is flexible, with one exception: a response to ApiVersions never has them, since the client cannot know yet
//! (RequestHeader.json, ResponseHeader.json, KIP-482, KIP-511).

use super::layout::{Direction, Layout};

/// The fixed part of a request's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// Which request.
    pub api_key: i16,
    /// In which version.
    pub api_version: i16,
    /// The response will repeat it.
    pub correlation_id: i32,
}

impl RequestHeader {
    /// Its length in bytes.
    pub const LENGTH: usize = 8;

    /// Reads it.
    pub fn read(bytes: [u8; Self::LENGTH]) -> RequestHeader {
        let [a, b, c, d, correlation @ ..] = bytes;
        RequestHeader {
            api_key: i16::from_be_bytes([a, b]),
            api_version: i16::from_be_bytes([c, d]),
            correlation_id: i32::from_be_bytes(correlation),
        }
    }

    /// The layout of the rest of the request, or of the response to it. `None`: an API or a version that is not known.
    pub fn layout(self, direction: Direction) -> Option<&'static Layout> {
        Layout::find(self.api_key, direction, self.api_version)
    }
}

/// The fixed part of a response's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHeader {
    /// The request's.
    pub correlation_id: i32,
}

impl ResponseHeader {
    /// Its length in bytes.
    pub const LENGTH: usize = 4;

    /// Reads it.
    pub fn read(bytes: [u8; Self::LENGTH]) -> ResponseHeader {
        ResponseHeader { correlation_id: i32::from_be_bytes(bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read() {
        let header = RequestHeader::read([0, 1, 0, 12, 0xff, 0xff, 0xff, 0xfe]);
        assert_eq!(header, RequestHeader { api_key: 1, api_version: 12, correlation_id: -2 });
        for direction in [Direction::Request, Direction::Response] {
            let layout = header.layout(direction).unwrap();
            assert_eq!((layout.name(), layout.version()), ("Fetch", 12));
        }
        let unknown = RequestHeader { api_version: 99, ..header };
        assert!(unknown.layout(Direction::Request).is_none());
        assert_eq!(ResponseHeader::read([0, 0, 1, 0]), ResponseHeader { correlation_id: 256 });
    }
}
