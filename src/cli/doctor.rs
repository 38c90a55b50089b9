//! `acktrail doctor`: what this kernel, these privileges and this configuration allow, what is missing, and what to do
//! about it.

use serde::Serialize;

use super::terminal::Style;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In the order in which they are shown.
    pub items: Vec<Item>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// What, such as `kernel BTF`.
    pub name: String,
    /// How it stands.
    pub status: Status,
    /// What was found.
    pub detail: String,
    /// What to do about it, where something is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// How something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Told for information.
    Info,
    /// As it should be.
    Ok,
    /// Something will be missing, but capture works.
    Warning,
    /// Capture cannot work.
    Failed,
}

impl Status {
    /// The name in every output.
    pub fn name(self) -> &'static str {
        match self {
            Status::Info => "info",
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Failed => "failed",
        }
    }

    fn style(self) -> Style {
        match self {
            Status::Info => Style::Dim,
            Status::Ok => Style::Green,
            Status::Warning => Style::Yellow,
            Status::Failed => Style::BoldRed,
        }
    }
}

impl Report {
    /// Adds what was found.
    pub fn add(&mut self, name: impl Into<String>, status: Status, detail: impl Into<String>, advice: Option<&str>) {
        let advice = advice.map(str::to_owned);
        self.items.push(Item { name: name.into(), status, detail: detail.into(), advice });
    }

    /// Whether capture can work: nothing failed.
    pub fn can_capture(&self) -> bool {
        self.items.iter().all(|item| item.status != Status::Failed)
    }

    /// Appends the report for people: a line per item, its advice below, and the verdict.
    pub fn render(&self, width: usize, colors: bool, out: &mut String) {
        let names = self.items.iter().map(|item| super::terminal::columns(&item.name)).max().unwrap_or(0).min(36);
        let indent = names + 11;
        for item in &self.items {
            let name = super::terminal::fit(&item.name, names, super::terminal::Align::Left);
            let status = super::terminal::fit(item.status.name(), 7, super::terminal::Align::Left);
            item.status.style().paint(&status, colors, out);
            out.push_str(&format!("  {name}  "));
            wrap(&item.detail, width, indent, out);
            if let Some(advice) = &item.advice {
                out.push_str(&" ".repeat(indent));
                wrap(&format!("→ {advice}"), width, indent, out);
            }
        }
        let verdict = if self.can_capture() { "capture can work" } else { "capture cannot work" };
        let style = if self.can_capture() { Style::Green } else { Style::BoldRed };
        out.push('\n');
        style.paint(verdict, colors, out);
        out.push('\n');
    }

    /// The report as one JSON object: `can_capture`, and `items` of `name`, `status`, `detail`, `advice`.
    pub fn json(&self) -> String {
        let object = serde_json::json!({
            "acktrail": env!("CARGO_PKG_VERSION"),
            "can_capture": self.can_capture(),
            "items": self.items,
        });
        object.to_string()
    }
}

/// Breaks a text at spaces, so that lines behind the first begin at `indent` as the first does.
fn wrap(text: &str, width: usize, indent: usize, out: &mut String) {
    let room = width.saturating_sub(indent).max(24);
    let mut column = 0;
    for word in text.split_whitespace() {
        let length = super::terminal::columns(word);
        if column > 0 && column + 1 + length > room {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            column = 0;
        }
        if column > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out.push('\n');
}

/// `acktrail doctor`: looks, tries, and prints. Exit status 0 only if capture can work.
///
/// # Errors
/// If standard output cannot be written to.
#[cfg(feature = "kernel")]
pub fn doctor(config: &crate::config::Config) -> Result<std::process::ExitCode, super::Failure> {
    use std::io::Write;
    use std::process::ExitCode;

    use crate::kernel::probe::{Standing, probe};

    let mut report = Report::default();
    for finding in probe(&super::run::options(config)) {
        let status = match finding.standing {
            Standing::Info => Status::Info,
            Standing::Ok => Status::Ok,
            Standing::Degraded => Status::Warning,
            Standing::Missing => Status::Failed,
        };
        report.add(finding.name, status, finding.detail, finding.advice.as_deref());
    }
    let mut text = String::new();
    if config.doctor.json {
        text = report.json();
        text.push('\n');
    } else {
        let colors = super::terminal::colors_stdout(config.terminal.color);
        report.render(super::terminal::width_stdout(), colors, &mut text);
    }
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(if report.can_capture() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::default();
        report.add("kernel", Status::Info, "6.1.0-50-amd64 x86_64", None);
        report.add("BTF", Status::Ok, "/sys/kernel/btf/vmlinux", None);
        report.add(
            "ring buffer",
            Status::Warning,
            "16MiB asked for, 8MiB given because the memory limit of this cgroup would not allow more",
            Some("raise MemoryMax= or set capture.ring_size"),
        );
        report
    }

    #[test]
    fn as_a_table() {
        let mut out = String::new();
        report().render(70, false, &mut out);
        let expected = "\
info     kernel       6.1.0-50-amd64 x86_64
ok       BTF          /sys/kernel/btf/vmlinux
warning  ring buffer  16MiB asked for, 8MiB given because the memory
                      limit of this cgroup would not allow more
                      → raise MemoryMax= or set capture.ring_size

capture can work
";
        assert_eq!(out, expected);
    }

    #[test]
    fn one_failure_decides() {
        let mut report = report();
        assert!(report.can_capture());
        report.add("packets", Status::Failed, "EPERM", Some("run as root"));
        assert!(!report.can_capture());
        let json: serde_json::Value = serde_json::from_str(&report.json()).expect("JSON");
        assert_eq!(json["can_capture"], false);
        assert_eq!(json["items"][3]["status"], "failed");
        assert_eq!(json["items"][3]["advice"], "run as root");
        assert!(json["items"][0].get("advice").is_none());
    }
}
