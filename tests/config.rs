//! The configuration: files with their errors, and the documents that describe it.
//!
//! `UPDATE_DOCS=1 cargo test --test config` rewrites the generated parts of the documents.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use acktrail::config::{Config, ConfigError, KEYS, Key, Loader, LogLevel, Value};
use acktrail::filter;

fn load(text: &str) -> Result<Config, ConfigError> {
    let mut loader = Loader::default();
    loader.text(Path::new("acktrail.toml"), text);
    loader.finish()
}

fn problems(text: &str) -> String {
    load(text).expect_err(text).to_string()
}

#[test]
fn a_file_sets_what_it_names() {
    let config = load(
        r#"
[watch]
ports = [5673, 5672, 5672]
cgroups = ["/sys/fs/cgroup/system.slice"]
sample_connections = 1
[capture]
ring_size = 1048576
skip_bodies_from = "never"
[output]
jsonl = "-"
summary_interval = 0
[otlp]
endpoint = "http://collector"
interval = "1m"
headers = { authorization = "Bearer secret-token" }
[agent]
log_level = "debug"
"#,
    )
    .expect("right");
    assert_eq!(config.watch.ports, [5672, 5673]);
    assert_eq!(config.watch.cgroups, [PathBuf::from("/sys/fs/cgroup/system.slice")]);
    assert_eq!(config.capture.ring_bytes, 1 << 20);
    assert_eq!(config.capture.skip_bodies_from, None);
    assert_eq!(config.output.jsonl, Some(PathBuf::from("-")));
    assert_eq!(config.otlp.endpoint.as_deref(), Some("http://collector:4317"));
    assert_eq!(config.otlp.interval, Duration::from_secs(60));
    assert_eq!(config.agent.log_level, LogLevel::Debug);
    assert!(!format!("{config:?}").contains("secret-token"));
    assert_eq!(config.limits, Config::default().limits);
    assert_eq!(load("").expect("empty"), Config::default());
}

#[test]
fn the_command_line_wins() {
    let mut loader = Loader::default();
    loader.text(Path::new("acktrail.toml"), "[watch]\nports = [1]\n[traces]\nratio = 0.5");
    loader.option("--port", "watch.ports", &Value::List(vec![Value::Word("2".to_owned())]));
    let config = loader.finish().expect("right");
    assert_eq!(config.watch.ports, [2]);
    assert_eq!(config.traces.ratio, 0.5);
}

#[test]
fn errors_name_the_file_the_line_and_what_is_allowed() {
    for (text, expected) in [
        (
            "[watch]\nport = [1]",
            "acktrail.toml:2: there is no key \"port\" in [watch]; did you mean \"ports\"?; allowed: ports, ",
        ),
        (
            "\n[wathc]",
            "acktrail.toml:2: there is no section [wathc]; did you mean \"watch\"?; allowed: watch, capture, ",
        ),
        ("ports = [1]", "acktrail.toml:1: there is no section [ports]; it belongs into a section: watch.ports"),
        ("[watch]\nring_size = 1", "; did you mean capture.ring_size?"),
        ("watch = 3", "acktrail.toml:1: watch is a section: write [watch] on a line of its own"),
        (
            "[watch]\n\nports = [0]",
            "acktrail.toml:3: watch.ports: 0 is out of range; allowed: a list of ports, 1 to 65535",
        ),
        ("[watch]\nports = 5672", "5672 is no list"),
        ("[watch]\nports = [\"amqp\"]", "\"amqp\" is no whole number"),
        ("[watch]\nports = [65536]", "65536 is out of range"),
        ("[watch]\nsample_connections = 1.5", "1.5 is out of range; allowed: a number, 0 to 1"),
        ("[watch]\nsample_connections = nan", "NaN is out of range"),
        ("[watch]\ndiscover = \"yes\"", "\"yes\" is neither true nor false"),
        ("[watch]\ndiscover = 1979-05-27", "a date is neither true nor false"),
        ("[watch]\ncgroups = [\"\"]", "the path is empty"),
        ("[capture]\nring_size = \"3MiB\"", "no power of two; allowed: a size that is a power of two, 64KiB to 1GiB"),
        ("[capture]\nring_size = \"32KiB\"", "\"32KiB\" is out of range"),
        ("[capture]\nring_size = \"2GiB\"", "\"2GiB\" is out of range"),
        ("[capture]\nring_size = \"8 mib\"", "such as 8MiB"),
        ("[output]\nsummary_interval = 10", "10 has no unit"),
        ("[output]\nsummary_interval = \"1ms\"", "\"1ms\" is out of range; allowed: a duration, 100ms to 24h, or 0"),
        ("[otlp]\nendpoint = \"collector:4317\"", "does not begin with http://"),
        ("[otlp]\nendpoint = \"http://a b\"", "is no address of a host and port"),
        ("[otlp]\nendpoint = \"http://a:99999\"", "is no address of a host and port"),
        ("[otlp]\nendpoint = \"http://a\"\nheaders = { Key = \"x\" }", "\"Key\" is no name for metadata"),
        ("[limits]\nmessages = 5", "5 is out of range"),
        ("[limits]\nmessages = 99999999999999999999", "is no whole number"),
        ("[agent]\nlog_level = \"loud\"", "allowed: \"error\", \"warn\", \"info\" or \"debug\""),
        ("[agent]\nready_fd = 1", "1 is out of range; allowed: the number of an open file descriptor, 3 to 65535"),
        (
            "[trace]\nfilter = \"state=x\"",
            "acktrail.toml:2: trace.filter: filter, character 7: no state is called \"x\"",
        ),
        ("[watch\nports", "acktrail.toml:1: this is not TOML: "),
        ("[watch]\nports = [1]\nports = [2]", "acktrail.toml:3: this is not TOML: duplicate key"),
    ] {
        let found = problems(text);
        assert!(found.contains(expected), "{text}\n{found}");
    }
    let long = format!("[agent]\nsocket = \"/{}\"", "x".repeat(107));
    assert!(problems(&long).contains("too long for a socket"));
}

