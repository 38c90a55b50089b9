//! Every key, with the option of the command line that stands for it, its default, and what it allows.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::filter::Filter;
use crate::units::{show_duration, show_size};

use super::{Color, Config, LogLevel, Secret, Value};

/// Something that can be configured.
pub struct Key {
    /// Section and name: `watch.ports`.
    pub name: &'static str,
    /// The option, or the argument, of the command line that stands for it.
    pub option: Option<&'static str>,
    /// What its value may be, with unit and range.
    pub allowed: &'static str,
    /// What it does.
    pub help: &'static str,
    /// A running agent takes a changed value when it gets SIGHUP; the others need a restart.
    pub reload: bool,
    /// Its value in a configuration, as TOML; `None` where it is not set.
    pub get: fn(&Config) -> Option<String>,
    pub(super) set: fn(&mut Config, &Value) -> Result<(), String>,
}

impl Key {
    /// The name of its section, and its name in it.
    pub fn parts(&self) -> (&'static str, &'static str) {
        self.name.split_once('.').unwrap_or(("", self.name))
    }

    /// Its default as TOML; `None` where it is not set by default.
    pub fn default(&self) -> Option<String> {
        (self.get)(&Config::default())
    }
}

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Every key, section by section.
pub const KEYS: &[Key] = &[
    Key {
        name: "watch.ports",
        option: Some("--port"),
        allowed: "a list of ports, 1 to 65535",
        help: "Watch only connections with one of these ports at either end. Empty: whatever `watch.discover` finds.",
        reload: true,
        get: |config| Some(list(&config.watch.ports)),
        set: |config, value| {
            let mut ports = value.list(Value::port)?;
            ports.sort_unstable();
            ports.dedup();
            config.watch.ports = ports;
            Ok(())
        },
    },
    Key {
        name: "watch.cgroups",
        option: Some("--cgroup"),
        allowed: "a list of directories of cgroup v2, absolute or below its mount point",
        help: "Watch only sockets of processes in these cgroups, or below them. Empty: all.",
        reload: true,
        get: |config| Some(list(&config.watch.cgroups.iter().map(|path| quote_path(path)).collect::<Vec<_>>())),
        set: |config, value| {
            config.watch.cgroups = value.list(Value::path)?;
            Ok(())
        },
    },
    Key {
        name: "watch.discover",
        option: Some("--discover"),
        allowed: "true or false",
        help: "Find brokers by their listening sockets, and connections by their first bytes. Not asked where \
               `watch.ports` are given.",
        reload: true,
        get: |config| Some(config.watch.discover.to_string()),
        set: |config, value| put(&mut config.watch.discover, value.flag()),
    },
    Key {
        name: "watch.sample_connections",
        option: Some("--sample-connections"),
        allowed: "a number, 0 to 1",
        help: "Which part of the connections is followed. A connection is followed whole or not at all; what is left out is \
               counted.",
        reload: true,
        get: |config| Some(format!("{:?}", config.watch.sample_connections)),
        set: |config, value| put(&mut config.watch.sample_connections, value.ratio()),
    },
    Key {
        name: "capture.ring_size",
        option: Some("--ring-size"),
        allowed: "a size that is a power of two, 64KiB to 1GiB",
        help: "Size of the ring buffer between kernel and agent. What does not fit is counted.",
        reload: false,
        get: |config| Some(quote(&show_size(config.capture.ring_bytes))),
        set: |config, value| {
            let bytes = value.size(64 * KIB, GIB)?;
            if !bytes.is_power_of_two() {
                return Err(format!("{} is no power of two", value.describe()));
            }
            config.capture.ring_bytes = bytes;
            Ok(())
        },
    },
    Key {
        name: "capture.skip_bodies_from",
        option: Some("--skip-bodies-from"),
        allowed: "a size, 1KiB to 1GiB, or \"never\"",
        help: "In packets of at least this much payload, the inside of message bodies, and of record batches that \
               nobody reads, stays in the kernel. Such a message is known by its id or trace context only.",
        reload: true,
        get: |config| Some(quote(&config.capture.skip_bodies_from.map_or("never".to_owned(), show_size))),
        set: |config, value| {
            let never = value.text().is_ok_and(|text| text == "never");
            config.capture.skip_bodies_from = if never { None } else { Some(value.size(KIB, GIB)?) };
            Ok(())
        },
    },
    Key {
        name: "capture.lend_priority",
        option: None,
        allowed: "true or false",
        help: "While the ring is filling up and others leave the agent no processor time, let its reading thread have a \
               real-time priority, for at most half of the time. Otherwise a saturated host loses records, counted.",
        reload: false,
        get: |config| Some(config.capture.lend_priority.to_string()),
        set: |config, value| put(&mut config.capture.lend_priority, value.flag()),
    },
    Key {
        name: "output.jsonl",
        option: Some("--jsonl"),
        allowed: "a path, or \"-\" for standard output",
        help: "Write every transition, event and summary as JSON lines.",
        reload: false,
        get: |config| config.output.jsonl.as_deref().map(quote_path),
        set: |config, value| put(&mut config.output.jsonl, value.path().map(Some)),
    },
    Key {
        name: "output.summary",
        option: Some("--summary"),
        allowed: "a path, or \"-\" for standard output",
        help: "Write the last summary, one JSON object, at the end.",
        reload: false,
        get: |config| config.output.summary.as_deref().map(quote_path),
        set: |config, value| put(&mut config.output.summary, value.path().map(Some)),
    },
    Key {
        name: "output.summary_interval",
        option: Some("--summary-interval"),
        allowed: "a duration, 100ms to 24h, or 0",
        help: "How often a summary line is written besides the one at the end; 0: never.",
        reload: false,
        get: |config| Some(quote(&show_duration(config.output.summary_interval))),
        set: |config, value| {
            let zero = value.duration(Duration::ZERO, Duration::ZERO);
            put(&mut config.output.summary_interval, zero.or_else(|_| value.duration(SECOND / 10, DAY)))
        },
    },
    Key {
        name: "otlp.endpoint",
        option: Some("--otlp"),
        allowed: "an address such as \"http://127.0.0.1:4317\" (gRPC without TLS: put a Collector on the host)",
        help: "Export metrics, traces and logs to an OpenTelemetry Collector.",
        reload: false,
        get: |config| config.otlp.endpoint.as_deref().map(quote),
        set: |config, value| put(&mut config.otlp.endpoint, endpoint(value).map(Some)),
    },
    Key {
        name: "otlp.interval",
        option: Some("--otlp-interval"),
        allowed: "a duration, 1s to 1h",
        help: "How often metrics are exported.",
        reload: false,
        get: |config| Some(quote(&show_duration(config.otlp.interval))),
        set: |config, value| put(&mut config.otlp.interval, value.duration(SECOND, HOUR)),
    },
    Key {
        name: "otlp.timeout",
        option: Some("--otlp-timeout"),
        allowed: "a duration, 100ms to 5m",
        help: "How long one export may take before it is given up and counted.",
        reload: false,
        get: |config| Some(quote(&show_duration(config.otlp.timeout))),
        set: |config, value| put(&mut config.otlp.timeout, value.duration(SECOND / 10, 300 * SECOND)),
    },
    Key {
        name: "otlp.headers",
        option: Some("--otlp-header"),
        allowed: "a table of texts: { \"name\" = \"value\" }; on the command line NAME=VALUE",
        help: "Metadata sent with each export, such as a token. Values are never shown.",
        reload: false,
        get: |config| (!config.otlp.headers.is_empty()).then(|| headers_shown(&config.otlp.headers)),
        set: |config, value| put(&mut config.otlp.headers, headers(value)),
    },
    Key {
        name: "otlp.gzip",
        option: Some("--otlp-gzip"),
        allowed: "true or false",
        help: "Compress what is sent. Worth its processor time only where the Collector is on another host.",
        reload: false,
        get: |config| Some(config.otlp.gzip.to_string()),
        set: |config, value| put(&mut config.otlp.gzip, value.flag()),
    },
    Key {
        name: "traces.ratio",
        option: Some("--trace-ratio"),
        allowed: "a number, 0 to 1",
        help: "Which part of the messages without trouble gets a trace. Failed, retried, slow and dead-lettered ones do as \
               well; where they are more than 2,000 a second, a share of them.",
        reload: true,
        get: |config| Some(format!("{:?}", config.traces.ratio)),
        set: |config, value| put(&mut config.traces.ratio, value.ratio()),
    },
    Key {
        name: "traces.per_second",
        option: Some("--traces-per-second"),
        allowed: "a number, 1 to 1000000",
        help: "Where the ratio gives more messages a second a trace, a smaller part gets one, about so many. With a ratio of 1, \
               all of them. So many of Kafka's records a second with a sampled trace of their own are told of singly as well; with \
               a ratio of 0 none.",
        reload: true,
        get: |config| Some(config.traces.per_second.to_string()),
        set: |config, value| put(&mut config.traces.per_second, value.count(1, 1_000_000)),
    },
    Key {
        name: "traces.slow",
        option: Some("--slow"),
        allowed: "a duration, 1ms to 24h",
        help: "A message that takes longer from published to settled is slow.",
        reload: true,
        get: |config| Some(quote(&show_duration(config.traces.slow))),
        set: |config, value| put(&mut config.traces.slow, value.duration(SECOND / 1000, DAY)),
    },
    Key {
        name: "kafka.dead_letter_topics",
        option: None,
        allowed: "a list of patterns: `*` stands for any characters, `?` for one, `\\` for the next as it is",
        help: "Topics that take dead letters, by their names; upper and lower case are the same. What a consumer \
               publishes into one is the dead letter of a record that it was sent, if its headers say so or it is alike: same \
               key and value, or same key and trace.",
        reload: false,
        get: |config| Some(list(&config.kafka.dead_letter_topics.iter().map(|text| quote(text)).collect::<Vec<_>>())),
        set: |config, value| put(&mut config.kafka.dead_letter_topics, patterns(value)),
    },
    Key {
        name: "kafka.retry_topics",
        option: None,
        allowed: "a list of patterns: `*` stands for any characters, `?` for one, `\\` for the next as it is",
        help: "Topics that take what is to be tried again, in the same way. One that matches `dead_letter_topics` as well is \
               a dead-letter topic.",
        reload: false,
        get: |config| Some(list(&config.kafka.retry_topics.iter().map(|text| quote(text)).collect::<Vec<_>>())),
        set: |config, value| put(&mut config.kafka.retry_topics, patterns(value)),
    },
    Key {
        name: "kafka.header_topics",
        option: None,
        allowed: "a list of patterns: `*` stands for any characters, `?` for one, `\\` for the next as it is",
        help: "Further topics in which a record is a dead letter only if its headers name the original. Records of all other \
               topics are not looked into.",
        reload: false,
        get: |config| Some(list(&config.kafka.header_topics.iter().map(|text| quote(text)).collect::<Vec<_>>())),
        set: |config, value| put(&mut config.kafka.header_topics, patterns(value)),
    },
    Key {
        name: "kafka.copies_memory",
        option: None,
        allowed: "a size, 0 to 1GiB",
        help: "Memory for what consumers were sent lately, to recognise it when they publish it again without headers that say \
               so. The oldest gives way; a record of a retry or dead-letter topic whose original may have been there is counted.",
        reload: false,
        get: |config| Some(quote(&show_size(config.kafka.copies_bytes))),
        set: |config, value| put(&mut config.kafka.copies_bytes, value.size(0, GIB)),
    },
    Key {
        name: "kafka.trace_bytes",
        option: None,
        allowed: "a size, 0 to 1GiB",
        help: "Bytes a second, before and after decompression, that are read of record batches to find records with a sampled \
               trace context, which then have lines and spans of their own. Only while spans or lines are wanted, and hardly \
               any in topics without such records. What is not read for it is counted. 0: none.",
        reload: true,
        get: |config| Some(quote(&show_size(config.kafka.trace_bytes))),
        set: |config, value| put(&mut config.kafka.trace_bytes, value.size(0, GIB)),
    },
    Key {
        name: "limits.messages",
        option: None,
        allowed: "a number, 1000 to 100000000",
        help: "Messages followed at once. The oldest give way, and are counted.",
        reload: false,
        get: |config| Some(config.limits.messages.to_string()),
        set: |config, value| put(&mut config.limits.messages, value.count(1000, 100_000_000)),
    },
    Key {
        name: "limits.connections",
        option: None,
        allowed: "a number, 16 to 1000000",
        help: "Connections followed at once.",
        reload: false,
        get: |config| Some(config.limits.connections.to_string()),
        set: |config, value| put(&mut config.limits.connections, value.count(16, 1_000_000)),
    },
    Key {
        name: "limits.connection_bytes",
        option: None,
        allowed: "a size, 64KiB to 1GiB",
        help: "Bytes of one connection that wait for missing bytes before them. Beyond it the missing ones are counted as \
               lost.",
        reload: false,
        get: |config| Some(quote(&show_size(config.limits.connection_bytes))),
        set: |config, value| put(&mut config.limits.connection_bytes, value.size(64 * KIB, GIB)),
    },
    Key {
        name: "limits.stream_bytes",
        option: None,
        allowed: "a size, 1MiB to 16GiB",
        help: "Bytes of all connections together that wait so.",
        reload: false,
        get: |config| Some(quote(&show_size(config.limits.stream_bytes))),
        set: |config, value| put(&mut config.limits.stream_bytes, value.size(MIB, 16 * GIB)),
    },
    Key {
        name: "agent.socket",
        option: Some("--socket"),
        allowed: "a path of at most 107 bytes",
        help: "Socket at which `acktrail trace` asks the running agent.",
        reload: false,
        get: |config| Some(quote_path(&config.agent.socket)),
        set: |config, value| put(&mut config.agent.socket, socket_path(value)),
    },
    Key {
        name: "agent.log_level",
        option: Some("--log-level"),
        allowed: "\"error\", \"warn\", \"info\" or \"debug\"",
        help: "Least important messages still written to standard error.",
        reload: true,
        get: |config| Some(quote(&format!("{:?}", config.agent.log_level).to_lowercase())),
        set: |config, value| {
            let levels = [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug];
            put(&mut config.agent.log_level, choice(value, &levels))
        },
    },
    Key {
        name: "agent.ready_fd",
        option: Some("--ready-fd"),
        allowed: "the number of an open file descriptor, 3 to 65535",
        help: "Write a line to it, and close it, once everything is attached. (systemd is told READY=1 in any case.)",
        reload: false,
        get: |config| config.agent.ready_fd.map(|fd| fd.to_string()),
        set: |config, value| {
            let fd = value.integer(3, 65535).and_then(|fd| i32::try_from(fd).map_err(|_| "out of range".to_owned()));
            put(&mut config.agent.ready_fd, fd.map(Some))
        },
    },
    Key {
        name: "agent.ready_file",
        option: Some("--ready-file"),
        allowed: "a path",
        help: "Create this file once everything is attached.",
        reload: false,
        get: |config| config.agent.ready_file.as_deref().map(quote_path),
        set: |config, value| put(&mut config.agent.ready_file, value.path().map(Some)),
    },
    Key {
        name: "terminal.color",
        option: Some("--color"),
        allowed: "\"auto\", \"always\" or \"never\"",
        help: "When to colour. auto: on a terminal, unless NO_COLOR, CLICOLOR or TERM say otherwise.",
        reload: false,
        get: |config| Some(quote(&format!("{:?}", config.terminal.color).to_lowercase())),
        set: |config, value| {
            put(&mut config.terminal.color, choice(value, &[Color::Auto, Color::Always, Color::Never]))
        },
    },
    Key {
        name: "trace.filter",
        option: Some("FILTER"),
        allowed: "a filter such as \"queue=orders* state=dead*\"",
        help: "What `acktrail trace` shows. Empty: everything.",
        reload: false,
        get: |config| Some(quote(&config.trace.filter)),
        set: |config, value| put(&mut config.trace.filter, filter(value)),
    },
    Key {
        name: "trace.json",
        option: Some("--json"),
        allowed: "true or false",
        help: "`acktrail trace` shows JSON lines.",
        reload: false,
        get: |config| Some(config.trace.json.to_string()),
        set: |config, value| put(&mut config.trace.json, value.flag()),
    },
    Key {
        name: "record.duration",
        option: Some("--duration"),
        allowed: "a duration, 1ms to 24h",
        help: "How long `acktrail record` records. Not set: until it is stopped.",
        reload: false,
        get: |config| config.record.duration.map(|duration| quote(&show_duration(duration))),
        set: |config, value| put(&mut config.record.duration, value.duration(SECOND / 1000, DAY).map(Some)),
    },
    Key {
        name: "record.host_name",
        option: Some("--host-name"),
        allowed: "true or false",
        help: "Keep this host's name in the recording.",
        reload: false,
        get: |config| Some(config.record.host_name.to_string()),
        set: |config, value| put(&mut config.record.host_name, value.flag()),
    },
    Key {
        name: "replay.trace",
        option: Some("--trace"),
        allowed: "a filter; empty for everything",
        help: "`acktrail replay` shows transitions on the terminal.",
        reload: false,
        get: |config| config.replay.trace.as_deref().map(quote),
        set: |config, value| put(&mut config.replay.trace, filter(value).map(Some)),
    },
    Key {
        name: "replay.method_counts",
        option: Some("--method-counts"),
        allowed: "true or false",
        help: "`acktrail replay` prints how often each AMQP method was seen, per connection and channel, as JSON.",
        reload: false,
        get: |config| Some(config.replay.method_counts.to_string()),
        set: |config, value| put(&mut config.replay.method_counts, value.flag()),
    },
    Key {
        name: "doctor.json",
        option: Some("--json"),
        allowed: "true or false",
        help: "`acktrail doctor` prints JSON.",
        reload: false,
        get: |config| Some(config.doctor.json.to_string()),
        set: |config, value| put(&mut config.doctor.json, value.flag()),
    },
];

