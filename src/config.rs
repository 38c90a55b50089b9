//! The configuration: a file, the command line over it, and what both are checked against.
//!
//! [`KEYS`] is the one list of everything that can be configured; the file, the command line, `docs/configuration.md` and
//! the commented default file in `packaging/etc/` are all read or checked by it.

mod file;
mod keys;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::protocol::kafka::{CopySettings, DEAD_LETTER_TOPICS, HEADER_TOPICS, RETRY_TOPICS, TraceSettings};

pub use keys::{KEYS, Key};
pub use value::Value;

/// The file that is read where no other is named; it may be absent.
pub const DEFAULT_FILE: &str = "/etc/acktrail/acktrail.toml";

/// Everything that can be configured, with its defaults.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// What is watched.
    pub watch: Watch,
    /// How the kernel side captures.
    pub capture: Capture,
    /// Files written.
    pub output: Output,
    /// Export to an OpenTelemetry Collector.
    pub otlp: Otlp,
    /// Which messages get a trace.
    pub traces: Traces,
    /// How messages in Kafka are followed.
    pub kafka: Kafka,
    /// Bounds on memory.
    pub limits: Limits,
    /// The agent as a process.
    pub agent: Agent,
    /// What people see.
    pub terminal: Terminal,
    /// `acktrail trace`.
    pub trace: Trace,
    /// `acktrail record`.
    pub record: Record,
    /// `acktrail replay`.
    pub replay: Replay,
    /// `acktrail doctor`.
    pub doctor: Doctor,
}

/// What is watched.
#[derive(Clone, Debug, PartialEq)]
pub struct Watch {
    /// Only connections with one of these ports at either end. Empty: whatever `discover` finds.
    pub ports: Vec<u16>,
    /// Only sockets in these cgroups or below them. Empty: all.
    pub cgroups: Vec<PathBuf>,
    /// Find brokers by their listening sockets and connections by their first bytes. Not asked where `ports` are given.
    pub discover: bool,
    /// Which part of the connections is followed, 0 to 1. A connection is followed whole or not at all.
    pub sample_connections: f64,
}

/// How the kernel side captures.
#[derive(Clone, Debug, PartialEq)]
pub struct Capture {
    /// Size of the ring buffer between kernel and agent, in bytes: a power of two.
    pub ring_bytes: u64,
    /// In packets of at least this much payload the inside of message bodies is left out in the kernel. `None`: never.
    pub skip_bodies_from: Option<u64>,
    /// Whether the reading thread may get a real-time priority while the ring fills up.
    pub lend_priority: bool,
}

/// Files written. `-` is standard output.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// Every transition, event and summary as JSON lines.
    pub jsonl: Option<PathBuf>,
    /// The last summary, as one JSON object.
    pub summary: Option<PathBuf>,
    /// How often a summary line is written besides the last; zero: only at the end.
    pub summary_interval: Duration,
}

/// Export to an OpenTelemetry Collector over gRPC.
#[derive(Clone, Debug, PartialEq)]
pub struct Otlp {
    /// Its address, such as `http://127.0.0.1:4317`; `None`: no export.
    pub endpoint: Option<String>,
    /// How often metrics are sent.
    pub interval: Duration,
    /// How long one export may take before it is given up and counted.
    pub timeout: Duration,
    /// Metadata sent with each export.
    pub headers: BTreeMap<String, Secret>,
    /// Compress what is sent.
    pub gzip: bool,
}

/// Which messages get a trace. Failed, retried, slow and dead-lettered ones do, up to [`crate::export::spans::Spans::BUDGET`].
#[derive(Clone, Debug, PartialEq)]
pub struct Traces {
    /// Which part of the others, 0 to 1, chosen by the message's identity.
    pub ratio: f64,
    /// Where that is more than so many messages a second, about as many.
    pub per_second: u64,
    /// From published to settled longer than this is slow.
    pub slow: Duration,
}

