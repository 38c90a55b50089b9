//! Where finished spans wait to be taken.

use super::Span;

/// Finished spans. Beyond [`Outlet::MOST`] new ones are lost and counted.
#[derive(Default)]
pub(super) struct Outlet {
    ready: Vec<Span>,
    lost: u64,
}

impl Outlet {
    pub(super) const MOST: usize = 16_384;

    pub(super) fn emit(&mut self, span: Span) {
        if self.ready.len() >= Self::MOST {
            self.lost += 1;
        } else {
            self.ready.push(span);
        }
    }

    pub(super) fn take(&mut self) -> Vec<Span> {
        std::mem::take(&mut self.ready)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost
    }
}
