//! Finding frame boundaries again, behind a hole or in a connection that was joined late.
//!
//! One byte that looks like a frame's type proves nothing: bodies hold anything. A boundary is believed when a chain of frames
//! fits exactly: types, channels, sizes, end octets, arguments and headers that fill their frames, content in the order that
//! the protocol demands. Three frames of that kind are enough; one is, if it begins where a packet begins and the chain ends
//! where the packet's data ends, because applications write whole frames. A body frame never counts.
//!
//! What is passed over on the way was not recognised, so that it may be the rest of a login whose frame's head is missing. It
//! is told as soon as no boundary can be in it any more, for those who must not keep it ([`Hunter::search`]).

use std::ops::Range;
use std::time::Duration;

use super::frame::{ABSURD, BODY, END, HEAD, HEADER, HEARTBEAT, METHOD, PREFACE};
use super::header;
use super::login;
use super::method::Method;
use super::specification::{Sender, Specification};
use crate::protocol::operation::Peer;
use crate::stream::Position;
use crate::time::Timestamp;

/// A candidate that is undecided for so long, in the records' own time, is given up: whoever records must not wait for it.
/// Applications do not pause amid a frame, and a packet that begins with a frame needs no other to prove it.
pub(in crate::protocol) const LONGEST_DOUBT: Duration = Duration::from_secs(1);
/// Packets' beginnings kept.
const MOST_PACKETS: usize = 4096;
/// Undecided candidates kept; the oldest makes room.
const MOST_CANDIDATES: usize = 16;
/// Frames that make a chain.
const CHAIN: usize = 3;
/// Frames that make a chain although they speak of channels or deliveries that are not known.
const LONG_CHAIN: usize = 8;

/// What is known of the flow that is searched.
#[derive(Clone, Copy)]
pub(super) struct Terrain<'k> {
    /// Who sends on this flow, where known.
    pub sender: Option<Peer>,
    /// The largest channel number.
    pub channel_max: u16,
    /// The largest frame.
    pub frame_max: Option<u32>,
    /// Try only where packets begin.
    pub narrow: bool,
    /// The connection has shown that it speaks the protocol: it will not begin again.
    pub proved: bool,
    /// Bytes that may be kept for a decision.
    pub kept: usize,
    /// When the bytes at hand passed.
    pub now: Timestamp,
    /// Whether a method fits what is known of its channel.
    pub plausible: &'k dyn Fn(u16, &Method<'_>) -> bool,
}

/// The search for a boundary in one flow.
#[derive(Debug, Default)]
pub(super) struct Hunter {
    buffer: Vec<u8>,
    /// Position of the buffer's first byte.
    start: Position,
    /// Candidates before this index are decided, but for the open ones.
    scanned: usize,
    /// Candidates that more bytes may prove, in their order.
    open: Vec<Candidate>,
    /// Indices where packets begin.
    packets: Vec<usize>,
    /// What lies before this was told to be passed over.
    told: Position,
}

/// A boundary, perhaps.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    index: usize,
    /// When its first byte passed.
    since: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    No,
    Undecided,
    Yes,
}

impl Hunter {
    /// Memory held.
    pub fn cost(&self) -> usize {
        self.buffer.capacity()
            + self.open.capacity() * size_of::<Candidate>()
            + self.packets.capacity() * size_of::<usize>()
    }

    /// Forgets everything: a hole came. Gives the bytes that were still undecided, and are passed over now.
    pub fn clear(&mut self) -> Range<Position> {
        let undecided = self.told..self.end();
        *self = Hunter::default();
        undecided
    }

    /// Since when bytes wait for a decision; `None` where all are decided.
    pub fn undecided_since(&self) -> Option<Timestamp> {
        self.open.iter().map(|candidate| candidate.since).min()
    }

    /// Gives up the candidates that are older than `before`, and gives the bytes that are passed over with them.
    pub fn give_up(&mut self, before: Timestamp) -> Range<Position> {
        self.open.retain(|candidate| candidate.since >= before);
        self.pass_over()
    }

    /// Takes the next bytes, at `position`. If they, or what was kept, hold a boundary: its position and all bytes from it on.
    /// Of the bytes in which no boundary is, or can be any more, each is told to `passed_over` once, as early as that is known.
    pub fn search(
        &mut self,
        position: Position,
        bytes: &[u8],
        packet_start: bool,
        terrain: &Terrain<'_>,
        passed_over: &mut dyn FnMut(Range<Position>),
    ) -> Option<(Position, Vec<u8>)> {
        if self.buffer.is_empty() || self.end() != position {
            passed_over(self.clear());
            (self.start, self.told) = (position, position);
        }
        self.open.retain(|candidate| candidate.since.plus(LONGEST_DOUBT) >= terrain.now);
        if packet_start {
            self.packets.push(self.buffer.len());
        }
        self.buffer.extend_from_slice(bytes);
        let found = self.open_candidate(terrain).or_else(|| self.new_candidate(terrain));
        if let Some(index) = found {
            let rest = self.buffer.split_off(index);
            // What is left in the buffer is what was passed over.
            let position = self.end();
            passed_over(self.clear());
            return Some((position, rest));
        }
        self.shrink(terrain.kept);
        passed_over(self.pass_over());
        None
    }