#[test]
fn contradictions_name_the_line() {
    for (text, expected) in [
        ("[watch]\n\ndiscover = false", "acktrail.toml:3: watch.discover is off and watch.ports is empty"),
        (
            "[output]\njsonl = \"a\"\nsummary = \"a\"",
            "acktrail.toml:3: output.summary and output.jsonl are the same file",
        ),
        ("[otlp]\nheaders = { a = \"b\" }", "acktrail.toml:2: otlp.headers are given but no otlp.endpoint"),
        ("[limits]\nconnection_bytes = \"1GiB\"", "acktrail.toml:2: limits.connection_bytes is more than"),
        ("[trace]\njson = true\n[terminal]\ncolor = \"always\"", "acktrail.toml:4: JSON lines"),
    ] {
        assert!(problems(text).starts_with(expected), "{}", problems(text));
    }
}

#[test]
fn every_problem_is_told_at_once() {
    let found = load("[watch]\nports = [0]\nprots = 1\n[capture]\nring_size = 1").expect_err("wrong");
    assert_eq!(found.problems.len(), 3, "{found}");
    assert_eq!(found.to_string().lines().count(), 3);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let mut loader = Loader::default();
    loader.file(Path::new("/nonexistent/acktrail.toml"));
    let error = loader.finish().expect_err("no such file").to_string();
    assert!(error.starts_with("/nonexistent/acktrail.toml: cannot be read: "), "{error}");
}

#[test]
fn every_default_is_a_value_that_its_key_takes() {
    for key in KEYS {
        let (section, name) = key.parts();
        let Some(default) = key.default() else { continue };
        let config = load(&format!("[{section}]\n{name} = {default}")).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(config, Config::default(), "{}", key.name);
    }
}

#[test]
fn changes_between_two_configurations_are_named() {
    let before = load("[otlp]\nendpoint = \"http://a\"\nheaders = { a = \"b\" }").expect("right");
    let after = load("[otlp]\nendpoint = \"http://a\"\nheaders = { a = \"c\" }\n[watch]\nports = [7]").expect("right");
    let names: Vec<&str> = before.changed(&after).map(|key| key.name).collect();
    assert_eq!(names, ["watch.ports", "otlp.headers"]);
    assert_eq!(before.changed(&before).count(), 0);
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,200}", section in "[a-z]{0,8}") {
        let _ = load(&text);
        let _ = load(&format!("[{section}]\n{text}"));
        let _ = load(&format!("[watch]\nports = {text}"));
        let _ = load(&format!("[otlp]\nheaders = {text}"));
    }
}

// The documents.

#[test]
fn docs_configuration_md_describes_every_key_and_nothing_else() {
    check("docs/configuration.md", "keys", &keys_documented());
    check("docs/configuration.md", "filter", &filter_documented());
}

