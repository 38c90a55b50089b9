//! Everything that listens to the lifecycles in one process: files, totals, whoever asks at the agent's socket.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::closing::{CaptureLine, Closing};
use super::latencies::Latencies;
#[cfg(feature = "otlp")]
use super::telemetry::Telemetry;
use super::view::View;
use super::{Failure, places, say};
#[cfg(feature = "kernel")]
use crate::agent_socket::Server;
use crate::config::Config;
#[cfg(feature = "kernel")]
use crate::export::json;
use crate::export::lags;
use crate::export::lines::JsonLines;
use crate::export::summary::{CaptureTotals, Loss, SummaryFacts, Totals};
#[cfg(feature = "kernel")]
use crate::export::write_behind::WriteBehind;
use crate::export::write_behind::{Output, PATIENCE};
use crate::lifecycle::transition::{Event, Observer, Transition};
use crate::names::Name;
use crate::pipeline::Pipeline;
use crate::time::Timestamp;

/// Who waits for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// The kernel waits for nobody: what an output does not take in time is lost, and counted.
    #[cfg(feature = "kernel")]
    Live,
    /// A file waits until everything is written.
    Replay,
}

/// The outputs of a run or a replay.
pub struct Outputs {
    lines: Option<JsonLines<Box<dyn Output>>>,
    summary: Option<File>,
    interval: Duration,
    next_summary: Option<Timestamp>,
    totals: Totals,
    latencies: Latencies,
    view: Option<View>,
    #[cfg(feature = "kernel")]
    server: Option<Server>,
    #[cfg(feature = "otlp")]
    telemetry: Option<Telemetry>,
    kernel: Option<String>,
    first: Option<Timestamp>,
    last: Timestamp,
    attached_at: Option<Timestamp>,
}

impl Outputs {
    /// Opens the files. To be called while privileges are still there: the files may belong to others later.
    ///
    /// # Errors
    /// If a file cannot be created.
    pub fn open(config: &Config, pace: Pace) -> Result<Outputs, Failure> {
        let lines = config.output.jsonl.as_deref().map(|path| open(path, pace)).transpose()?;
        let summary = match config.output.summary.as_deref() {
            Some(path) if path == Path::new("-") => None,
            Some(path) => Some(File::create(path).map_err(|error| cannot_write(path, &error))?),
            None => None,
        };
        let interval = config.output.summary_interval;
        Ok(Outputs { lines: lines.map(JsonLines::new), summary, interval, ..Outputs::without_files() })
    }

    /// No file is written: those of the configuration are the agent's, which may have left them a moment ago.
    pub fn without_files() -> Outputs {
        Outputs {
            lines: None,
            summary: None,
            interval: Duration::ZERO,
            next_summary: None,
            totals: Totals::new(),
            latencies: Latencies::default(),
            view: None,
            #[cfg(feature = "kernel")]
            server: None,
            #[cfg(feature = "otlp")]
            telemetry: None,
            kernel: None,
            first: None,
            last: Timestamp::default(),
            attached_at: None,
        }
    }

    /// Whether standard output belongs to JSON lines, so that nothing for people may go there.
    pub fn owns_stdout(config: &Config) -> bool {
        config.output.jsonl.as_deref() == Some(Path::new("-"))
    }

    /// Shows the live view.
    pub fn show(&mut self, view: View) {
        self.view = Some(view);
    }

    /// Ends the live view; how many lines it could not show.
    #[cfg(feature = "kernel")]
    pub fn finish_view(&mut self, patience: Duration) -> u64 {
        self.view.as_mut().map_or(0, |view| view.finish(patience))
    }

    /// Nobody looks at the live view any more.
    #[cfg(feature = "kernel")]
    pub fn view_closed(&self) -> bool {
        self.view.as_ref().is_some_and(|view| view.closed)
    }

    /// The terminal's size has changed.
    #[cfg(feature = "kernel")]
    pub fn resize(&mut self, config: &Config) {
        if let Some(view) = &mut self.view {
            view.resize(config);
        }
    }

