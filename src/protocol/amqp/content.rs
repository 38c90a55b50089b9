//! A content under way: its method, its header, as much of its body as counts.

use super::header::Header;
use super::identity::BodyHash;
use crate::names::Name;
use crate::protocol::Trouble;
use crate::protocol::operation::{BrokerError, Destination, IdentitySource, Message};
use crate::stream::Position;

/// What kind of content, and what its method said.
#[derive(Debug)]
pub(super) enum Lead {
    Publish { tag: Option<u64>, destination: Destination, mandatory: bool },
    Return { error: BrokerError, destination: Destination },
    Deliver { tag: u64, from: Source, redelivered: bool, destination: Destination },
}

/// What a delivery came through.
#[derive(Debug)]
pub(super) enum Source {
    Consumer(Name),
    /// A basic.get, with its queue and whether it needs no settlement, where the get was seen.
    Get {
        queue: Option<Name>,
        automatic: Option<bool>,
    },
}

/// A content that is not complete yet.
pub(super) struct Content {
    /// What its method said; `None` once that was taken.
    pub lead: Option<Lead>,
    header: Option<Header>,
    /// Bytes of the body still to come.
    left: u64,
    body: BodyHash,
    /// Size of the body's first frame, while all its frames but the last were as large: how its sender cuts bodies.
    frame: Option<u64>,
    in_frame: u64,
}

impl Content {
    /// A content whose method has been seen.
    pub fn new(lead: Lead) -> Content {
        Content { lead: Some(lead), header: None, left: 0, body: BodyHash::default(), frame: None, in_frame: 0 }
    }

    /// Takes the header; false if there was one already.
    pub fn header(&mut self, header: Header) -> bool {
        if self.header.is_some() {
            return false;
        }
        self.left = header.body_size;
        self.header = Some(header);
        true
    }

    /// Takes bytes of the body; false if they are too many, or come before the header.
    pub fn body(&mut self, bytes: &[u8]) -> bool {
        let Some(header) = &self.header else { return false };
        let length = bytes.len() as u64;
        if length > self.left {
            return false;
        }
        self.body.update(header.body_size, bytes);
        self.left -= length;
        self.in_frame += length;
        true
    }

    /// Bytes of the body are missing; false if they are too many.
    pub fn hole(&mut self, length: u64) -> bool {
        let Some(header) = &self.header else { return false };
        if length > self.left {
            return false;
        }
        self.body.hole(header.body_size - self.left);
        self.left -= length;
        self.in_frame += length;
        true
    }

    /// A body frame has ended.
    pub fn frame_ended(&mut self) {
        self.frame.get_or_insert(self.in_frame);
        self.in_frame = 0;
    }

    /// Everything has come.
    pub fn is_complete(&self) -> bool {
        self.header.is_some() && self.left == 0
    }

    /// The payload size of the next body frame, if there must be one and its sender cuts as it did.
    pub fn next_frame(&self, largest: Option<u32>) -> Option<u32> {
        let usual = self.frame.or(largest.map(u64::from))?;
        (self.left > 0).then(|| u32::try_from(self.left.min(usual)).ok()).flatten()
    }

    /// How many entries of x-death it holds.
    pub fn deaths(&self) -> usize {
        let extras = self.header.as_ref().and_then(|header| header.extras.as_ref());
        extras.map_or(0, |extras| extras.deaths.len())
    }

    /// What was wrong with its header.
    pub fn trouble(&self) -> Option<Trouble> {
        self.header.as_ref()?.trouble()
    }

    /// Where the content ends at the earliest, if the flow is at `position`.
    pub fn earliest_end(&self, position: Position) -> Position {
        position + self.left + u64::from(self.left > 0)
    }

    /// The message, as far as it is known. The content is over: it is taken out of here, not copied.
    pub fn message(&mut self) -> Message {
        match &mut self.header {
            Some(header) => header.message(self.body.digest(header.body_size)),
            None => Message {
                identity: None,
                source: IdentitySource::Fingerprint,
                body: None,
                body_size: None,
                message_id: None,
                extras: None,
            },
        }
    }
}