    /// The position behind all that was searched.
    fn end(&self) -> Position {
        self.start + self.buffer.len() as u64
    }

    /// The bytes before the first candidate that were not told yet.
    fn pass_over(&mut self) -> Range<Position> {
        let until = self.open.first().map_or(self.end(), |candidate| self.start + candidate.index as u64);
        let told = std::mem::replace(&mut self.told, until);
        told..until
    }

    fn open_candidate(&mut self, terrain: &Terrain<'_>) -> Option<usize> {
        let mut open = std::mem::take(&mut self.open);
        let mut found = None;
        open.retain(|candidate| match found.map_or_else(|| self.judge(candidate.index, terrain), |_| Verdict::No) {
            Verdict::Yes => {
                found = Some(candidate.index);
                false
            }
            verdict => verdict == Verdict::Undecided,
        });
        self.open = open;
        found
    }

    fn new_candidate(&mut self, terrain: &Terrain<'_>) -> Option<usize> {
        let scanned = std::mem::replace(&mut self.scanned, self.buffer.len());
        if terrain.narrow {
            let packets: Vec<usize> = self.packets.iter().copied().filter(|&index| index >= scanned).collect();
            return packets.into_iter().find(|&index| self.try_candidate(index, terrain));
        }
        let mut index = scanned;
        while let Some(found) = self.buffer.get(index..).and_then(|rest| memchr::memchr3(METHOD, HEARTBEAT, b'A', rest))
        {
            index += found;
            if self.try_candidate(index, terrain) {
                return Some(index);
            }
            index += 1;
        }
        None
    }

    fn try_candidate(&mut self, index: usize, terrain: &Terrain<'_>) -> bool {
        let verdict = self.judge(index, terrain);
        if verdict == Verdict::Undecided {
            if self.open.len() == MOST_CANDIDATES {
                self.open.remove(0);
            }
            self.open.push(Candidate { index, since: terrain.now });
        }
        verdict == Verdict::Yes
    }

    /// Drops what cannot be part of a chain any more, and the oldest candidates if that is not enough.
    fn shrink(&mut self, limit: usize) {
        loop {
            let first = self.open.first().map_or(self.buffer.len(), |candidate| candidate.index);
            if self.buffer.len() - first > limit {
                self.open.remove(0);
                continue;
            }
            if first > self.buffer.len() / 2 {
                self.buffer.drain(..first);
                self.start += first as u64;
                self.scanned -= first.min(self.scanned);
                self.open.iter_mut().for_each(|candidate| candidate.index -= first);
                self.packets.retain(|&index| index >= first);
                self.packets.iter_mut().for_each(|index| *index -= first);
            }
            let excess = self.packets.len().saturating_sub(MOST_PACKETS);
            self.packets.drain(..excess);
            if self.buffer.is_empty() {
                self.buffer = Vec::new();
            }
            return;
        }
    }

    /// Whether a chain of frames begins at an index.
    fn judge(&self, index: usize, terrain: &Terrain<'_>) -> Verdict {
        let bytes = self.buffer.get(index..).unwrap_or_default();
        let at_packet = self.packets.binary_search(&index).is_ok();
        if let Some(verdict) = preface(bytes, at_packet || !terrain.proved) {
            return verdict;
        }
        Chain::default().follow(bytes, at_packet, terrain)
    }
}

/// A protocol header is a boundary too: a proxy may have put something before it.
fn preface(bytes: &[u8], possible: bool) -> Option<Verdict> {
    if bytes.first() != Some(&b'A') {
        return None;
    }
    Some(match bytes.get(..PREFACE.len()) {
        _ if !possible => Verdict::No,
        Some(start) if start == PREFACE => Verdict::Yes,
        None if PREFACE.starts_with(bytes) => Verdict::Undecided,
        _ => Verdict::No,
    })
}

/// Frames that follow each other.
#[derive(Default)]
struct Chain {
    frames: usize,
    plausible: usize,
    /// Contents under way: channel, and what must come next on it.
    contents: Vec<(u16, Due)>,
    sender: Option<Peer>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Due {
    Header,
    Body(u64),
}

impl Chain {
    fn follow(mut self, bytes: &[u8], at_packet: bool, terrain: &Terrain<'_>) -> Verdict {
        self.sender = terrain.sender;
        let mut rest = bytes;
        loop {
            if self.plausible >= CHAIN || self.frames >= LONG_CHAIN {
                return Verdict::Yes;
            }
            if rest.is_empty() {
                let ends = at_packet && (self.plausible > 0 || self.frames >= CHAIN);
                return if ends { Verdict::Yes } else { Verdict::Undecided };
            }
            let Some((kind, channel, size)) = head(rest) else { return self.partial_head(rest, terrain) };
            if size > terrain.frame_max.unwrap_or(ABSURD) || !self.fits(kind, channel, size, terrain) {
                return Verdict::No;
            }
            let Some(payload) = rest.get(HEAD..HEAD + size as usize) else {
                return self.partial(kind, channel, rest.get(HEAD..).unwrap_or_default());
            };
            match rest.get(HEAD + size as usize) {
                None => return self.partial(kind, channel, payload),
                Some(&END) => {}
                Some(_) => return Verdict::No,
            }
            if !self.take(kind, channel, payload, terrain) {
                return Verdict::No;
            }
            rest = rest.get(HEAD + size as usize + 1..).unwrap_or_default();
        }
    }

