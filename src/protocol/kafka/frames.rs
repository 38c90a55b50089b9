//! The arrays and tagged fields that a walk is in.

use super::cursor::Stop;

/// How many are in each other in the deepest layout.
pub(super) const DEEPEST: usize = 4;

/// An array, or tagged fields.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Frame {
    /// Elements, or fields, that are not done.
    pub left: u32,
    /// The tagged field's number.
    pub tag: u32,
    /// What must be left of the body when the tagged field ends.
    pub behind: u32,
}

/// A stack of them.
#[derive(Debug, Default)]
pub(super) struct Frames {
    depth: u8,
    frames: [Frame; DEEPEST],
}

impl Frames {
    /// Enters an array, or tagged fields, of so many. No layout is deeper than there is room.
    pub fn push(&mut self, left: u32) -> Result<(), Stop> {
        let frame = self.frames.get_mut(usize::from(self.depth)).ok_or(Stop::Malformed)?;
        frame.left = left;
        self.depth += 1;
        Ok(())
    }

    /// The innermost.
    pub fn top(&mut self) -> Result<&mut Frame, Stop> {
        usize::from(self.depth).checked_sub(1).and_then(|top| self.frames.get_mut(top)).ok_or(Stop::Malformed)
    }

    /// Leaves the innermost.
    pub fn pop(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }
}
