//! The control page (`struct control` in `bpf/event.h`): rules and the reader's state, written without a system call.

use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU16, Ordering};

use super::Verdict;
use super::mapping::{Mapping, page_size};

/// How many ports can be watched (`WATCH_PORTS` in the header).
pub(super) const WATCH_PORTS: usize = 64;
/// How many ports of brokers' nodes can be known (`NODE_PORTS` in the header).
const NODE_PORTS: usize = 16;

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

    /// Whether a connection without a watched port is of no interest whatever else is known: its packets then cost not even a
    /// look-up.
    pub(super) fn set_ports_decide(&self, decide: bool) {
        self.set(offset_of!(Layout, ports_decide), decide.into());
    }

    /// Adds a port to the watched ones; false if there is no room. Without effect on sockets until the next generation.
    pub(super) fn watch_port(&self, port: u16) -> bool {
        let used = self.watched().len();
        if self.watched().contains(&port) {
            return true;
        }
        if used == WATCH_PORTS {
            return false;
        }
        self.port(used).store(port, Ordering::SeqCst);
        self.set(offset_of!(Layout, watch_ports_used), used as u32 + 1);
        true
    }

    /// Takes a port out of the watched ones, if it is among them.
    pub(super) fn unwatch_port(&self, port: u16) {
        let watched = self.watched();
        if let (Some(at), Some(last)) = (watched.iter().position(|known| *known == port), watched.last()) {
            self.port(at).store(*last, Ordering::SeqCst);
            self.set(offset_of!(Layout, watch_ports_used), watched.len() as u32 - 1);
        }
    }

    /// Makes it known that nodes of a broker's cluster connect to each other at this port; false if there is no room.
    pub(super) fn add_node_port(&self, port: u16) -> bool {
        let used = self.page.u32(offset_of!(Layout, node_ports_used)).load(Ordering::Relaxed) as usize;
        let place = |at: usize| self.page.u16(offset_of!(Layout, node_ports) + 2 * at);
        if (0..used.min(NODE_PORTS)).any(|at| place(at).load(Ordering::Relaxed) == port) {
            return true;
        }
        if used >= NODE_PORTS {
            return false;
        }
        place(used).store(port, Ordering::SeqCst);
        self.set(offset_of!(Layout, node_ports_used), used as u32 + 1);
        true
    }

    fn watched(&self) -> Vec<u16> {
        let used = self.page.u32(offset_of!(Layout, watch_ports_used)).load(Ordering::Relaxed) as usize;
        (0..used.min(WATCH_PORTS)).map(|at| self.port(at).load(Ordering::Relaxed)).collect()
    }

    fn port(&self, at: usize) -> &AtomicU16 {
        self.page.u16(offset_of!(Layout, watch_ports) + 2 * at)
    }

    pub(super) fn set_reader(&self, reader: Reader) {
        self.set(offset_of!(Layout, reader_state), reader as u32);
    }

    /// What the reader said last; the programs set it to awake when they wake it.
    pub(super) fn reader(&self) -> Option<Reader> {
        let state = self.page.u32(offset_of!(Layout, reader_state)).load(Ordering::SeqCst);
        [Reader::Awake, Reader::Napping, Reader::Asleep].into_iter().find(|reader| *reader as u32 == state)
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
    watch_ports_used: u32,
    ports_decide: u32,
    watch_ports: [u16; WATCH_PORTS],
    node_ports_used: u32,
    node_ports: [u16; NODE_PORTS],
    pad3: [u32; 21],
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn ports_come_and_go_and_are_bounded() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(page_size() as u64).unwrap();
        let control = Control::map(file.as_fd()).unwrap();
        for port in 1..=WATCH_PORTS as u16 {
            assert!(control.watch_port(port));
        }
        assert!(!control.watch_port(9_999), "no room");
        assert!(control.watch_port(7), "known already");
        control.unwatch_port(9_999);
        control.unwatch_port(1);
        assert!(control.watch_port(9_999));
        let watched = control.watched();
        assert_eq!(watched.len(), WATCH_PORTS);
        assert!(!watched.contains(&1) && watched.contains(&9_999) && watched.contains(&64));
    }

    #[test]
    fn ports_of_nodes_are_bounded_and_kept_once() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(page_size() as u64).unwrap();
        let control = Control::map(file.as_fd()).unwrap();
        for port in (1..=NODE_PORTS as u16).chain([3, 1]) {
            assert!(control.add_node_port(port), "{port}");
        }
        assert!(!control.add_node_port(9_999), "no room");
    }

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
            ("watch_ports_used", offset_of!(Layout, watch_ports_used)),
            ("ports_decide", offset_of!(Layout, ports_decide)),
            ("node_ports_used", offset_of!(Layout, node_ports_used)),
        ] {
            let line = format!("LAYOUT(control, {field}, {offset}, 4);");
            assert!(header.contains(&line), "{line}");
        }
        assert!(header.contains(&format!("LAYOUT_SIZE(control, {});", Control::BYTES)));
        let ports = format!("LAYOUT(control, watch_ports, {}, {});", offset_of!(Layout, watch_ports), 2 * WATCH_PORTS);
        assert!(header.contains(&ports) && header.contains(&format!("#define WATCH_PORTS {WATCH_PORTS}\n")));
        let ports = format!("LAYOUT(control, node_ports, {}, {});", offset_of!(Layout, node_ports), 2 * NODE_PORTS);
        assert!(header.contains(&ports) && header.contains(&format!("#define NODE_PORTS {NODE_PORTS}\n")));
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
