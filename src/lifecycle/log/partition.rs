//! One partition: what was produced into it, and how each group goes through it.

use std::collections::VecDeque;
use std::rc::Rc;

use hashbrown::HashMap;

use super::super::party::Party;
use super::super::transition::State;
use super::chain::Chain;
use super::consumers::Consumer;
use super::copies::Root;
use super::gaps;
use super::lag::Ends;
use crate::protocol::operation::log::{Acks, Batch, Copy, RequestId, Sequence};
use crate::stream::ConnectionId;
use crate::time::Timestamp;

/// A batch that was produced, until its offsets are known.
#[derive(Debug)]
pub(super) struct Produced {
    /// The connection and request that sent it last.
    pub request: (ConnectionId, RequestId),
    pub batch: Batch,
    pub acks: Acks,
    /// Created, or PublishFailed.
    pub state: State,
    /// Its request is still to be answered.
    pub awaits: bool,
    pub created: Timestamp,
    pub party: Rc<Party>,
    /// Those of its messages that are copies, until that was told.
    pub copies: Vec<Copy>,
    /// What of these it was told without knowing their offsets: their places in the batch, and their originals.
    pub roots: Vec<(u64, Rc<Root>)>,
}

/// A batch whose offsets are known.
#[derive(Debug)]
pub(super) struct Stored {
    pub first: i64,
    pub last: i64,
    pub sequence: Option<Sequence>,
    pub created: Timestamp,
    pub confirmed: Option<Timestamp>,
    pub party: Rc<Party>,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Partition {
    produced: VecDeque<Produced>,
    stored: VecDeque<Stored>,
    /// Requests that send once more what is stored: their answers say nothing new.
    repeats: VecDeque<(ConnectionId, RequestId)>,
    /// The latest messages that are copies: their offsets and their originals.
    copies: VecDeque<(i64, Rc<Root>)>,
    pub chains: HashMap<Consumer, Chain>,
    pub ends: Ends,
    pub gaps: gaps::Shared,
}

impl Partition {
    /// Batches that wait for their offsets. The oldest makes room.
    const PRODUCED: usize = 1024;
    /// Stored batches among which a repeated one is looked for: a producer has five under way at most.
    const REPEATED: usize = 64;
    /// Batches whose times are remembered for those who read them.
    const STORED: usize = 256;
    /// Copies whose originals are remembered, should they be copied again.
    const COPIES: usize = 1024;

    /// Adds a batch; returns the one that made room for it.
    pub fn add(&mut self, produced: Produced) -> Option<Produced> {
        self.produced.push_back(produced);
        if self.produced.len() > Self::PRODUCED { self.produced.pop_front() } else { None }
    }

    /// The batch that this one repeats, if it does: an idempotent producer says so itself; of another one, the same bytes from the
    /// same application after a failure are the same messages.
    pub fn repeated(&mut self, batch: &Batch, party: &Party, request: RequestId) -> Repeated<'_> {
        if batch.sequence.is_some()
            && self.stored.iter().rev().take(Self::REPEATED).any(|stored| stored.sequence == batch.sequence)
        {
            if self.repeats.len() == Self::REPEATED {
                self.repeats.pop_front();
            }
            self.repeats.push_back((party.connection, request));
            return Repeated::Stored;
        }
        let same = |produced: &&mut Produced| match batch.sequence {
            Some(sequence) => produced.batch.sequence == Some(sequence),
            None => {
                produced.state == State::PublishFailed
                    && produced.batch.sequence.is_none()
                    && produced.batch.checksum.is_some()
                    && produced.batch.checksum == batch.checksum
                    && produced.batch.records == batch.records
                    && produced.party.is_same_application(party)
            }
        };
        self.produced.iter_mut().find(same).map_or(Repeated::No, Repeated::Waiting)
    }

    /// The batch of a request. A request holds at most one for each partition.
    pub fn of_request(&mut self, request: (ConnectionId, RequestId)) -> Option<&mut Produced> {
        self.produced.iter_mut().find(|produced| produced.awaits && produced.request == request)
    }

    /// Whether this request sent once more what was stored. It is answered only once.
    pub fn take_repeat(&mut self, request: (ConnectionId, RequestId)) -> bool {
        let at = self.repeats.iter().position(|repeat| *repeat == request);
        at.and_then(|at| self.repeats.remove(at)).is_some()
    }