#[test]
fn the_default_file_shows_every_key_with_its_default() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/etc/acktrail.toml");
    let expected = default_file();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &expected).expect("writable");
    }
    let text = std::fs::read_to_string(&path).expect("packaging/etc/acktrail.toml");
    assert_eq!(text, expected, "run UPDATE_DOCS=1 cargo test --test config");
    assert_eq!(load(&text).expect("right"), Config::default());
    let uncommented: Vec<&str> =
        text.lines().map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line)).collect();
    load(&uncommented.join("\n")).unwrap_or_else(|error| panic!("{error}"));
    for key in KEYS {
        let (_, name) = key.parts();
        assert!(uncommented.iter().any(|line| line.starts_with(&format!("{name} = "))), "{}", key.name);
    }
}

/// Compares what stands between `<!-- begin NAME -->` and `<!-- end NAME -->`.
fn check(path: &str, name: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let text = std::fs::read_to_string(&path).expect("the document");
    let (begin, end) = (format!("<!-- begin {name} -->\n"), format!("<!-- end {name} -->"));
    let (before, rest) = text.split_once(&begin).expect("a begin mark");
    let (found, after) = rest.split_once(&end).expect("an end mark");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{begin}{expected}{end}{after}")).expect("writable");
        return;
    }
    assert_eq!(found, expected, "run UPDATE_DOCS=1 cargo test --test config");
}

fn by_section() -> Vec<(&'static str, Vec<&'static Key>)> {
    let mut sections: Vec<(&str, Vec<&Key>)> = Vec::new();
    for key in KEYS {
        match sections.last_mut() {
            Some((section, keys)) if *section == key.parts().0 => keys.push(key),
            _ => sections.push((key.parts().0, vec![key])),
        }
    }
    sections
}

fn keys_documented() -> String {
    let mut text = String::new();
    for (section, keys) in by_section() {
        let _ = write!(
            text,
            "\n### `[{section}]`\n\n| key | command line | default | value | meaning |\n| --- | --- | --- | --- | --- |\n"
        );
        for key in keys {
            let option = key.option.map_or(String::new(), |option| format!("`{option}`"));
            let default = key.default().map_or("not set".to_owned(), |default| format!("`{default}`"));
            let reload = if key.reload { " ↻" } else { "" };
            let _ = writeln!(
                text,
                "| `{}`{reload} | {option} | {default} | {} | {} |",
                key.parts().1,
                key.allowed,
                key.help
            );
        }
    }
    text.push('\n');
    text
}

fn filter_documented() -> String {
    let mut text = String::from("\n| name | value | about |\n| --- | --- | --- |\n");
    for key in filter::KEYS {
        let names: Vec<String> =
            std::iter::once(&key.name).chain(key.aliases).map(|name| format!("`{name}`")).collect();
        let kind = match key.kind {
            filter::Kind::Text => "text",
            filter::Kind::Word => "word",
            filter::Kind::Number => "number",
            filter::Kind::Size => "size",
            filter::Kind::Duration => "duration",
            filter::Kind::Flag => "yes or no",
        };
        let _ = writeln!(text, "| {} | {kind} | {} |", names.join(", "), key.help);
    }
    text.push('\n');
    text
}

fn default_file() -> String {
    let mut text = String::from(
        "# acktrail's configuration. Everything is commented out; the values are the defaults, or examples where\n\
         # nothing is set by default. docs/configuration.md describes it; options of the command line win over this file.\n",
    );
    for (section, keys) in by_section() {
        let _ = write!(text, "\n[{section}]\n");
        for key in keys {
            let _ = write!(text, "\n# {}\n# Allowed: {}.\n", key.help, key.allowed);
            let (_, name) = key.parts();
            let _ = writeln!(text, "#{name} = {}", key.default().unwrap_or_else(|| example(key.name).to_owned()));
        }
    }
    text
}

/// For keys that are not set by default.
fn example(name: &str) -> &'static str {
    match name {
        "output.jsonl" => "\"/var/log/acktrail/transitions.jsonl\"",
        "output.summary" => "\"/var/log/acktrail/summary.json\"",
        "otlp.endpoint" => "\"http://127.0.0.1:4317\"",
        "otlp.headers" => "{ \"authorization\" = \"Bearer TOKEN\" }",
        "agent.ready_fd" => "3",
        "agent.ready_file" => "\"/run/acktrail/ready\"",
        "record.duration" => "\"30s\"",
        "replay.trace" => "\"state=dead*\"",
        _ => "\"\"",
    }
}
