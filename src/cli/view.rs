//! The live view as a listener: what the filter lets pass, a line each, on standard output.

use std::io::{self, StdoutLock, Write};

use super::live::Live;
use super::{Failure, terminal};
use crate::config::Config;
use crate::export::json;
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
    json: Vec<u8>,
    /// The reader went away.
    pub closed: bool,
}

impl View {
    /// On standard output: a table in the terminal's width, or JSON lines.
    ///
    /// # Errors
    /// If the filter makes no sense.
    pub fn stdout(filter: &str, as_json: bool, config: &Config) -> Result<View, Failure> {
        let filter = Filter::parse(filter).map_err(|error| Failure(error.to_string()))?;
        let form = if as_json { Form::Json } else { Form::Table(layout(config)) };
        let mut view = View { filter, form, text: String::new(), json: Vec::new(), closed: false };
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

    fn print(&mut self) {
        let mut out = io::stdout().lock();
        let written = match self.form {
            Form::Table(_) => write(&mut out, self.text.as_bytes()),
            Form::Json => write(&mut out, &self.json),
        };
        self.closed |= written.is_err();
    }
}

fn layout(config: &Config) -> Live {
    Live::new(terminal::width_stdout(), terminal::colors_stdout(config.terminal.color))
}

fn write(out: &mut StdoutLock<'_>, bytes: &[u8]) -> io::Result<()> {
    out.write_all(bytes)?;
    out.flush()
}

impl Observer for View {
    fn transition(&mut self, transition: &Transition<'_>) {
        if !self.filter.matches(transition) {
            return;
        }
        match self.form {
            Form::Table(_) => self.row(&Row::of_transition(transition)),
            Form::Json => {
                self.json.clear();
                json::transition_line(transition, &mut self.json);
                self.print();
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
                self.json.clear();
                json::event_line(event, &mut self.json);
                self.print();
            }
        }
    }
}