    /// Whether a frame with this head may come here at all.
    fn fits(&self, kind: u8, channel: u16, size: u32, terrain: &Terrain<'_>) -> bool {
        let due = self.contents.iter().find(|(other, _)| *other == channel).map(|(_, due)| *due);
        channel <= terrain.channel_max
            && match kind {
                METHOD => size >= 4 && due.is_none(),
                // A chain begins with a method, so that a content's beginning is always in it.
                HEADER => channel != 0 && size >= 14 && due == Some(Due::Header),
                BODY => channel != 0 && matches!(due, Some(Due::Body(left)) if u64::from(size) <= left),
                HEARTBEAT => channel == 0 && size == 0,
                _ => false,
            }
    }

    /// Takes a whole frame. False if it is not sound.
    fn take(&mut self, kind: u8, channel: u16, payload: &[u8], terrain: &Terrain<'_>) -> bool {
        match kind {
            METHOD => return self.take_method(channel, payload, terrain),
            HEADER => {
                let Ok(size) = header::validate(payload) else { return false };
                self.settle(channel, (size > 0).then_some(Due::Body(size)));
                self.count(true);
            }
            BODY => {
                let due = self.contents.iter().find(|(other, _)| *other == channel).map(|(_, due)| *due);
                let Some(Due::Body(left)) = due else { return false };
                let left = left.saturating_sub(payload.len() as u64);
                self.settle(channel, (left > 0).then_some(Due::Body(left)));
                self.count(true);
            }
            _ => self.count(true),
        }
        true
    }

    fn take_method(&mut self, channel: u16, payload: &[u8], terrain: &Terrain<'_>) -> bool {
        let Some(specification) = numbers(payload).and_then(|(class, method)| Specification::find(class, method))
        else {
            return false;
        };
        let sender = match specification.sender {
            Sender::Client => Some(Peer::Client),
            Sender::Broker => Some(Peer::Broker),
            Sender::Either => None,
        };
        if (specification.class == 10) != (channel == 0)
            || sender.is_some() && self.sender.is_some_and(|is| Some(is) != sender)
        {
            return false;
        }
        self.sender = self.sender.or(sender);
        if login::is_secret(payload) {
            // A login proves itself: its secret is not to wait here. Nor to be read: in a recording it is wiped.
            self.plausible = CHAIN;
            return true;
        }
        let arguments = payload.get(4..).unwrap_or_default();
        let Ok(method) = Method::read(specification, payload) else { return false };
        if specification.validate(arguments).is_err() {
            return false;
        }
        if specification.content {
            self.settle(channel, Some(Due::Header));
        }
        self.count((terrain.plausible)(channel, &method));
        true
    }

    fn count(&mut self, plausible: bool) {
        self.frames += 1;
        self.plausible += usize::from(plausible);
    }

    fn settle(&mut self, channel: u16, due: Option<Due>) {
        self.contents.retain(|(other, _)| *other != channel);
        self.contents.extend(due.map(|due| (channel, due)));
    }

    /// A frame whose head is there, and fits, but not its end. A body's head that fits its header is a fact of its own, and a
    /// login proves itself.
    fn partial(&self, kind: u8, channel: u16, payload: &[u8]) -> Verdict {
        let login = kind == METHOD && channel == 0 && login::is_secret(payload);
        if login || kind == BODY && self.plausible + 1 >= CHAIN {
            return Verdict::Yes;
        }
        match numbers(payload) {
            Some((class, method)) if kind == METHOD && Specification::find(class, method).is_none() => Verdict::No,
            _ => Verdict::Undecided,
        }
    }

    fn partial_head(&self, rest: &[u8], terrain: &Terrain<'_>) -> Verdict {
        let kind_fits = matches!(rest.first(), Some(&(METHOD | HEADER | BODY | HEARTBEAT)));
        let channel = rest.get(1..3).and_then(|channel| channel.try_into().ok()).map(u16::from_be_bytes);
        if kind_fits && channel.is_none_or(|channel| channel <= terrain.channel_max) {
            Verdict::Undecided
        } else {
            Verdict::No
        }
    }
}

fn head(bytes: &[u8]) -> Option<(u8, u16, u32)> {
    let &[kind, c1, c2, s1, s2, s3, s4, ..] = bytes else { return None };
    Some((kind, u16::from_be_bytes([c1, c2]), u32::from_be_bytes([s1, s2, s3, s4])))
}

fn numbers(payload: &[u8]) -> Option<(u16, u16)> {
    let &[c1, c2, m1, m2, ..] = payload else { return None };
    Some((u16::from_be_bytes([c1, c2]), u16::from_be_bytes([m1, m2])))
}
