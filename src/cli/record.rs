//! `acktrail record`: what the kernel delivers, to a file, without what a login holds.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::args::Invocation;
use super::ready::Ready;
use super::run::{attach, kernel_release, now};
use super::signals::Signals;
use super::{Failure, limits, note};
use crate::capture::Record;
use crate::capture::recording::Header;
use crate::config::LogLevel;
use crate::recorder::Recorder;

/// How long it waits at most for something to record.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Records until it is told to end, or the duration is over.
///
/// # Errors
/// If the capture cannot work here, or the file cannot be written.
pub fn record(invocation: &Invocation, path: &Path) -> Result<ExitCode, Failure> {
    let config = &invocation.config;
    let mut ready = Ready::prepare(&config.agent)?;
    let signals = Signals::install()?;
    let cannot = |error| Failure(format!("cannot write {}: {error}", path.display()));
    let file = BufWriter::new(File::create(path).map_err(cannot)?);
    let header = Header {
        created: now(),
        acktrail: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: kernel_release(),
        host: config.record.host_name.then(host_name).flatten(),
    };
    let mut recorder = Recorder::new(file, &header, limits(config)).map_err(cannot)?;
    let mut capture = attach(config)?;
    ready.announce()?;
    let end = config.record.duration.map(|duration| Instant::now() + duration);
    let mut failed = None;
    let mut ending = false;
    while failed.is_none() {
        let left = end.map_or(LONGEST_WAIT, |end| end.saturating_duration_since(Instant::now()));
        let polled = capture.poll(left.min(LONGEST_WAIT), &mut |record| {
            failed = recorder.record(&record).err().or(failed.take());
        })?;
        failed = recorder.commit(now()).err().or(failed.take());
        if ending && !polled.more {
            break;
        }
        ending |= signals.stop() || end.is_some_and(|end| end <= Instant::now());
    }
    ready.stopping()?;
    failed = failed.or_else(|| recorder.record(&Record::Counters(capture.counters())).err());
    if let Some(error) = failed {
        return Err(cannot(error));
    }
    let (file, totals) = recorder.finish(now()).map_err(cannot)?;
    file.into_inner().map_err(|error| cannot(error.into_error()))?.sync_all().map_err(cannot)?;
    note(
        LogLevel::Info,
        &format!("{} records, {} bytes of payload, in {}", totals.records, totals.bytes, path.display()),
    );
    Ok(ExitCode::SUCCESS)
}

fn host_name() -> Option<String> {
    std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|text| text.trim().to_owned())
}
