//! Frames out of a flow's bytes, wherever the packets cut them.
//!
//! Methods and content headers are given whole; they are copied only when a packet boundary cuts them. Bodies are passed on
//! as they come. Lengths decide: the end octet is only checked. What a login keeps secret is never copied at all.

use super::login;
use crate::protocol::Trouble;
use crate::stream::Position;

/// The octet behind every frame.
pub(super) const END: u8 = 0xce;
/// Octets before a frame's payload: type, channel, size.
pub(super) const HEAD: usize = 7;
/// Frame types (section 4.2.3 of the specification).
pub(super) const METHOD: u8 = 1;
pub(super) const HEADER: u8 = 2;
pub(super) const BODY: u8 = 3;
pub(super) const HEARTBEAT: u8 = 8;
/// What a client says first (section 4.2.2 of the specification).
pub(super) const PREFACE: &[u8; 8] = b"AMQP\0\0\x09\x01";
/// A frame larger than this is taken for nonsense, whatever was negotiated.
pub(super) const ABSURD: u32 = 16 << 20;
/// Methods and headers larger than this are skipped by their length. Brokers refuse headers beyond the frame size anyway.
const LARGEST_COPY: u32 = 256 << 10;
/// A buffer larger than this is given back after use.
const KEPT_CAPACITY: usize = 4 << 10;

