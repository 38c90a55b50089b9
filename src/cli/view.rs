//! The live view as a listener: what the filter lets pass, a line each, on standard output.

use std::io;
#[cfg(feature = "kernel")]
use std::time::Duration;

use super::live::Live;
use super::{Failure, terminal};
use crate::config::Config;
use crate::export::lines::JsonLines;
use crate::export::write_behind::Output;
#[cfg(feature = "kernel")]
use crate::export::write_behind::WriteBehind;
use crate::filter::Filter;
use crate::lifecycle::transition::{Event, Observer, Transition};
use crate::row::Row;

/// How lines look.
enum Form {
    Table(Live),
    Json,
}

/// Prints what the filter lets pass.
pub struct View {
    filter: Filter,
    form: Form,
    text: String,
    lines: JsonLines<Box<dyn Output>>,
    /// The reader went away.
    pub closed: bool,
}

impl View {
    /// On standard output: a table in the terminal's width, or JSON lines.
    ///
    /// # Errors
    /// If the filter makes no sense.
    pub fn stdout(filter: &str, as_json: bool, config: &Config) -> Result<View, Failure> {
        View::on(Box::new(io::stdout()), filter, as_json, config)
    }

    /// The same for who must not wait for a terminal: what it does not take in time is counted.
    ///
    /// # Errors
    /// If the filter makes no sense.
    #[cfg(feature = "kernel")]
    pub fn behind_stdout(filter: &str, as_json: bool, config: &Config) -> Result<View, Failure> {
        View::on(Box::new(WriteBehind::new(io::stdout())), filter, as_json, config)
    }

    fn on(out: Box<dyn Output>, filter: &str, as_json: bool, config: &Config) -> Result<View, Failure> {
        let filter = Filter::parse(filter).map_err(|error| Failure(error.to_string()))?;
        let form = if as_json { Form::Json } else { Form::Table(layout(config)) };
        let mut view = View { filter, form, text: String::new(), lines: JsonLines::new(out), closed: false };
        view.heading();
        Ok(view)
    }

    /// The terminal has another width now.
    #[cfg(feature = "kernel")]
    pub fn resize(&mut self, config: &Config) {
        if let Form::Table(live) = &mut self.form {
            *live = layout(config);
        }
    }

    /// Prints a row that another process sent.
    pub fn row(&mut self, row: &Row) {
        if let Form::Table(live) = &self.form {
            self.text.clear();
            live.line(row, &mut self.text);
            self.print();
        }
    }

    fn heading(&mut self) {
        if let Form::Table(live) = &self.form {
            live.heading(&mut self.text);
            self.print();
        }
    }

    /// Waits a little for what is not written yet; how many lines were not shown.
    #[cfg(feature = "kernel")]
    pub fn finish(&mut self, patience: Duration) -> u64 {
        self.lines.finish(patience);
        self.lines.counts().1
    }

    fn print(&mut self) {
        self.lines.line(self.text.as_bytes());
        self.show();
    }

    /// Nobody wants to wait for a line to be seen.
    fn show(&mut self) {
        self.lines.flush();
        self.closed |= self.lines.take_failure().is_some();
    }
}

fn layout(config: &Config) -> Live {
    Live::new(terminal::width_stdout(), terminal::colors_stdout(config.terminal.color))
}

impl Observer for View {
    fn transition(&mut self, transition: &Transition<'_>) {
        if !self.filter.matches(transition) {
            return;
        }
        match self.form {
            Form::Table(_) => self.row(&Row::of_transition(transition)),
            Form::Json => {
                self.lines.transition(transition);
                self.show();
            }
        }
    }

    fn event(&mut self, event: &Event<'_>) {
        if !self.filter.matches_event(event) {
            return;
        }
        match self.form {
            Form::Table(_) => self.row(&Row::of_event(event)),
            Form::Json => {
                self.lines.event(event);
                self.show();
            }
        }
    }
}
