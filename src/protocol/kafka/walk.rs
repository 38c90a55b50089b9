//! Follows a layout through the bytes of one request or response, as they come.
//!
//! Nothing of a body is kept but short values that a piece's end cuts. Lengths and counts are held against what is left of
//! the body before they are used: the frame says how long it is. A hole costs the values that it covers, and no more as long
//! as it covers no length, count or discriminator; else the rest of this body is unknown, and passed over by its length.

use super::cursor::{Cursor, Stop};
use super::field::Field;
use super::frames::Frames;
use super::layout::Layout;
use super::program::{Array, Instruction, Length};
use super::visitor::{Outcome, Value, Visitor};

/// A buffer larger than this is given back after use.
const KEPT_CAPACITY: usize = 1 << 10;
/// The error code that says that a version is not supported.
const UNSUPPORTED_VERSION: i16 = 35;

/// A walk through one request or response, from behind the fixed part of its header to the end of its frame.
#[derive(Debug)]
pub struct Walk {
    layout: &'static Layout,
    length: u32,
    place: u16,
    state: State,
    cursor: Cursor,
    frames: Frames,
    /// A string, or bytes, that a piece's end cuts.
    buffer: Vec<u8>,
    /// How long these may be.
    room: u32,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// The next instruction.
    Instruction,
    /// Passing over bytes.
    Pass { left: u32 },
    /// Inside of a string, or of bytes, that are wanted.
    Collect { field: Field, text: bool, left: u32 },
    /// Inside of record batches.
    Records { left: u32 },
    /// It is known how it ends: the rest is passed over.
    Over(Outcome),
}

impl Walk {
    /// A walk that begins behind the fixed part of the header; `length` is what is left of the frame from there.
    pub fn new(layout: &'static Layout, length: u32) -> Walk {
        Walk {
            layout,
            length,
            place: 0,
            state: State::Instruction,
            cursor: Cursor::new(length),
            frames: Frames::default(),
            buffer: Vec::new(),
            room: u32::MAX,
        }
    }

    /// Sets how long a string or bytes may be that are copied because a piece's end cuts them. Longer ones are unknown.
    pub fn set_room(&mut self, room: u32) {
        self.room = room;
    }

    /// Memory held besides itself, in bytes.
    pub fn cost(&self) -> usize {
        self.buffer.capacity()
    }