/// What a decoder finds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item<'a> {
    /// The flow's first bytes, where they are no frame: eight, or as many as it takes to see that.
    Preface(&'a [u8]),
    /// A method's payload. A login's ends where its secrets begin.
    Method { channel: u16, payload: &'a [u8] },
    /// A content header's payload.
    Header { channel: u16, payload: &'a [u8] },
    /// Bytes of a body frame; with the last ones, its end.
    Body { channel: u16, bytes: &'a [u8], ends: bool },
    /// So many bytes of a body frame are missing.
    BodyHole { channel: u16, length: u64 },
    /// So many bytes came, and nobody looked at them: they are a body's only if the frame's head, which is in a hole, was
    /// predicted rightly.
    BodyUnread { channel: u16, length: u64 },
    /// A heartbeat.
    Heartbeat,
    /// These bytes are a secret. They may still be to come.
    Secret { from: Position, until: Position },
    /// A frame on this channel was there but cannot be read: a hole cut it, or (then `trouble`) it is too large. So many
    /// bytes of its payload are still to come, or to be missed.
    FrameLost { channel: u16, size: u32, left: u32, trouble: Option<Trouble> },
    /// The place is lost: from here on, boundaries have to be searched.
    Lost(Option<Trouble>),
}

/// A content that lies in one piece: its method, its header, and its body in one frame, or none if it is empty.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Whole<'a> {
    pub channel: u16,
    /// Payloads.
    pub method: &'a [u8],
    pub header: &'a [u8],
    pub body: &'a [u8],
    /// Of all its frames.
    pub length: usize,
}

/// Finds the frames of one flow.
#[derive(Debug)]
pub(super) struct Decoder {
    position: Position,
    state: State,
    /// A frame's head, or the preface, as far as it has come.
    head: [u8; 8],
    head_length: usize,
    /// The payload of a method or header that a packet boundary cuts.
    buffer: Vec<u8>,
    /// The negotiated size of whole frames; `None`: unknown.
    frame_max: Option<u32>,
    /// How many bytes the buffer may take.
    room: usize,
    /// The channel of the last body frame: the likeliest to go on in a hole.
    last_body: Option<u16>,
    /// The boundary that was reached last follows from a prediction.
    doubted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing has come yet: a protocol header, or a frame.
    Start,
    /// A frame's head is next.
    Boundary,
    /// Inside a method or header that is being copied.
    Payload { kind: u8, channel: u16, size: u32, seen: u32, told: bool },
    /// Inside a body frame.
    Body { channel: u16, left: u32, predicted: bool },
    /// A body frame's end octet is next.
    BodyEnd { channel: u16, predicted: bool },
    /// A body frame's head is in a hole, as far as `seen`.
    Expected { channel: u16, size: u32, seen: usize },
    /// Inside a frame that is not read; `left` includes the end octet.
    Skip { left: u64 },
    /// The place is lost.
    Lost,
}

impl Decoder {
    /// A decoder at a flow's first byte, or somewhere in it (`late`).
    pub fn new(late: bool) -> Decoder {
        Decoder {
            position: 0,
            state: if late { State::Lost } else { State::Start },
            head: [0; 8],
            head_length: 0,
            buffer: Vec::new(),
            frame_max: None,
            room: 0,
            last_body: None,
            doubted: false,
        }
    }

    /// Position of the next byte.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Where the stream is: said before the first byte, and behind a hole of unknown length.
    pub fn set_position(&mut self, position: Position) {
        self.position = position;
    }

    /// The place is lost; bytes go to the hunter.
    pub fn is_lost(&self) -> bool {
        self.state == State::Lost
    }

    /// Loses the place.
    pub fn lose(&mut self) {
        self.state = State::Lost;
        self.head_length = 0;
        self.last_body = None;
        self.doubted = false;
        self.buffer = Vec::new();
    }

    /// A frame's head is at `position`, or (then `preface`) the protocol header.
    pub fn resume(&mut self, position: Position, preface: bool) {
        self.position = position;
        self.state = if preface { State::Start } else { State::Boundary };
        self.head_length = 0;
    }

    /// Sets how many bytes may be buffered now.
    pub fn set_room(&mut self, room: usize) {
        self.room = room;
    }

    /// Sets the negotiated frame size; 0 means no limit.
    pub fn set_frame_max(&mut self, frame_max: u32) {
        self.frame_max = (frame_max != 0).then_some(frame_max);
    }

    /// Memory held.
    pub fn cost(&self) -> usize {
        self.buffer.capacity()
    }

    /// The next item. `None`: everything was taken, or the place is lost and the rest of `input` is the hunter's.
    pub fn next<'s, 'i: 's>(&'s mut self, input: &mut &'i [u8]) -> Option<Item<'s>> {
        loop {
            match self.state {
                State::Lost => return None,
                _ if input.is_empty() => return None,
                State::Start => match self.start(input)? {
                    true => {
                        self.state = if self.head == *PREFACE { State::Boundary } else { State::Lost };
                        self.head_length = 0;
                        return Some(Item::Preface(&self.head));
                    }
                    false => self.state = State::Boundary,
                },
                State::Boundary => {
                    if self.doubted && self.is_contradicted(input) {
                        return Some(self.disproved(true));
                    }
                    let (kind, channel, size) = self.take_head(input)?;
                    self.doubted = false;
                    if let Some(item) = self.enter(kind, channel, size, input) {
                        return Some(item);
                    }
                }
                State::Payload { kind, channel, size, .. } => {
                    let item = self.copy_payload(kind, channel, size, input)?;
                    return Some(match item {
                        Copied::Secret(from, until) => Item::Secret { from, until },
                        Copied::Whole => whole(kind, channel, &self.buffer),
                        Copied::Bad => self.malformed(),
                    });
                }
                State::Body { channel, left, predicted } => return Some(self.body(channel, left, predicted, input)),
                State::BodyEnd { channel, predicted } => {
                    if input.first() == Some(&END) {
                        self.advance(input, 1);
                        self.state = State::Boundary;
                        self.doubted = predicted;
                        return Some(Item::Body { channel, bytes: &[], ends: true });
                    }
                    return Some(self.disproved(predicted));
                }
                // What follows may be the rest of that head, or of a login. A recording would have to keep it in the one case, for
                // a replay to see the same, and to wipe it in the other. Holes rarely end here: it is searched in both.
                State::Expected { .. } => return Some(self.disproved(true)),
                State::Skip { left } => {
                    if let Some(item) = self.skip(left, input) {
                        return Some(item);
                    }
                }
            }
        }
    }

    /// The published or delivered content that begins here, if all of it is at hand. It is not taken yet; frame by frame
    /// ([`Decoder::next`]) it would be the same.
    pub fn peek_content<'i>(&self, input: &'i [u8]) -> Option<Whole<'i>> {
        if self.state != State::Boundary || self.doubted || self.head_length > 0 {
            return None;
        }
        let largest = (LARGEST_COPY as usize).min(self.room).min(self.frame_max.unwrap_or(LARGEST_COPY) as usize);
        let mut rest = input;
        let (channel, method) = peek_frame(METHOD, largest, &mut rest)?;
        if !matches!(method, [0, 60, 0, 40 | 60, ..]) || channel == 0 {
            return None;
        }
        let (same, header) = peek_frame(HEADER, largest, &mut rest)?;
        // Class, weight, size of the body.
        let size = u64::from_be_bytes(*header.get(4..)?.first_chunk()?);
        let (body_channel, body) = if size == 0 { (channel, &[][..]) } else { peek_frame(BODY, largest, &mut rest)? };
        let fits = same == channel && body_channel == channel && body.len() as u64 == size;
        fits.then(|| Whole { channel, method, header, body, length: input.len() - rest.len() })
    }

    /// Takes a content that was peeked at.
    pub fn take_content(&mut self, content: &Whole<'_>, input: &mut &[u8]) {
        self.advance(input, content.length);
        // Nothing more of it is to come.
        self.last_body = None;
    }

    /// The next item of a hole: `left` bytes of it are still to be accounted for. `predict` gives the size of the body frame
    /// that must come next on a channel whose content is not complete.
    pub fn next_in_hole(&mut self, left: &mut u64, predict: impl Fn(u16) -> Option<u32>) -> Option<Item<'_>> {
        while *left > 0 {
            match self.state {
                State::Lost => {
                    self.pass(left, u64::MAX);
                    return None;
                }
                State::Start => return Some(self.lost_in_hole(left)),
                State::Boundary => {
                    let predicted = self.last_body.and_then(|channel| Some((channel, predict(channel)?)));
                    let Some((channel, size)) = predicted.filter(|_| self.head_length == 0) else {
                        return Some(self.lost_in_hole(left));
                    };
                    self.state = State::Expected { channel, size, seen: 0 };
                }
                State::Expected { channel, size, seen } => {
                    let passed = self.pass(left, (HEAD - seen) as u64) as usize;
                    self.state = if seen + passed == HEAD {
                        State::Body { channel, left: size, predicted: true }
                    } else {
                        State::Expected { channel, size, seen: seen + passed }
                    };
                }
                State::Payload { kind, channel, size, seen, told } => {
                    // Behind the public part nothing is read: a hole there costs nothing.
                    let seen = seen + if told { self.pass(left, u64::from(size - seen)) as u32 } else { 0 };
                    if told && *left == 0 {
                        self.state = State::Payload { kind, channel, size, seen, told };
                        return None;
                    }
                    if told {
                        self.pass(left, 1);
                        self.state = State::Boundary;
                        return Some(whole(kind, channel, &self.buffer));
                    }
                    self.state = State::Skip { left: u64::from(size - seen) + 1 };
                    self.buffer = Vec::new();
                    return Some(Item::FrameLost { channel, size, left: size - seen, trouble: None });
                }
                State::Body { channel, left: in_frame, predicted } => {
                    let length = self.pass(left, u64::from(in_frame));
                    self.state = match in_frame - length as u32 {
                        0 => State::BodyEnd { channel, predicted },
                        in_frame => State::Body { channel, left: in_frame, predicted },
                    };
                    if length > 0 {
                        return Some(Item::BodyHole { channel, length });
                    }
                }
                State::BodyEnd { channel, predicted } => {
                    self.pass(left, 1);
                    self.state = State::Boundary;
                    self.doubted = predicted;
                    return Some(Item::Body { channel, bytes: &[], ends: true });
                }
                State::Skip { left: in_frame } => {
                    let passed = self.pass(left, in_frame);
                    self.state = match in_frame - passed {
                        0 => State::Boundary,
                        left => State::Skip { left },
                    };
                }
            }
        }
        None
    }

    /// Takes `length` bytes off the input.
    fn advance<'i>(&mut self, input: &mut &'i [u8], length: usize) -> &'i [u8] {
        let (taken, rest) = input.split_at(length.min(input.len()));
        *input = rest;
        self.position += taken.len() as u64;
        taken
    }

    /// Takes up to `most` bytes off a hole.
    fn pass(&mut self, left: &mut u64, most: u64) -> u64 {
        let passed = most.min(*left);
        *left -= passed;
        self.position += passed;
        passed
    }

    fn lost_in_hole(&mut self, left: &mut u64) -> Item<'static> {
        self.pass(left, u64::MAX);
        self.lose();
        Item::Lost(None)
    }

    fn malformed(&mut self) -> Item<'static> {
        self.lose();
        Item::Lost(Some(Trouble::Malformed))
    }

    /// Whether what follows on a prediction can be no frame's head. It is not taken: the search begins with it.
    fn is_contradicted(&self, input: &[u8]) -> bool {
        let most = self.frame_max.unwrap_or(ABSURD).min(ABSURD);
        match input.first_chunk().copied().map(parts) {
            _ if self.head_length > 0 => false,
            Some((kind, _, size)) => !is_kind(kind) || size > most,
            None => input.first().is_some_and(|kind| !is_kind(*kind)),
        }
    }

    /// An end octet that is not there: a broken frame, or a prediction that was wrong.
    fn disproved(&mut self, predicted: bool) -> Item<'static> {
        self.lose();
        Item::Lost((!predicted).then_some(Trouble::Malformed))
    }

    /// Collects the flow's first bytes. True if they are no frame; `None` if more are needed.
    fn start(&mut self, input: &mut &[u8]) -> Option<bool> {
        if self.head_length == 0 && input.first() == Some(&METHOD) {
            return Some(false);
        }
        let wanted = self.head.len() - self.head_length;
        let taken = self.advance(input, wanted);
        let end = self.head_length + taken.len();
        self.head.get_mut(self.head_length..end)?.copy_from_slice(taken);
        self.head_length = end;
        (end == self.head.len()).then_some(true)
    }

    fn take_head(&mut self, input: &mut &[u8]) -> Option<(u8, u16, u32)> {
        if !self.buffer.is_empty() {
            self.buffer.clear();
            self.buffer.shrink_to(KEPT_CAPACITY);
        }
        if self.head_length == 0
            && let Some((head, rest)) = input.split_first_chunk()
        {
            *input = rest;
            self.position += HEAD as u64;
            return Some(parts(*head));
        }
        let taken = self.advance(input, HEAD - self.head_length);
        let end = self.head_length + taken.len();
        self.head.get_mut(self.head_length..end)?.copy_from_slice(taken);
        self.head_length = end;
        if end < HEAD {
            return None;
        }
        self.head_length = 0;
        self.head.first_chunk().copied().map(parts)
    }

    /// Enters a frame. `None`: nothing to say yet.
    fn enter<'i>(&mut self, kind: u8, channel: u16, size: u32, input: &mut &'i [u8]) -> Option<Item<'i>> {
        if !is_kind(kind) {
            return Some(self.malformed());
        }
        // The negotiated size counts head and end octet; RabbitMQ tolerates eight octets more, which makes it the payload's.
        let too_large = self.frame_max.is_some_and(|frame_max| size > frame_max);
        if size > ABSURD {
            self.lose();
            return Some(Item::Lost(Some(Trouble::FrameTooLarge)));
        }
        if too_large {
            self.state = State::Skip { left: u64::from(size) + 1 };
            return Some(Item::FrameLost { channel, size, left: size, trouble: Some(Trouble::FrameTooLarge) });
        }
        if kind == BODY {
            self.last_body = Some(channel);
            return Some(self.body(channel, size, false, input));
        }
        self.last_body = None;
        if size > LARGEST_COPY || size as usize > self.room {
            self.state = State::Skip { left: u64::from(size) + 1 };
            return Some(Item::FrameLost { channel, size, left: size, trouble: Some(Trouble::BudgetExhausted) });
        }
        self.enter_payload(kind, channel, size, input)
    }

    fn enter_payload<'i>(&mut self, kind: u8, channel: u16, size: u32, input: &mut &'i [u8]) -> Option<Item<'i>> {
        let payload = input.get(..size as usize).filter(|_| input.len() > size as usize);
        match payload {
            Some(payload) if !(may_be_secret(kind, channel) && login::is_secret(payload)) => {
                if input.get(size as usize) != Some(&END) {
                    return Some(self.malformed());
                }
                self.advance(input, size as usize + 1);
                self.state = State::Boundary;
                Some(whole(kind, channel, payload))
            }
            _ => {
                self.state = State::Payload { kind, channel, size, seen: 0, told: false };
                None
            }
        }
    }

    /// Copies what may be copied of a payload. `None`: more bytes are needed.
    fn copy_payload(&mut self, kind: u8, channel: u16, size: u32, input: &mut &[u8]) -> Option<Copied> {
        loop {
            let State::Payload { seen, told, .. } = self.state else { return None };
            let public =
                if may_be_secret(kind, channel) { login::public_length(&self.buffer, size) } else { Some(size) };
            let wanted = public.unwrap_or_else(|| size.min(if self.buffer.len() < 4 { 4 } else { 8 }));
            let missing = wanted.saturating_sub(self.buffer.len() as u32);
            if missing > 0 {
                let taken = self.advance(input, missing as usize);
                self.keep(taken, size);
                self.state = State::Payload { kind, channel, size, seen: seen + taken.len() as u32, told };
                if taken.is_empty() {
                    return None;
                }
                continue;
            }
            if public.is_some_and(|public| public < size) && !told {
                self.state = State::Payload { kind, channel, size, seen, told: true };
                return Some(Copied::Secret(self.position, self.position + u64::from(size - seen)));
            }
            let passed = self.advance(input, (size - seen) as usize).len() as u32;
            self.state = State::Payload { kind, channel, size, seen: seen + passed, told };
            if seen + passed < size || input.is_empty() {
                return None;
            }
            if input.first() != Some(&END) {
                return Some(Copied::Bad);
            }
            self.advance(input, 1);
            self.state = State::Boundary;
            return Some(Copied::Whole);
        }
    }

    /// Adds to the buffer, which grows by doubling, but never beyond the frame's size.
    fn keep(&mut self, bytes: &[u8], size: u32) {
        let length = self.buffer.len();
        if self.buffer.capacity() < length + bytes.len() {
            let doubled = length.min((size as usize).saturating_sub(length));
            self.buffer.reserve_exact(bytes.len().max(doubled));
        }
        self.buffer.extend_from_slice(bytes);
    }

    fn body<'i>(&mut self, channel: u16, left: u32, predicted: bool, input: &mut &'i [u8]) -> Item<'i> {
        let bytes = self.advance(input, left as usize);
        let left = left - bytes.len() as u32;
        let ends = left == 0 && input.first() == Some(&END) && !predicted;
        self.state = match left {
            0 if ends => {
                self.advance(input, 1);
                State::Boundary
            }
            0 => State::BodyEnd { channel, predicted },
            left => State::Body { channel, left, predicted },
        };
        // What a prediction says may be another content's: it counts, but tells nothing of the body.
        match predicted && !bytes.is_empty() {
            true => Item::BodyUnread { channel, length: bytes.len() as u64 },
            false => Item::Body { channel, bytes, ends },
        }
    }

    fn skip(&mut self, left: u64, input: &mut &[u8]) -> Option<Item<'static>> {
        let wanted = usize::try_from(left - 1).unwrap_or(usize::MAX);
        let skipped = self.advance(input, wanted).len() as u64;
        self.state = State::Skip { left: left - skipped };
        if left - skipped > 1 || input.is_empty() {
            return None;
        }
        if input.first() != Some(&END) {
            return Some(self.malformed());
        }
        self.advance(input, 1);
        self.state = State::Boundary;
        None
    }
}