/// How messages in Kafka are followed. Patterns are globs; upper and lower case are the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Kafka {
    /// Patterns for the names of dead-letter topics.
    pub dead_letter_topics: Vec<String>,
    /// Patterns for the names of retry topics.
    pub retry_topics: Vec<String>,
    /// Patterns for the names of topics where only a record's own headers make it a copy.
    pub header_topics: Vec<String>,
    /// Memory for what applications were sent and may publish again, in bytes.
    pub copies_bytes: u64,
    /// Bytes a second that are read of batches for their records' trace contexts.
    pub trace_bytes: u64,
}

/// Bounds on memory. What they turn away is counted.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Messages followed at once.
    pub messages: u64,
    /// Connections followed at once.
    pub connections: u64,
    /// Bytes of one connection that wait for bytes missing before them.
    pub connection_bytes: u64,
    /// Bytes of all connections that wait for bytes missing before them.
    pub stream_bytes: u64,
}

/// The agent as a process.
#[derive(Clone, Debug, PartialEq)]
pub struct Agent {
    /// Socket at which `acktrail trace` asks a running agent.
    pub socket: PathBuf,
    /// Least important messages still logged.
    pub log_level: LogLevel,
    /// Write a byte to this open file descriptor, and close it, once attached.
    pub ready_fd: Option<i32>,
    /// Create this file once attached.
    pub ready_file: Option<PathBuf>,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

/// What people see.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Terminal {
    /// When to colour.
    pub color: Color,
}

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Color {
    /// On a terminal, unless NO_COLOR, CLICOLOR or TERM say otherwise.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// `acktrail trace`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// What to show, in the filter language; empty: everything.
    pub filter: String,
    /// JSON lines instead of a table.
    pub json: bool,
}

/// `acktrail record`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// How long; `None`: until it is stopped.
    pub duration: Option<Duration>,
    /// Keep the host's name in the recording.
    pub host_name: bool,
}

/// `acktrail replay`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Replay {
    /// Show transitions on the terminal, those of this filter.
    pub trace: Option<String>,
    /// Print how often each method was seen, as JSON, per connection and channel.
    pub method_counts: bool,
}

/// `acktrail doctor`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Doctor {
    /// JSON instead of a table.
    pub json: bool,
}

/// A text that is not shown when the configuration is printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl Default for Watch {
    fn default() -> Self {
        Watch { ports: Vec::new(), cgroups: Vec::new(), discover: true, sample_connections: 1.0 }
    }
}

impl Default for Capture {
    fn default() -> Self {
        Capture { ring_bytes: 8 << 20, skip_bodies_from: Some(4 << 10), lend_priority: true }
    }
}

impl Default for Otlp {
    fn default() -> Self {
        Otlp {
            endpoint: None,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(10),
            headers: BTreeMap::new(),
            gzip: false,
        }
    }
}

impl Default for Traces {
    fn default() -> Self {
        Traces { ratio: 0.01, per_second: 100, slow: Duration::from_secs(1) }
    }
}