    /// The layout that is followed.
    pub fn layout(&self) -> &'static Layout {
        self.layout
    }

    /// Bytes of the frame that are still to come, or to be missed.
    pub fn left(&self) -> u32 {
        self.cursor.left()
    }

    /// Whether the next so many bytes of it are of record batches.
    pub fn is_in_records(&self, length: u64) -> bool {
        matches!(self.state, State::Records { left } if length <= u64::from(left))
    }

    /// Takes what belongs to this body off the input. Gives how it ended once it has; `None` if all of the input was taken
    /// and more is to come. A body without bytes has to be fed with nothing once.
    pub fn feed(&mut self, input: &mut &[u8], visitor: &mut impl Visitor) -> Option<Outcome> {
        let mut piece = self.cursor.next_piece(input);
        self.run(&mut piece, visitor)
    }

    /// Takes what belongs to this body off a hole of `missing` bytes. The answer is that of [`Walk::feed`].
    pub fn feed_hole(&mut self, missing: &mut u64, visitor: &mut impl Visitor) -> Option<Outcome> {
        loop {
            // To where bytes are needed.
            let outcome = self.run(&mut &[][..], visitor);
            if outcome.is_some() || *missing == 0 {
                return outcome;
            }
            self.miss(missing, visitor);
        }
    }

    fn run(&mut self, piece: &mut &[u8], visitor: &mut impl Visitor) -> Option<Outcome> {
        loop {
            let done = match self.state {
                State::Instruction => self.follow(piece, visitor),
                State::Pass { left } => self.pass_on(left, piece),
                State::Collect { field, text, left } => self.collect(field, text, left, piece, visitor),
                State::Records { left } => self.records(left, piece, visitor),
                State::Over(outcome) => return (self.cursor.left() == 0).then_some(outcome),
            };
            match done {
                Ok(()) => {}
                Err(Stop::More) => return None,
                Err(Stop::Malformed) => self.give_up(Outcome::Malformed, piece, visitor),
            }
        }
    }

    /// Carries out instructions until one leaves a state behind it.
    fn follow(&mut self, piece: &mut &[u8], visitor: &mut impl Visitor) -> Result<(), Stop> {
        let program = &self.layout.program;
        while let State::Instruction = self.state {
            let instruction = program.instructions.get(usize::from(self.place)).ok_or(Stop::Malformed)?;
            match *instruction {
                Instruction::Pass { length } => {
                    self.place += 1;
                    self.pass(u32::from(length), piece)?;
                }
                Instruction::Int { field, width } => {
                    let value = self.cursor.int(width, piece)?;
                    self.place += 1;
                    visitor.value(field, Value::Int(value));
                }
                Instruction::Uuid { field } => {
                    let value = self.cursor.fixed(piece)?;
                    self.place += 1;
                    visitor.value(field, Value::Uuid(value));
                }
                Instruction::Text { field, length, nullable } => {
                    self.sized(field, true, length, nullable, piece, visitor)?;
                }
                Instruction::Bytes { field, length, nullable } => {
                    self.sized(field, false, length, nullable, piece, visitor)?;
                }
                Instruction::Secret { length, nullable } => self.secret(length, nullable, piece, visitor)?,
                Instruction::Records { length, nullable } => self.begin_records(length, nullable, piece, visitor)?,
                Instruction::Array(array) => self.begin_array(array, piece, visitor)?,
                Instruction::Repeat { field, begin } => self.repeat(field, begin, visitor)?,
                Instruction::PassArray { length, nullable, width } => {
                    let width = u32::from(width);
                    let count = self.count(length, nullable, width, piece)?.unwrap_or(0);
                    self.place += 1;
                    self.pass(count * width, piece)?;
                }
                Instruction::Enter { field } => {
                    self.place += 1;
                    visitor.enter(field);
                }
                Instruction::Leave { field } => {
                    self.place += 1;
                    visitor.leave(field);
                }
                Instruction::Optional { field, end } => self.optional(field, end, piece, visitor)?,
                Instruction::Tags => self.begin_tags(piece)?,
                Instruction::NextTag => self.next_tag(piece)?,
                Instruction::TagContent { first, count } => self.tag_content(first, count, piece)?,
                Instruction::TagEnd { back } => self.end_tag(back, piece)?,
                Instruction::Version { old } => {
                    let error = i16::from_be_bytes(self.cursor.fixed(piece)?);
                    self.place = if error == UNSUPPORTED_VERSION { old } else { self.place + 1 };
                    visitor.value(Field::ErrorCode, Value::Int(i64::from(error)));
                }
                Instruction::End => self.end(piece, visitor),
            }
        }
        Ok(())
    }

    fn sized(
        &mut self,
        field: Option<Field>,
        text: bool,
        length: Length,
        nullable: bool,
        piece: &mut &[u8],
        visitor: &mut impl Visitor,
    ) -> Result<(), Stop> {
        let length = self.cursor.length(length, nullable, piece)?;
        self.place += 1;
        let (field, length) = match (field, length) {
            (Some(field), Some(length)) => (field, length),
            (Some(field), None) => {
                visitor.value(field, Value::Null);
                return Ok(());
            }
            (None, length) => return self.pass(length.unwrap_or(0), piece),
        };
        if length > self.cursor.remaining(piece) {
            return Err(Stop::Malformed);
        }
        let kept = length <= field.longest();
        match piece.split_at_checked(length as usize) {
            Some((bytes, rest)) if kept => {
                *piece = rest;
                visitor.value(field, value(bytes, text));
            }
            None if kept && length <= self.room => self.state = State::Collect { field, text, left: length },
            _ => {
                visitor.value(field, Value::Unknown);
                self.pass(length, piece)?;
            }
        }
        Ok(())
    }

    fn collect(
        &mut self,
        field: Field,
        text: bool,
        left: u32,
        piece: &mut &[u8],
        visitor: &mut impl Visitor,
    ) -> Result<(), Stop> {
        let (taken, rest) = piece.split_at_checked(left as usize).unwrap_or((piece, &[]));
        *piece = rest;
        self.buffer.extend_from_slice(taken);
        let left = left - taken.len() as u32;
        if left > 0 {
            self.state = State::Collect { field, text, left };
            return Err(Stop::More);
        }
        visitor.value(field, value(&self.buffer, text));
        self.empty_buffer();
        self.state = State::Instruction;
        Ok(())
    }

    fn empty_buffer(&mut self) {
        self.buffer.clear();
        self.buffer.shrink_to(KEPT_CAPACITY);
    }

    fn secret(
        &mut self,
        length: Length,
        nullable: bool,
        piece: &mut &[u8],
        visitor: &mut impl Visitor,
    ) -> Result<(), Stop> {
        let length = self.cursor.length(length, nullable, piece)?.unwrap_or(0);
        let remaining = self.cursor.remaining(piece);
        if length > remaining {
            return Err(Stop::Malformed);
        }
        self.place += 1;
        visitor.secret(u64::from(self.length - remaining), u64::from(length));
        self.pass(length, piece)
    }

    fn begin_records(
        &mut self,
        length: Length,
        nullable: bool,
        piece: &mut &[u8],
        visitor: &mut impl Visitor,
    ) -> Result<(), Stop> {
        let length = self.cursor.length(length, nullable, piece)?;
        self.place += 1;
        match length {
            None => visitor.value(Field::Records, Value::Null),
            Some(length) if length > self.cursor.remaining(piece) => return Err(Stop::Malformed),
            Some(length) => {
                visitor.records_begin(u64::from(self.length - self.cursor.remaining(piece)), length);
                self.state = State::Records { left: length };
            }
        }
        Ok(())
    }

    fn records(&mut self, left: u32, piece: &mut &[u8], visitor: &mut impl Visitor) -> Result<(), Stop> {
        let (taken, rest) = piece.split_at_checked(left as usize).unwrap_or((piece, &[]));
        *piece = rest;
        if !taken.is_empty() {
            visitor.records_data(taken);
        }
        let left = left - taken.len() as u32;
        if left > 0 {
            self.state = State::Records { left };
            return Err(Stop::More);
        }
        visitor.records_end();
        self.state = State::Instruction;
        Ok(())
    }

    fn begin_array(&mut self, array: Array, piece: &mut &[u8], visitor: &mut impl Visitor) -> Result<(), Stop> {
        let count = self.count(array.length, array.nullable, u32::from(array.smallest), piece)?;
        if let Some(field) = array.field {
            visitor.value(field, count.map_or(Value::Null, Value::Count));
        }
        let count = count.unwrap_or(0);
        if count == 0 {
            self.place = array.end;
            return Ok(());
        }
        self.frames.push(count)?;
        self.place += 1;
        if let Some(field) = array.field.filter(|_| array.scope) {
            visitor.enter(field);
        }
        Ok(())
    }

    fn repeat(&mut self, field: Option<Field>, begin: u16, visitor: &mut impl Visitor) -> Result<(), Stop> {
        if let Some(field) = field {
            visitor.leave(field);
        }
        let frame = self.frames.top()?;
        frame.left -= 1;
        if frame.left == 0 {
            self.frames.pop();
            self.place += 1;
            return Ok(());
        }
        self.place = begin;
        if let Some(field) = field {
            visitor.enter(field);
        }
        Ok(())
    }

    /// An array's count, none of whose elements is shorter than `smallest`.
    fn count(&mut self, length: Length, nullable: bool, smallest: u32, piece: &mut &[u8]) -> Result<Option<u32>, Stop> {
        let count = self.cursor.length(length, nullable, piece)?;
        let least = u64::from(count.unwrap_or(0)) * u64::from(smallest);
        if least > u64::from(self.cursor.remaining(piece)) { Err(Stop::Malformed) } else { Ok(count) }
    }

    fn optional(
        &mut self,
        field: Option<Field>,
        end: u16,
        piece: &mut &[u8],
        visitor: &mut impl Visitor,
    ) -> Result<(), Stop> {
        let is_null = self.cursor.int(1, piece)? < 0;
        self.place = if is_null { end } else { self.place + 1 };
        match field {
            Some(field) if is_null => visitor.value(field, Value::Null),
            Some(field) => visitor.enter(field),
            None => {}
        }
        Ok(())
    }

    fn begin_tags(&mut self, piece: &mut &[u8]) -> Result<(), Stop> {
        let count = self.cursor.uvarint(piece)?;
        if count == 0 {
            // Behind what reads the tags.
            self.place += 3;
            return Ok(());
        }
        // Number and size of each.
        if u64::from(count) * 2 > u64::from(self.cursor.remaining(piece)) {
            return Err(Stop::Malformed);
        }
        self.frames.push(count)?;
        self.place += 1;
        Ok(())
    }

    fn next_tag(&mut self, piece: &mut &[u8]) -> Result<(), Stop> {
        if self.frames.top()?.left == 0 {
            self.frames.pop();
            self.place += 2;
            return Ok(());
        }
        let tag = self.cursor.uvarint(piece)?;
        let frame = self.frames.top()?;
        frame.left -= 1;
        frame.tag = tag;
        self.place += 1;
        Ok(())
    }

    fn tag_content(&mut self, first: u16, count: u8, piece: &mut &[u8]) -> Result<(), Stop> {
        let size = self.cursor.uvarint(piece)?;
        let Some(behind) = self.cursor.remaining(piece).checked_sub(size) else { return Err(Stop::Malformed) };
        let known = self.layout.program.known.get(usize::from(first)..).unwrap_or_default();
        let frame = self.frames.top()?;
        frame.behind = behind;
        match known.iter().take(usize::from(count)).find(|known| known.tag == frame.tag) {
            Some(known) => self.place = known.begin,
            None => {
                self.place -= 1;
                self.pass(size, piece)?;
            }
        }
        Ok(())
    }

    fn end_tag(&mut self, back: u16, piece: &[u8]) -> Result<(), Stop> {
        let remaining = self.cursor.remaining(piece);
        if self.frames.top()?.behind != remaining {
            return Err(Stop::Malformed);
        }
        self.place = back;
        Ok(())
    }

    /// Passes over bytes, those that come later as well.
    fn pass(&mut self, length: u32, piece: &mut &[u8]) -> Result<(), Stop> {
        if length > self.cursor.remaining(piece) {
            return Err(Stop::Malformed);
        }
        match piece.split_at_checked(length as usize) {
            Some((_, rest)) => *piece = rest,
            None => self.state = State::Pass { left: length },
        }
        Ok(())
    }

    fn pass_on(&mut self, left: u32, piece: &mut &[u8]) -> Result<(), Stop> {
        let (taken, rest) = piece.split_at_checked(left as usize).unwrap_or((piece, &[]));
        *piece = rest;
        let left = left - taken.len() as u32;
        self.state = if left == 0 { State::Instruction } else { State::Pass { left } };
        if left == 0 { Ok(()) } else { Err(Stop::More) }
    }

    fn end(&mut self, piece: &mut &[u8], visitor: &mut impl Visitor) {
        let complete = self.cursor.remaining(piece) == 0;
        self.give_up(if complete { Outcome::Complete } else { Outcome::Trailing }, piece, visitor);
    }

    /// The rest is not read. It may hold what was to be kept secret.
    fn give_up(&mut self, outcome: Outcome, piece: &mut &[u8], visitor: &mut impl Visitor) {
        let remaining = self.cursor.remaining(piece);
        if self.layout.program.secret && remaining > 0 {
            visitor.secret(u64::from(self.length - remaining), u64::from(remaining));
        }
        *piece = &[];
        self.buffer = Vec::new();
        self.state = State::Over(outcome);
    }

    /// Takes bytes off a hole, or finds what it costs that they are missing. All bytes before the hole have been taken.
    fn miss(&mut self, missing: &mut u64, visitor: &mut impl Visitor) {
        let most = match self.state {
            State::Instruction => return self.miss_value(visitor),
            State::Collect { field, left, .. } => {
                visitor.value(field, Value::Unknown);
                self.empty_buffer();
                self.state = State::Pass { left };
                return;
            }
            State::Pass { left } | State::Records { left } => (*missing).min(u64::from(left)),
            State::Over(_) => *missing,
        };
        let missed = self.cursor.miss(most);
        *missing -= u64::from(missed);
        match &mut self.state {
            State::Pass { left } => *left -= missed,
            State::Records { left } => {
                *left -= missed;
                visitor.records_hole(u64::from(missed));
            }
            _ => {}
        }
    }

    fn miss_value(&mut self, visitor: &mut impl Visitor) {
        let lost = match self.layout.program.instructions.get(usize::from(self.place)) {
            Some(Instruction::Int { field, width }) => Some((*field, *width)),
            Some(Instruction::Uuid { field }) => Some((*field, 16)),
            _ => None,
        };
        let Some((field, width)) = lost else { return self.give_up(Outcome::Lost, &mut &[][..], visitor) };
        let came = self.cursor.forget();
        visitor.value(field, Value::Unknown);
        self.place += 1;
        self.state = State::Pass { left: u32::from(width.saturating_sub(came)) };
    }
}

fn value(bytes: &[u8], text: bool) -> Value<'_> {
    if text { Value::Text(bytes) } else { Value::Bytes(bytes) }
}
