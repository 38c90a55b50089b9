//! The command line: commands and options, and how they become a configuration.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::{Config, ConfigError, KEYS, Loader, Value};

/// What was asked for.
#[derive(Debug)]
pub struct Invocation {
    /// The command.
    pub command: Command,
    /// File and options together.
    pub config: Config,
    /// How to read the configuration again (SIGHUP): the same file, the same options over it.
    pub source: ConfigSource,
}

/// A command, with what is no option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The agent.
    Run,
    /// Live transitions.
    Trace,
    /// Write a recording to this file.
    Record(PathBuf),
    /// Read a recording, pcap or pcapng.
    Replay(PathBuf),
    /// What this machine allows.
    Doctor,
}

/// Where a configuration came from.
#[derive(Clone, Debug, Default)]
pub struct ConfigSource {
    file: Option<PathBuf>,
    default_file: bool,
    options: Vec<(String, String, Value)>,
}

impl ConfigSource {
    /// Reads the configuration, now.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(&self) -> Result<Config, ConfigError> {
        let mut loader = Loader::default();
        match &self.file {
            Some(file) => loader.file(file),
            None if self.default_file => loader.default_file(),
            None => {}
        }
        for (option, key, value) in &self.options {
            loader.option(option, key, value);
        }
        loader.finish()
    }
}

/// Why there is nothing to run.
#[derive(Debug)]
pub enum UsageError {
    /// Wrong usage, or `--help` or `--version`: clap's message knows which.
    Usage(clap::Error),
    /// The configuration is wrong.
    Config(ConfigError),
}

/// Reads a command line, the program's name first, and the configuration that it names.
///
/// # Errors
/// If there is nothing to run.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, UsageError> {
    let command = command();
    let matches = command.clone().try_get_matches_from(arguments).map_err(UsageError::Usage)?;
    let arguments = Arguments::from_arg_matches(&matches).map_err(UsageError::Usage)?;
    let (name, of_command) = matches.subcommand().unwrap_or(("", &matches));
    let definition = command.find_subcommand(name).unwrap_or(&command);
    let command = arguments.command.command();
    let source = ConfigSource {
        file: arguments.config,
        // A replay gives the same lines on every machine.
        default_file: !matches!(command, Command::Replay(_)),
        options: options(definition, of_command),
    };
    let config = source.load().map_err(UsageError::Config)?;
    Ok(Invocation { command, config, source })
}

/// The command line's definition: for `--help`, manual pages and completions.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// The key that an option or argument of a command stands for; `None` for those that are no configuration.
pub fn key_of(command: &str, argument: &Arg) -> Option<&'static str> {
    let shown = shown(argument);
    let of_section = |key: &&crate::config::Key| {
        let section = key.parts().0;
        let commands = ["trace", "record", "replay", "doctor"];
        !commands.contains(&section) || section == command
    };
    let known = KEYS.iter().filter(of_section).find(|key| key.option == Some(&shown)).map(|key| key.name);
    known.or((shown == "--no-color").then_some("terminal.color"))
}

/// `--port`, or `FILTER` for an argument without dashes.
fn shown(argument: &Arg) -> String {
    match argument.get_long() {
        Some(long) => format!("--{long}"),
        None => argument.get_id().as_str().to_uppercase(),
    }
}

/// What stands on the command line, as values for keys.
fn options(definition: &clap::Command, matches: &ArgMatches) -> Vec<(String, String, Value)> {
    let mut options = Vec::new();
    for argument in definition.get_arguments() {
        let id = argument.get_id().as_str();
        if matches.value_source(id) != Some(ValueSource::CommandLine) {
            continue;
        }
        let Some(key) = key_of(definition.get_name(), argument) else { continue };
        let raw = matches.get_raw(id).into_iter().flatten();
        let mut words: Vec<Value> = raw.map(|word| Value::Word(word.to_string_lossy().into_owned())).collect();
        let value = match argument.get_action() {
            ArgAction::SetTrue if id == "no_color" => Value::Word("never".to_owned()),
            ArgAction::SetTrue => Value::Flag(true),
            ArgAction::Append => Value::List(words),
            _ => words.pop().unwrap_or_else(|| Value::Word(String::new())),
        };
        options.push((shown(argument), key.to_owned(), value));
    }
    options
}

