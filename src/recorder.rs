//! Keeps records without what a login holds: the stages run along, and what they do not know to be harmless is wiped before
//! anything is written.

use std::io::{self, Write};

use crate::capture::Record;
use crate::capture::recording::{Header, Totals, Writer};
use crate::lifecycle::transition::{Event, Observer, Transition};
use crate::pipeline::{Limits, Pipeline};
use crate::time::Timestamp;

/// Recorded bytes that wait in memory, at most about.
const MOST_PENDING: usize = 32 << 20;

/// Makes a recording of what it is given.
pub struct Recorder<W: Write> {
    writer: Writer<W>,
    pipeline: Pipeline,
}

/// The stages run along for the positions of logins only; what they find is nobody's here.
struct Nobody;

impl Observer for Nobody {
    fn transition(&mut self, _: &Transition<'_>) {}
    fn event(&mut self, _: &Event<'_>) {}
}

impl<W: Write> Recorder<W> {
    /// Begins a recording.
    ///
    /// # Errors
    /// If `out` cannot be written to.
    pub fn new(out: W, header: &Header, limits: Limits) -> io::Result<Recorder<W>> {
        let mut pipeline = Pipeline::new(limits);
        pipeline.keep_secrets();
        Ok(Recorder { writer: Writer::new(out, header)?, pipeline })
    }

    /// Takes a record, into memory only.
    ///
    /// # Errors
    /// If no tap could have made the record ([`Writer::write`]).
    pub fn record(&mut self, record: &Record<'_>) -> io::Result<()> {
        self.writer.write(record)?;
        self.pipeline.handle(record, &mut Nobody);
        for range in self.pipeline.unread() {
            self.writer.wipe_last(range.clone());
        }
        self.wipe();
        Ok(())
    }

    /// Writes what is decided, of what was recorded. What is not stays in memory: bytes behind a gap, which nobody has looked at,
    /// and those in which a frame may begin that nobody has recognised. A login could be among either. Where they become too
    /// many they are decided at once.
    ///
    /// # Errors
    /// If the file cannot be written to.
    pub fn commit(&mut self, now: Timestamp) -> io::Result<()> {
        if self.writer.pending_bytes() > MOST_PENDING {
            self.decide(now);
        }
        if self.pipeline.waiting_bytes() > 0 {
            return Ok(());
        }
        match self.pipeline.undecided_since() {
            Some(since) => self.writer.commit_before(since),
            None => self.writer.commit(),
        }
    }

    /// Writes what is left, and the end. Gives what was written to, and what the recording holds.
    ///
    /// # Errors
    /// If the file cannot be written to.
    pub fn finish(mut self, now: Timestamp) -> io::Result<(W, Totals)> {
        self.decide(now);
        self.writer.finish()
    }

    /// Bytes that are not written yet.
    pub fn pending_bytes(&self) -> usize {
        self.writer.pending_bytes()
    }

    /// Leaves nothing undecided.
    fn decide(&mut self, now: Timestamp) {
        self.pipeline.give_up_gaps(now, &mut Nobody);
        self.wipe();
    }

    fn wipe(&mut self) {
        for secret in self.pipeline.take_secrets() {
            self.writer.wipe(&secret.taps, secret.start, secret.length);
        }
    }
}
