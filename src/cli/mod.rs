//! The commands.

pub mod args;
pub mod closing;
pub mod doctor;
pub mod live;
pub mod ready;
pub mod signals;
pub mod terminal;

use std::fmt;
use std::io::Write;
use std::process::ExitCode;

use args::{Command, Invocation, UsageError};

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
    execute(invocation).unwrap_or_else(|failure| {
        say(&failure);
        ExitCode::FAILURE
    })
}

/// Says something to people, on standard error, each line with the program's name.
pub fn say(message: &dyn fmt::Display) {
    let mut out = std::io::stderr().lock();
    for line in message.to_string().lines() {
        // Standard error is the last resort.
        let _ = writeln!(out, "acktrail: {line}");
    }
}

fn execute(invocation: Invocation) -> Result<ExitCode, Failure> {
    match invocation.command {
        Command::Doctor | Command::Run | Command::Trace | Command::Record(_) | Command::Replay(_) => {
            Err(Failure("this command is not in this build".to_owned()))
        }
    }
}
