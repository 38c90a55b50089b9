//! The agent's side.

use std::collections::VecDeque;
use std::fmt;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Format, MAX_REQUEST, Refusal, Request, dropped_row};
use crate::filter::Filter;
use crate::lifecycle::transition::{Event, Transition};
use crate::row::{Row, rfc3339};
use crate::time::Timestamp;

/// More clients than this are refused.
const MAX_CLIENTS: usize = 16;
/// What waits for one client, in bytes; more is dropped.
const MAX_WAITING: usize = 1 << 20;
/// How long a client may take to say what it wants, and to take what is left at the end.
const PATIENCE: Duration = Duration::from_secs(5);
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Serves the agent's socket, with threads of its own.
pub struct Server {
    path: PathBuf,
    /// Of the socket file, to remove no other one at the end.
    inode: (u64, u64),
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

/// Why the socket cannot be served.
#[derive(Debug)]
pub enum BindError {
    /// Another agent answers there.
    InUse(PathBuf),
    /// Something else has that name.
    NotASocket(PathBuf),
    /// Anything else.
    Io(PathBuf, io::Error),
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BindError::InUse(path) => write!(f, "{}: another agent serves this socket", path.display()),
            BindError::NotASocket(path) => write!(f, "{}: exists and is no socket", path.display()),
            BindError::Io(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for BindError {}

struct Shared {
    clients: Mutex<Vec<Arc<Client>>>,
    /// Clients that want transitions: what `broadcast` looks at first.
    listening: AtomicUsize,
    /// A client waits for a summary.
    summary_wanted: AtomicBool,
    closing: AtomicBool,
}

struct Client {
    stream: UnixStream,
    request: Asked,
    queue: Mutex<Queue>,
    more: Condvar,
}

enum Asked {
    Trace(Filter, Format),
    Summary,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Box<[u8]>>,
    bytes: usize,
    dropped: u64,
    /// When the last line was dropped.
    dropped_at: Timestamp,
    /// Nothing more will come; what is here may still be sent.
    finished: bool,
    /// Nothing more can be sent.
    gone: bool,
}

impl Server {
    /// Serves a socket at this path, mode 0660; creates its directory where that is missing. A socket file that nobody
    /// answers at is replaced.
    ///
    /// # Errors
    /// If another agent answers there, something else has that name, or the file cannot be made.
    pub fn bind(path: &Path) -> Result<Server, BindError> {
        let failed = |error| BindError::Io(path.to_owned(), error);
        make_way(path)?;
        let listener = UnixListener::bind(path).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse(path.to_owned()),
            _ => failed(error),
        })?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(failed)?;
        let metadata = fs::symlink_metadata(path).map_err(failed)?;
        let shared = Arc::new(Shared {
            clients: Mutex::default(),
            listening: AtomicUsize::new(0),
            summary_wanted: AtomicBool::new(false),
            closing: AtomicBool::new(false),
        });
        let acceptor = {
            let shared = Arc::clone(&shared);
            let accept = move || accept(&listener, &shared);
            thread::Builder::new().name("agent-socket".to_owned()).spawn(accept).map_err(failed)?
        };
        let inode = (metadata.dev(), metadata.ino());
        Ok(Server { path: path.to_owned(), inode, shared, acceptor: Some(acceptor) })
    }

    /// Whether anybody wants transitions and events. One load; where it is false, the calls below do nothing.
    pub fn is_listening(&self) -> bool {
        self.listeners() > 0
    }

    /// How many clients want transitions and events.
    pub fn listeners(&self) -> usize {
        self.shared.listening.load(Ordering::Relaxed)
    }

    /// Sends a transition to every client whose filter lets it pass. `render` appends its JSON line, with or without the
    /// line's end, and is called at most once, and only if somebody wants it.
    pub fn transition(&self, transition: &Transition<'_>, render: impl FnOnce(&mut Vec<u8>)) {
        if self.is_listening() {
            let wanted = |filter: &Filter| filter.matches(transition);
            self.broadcast(transition.time, wanted, || Row::of_transition(transition), render);
        }
    }

    /// Sends an event, as [`transition`](Server::transition) does.
    pub fn event(&self, event: &Event<'_>, render: impl FnOnce(&mut Vec<u8>)) {
        if self.is_listening() {
            let wanted = |filter: &Filter| filter.matches_event(event);
            self.broadcast(event.time, wanted, || Row::of_event(event), render);
        }
    }

    /// Whether a client waits for a summary. One load.
    pub fn is_summary_wanted(&self) -> bool {
        self.shared.summary_wanted.load(Ordering::Relaxed)
    }

    /// Answers every client that waits for a summary with this line.
    pub fn summary(&self, line: &[u8]) {
        self.shared.summary_wanted.store(false, Ordering::Relaxed);
        for client in self.shared.clients().iter().filter(|client| matches!(client.request, Asked::Summary)) {
            client.push(Timestamp(0), terminated(line.to_vec()));
            client.finish();
        }
    }

