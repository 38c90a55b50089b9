//! The batches of a `records` field, from pieces of any size and holes of known length.
//!
//! Batches are found by their lengths. A hole inside the records of one costs what was in it. After one over a header the
//! next batch is looked for; it counts as found where several facts agree ([`Batch::is_plausible`]) and either it ends
//! exactly where the field does, or such a header follows it as well.

use super::batch::{self, Batch, COMMON, Common, HEADER, Since, UNCOUNTED};
use super::codec::{Budget, Scratch};
use super::hunt;
use super::reader::{End, Outcome, Reader};
use super::records::Record;

/// Whose field it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// A Produce request's: batches are whole, offsets are not the real ones.
    Produce,
    /// A Fetch or ShareFetch response's: the last batch may be cut off, offsets ascend.
    Fetch,
}

/// How much of a batch to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// No more than its header.
    HeadersOnly,
    /// Its records, within this budget.
    Records(Budget),
    /// What follows its header, as it comes.
    Bytes,
    /// Both.
    RecordsAndBytes(Budget),
}

/// Why bytes of a field could not be read as a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Loss {
    /// A hole took a header.
    Hole,
    /// A header breaks the format or contradicts itself, or its length does not fit.
    Malformed,
    /// A format that is not known.
    Unknown,
    /// The field ends inside a header. In a response that is in order.
    Truncated,
}

/// Bytes of the field that were not read as batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    /// The first of them, in bytes from the beginning of the field.
    pub from: u64,
    /// How many, holes included.
    pub bytes: u64,
    /// Why.
    pub why: Loss,
}

/// Who is told of batches and records, in the order of their bytes.
pub(super) trait Visitor {
    /// A batch's header has passed.
    fn batch(&mut self, batch: &Batch) -> Wish;
    /// A record of the batch that was told last.
    fn record(&mut self, batch: &Batch, record: &Record<'_>);
    /// What follows the header of the batch that was told last, if all of it came; before its end.
    fn bytes(&mut self, _batch: &Batch, _bytes: Vec<u8>) {}
    /// The last byte of the batch that was told last has passed.
    fn end(&mut self, batch: &Batch, end: &End);
    /// There is something that is not a batch that can be read.
    fn lost(&mut self, lost: Lost);
}

/// It is not certain that a batch begins where the next header is expected.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    /// The first byte that is not accounted for.
    from: u64,
    why: Loss,
    /// A batch that was found before it, and what holes took of it.
    candidate: Option<(Batch, u64)>,
}

enum State {
    /// A header is expected, or `held` bytes of it are there.
    Header(Option<Doubt>),
    /// In a batch, so many bytes before its end. `outcome`: what there is to say of its records, if they are not read.
    Body { batch: Batch, left: u64, missing: u64, outcome: Option<Outcome> },
    /// In what may be a batch, so many bytes before its end.
    Skip { left: u64, doubt: Doubt },
    /// Looking for a header; nothing is known of what lies between `from` and here. `held` bytes are still to be looked at.
    Hunt { from: u64 },
    /// Nothing more can be read.
    Over,
}

/// Reads a field of known length.
pub(super) struct Batches {
    side: Side,
    total: u64,
    position: u64,
    state: State,
    header: [u8; HEADER],
    held: usize,
    /// The batch that was read last.
    last: Option<Batch>,
    reader: Option<Box<Reader>>,
    /// Of a batch whose bytes are wanted, those that came.
    kept: Option<Vec<u8>>,
}

/// What the bytes of a header say.
enum Head {
    /// Nothing yet: it takes so many bytes.
    More(usize),
    Batch(Batch),
    /// It cannot be read. `size`: what its length says, if that is possible.
    Unreadable {
        why: Loss,
        size: Option<u64>,
    },
}

impl Batches {
    /// Begins a field of `total` bytes.
    pub fn new(side: Side, total: u64) -> Batches {
        let (state, header) = (State::Header(None), [0; HEADER]);
        Batches { side, total, position: 0, state, header, held: 0, last: None, reader: None, kept: None }
    }

    /// Bytes of the field that are still to come.
    pub fn left(&self) -> u64 {
        self.total - self.position
    }

    /// Bytes held in memory.
    pub fn cost(&self) -> usize {
        let kept = self.kept.as_ref().map_or(0, Vec::capacity);
        size_of::<Self>() + kept + self.reader.as_ref().map_or(0, |reader| reader.cost())
    }

