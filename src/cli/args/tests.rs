//! Tests of the module above.

use super::*;
use crate::config::Color;
use std::time::Duration;

fn run(line: &[&str]) -> Result<Invocation, UsageError> {
    parse(std::iter::once("acktrail").chain(line.iter().copied()).map(OsString::from))
}

#[test]
fn the_definition_holds_together() {
    command().debug_assert();
}

#[test]
fn every_option_stands_for_a_key_and_every_key_names_an_option_that_exists() {
    let mut used = Vec::new();
    for command in command().get_subcommands() {
        for argument in command.get_arguments().filter(|argument| argument.get_id() != "file") {
            let key = key_of(command.get_name(), argument);
            let known = key.unwrap_or_else(|| panic!("{} of {} has no key", shown(argument), command.get_name()));
            assert!(argument.get_help().is_some(), "{known} has no help");
            used.push(known);
        }
    }
    for key in KEYS {
        assert_eq!(key.option.is_some(), used.contains(&key.name), "{}", key.name);
    }
}

#[test]
fn options_become_the_configuration() {
    let invocation = run(&[
        "run",
        "--port",
        "5672",
        "--port=22001",
        "--cgroup",
        "/sys/fs/cgroup/a",
        "--jsonl",
        "-",
        "--summary-interval",
        "5s",
        "--ring-size",
        "1MiB",
        "--otlp",
        "http://[::1]:4317/",
        "--otlp-header",
        "authorization=Bearer x=y",
        "--ready-fd",
        "3",
        "--no-colour",
        "--skip-bodies-from=never",
        "--sample-connections=0.5",
        "--discover=false",
    ])
    .expect("right");
    let config = invocation.config;
    assert_eq!(invocation.command, Command::Run);
    assert_eq!(config.watch.ports, [5672, 22001]);
    assert_eq!(config.watch.cgroups, [PathBuf::from("/sys/fs/cgroup/a")]);
    assert_eq!(config.output.jsonl, Some(PathBuf::from("-")));
    assert_eq!(config.output.summary_interval, Duration::from_secs(5));
    assert_eq!(config.capture.ring_bytes, 1 << 20);
    assert_eq!(config.otlp.endpoint.as_deref(), Some("http://[::1]:4317"));
    assert_eq!(config.otlp.headers["authorization"].0, "Bearer x=y");
    assert_eq!(config.agent.ready_fd, Some(3));
    assert_eq!(config.terminal.color, Color::Never);
    assert_eq!(config.capture.skip_bodies_from, None);
    assert_eq!(config.watch.sample_connections, 0.5);
    assert!(!config.watch.discover);
}

#[test]
fn replay_and_trace() {
    let replay = run(&["replay", "x.pcap", "--trace", "--method-counts"]).expect("right");
    assert_eq!(replay.command, Command::Replay("x.pcap".into()));
    assert_eq!(replay.config.replay.trace.as_deref(), Some(""));
    assert!(replay.config.replay.method_counts);
    let replay = run(&["replay", "x.pcap", "--trace", "queue=a"]).expect("right");
    assert_eq!(replay.config.replay.trace.as_deref(), Some("queue=a"));
    assert_eq!(run(&["replay", "x.pcap"]).expect("right").config, Config::default());
    let trace = run(&["trace", "queue=orders* state=dead*", "--json"]).expect("right");
    assert_eq!(trace.config.trace.filter, "queue=orders* state=dead*");
    assert!(trace.config.trace.json && !trace.config.doctor.json);
}

#[test]
fn wrong_values_name_the_option_and_what_is_allowed() {
    for (line, part) in [
        (&["run", "--port", "0"][..], "--port: watch.ports: 0 is out of range; allowed: a list of ports, 1 to 65535"),
        (&["run", "--port", "amqp"], "\"amqp\" is no whole number"),
        (&["run", "--ring-size", "3MiB"], "\"3MiB\" is no power of two; allowed: a size that is a power of two, 64KiB"),
        (&["run", "--otlp", "https://x:1"], "--otlp: otlp.endpoint: "),
        (
            &["trace", "quee=a"],
            "FILTER: trace.filter: filter, character 1: there is no \"quee\"; did you mean \"queue\"?",
        ),
        (&["replay", "f", "--trace", "state=x"], "--trace: replay.trace: "),
        (&["run", "--discover", "false"], "--discover: watch.discover is off and watch.ports is empty"),
        (&["record", "f", "--duration", "10"], "such as 500ms"),
    ] {
        let Err(UsageError::Config(error)) = run(line) else { panic!("{line:?} was taken") };
        assert!(error.to_string().contains(part), "{line:?}: {error}");
    }
}

#[test]
fn wrong_usage_is_clap_s_to_explain() {
    for line in [&["fly"][..], &["record"], &["run", "--prot", "1"], &["run", "--color", "auto", "--no-color"]] {
        let Err(UsageError::Usage(error)) = run(line) else { panic!("{line:?} was taken") };
        assert_eq!(error.exit_code(), 2, "{line:?}");
    }
    let Err(UsageError::Usage(error)) = run(&["--version"]) else { panic!("no version") };
    assert_eq!(error.exit_code(), 0);
}
