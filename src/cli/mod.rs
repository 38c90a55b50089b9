//! The commands.

pub mod args;

/// Runs the command line.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
