//! The house's order, checked: stages flow one way, only the kernel stage knows libbpf, `unsafe` says why, files stay
//! readable, and what the documents name exists.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|found| found == ending) {
                found.push(entry);
            }
        }
    }
    assert!(!found.is_empty(), "no .{ending} in {folder}");
    found.sort();
    found
}

fn name(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().display().to_string()
}

/// The code of a file without its tests, which may look anywhere.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    text.split("#[cfg(test)]\nmod ").next().unwrap().to_owned()
}

/// What each stage may use of this crate besides itself. A stage knows the output of the one before it and nothing of the
/// later ones.
const STAGES: &[(&str, &[&str])] = &[
    ("capture", &["names", "time"]),
    ("stream", &["capture", "time"]),
    ("protocol", &["capture", "stream", "glob", "names", "time"]),
    ("lifecycle", &["capture", "stream", "protocol", "names", "time"]),
    ("filter", &["lifecycle", "glob", "capture", "protocol", "names", "time", "units", "suggest"]),
    ("export", &["lifecycle", "capture", "protocol", "names", "time"]),
    ("kernel", &["capture", "time"]),
];

fn stage_files(stage: &str) -> Vec<PathBuf> {
    let file = root().join(format!("src/{stage}.rs"));
    let mut found =
        if root().join(format!("src/{stage}")).is_dir() { files(&format!("src/{stage}"), "rs") } else { Vec::new() };
    found.extend(file.exists().then_some(file));
    // Tests may look anywhere.
    found.retain(|file| {
        let name = name(file);
        !name.contains("/tests/") && !name.ends_with("/tests.rs") && !name.ends_with("/transcript.rs")
    });
    assert!(!found.is_empty(), "no stage {stage}");
    found
}

