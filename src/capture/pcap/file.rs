//! The two file formats: from a file to frames with a time and a link type.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use pcap_parser::pcapng::Block;
use pcap_parser::traits::{PcapNGPacketBlock, PcapReaderIterator};
use pcap_parser::{LegacyPcapBlock, PcapBlockOwned, PcapError, PcapHeader, create_reader};

use super::Error;
use crate::time::Timestamp;

/// Bytes of a file in memory at first; grows for a larger block.
const BUFFER: usize = 256 << 10;
/// No block of a file may be larger than this, in bytes.
const MAX_BLOCK: usize = 16 << 20;
/// More interfaces than this are not remembered; their packets count as of an unknown link type.
const MAX_INTERFACES: usize = 4096;

/// One captured packet.
pub(super) struct Frame<'a> {
    pub(super) time: Timestamp,
    /// Link type (<https://www.tcpdump.org/linktypes.html>); `None` where the file does not say.
    pub(super) link: Option<u16>,
    /// What the capture kept.
    pub(super) bytes: &'a [u8],
    /// How long it was on the wire.
    pub(super) length: usize,
}

/// A file's frames.
pub(super) struct Frames<R: Read + Send + 'static> {
    reader: Box<dyn PcapReaderIterator + Send>,
    failure: Arc<Mutex<Option<io::Error>>>,
    format: Format,
    capacity: usize,
    offset: u64,
    input: std::marker::PhantomData<fn(R)>,
}

/// What later blocks are read by.
struct Format {
    /// Of pcap: its link type, and nanoseconds per unit of the time's fraction.
    legacy: Option<(u16, u64)>,
    /// Of the current section of pcapng.
    interfaces: Vec<Interface>,
    /// For packets that have no time of their own.
    last: Timestamp,
}

#[derive(Clone, Copy)]
struct Interface {
    link: u16,
    resolution: u8,
    offset_seconds: i64,
    snap_length: u32,
}

impl<R: Read + Send + 'static> Frames<R> {
    pub(super) fn new(input: R) -> Result<Self, Error> {
        let failure = Arc::new(Mutex::new(None));
        let input = Remembering { input, failure: Arc::clone(&failure), first: true };
        let reader = create_reader(BUFFER, input);
        let reader = reader.map_err(|_| taken(&failure).map_or(Error::NotACapture, Error::Io))?;
        let format = Format { legacy: None, interfaces: Vec::new(), last: Timestamp(0) };
        Ok(Frames { reader, failure, format, capacity: BUFFER, offset: 0, input: std::marker::PhantomData })
    }

    /// Hands over the next frame; false at the end of the file.
    pub(super) fn next(&mut self, mut handle: impl FnMut(Frame<'_>)) -> Result<bool, Error> {
        loop {
            let step = match self.reader.next() {
                Ok((length, block)) => {
                    let frame = self.format.block(&block);
                    let found = frame.is_some();
                    if let Some(frame) = frame {
                        handle(frame);
                    }
                    Step::Consume(length, found)
                }
                Err(PcapError::Eof) => return Ok(false),
                Err(PcapError::Incomplete(_)) => Step::Refill,
                Err(PcapError::BufferTooSmall) => Step::Grow,
                Err(PcapError::UnexpectedEof) => return Err(Error::Truncated { offset: self.offset }),
                Err(_) => return Err(self.corrupt("this is no block of a capture")),
            };
            match step {
                Step::Consume(0, _) => return Err(self.corrupt("an empty block")),
                Step::Consume(length, found) => {
                    self.reader.consume(length);
                    self.offset += length as u64;
                    if found {
                        return Ok(true);
                    }
                }
                Step::Refill => self.refill()?,
                Step::Grow => {
                    self.grow()?;
                    self.refill()?;
                }
            }
        }
    }

    fn refill(&mut self) -> Result<(), Error> {
        let before = self.reader.data().len();
        let failed = self.reader.refill().is_err();
        if failed {
            let error = taken(&self.failure).unwrap_or_else(|| io::Error::other("the file could not be read"));
            return Err(Error::Io(error));
        }
        if self.reader.data().len() == before && !self.reader.reader_exhausted() {
            return self.grow();
        }
        Ok(())
    }

    fn grow(&mut self) -> Result<(), Error> {
        if self.capacity >= MAX_BLOCK {
            return Err(self.corrupt("a packet larger than any packet can be"));
        }
        self.capacity *= 2;
        self.reader.grow(self.capacity);
        Ok(())
    }

    fn corrupt(&self, what: &'static str) -> Error {
        Error::Corrupt { offset: self.offset, what }
    }
}

