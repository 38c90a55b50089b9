//! A file of records, whatever its format: our own recordings, pcap, pcapng.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};
use std::net::SocketAddr;
use std::path::Path;

use hashbrown::HashSet;

use super::{Cookie, Record, pcap, recording};

/// A file's records, one after the other.
pub struct Source {
    kind: Kind,
    /// Ports asked for; empty: all.
    ports: Vec<u16>,
    /// Sockets of a recording that have none of these ports.
    unwanted: HashSet<Cookie>,
}

type Input = io::Chain<Cursor<Vec<u8>>, Box<dyn Read + Send>>;

enum Kind {
    Recording(recording::Reader<BufReader<Input>>),
    Pcap(pcap::Reader<Input>),
}

/// Why a file cannot be read, or not any further.
#[derive(Debug)]
pub enum Error {
    /// It is none of the formats.
    Unknown,
    /// Of a recording.
    Recording(recording::Error),
    /// Of a pcap or pcapng file.
    Pcap(pcap::Error),
    /// It cannot be opened or read.
    Io(io::Error),
}

impl Error {
    /// Whether the file merely ended too early: everything before was delivered and can be trusted.
    pub fn is_truncation(&self) -> bool {
        match self {
            Error::Recording(error) => error.is_truncation(),
            Error::Pcap(error) => error.is_truncation(),
            _ => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Unknown => write!(f, "neither a recording of acktrail nor pcap or pcapng"),
            Error::Recording(error) => write!(f, "{error}"),
            Error::Pcap(error) => write!(f, "{error}"),
            Error::Io(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for Error {}

impl Source {
    /// Opens a file, `-` being standard input, and finds its format by its first bytes. Only connections with one of the
    /// ports are delivered; without ports, all.
    ///
    /// # Errors
    /// If it cannot be read, or is none of the formats.
    pub fn open(path: &Path, ports: &[u16]) -> Result<Source, Error> {
        let input: Box<dyn Read + Send> = match path.to_str() {
            Some("-") => Box::new(io::stdin()),
            _ => Box::new(File::open(path).map_err(Error::Io)?),
        };
        Source::new(input, ports)
    }

    /// The same, from anything that can be read.
    ///
    /// # Errors
    /// If it cannot be read, or is none of the formats.
    pub fn new(mut input: Box<dyn Read + Send>, ports: &[u16]) -> Result<Source, Error> {
        let mut first = Vec::new();
        (&mut input).take(recording::MAGIC.len() as u64).read_to_end(&mut first).map_err(Error::Io)?;
        let is_recording = first == recording::MAGIC;
        let input = Cursor::new(first).chain(input);
        let kind = if is_recording {
            let input = BufReader::with_capacity(128 << 10, input);
            Kind::Recording(recording::Reader::new(input).map_err(Error::Recording)?)
        } else {
            let options = pcap::Options { ports: ports.to_vec() };
            Kind::Pcap(pcap::Reader::new(input, &options).map_err(|error| match error {
                pcap::Error::NotACapture => Error::Unknown,
                other => Error::Pcap(other),
            })?)
        };
        Ok(Source { kind, ports: ports.to_vec(), unwanted: HashSet::new() })
    }

    /// A recording's header.
    pub fn header(&self) -> Option<&recording::Header> {
        match &self.kind {
            Kind::Recording(reader) => Some(reader.header()),
            Kind::Pcap(_) => None,
        }
    }

    /// What a packet capture held, so far.
    pub fn tally(&self) -> Option<&pcap::Tally> {
        match &self.kind {
            Kind::Recording(_) => None,
            Kind::Pcap(reader) => Some(reader.tally()),
        }
    }

    /// Hands over the next record; false at the end, and after an error.
    ///
    /// # Errors
    /// If the file ends too early or is damaged, once everything before has been delivered.
    pub fn next(&mut self, mut handle: impl FnMut(&Record<'_>)) -> Result<bool, Error> {
        let reader = match &mut self.kind {
            Kind::Pcap(reader) => {
                return match reader.next().map_err(Error::Pcap)? {
                    Some(record) => {
                        handle(&record);
                        Ok(true)
                    }
                    None => Ok(false),
                };
            }
            Kind::Recording(reader) => reader,
        };
        while let Some(record) = reader.next().map_err(Error::Recording)? {
            if self.ports.is_empty() || wanted(&record, &self.ports, &mut self.unwanted) {
                handle(&record);
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Whether the record's socket has one of the ports. What it learns from sockets it forgets when they close.
fn wanted(record: &Record<'_>, ports: &[u16], unwanted: &mut HashSet<Cookie>) -> bool {
    match record {
        Record::Socket(socket) => {
            let has = |address: SocketAddr| ports.contains(&address.port());
            let wanted = has(socket.local) || has(socket.remote);
            if !wanted {
                unwanted.insert(socket.cookie);
            }
            wanted
        }
        Record::Segment(segment) => !unwanted.contains(&segment.cookie),
        Record::Read(read) => !unwanted.contains(&read.cookie),
        Record::Closed(closed) => !unwanted.remove(&closed.cookie),
        Record::Counters(_) => true,
    }
}