    /// The next bytes of the field. More than there are left are not looked at.
    pub fn data<V: Visitor>(&mut self, bytes: &[u8], scratch: &mut Scratch, visitor: &mut V) {
        let length = usize::try_from(self.left()).unwrap_or(usize::MAX).min(bytes.len());
        let (mut bytes, _) = bytes.split_at(length);
        while !bytes.is_empty() {
            let used = match &mut self.state {
                State::Header(_) => self.take_header(bytes, visitor),
                State::Body { batch, left, outcome, .. } => {
                    let part = first(bytes, *left);
                    *left -= part.len() as u64;
                    if let Some(kept) = &mut self.kept {
                        kept.extend_from_slice(part);
                    }
                    if let Some(reader) = self.reader.as_mut().filter(|_| outcome.is_none()) {
                        reader.data(batch, part, scratch, visitor);
                    }
                    part.len()
                }
                State::Skip { left, .. } => {
                    let part = first(bytes, *left);
                    *left -= part.len() as u64;
                    part.len()
                }
                State::Hunt { from } => {
                    let from = *from;
                    self.look(from, bytes, visitor)
                }
                State::Over => bytes.len(),
            };
            self.position += used as u64;
            bytes = bytes.split_at(used).1;
            self.settle(scratch, visitor);
        }
    }

    /// The next bytes of the field are missing.
    pub fn hole<V: Visitor>(&mut self, length: u64, scratch: &mut Scratch, visitor: &mut V) {
        let mut length = length.min(self.left());
        while length > 0 {
            let used = match &mut self.state {
                State::Header(_) => self.lose_header(length),
                State::Body { batch, left, missing, outcome } => {
                    let used = length.min(*left);
                    *left -= used;
                    *missing += used;
                    self.kept = None;
                    if let Some(reader) = self.reader.as_mut().filter(|_| outcome.is_none()) {
                        reader.hole(batch, scratch, visitor);
                    }
                    used
                }
                State::Skip { left, doubt } => {
                    let used = length.min(*left);
                    *left -= used;
                    if let Some((_, missing)) = &mut doubt.candidate {
                        *missing += used;
                    }
                    used
                }
                State::Hunt { .. } => {
                    self.held = 0;
                    length
                }
                State::Over => length,
            };
            self.position += used;
            length -= used;
            self.settle(scratch, visitor);
        }
    }

    /// There will be no more bytes, though there should be.
    pub fn end<V: Visitor>(&mut self, scratch: &mut Scratch, visitor: &mut V) {
        self.hole(self.left(), scratch, visitor);
    }

    /// Goes on where a batch ends, and says what is left at the end of the field.
    fn settle<V: Visitor>(&mut self, scratch: &mut Scratch, visitor: &mut V) {
        match self.state {
            State::Body { ref batch, left: 0, missing, outcome } => {
                let end = match (outcome, &mut self.reader) {
                    (None, Some(reader)) => reader.end(batch, missing, scratch, visitor),
                    (outcome, _) => End::of_header(batch, missing, outcome.unwrap_or(Outcome::NotAsked)),
                };
                if let Some(kept) = self.kept.take() {
                    visitor.bytes(batch, kept);
                }
                visitor.end(batch, &end);
                self.state = State::Header(None);
            }
            State::Skip { left: 0, doubt } => self.state = State::Header(Some(doubt)),
            _ => {}
        }
        if self.position == self.total {
            self.close(visitor);
        }
    }

    fn close<V: Visitor>(&mut self, visitor: &mut V) {
        let held = self.held as u64;
        match std::mem::replace(&mut self.state, State::Over) {
            State::Header(None) if held > 0 => {
                let why = if self.side == Side::Fetch { Loss::Truncated } else { Loss::Malformed };
                self.lose(self.total - held, self.total, why, visitor);
            }
            State::Header(Some(doubt)) | State::Skip { doubt, .. } => {
                self.lose(doubt.from, self.total, doubt.why, visitor);
            }
            State::Hunt { from } => self.lose(from, self.total, Loss::Hole, visitor),
            State::Header(None) | State::Body { .. } | State::Over => {}
        }
    }

    fn lose<V: Visitor>(&self, from: u64, to: u64, why: Loss, visitor: &mut V) {
        if to > from {
            visitor.lost(Lost { from, bytes: to - from, why });
        }
    }