enum Step {
    Consume(usize, bool),
    Refill,
    Grow,
}

impl Format {
    /// Learns from a block; gives the frame if it holds one.
    fn block<'a>(&mut self, block: &'a PcapBlockOwned<'a>) -> Option<Frame<'a>> {
        match block {
            PcapBlockOwned::LegacyHeader(header) => self.header(header),
            PcapBlockOwned::Legacy(packet) => return Some(self.legacy_packet(packet)),
            PcapBlockOwned::NG(Block::SectionHeader(_)) => self.interfaces.clear(),
            PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                if self.interfaces.len() < MAX_INTERFACES {
                    self.interfaces.push(Interface {
                        link: link_type(interface.linktype.0),
                        resolution: interface.if_tsresol,
                        offset_seconds: interface.if_tsoffset,
                        snap_length: interface.snaplen,
                    });
                }
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                let interface = self.interfaces.get(packet.if_id as usize).copied();
                let ticks = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
                self.last = interface.and_then(|interface| interface.time(ticks)).unwrap_or(self.last);
                return Some(Frame {
                    time: self.last,
                    link: interface.map(|interface| interface.link),
                    bytes: packet.packet_data(),
                    length: packet.origlen as usize,
                });
            }
            PcapBlockOwned::NG(Block::SimplePacket(packet)) => {
                let interface = self.interfaces.first().copied();
                let bytes = packet.packet_data();
                let kept = interface.map_or(0, |interface| interface.snap_length) as usize;
                let bytes = bytes.get(..kept).filter(|_| kept > 0).unwrap_or(bytes);
                let link = interface.map(|interface| interface.link);
                return Some(Frame { time: self.last, link, bytes, length: packet.origlen as usize });
            }
            PcapBlockOwned::NG(_) => {}
        }
        None
    }

    fn header(&mut self, header: &PcapHeader) {
        let unit = if header.is_nanosecond_precision() { 1 } else { 1000 };
        self.legacy = Some((link_type(header.network.0), unit));
    }

    fn legacy_packet<'a>(&mut self, packet: &LegacyPcapBlock<'a>) -> Frame<'a> {
        let (link, unit) = self.legacy.unzip();
        let fraction = u64::from(packet.ts_usec) * unit.unwrap_or(1000);
        self.last = Timestamp(u64::from(packet.ts_sec) * 1_000_000_000 + fraction);
        Frame { time: self.last, link, bytes: packet.data, length: packet.origlen as usize }
    }
}

impl Interface {
    /// Ticks since the epoch to nanoseconds: a tick is a power of ten, or with the high bit set of two, of a second
    /// (pcapng, if_tsresol).
    fn time(&self, ticks: u64) -> Option<Timestamp> {
        let ticks = u128::from(ticks);
        let nanoseconds = if self.resolution & 0x80 == 0 {
            ticks.checked_mul(1_000_000_000)? / 10u128.checked_pow(u32::from(self.resolution))?
        } else {
            ticks.checked_mul(1_000_000_000)? >> (self.resolution & 0x7f)
        };
        let offset = i128::from(self.offset_seconds) * 1_000_000_000;
        u64::try_from(i128::try_from(nanoseconds).ok()?.checked_add(offset)?).ok().map(Timestamp)
    }
}

/// Above the 16 bits of the type, pcap's header may say how long a frame's check sequence is.
fn link_type(field: i32) -> u16 {
    field as u16
}

/// Keeps what the parser's reader forgets: why reading failed. And reads the beginning whole, which the parser expects of
/// one call.
struct Remembering<R: Read> {
    input: R,
    failure: Arc<Mutex<Option<io::Error>>>,
    first: bool,
}

/// Enough for the headers of both formats.
const FIRST: usize = 4096;

impl<R: Read> Read for Remembering<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let least = if std::mem::take(&mut self.first) { FIRST.min(into.len()) } else { 1 };
        let mut done = 0;
        while done < least {
            match self.input.read(&mut into[done..]) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let told = io::Error::from(error.kind());
                    *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    return Err(told);
                }
            }
        }
        Ok(done)
    }
}

fn taken(failure: &Mutex<Option<io::Error>>) -> Option<io::Error> {
    failure.lock().unwrap_or_else(PoisonError::into_inner).take()
}
