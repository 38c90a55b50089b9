//! The reader's side of a BPF ring buffer (kernel/bpf/ringbuf.c).
//!
//! libbpf maps the data twice, one copy behind the other, so that no record ever wraps; every page of both counts towards
//! the resident memory of the process. This reader maps it once and copies the few records that wrap, which halves that.
//! It also lends the records out by reference for each call, and never waits by itself.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use super::guard::epoll;
use super::mapping::{Mapping, page_size};

/// The length word of a record: this bit while it is being written,
const BUSY: u32 = 1 << 31;
/// and this one if it is to be passed over.
const DISCARDED: u32 = 1 << 30;
/// Length word and the kernel's own word before each record.
const HEADER_BYTES: usize = 8;
/// The reader's position is published after this many bytes, and at the end.
const PUBLISH_BYTES: u64 = 64 << 10;

/// What a [`Ring::drain`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Drained {
    /// Records handed over.
    pub(super) records: usize,
    /// It ended because nothing more was ready.
    pub(super) empty: bool,
}

/// A mapped ring.
pub(super) struct Ring {
    /// The page that only the reader writes: its position, in bytes since the beginning.
    consumer: Mapping,
    /// The page with the writers' position, then the data.
    producer: Mapping,
    size: usize,
    position: u64,
    /// A record that wraps is put together here.
    wrapped: Vec<u8>,
    epoll: OwnedFd,
}

impl Ring {
    /// Maps the ring behind `fd`, of `size` bytes (a power of two, as the kernel demands).
    pub(super) fn map(fd: BorrowedFd<'_>, size: usize) -> io::Result<Ring> {
        let page = page_size();
        let consumer = Mapping::new(fd, 0, page, true)?;
        let producer = Mapping::new(fd, page, page + size, false)?;
        let position = consumer.u64(0).load(Ordering::Acquire);
        // It reports wake-ups, not the presence of data: otherwise a reader could not nap while records trickle in.
        let epoll = epoll(&[(fd, libc::EPOLLIN | libc::EPOLLET)])?;
        Ok(Ring { consumer, producer, size, position, wrapped: Vec::new(), epoll })
    }

    /// How many bytes wait, unfinished records included.
    pub(super) fn waiting(&self) -> u64 {
        self.producer.u64(0).load(Ordering::Acquire).saturating_sub(self.position)
    }

    /// Hands over up to `most` records, in order. It stops early at a record that is still being written.
    pub(super) fn drain(&mut self, most: usize, handle: &mut dyn FnMut(&[u8])) -> Drained {
        let mut drained = Drained::default();
        let mut published = self.position;
        let mut written = self.producer.u64(0).load(Ordering::Acquire);
        while drained.records < most {
            if self.position == written {
                written = self.producer.u64(0).load(Ordering::Acquire);
            }
            if self.position >= written || !self.next(handle, &mut drained) {
                drained.empty = true;
                break;
            }
            if self.position - published >= PUBLISH_BYTES {
                self.publish();
                published = self.position;
            }
        }
        self.publish();
        drained
    }

    /// Sleeps until a writer wakes the reader, or the time is over. False if a signal interrupted it.
    pub(super) fn sleep(&self, timeout: Duration) -> io::Result<bool> {
        let milliseconds = i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX);
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: one event fits where `event` is, and the descriptor is ours.
        let ready = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), &mut event, 1, milliseconds) };
        if ready >= 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        if error.kind() == io::ErrorKind::Interrupted { Ok(false) } else { Err(error) }
    }

    /// One record; false if it is not finished yet.
    fn next(&mut self, handle: &mut dyn FnMut(&[u8]), drained: &mut Drained) -> bool {
        let page = self.producer.length() - self.size;
        let at = |position: u64| (position & (self.size as u64 - 1)) as usize;
        let word = self.producer.u32(page + at(self.position)).load(Ordering::Acquire);
        if word & BUSY != 0 {
            return false;
        }
        let length = (word & !DISCARDED) as usize;
        let start = at(self.position + HEADER_BYTES as u64);
        if word & DISCARDED == 0 {
            let first = length.min(self.size - start);
            // SAFETY: a record that is not busy stays at rest until the reader's position has passed it, and that is
            // published only after `handle` has returned.
            let parts =
                unsafe { (self.producer.bytes(page + start, first), self.producer.bytes(page, length - first)) };
            match parts {
                (Some(record), _) if first == length => handle(record),
                (Some(head), Some(tail)) => {
                    self.wrapped.clear();
                    self.wrapped.extend_from_slice(head);
                    self.wrapped.extend_from_slice(tail);
                    handle(&self.wrapped);
                }
                // Longer than the ring, which the kernel makes impossible: handed over as what it is, no record, to be counted.
                _ => handle(&[]),
            }
            drained.records += 1;
        }
        self.position += (length + HEADER_BYTES).next_multiple_of(8) as u64;
        true
    }

    fn publish(&self) {
        self.consumer.u64(0).store(self.position, Ordering::Release);
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// Orders what the reader said about its sleep before its last look at the ring, as [`Ring::waiting`] takes it.
pub(super) fn before_last_look() {
    fence(Ordering::SeqCst);
}
