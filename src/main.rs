//! The `acktrail` command. Everything it does is in the library; this file only hands over the arguments.

fn main() -> std::process::ExitCode {
    acktrail::cli::main()
}
