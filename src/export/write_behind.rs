//! Writes on a thread of its own, so that a disk or a reader that takes its time holds up nobody else.

use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// How long it waits before it tries again what was refused.
const AGAIN: Duration = Duration::from_millis(50);
/// How long the end waits for an output that does not take what is left.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Where bytes go. What accepts them may still have to write them.
pub trait Output: Write {
    /// Waits, for `patience` at most, until everything that was accepted is written. How many lines of it are not, and will
    /// never be: the output is not written to again.
    fn settle(&mut self, patience: Duration) -> u64 {
        let _ = patience;
        0
    }
}

impl Output for Box<dyn Output> {
    fn settle(&mut self, patience: Duration) -> u64 {
        (**self).settle(patience)
    }
}

impl Output for std::fs::File {}
impl Output for io::Stdout {}

/// Hands bytes to a thread that writes them. It accepts at most [`WriteBehind::MOST`] bytes that are not written yet, and then
/// says `WouldBlock`. What its output refuses it tries again, unless a reader went away for good.
pub struct WriteBehind<W> {
    /// Until the first bytes come: the thread is started then, so that it has no privilege which the others have dropped.
    out: Option<W>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Accepted, and not in the thread's hands yet.
    waiting: Vec<u8>,
    /// Bytes and line feeds in the thread's hands that are not written yet.
    in_hand: (usize, u64),
    /// What the output said; to be told once.
    failure: Option<ErrorKind>,
    /// The thread writes nothing any more: the reader went away, or it was told to end.
    ended: bool,
    /// Nobody will wait for what is not written.
    abandoned: bool,
}

impl State {
    fn unwritten(&self) -> usize {
        self.waiting.len() + self.in_hand.0
    }
}

impl<W: Write + Send + 'static> WriteBehind<W> {
    /// Bytes accepted and not written yet, at most.
    pub const MOST: usize = 4 << 20;

    /// Starts no thread before the first bytes come.
    pub fn new(out: W) -> WriteBehind<W> {
        WriteBehind { out: Some(out), shared: Arc::default() }
    }

    fn start(&mut self) -> io::Result<()> {
        let Some(mut out) = self.out.take() else { return Ok(()) };
        let shared = Arc::clone(&self.shared);
        // Without a thread the output is gone: nothing can be written, and all lines are counted as lost.
        thread::Builder::new()
            .name("write-behind".to_owned())
            .spawn(move || shared.write_all(&mut out))
            .map(drop)
            .inspect_err(|_| self.shared.lock().ended = true)
    }
}

impl<W: Write + Send + 'static> Write for WriteBehind<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.start()?;
        let mut state = self.shared.lock();
        if state.ended || state.abandoned {
            return Err(ErrorKind::BrokenPipe.into());
        }
        if let Some(failure) = state.failure.take() {
            return Err(failure.into());
        }
        let room = Self::MOST.saturating_sub(state.unwritten()).min(bytes.len());
        if room == 0 && !bytes.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        state.waiting.extend_from_slice(&bytes[..room]);
        self.shared.changed.notify_all();
        Ok(room)
    }

    /// Does not wait: see [`Output::settle`].
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write + Send + 'static> Output for WriteBehind<W> {
    fn settle(&mut self, patience: Duration) -> u64 {
        self.shared.settle(patience)
    }
}

impl<W> Drop for WriteBehind<W> {
    fn drop(&mut self) {
        self.shared.settle(PATIENCE);
    }
}

