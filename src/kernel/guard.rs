//! Lends the reader of the ring a real-time priority while the ring fills up and the scheduler does not let it read.
//!
//! On a saturated host an ordinary thread may wait for half a second until it runs, whatever its nice value is: that counts
//! within its own scheduling group only (sched(7), "The autogroup feature"). A busy broker fills the ring in less, and what
//! does not fit is lost. So a thread of its own, which does nothing else and can have a real-time priority for that, looks
//! how full the ring is whenever the programs have found reason to wake the reader. If it is too full, it waits for a lock
//! that the reader holds: a futex with priority inheritance (futex(2), FUTEX_LOCK_PI2), so that the kernel lends the reader
//! its priority, without a privilege, until the reader lets go of the lock or the wait is over. In ordinary operation the
//! reader is never real-time; and never for more than half of the time, so that it does not starve those whom it watches.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::control::{Control, Reader};
use super::mapping::{Mapping, page_size};
use super::privileges;

/// Any real-time priority is above every ordinary thread; this leaves the others to those who have reasons for them.
const PRIORITY: i32 = 1;
/// The priority is lent when this part of the ring waits to be read,
const LEND_PART: u64 = 4;
/// for as long as the reader needs to empty the ring, but for no longer than this: then it falls behind although it runs, and
/// others must run too.
const LONGEST: Duration = Duration::from_millis(200);
/// How long it is not lent again then.
const REST: Duration = LONGEST;
/// How often to look while there is something to read.
const LOOK: Duration = Duration::from_millis(5);

/// The guard's thread; it ends when this is dropped.
pub(super) struct Guard {
    shared: Arc<Shared>,
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    lock: InheritingLock,
    lent: AtomicU64,
}

impl Guard {
    /// Guards the calling thread, which is to read the ring. The guard's own thread drops its privileges once it has its
    /// priority, for which it needs CAP_SYS_NICE or a limit (RLIMIT_RTPRIO) of 1.
    pub(super) fn start(ring: BorrowedFd<'_>, ring_bytes: u64, control: BorrowedFd<'_>) -> io::Result<Guard> {
        let stop = event()?;
        let shared = Arc::new(Shared::default());
        let watch = Watch {
            positions: Positions::map(ring)?,
            lend_from: ring_bytes / LEND_PART,
            control: Control::map(control)?,
            epoll: epoll(&[(ring, libc::EPOLLIN | libc::EPOLLET), (stop.as_fd(), libc::EPOLLIN)])?,
            stop: stop.try_clone()?,
            shared: Arc::clone(&shared),
        };
        shared.lock.take()?;
        let (send, receive) = mpsc::sync_channel(1);
        let thread = thread::Builder::new().name("ring-guard".to_owned()).spawn(move || {
            let begun = become_realtime().and_then(|()| privileges::drop_own());
            let goes_on = begun.is_ok();
            // Nobody waits for it if the starting thread has gone meanwhile.
            let _ = send.send(begun);
            if goes_on {
                watch.run();
            }
        })?;
        let begun = receive.recv().map_err(io::Error::other)?;
        let guard = Guard { shared, stop, thread: Some(thread) };
        begun.map(|()| guard)
    }

    /// The reader has emptied the ring: it gives back what was lent. To be called by the thread that started the guard.
    pub(super) fn give_back(&self) {
        self.shared.lock.let_pass();
    }

    /// How often the priority was lent.
    pub(super) fn lent(&self) -> u64 {
        self.shared.lent.load(Ordering::Relaxed)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: eight bytes are read from where `one` is. An eventfd that is written once cannot be full.
        unsafe { libc::write(self.stop.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        self.give_back();
        if let Some(thread) = self.thread.take() {
            // Its panic would be a defect, but no reason to end badly.
            let _ = thread.join();
        }
    }
}

/// What the guard's thread looks at.
struct Watch {
    positions: Positions,
    lend_from: u64,
    control: Control,
    epoll: OwnedFd,
    stop: OwnedFd,
    shared: Arc<Shared>,
}

impl Watch {
    fn run(&self) {
        while self.sleep() {
            self.attend();
        }
    }

    /// Sleeps until the programs wake the reader; false if it is time to end.
    fn sleep(&self) -> bool {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 2];
        // SAFETY: two events fit where `events` is, and the descriptor is ours.
        let ready = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), 2, -1) };
        if ready < 0 {
            return io::Error::last_os_error().kind() == io::ErrorKind::Interrupted;
        }
        !self.is_stopped()
    }

    fn is_stopped(&self) -> bool {
        self.stopped_within(Duration::ZERO)
    }

    fn stopped_within(&self, time: Duration) -> bool {
        let mut poll = libc::pollfd { fd: self.stop.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, for the duration of the call.
        unsafe { libc::poll(&raw mut poll, 1, i32::try_from(time.as_millis()).unwrap_or(i32::MAX)) > 0 }
    }

    /// Looks again and again, until the programs would wake the guard before it is needed.
    fn attend(&self) {
        while !self.stopped_within(LOOK) {
            let waiting = self.positions.waiting();
            if waiting >= self.lend_from {
                self.shared.lent.fetch_add(1, Ordering::Relaxed);
                let emptied = self.shared.lock.wait(LONGEST);
                if !emptied && self.stopped_within(REST) {
                    return;
                }
            } else if self.control.reader() != Some(Reader::Awake) && waiting < u64::from(self.control.wake_bytes()) {
                return;
            }
        }
    }
}