impl Default for Kafka {
    fn default() -> Self {
        let texts = |patterns: &[&str]| patterns.iter().map(ToString::to_string).collect();
        Kafka {
            dead_letter_topics: texts(DEAD_LETTER_TOPICS),
            retry_topics: texts(RETRY_TOPICS),
            header_topics: texts(HEADER_TOPICS),
            copies_bytes: CopySettings::BYTES as u64,
            trace_bytes: TraceSettings::BYTES,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits { messages: 200_000, connections: 10_000, connection_bytes: 1 << 20, stream_bytes: 16 << 20 }
    }
}

impl Default for Agent {
    fn default() -> Self {
        Agent {
            socket: PathBuf::from("/run/acktrail/acktrail.sock"),
            log_level: LogLevel::Info,
            ready_fd: None,
            ready_file: None,
        }
    }
}

/// What is wrong with a configuration: everything, not just the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What, and what would be allowed.
    pub message: String,
}

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file, at a line (the first is 1).
    File(PathBuf, usize),
    /// In a file that could not be read at all.
    WholeFile(PathBuf),
    /// On the command line, as this option or argument.
    Option(String),
    /// Nowhere: it is the default.
    Default,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File(path, line) => write!(f, "{}:{line}: ", path.display()),
            Place::WholeFile(path) => write!(f, "{}: ", path.display()),
            Place::Option(option) => write!(f, "{option}: "),
            Place::Default => Ok(()),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Problem { place, message }) in self.problems.iter().enumerate() {
            write!(f, "{}{place}{message}", if index == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Puts a configuration together: first a file, then options of the command line, then [`finish`](Loader::finish).
#[derive(Default)]
pub struct Loader {
    config: Config,
    places: BTreeMap<&'static str, Place>,
    problems: Vec<Problem>,
}

impl Loader {
    /// Reads a file.
    pub fn file(&mut self, path: &Path) {
        match std::fs::read_to_string(path) {
            Ok(text) => self.text(path, &text),
            Err(error) => self.problem(Place::WholeFile(path.to_owned()), format!("cannot be read: {error}")),
        }
    }

    /// Reads the file that is read where no other is named, if there is one.
    pub fn default_file(&mut self) {
        let path = Path::new(DEFAULT_FILE);
        if path.exists() {
            self.file(path);
        }
    }

    /// Reads a file's text; `path` is for messages.
    pub fn text(&mut self, path: &Path, text: &str) {
        file::read(self, path, text);
    }

    /// Takes an option of the command line (`--port`) or an argument (`FILTER`) that stands for a key. It wins over the file.
    pub fn option(&mut self, option: &str, key: &str, value: &Value) {
        match KEYS.iter().find(|known| known.name == key) {
            Some(key) => self.set(key, value, Place::Option(option.to_owned())),
            None => self.problem(Place::Option(option.to_owned()), format!("there is no key {key}")),
        }
    }

    /// Checks what keys say together, and hands the configuration over.
    ///
    /// # Errors
    /// Everything that was wrong with it.
    pub fn finish(mut self) -> Result<Config, ConfigError> {
        for (key, message) in contradictions(&self.config) {
            let place = self.places.get(key).cloned().unwrap_or(Place::Default);
            self.problem(place, message);
        }
        if self.problems.is_empty() { Ok(self.config) } else { Err(ConfigError { problems: self.problems }) }
    }

    fn set(&mut self, key: &'static Key, value: &Value, place: Place) {
        match (key.set)(&mut self.config, value) {
            Ok(()) => {
                self.places.insert(key.name, place);
            }
            Err(message) => {
                let message = format!("{}: {message}; allowed: {}", key.name, key.allowed);
                self.problem(place, message);
            }
        }
    }

    fn problem(&mut self, place: Place, message: String) {
        self.problems.push(Problem { place, message });
    }
}

/// Keys that do not go together: the one to blame, and why.
fn contradictions(config: &Config) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let Watch { ports, discover, .. } = &config.watch;
    if ports.is_empty() && !discover {
        found.push((
            "watch.discover",
            "watch.discover is off and watch.ports is empty: nothing would be watched".to_owned(),
        ));
    }
    let Output { jsonl, summary, .. } = &config.output;
    if jsonl.is_some() && jsonl == summary {
        found.push(("output.summary", "output.summary and output.jsonl are the same file".to_owned()));
    }
    if config.otlp.endpoint.is_none() && !config.otlp.headers.is_empty() {
        found.push(("otlp.headers", "otlp.headers are given but no otlp.endpoint to send them to".to_owned()));
    }
    if config.limits.connection_bytes > config.limits.stream_bytes {
        found.push((
            "limits.connection_bytes",
            "limits.connection_bytes is more than limits.stream_bytes allows to all connections together".to_owned(),
        ));
    }
    if config.trace.json && config.terminal.color == Color::Always {
        found.push((
            "terminal.color",
            "JSON lines (trace.json) have no colour (terminal.color = \"always\")".to_owned(),
        ));
    }
    found
}

impl Config {
    /// The keys whose values differ from another configuration's.
    pub fn changed<'a>(&'a self, other: &'a Config) -> impl Iterator<Item = &'static Key> + 'a {
        // Headers are shown without their values.
        let headers = self.otlp.headers != other.otlp.headers;
        KEYS.iter().filter(move |key| match key.name {
            "otlp.headers" => headers,
            _ => (key.get)(self) != (key.get)(other),
        })
    }
}
