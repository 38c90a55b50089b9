//! Packet captures of other tools: pcap (µs and ns, either byte order) and pcapng, as tcpdump, dumpcap and Wireshark write
//! them, turned into the records that our own taps would have made.
//!
//! A packet shows both ends of its connection, so each direction is taken as the egress of the sender's socket. Cookies are
//! counted up; a port that is used again is a new connection. What the handshake shows is known (who connected, where the
//! streams begin), what it does not is not guessed. A capture does not know how far applications have read.
//!
//! A packet that the capture cut (`-s`) gives a segment of what was kept: the next packet's position then shows the hole.
//! Packets seen twice (the `any` device shows each loopback packet twice) give the same positions twice.

mod connections;
mod file;
mod packet;

use std::fmt;
use std::io::{self, Read};

use crate::capture::{Counters, Record};
use crate::time::Timestamp;

use connections::Connections;
use file::Frames;

/// What to take from a capture.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Only connections with one of these ports at either end, which is then the broker's. Empty: all.
    pub ports: Vec<u16>,
}

/// Why a packet gave no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unusable {
    /// A link type that is not read.
    LinkType,
    /// Neither IPv4 nor IPv6.
    NotIp,
    /// Not TCP.
    NotTcp,
    /// A fragment of an IP packet.
    Fragment,
    /// Headers that contradict each other.
    Malformed,
    /// The capture cut inside the headers.
    HeadersCut,
    /// The capture kept none of the payload, or only a part.
    PayloadCut,
    /// Neither end has one of the ports asked for.
    OtherPort,
    /// Payload behind the end of its connection.
    AfterEnd,
}

impl Unusable {
    /// All of them.
    pub const ALL: [Unusable; 9] = [
        Unusable::LinkType,
        Unusable::NotIp,
        Unusable::NotTcp,
        Unusable::Fragment,
        Unusable::Malformed,
        Unusable::HeadersCut,
        Unusable::PayloadCut,
        Unusable::OtherPort,
        Unusable::AfterEnd,
    ];

    /// The name under which it is counted.
    pub fn name(self) -> &'static str {
        match self {
            Unusable::LinkType => "link_type",
            Unusable::NotIp => "not_ip",
            Unusable::NotTcp => "not_tcp",
            Unusable::Fragment => "ip_fragment",
            Unusable::Malformed => "malformed_headers",
            Unusable::HeadersCut => "headers_cut",
            Unusable::PayloadCut => "payload_cut",
            Unusable::OtherPort => "other_port",
            Unusable::AfterEnd => "after_end",
        }
    }
}

/// What a capture held, so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets of any kind.
    pub packets: u64,
    /// Packets with TCP payload of connections that were wanted.
    pub payload_packets: u64,
    /// Their payload in bytes, as it was on the wire.
    pub payload_bytes: u64,
    /// The part of it that the capture kept.
    pub captured_bytes: u64,
    /// Connections seen.
    pub connections: u64,
    /// Connections that were forgotten to bound memory; what they still sent is a new connection.
    pub evicted: u64,
    /// When the last packet passed.
    pub last: Timestamp,
    unusable: [u64; Unusable::ALL.len()],
}

impl Tally {
    /// Packets that gave no record, or not all of it, for this reason.
    pub fn unusable(&self, reason: Unusable) -> u64 {
        self.unusable.get(reason as usize).copied().unwrap_or(0)
    }

    fn count(&mut self, reason: Unusable) {
        if let Some(count) = self.unusable.get_mut(reason as usize) {
            *count += 1;
        }
    }
}

/// Why a capture cannot be read, or not any further.
#[derive(Debug)]
pub enum Error {
    /// Neither pcap nor pcapng.
    NotACapture,
    /// The file ends inside a packet. Everything before was delivered.
    Truncated {
        /// Where the incomplete packet begins, in bytes.
        offset: u64,
    },
    /// Bytes that are no packet.
    Corrupt {
        /// Where, in bytes.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The file could not be read.
    Io(io::Error),
}

impl Error {
    /// Whether the file merely ended too early.
    pub fn is_truncation(&self) -> bool {
        matches!(self, Error::Truncated { .. })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotACapture => write!(f, "neither pcap nor pcapng"),
            Error::Truncated { offset } => {
                write!(f, "the capture ends inside a packet (byte {offset}); everything before was read")
            }
            Error::Corrupt { offset, what } => write!(f, "the capture is damaged at byte {offset}: {what}"),
            Error::Io(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io(error) => Some(error),
            _ => None,
        }
    }
}

/// Reads a capture, packet by packet.
pub struct Reader<R: Read + Send + 'static> {
    frames: Frames<R>,
    connections: Connections,
    tally: Tally,
    /// What ended the file, to be said once everything before it has been delivered.
    end: Option<Result<(), Error>>,
    counters_due: bool,
}

impl<R: Read + Send + 'static> Reader<R> {
    /// Reads the file's header.
    ///
    /// # Errors
    /// If this is neither pcap nor pcapng.
    pub fn new(input: R, options: &Options) -> Result<Self, Error> {
        Ok(Reader {
            frames: Frames::new(input)?,
            connections: Connections::new(options.ports.clone()),
            tally: Tally::default(),
            end: None,
            counters_due: true,
        })
    }

    /// What the capture held, so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The next record; `None` at the capture's end, and after an error. The last record is always [`Counters`].
    ///
    /// # Errors
    /// If the file ends too early or is damaged, once everything before has been delivered.
    #[expect(clippy::should_implement_trait, reason = "the record borrows from the reader, which Iterator cannot say")]
    pub fn next(&mut self) -> Result<Option<Record<'_>>, Error> {
        while self.connections.is_empty() && self.end.is_none() {
            let (connections, tally) = (&mut self.connections, &mut self.tally);
            let more = self.frames.next(|frame| {
                tally.packets += 1;
                tally.last = tally.last.max(frame.time);
                let handled = match packet::read(&frame) {
                    Ok(packet) => connections.packet(frame.time, &packet, tally),
                    Err(reason) => Err(reason),
                };
                handled.unwrap_or_else(|reason| tally.count(reason));
            });
            match more {
                Ok(true) => {}
                Ok(false) => self.end = Some(Ok(())),
                Err(error) => self.end = Some(Err(error)),
            }
        }
        if !self.connections.is_empty() {
            return Ok(self.connections.take());
        }
        if std::mem::take(&mut self.counters_due) {
            return Ok(Some(Record::Counters(self.counters())));
        }
        match self.end.replace(Ok(())) {
            Some(Err(error)) => Err(error),
            _ => Ok(None),
        }
    }

    fn counters(&self) -> Counters {
        let tally = &self.tally;
        let unreadable = [Unusable::Fragment, Unusable::Malformed, Unusable::HeadersCut];
        Counters {
            time: tally.last,
            packets: tally.payload_packets,
            payload_bytes: tally.payload_bytes,
            captured_bytes: tally.captured_bytes,
            unreadable_packets: unreadable.iter().map(|reason| tally.unusable(*reason)).sum(),
            untracked_sockets: tally.evicted,
            ..Counters::default()
        }
    }
}