const ABOUT: &str = "Follows every message through RabbitMQ, from the producer's socket to its acknowledgement or its \
                     dead-letter queue, without touching the applications";

const EXIT_CODES: &str = "Exit status: 0 done, 1 failed, 2 wrong usage or configuration.\n\n\
                          Every option can also stand in the configuration file (docs/configuration.md); the command \
                          line wins.";

const FILTERS: &str = "A filter is terms that must all hold, such as\n  queue=orders* state=dead* latency>1s\n  \
                       state=failed|rejected or delivery>=3\n  !process=beam* key=\"new order\"\n\n\
                       docs/configuration.md lists every name; a wrong one is answered with those that are allowed.";

#[derive(Parser)]
#[command(name = "acktrail", version, about = ABOUT, after_help = EXIT_CODES, max_term_width = 100)]
#[command(propagate_version = true, arg_required_else_help = true, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Commands,

    /// Configuration file [default: /etc/acktrail/acktrail.toml where it exists; none for replay]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Commands {
    /// Run the agent: capture, follow, export; ends cleanly on SIGINT and SIGTERM
    ///
    /// Attaches to the kernel, follows every message of the connections it watches, and writes and exports what became of
    /// them. SIGINT and SIGTERM end it: it drains what is waiting and prints a summary. SIGHUP reads the configuration
    /// again.
    Run(Box<Run>),
    /// Show transitions as they happen
    ///
    /// Asks the running agent over its socket; captures itself if none runs.
    #[command(after_help = FILTERS)]
    Trace(Trace),
    /// Write what the kernel delivers to a file, to be replayed elsewhere
    ///
    /// Message bodies are in a recording; what a login holds is overwritten with zeros before it is written.
    Record(Record),
    /// Read a recording, pcap or pcapng file as if it happened now; needs no privileges
    ///
    /// The same file gives the same output, byte for byte. The default configuration file is not read.
    #[command(after_help = FILTERS)]
    Replay(Replay),
    /// Say what this kernel, these privileges and this configuration allow, and what to do about the rest
    ///
    /// Exit status 0 only if capture can work.
    Doctor(Doctor),
}

impl Commands {
    fn command(self) -> Command {
        match self {
            Commands::Run(_) => Command::Run,
            Commands::Trace(_) => Command::Trace,
            Commands::Record(record) => Command::Record(record.file),
            Commands::Replay(replay) => Command::Replay(replay.file),
            Commands::Doctor(_) => Command::Doctor,
        }
    }
}

// Values are read by the configuration's keys, which know what is allowed; here they are words.

#[derive(clap::Args)]
struct WatchOptions {
    /// Watch only connections with this port at either end; repeatable
    #[arg(long, value_name = "N", action = ArgAction::Append)]
    port: Vec<String>,

    /// Watch only processes in this cgroup or below it; repeatable
    #[arg(long, value_name = "PATH", action = ArgAction::Append)]
    cgroup: Vec<String>,

    /// Find brokers by themselves where no port is given [default: true]
    #[arg(long, value_name = "BOOL")]
    discover: Option<String>,

    /// Follow this part of the connections, 0 to 1 [default: 1]
    #[arg(long, value_name = "RATIO")]
    sample_connections: Option<String>,
}

#[derive(clap::Args)]
struct CaptureOptions {
    /// Size of the kernel's ring buffer, a power of two such as 8MiB
    #[arg(long, value_name = "SIZE")]
    ring_size: Option<String>,

    /// Leave the inside of bodies in packets of at least this size in the kernel; "never" to copy all
    #[arg(long, value_name = "SIZE")]
    skip_bodies_from: Option<String>,
}

#[derive(clap::Args)]
struct OutputOptions {
    /// Write every transition, event and summary as JSON lines; - is standard output
    #[arg(long, value_name = "FILE", value_parser = NonEmptyStringValueParser::new())]
    jsonl: Option<String>,

    /// Write the last summary as JSON at the end
    #[arg(long, value_name = "FILE", value_parser = NonEmptyStringValueParser::new())]
    summary: Option<String>,

    /// Write a summary line this often, such as 10s
    #[arg(long, value_name = "DURATION")]
    summary_interval: Option<String>,
}

