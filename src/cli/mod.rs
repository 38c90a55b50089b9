//! The commands.

pub mod args;
pub mod live;
pub mod terminal;

/// Runs the command line.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
