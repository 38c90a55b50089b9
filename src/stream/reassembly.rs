//! One flow's bytes, brought into order: what is next goes through untouched, what is early waits, what never comes is a
//! hole.

use std::collections::BTreeMap;
use std::ops::Range;

use super::sequence::{at_or_behind, first_position, widen};
use super::{HoleCause, Position};
use crate::time::Timestamp;

/// How far a sequence number may lie from the next expected one without a lost record to explain it. TCP's largest window
/// is 1 GiB, what hosts use is at most some MiB; a forged segment or a wrapped number lies elsewhere.
const WINDOW: u64 = 64 << 20;
/// The most payload that one lost record stands for: a packet of 64 KiB.
const LOST_RECORD_BYTES: u64 = 64 << 10;
/// Beyond this a forward step and a backward step of 32-bit numbers look alike.
const AMBIGUOUS: u64 = 1 << 31;
/// What a waiting piece costs besides its bytes.
const PIECE_COST: usize = 96;

/// What comes out, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    Data { position: Position, bytes: &'a [u8], time: Timestamp, packet_start: bool },
    Hole { position: Position, length: Option<u64>, time: Timestamp, cause: HoleCause },
}

/// What goes in: bytes at a position, or the certainty that they will not come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'a> {
    pub position: Position,
    pub content: Content<'a>,
    pub time: Timestamp,
    pub packet_start: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Content<'a> {
    Bytes(&'a [u8]),
    Hole(u64, HoleCause),
}

/// Where a packet lies in its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// At this position of its first byte.
    At(Position),
    /// Nowhere near: not to be believed on its own.
    Stray,
}

#[derive(Debug)]
enum Waiting {
    Bytes { bytes: Box<[u8]>, time: Timestamp, packet_start: bool },
    Hole { length: u64, cause: HoleCause, time: Timestamp },
}

impl Waiting {
    fn length(&self) -> u64 {
        match self {
            Waiting::Bytes { bytes, .. } => bytes.len() as u64,
            Waiting::Hole { length, .. } => *length,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Waiting::Bytes { bytes, .. } => bytes.len(),
            Waiting::Hole { .. } => 0,
        }
    }

    fn time(&self) -> Timestamp {
        match self {
            Waiting::Bytes { time, .. } | Waiting::Hole { time, .. } => *time,
        }
    }
}

/// The state of one flow.
#[derive(Debug, Default)]
pub(super) struct Reassembly {
    /// Position of the next byte to hand on, once the flow's beginning is known.
    next: Option<Position>,
    beginning: Position,
    /// What lies behind a gap. Never overlaps, never touches `next`.
    waiting: BTreeMap<Position, Waiting>,
    waiting_bytes: usize,
    gap_since: Timestamp,
    /// The receiver has everything before: a gap below will not be sent again.
    received: Position,
    /// The sequence number behind the last stray packet.
    stray: Option<u32>,
}

impl Reassembly {
    /// Sets the flow's beginning, if it has none yet.
    pub fn begin(&mut self, sequence: u32) {
        if self.next.is_none() {
            self.beginning = first_position(sequence);
            self.next = Some(self.beginning);
        }
    }

    /// Position of the first byte that can be seen.
    pub fn beginning(&self) -> Position {
        self.beginning
    }

    /// Position of the next byte to hand on.
    pub fn next(&self) -> Option<Position> {
        self.next
    }

    /// What the waiting pieces cost in memory.
    pub fn cost(&self) -> usize {
        self.waiting_bytes + self.waiting.len() * PIECE_COST
    }

    /// Bytes that wait.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Since when a gap holds the flow up.
    pub fn gap_since(&self) -> Option<Timestamp> {
        (!self.waiting.is_empty()).then_some(self.gap_since)
    }

    /// The position of a number that the other side, or the reader, mentioned; `None` where it is far from the flow.
    pub fn position_of(&self, sequence: u32) -> Option<Position> {
        let next = self.next?;
        let position = widen(next, sequence);
        (position.abs_diff(next) < AMBIGUOUS / 2).then_some(position)
    }