#[derive(clap::Args)]
struct ReadyOptions {
    /// Write a line to this open file descriptor once attached
    #[arg(long, value_name = "N")]
    ready_fd: Option<String>,

    /// Create this file once attached
    #[arg(long, value_name = "FILE")]
    ready_file: Option<String>,
}

#[derive(clap::Args)]
struct TerminalOptions {
    /// When to colour: auto, always or never
    #[arg(long, visible_alias = "colour", value_name = "WHEN")]
    color: Option<String>,

    /// Never colour
    #[arg(long, alias = "no-colour", conflicts_with = "color")]
    no_color: bool,

    /// Least important messages to log: error, warn, info or debug
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

#[derive(clap::Args)]
struct Run {
    #[command(flatten)]
    watch: WatchOptions,
    #[command(flatten)]
    output: OutputOptions,

    /// Export to the OpenTelemetry Collector at this address, such as http://127.0.0.1:4317
    #[arg(long, value_name = "URL")]
    otlp: Option<String>,

    /// Export metrics this often [default: 10s]
    #[arg(long, value_name = "DURATION")]
    otlp_interval: Option<String>,

    /// Give an export up after this long [default: 10s]
    #[arg(long, value_name = "DURATION")]
    otlp_timeout: Option<String>,

    /// Send this metadata with each export; repeatable
    #[arg(long, value_name = "NAME=VALUE", action = ArgAction::Append)]
    otlp_header: Vec<String>,

    /// Compress what is sent to the Collector [default: false]
    #[arg(long, value_name = "BOOL")]
    otlp_gzip: Option<String>,

    /// Trace this part of the messages without trouble, 0 to 1 [default: 0.01]
    #[arg(long, value_name = "RATIO")]
    trace_ratio: Option<String>,

    /// Where that is more than so many messages a second, trace about as many [default: 100]
    #[arg(long, value_name = "COUNT")]
    traces_per_second: Option<String>,

    /// Trace every message that takes longer than this [default: 1s]
    #[arg(long, value_name = "DURATION")]
    slow: Option<String>,

    /// Answer `acktrail trace` at this socket
    #[arg(long, value_name = "PATH")]
    socket: Option<String>,

    #[command(flatten)]
    ready: ReadyOptions,
    #[command(flatten)]
    capture: CaptureOptions,
    #[command(flatten)]
    terminal: TerminalOptions,
}

#[derive(clap::Args)]
struct Trace {
    /// What to show; everything if absent
    filter: Option<String>,

    /// JSON lines instead of a table
    #[arg(long)]
    json: bool,

    /// The running agent's socket
    #[arg(long, value_name = "PATH")]
    socket: Option<String>,

    #[command(flatten)]
    watch: WatchOptions,
    #[command(flatten)]
    ready: ReadyOptions,
    #[command(flatten)]
    capture: CaptureOptions,
    #[command(flatten)]
    terminal: TerminalOptions,
}

#[derive(clap::Args)]
struct Record {
    /// File to write
    file: PathBuf,

    /// Stop after this long, such as 30s
    #[arg(long, value_name = "DURATION")]
    duration: Option<String>,

    /// Keep this host's name in the recording
    #[arg(long)]
    host_name: bool,

    #[command(flatten)]
    watch: WatchOptions,
    #[command(flatten)]
    ready: ReadyOptions,
    #[command(flatten)]
    capture: CaptureOptions,
    #[command(flatten)]
    terminal: TerminalOptions,
}

#[derive(clap::Args)]
struct Replay {
    /// File to read: a recording, pcap or pcapng
    file: PathBuf,

    #[command(flatten)]
    output: OutputOptions,

    /// Show transitions on the terminal, those that the filter lets pass
    #[arg(long, value_name = "FILTER", num_args = 0..=1, default_missing_value = "")]
    trace: Option<String>,

    /// Print how often each method was seen, per connection and channel, as JSON
    #[arg(long)]
    method_counts: bool,

    #[command(flatten)]
    watch: WatchOptions,
    #[command(flatten)]
    terminal: TerminalOptions,
}

#[derive(clap::Args)]
struct Doctor {
    /// JSON instead of a table
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    watch: WatchOptions,
    #[command(flatten)]
    capture: CaptureOptions,
    #[command(flatten)]
    terminal: TerminalOptions,
}

#[cfg(test)]
mod tests;