    /// Whether somebody gets lines or spans, in which messages that something singles out stand by themselves.
    pub fn tell_singly(&self) -> bool {
        #[cfg(feature = "kernel")]
        if self.server.as_ref().is_some_and(Server::is_listening) {
            return true;
        }
        #[cfg(feature = "otlp")]
        if self.telemetry.is_some() {
            return true;
        }
        self.lines.is_some() || self.view.is_some()
    }

    /// From now on other messages get spans.
    #[cfg(feature = "kernel")]
    pub fn set_sampling(&mut self, config: &Config) {
        #[cfg(feature = "otlp")]
        if let Some(telemetry) = &mut self.telemetry {
            telemetry.set_sampling(config);
        }
        #[cfg(not(feature = "otlp"))]
        let _ = config;
    }

    /// Starts what has threads of its own: the agent's socket, the export. To be called once privileges are dropped, so that
    /// no thread keeps them.
    ///
    /// # Errors
    /// If the export makes no sense. A socket that cannot be served is said, and done without.
    #[cfg(feature = "kernel")]
    pub fn serve(&mut self, config: &Config, now: Timestamp) -> Result<(), Failure> {
        match Server::bind(&config.agent.socket) {
            Ok(server) => self.server = Some(server),
            Err(error) => say(&format!("`acktrail trace` will not find this agent: {error}")),
        }
        #[cfg(feature = "otlp")]
        {
            self.telemetry = Telemetry::start(config, now)?;
        }
        #[cfg(not(feature = "otlp"))]
        {
            let _ = now;
            if config.otlp.endpoint.is_some() {
                return Err(Failure("this build cannot export: it was made without the feature `otlp`".to_owned()));
            }
        }
        Ok(())
    }

    /// The capture is attached to this kernel.
    #[cfg(feature = "kernel")]
    pub fn attached(&mut self, kernel: Option<String>, time: Timestamp) {
        self.kernel = kernel;
        self.attached_at = Some(time);
    }

    /// Writes what is due: buffered lines, a summary.
    pub fn poll(&mut self, pipeline: &Pipeline, now: Timestamp, losses: &[Loss]) {
        if self.next_summary.is_some_and(|due| due <= now) {
            self.next_summary = Some(now.plus(self.interval));
            let line = self.summary_line(pipeline, now, losses);
            if let Some(lines) = &mut self.lines {
                lines.line(&line);
            }
        }
        #[cfg(feature = "kernel")]
        if let Some(server) = self.server.as_ref().filter(|server| server.is_summary_wanted()) {
            server.summary(&self.summary_line(pipeline, now, losses));
        }
        #[cfg(feature = "otlp")]
        {
            let unwritten = self.losses();
            if let Some(telemetry) = &mut self.telemetry {
                telemetry.poll(now, pipeline, || all_losses(pipeline, losses, unwritten));
            }
        }
        if let Some(lines) = &mut self.lines {
            lines.poll(Instant::now());
            if let Some(failure) = lines.take_failure() {
                say(&format!("writing JSON lines: {failure}"));
            }
        }
    }

    /// As [`Outputs::poll`], at the time of the last record: a replay has no other clock.
    pub fn poll_replay(&mut self, pipeline: &mut Pipeline) {
        if self.next_summary.is_some_and(|due| due <= self.last) {
            pipeline.flush(self);
            self.poll(pipeline, self.last, &[]);
        }
    }

    /// The last summary, everywhere where one was asked for.
    pub fn finish(&mut self, pipeline: &Pipeline, now: Option<Timestamp>, losses: &[Loss]) {
        let time = now.unwrap_or(self.last);
        let line = self.summary_line(pipeline, time, losses);
        if let Some(lines) = &mut self.lines {
            lines.line(&line);
            lines.finish(PATIENCE);
            if let Some(failure) = lines.take_failure() {
                say(&format!("writing JSON lines: {failure}"));
            }
        }
        // Again: only now it is known which lines could not be written.
        let line = self.summary_line(pipeline, time, losses);
        if let Some(file) = &mut self.summary
            && let Err(error) = file.write_all(&line).and_then(|()| file.flush())
        {
            say(&format!("writing the summary: {error}"));
        }
        #[cfg(feature = "otlp")]
        if let Some(telemetry) = self.telemetry.take() {
            telemetry.finish(time, pipeline, &all_losses(pipeline, losses, self.losses()));
        }
    }