    /// The batch that was stored under these offsets, as its content tells.
    pub fn take_stored(&mut self, batch: &Batch) -> Option<Produced> {
        let checksum = batch.checksum?;
        // What is still to be answered may have been read by others before its producer hears of it.
        let at = self.produced.iter().position(|produced| {
            !produced.awaits
                && produced.batch.checksum == Some(checksum)
                && produced.batch.records == batch.records
                && produced.batch.sequence == batch.sequence
        })?;
        self.produced.remove(at)
    }

    /// Takes the batch of a request away, to be stored.
    pub fn take_of_request(&mut self, request: (ConnectionId, RequestId)) -> Option<Produced> {
        self.take_first(|produced| produced.awaits && produced.request == request)
    }

    /// Takes the first batch away of which something is true.
    pub fn take_first(&mut self, is_it: impl Fn(&Produced) -> bool) -> Option<Produced> {
        let at = self.produced.iter().position(is_it)?;
        self.produced.remove(at)
    }

    /// Whether a connection has batches that are still to be answered.
    pub fn awaits(&self, connection: ConnectionId) -> bool {
        self.awaited().any(|awaited| awaited == connection)
    }

    /// The connections of the batches that are still to be answered.
    pub fn awaited(&self) -> impl Iterator<Item = ConnectionId> + '_ {
        self.produced.iter().filter(|produced| produced.awaits).map(|produced| produced.request.0)
    }

    /// The batches of a connection that are still to be answered.
    pub fn awaiting(&mut self, connection: ConnectionId) -> impl Iterator<Item = &mut Produced> {
        self.produced.iter_mut().filter(move |produced| produced.awaits && produced.request.0 == connection)
    }

    /// Remembers a batch under its offsets.
    pub fn store(&mut self, stored: Stored) {
        if self.stored.len() >= Self::STORED {
            self.stored.pop_front();
        }
        self.stored.push_back(stored);
    }

    /// What is known of the batch that holds an offset.
    pub fn stored(&self, offset: i64) -> Option<&Stored> {
        self.stored.iter().rev().find(|stored| (stored.first..=stored.last).contains(&offset))
    }

    /// The message at an offset is a copy.
    pub fn is_copy(&mut self, offset: i64, of: Rc<Root>) {
        if self.copies.len() >= Self::COPIES {
            self.copies.pop_front();
        }
        self.copies.push_back((offset, of));
    }

    /// What the message at an offset is a copy of.
    pub fn copy_of(&self, offset: i64) -> Option<&Rc<Root>> {
        self.copies.iter().rev().find(|(copy, _)| *copy == offset).map(|(_, root)| root)
    }

    /// Takes over what was known of it under another name.
    pub fn merge(&mut self, other: Partition) {
        self.produced.extend(other.produced);
        self.ends.merge(&other.ends);
        for stored in other.stored {
            self.store(stored);
        }
        for (offset, root) in other.copies {
            self.is_copy(offset, root);
        }
        for (consumer, mut chain) in other.chains {
            chain.gaps = self.gaps.clone();
            match self.chains.get_mut(&consumer) {
                Some(known) => known.absorb(chain),
                None => drop(self.chains.insert(consumer, chain)),
            }
        }
    }
}

/// See [`Partition::repeated`].
pub(super) enum Repeated<'a> {
    /// It is new.
    No,
    /// It is this one.
    Waiting(&'a mut Produced),
    /// It was stored before.
    Stored,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_and_sent_again_is_answered_once_more() {
        let (party, elsewhere) = (Party::unknown(ConnectionId(1)), Party::unknown(ConnectionId(2)));
        let sequence = Some(Sequence { producer: 7, epoch: 0, first: 0 });
        let batch = Batch {
            records: 3,
            first: 0,
            last: 2,
            bytes: 100,
            checksum: None,
            sequence,
            timestamp: None,
            transactional: false,
            traced: None,
            gaps: None,
        };
        let mut partition = Partition::default();
        let (created, confirmed) = (Timestamp(1), None);
        partition.store(Stored { first: 10, last: 12, sequence, created, confirmed, party: party.clone() });
        assert!(matches!(partition.repeated(&batch, &elsewhere, RequestId(5)), Repeated::Stored));
        // Another request of the same number, on the connection that was lost.
        assert!(!partition.take_repeat((party.connection, RequestId(5))));
        assert!(partition.take_repeat((elsewhere.connection, RequestId(5))));
        assert!(!partition.take_repeat((elsewhere.connection, RequestId(5))));
        for request in 0..1000 {
            partition.repeated(&batch, &elsewhere, RequestId(request));
        }
        assert_eq!(partition.repeats.len(), Partition::REPEATED);
    }
}
