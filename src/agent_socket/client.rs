//! The side of whoever asks.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Format, MAX_LINE, Refusal, Request};
use crate::filter::Filter;

/// A connection to the running agent.
pub struct Client {
    reader: BufReader<UnixStream>,
    line: Vec<u8>,
    path: PathBuf,
}

/// Why the agent does not answer.
#[derive(Debug)]
pub enum ClientError {
    /// No agent runs there.
    NoAgent(PathBuf),
    /// One may run, but this user may not ask it.
    NotAllowed(PathBuf),
    /// It refused, and says why.
    Refused(String),
    /// Anything else.
    Io(PathBuf, io::Error),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::NoAgent(path) => write!(f, "{}: no agent runs there", path.display()),
            ClientError::NotAllowed(path) => {
                write!(f, "{}: permission denied; ask as root or a member of the socket's group", path.display())
            }
            ClientError::Refused(error) => write!(f, "the agent refused: {error}"),
            ClientError::Io(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for ClientError {}

impl Client {
    /// Asks for transitions and events.
    ///
    /// # Errors
    /// If no agent can be asked there.
    pub fn trace(path: &Path, filter: &Filter, format: Format) -> Result<Client, ClientError> {
        let request = Request {
            trace: Some(filter.to_string()),
            format,
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            ..Request::default()
        };
        Client::ask(path, &request)
    }

    /// Asks for a summary: one line.
    ///
    /// # Errors
    /// If no agent can be asked there.
    pub fn summary(path: &Path) -> Result<Client, ClientError> {
        Client::ask(path, &Request { summary: true, ..Request::default() })
    }

    /// How long [`next`](Client::next) waits before it says that nothing came; `None`: for ever.
    ///
    /// # Errors
    /// If the duration is zero.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.reader.get_ref().set_read_timeout(timeout)
    }

    /// The next line, without its end. `Ok(None)`: the agent has ended. A timeout, or a signal, is an error of the kinds
    /// `WouldBlock` or `Interrupted` ([`ClientError::is_pause`]); what has come of a line is kept for the next call.
    ///
    /// # Errors
    /// If the agent refused, or the connection broke.
    #[expect(clippy::should_implement_trait, reason = "the line borrows from the client, which Iterator cannot say")]
    pub fn next(&mut self) -> Result<Option<&[u8]>, ClientError> {
        if self.line.ends_with(b"\n") {
            self.line.clear();
        }
        let room = (MAX_LINE - self.line.len().min(MAX_LINE)) as u64;
        let read = (&mut self.reader).take(room).read_until(b'\n', &mut self.line);
        if let Err(error) = read {
            return Err(ClientError::Io(self.path.clone(), error));
        }
        match self.line.strip_suffix(b"\n") {
            Some(line) if line.starts_with(b"{\"error\":") => {
                let refusal: Option<Refusal> = serde_json::from_slice(line).ok();
                Err(ClientError::Refused(refusal.map_or_else(String::new, |refusal| refusal.error)))
            }
            Some(line) => Ok(Some(line)),
            None if self.line.len() >= MAX_LINE => {
                let error = io::Error::new(io::ErrorKind::InvalidData, "the agent sent a line that is too long");
                Err(ClientError::Io(self.path.clone(), error))
            }
            None => Ok(None),
        }
    }

    fn ask(path: &Path, request: &Request) -> Result<Client, ClientError> {
        let stream = UnixStream::connect(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NoAgent(path.to_owned()),
            io::ErrorKind::PermissionDenied => ClientError::NotAllowed(path.to_owned()),
            _ => ClientError::Io(path.to_owned(), error),
        })?;
        let mut line = serde_json::to_vec(request).unwrap_or_default();
        line.push(b'\n');
        match (&stream).write_all(&line) {
            // An agent that has too many clients says so and hangs up, whatever it was to be asked: its words can be read.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                return Err(ClientError::Io(path.to_owned(), error));
            }
            _ => {}
        }
        Ok(Client { reader: BufReader::new(stream), line: Vec::new(), path: path.to_owned() })
    }
}

impl ClientError {
    /// Nothing is wrong: nothing came in time, or a signal did.
    pub fn is_pause(&self) -> bool {
        use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
        matches!(self, ClientError::Io(_, error) if matches!(error.kind(), WouldBlock | Interrupted | TimedOut))
    }
}
