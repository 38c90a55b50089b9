//! `acktrail replay`: a recording, pcap or pcapng file as if it happened now. No clock is read, so the same file gives the
//! same output, byte for byte.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use super::args::Invocation;
use super::outputs::{Outputs, Pace};
use super::view::View;
use super::{Failure, pipeline, say, terminal, traces};
use crate::capture::source::Source;
use crate::capture::{Record, pcap};
use crate::export::summary::Loss;
use crate::pipeline::Pipeline;

/// Reads the file to its end.
///
/// # Errors
/// If the file cannot be read, or is damaged: what comes before the damage is shown first.
pub fn replay(invocation: &Invocation, path: &Path) -> Result<ExitCode, Failure> {
    let config = &invocation.config;
    let name = path.display();
    let mut source = Source::open(path, &config.watch.ports).map_err(|error| Failure(format!("{name}: {error}")))?;
    let mut outputs = Outputs::open(config, Pace::Replay)?;
    let quiet = Outputs::owns_stdout(config) || config.replay.method_counts;
    if let Some(filter) = config.replay.trace.clone().filter(|_| !quiet) {
        outputs.show(View::stdout(&filter, false, config)?);
    }
    let mut pipeline = pipeline(config);
    if outputs.tell_singly() {
        pipeline.set_traces(traces(config));
    }
    if source.tally().is_some() {
        pipeline.expect_every_packet();
    }
    if config.replay.method_counts {
        pipeline.count_methods();
    }
    let damage = loop {
        let step = source.next(|record: &Record<'_>| {
            outputs.saw(record.time());
            pipeline.handle(record, &mut outputs);
        });
        match step {
            Ok(true) => outputs.poll_replay(&mut pipeline),
            Ok(false) => break None,
            Err(error) => break Some(error),
        }
    };
    pipeline.finish(&mut outputs);
    let losses = source.tally().map(unusable).unwrap_or_default();
    outputs.finish(&pipeline, None, &losses);
    if config.replay.method_counts {
        print_method_counts(&pipeline)?;
    } else if !quiet {
        let mut text = String::new();
        let (width, colors) = (terminal::width_stdout(), terminal::colors_stdout(config.terminal.color));
        outputs.closing(&pipeline, &losses).render(width, colors, &mut text);
        std::io::stdout().write_all(text.as_bytes())?;
    }
    match damage {
        None => Ok(ExitCode::SUCCESS),
        Some(error) => {
            say(&format!("{name}: {error}"));
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Packets of another tool's capture that could not be used, by reason.
fn unusable(tally: &pcap::Tally) -> Vec<Loss> {
    pcap::Unusable::ALL
        .into_iter()
        .map(|reason| Loss { stage: "pcap", reason: reason.name(), count: tally.unusable(reason), unit: "packet" })
        .collect()
}

/// `[{"connection":1,"channel":1,"class":60,"method":40,"count":3}, …]`, in this order.
fn print_method_counts(pipeline: &Pipeline) -> Result<(), Failure> {
    let counts = pipeline.sessions().method_counts().into_iter().flat_map(|counts| counts.iter());
    let rows = counts.map(|(connection, channel, (class, method), count)| {
        serde_json::json!({
            "connection": connection.0, "channel": channel, "class": class, "method": method, "count": count
        })
    });
    let mut text = serde_json::to_string(&rows.collect::<Vec<_>>())?;
    text.push('\n');
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}