    /// Takes what there is of a header, and answers how many bytes that was.
    fn take_header<V: Visitor>(&mut self, bytes: &[u8], visitor: &mut V) -> usize {
        let start = self.position - self.held as u64;
        if self.held == 0 {
            let all = first(bytes, HEADER as u64);
            return match self.read(all, start) {
                Head::More(_) => self.hold(all, all.len()),
                head => self.take_head(head, start, all, visitor),
            };
        }
        let Head::More(needed) = self.read(self.header.split_at(self.held).0, start) else { return 0 };
        let used = self.hold(bytes, needed - self.held);
        let copy = self.header;
        let (header, _) = copy.split_at(self.held);
        let head = self.read(header, start);
        if !matches!(head, Head::More(_)) {
            self.held = 0;
            let taken = self.take_head(head, start, header, visitor);
            if matches!(self.state, State::Hunt { .. }) {
                let rest = header.split_at(taken).1;
                self.hold(rest, rest.len());
            }
        }
        used
    }

    /// Keeps up to `most` bytes of a header, and answers how many.
    fn hold(&mut self, bytes: &[u8], most: usize) -> usize {
        let (_, free) = self.header.split_at_mut(self.held);
        let length = most.min(bytes.len()).min(free.len());
        free.split_at_mut(length).0.copy_from_slice(bytes.split_at(length).0);
        self.held += length;
        length
    }

    /// What a header says that begins at `start`, of which these bytes are there.
    fn read(&self, header: &[u8], start: u64) -> Head {
        let Some(common) = header.first_chunk::<COMMON>() else { return Head::More(COMMON) };
        let Common { size: Some(size), header: known } = Common::read(common) else {
            return Head::Unreadable { why: Loss::Malformed, size: None };
        };
        let fits = size <= self.total - start;
        let size_if_fits = fits.then_some(size);
        if !fits && (self.side == Side::Produce || known.is_none()) {
            return Head::Unreadable { why: Loss::Malformed, size: None };
        }
        let Some(known) = known else { return Head::Unreadable { why: Loss::Unknown, size: size_if_fits } };
        match Batch::read(header, start, size) {
            None => Head::More(known),
            Some(batch) if batch.is_sound() => Head::Batch(Batch { truncated: !fits, ..batch }),
            Some(_) => Head::Unreadable { why: Loss::Malformed, size: size_if_fits },
        }
    }

    /// Acts on a header that begins at `start`, of which these bytes are there, and answers how many have been used.
    fn take_head<V: Visitor>(&mut self, head: Head, start: u64, header: &[u8], visitor: &mut V) -> usize {
        let State::Header(doubt) = self.state else { return 0 };
        match (head, doubt) {
            (Head::Batch(batch), None) => self.begin(batch, header, visitor),
            (Head::Batch(batch), Some(doubt)) if self.confirms(&batch, &doubt) => {
                self.account(&batch, &doubt, visitor);
                self.begin(batch, header, visitor)
            }
            (head, Some(Doubt { from, why: Loss::Hole, .. })) => match head {
                Head::Batch(batch) if self.is_found(&batch) => self.found(from, batch, header, visitor),
                _ => {
                    self.state = State::Hunt { from };
                    1
                }
            },
            (Head::Unreadable { why, size: Some(size) }, None) => {
                let used = first(header, size).len();
                self.state =
                    State::Skip { left: size - used as u64, doubt: Doubt { from: start, why, candidate: None } };
                used
            }
            (_, Some(Doubt { from, why, .. })) => self.give_up(from, why, visitor),
            (Head::Unreadable { why, size: None }, None) => self.give_up(start, why, visitor),
            (Head::More(_), None) => 0,
        }
    }

    /// Reads nothing more of the field.
    fn give_up<V: Visitor>(&mut self, from: u64, why: Loss, visitor: &mut V) -> usize {
        self.lose(from, self.total, why, visitor);
        self.state = State::Over;
        0
    }

    /// This header follows where one was expected, and in the order of offsets: so the place was right.
    fn confirms(&self, batch: &Batch, doubt: &Doubt) -> bool {
        let last = doubt.candidate.map(|(candidate, _)| candidate).or(self.last);
        batch.is_plausible(&self.since(last, batch.start))
    }

    /// What is known at this place, if that was the last batch.
    fn since(&self, last: Option<Batch>, place: u64) -> Since {
        let last = last.filter(|_| self.side == Side::Fetch);
        let bytes = place.saturating_sub(last.map_or(0, |last| last.end()));
        Since { last: last.map(|last| (last.last_offset().saturating_add(1), last.leader_epoch)), bytes }
    }