/// A lock that one thread holds for ever, and lets others pass for a moment when it likes. Who waits for it lends the holder
/// its priority (Documentation/locking/pi-futex.rst).
///
/// In fact there are two, and the holder lets others pass the one once it has the other: with a single one, it would lose what
/// was lent in the moment when it lets go, and could be kept from running before it has the lock again.
#[derive(Default)]
struct InheritingLock {
    /// Each 0, or the holder's thread id, with FUTEX_WAITERS while somebody waits.
    words: [AtomicU32; 2],
    /// Which of the two is held.
    held: AtomicUsize,
}

impl InheritingLock {
    /// Takes it for the calling thread; nobody else has it yet.
    fn take(&self) -> io::Result<()> {
        lock(self.held(), None)
    }

    /// Waits until the holder lets it pass, for so long at most. Whether it did.
    fn wait(&self, longest: Duration) -> bool {
        let word = self.held();
        let passed = lock(word, Some(longest)).is_ok();
        if passed {
            // Only who does not hold it fails to let go of it.
            let _ = unlock(word);
        }
        passed
    }

    /// Lets others pass, if somebody waits. Without effect on any but the holder's thread.
    fn let_pass(&self) {
        let word = self.held();
        let holder = word.load(Ordering::Relaxed);
        // SAFETY: gettid only returns a number.
        let this = unsafe { libc::gettid() }.cast_unsigned();
        if holder & libc::FUTEX_WAITERS == 0 || holder & libc::FUTEX_TID_MASK != this {
            return;
        }
        let other = 1 - self.held.load(Ordering::Relaxed) % 2;
        // If the kernel does not give it, nothing is lent any more once this one is let go; the reader reads all the same.
        let _ = lock(&self.words[other], None);
        self.held.store(other, Ordering::Release);
        let _ = unlock(word);
    }

    fn held(&self) -> &AtomicU32 {
        &self.words[self.held.load(Ordering::Acquire) % 2]
    }
}

fn lock(word: &AtomicU32, longest: Option<Duration>) -> io::Result<()> {
    let until = longest.map(monotonic_in);
    futex(word, libc::FUTEX_LOCK_PI2, until.as_ref().map_or(ptr::null(), ptr::from_ref))
}

fn unlock(word: &AtomicU32) -> io::Result<()> {
    futex(word, libc::FUTEX_UNLOCK_PI, ptr::null())
}

fn futex(word: &AtomicU32, operation: i32, until: *const libc::timespec) -> io::Result<()> {
    let operation = operation | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the word is borrowed for the whole call, and `until` is null or points to a timespec of the caller.
    match unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, 0, until) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// So long from now, by the clock that FUTEX_LOCK_PI2 goes by.
fn monotonic_in(time: Duration) -> libc::timespec {
    let mut until = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut until) };
    let nanoseconds = until.tv_nsec + i64::from(time.subsec_nanos());
    until.tv_sec += time.as_secs().cast_signed() + nanoseconds / 1_000_000_000;
    until.tv_nsec = nanoseconds % 1_000_000_000;
    until
}

/// Gives the calling thread the guard's priority. Threads that it starts are ordinary ones again.
pub(super) fn become_realtime() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: PRIORITY };
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: one sched_param is read during the call.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The two positions of the ring (kernel/bpf/ringbuf.c: the consumer's page, then the producer's).
struct Positions {
    pages: Mapping,
    page: usize,
}

impl Positions {
    fn map(ring: BorrowedFd<'_>) -> io::Result<Positions> {
        let page = page_size();
        Ok(Positions { pages: Mapping::new(ring, 0, 2 * page, false)?, page })
    }

    fn waiting(&self) -> u64 {
        let consumer = self.pages.u64(0).load(Ordering::Acquire);
        self.pages.u64(self.page).load(Ordering::Acquire).saturating_sub(consumer)
    }
}

fn event() -> io::Result<OwnedFd> {
    // SAFETY: eventfd returns a new descriptor or -1.
    let raw = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// An epoll of these descriptors, each with the events that it is looked at for.
pub(super) fn epoll(descriptors: &[(BorrowedFd<'_>, i32)]) -> io::Result<OwnedFd> {
    // SAFETY: epoll_create1 returns a new descriptor or -1.
    let raw = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let epoll = unsafe { OwnedFd::from_raw_fd(raw) };
    for (descriptor, events) in descriptors {
        let mut event = libc::epoll_event { events: events.cast_unsigned(), u64: 0 };
        // SAFETY: both descriptors are open, `event` is read during the call only.
        if unsafe { libc::epoll_ctl(raw, libc::EPOLL_CTL_ADD, descriptor.as_raw_fd(), &raw mut event) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(epoll)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_passes_when_its_holder_lets_it() {
        let lock = Arc::new(InheritingLock::default());
        lock.take().unwrap();
        let waiting = thread::spawn({
            let lock = Arc::clone(&lock);
            move || (lock.wait(Duration::ZERO), lock.wait(Duration::from_secs(60)))
        });
        while !waiting.is_finished() {
            lock.let_pass();
        }
        let (_, passed) = waiting.join().unwrap();
        assert!(passed);
        let again = thread::spawn({
            let lock = Arc::clone(&lock);
            move || {
                // Not the holder's thread: no effect.
                lock.let_pass();
                lock.wait(Duration::ZERO)
            }
        });
        assert!(!again.join().unwrap(), "its holder has it again");
    }
}