enum Copied {
    /// What lies here must not be kept.
    Secret(Position, Position),
    Whole,
    Bad,
}

/// Type, channel and size of the payload (section 4.2.3 of the specification).
fn parts([kind, c1, c2, s1, s2, s3, s4]: [u8; HEAD]) -> (u8, u16, u32) {
    (kind, u16::from_be_bytes([c1, c2]), u32::from_be_bytes([s1, s2, s3, s4]))
}

/// A frame of this type that is not too large and all there: its channel and payload.
fn peek_frame<'i>(kind: u8, largest: usize, rest: &mut &'i [u8]) -> Option<(u16, &'i [u8])> {
    let (head, behind) = rest.split_first_chunk()?;
    let (found, channel, size) = parts(*head);
    let size = size as usize;
    if found != kind || size > largest {
        return None;
    }
    let (payload, behind) = behind.split_at_checked(size)?;
    *rest = behind.strip_prefix(&[END])?;
    Some((channel, payload))
}

fn is_kind(kind: u8) -> bool {
    matches!(kind, METHOD | HEADER | BODY | HEARTBEAT)
}

/// Credentials are in methods of channel 0 only.
fn may_be_secret(kind: u8, channel: u16) -> bool {
    kind == METHOD && channel == 0
}

fn whole(kind: u8, channel: u16, payload: &[u8]) -> Item<'_> {
    match kind {
        METHOD => Item::Method { channel, payload },
        HEADER => Item::Header { channel, payload },
        _ => Item::Heartbeat,
    }
}
