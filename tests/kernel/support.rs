//! What the kernel tests share: a capture whose records are kept, and traffic to capture.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use acktrail::capture::{self, Closed, Cookie, Direction, Record, Socket};
use acktrail::kernel::{Capture, Options};

/// A segment with its bytes.
#[derive(Clone, Debug)]
pub struct Segment {
    pub cookie: Cookie,
    pub direction: Direction,
    pub sequence: u32,
    pub length: u32,
    pub offset: u32,
    pub bytes: Vec<u8>,
    pub more: bool,
    pub lost: u32,
}

/// A capture, and everything it has delivered.
pub struct Tap {
    pub capture: Capture,
    pub sockets: Vec<Socket>,
    pub segments: Vec<Segment>,
    pub reads: Vec<capture::Read>,
    pub closed: Vec<Closed>,
}

/// Only this port, everything copied.
pub fn only(port: u16) -> Options {
    Options { ports: vec![port], discover: false, skip_bodies_from: None, ..Options::default() }
}

impl Tap {
    pub fn new(options: &Options) -> Tap {
        let capture = Capture::attach(options).unwrap_or_else(|error| panic!("{error}"));
        for state in capture.features() {
            assert!(state.missing.is_none(), "{}: {:?}", state.feature, state.missing);
        }
        Tap { capture, sockets: Vec::new(), segments: Vec::new(), reads: Vec::new(), closed: Vec::new() }
    }

    /// Takes what is there; true if that was something.
    pub fn take(&mut self, wait: Duration) -> bool {
        let Tap { capture, sockets, segments, reads, closed } = self;
        let polled = capture.poll(wait, &mut |record| match record {
            Record::Socket(socket) => sockets.push(socket),
            Record::Segment(segment) => segments.push(Segment {
                cookie: segment.cookie,
                direction: segment.direction,
                sequence: segment.sequence,
                length: segment.length,
                offset: segment.offset,
                bytes: segment.bytes.to_vec(),
                more: segment.more,
                lost: segment.lost,
            }),
            Record::Read(read) => reads.push(read),
            Record::Closed(end) => closed.push(end),
            Record::Counters(_) => {}
        });
        assert_eq!(capture.malformed(), 0);
        polled.unwrap().records > 0
    }

    /// Takes records until `enough` says so. The deadline only ends a test that has failed.
    pub fn until(&mut self, what: &str, enough: impl Fn(&Tap) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !enough(self) {
            assert!(Instant::now() < deadline, "never came: {what}; {self}");
            self.take(Duration::from_millis(50));
        }
    }

    /// Takes everything that was sent before this call: a marker connection's end comes behind it in the ring.
    pub fn settle(&mut self) {
        for _ in 0..3 {
            while self.take(Duration::from_millis(20)) {}
        }
    }

    /// The latest announcement of the socket with this local address.
    pub fn socket(&self, local: SocketAddr) -> &Socket {
        let canonical = SocketAddr::new(local.ip().to_canonical(), local.port());
        let known = self.sockets.iter().rev().find(|socket| socket.local == canonical);
        known.unwrap_or_else(|| panic!("no socket {canonical}; {self}"))
    }

    /// The same where a capture watches several ports: a local address may be used towards each of them.
    pub fn between(&self, local: SocketAddr, remote: SocketAddr) -> &Socket {
        let known = self.sockets.iter().rev().find(|socket| (socket.local, socket.remote) == (local, remote));
        known.unwrap_or_else(|| panic!("no socket from {local} to {remote}; {self}"))
    }

    /// The segments of a socket's direction.
    pub fn of(&self, cookie: Cookie, direction: Direction) -> Vec<&Segment> {
        self.segments.iter().filter(|s| s.cookie == cookie && s.direction == direction).collect()
    }

    /// The bytes of a flow from sequence number `start` on; fails if one is missing. TCP may have sent some twice.
    pub fn bytes(&self, cookie: Cookie, direction: Direction, start: u32) -> Vec<u8> {
        let mut parts: Vec<_> = self.of(cookie, direction);
        let position = |segment: &Segment| segment.sequence.wrapping_sub(start).wrapping_add(segment.offset) as usize;
        parts.sort_by_key(|segment| position(segment));
        let mut all: Vec<u8> = Vec::new();
        for segment in parts {
            let known = all.len().checked_sub(position(segment)).expect("a gap").min(segment.bytes.len());
            let (again, new) = segment.bytes.split_at(known);
            assert!(all[position(segment)..].starts_with(again), "the same position with other bytes");
            all.extend(new);
        }
        all
    }

    /// How many bytes were copied from a flow.
    pub fn captured(&self, cookie: Cookie, direction: Direction) -> usize {
        self.of(cookie, direction).iter().map(|segment| segment.bytes.len()).sum()
    }
}

impl std::fmt::Display for Tap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} segments, ", self.segments.len())?;
        write!(f, "sockets {:?}, reads {:?}, closed {:?}", self.sockets, self.reads, self.closed)
    }
}

/// Bytes that differ at every position and for every seed.
pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

/// Both ends of a connection within this process.
pub struct Pair {
    pub client: TcpStream,
    pub server: TcpStream,
}

impl Pair {
    /// Listens at `address`, connects to it, accepts.
    pub fn new(address: SocketAddr) -> Pair {
        Pair::with(&listen(address), address)
    }

    pub fn with(listener: &TcpListener, address: SocketAddr) -> Pair {
        let client = TcpStream::connect(address).unwrap();
        let (server, _) = listener.accept().unwrap();
        Pair { client, server }
    }

    /// Sends both ways, and reads everything.
    pub fn exchange(&mut self, request: &[u8], answer: &[u8]) {
        transfer(&mut self.client, &mut self.server, request);
        transfer(&mut self.server, &mut self.client, answer);
    }

    pub fn client_address(&self) -> SocketAddr {
        self.client.local_addr().unwrap()
    }

    /// The server's own address, as the client sees it.
    pub fn server_address(&self) -> SocketAddr {
        self.client.peer_addr().unwrap()
    }

    /// Whether either end has sent something twice.
    pub fn retransmitted(&self) -> bool {
        [&self.client, &self.server].iter().any(|end| {
            // SAFETY: plain numbers, all of them valid as zero; the kernel fills in at most as many bytes as told.
            let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
            let mut length = size_of_val(&info) as libc::socklen_t;
            let (at, level, name) = (&raw mut info, libc::IPPROTO_TCP, libc::TCP_INFO);
            // SAFETY: as above.
            let result = unsafe { libc::getsockopt(end.as_raw_fd(), level, name, at.cast(), &mut length) };
            assert_eq!(result, 0);
            info.tcpi_total_retrans > 0
        })
    }

    pub fn close(self) {
        self.client.shutdown(Shutdown::Both).unwrap();
    }
}

pub fn listen(address: SocketAddr) -> TcpListener {
    TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"))
}

/// Writes and reads at once, as a buffer may be smaller than the message.
pub fn transfer(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
    thread::scope(|scope| {
        scope.spawn(|| from.write_all(bytes).unwrap());
        let mut received = vec![0; bytes.len()];
        to.read_exact(&mut received).unwrap();
        assert!(received == bytes, "TCP itself changed something");
    });
}