    /// Says what lies between what was read before the doubt and this batch.
    fn account<V: Visitor>(&self, batch: &Batch, doubt: &Doubt, visitor: &mut V) {
        let Some((candidate, missing)) = doubt.candidate else {
            return self.lose(doubt.from, batch.start, doubt.why, visitor);
        };
        self.lose(doubt.from, candidate.start, doubt.why, visitor);
        let outcome = match visitor.batch(&candidate) {
            Wish::HeadersOnly | Wish::Bytes => Outcome::NotAsked,
            Wish::Records(_) | Wish::RecordsAndBytes(_) => Outcome::Missed,
        };
        visitor.end(&candidate, &End::of_header(&candidate, missing, outcome));
    }

    /// This may be a header, though none is expected here.
    fn is_found(&self, batch: &Batch) -> bool {
        batch.end() <= self.total && batch.is_plausible(&self.since(self.last, batch.start))
    }

    /// A header was found; answers how many of the bytes belong to it. One that ends where the field does is right, another
    /// has to be confirmed by the next.
    fn found<V: Visitor>(&mut self, from: u64, batch: Batch, header: &[u8], visitor: &mut V) -> usize {
        if batch.end() == self.total {
            self.lose(from, batch.start, Loss::Hole, visitor);
            return self.begin(batch, header, visitor);
        }
        let doubt = Doubt { from, why: Loss::Hole, candidate: Some((batch, 0)) };
        self.state = State::Skip { left: batch.size - HEADER as u64, doubt };
        HEADER
    }

    /// A batch begins; answers how many of the bytes belong to its header.
    fn begin<V: Visitor>(&mut self, batch: Batch, header: &[u8], visitor: &mut V) -> usize {
        self.last = Some(batch);
        let header = first(header, batch.header_bytes());
        self.kept = None;
        let outcome = match visitor.batch(&batch) {
            Wish::Records(_) | Wish::RecordsAndBytes(_) if batch.truncated => Some(Outcome::Incomplete),
            wish @ (Wish::Records(budget) | Wish::RecordsAndBytes(budget)) => {
                self.reader.get_or_insert_default().begin(&batch, header, budget);
                self.kept = matches!(wish, Wish::RecordsAndBytes(_)).then(Vec::new);
                None
            }
            Wish::Bytes => {
                self.kept = (!batch.truncated).then(Vec::new);
                Some(Outcome::NotAsked)
            }
            Wish::HeadersOnly => Some(Outcome::NotAsked),
        };
        let left = batch.size.min(self.total - batch.start) - batch.header_bytes();
        self.state = State::Body { batch, left, missing: 0, outcome };
        header.len()
    }

    /// A hole of so many bytes begins where a header is expected, or inside one; answers how many of them are dealt with.
    fn lose_header(&mut self, length: u64) -> u64 {
        let held = std::mem::take(&mut self.held);
        let start = self.position - held as u64;
        let State::Header(doubt) = self.state else { return length };
        let from = doubt.map_or(start, |doubt| doubt.from);
        let size = self.header.first_chunk::<COMMON>().filter(|_| held as u64 >= UNCOUNTED).and_then(batch::size);
        match size.filter(|size| doubt.is_none() && *size > held as u64 && *size <= self.total - start) {
            Some(size) => {
                let doubt = Doubt { from, why: Loss::Hole, candidate: None };
                self.state = State::Skip { left: size - held as u64, doubt };
                0
            }
            None => {
                self.state = State::Hunt { from };
                length
            }
        }
    }

    /// Looks for a header in what is held and these bytes, and answers how many of these have been dealt with.
    fn look<V: Visitor>(&mut self, from: u64, bytes: &[u8], visitor: &mut V) -> usize {
        let begins = self.position - self.held as u64;
        let accept = |at: usize, header: &[u8; HEADER]| {
            let start = begins + at as u64;
            let size = Common::read(header.first_chunk()?).size?;
            Batch::read(header, start, size).filter(|batch| self.is_found(batch))
        };
        let (held, _) = self.header.split_at(self.held);
        let Some((batch, header)) = hunt::find(held, bytes, accept) else {
            self.held = hunt::keep(&mut self.header, self.held, bytes);
            return bytes.len();
        };
        self.held = 0;
        self.found(from, batch, &header, visitor);
        (batch.start + HEADER as u64 - self.position) as usize
    }
}

/// The first so many bytes, or all.
fn first(bytes: &[u8], most: u64) -> &[u8] {
    bytes.split_at(usize::try_from(most).unwrap_or(usize::MAX).min(bytes.len())).0
}
