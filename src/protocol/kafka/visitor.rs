//! What a walk through a request or a response tells.

use super::field::Field;

/// A field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// An integer; a bool is 0 or 1.
    Int(i64),
    /// A string, which need not be UTF-8.
    Text(&'a [u8]),
    /// Bytes.
    Bytes(&'a [u8]),
    /// A UUID.
    Uuid([u8; 16]),
    /// An array begins that has so many elements. They follow.
    Count(u32),
    /// There is none, and the message says so.
    Null,
    /// It is there and was not read: some of it is in a hole, or it is longer than is kept.
    Unknown,
}

/// What a walk tells.
pub trait Visitor {
    /// An element of an array, or a struct, begins.
    fn enter(&mut self, field: Field);
    /// It ends.
    fn leave(&mut self, field: Field);
    /// A value. Elements of an array that are no structs come one by one.
    fn value(&mut self, field: Field, value: Value<'_>);
    /// Record batches begin: their place, counted from the walk's first byte, and how many bytes they have.
    fn records_begin(&mut self, from: u64, length: u32);
    /// The next bytes of them.
    fn records_data(&mut self, bytes: &[u8]);
    /// So many of their bytes are missing.
    fn records_hole(&mut self, length: u64);
    /// They end: all of their length has come, or is missing.
    fn records_end(&mut self);
    /// What is secret is so many bytes from this place on, counted from the walk's first byte, whether they have come yet or
    /// not. It is told before any of them is taken.
    fn secret(&mut self, from: u64, length: u64);
}

/// How a body ended. Unless it is [`Outcome::Complete`], what was entered may not have been left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As its layout does.
    Complete,
    /// A hole took what is needed to go on.
    Lost,
    /// A length, count or tag cannot be, or the body ends too early.
    Malformed,
    /// All was read, and bytes were left.
    Trailing,
}