    fn broadcast(
        &self,
        time: Timestamp,
        wanted: impl Fn(&Filter) -> bool,
        row: impl FnOnce() -> Row,
        render: impl FnOnce(&mut Vec<u8>),
    ) {
        let mut json = Lazy::New(|| {
            let mut line = Vec::new();
            render(&mut line);
            terminated(line)
        });
        let mut row = Lazy::New(|| terminated(serde_json::to_vec(&row()).unwrap_or_default()));
        for client in self.shared.clients().iter() {
            match &client.request {
                Asked::Trace(filter, _) if !wanted(filter) => {}
                Asked::Trace(_, Format::Json) => client.push(time, json.get()),
                Asked::Trace(_, Format::Rows) => client.push(time, row.get()),
                Asked::Summary => {}
            }
        }
    }
}

/// Ends cleanly: what waits is sent, for a second at most; the socket file goes.
impl Drop for Server {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        let same = |metadata: fs::Metadata| (metadata.dev(), metadata.ino()) == self.inode;
        // The acceptor waits in accept: a last connection wakes it up.
        let _ = UnixStream::connect(&self.path);
        if fs::symlink_metadata(&self.path).is_ok_and(same) {
            let _ = fs::remove_file(&self.path);
        }
        let end = Instant::now() + LAST_WORDS;
        let clients: Vec<Arc<Client>> = self.shared.clients().clone();
        clients.iter().for_each(|client| client.finish());
        while Instant::now() < end && clients.iter().any(|client| !client.queue().gone) {
            thread::sleep(Duration::from_millis(5));
        }
        clients.iter().for_each(|client| client.close());
        if let Some(acceptor) = self.acceptor.take().filter(JoinHandle::is_finished) {
            let _ = acceptor.join();
        }
    }
}

/// Made when it is first asked for.
enum Lazy<F: FnOnce() -> Box<[u8]>> {
    New(F),
    Made(Box<[u8]>),
    Making,
}

impl<F: FnOnce() -> Box<[u8]>> Lazy<F> {
    fn get(&mut self) -> Box<[u8]> {
        let made = match std::mem::replace(self, Lazy::Making) {
            Lazy::New(make) => make(),
            Lazy::Made(made) => made,
            Lazy::Making => Box::default(),
        };
        *self = Lazy::Made(made.clone());
        made
    }
}

