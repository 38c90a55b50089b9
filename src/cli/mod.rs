//! The commands.

pub mod args;
pub mod closing;
pub mod doctor;
mod latencies;
pub mod live;
mod outputs;
mod places;
pub mod ready;
#[cfg(feature = "kernel")]
mod record;
mod replay;
#[cfg(feature = "kernel")]
mod run;
pub mod signals;
#[cfg(feature = "otlp")]
mod telemetry;
pub mod terminal;
#[cfg(feature = "kernel")]
mod trace;
mod view;

use std::fmt;
use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU8, Ordering};

use args::{Command, Invocation, UsageError};

use crate::config::{Config, Kafka, LogLevel};
use crate::glob::Glob;
use crate::pipeline::{Limits, Pipeline};
use crate::protocol::kafka::{CopySettings, TraceSettings};

/// Exit status of wrong usage and wrong configuration.
pub const WRONG_USAGE: u8 = 2;

/// Why a command failed; said on standard error, with exit status 1.
#[derive(Debug)]
pub struct Failure(pub String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure(error.to_string())
    }
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let invocation = match args::parse(std::env::args_os()) {
        Ok(invocation) => invocation,
        Err(UsageError::Usage(error)) => {
            // Nobody is left to be told if this cannot be written.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(WRONG_USAGE));
        }
        Err(UsageError::Config(error)) => {
            say(&error);
            return ExitCode::from(WRONG_USAGE);
        }
    };
    execute(&invocation).unwrap_or_else(|failure| {
        say(&failure);
        ExitCode::FAILURE
    })
}

/// The least important level that is said.
static LEVEL: AtomicU8 = AtomicU8::new(LogLevel::Info as u8);

/// From now on what is less important than this is not said.
fn set_level(level: LogLevel) {
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// Says something to people that is no failure of the command, if it is important enough for the configuration.
pub fn note(level: LogLevel, message: &dyn fmt::Display) {
    if level as u8 <= LEVEL.load(Ordering::Relaxed) {
        say(message);
    }
}

/// Says something to people, on standard error, each line with the program's name.
pub fn say(message: &dyn fmt::Display) {
    let mut out = std::io::stderr().lock();
    for line in message.to_string().lines() {
        // Standard error is the last resort.
        let _ = writeln!(out, "acktrail: {line}");
    }
}

fn execute(invocation: &Invocation) -> Result<ExitCode, Failure> {
    set_level(invocation.config.agent.log_level);
    match &invocation.command {
        Command::Replay(path) => replay::replay(invocation, path),
        #[cfg(feature = "kernel")]
        Command::Run => run::run(invocation),
        #[cfg(feature = "kernel")]
        Command::Record(path) => record::record(invocation, path),
        #[cfg(feature = "kernel")]
        Command::Trace => trace::trace(invocation),
        #[cfg(feature = "kernel")]
        Command::Doctor => doctor::doctor(&invocation.config),
        #[cfg(not(feature = "kernel"))]
        Command::Run | Command::Record(_) | Command::Trace | Command::Doctor => {
            Err(Failure("this build cannot capture: it was made without the feature `kernel`".to_owned()))
        }
    }
}

/// The configuration in the stages' terms.
fn limits(config: &Config) -> Limits {
    let size = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let mut limits = Limits::default();
    limits.messages.active = size(config.limits.messages);
    limits.stream.connections = size(config.limits.connections);
    limits.stream.waiting_bytes = size(config.limits.stream_bytes);
    limits.stream.waiting_bytes_per_connection = size(config.limits.connection_bytes);
    limits
}

/// How far records of logs are looked at for traces of their own, where somebody wants to know.
fn traces(config: &Config) -> TraceSettings {
    let records_per_second = match config.traces.ratio {
        all if all >= 1.0 => u64::MAX,
        share if share > 0.0 => config.traces.per_second,
        _ => 0,
    };
    TraceSettings { bytes_per_second: config.kafka.trace_bytes, records_per_second }
}

/// The stages, as they are configured.
fn pipeline(config: &Config) -> Pipeline {
    let mut pipeline = Pipeline::new(limits(config));
    let Kafka { dead_letter_topics, retry_topics, header_topics, copies_bytes, .. } = &config.kafka;
    let globs = |patterns: &[String]| patterns.iter().map(|pattern| Glob::new(pattern)).collect();
    pipeline.set_copies(CopySettings {
        dead_letter_topics: globs(dead_letter_topics),
        retry_topics: globs(retry_topics),
        header_topics: globs(header_topics),
        bytes: usize::try_from(*copies_bytes).unwrap_or(usize::MAX),
    });
    pipeline
}