fn put<T>(place: &mut T, value: Result<T, String>) -> Result<(), String> {
    *place = value?;
    Ok(())
}

/// One of a list of values, by the lower-case names that `Debug` gives them.
fn choice<T: Copy + std::fmt::Debug>(value: &Value, choices: &[T]) -> Result<T, String> {
    let text = value.text()?;
    let found = choices.iter().find(|choice| format!("{choice:?}").to_lowercase() == text);
    found.copied().ok_or_else(|| format!("{text:?} is none of them"))
}

fn filter(value: &Value) -> Result<String, String> {
    let text = value.text()?;
    Filter::parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// The kernel's `sun_path` holds 108 bytes, the last of them a zero (unix(7)).
/// Patterns for names, none of them empty.
fn patterns(value: &Value) -> Result<Vec<String>, String> {
    value.list(|item| match item.text()? {
        "" => Err("an empty pattern matches nothing".to_owned()),
        text => Ok(text.to_owned()),
    })
}

fn socket_path(value: &Value) -> Result<PathBuf, String> {
    let path = value.path()?;
    if path.as_os_str().len() > 107 { Err("the path is too long for a socket".to_owned()) } else { Ok(path) }
}

fn endpoint(value: &Value) -> Result<String, String> {
    let text = value.text()?;
    let rest = text.strip_prefix("http://").ok_or_else(|| format!("{text:?} does not begin with http://"))?;
    let host = rest.strip_suffix('/').unwrap_or(rest);
    let (name, port) = host.rsplit_once(':').filter(|_| !host.ends_with(']')).unwrap_or((host, "4317"));
    let name_fits = match name.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok()),
        None => !name.is_empty() && name.chars().all(|letter| letter.is_ascii_alphanumeric() || ".-_".contains(letter)),
    };
    if !name_fits || port.parse::<u16>().is_ok_and(|port| port == 0) || port.parse::<u16>().is_err() {
        return Err(format!("{text:?} is no address of a host and port"));
    }
    Ok(format!("http://{name}:{port}"))
}

fn headers(value: &Value) -> Result<BTreeMap<String, Secret>, String> {
    let mut headers = BTreeMap::new();
    for (name, value) in value.pairs()? {
        let name_fits =
            !name.is_empty() && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'));
        if !name_fits {
            return Err(format!("{name:?} is no name for metadata: small letters, digits, -, _ and . only"));
        }
        if !value.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
            return Err(format!("the value of {name:?} is not printable ASCII"));
        }
        headers.insert(name, Secret(value));
    }
    Ok(headers)
}

/// The names only.
fn headers_shown(headers: &BTreeMap<String, Secret>) -> String {
    let names: Vec<String> = headers.keys().map(|name| format!("{} = \"…\"", quote(name))).collect();
    format!("{{ {} }}", names.join(", "))
}

fn list<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    format!("[{}]", items.join(", "))
}

fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn quote_path(path: &std::path::Path) -> String {
    quote(&path.to_string_lossy())
}
