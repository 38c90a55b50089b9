//! The sink for JSON lines: a file, standard output, or anything else that bytes can be written to.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use super::json;
use super::write_behind::{self, Output, PATIENCE};
use crate::lifecycle::transition::{Event, Observer, Transition};

/// Buffers lines and writes them in large pieces. It never panics and never gives up the agent for a full disk or a
/// reader that went away: what cannot be written is counted. Dropping it writes what waits.
pub struct JsonLines<W: Output> {
    out: W,
    buffer: Vec<u8>,
    lines: u64,
    lost_lines: u64,
    /// The output refused; only [`JsonLines::poll`] and [`JsonLines::flush`] try again.
    stalled: bool,
    /// The reader went away for good.
    closed: bool,
    failure: Option<String>,
    reported: bool,
    last_flush: Instant,
}

impl<W: Output> JsonLines<W> {
    /// Lines wait for at most this long, if [`JsonLines::poll`] is called often enough.
    pub const INTERVAL: Duration = Duration::from_millis(100);
    /// Buffered bytes that make it write at once.
    pub const FULL: usize = 64 << 10;
    /// Buffered bytes beyond which lines are lost, while the output refuses them.
    pub const MOST: usize = 4 << 20;
    /// How often it tries again at the end what its output refuses.
    const AGAIN: Duration = Duration::from_millis(10);

    /// Writes to `out`, which needs no buffer of its own.
    pub fn new(out: W) -> JsonLines<W> {
        JsonLines {
            out,
            buffer: Vec::with_capacity(Self::FULL + (16 << 10)),
            lines: 0,
            lost_lines: 0,
            stalled: false,
            closed: false,
            failure: None,
            reported: false,
            last_flush: Instant::now(),
        }
    }

    /// Adds one line made elsewhere (a summary); it must end in a line feed.
    pub fn line(&mut self, line: &[u8]) {
        self.add(|buffer| buffer.extend_from_slice(line));
    }

    /// Writes what has waited for [`JsonLines::INTERVAL`]. To be called whenever there is nothing else to do.
    pub fn poll(&mut self, now: Instant) {
        if !self.buffer.is_empty() && now.saturating_duration_since(self.last_flush) >= Self::INTERVAL {
            self.last_flush = now;
            self.flush();
        }
    }

    /// Writes everything that waits, as far as the output takes it. What it does not take stays, so that no line is torn.
    pub fn flush(&mut self) {
        self.stalled = false;
        let mut taken = 0;
        while let Some(waiting) = self.buffer.get(taken..).filter(|waiting| !waiting.is_empty()) {
            match self.out.write(waiting) {
                Ok(0) => {
                    self.refused(&ErrorKind::WriteZero.into());
                    break;
                }
                Ok(count) => taken += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.refused(&error);
                    break;
                }
            }
        }
        self.buffer.drain(..taken.min(self.buffer.len()));
        if !self.stalled
            && let Err(error) = self.out.flush()
        {
            self.refused(&error);
        }
        if self.closed {
            self.give_up(Duration::ZERO);
        }
    }

    /// Writes everything that waits, for `patience` at most. What is not written then is counted as lost.
    pub fn finish(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        self.flush();
        while !self.buffer.is_empty() && Instant::now() < deadline {
            std::thread::sleep(Self::AGAIN);
            self.flush();
        }
        self.give_up(deadline.saturating_duration_since(Instant::now()));
    }

    fn give_up(&mut self, patience: Duration) {
        let lost = write_behind::lines(&self.buffer) + self.out.settle(patience);
        self.lines -= lost.min(self.lines);
        self.lost_lines += lost;
        self.buffer.clear();
        self.closed = true;
    }

    /// Lines written or still waiting, and lines lost because the output refused them. Together: all that were added.
    pub fn counts(&self) -> (u64, u64) {
        (self.lines, self.lost_lines)
    }

    /// The first failure in words, once.
    pub fn take_failure(&mut self) -> Option<String> {
        self.failure.take()
    }

    fn add(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.closed || self.buffer.len() >= Self::MOST {
            self.lost_lines += 1;
            return;
        }
        write(&mut self.buffer);
        self.lines += 1;
        if self.buffer.len() >= Self::FULL && !self.stalled {
            self.flush();
        }
    }

    fn refused(&mut self, error: &io::Error) {
        self.stalled = true;
        if error.kind() == ErrorKind::WouldBlock {
            return;
        }
        if !self.reported {
            self.reported = true;
            self.failure = Some(error.to_string());
        }
        // A reader that went away does not come back; a full disk may have room again.
        self.closed |= matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::WriteZero);
    }
}

impl<W: Output> Observer for JsonLines<W> {
    fn transition(&mut self, transition: &Transition<'_>) {
        self.add(|buffer| json::transition_line(transition, buffer));
    }

    fn event(&mut self, event: &Event<'_>) {
        self.add(|buffer| json::event_line(event, buffer));
    }
}

impl<W: Output> Drop for JsonLines<W> {
    fn drop(&mut self) {
        self.finish(PATIENCE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// An output that takes a few bytes at a time, fails when told, and may recover.
    #[derive(Default)]
    struct Tried {
        taken: Vec<u8>,
        fail: Option<ErrorKind>,
    }

    impl Write for &mut Tried {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Some(kind) = self.fail {
                if self.taken.len() % 7 == 3 {
                    return Err(kind.into());
                }
                let count = bytes.len().min(1);
                self.taken.extend_from_slice(&bytes[..count]);
                return Ok(count);
            }
            let count = bytes.len().min(1000);
            self.taken.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Output for &mut Tried {}

    #[test]
    fn a_full_disk_tears_no_line_and_loses_counted_ones() {
        let mut output = Tried { fail: Some(ErrorKind::StorageFull), ..Tried::default() };
        let mut lines = JsonLines::new(&mut output);
        for _ in 0..1_000_000 {
            lines.line(b"{\"kind\":\"summary\"}\n");
        }
        lines.flush();
        let (accepted, lost) = lines.counts();
        assert!(lost > 0 && accepted + lost == 1_000_000, "{accepted} {lost}");
        assert!(lines.take_failure().is_some());
        assert!(lines.take_failure().is_none());
        lines.out.fail = None;
        lines.flush();
        drop(lines);
        let text = String::from_utf8(output.taken).unwrap();
        assert_eq!(text.lines().count() as u64, accepted);
        assert!(text.lines().all(|line| line == "{\"kind\":\"summary\"}"));
    }

    #[test]
    fn a_reader_that_went_away_is_counted_not_fatal() {
        let mut output = Tried { fail: Some(ErrorKind::BrokenPipe), ..Tried::default() };
        let mut lines = JsonLines::new(&mut output);
        for _ in 0..10_000 {
            lines.line(b"0123456789\n");
        }
        lines.flush();
        let (written, lost) = lines.counts();
        assert!(lost > 0 && written + lost == 10_000, "{written} {lost}");
        assert!(lines.take_failure().is_some());
    }

    #[test]
    fn lines_do_not_wait_longer_than_the_interval() {
        let mut output = Tried::default();
        let mut lines = JsonLines::new(&mut output);
        let start = lines.last_flush;
        lines.line(b"a\n");
        lines.poll(start + JsonLines::<&mut Tried>::INTERVAL / 2);
        assert!(lines.out.taken.is_empty());
        lines.poll(start + JsonLines::<&mut Tried>::INTERVAL);
        assert_eq!(lines.out.taken, b"a\n");
    }
}
