//! Requests that wait for their responses, and what of each the response has to know.

use std::collections::VecDeque;
use std::rc::Rc;

use hashbrown::HashSet;

use super::header::RequestHeader;
use crate::names::Name;
use crate::protocol::operation::log::{Member, Partition, RequestId, Verdict};
use crate::time::Timestamp;

/// What a response has to know of its request.
#[derive(Debug)]
pub(super) enum Context {
    /// Nothing but what it is.
    Plain,
    /// Produce. `answered`: the broker answers at all.
    Produce { request: RequestId, answered: bool },
    /// Fetch, by a consumer.
    Fetch {
        /// It wants committed messages only; `None`: not known.
        committed: Option<bool>,
    },
    /// Fetch, by another broker.
    Replicate,
    /// ListOffsets, by a client.
    Ends(Box<Ends>),
    /// OffsetCommit, TxnOffsetCommit.
    Commit(Box<Commit>),
    /// ShareFetch, ShareAcknowledge.
    Share(Box<Share>),
    /// Something about a member of a group.
    Member(Member),
    /// EndTxn.
    End(Option<Ending>),
    /// A request that was not read, or not to its end.
    Unknown,
}

/// ListOffsets.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// It asks as a reader of committed messages.
    pub committed: bool,
    /// The partitions whose end is asked for, not the offset of some time.
    pub latest: HashSet<Partition>,
}

/// OffsetCommit, TxnOffsetCommit.
#[derive(Debug)]
pub(super) struct Commit {
    pub member: Member,
    /// The producer whose transaction it is part of.
    pub transaction: Option<i64>,
    /// When it was sent.
    pub asked: Timestamp,
    pub offsets: Vec<(Partition, i64)>,
}

/// ShareFetch, ShareAcknowledge.
#[derive(Debug)]
pub(super) struct Share {
    pub member: Member,
    /// When it was sent.
    pub asked: Timestamp,
    pub judgements: Vec<Judgement>,
}

/// What a member says of a range of offsets.
#[derive(Debug)]
pub(super) struct Judgement {
    pub partition: Partition,
    pub first: i64,
    pub last: i64,
    pub verdict: Verdict,
}

/// EndTxn.
#[derive(Debug)]
pub(super) struct Ending {
    pub producer: i64,
    pub committed: bool,
}

/// A request that was sent.
#[derive(Debug)]
pub(super) struct Pending {
    pub header: RequestHeader,
    pub context: Context,
}

impl Pending {
    fn cost(&self) -> usize {
        match &self.context {
            Context::Ends(ends) => size_of::<Pending>() + size_of::<Ends>() + ends.latest.capacity() * 40,
            Context::Commit(commit) => size_of::<Pending>() + size_of::<Commit>() + commit.offsets.capacity() * 40,
            Context::Share(share) => {
                let judgements = share.judgements.capacity() * size_of::<Judgement>();
                size_of::<Pending>() + size_of::<Share>() + judgements
            }
            _ => size_of::<Pending>(),
        }
    }
}

/// The requests of a connection that are still to be answered. A broker answers them in their order (the protocol guide,
/// "Network"), so that one that is answered out of turn tells that the answers before it were not seen.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    waiting: VecDeque<Pending>,
    cost: usize,
}

impl Exchange {
    /// Requests under way on one connection. Clients send five or so before they wait.
    const MOST: usize = 10_000;

    /// A request was sent. The one that has to make room for it, if there are too many.
    pub fn sent(&mut self, pending: Pending) -> Option<Pending> {
        self.cost += pending.cost();
        self.waiting.push_back(pending);
        if self.waiting.len() > Self::MOST { self.take_first() } else { None }
    }

    /// The request with this number, if it waits for its answer.
    pub fn find(&self, correlation: i32) -> Option<&Pending> {
        self.waiting.iter().find(|pending| pending.header.correlation_id == correlation)
    }

    /// A response came. The requests before it, whose answers were not seen, go to `missed`.
    pub fn answered(&mut self, correlation: i32, mut missed: impl FnMut(Pending)) -> Option<Pending> {
        let at = self.waiting.iter().position(|pending| pending.header.correlation_id == correlation)?;
        for _ in 0..at {
            self.take_first().map(&mut missed);
        }
        self.take_first()
    }

    /// All that wait.
    pub fn drain(&mut self) -> impl Iterator<Item = Pending> + '_ {
        self.cost = 0;
        self.waiting.drain(..)
    }

    /// Memory in bytes.
    pub fn cost(&self) -> usize {
        self.cost
    }

    fn take_first(&mut self) -> Option<Pending> {
        let pending = self.waiting.pop_front()?;
        self.cost = self.cost.saturating_sub(pending.cost());
        Some(pending)
    }
}

/// A member, once its group is known. A consumer that assigns itself has no id.
pub(super) fn member(group: Option<&Name>, member: Option<&Name>) -> Option<Member> {
    let group = group.filter(|group| !group.is_empty())?.clone();
    Some(Member { group, member: member.cloned().unwrap_or_else(|| Rc::from("")) })
}