impl Shared {
    /// Waits until everything is written, for `patience` at most; how many lines are not.
    fn settle(&self, patience: Duration) -> u64 {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        while !state.ended && state.unwritten() > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.wait(state, left);
        }
        let unwritten = state.in_hand.1 + lines(&state.waiting);
        state.waiting = Vec::new();
        state.in_hand = (0, 0);
        state.abandoned = true;
        self.changed.notify_all();
        unwritten
    }

    /// The thread's work, until the output fails for good or nobody waits any more.
    fn write_all(&self, out: &mut dyn Write) {
        let mut hand = Vec::new();
        while self.take(&mut hand) && self.write_hand(&hand, out) {}
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// Waits for bytes; false if none will come.
    fn take(&self, hand: &mut Vec<u8>) -> bool {
        hand.clear();
        let mut state = self.lock();
        while state.waiting.is_empty() {
            if state.abandoned {
                return false;
            }
            state = self.changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        std::mem::swap(hand, &mut state.waiting);
        state.in_hand = (hand.len(), lines(hand));
        true
    }

    /// Writes all of it; false if that is of no use any more.
    fn write_hand(&self, hand: &[u8], out: &mut dyn Write) -> bool {
        let mut left = hand;
        while !left.is_empty() {
            match out.write(left) {
                Ok(0) => return self.refused(ErrorKind::WriteZero),
                Ok(count) => {
                    let (written, rest) = left.split_at(count.min(left.len()));
                    left = rest;
                    let mut state = self.lock();
                    state.in_hand.0 = left.len();
                    state.in_hand.1 -= lines(written).min(state.in_hand.1);
                    if state.abandoned {
                        return false;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    if !self.refused(error.kind()) {
                        return false;
                    }
                }
            }
        }
        if let Err(error) = out.flush()
            && !self.refused(error.kind())
        {
            return false;
        }
        self.changed.notify_all();
        true
    }

    /// Waits a little; whether to try again.
    fn refused(&self, kind: ErrorKind) -> bool {
        let mut state = self.lock();
        if kind != ErrorKind::WouldBlock {
            state.failure = Some(kind);
        }
        // A reader that went away does not come back; a full disk may have room again.
        if matches!(kind, ErrorKind::BrokenPipe | ErrorKind::WriteZero) {
            return false;
        }
        let again = Instant::now() + AGAIN;
        while !state.abandoned {
            let left = again.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.wait(state, left);
        }
        !state.abandoned
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn wait<'s>(&self, state: MutexGuard<'s, State>, time: Duration) -> MutexGuard<'s, State> {
        self.changed.wait_timeout(state, time).unwrap_or_else(|poisoned| poisoned.into_inner()).0
    }
}

/// Line feeds.
pub(super) fn lines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    const LONG: Duration = Duration::from_secs(60);

    /// An output that does with each write what it is told to, and waits for that.
    struct Told {
        orders: Receiver<Order>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Told {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = self.orders.recv().unwrap_or(Ok(usize::MAX))?.min(bytes.len());
            self.taken.lock().unwrap().extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    type Order = io::Result<usize>;

    fn told() -> (WriteBehind<Told>, Sender<Order>, Arc<Mutex<Vec<u8>>>) {
        let (send, orders) = channel();
        let taken = Arc::default();
        (WriteBehind::new(Told { orders, taken: Arc::clone(&taken) }), send, taken)
    }

    #[test]
    fn an_output_that_takes_its_time_holds_up_nobody_and_its_memory_is_bounded() {
        let (mut out, orders, taken) = told();
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        let mut accepted = 0;
        // Nothing is written before the output is told to.
        while out.write(&line).is_ok_and(|count| count == line.len()) {
            accepted += 1;
        }
        assert!((4_000..=4_097).contains(&accepted), "{accepted}");
        assert_eq!(out.write(&line).unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(orders);
        assert_eq!(out.settle(LONG), 0);
        assert_eq!(taken.lock().unwrap().len(), accepted * line.len());
    }

    #[test]
    fn what_a_full_disk_refuses_is_written_later() {
        let (mut out, orders, taken) = told();
        orders.send(Ok(3)).unwrap();
        orders.send(Err(ErrorKind::StorageFull.into())).unwrap();
        out.write_all(b"one\ntwo\n").unwrap();
        // The failure is told once, to whoever writes next.
        let failure = loop {
            if let Err(error) = out.write_all(b"\n") {
                break error;
            }
            thread::yield_now();
        };
        assert_eq!(failure.kind(), ErrorKind::StorageFull);
        out.write_all(b"three\n").unwrap();
        drop(orders);
        assert_eq!(out.settle(LONG), 0);
        let text = String::from_utf8(taken.lock().unwrap().clone()).unwrap();
        assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["one", "two", "three"]);
    }

    #[test]
    fn a_reader_that_went_away_leaves_counted_lines() {
        let (mut out, orders, taken) = told();
        out.write_all(b"one\ntwo\nthree\n").unwrap();
        orders.send(Ok(5)).unwrap();
        orders.send(Err(ErrorKind::BrokenPipe.into())).unwrap();
        assert_eq!(out.settle(LONG), 2);
        assert_eq!(*taken.lock().unwrap(), b"one\nt");
        assert_eq!(out.write(b"four\n").unwrap_err().kind(), ErrorKind::BrokenPipe);
    }

    #[test]
    fn what_was_accepted_is_written_before_it_goes() {
        let (mut out, orders, taken) = told();
        out.write_all(b"one\n").unwrap();
        drop(orders);
        drop(out);
        assert_eq!(*taken.lock().unwrap(), b"one\n");
    }

    #[test]
    fn patience_ends() {
        let (mut out, _orders, _) = told();
        out.write_all(b"one\ntwo\n").unwrap();
        assert_eq!(out.settle(Duration::ZERO), 2);
    }
}
