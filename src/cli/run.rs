//! `acktrail run`: the agent.

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::args::Invocation;
use super::outputs::{Outputs, Pace};
use super::ready::Ready;
use super::signals::Signals;
use super::{Failure, note, pipeline, say, set_level, terminal, traces};
use crate::capture::Record;
use crate::config::{Config, LogLevel};
use crate::export::summary::Loss;
use crate::kernel::{Capture, Options, privileges};
use crate::pipeline::Pipeline;
use crate::protocol::kafka::TraceSettings;
use crate::time::Timestamp;

/// How long it waits at most, so that deadlines are kept while nothing happens.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long the end may take: what is still in the ring is handled, but not what keeps coming.
const DRAIN: Duration = Duration::from_secs(2);

/// Attaches, drops every privilege, and follows until it is told to end.
///
/// # Errors
/// If something that was asked for cannot be had.
pub fn run(invocation: &Invocation) -> Result<ExitCode, Failure> {
    let config = &invocation.config;
    let mut ready = Ready::prepare(&config.agent)?;
    let signals = Signals::install()?;
    let mut outputs = Outputs::open(config, Pace::Live)?;
    let mut agent = Agent::attach(config)?;
    outputs.attached(kernel_release(), now());
    outputs.serve(config, now())?;
    ready.announce()?;
    let mut source = config.clone();
    while !signals.stop() {
        agent.step(&mut outputs, HEARTBEAT)?;
        if signals.take_reload() {
            ready.reloading()?;
            source = agent.reload(invocation, source, &mut outputs);
            ready.reloaded()?;
        }
    }
    ready.stopping()?;
    agent.drain(&mut outputs)?;
    if agent.capture.priority_lent() > 0 {
        let times = agent.capture.priority_lent();
        note(LogLevel::Info, &format!("others left no processor time {times} times: a real-time priority was lent"));
    }
    let losses = agent.losses();
    outputs.finish(&agent.pipeline, Some(now()), &losses);
    if !Outputs::owns_stdout(config) {
        let mut text = String::new();
        let (width, colors) = (terminal::width_stdout(), terminal::colors_stdout(config.terminal.color));
        outputs.closing(&agent.pipeline, &losses).render(width, colors, &mut text);
        std::io::stdout().write_all(text.as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The capture and the stages behind it.
pub struct Agent {
    capture: Capture,
    /// The stages.
    pub pipeline: Pipeline,
    /// How far records are looked at for traces, while somebody wants to know.
    traces: TraceSettings,
    clustered: bool,
}

const CLUSTERED: &str = "a broker here is connected to a node on another host: what is given to clients there is not seen, so that \
    nothing is concluded from what is not seen";

impl Agent {
    /// Attaches the capture and drops every privilege. Nothing after this may need one.
    ///
    /// # Errors
    /// If the capture cannot work here; the message says what to do.
    pub fn attach(config: &Config) -> Result<Agent, Failure> {
        let capture = attach(config)?;
        let mut pipeline = pipeline(config);
        pipeline.keep_demands();
        if is_sampled(config) {
            pipeline.unseen();
        }
        Ok(Agent { capture, pipeline, traces: traces(config), clustered: false })
    }

    /// Handles what is in the ring, and what is due. Waits for at most `longest` if there is nothing.
    ///
    /// # Errors
    /// If the ring cannot be read any more.
    pub fn step(&mut self, outputs: &mut Outputs, longest: Duration) -> Result<bool, Failure> {
        let Agent { capture, pipeline, traces, clustered } = self;
        pipeline.set_traces(if outputs.tell_singly() { *traces } else { TraceSettings::NONE });
        let polled = capture.poll(longest, &mut |record| {
            if let Record::Counters(counters) = &record
                && counters.node_connections > 0
                && !std::mem::replace(clustered, true)
            {
                note(LogLevel::Info, &CLUSTERED);
            }
            outputs.saw(record.time());
            pipeline.handle(&record, outputs);
        })?;
        pipeline.flush(outputs);
        for demanded in pipeline.take_demands() {
            for (cookie, direction) in demanded.taps {
                capture.demand(cookie, direction, demanded.demand);
            }
        }
        if !polled.more {
            pipeline.handle_timeout(now(), outputs);
        }
        outputs.poll(&self.pipeline, now(), &self.losses());
        Ok(polled.more)
    }

    /// Handles what is in the ring at the end, and tells what waited for more.
    ///
    /// # Errors
    /// If the ring cannot be read any more.
    pub fn drain(&mut self, outputs: &mut Outputs) -> Result<(), Failure> {
        let deadline = Instant::now() + DRAIN;
        while self.step(outputs, Duration::ZERO)? && Instant::now() < deadline {}
        let counters = Record::Counters(self.capture.counters());
        outputs.saw(counters.time());
        self.pipeline.handle(&counters, outputs);
        self.pipeline.finish(outputs);
        Ok(())
    }

    /// Losses that the stages do not know of.
    pub fn losses(&self) -> Vec<Loss> {
        vec![
            Loss { stage: "kernel", reason: "malformed", count: self.capture.malformed(), unit: "record" },
            Loss { stage: "kernel", reason: "refused_ports", count: self.capture.refused_ports(), unit: "port" },
        ]
    }

    /// Reads the configuration again and changes what can be changed while running.
    fn reload(&mut self, invocation: &Invocation, old: Config, outputs: &mut Outputs) -> Config {
        match invocation.source.load() {
            Ok(new) => {
                if let Err(error) = self.apply(&old, &new) {
                    say(&format!("the new configuration could not be applied: {error}"));
                    return old;
                }
                outputs.set_sampling(&new);
                set_level(new.agent.log_level);
                for key in new.changed(&old).filter(|key| !key.reload) {
                    note(LogLevel::Warn, &format!("{} has changed, which takes effect at the next start", key.name));
                }
                note(LogLevel::Info, &"configuration read again");
                new
            }
            Err(error) => {
                say(&format!("the configuration stays as it was:\n{error}"));
                old
            }
        }
    }

    fn apply(&mut self, old: &Config, new: &Config) -> Result<(), Failure> {
        self.capture.set_discovery_and_skipping(&options(new))?;
        for port in old.watch.ports.iter().filter(|port| !new.watch.ports.contains(port)) {
            self.capture.unwatch_port(*port)?;
        }
        for port in new.watch.ports.iter().filter(|port| !old.watch.ports.contains(port)) {
            self.capture.watch_port(*port)?;
        }
        if old.watch.cgroups != new.watch.cgroups {
            self.capture.set_cgroups(&new.watch.cgroups)?;
        }
        self.capture.set_sampling(new.watch.sample_connections)?;
        self.traces = traces(new);
        if is_sampled(new) {
            self.pipeline.unseen();
        }
        Ok(())
    }
}

/// Whether some connections are not watched by intention.
fn is_sampled(config: &Config) -> bool {
    config.watch.sample_connections < 1.0
}

/// Attaches the capture, then drops every privilege. Nothing after this may need one.
///
/// # Errors
/// If the capture cannot work here; the message says what to do.
pub fn attach(config: &Config) -> Result<Capture, Failure> {
    let mut capture = Capture::attach(&options(config))
        .map_err(|error| Failure(format!("{error}\n{}\n`acktrail doctor` says more.", error.advice())))?;
    for feature in capture.features() {
        if let Some(error) = &feature.missing {
            note(LogLevel::Warn, &format!("{error}: {}", feature.feature.consequence()));
        }
    }
    if config.capture.lend_priority
        && let Err(error) = capture.start_guard()
    {
        let consequence = "on a saturated host records may be lost, counted; LimitRTPRIO=1 in the service allows it";
        note(LogLevel::Warn, &format!("no real-time priority while the ring fills up: {error}: {consequence}"));
    }
    privileges::drop_all()?;
    Ok(capture)
}

/// The configuration in the kernel stage's terms.
pub fn options(config: &Config) -> Options {
    let named = !config.watch.ports.is_empty() || !config.watch.cgroups.is_empty();
    Options {
        ports: config.watch.ports.clone(),
        cgroups: config.watch.cgroups.clone(),
        discover: config.watch.discover && !named,
        ring_bytes: u32::try_from(config.capture.ring_bytes).unwrap_or(u32::MAX),
        skip_bodies_from: config.capture.skip_bodies_from.map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX)),
        sample_connections: config.watch.sample_connections,
        cgroup_root: None,
    }
}

/// The wall clock.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// The kernel's release, as `uname -r` says it.
pub fn kernel_release() -> Option<String> {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|text| text.trim().to_owned())
}
