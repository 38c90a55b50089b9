//! The command as people and scripts meet it: what it prints, where, and how it ends.

use std::process::{Command, Output};

fn acktrail(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_acktrail"));
    command.args(arguments).env("NO_COLOR", "1").env("COLUMNS", "100").env_remove("NOTIFY_SOCKET");
    command.output().expect("it starts")
}

/// Exit status, standard output, standard error.
fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = acktrail(arguments);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("an exit"), text(output.stdout), text(output.stderr))
}

#[test]
fn help_and_version_go_to_standard_output() {
    let (status, out, err) = run(&["--version"]);
    assert_eq!((status, out.as_str(), err.as_str()), (0, concat!("acktrail ", env!("CARGO_PKG_VERSION"), "\n"), ""));
    let (status, out, _) = run(&["--help"]);
    assert_eq!(status, 0);
    for command in ["run", "trace", "record", "replay", "doctor"] {
        assert!(out.contains(&format!("\n  {command} ")), "{out}");
        let (status, help, _) = run(&[command, "--help"]);
        assert_eq!(status, 0, "{command}");
        assert!(help.contains("Usage: acktrail") && help.lines().all(|line| line.chars().count() <= 100), "{help}");
    }
}

#[test]
fn wrong_usage_ends_with_2_and_says_why() {
    for (arguments, part) in [
        (&["fly"][..], "unrecognized subcommand"),
        (&["run", "--prot", "5672"], "--port"),
        (&["replay"], "<FILE>"),
        (&["run", "--port", "70000"], "acktrail: --port: watch.ports: 70000 is out of range; allowed: a list of ports"),
        (&["trace", "stat=dead*"], "did you mean \"state\"?"),
        (&["run", "--config", "/nonexistent.toml"], "acktrail: /nonexistent.toml: cannot be read"),
    ] {
        let (status, out, err) = run(arguments);
        assert_eq!(status, 2, "{arguments:?}: {err}");
        assert!(out.is_empty() && err.contains(part), "{arguments:?}: {err}");
    }
    let (status, _, err) = run(&[]);
    assert!(status == 2 && err.contains("Usage: acktrail"), "{err}");
}

#[test]
fn a_wrong_configuration_file_is_named_with_its_lines() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.toml");
    std::fs::write(&path, "[watch]\nprots = [1]\n\n[capture]\nring_size = \"3MiB\"\n").expect("written");
    let name = path.to_str().expect("UTF-8");
    let (status, out, err) = run(&["run", "--config", name]);
    assert_eq!((status, out.as_str()), (2, ""));
    let lines: Vec<&str> = err.lines().collect();
    assert_eq!(lines.len(), 2, "{err}");
    assert!(lines[0].starts_with(&format!("acktrail: {name}:2: there is no key \"prots\"")), "{err}");
    assert!(lines[1].starts_with(&format!("acktrail: {name}:5: capture.ring_size: ")), "{err}");
}

#[test]
fn a_file_that_cannot_be_replayed_ends_with_1() {
    let (status, out, err) = run(&["replay", "/nonexistent.pcap"]);
    assert_eq!((status, out.as_str()), (1, ""));
    assert!(err.starts_with("acktrail: "), "{err}");
}
