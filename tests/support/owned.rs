//! Records that are kept.

use acktrail::capture::{Record, Segment};

/// A record that owns its bytes.
#[derive(Clone, Debug)]
pub struct Owned {
    /// What it is, without its bytes.
    pub record: Record<'static>,
    /// A segment's bytes.
    pub bytes: Vec<u8>,
}

impl Owned {
    /// As the stages take it.
    pub fn borrow(&self) -> Record<'_> {
        match &self.record {
            Record::Segment(segment) => Record::Segment(Segment { bytes: &self.bytes, ..segment.clone() }),
            other => other.clone(),
        }
    }
}
