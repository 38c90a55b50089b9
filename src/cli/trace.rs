//! `acktrail trace`: transitions as they happen, from the running agent, or, where none runs, from a capture of its own.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use super::args::Invocation;
use super::outputs::Outputs;
use super::ready::Ready;
use super::run::Agent;
use super::signals::Signals;
use super::view::View;
use super::{Failure, note, say};
use crate::agent_socket::{Client, ClientError, Format};
use crate::config::LogLevel;
use crate::filter::Filter;

/// How long to wait for a line before looking whether to end.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long the capture may wait for records: what is shown should not be older.
const PACE: Duration = Duration::from_millis(100);

/// Shows transitions until it is told to end.
///
/// # Errors
/// If the filter makes no sense, or neither an agent nor a capture can be had.
pub fn trace(invocation: &Invocation) -> Result<ExitCode, Failure> {
    let config = &invocation.config;
    let signals = Signals::install()?;
    let filter = Filter::parse(&config.trace.filter).map_err(|error| Failure(error.to_string()))?;
    let format = if config.trace.json { Format::Json } else { Format::Rows };
    match Client::trace(&config.agent.socket, &filter, format) {
        Ok(client) => from_agent(invocation, client, &signals),
        Err(ClientError::NoAgent(path)) => {
            note(LogLevel::Info, &format!("no agent answers at {}: capturing here", path.display()));
            from_capture(invocation, &signals)
        }
        Err(error) => Err(error.into()),
    }
}

fn from_agent(invocation: &Invocation, mut client: Client, signals: &Signals) -> Result<ExitCode, Failure> {
    let config = &invocation.config;
    Ready::prepare(&config.agent)?.announce()?;
    client.set_timeout(Some(PATIENCE))?;
    let mut view = View::stdout(&config.trace.filter, config.trace.json, config)?;
    while !signals.stop() && !view.closed {
        if signals.take_resize() {
            view.resize(config);
        }
        match client.next() {
            Ok(Some(line)) if config.trace.json => {
                let mut out = std::io::stdout().lock();
                let written = out.write_all(line).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
                view.closed |= written.is_err();
            }
            Ok(Some(line)) => match serde_json::from_slice(line) {
                Ok(row) => view.row(&row),
                Err(error) => return Err(Failure(format!("the agent sent a line that is no row: {error}"))),
            },
            Ok(None) => {
                note(LogLevel::Info, &"the agent has ended");
                break;
            }
            Err(error) if error.is_pause() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn from_capture(invocation: &Invocation, signals: &Signals) -> Result<ExitCode, Failure> {
    let config = &invocation.config;
    let mut ready = Ready::prepare(&config.agent)?;
    let mut outputs = Outputs::without_files();
    let mut agent = Agent::attach(config)?;
    // After that: its thread must have no privilege either.
    let view = View::behind_stdout(&config.trace.filter, config.trace.json, config)?;
    outputs.show(view);
    ready.announce()?;
    while !signals.stop() && !outputs.view_closed() {
        if signals.take_resize() {
            outputs.resize(config);
        }
        agent.step(&mut outputs, PACE)?;
    }
    ready.stopping()?;
    agent.drain(&mut outputs)?;
    let unshown = outputs.finish_view(PATIENCE);
    if unshown > 0 {
        say(&format!("{unshown} lines were not shown: the output did not take them in time"));
    }
    Ok(ExitCode::SUCCESS)
}
