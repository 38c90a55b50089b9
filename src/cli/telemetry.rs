//! Metrics and spans on their way to the Collector.

use std::time::{Duration, Instant};

use super::{Failure, say};
use crate::config::Config;
use crate::export::metrics::{Health, Metrics};
use crate::export::otlp::{self, Otlp};
use crate::export::spans::{Sampling, Spans};
use crate::export::summary::CaptureTotals;
use crate::lifecycle::transition::{Event, Observer, Transition};
use crate::pipeline::Pipeline;
use crate::time::Timestamp;

/// Listens to the lifecycles and hands over what the Collector is to get.
pub struct Telemetry {
    metrics: Metrics,
    spans: Spans,
    exporter: Otlp,
    interval: Duration,
    next: Instant,
}

impl Telemetry {
    /// Starts the exporter, if the configuration names a Collector. To be called after privileges are dropped: it has a
    /// thread of its own.
    ///
    /// # Errors
    /// If the endpoint or a header makes no sense.
    #[cfg_attr(
        not(feature = "kernel"),
        expect(dead_code, reason = "only a running agent exports, and it needs the kernel")
    )]
    pub fn start(config: &Config, now: Timestamp) -> Result<Option<Telemetry>, Failure> {
        let Some(endpoint) = &config.otlp.endpoint else { return Ok(None) };
        let mut to = otlp::Config::new(endpoint);
        to.timeout = config.otlp.timeout;
        to.gzip = config.otlp.gzip;
        to.headers = config.otlp.headers.iter().map(|(key, secret)| (key.clone(), secret.0.clone())).collect();
        let exporter = Otlp::start(to).map_err(Failure)?;
        Ok(Some(Telemetry {
            metrics: Metrics::new(now),
            spans: Spans::new(sampling(config)),
            exporter,
            interval: config.otlp.interval,
            next: Instant::now() + config.otlp.interval,
        }))
    }

    /// From now on other messages get spans.
    #[cfg_attr(
        not(feature = "kernel"),
        expect(dead_code, reason = "only a running agent exports, and it needs the kernel")
    )]
    pub fn set_sampling(&mut self, config: &Config) {
        self.spans.set_sampling(sampling(config));
    }

    /// Hands over what is finished, and metrics when they are due.
    pub fn poll(&mut self, now: Timestamp, pipeline: &Pipeline, totals: impl FnOnce() -> CaptureTotals) {
        self.spans.poll(now);
        if !self.spans.is_empty() {
            self.exporter.spans(self.spans.take());
        }
        if self.next <= Instant::now() {
            self.next = Instant::now() + self.interval;
            self.metrics.lags(pipeline.lags(now));
            self.hand_over_metrics(now, &totals());
        }
        if let Some(problem) = self.exporter.take_problem() {
            say(&problem);
        }
    }

    /// Hands over everything and waits for it, for a bounded time.
    pub fn finish(mut self, now: Timestamp, pipeline: &Pipeline, totals: &CaptureTotals) {
        self.spans.finish();
        self.exporter.spans(self.spans.take());
        self.metrics.lags(pipeline.lags(now));
        self.hand_over_metrics(now, totals);
        let not_made = self.not_made();
        for (signal, reason, count) in self.exporter.shutdown().into_iter().chain(not_made) {
            if count == 0 {
                continue;
            }
            say(&format!("not exported: {count} {signal} ({reason})"));
        }
    }

    /// Spans that the exporter has never heard of.
    fn not_made(&self) -> [(&'static str, &'static str, u64); 2] {
        [("traces", "not_taken", self.spans.lost()), ("traces", "over_budget", self.spans.over_budget())]
    }

    fn hand_over_metrics(&mut self, now: Timestamp, totals: &CaptureTotals) {
        let mut export_failed = self.exporter.failed();
        let unwritten = totals.lost.iter().filter(|loss| loss.stage == "export" && loss.reason == "lines_unwritten");
        export_failed.extend(unwritten.map(|loss| ("lines", "unwritten", loss.count)));
        export_failed.extend(self.not_made());
        export_failed.retain(|(_, _, count)| *count > 0);
        let of_stage = |stage: &str, reasons: &[&str]| {
            let wanted = totals.lost.iter().filter(|loss| loss.stage == stage && reasons.contains(&loss.reason));
            wanted.map(|loss| (loss.reason, loss.count)).collect::<Vec<_>>()
        };
        let health = Health {
            lost: totals.lost.clone(),
            capture_bytes: totals.bytes,
            capture_segments: totals.segments,
            parser_errors: crate::protocol::Trouble::ALL
                .iter()
                .flat_map(|trouble| of_stage("protocol", &[trouble.name()]))
                .collect(),
            evictions: [("messages", "lifecycle", "evicted"), ("connections", "stream", "evicted_connections")]
                .into_iter()
                .flat_map(|(table, stage, reason)| {
                    of_stage(stage, &[reason]).into_iter().map(move |(_, count)| (table, count))
                })
                .chain([("settled", totals.forgotten)])
                .collect(),
            export_failed,
        };
        self.exporter.metrics(self.metrics.snapshot(now, &health));
    }
}

impl Observer for Telemetry {
    fn transition(&mut self, transition: &Transition<'_>) {
        self.metrics.transition(transition);
        self.spans.transition(transition);
    }

    fn event(&mut self, event: &Event<'_>) {
        self.metrics.event(event);
        self.spans.event(event);
    }
}

fn sampling(config: &Config) -> Sampling {
    Sampling { ratio: config.traces.ratio, per_second: config.traces.per_second, slow: config.traces.slow }
}
