//! Requests of a client that the broker answers in order, channel by channel.
//!
//! Most answers do not say what they answer. After a hole in either flow an answer may belong to a request that was lost, or a
//! request's answer may be lost; then what cannot be told apart stays unknown.

use std::collections::VecDeque;
use std::time::Duration;

use crate::names::Name;
use crate::protocol::operation::{Operation, QueueArguments};
use crate::time::Timestamp;

/// Requests under way on a channel. Clients send one at a time, or pipeline a handful.
const MOST: usize = 1024;
/// How long after a hole an answer to a request from before it, or in it, may still come.
const SETTLING: Duration = Duration::from_secs(1);
/// What a request costs in memory: its names are capped.
pub(super) const COST: usize = 1024;

/// What was asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Request {
    /// queue.declare; the broker names it if `queue` is `None`.
    DeclareQueue { queue: Option<Name>, arguments: Option<Box<QueueArguments>> },
    /// queue.purge, queue.delete.
    EmptyQueue { queue: Option<Name>, deleted: bool },
    /// basic.consume; the broker names it if `consumer` is `None`.
    Consume { queue: Option<Name>, consumer: Option<Name>, no_ack: bool },
    /// basic.cancel.
    Cancel { consumer: Name },
    /// basic.get.
    Get { queue: Option<Name>, no_ack: bool },
    /// Exchanges and bindings: done when the answer comes.
    Then { answer: (u16, u16), operation: Operation },
}

impl Request {
    /// Class and method of its answer. basic.get has two.
    fn is_answered_by(&self, answer: (u16, u16)) -> bool {
        match self {
            Request::DeclareQueue { .. } => answer == (50, 11),
            Request::EmptyQueue { deleted, .. } => answer == if *deleted { (50, 41) } else { (50, 31) },
            Request::Consume { .. } => answer == (60, 21),
            Request::Cancel { .. } => answer == (60, 31),
            Request::Get { .. } => matches!(answer, (60, 71 | 72)),
            Request::Then { answer: own, .. } => answer == *own,
        }
    }
}

/// The requests of a channel, oldest first.
#[derive(Debug, Default)]
pub(super) struct Requests {
    waiting: VecDeque<(Request, bool)>,
    /// Until when an answer may belong to a request that was lost.
    lost_until: Option<Timestamp>,
    /// Until when those marked may have been answered unseen.
    answered_until: Option<Timestamp>,
}

impl Requests {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Adds a request; false if there are too many.
    pub fn push(&mut self, request: Request) -> bool {
        let room = self.waiting.len() < MOST;
        if room {
            self.waiting.push_back((request, false));
        }
        room
    }

    /// Whether a queue.declare waits whose answer will change which queue was declared last.
    pub fn declares_queue(&self) -> bool {
        self.waiting.iter().any(|(request, _)| matches!(request, Request::DeclareQueue { .. }))
    }

    /// The request that an answer is for; `None` if that is not certain. `verify` compares what both name, where they do.
    pub fn answered(
        &mut self,
        answer: (u16, u16),
        time: Timestamp,
        verify: impl Fn(&Request) -> Option<bool>,
    ) -> Option<Request> {
        self.forget(time);
        let candidates = self.waiting.iter().enumerate().filter(|(_, (request, _))| request.is_answered_by(answer));
        let candidates: Vec<(usize, Option<bool>, bool)> = candidates
            .map(|(index, (request, doubtful))| (index, verify(request), *doubtful))
            .filter(|(_, verified, _)| *verified != Some(false))
            .collect();
        let &(index, verified, _) = candidates.first()?;
        let doubtful = self.lost_until.is_some() || candidates.iter().any(|(.., doubtful)| *doubtful);
        if doubtful {
            // If this answer is for another one, so is the next.
            candidates.iter().for_each(|(index, ..)| self.doubt(*index));
        }
        self.waiting.drain(..index);
        let (request, _) = self.waiting.pop_front()?;
        (verified == Some(true) || !doubtful).then_some(request)
    }

    fn doubt(&mut self, index: usize) {
        if let Some((_, doubtful)) = self.waiting.get_mut(index) {
            *doubtful = true;
        }
    }

    /// A hole in the client's frames.
    pub fn client_gap(&mut self, time: Timestamp) {
        self.lost_until = Some(time.plus(SETTLING));
        self.answered_until = self.answered_until.or(self.lost_until);
    }

    /// A hole in the broker's frames.
    pub fn broker_gap(&mut self, time: Timestamp) {
        if !self.waiting.is_empty() {
            self.answered_until = Some(time.plus(SETTLING));
            self.waiting.iter_mut().for_each(|(_, doubtful)| *doubtful = true);
        }
    }

    fn forget(&mut self, time: Timestamp) {
        if self.lost_until.is_some_and(|until| time >= until) {
            self.lost_until = None;
        }
        if self.answered_until.is_some_and(|until| time >= until) {
            self.answered_until = None;
            self.waiting.retain(|(_, doubtful)| !doubtful);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(queue: &str) -> Request {
        Request::Get { queue: Some(queue.into()), no_ack: false }
    }

    const GET_OK: (u16, u16) = (60, 71);

    fn at(seconds: u64) -> Timestamp {
        Timestamp(seconds * 1_000_000_000)
    }

    #[test]
    fn answers_come_in_order_and_skip_what_was_never_answered() {
        let mut requests = Requests::default();
        requests.push(Request::Cancel { consumer: "c".into() });
        requests.push(get("a"));
        requests.push(get("b"));
        assert_eq!(requests.answered(GET_OK, at(0), |_| None), Some(get("a")));
        assert_eq!(requests.answered((60, 72), at(0), |_| None), Some(get("b")));
        assert_eq!(requests.answered(GET_OK, at(0), |_| None), None);
    }

    #[test]
    fn after_a_lost_answer_equal_requests_cannot_be_told_apart() {
        let mut requests = Requests::default();
        requests.push(get("a"));
        requests.broker_gap(at(0));
        requests.push(get("b"));
        assert_eq!(requests.answered(GET_OK, at(0), |_| None), None);
        let mut requests = Requests::default();
        requests.push(get("a"));
        requests.broker_gap(at(0));
        requests.push(get("b"));
        assert_eq!(requests.answered(GET_OK, at(2), |_| None), Some(get("b")));
    }

    #[test]
    fn after_a_lost_request_only_what_the_answer_names_is_certain() {
        let mut requests = Requests::default();
        requests.client_gap(at(0));
        requests.push(get("a"));
        requests.push(Request::Cancel { consumer: "c".into() });
        assert_eq!(requests.answered(GET_OK, at(0), |_| None), None);
        let named = |request: &Request| Some(*request == Request::Cancel { consumer: "c".into() });
        assert!(requests.answered((60, 31), at(0), named).is_some());
        requests.push(get("a"));
        assert_eq!(requests.answered(GET_OK, at(1), |_| None), Some(get("a")));
    }
}