impl Shared {
    fn clients(&self) -> MutexGuard<'_, Vec<Arc<Client>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, client: &Arc<Client>) {
        self.clients().push(Arc::clone(client));
        match client.request {
            Asked::Trace(..) => {
                self.listening.fetch_add(1, Ordering::Relaxed);
            }
            Asked::Summary => self.summary_wanted.store(true, Ordering::Relaxed),
        }
        if self.closing.load(Ordering::Relaxed) {
            client.finish();
        }
    }

    fn remove(&self, client: &Arc<Client>) {
        self.clients().retain(|known| !Arc::ptr_eq(known, client));
        if let Asked::Trace(..) = client.request {
            self.listening.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Client {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never waits.
    fn push(&self, time: Timestamp, line: Box<[u8]>) {
        let mut queue = self.queue();
        if queue.finished || queue.gone {
            return;
        }
        if queue.bytes + line.len() > MAX_WAITING {
            queue.dropped += 1;
            queue.dropped_at = time;
            return;
        }
        queue.bytes += line.len();
        queue.lines.push_back(line);
        let wake = queue.lines.len() == 1;
        drop(queue);
        if wake {
            self.more.notify_one();
        }
    }

    fn finish(&self) {
        self.queue().finished = true;
        self.more.notify_one();
    }

    /// The client is gone: what waits for it is of no use. (At the end of everything the sender still works.)
    fn hang_up_unless_finished(&self) {
        if !self.queue().finished {
            self.close();
        }
    }

    fn close(&self) {
        self.queue().gone = true;
        self.more.notify_one();
        // Wakes whoever reads or writes; it may be closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Sends what waits until the client is gone or nothing more comes.
    fn send(&self) {
        let mut out = Vec::new();
        while let Some((dropped, at)) = self.take(&mut out) {
            if dropped > 0 {
                out.extend_from_slice(&self.dropped_line(at, dropped));
            }
            if (&self.stream).write_all(&out).is_err() {
                break;
            }
        }
        self.close();
    }

    /// Waits for lines and takes them all, with what was dropped behind them. `None` at the end.
    fn take(&self, out: &mut Vec<u8>) -> Option<(u64, Timestamp)> {
        out.clear();
        let queue = self.queue();
        let idle = |queue: &mut Queue| queue.lines.is_empty() && queue.dropped == 0 && !queue.finished && !queue.gone;
        let mut queue = self.more.wait_while(queue, idle).unwrap_or_else(PoisonError::into_inner);
        if queue.gone || (queue.lines.is_empty() && queue.dropped == 0) {
            return None;
        }
        for line in queue.lines.drain(..) {
            out.extend_from_slice(&line);
        }
        queue.bytes = 0;
        Some((std::mem::take(&mut queue.dropped), queue.dropped_at))
    }

    fn dropped_line(&self, at: Timestamp, count: u64) -> Box<[u8]> {
        let line = match self.request {
            Asked::Trace(_, Format::Rows) => serde_json::to_vec(&dropped_row(at.0, count)),
            _ => serde_json::to_vec(&json!({
                "kind": "event",
                "event": "trace_dropped",
                "time": rfc3339(at),
                "count": count,
            })),
        };
        terminated(line.unwrap_or_default())
    }
}

fn terminated(mut line: Vec<u8>) -> Box<[u8]> {
    if line.last() != Some(&b'\n') {
        line.push(b'\n');
    }
    line.into_boxed_slice()
}

/// Removes a socket file that nobody answers at, and makes the directory.
fn make_way(path: &Path) -> Result<(), BindError> {
    let failed = |error| BindError::Io(path.to_owned(), error);
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => Err(BindError::NotASocket(path.to_owned())),
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed(error)),
            Ok(_) => Err(BindError::InUse(path.to_owned())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let make = |parent| fs::DirBuilder::new().recursive(true).mode(0o755).create(parent);
            parent.map_or(Ok(()), make).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    let serving = Arc::new(AtomicUsize::new(0));
    loop {
        let accepted = listener.accept();
        if shared.closing.load(Ordering::Relaxed) {
            return;
        }
        match accepted {
            Ok((stream, _)) if serving.load(Ordering::Relaxed) >= MAX_CLIENTS => {
                refuse(&stream, &format!("{MAX_CLIENTS} clients are served already"));
            }
            Ok((stream, _)) => {
                serving.fetch_add(1, Ordering::Relaxed);
                let (shared, count) = (Arc::clone(shared), Arc::clone(&serving));
                let serve = move || {
                    serve(stream, &shared);
                    count.fetch_sub(1, Ordering::Relaxed);
                };
                if thread::Builder::new().name("agent-client".to_owned()).spawn(serve).is_err() {
                    serving.fetch_sub(1, Ordering::Relaxed);
                }
            }
            // Too many open files, or a client that has gone: both pass.
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// One client, from its request to its end.
fn serve(stream: UnixStream, shared: &Arc<Shared>) {
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let request = match read_request(&stream) {
        Ok(request) => request,
        Err(message) => return refuse(&stream, &message),
    };
    let Ok(reader) = stream.try_clone() else { return };
    let _ = reader.set_read_timeout(None);
    let client = Arc::new(Client { stream, request, queue: Mutex::default(), more: Condvar::new() });
    shared.add(&client);
    let sender = {
        let client = Arc::clone(&client);
        thread::Builder::new().name("agent-sender".to_owned()).spawn(move || client.send())
    };
    if let Ok(sender) = sender {
        wait_for_end(reader, || sender.is_finished());
        client.hang_up_unless_finished();
        let _ = sender.join();
    }
    client.close();
    shared.remove(&client);
}

/// Clients have nothing more to say: returns when they are gone, or everything has been sent. One that has only closed
/// its writing side (`echo … | nc -U`) still reads.
fn wait_for_end(mut reader: UnixStream, sent: impl Fn() -> bool) {
    let mut ignored = [0; 256];
    while matches!(reader.read(&mut ignored), Ok(1..)) {}
    let mut poll = libc::pollfd { fd: reader.as_raw_fd(), events: 0, revents: 0 };
    while !sent() {
        // SAFETY: one pollfd is read and written, at the address of a live one.
        let answer = unsafe { libc::poll(&raw mut poll, 1, 200) };
        if answer > 0 && poll.revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0 {
            return;
        }
    }
}

fn read_request(stream: &UnixStream) -> Result<Asked, String> {
    let mut line = Vec::new();
    let mut reader = BufReader::new(stream.take(MAX_REQUEST as u64));
    reader.read_until(b'\n', &mut line).map_err(|error| format!("no request came: {error}"))?;
    let form = "a request is one line, such as {\"trace\":\"state=dead*\"} or {\"summary\":true}";
    let request: Request = serde_json::from_slice(&line).map_err(|error| format!("{error}; {form}"))?;
    match (request.trace, request.summary) {
        (Some(filter), false) => {
            let version = request.version.as_deref();
            if request.format == Format::Rows && version != Some(env!("CARGO_PKG_VERSION")) {
                return Err(format!("the agent is acktrail {}: ask for JSON lines", env!("CARGO_PKG_VERSION")));
            }
            Filter::parse(&filter).map(|filter| Asked::Trace(filter, request.format)).map_err(|error| error.to_string())
        }
        (None, true) => Ok(Asked::Summary),
        _ => Err(form.to_owned()),
    }
}

fn refuse(stream: &UnixStream, error: &str) {
    let _ = stream.set_write_timeout(Some(PATIENCE));
    let line = serde_json::to_vec(&Refusal { error: error.to_owned() }).unwrap_or_default();
    // A client that does not want to know is not told.
    let _ = { stream }.write_all(&terminated(line));
}
