//! Transactions: a publish or a settlement in one counts only when it is committed.
//!
//! The client's commit decides, not the broker's answer: the broker hands committed messages to queues, and so to consumers,
//! before it answers. Only where the commit itself was missed the answer tells.

use std::collections::VecDeque;

use crate::protocol::operation::{Operation, Tags};

/// Operations kept for a commit, over all transactions of a channel.
const MOST_OPERATIONS: usize = 4096;
/// Commits and rollbacks kept that wait for their answer.
const MOST_ENDS: usize = 64;

/// A channel's transactions.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    /// What has come since the last commit or rollback.
    open: Batch,
    /// Commits and rollbacks under way: how they end, and what they end.
    ending: VecDeque<(bool, Batch)>,
    /// How much of the open batch came before a hole in the client's frames, which may hide its commit.
    before_gap: Option<Batch>,
    /// An answer was lost, so that the next ones cannot be told apart.
    uncertain: bool,
    kept: usize,
}

/// What one transaction holds.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// In their order; those that did not fit are only counted.
    pub operations: Vec<Operation>,
    /// Publishes.
    pub published: u64,
    /// Settlements.
    pub settled: u64,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.published + self.settled == 0
    }

    fn append(&mut self, mut later: Batch) {
        self.operations.append(&mut later.operations);
        self.published += later.published;
        self.settled += later.settled;
    }
}

impl Transactions {
    /// Counts an operation, and keeps it until its commit if there is `room`; false if it was not kept.
    pub fn keep(&mut self, operation: Operation, room: bool) -> bool {
        match operation {
            Operation::Published { .. } => self.open.published += 1,
            _ => self.open.settled += 1,
        }
        let kept = room && self.kept < MOST_OPERATIONS;
        if kept {
            self.kept += 1;
            self.open.operations.push(operation);
        }
        kept
    }

    /// How many operations are kept.
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// What the transaction has settled so far.
    pub fn settled(&self) -> impl Iterator<Item = Tags> {
        let operations = self.before_gap.iter().chain([&self.open]).flat_map(|batch| &batch.operations);
        operations.filter_map(|operation| match operation {
            Operation::Settled { tags, .. } => Some(*tags),
            _ => None,
        })
    }

    /// The client ends the transaction: what is committed by that. `None` if too many ends wait for their answers.
    pub fn end(&mut self, commit: bool) -> Option<Vec<Operation>> {
        let mut batch = self.before_gap.take().unwrap_or_default();
        batch.append(std::mem::take(&mut self.open));
        self.kept -= batch.operations.len();
        if self.ending.len() >= MOST_ENDS {
            return None;
        }
        let operations = std::mem::take(&mut batch.operations);
        self.ending.push_back((commit, batch));
        Some(if commit { operations } else { Vec::new() })
    }

    /// The broker ended a transaction: how much was in it, if that is known, and what the commit did not tell.
    pub fn ended(&mut self, commit: bool) -> Option<Batch> {
        let batch = match self.ending.front() {
            Some((expected, _)) if *expected == commit => self.ending.pop_front().map(|(_, batch)| batch),
            Some(_) => None,
            // The commit lies in the hole: what came before it is in the transaction, what came behind is not.
            None if !self.uncertain => self.before_gap.take(),
            None => None,
        }?;
        self.kept -= batch.operations.len();
        Some(batch)
    }

    /// A hole in the client's frames: it may hide a commit, and operations.
    pub fn client_gap(&mut self) {
        let open = std::mem::take(&mut self.open);
        if self.before_gap.is_some() || !open.is_empty() {
            self.before_gap.get_or_insert_default().append(open);
        }
    }

    /// A hole in the broker's frames: it may hide answers.
    pub fn broker_gap(&mut self) {
        if self.ending.is_empty() && self.before_gap.is_none() {
            return;
        }
        self.uncertain = true;
        self.ending.clear();
        self.before_gap = None;
        self.kept = self.open.operations.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::operation::{ChannelId, Outcome, Tags};
    use crate::stream::ConnectionId;

    fn settle(tag: u64) -> Operation {
        let channel = ChannelId { connection: ConnectionId(1), number: 1, incarnation: 0 };
        Operation::Settled { channel, tags: Tags::One(tag), outcome: Outcome::Acknowledged }
    }

    #[test]
    fn answers_come_in_order() {
        let mut transactions = Transactions::default();
        transactions.keep(settle(1), true);
        assert_eq!(transactions.end(true), Some(vec![settle(1)]));
        transactions.keep(settle(2), true);
        assert_eq!(transactions.end(false), Some(vec![]));
        assert!(transactions.ended(false).is_none());
        assert_eq!(transactions.ended(true).unwrap().settled, 1);
        assert_eq!(transactions.ended(false).unwrap().settled, 1);
        assert!(transactions.ended(true).is_none());
        assert_eq!(transactions.kept(), 0);
    }

    #[test]
    fn a_commit_in_a_hole_commits_what_came_before() {
        let mut transactions = Transactions::default();
        transactions.keep(settle(1), true);
        transactions.client_gap();
        transactions.keep(settle(2), true);
        assert_eq!(transactions.ended(true).unwrap().operations, [settle(1)]);
        assert_eq!(transactions.kept(), 1);
        transactions.end(true);
        transactions.broker_gap();
        assert!(transactions.ended(true).is_none(), "that answer may be to a later commit");
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let mut transactions = Transactions::default();
        let kept = (0..MOST_OPERATIONS as u64 + 5).filter(|&tag| transactions.keep(settle(tag), true)).count();
        assert_eq!(kept, MOST_OPERATIONS);
        assert_eq!(transactions.end(true).map(|operations| operations.len()), Some(MOST_OPERATIONS));
        assert_eq!(transactions.kept(), 0);
        assert_eq!(transactions.ended(true).unwrap().settled, MOST_OPERATIONS as u64 + 5);
    }
}
