//! One of a connection's two flows, as far as it has been read.

use super::exchange::Context;
use super::header::RequestHeader;
use super::scribe::Reading;
use super::session::{LARGEST, REQUEST_HEAD};
use super::walk::Walk;
use crate::stream::Position;

/// What is read of one flow.
pub(super) struct Side {
    pub state: State,
    pub position: Position,
    pub head: [u8; REQUEST_HEAD],
    pub held: usize,
    pub header: RequestHeader,
    pub context: Context,
    /// Bytes of the frame at hand are missing.
    pub torn: bool,
    pub reading: Box<Reading>,
}

pub(super) enum State {
    /// A frame begins.
    Head,
    /// Inside of one that is read.
    Body(Box<Walk>, Position),
    /// Inside of one that is not.
    Skip { left: u64, secret: bool },
    /// Nobody knows where the next one begins.
    Lost,
}

impl Side {
    pub fn new(late: bool) -> Side {
        Side {
            state: if late { State::Lost } else { State::Head },
            position: 0,
            head: [0; REQUEST_HEAD],
            held: 0,
            header: RequestHeader { api_key: -1, api_version: -1, correlation_id: 0 },
            context: Context::Plain,
            torn: false,
            reading: Box::default(),
        }
    }

    /// Fills the head; false if there is more of it to come.
    pub fn fill(&mut self, bytes: &mut &[u8], length: usize) -> bool {
        let wanted = length.saturating_sub(self.held).min(bytes.len());
        let (taken, rest) = bytes.split_at(wanted);
        if let Some(place) = self.head.get_mut(self.held..self.held + wanted) {
            place.copy_from_slice(taken);
        }
        self.held += wanted;
        self.position += wanted as Position;
        *bytes = rest;
        self.held == length
    }

    /// The frame's size, of which these bytes of the head are a part; `None` where that cannot be.
    pub fn size(&mut self, of_head: usize) -> Option<u32> {
        self.held = 0;
        let size = i32::from_be_bytes(*self.head.first_chunk()?);
        let left = size.checked_sub(i32::try_from(of_head).ok()?)?;
        u32::try_from(left).ok().filter(|_| size <= LARGEST)
    }

    pub fn cost(&self) -> usize {
        let walk = match &self.state {
            State::Body(walk, _) => size_of::<Walk>() + walk.cost(),
            _ => 0,
        };
        walk + self.reading.cost()
    }
}
