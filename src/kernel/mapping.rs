//! Memory shared with the kernel: maps of a file descriptor into this process, unmapped when dropped.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

/// A shared mapping. Its memory changes under our hands: it is only read through atomics, or where the kernel's protocol
/// says that a range is at rest.
pub(super) struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: a mapping belongs to the whole process; nothing in it is tied to the thread that made it.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `length` bytes of `fd` from `offset` on.
    pub(super) fn new(fd: BorrowedFd<'_>, offset: usize, length: usize, writable: bool) -> io::Result<Mapping> {
        let protection = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        let offset = libc::off_t::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: a fresh mapping at an address of the kernel's choice touches no memory of ours.
        let start =
            unsafe { libc::mmap(ptr::null_mut(), length, protection, libc::MAP_SHARED, fd.as_raw_fd(), offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(start.cast()).map(|start| Mapping { start, length }).ok_or_else(io::Error::last_os_error)
    }

    /// How many bytes are mapped.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// The aligned 32-bit word at `offset`.
    ///
    /// # Panics
    /// If it lies outside of the mapping: offsets are constants of layouts.
    pub(super) fn u32(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= self.length);
        // SAFETY: inside of the mapping, aligned (mappings begin at a page), and only ever accessed atomically by us.
        unsafe { AtomicU32::from_ptr(self.start.as_ptr().add(offset).cast()) }
    }

    /// The aligned 16-bit word at `offset`. Panics like [`Mapping::u32`].
    pub(super) fn u16(&self, offset: usize) -> &AtomicU16 {
        assert!(offset.is_multiple_of(2) && offset + 2 <= self.length);
        // SAFETY: as above.
        unsafe { AtomicU16::from_ptr(self.start.as_ptr().add(offset).cast()) }
    }

    /// The aligned 64-bit word at `offset`. Panics like [`Mapping::u32`].
    pub(super) fn u64(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.length);
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(self.start.as_ptr().add(offset).cast()) }
    }

    /// The first `length` bytes, each aligned word of eight read at once; the words may be of different moments.
    pub(super) fn words(&self, length: usize) -> Vec<u8> {
        (0..length / 8).flat_map(|word| self.u64(word * 8).load(Ordering::Relaxed).to_ne_bytes()).collect()
    }

    /// The bytes of a range, or `None` if it is not inside of the mapping.
    ///
    /// # Safety
    /// The kernel must not write to the range while the slice lives.
    pub(super) unsafe fn bytes(&self, offset: usize, length: usize) -> Option<&[u8]> {
        if offset.checked_add(length)? > self.length {
            return None;
        }
        // SAFETY: inside of the mapping, at rest as the caller promises.
        Some(unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(offset), length) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new`, and no borrow of it can outlive `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// The size of a page of memory.
pub(super) fn page_size() -> usize {
    // SAFETY: sysconf only returns a number.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}