#[test]
fn stages_flow_one_way() {
    let mut wrong = Vec::new();
    for (stage, allowed) in STAGES {
        for file in stage_files(stage) {
            for (number, line) in code(&file).lines().enumerate() {
                if line.trim_start().starts_with("//") {
                    continue;
                }
                for part in line.split("crate::").skip(1) {
                    let used: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                    if used != *stage && !allowed.contains(&used.as_str()) && used != "VERSION" {
                        wrong.push(format!("{}:{}: {stage} uses {used}", name(&file), number + 1));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pure_stages_have_no_clock_io_or_threads() {
    let forbidden =
        ["std::fs", "std::net::Tcp", "std::thread", "Instant", "SystemTime", "std::process", "std::env", "println!"];
    let mut wrong = Vec::new();
    for stage in ["stream", "protocol", "lifecycle", "filter"] {
        for file in stage_files(stage) {
            for (number, line) in code(&file).lines().enumerate() {
                if line.trim_start().starts_with("//") {
                    continue;
                }
                for word in forbidden.iter().filter(|word| line.contains(**word)) {
                    wrong.push(format!("{}:{}: {word}", name(&file), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_the_kernel_stage_knows_libbpf() {
    for file in files("src", "rs") {
        if name(&file).starts_with("src/kernel") {
            continue;
        }
        assert!(!code(&file).contains("libbpf"), "{} knows libbpf", name(&file));
    }
}

#[test]
fn unsafe_says_why() {
    for file in files("src", "rs") {
        let text = fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap();
            if !code.contains("unsafe {") && !code.contains("unsafe impl") {
                continue;
            }
            let explained = lines[number.saturating_sub(6)..=number].iter().any(|line| line.contains("SAFETY"));
            assert!(explained, "{}:{}: unsafe without a SAFETY line", name(&file), number + 1);
        }
    }
}

#[test]
fn files_stay_readable() {
    let mut long: Vec<String> = Vec::new();
    for file in files("src", "rs").into_iter().chain(files("bpf", "c")).chain(files("bpf", "h")) {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        if lines > 700 {
            long.push(format!("{} has {lines} lines", name(&file)));
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn every_module_says_what_it_is_for() {
    for file in files("src", "rs") {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//!"), "{} has no head comment", name(&file));
    }
    for file in files("bpf", "c").into_iter().chain(files("bpf", "h")) {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains("SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause"), "{}", name(&file));
    }
}

#[test]
fn nothing_unfinished_is_left() {
    for file in files("src", "rs").into_iter().chain(files("bpf", "c")).chain(files("bpf", "h")) {
        let text = fs::read_to_string(&file).unwrap();
        for word in ["todo!", "unimplemented!", "FIXME", "XXX"] {
            assert!(!text.contains(word), "{} has {word}", name(&file));
        }
    }
}

/// Each word in backticks in the architecture document that looks like a path of the source exists.
#[test]
fn the_architecture_document_names_what_exists() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let mut checked = 0;
    for word in text.split('`').skip(1).step_by(2) {
        let path = word.trim_end_matches('/');
        let top = ["src", "bpf", "tests", "docs", "packaging", "vmlinux", "benches", "demo", "scripts"];
        if !top.iter().any(|top| path.starts_with(&format!("{top}/"))) || path.contains(['*', '<', ' ', '{']) {
            continue;
        }
        assert!(root().join(path).exists(), "ARCHITECTURE.md names {word}, which does not exist");
        checked += 1;
    }
    assert!(checked > 10, "ARCHITECTURE.md names hardly any file ({checked})");
    for (stage, _) in STAGES {
        assert!(text.contains(&format!("src/{stage}")), "ARCHITECTURE.md says nothing of {stage}");
    }
}

/// Every dependency is explained.
#[test]
fn every_dependency_is_explained() {
    let manifest: toml::Table = fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for section in ["dependencies", "build-dependencies", "dev-dependencies"] {
        for dependency in manifest[section].as_table().unwrap().keys() {
            assert!(
                text.contains(&format!("`{dependency}`")),
                "ARCHITECTURE.md does not say why {dependency} is there"
            );
        }
    }
}

/// Licences that a binary under Apache-2.0 OR MIT may contain.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    "Apache-2.0 WITH LLVM-exception",
];

/// Whether one of the choices in an SPDX expression asks for nothing but licences that we accept.
fn is_acceptable(expression: &str) -> bool {
    // crates.io also knows the old way to write OR.
    let expression = expression.replace(" / ", " OR ").replace('/', " OR ");
    let accepted = |licence: &str| LICENCES.contains(&licence.trim());
    let choice = |words: &str| words.split(" OR ").any(accepted);
    match expression.split_once(')') {
        Some((inner, rest)) => {
            let rest = rest.trim_start().strip_prefix("AND ").unwrap_or(rest);
            choice(inner.trim_start_matches('(')) && (rest.is_empty() || choice(rest))
        }
        None => expression.split(" AND ").all(choice),
    }
}

/// Every crate that gets into the binary has a licence that allows it, and comes from the public registry.
#[test]
fn dependencies_have_licences_that_allow_their_use() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = std::process::Command::new(cargo)
        .args(["tree", "--locked", "--target", "all", "--edges", "normal,build", "--prefix", "none"])
        .args(["--format", "{p}|{l}"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let crates: std::collections::BTreeSet<_> = text.lines().filter_map(|line| line.split_once('|')).collect();
    assert!(crates.len() > 50, "cargo tree says something else than it did:\n{text}");
    for (package, licence) in crates {
        assert!(is_acceptable(licence.trim_end_matches(" (*)")), "{package}: {licence}");
    }
    let lock: toml::Table = fs::read_to_string(root().join("Cargo.lock")).unwrap().parse().unwrap();
    for package in lock["package"].as_array().unwrap() {
        if let Some(source) = package.get("source") {
            assert_eq!(source.as_str(), Some("registry+https://github.com/rust-lang/crates.io-index"), "{package}");
        }
    }
}

#[test]
fn licences_are_read_as_they_are_written() {
    for (expression, expected) in [
        ("MIT", true),
        ("MIT/Apache-2.0", true),
        ("(MIT OR GPL-3.0) AND Unicode-3.0", true),
        ("LGPL-2.1-only OR BSD-2-Clause", true),
        ("Apache-2.0 WITH LLVM-exception OR Apache-2.0", true),
        ("GPL-3.0", false),
        ("MIT AND GPL-2.0", false),
        ("(MIT OR Apache-2.0) AND AGPL-3.0", false),
        ("", false),
    ] {
        assert_eq!(is_acceptable(expression), expected, "{expression}");
    }
}
