//! What the leader of a classic group assigns to a member: a message of its own inside a SyncGroup response
//! (ConsumerProtocolAssignment.json). Groups that are no consumers' (Connect's) have others, which do not read as one.

use super::field::Field;
use super::layout::Layout;
use super::row::Row;
use super::visitor::{Outcome, Value, Visitor};
use super::walk::Walk;
use crate::protocol::operation::log::Partition;
use crate::protocol::output::Output;

/// Reads an assignment; false if it is none.
pub(super) fn partitions(bytes: &[u8], partitions: &mut Vec<Partition>, out: &mut Output<'_>) -> bool {
    partitions.clear();
    // A member that is assigned nothing may be sent nothing.
    let Some((layout, mut bytes)) = Layout::of_membership(Field::Assignment, bytes) else { return bytes.is_empty() };
    let Ok(length) = u32::try_from(bytes.len()) else { return false };
    let mut list = List { row: Row::default(), partitions, out };
    let outcome = Walk::new(layout, length).feed(&mut bytes, &mut list);
    // A newer version may have more behind what is known of it.
    matches!(outcome, Some(Outcome::Complete | Outcome::Trailing))
}

struct List<'a, 'o> {
    row: Row,
    partitions: &'a mut Vec<Partition>,
    out: &'a mut Output<'o>,
}

impl Visitor for List<'_, '_> {
    fn enter(&mut self, field: Field) {
        self.row.enter(field);
    }

    fn leave(&mut self, field: Field) {
        self.row.leave(field);
    }

    fn value(&mut self, field: Field, value: Value<'_>) {
        self.row.set(field, value, self.out);
        if let (Field::Partition, Some(partition)) = (field, self.row.partition()) {
            self.partitions.push(partition);
        }
    }

    fn records_begin(&mut self, _: u64, _: u32) {}
    fn records_data(&mut self, _: &[u8]) {}
    fn records_hole(&mut self, _: u64) {}
    fn records_end(&mut self) {}
    fn secret(&mut self, _: u64, _: u64) {}
}