    /// What JSON lines could not be written.
    fn losses(&self) -> Loss {
        let lost = self.lines.as_ref().map_or(0, |lines| lines.counts().1);
        Loss { stage: "export", reason: "lines_unwritten", count: lost, unit: "line" }
    }

    /// The tables for people.
    pub fn closing(&self, pipeline: &Pipeline, losses: &[Loss]) -> Closing {
        let capture = all_losses(pipeline, losses, self.losses());
        let lost = capture.lost.iter().filter(|loss| loss.count > 0);
        let lost =
            lost.map(|loss| (format!("{} {} {}", loss.stage, loss.reason, plural(loss.unit)), loss.count)).collect();
        let begin = self.attached_at.or(self.first).unwrap_or(self.last);
        Closing {
            places: places::lines(&self.totals, &self.latencies, lags::series(pipeline.lags(self.last))),
            capture: CaptureLine {
                duration: self.last.since(begin),
                connections: pipeline.connections(),
                segments: capture.segments,
                bytes: capture.bytes,
                lost,
            },
        }
    }

    /// A record of this time was handled.
    pub fn saw(&mut self, time: Timestamp) {
        if self.first.is_none() {
            self.first = Some(time);
            self.next_summary = (!self.interval.is_zero()).then(|| time.plus(self.interval));
        }
        self.last = self.last.max(time);
    }

    fn summary_line(&self, pipeline: &Pipeline, time: Timestamp, losses: &[Loss]) -> Vec<u8> {
        let capture = all_losses(pipeline, losses, self.losses());
        let lags = lags::rows(pipeline.lags(time));
        let (attached_at, kernel) = (self.attached_at, self.kernel.as_deref());
        let facts = SummaryFacts { time, attached_at, kernel, capture: &capture, lags: &lags };
        let mut line = Vec::new();
        self.totals.line(&facts, &mut line);
        line
    }
}

fn all_losses(pipeline: &Pipeline, losses: &[Loss], unwritten: Loss) -> CaptureTotals {
    let mut totals = pipeline.totals();
    totals.lost.extend_from_slice(losses);
    totals.lost.push(unwritten);
    totals
}

impl Observer for Outputs {
    fn transition(&mut self, transition: &Transition<'_>) {
        self.totals.transition(transition);
        self.latencies.transition(transition);
        if let Some(lines) = &mut self.lines {
            lines.transition(transition);
        }
        if let Some(view) = &mut self.view {
            view.transition(transition);
        }
        #[cfg(feature = "kernel")]
        if let Some(server) = &self.server {
            server.transition(transition, |line| json::transition_line(transition, line));
        }
        #[cfg(feature = "otlp")]
        if let Some(telemetry) = &mut self.telemetry {
            telemetry.transition(transition);
        }
    }

    fn renamed(&mut self, from: &Name, to: &Name) {
        self.totals.renamed(from, to);
    }

    fn event(&mut self, event: &Event<'_>) {
        self.totals.event(event);
        if let Some(lines) = &mut self.lines {
            lines.event(event);
        }
        if let Some(view) = &mut self.view {
            view.event(event);
        }
        #[cfg(feature = "kernel")]
        if let Some(server) = &self.server {
            server.event(event, |line| json::event_line(event, line));
        }
        #[cfg(feature = "otlp")]
        if let Some(telemetry) = &mut self.telemetry {
            telemetry.event(event);
        }
    }
}

fn open(path: &Path, pace: Pace) -> Result<Box<dyn Output>, Failure> {
    if path == Path::new("-") {
        return Ok(paced(io::stdout(), pace));
    }
    let file = File::create(path).map_err(|error| cannot_write(path, &error))?;
    Ok(paced(file, pace))
}

fn paced(output: impl Output + Send + 'static, pace: Pace) -> Box<dyn Output> {
    match pace {
        #[cfg(feature = "kernel")]
        Pace::Live => Box::new(WriteBehind::new(output)),
        Pace::Replay => Box::new(output),
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure(format!("cannot write {}: {error}", path.display()))
}

fn plural(unit: &str) -> String {
    unit.strip_suffix('y').map_or_else(|| format!("{unit}s"), |stem| format!("{stem}ies"))
}