    /// Finds a packet's place. `lost` records of this flow were lost directly before it, which makes the gap a hole at once.
    pub fn place(
        &mut self,
        sequence: u32,
        length: u32,
        lost: u32,
        time: Timestamp,
        emit: &mut impl FnMut(Piece<'_>),
    ) -> Place {
        let Some(next) = self.next else {
            self.begin(sequence);
            return Place::At(first_position(sequence));
        };
        let reach = WINDOW + u64::from(lost) * LOST_RECORD_BYTES;
        if reach >= AMBIGUOUS {
            return Place::At(self.restart(sequence, HoleCause::RingFull, time, emit));
        }
        let position = widen(next, sequence);
        if position <= next + reach && position + WINDOW >= next {
            self.stray = None;
            return Place::At(position);
        }
        if self.stray == Some(sequence) {
            return Place::At(self.restart(sequence, HoleCause::Missing, time, emit));
        }
        self.stray = Some(sequence.wrapping_add(length));
        Place::Stray
    }

    /// Records were lost before `position`: everything from the last byte seen to there is a hole.
    pub fn lost_before(&mut self, position: Position, time: Timestamp, emit: &mut impl FnMut(Piece<'_>)) {
        let end = self.end();
        if end < position {
            let content = Content::Hole(position - end, HoleCause::RingFull);
            self.insert(Part { position: end, content, time, packet_start: false }, emit);
        }
    }

    /// Takes a part; answers which of its bytes nobody is given: those that were there already, or were given up.
    pub fn insert(&mut self, part: Part<'_>, emit: &mut impl FnMut(Piece<'_>)) -> Vec<Range<Position>> {
        let Some(next) = self.next else { return Vec::new() };
        if part.position == next && self.waiting.is_empty() {
            self.hand_on(part, emit);
            return Vec::new();
        }
        self.insert_out_of_order(part, next, emit)
    }

    /// What waits, from its first byte to its last.
    pub fn waiting(&self) -> Option<Range<Position>> {
        let (first, _) = self.waiting.first_key_value()?;
        Some(*first..self.end())
    }

    /// The receiver has everything before `position`. Gaps below it are final.
    pub fn received(&mut self, position: Position, time: Timestamp, emit: &mut impl FnMut(Piece<'_>)) {
        if position > self.received {
            self.received = position;
            self.settle(time, emit);
        }
    }

    /// Gives up the gaps that the receiver has no need of any more.
    pub fn settle(&mut self, time: Timestamp, emit: &mut impl FnMut(Piece<'_>)) {
        while self.waiting.first_key_value().is_some_and(|(&position, _)| position <= self.received) {
            self.give_up(time, emit);
        }
    }

    /// Gives up the first gap: a hole, then what waited behind it.
    pub fn give_up(&mut self, time: Timestamp, emit: &mut impl FnMut(Piece<'_>)) {
        let (Some(next), Some((&position, _))) = (self.next, self.waiting.first_key_value()) else { return };
        emit(Piece::Hole { position: next, length: Some(position - next), time, cause: HoleCause::Missing });
        self.next = Some(position);
        self.drain(emit);
    }

    /// Gives up all gaps: nothing more will come.
    pub fn flush(&mut self, time: Timestamp, emit: &mut impl FnMut(Piece<'_>)) {
        while !self.waiting.is_empty() {
            self.give_up(time, emit);
        }
    }

    /// The flow has ended: what its receiver had that was not seen is a hole at the end.
    pub fn end_here(&mut self, time: Timestamp, emit: &mut impl FnMut(Piece<'_>)) {
        self.flush(time, emit);
        self.give_up_received(time, emit);
    }

    /// What the receiver has, and nobody saw, will not be seen any more.
    pub fn give_up_received(&mut self, time: Timestamp, emit: &mut impl FnMut(Piece<'_>)) {
        self.settle(time, emit);
        // The number that a FIN takes is counted as read (tcp_recvmsg_locked, net/ipv4/tcp.c).
        const FIN: u64 = 1;
        if let Some(next) = self.next.filter(|next| self.received > next + FIN) {
            let length = Some(self.received - next);
            emit(Piece::Hole { position: next, length, time, cause: HoleCause::Missing });
            self.next = Some(self.received);
        }
    }

    /// Position behind the last byte seen, in order or not.
    fn end(&self) -> Position {
        let waiting = self.waiting.last_key_value().map(|(&position, waiting)| position + waiting.length());
        waiting.or(self.next).unwrap_or_default()
    }

    /// Begins anew behind a hole of unknown length.
    fn restart(
        &mut self,
        sequence: u32,
        cause: HoleCause,
        time: Timestamp,
        emit: &mut impl FnMut(Piece<'_>),
    ) -> Position {
        self.flush(time, emit);
        self.stray = None;
        let end = self.end();
        let position = at_or_behind(end, sequence);
        emit(Piece::Hole { position: end, length: None, time, cause });
        self.next = Some(position);
        position
    }

    fn hand_on(&mut self, part: Part<'_>, emit: &mut impl FnMut(Piece<'_>)) {
        let Part { position, content, time, packet_start } = part;
        let length = match content {
            Content::Bytes([]) | Content::Hole(0, _) => return,
            Content::Bytes(bytes) => {
                emit(Piece::Data { position, bytes, time, packet_start });
                bytes.len() as u64
            }
            Content::Hole(length, cause) => {
                emit(Piece::Hole { position, length: Some(length), time, cause });
                length
            }
        };
        self.next = Some(position + length);
    }

    fn insert_out_of_order(
        &mut self,
        part: Part<'_>,
        next: Position,
        emit: &mut impl FnMut(Piece<'_>),
    ) -> Vec<Range<Position>> {
        let length = match part.content {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Hole(length, _) => length,
        };
        let end = part.position + length;
        let mut position = part.position.max(next).min(end);
        let mut duplicates = Vec::new();
        if part.position < position {
            duplicates.push(part.position..position);
        }
        while position < end {
            let covered = self.covered_until(position);
            if covered > position {
                let covered = covered.min(end);
                duplicates.push(position..covered);
                position = covered;
                continue;
            }
            let until = self.waiting.range(position..).next().map_or(end, |(&start, _)| start.min(end));
            let slice = cut(part, position, until);
            if self.next == Some(position) {
                self.hand_on(slice, emit);
                self.drain(emit);
            } else {
                self.keep(slice);
            }
            position = until;
        }
        self.settle(part.time, emit);
        if matches!(part.content, Content::Hole(..)) { Vec::new() } else { duplicates }
    }

    /// Where the piece that covers `position` ends; `position` itself if none does.
    fn covered_until(&self, position: Position) -> Position {
        let before = self.waiting.range(..=position).next_back();
        let waiting = before.map_or(0, |(&start, waiting)| start + waiting.length());
        waiting.max(self.next.unwrap_or_default()).max(position)
    }

    fn keep(&mut self, part: Part<'_>) {
        if self.waiting.is_empty() {
            self.gap_since = part.time;
        }
        let waiting = match part.content {
            Content::Bytes(bytes) => {
                Waiting::Bytes { bytes: bytes.into(), time: part.time, packet_start: part.packet_start }
            }
            Content::Hole(length, cause) => Waiting::Hole { length, cause, time: part.time },
        };
        self.waiting_bytes += waiting.bytes();
        self.waiting.insert(part.position, waiting);
    }

    /// Hands on what waited and is next now; adjacent holes of one cause as one.
    fn drain(&mut self, emit: &mut impl FnMut(Piece<'_>)) {
        let mut hole: Option<(Position, u64, HoleCause, Timestamp)> = None;
        while let Some(entry) = self.waiting.first_entry() {
            if self.next != Some(*entry.key()) {
                self.gap_since = entry.get().time();
                break;
            }
            let (position, waiting) = entry.remove_entry();
            self.waiting_bytes -= waiting.bytes();
            self.next = Some(position + waiting.length());
            match (waiting, &mut hole) {
                (Waiting::Hole { length, cause, time }, Some(open)) if open.2 == cause => {
                    open.1 += length;
                    open.3 = time;
                }
                (Waiting::Hole { length, cause, time }, _) => {
                    emit_hole(hole.take(), emit);
                    hole = Some((position, length, cause, time));
                }
                (Waiting::Bytes { bytes, time, packet_start }, _) => {
                    emit_hole(hole.take(), emit);
                    emit(Piece::Data { position, bytes: &bytes, time, packet_start });
                }
            }
        }
        emit_hole(hole, emit);
    }
}

fn emit_hole(hole: Option<(Position, u64, HoleCause, Timestamp)>, emit: &mut impl FnMut(Piece<'_>)) {
    if let Some((position, length, cause, time)) = hole {
        emit(Piece::Hole { position, length: Some(length), time, cause });
    }
}

/// The part's piece from `from` to `until`, both within it.
fn cut(part: Part<'_>, from: Position, until: Position) -> Part<'_> {
    let skip = from - part.position;
    let content = match part.content {
        Content::Bytes(bytes) => {
            let range = skip as usize..(until - part.position) as usize;
            Content::Bytes(bytes.get(range).unwrap_or_default())
        }
        Content::Hole(_, cause) => Content::Hole(until - from, cause),
    };
    Part { position: from, content, time: part.time, packet_start: part.packet_start && skip == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u32 = u32::MAX - 3;

    fn flow() -> Reassembly {
        let mut flow = Reassembly::default();
        flow.begin(START);
        flow
    }

    fn data(offset: u64, bytes: &[u8]) -> Part<'_> {
        let position = first_position(START) + offset;
        Part { position, content: Content::Bytes(bytes), time: Timestamp(offset), packet_start: true }
    }

    /// Renders what came out: bytes as they are, holes as `<cause length>`.
    fn feed(flow: &mut Reassembly, step: impl FnOnce(&mut Reassembly, &mut dyn FnMut(Piece<'_>))) -> String {
        let mut text = String::new();
        let mut expected = flow.next().unwrap();
        step(flow, &mut |piece| match piece {
            Piece::Data { position, bytes, .. } => {
                assert_eq!(position, expected);
                expected += bytes.len() as u64;
                text.push_str(std::str::from_utf8(bytes).unwrap());
            }
            Piece::Hole { position, length, cause, .. } => {
                assert_eq!(position, expected);
                match length {
                    Some(length) => {
                        expected += length;
                        text.push_str(&format!("<{} {length}>", cause.name()));
                    }
                    None => text.push_str(&format!("<{} ?>", cause.name())),
                }
            }
        });
        text
    }

    fn insert(flow: &mut Reassembly, part: Part<'_>) -> String {
        feed(flow, |flow, mut emit| {
            flow.insert(part, &mut emit);
        })
    }

    #[test]
    fn order_is_restored_and_every_byte_counts_once() {
        let mut flow = flow();
        assert_eq!(insert(&mut flow, data(0, b"ab")), "ab");
        assert_eq!(insert(&mut flow, data(4, b"ef")), "");
        assert_eq!(insert(&mut flow, data(8, b"ij")), "");
        assert_eq!(insert(&mut flow, data(1, b"bcdefg")), "cdefg");
        assert_eq!(insert(&mut flow, data(5, b"fghijk")), "hijk");
        assert_eq!(flow.cost(), 0);
        assert_eq!(insert(&mut flow, data(0, b"abcdefghijk")), "");
    }

    #[test]
    fn a_lost_record_makes_a_hole_at_once_and_skipped_holes_merge() {
        let mut flow = flow();
        let at = first_position(START);
        let lost = |flow: &mut Reassembly, offset| {
            feed(flow, |flow, mut emit| flow.lost_before(at + offset, Timestamp(0), &mut emit))
        };
        assert_eq!(lost(&mut flow, 3), "<ring_full 3>");
        assert_eq!(insert(&mut flow, data(5, b"f")), "");
        let skip = |offset, length| {
            let content = Content::Hole(length, HoleCause::Skipped);
            Part { position: at + offset, content, time: Timestamp(1), packet_start: false }
        };
        assert_eq!(insert(&mut flow, skip(6, 2)), "");
        assert_eq!(insert(&mut flow, skip(8, 2)), "");
        assert_eq!(lost(&mut flow, 12), "");
        assert_eq!(insert(&mut flow, data(3, b"de")), "def<skipped 4><ring_full 2>");
    }

    #[test]
    fn a_gap_is_final_when_the_receiver_has_passed_it() {
        let mut flow = flow();
        let at = first_position(START);
        assert_eq!(insert(&mut flow, data(2, b"cd")), "");
        assert_eq!(insert(&mut flow, data(6, b"gh")), "");
        let received =
            |flow: &mut Reassembly, offset| feed(flow, |f, mut e| f.received(at + offset, Timestamp(9), &mut e));
        assert_eq!(received(&mut flow, 1), "");
        assert_eq!(received(&mut flow, 4), "<missing 2>cd");
        assert_eq!(flow.gap_since(), Some(Timestamp(6)));
        assert_eq!(received(&mut flow, 20), "<missing 2>gh");
        assert_eq!(insert(&mut flow, data(12, b"m")), "<missing 4>m");
    }

    #[test]
    fn what_the_receiver_had_at_the_end_was_sent() {
        let mut flow = flow();
        let at = first_position(START);
        let end = |flow: &mut Reassembly, received| {
            feed(flow, |flow, mut emit| {
                flow.received(at + received, Timestamp(9), &mut emit);
                flow.end_here(Timestamp(9), &mut emit);
            })
        };
        assert_eq!(insert(&mut flow, data(0, b"ab")), "ab");
        assert_eq!(end(&mut flow, 3), "");
        assert_eq!(insert(&mut flow, data(4, b"ef")), "");
        assert_eq!(end(&mut flow, 9), "<missing 2>ef<missing 3>");
    }

    #[test]
    fn one_stray_packet_is_not_believed_and_two_are() {
        let mut flow = flow();
        let far = START.wrapping_add(1 << 30);
        let place = |flow: &mut Reassembly, sequence, lost| {
            let mut holes = 0;
            let place = flow.place(sequence, 10, lost, Timestamp(0), &mut |piece| {
                assert!(matches!(piece, Piece::Hole { length: None, .. }));
                holes += 1;
            });
            (place, holes)
        };
        assert_eq!(place(&mut flow, far, 0), (Place::Stray, 0));
        assert_eq!(place(&mut flow, START, 0), (Place::At(first_position(START)), 0));
        assert_eq!(place(&mut flow, far, 0), (Place::Stray, 0));
        let there = first_position(START) + (1 << 30) + 10;
        assert_eq!(place(&mut flow, far.wrapping_add(10), 0), (Place::At(there), 1));
        // So many records lost that the numbers may have turned around: backwards is forwards.
        let (place, holes) = place(&mut flow, START, 100_000);
        assert_eq!((place, holes), (Place::At(first_position(START) + (1 << 32)), 1));
    }
}
