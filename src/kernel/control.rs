//! The control page (`struct control` in `bpf/event.h`): rules and the reader's state, written without a system call.

use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;

use super::Verdict;
use super::mapping::{Mapping, page_size};

/// What the reader is doing: decides whether and when a program wakes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    Awake = 0,
    Napping = 1,
    Asleep = 2,
}

/// The mapped page.
pub(super) struct Control {
    page: Mapping,
}

impl Control {
    /// The size of the section that holds nothing but the control struct.
    pub(super) const BYTES: usize = size_of::<Layout>();

    pub(super) fn map(fd: BorrowedFd<'_>) -> io::Result<Control> {
        Ok(Control { page: Mapping::new(fd, 0, Self::BYTES.next_multiple_of(page_size()), true)? })
    }

    /// Makes every socket be decided again at its next packet. Call it after the rules have been changed. Never 0: that
    /// is the generation of a socket that nobody has decided about.
    pub(super) fn next_generation(&self) {
        let generation = self.page.u32(offset_of!(Layout, rules_generation));
        let next = generation.load(Ordering::Relaxed).checked_add(1).unwrap_or(1);
        generation.store(next, Ordering::Release);
    }

    pub(super) fn set_unmatched(&self, verdict: Verdict) {
        self.set(offset_of!(Layout, unmatched), verdict as u32);
    }

    pub(super) fn set_cgroups_only(&self, only: bool) {
        self.set(offset_of!(Layout, cgroups_only), only.into());
    }

    pub(super) fn set_sample_below(&self, below: u32) {
        self.set(offset_of!(Layout, sample_below), below);
    }

    pub(super) fn set_skip_from_bytes(&self, bytes: u32) {
        self.set(offset_of!(Layout, skip_from_bytes), bytes);
    }

    pub(super) fn set_wake_bytes(&self, bytes: u32) {
        self.set(offset_of!(Layout, wake_bytes), bytes);
    }

    pub(super) fn wake_bytes(&self) -> u32 {
        self.page.u32(offset_of!(Layout, wake_bytes)).load(Ordering::Relaxed)
    }

    pub(super) fn set_announce_listeners(&self, announce: bool) {
        self.set(offset_of!(Layout, announce_listeners), announce.into());
    }

    pub(super) fn set_reader(&self, reader: Reader) {
        self.set(offset_of!(Layout, reader_state), reader as u32);
    }

    fn set(&self, offset: usize, value: u32) {
        self.page.u32(offset).store(value, Ordering::SeqCst);
    }
}

/// Only names offsets; a test compares them with the header.
#[allow(dead_code)]
#[repr(C)]
struct Layout {
    rules_generation: u32,
    unmatched: u32,
    cgroups_only: u32,
    sample_below: u32,
    skip_from_bytes: u32,
    wake_bytes: u32,
    announce_listeners: u32,
    pad: [u32; 9],
    reader_state: u32,
    pad2: [u32; 15],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_that_of_the_header() {
        let header = include_str!("../../bpf/event.h");
        for (field, offset) in [
            ("rules_generation", offset_of!(Layout, rules_generation)),
            ("unmatched", offset_of!(Layout, unmatched)),
            ("cgroups_only", offset_of!(Layout, cgroups_only)),
            ("sample_below", offset_of!(Layout, sample_below)),
            ("skip_from_bytes", offset_of!(Layout, skip_from_bytes)),
            ("wake_bytes", offset_of!(Layout, wake_bytes)),
            ("announce_listeners", offset_of!(Layout, announce_listeners)),
            ("reader_state", offset_of!(Layout, reader_state)),
        ] {
            let line = format!("LAYOUT(control, {field}, {offset}, 4);");
            assert!(header.contains(&line), "{line}");
        }
        assert!(header.contains(&format!("LAYOUT_SIZE(control, {});", Control::BYTES)));
        for (name, value) in [
            ("VERDICT_UNKNOWN", Verdict::Unknown as u32),
            ("VERDICT_WATCH", Verdict::Watch as u32),
            ("VERDICT_IGNORE", Verdict::Ignore as u32),
            ("READER_AWAKE", Reader::Awake as u32),
            ("READER_NAPPING", Reader::Napping as u32),
            ("READER_ASLEEP", Reader::Asleep as u32),
        ] {
            assert!(header.contains(&format!("{name} = {value},")), "{name}");
        }
    }
}
