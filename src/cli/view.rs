//! The live view as a listener: what the filter lets pass, a line each, on standard output.

use std::io::{self, ErrorKind};
#[cfg(feature = "kernel")]
use std::time::Duration;

use super::live::Live;
use super::{Failure, terminal};
use crate::config::Config;
use crate::export::json;
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
    json: Vec<u8>,
    out: Box<dyn Output>,
    /// The rest of a line that the output has taken a part of.
    rest: Vec<u8>,
    /// Lines that the output had no room for.
    unshown: u64,
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
        let mut view = View {
            filter,
            form,
            text: String::new(),
            json: Vec::new(),
            out,
            rest: Vec::new(),
            unshown: 0,
            closed: false,
        };
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
        self.put_rest();
        let cut = u64::from(!self.rest.is_empty());
        self.unshown + cut + self.out.settle(patience)
    }

    fn print(&mut self) {
        self.put_rest();
        if !self.rest.is_empty() {
            self.unshown += 1;
            return;
        }
        self.rest.extend_from_slice(match self.form {
            Form::Table(_) => self.text.as_bytes(),
            Form::Json => &self.json,
        });
        self.put_rest();
    }

    /// Writes what the output takes.
    fn put_rest(&mut self) {
        while !self.rest.is_empty() {
            match self.out.write(&self.rest) {
                Ok(0) => return self.closed = true,
                Ok(count) => drop(self.rest.drain(..count.min(self.rest.len()))),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return self.closed = true,
            }
        }
        self.closed |= self.out.flush().is_err();
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

#[cfg(all(test, feature = "kernel"))]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::lifecycle::transition::State;
    use crate::time::Timestamp;

    /// Takes as many bytes as it has room for, and no more until it is given some.
    #[derive(Clone, Default)]
    struct Terminal(Arc<Mutex<(usize, Vec<u8>)>>);

    impl Terminal {
        fn make_room(&self, bytes: usize) {
            self.0.lock().unwrap().0 += bytes;
        }

        fn shown(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().1.clone()).unwrap()
        }
    }

    impl Write for Terminal {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut state = self.0.lock().unwrap();
            let taken = state.0.min(bytes.len());
            if taken == 0 {
                return Err(ErrorKind::WouldBlock.into());
            }
            state.0 -= taken;
            state.1.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Output for Terminal {}

    #[test]
    fn a_terminal_that_stops_costs_whole_lines_which_are_counted() {
        let terminal = Terminal::default();
        let mut view = View::on(Box::new(terminal.clone()), "", true, &Config::default()).unwrap();
        let mut show = |second: u64| {
            view.transition(&Transition::new(Timestamp(second * 1_000_000_000), State::Created));
        };
        terminal.make_room(10);
        show(1);
        show(2);
        show(3);
        terminal.make_room(1000);
        show(4);
        assert_eq!(view.finish(Duration::ZERO), 2);
        let shown = terminal.shown();
        let times: Vec<_> =
            shown.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()).collect();
        let times: Vec<_> = times.iter().map(|line| line["time"].as_str().unwrap()).collect();
        assert_eq!(times, ["1970-01-01T00:00:01.000000000Z", "1970-01-01T00:00:04.000000000Z"]);
        assert!(!view.closed);
    }
}
