//! What happens in logs: topics that are cut into partitions, where messages have offsets and whole ranges of them move at once.

use std::rc::Rc;
use std::time::Duration;

use super::TraceContext;
use crate::names::Name;
use crate::stream::{ConnectionId, Flow, Position};
use crate::time::Timestamp;

/// A topic's id (KIP-516): 128 random bits, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicId(pub [u8; 16]);

/// A topic as the wire calls it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// By its name.
    Name(Name),
    /// By its id, whose name may be learned later.
    Id(TopicId),
}

/// One partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition {
    /// The topic.
    pub topic: Topic,
    /// Its number in the topic.
    pub number: i32,
}

/// An idempotent producer's count of its batches in a partition (KIP-98): the same numbers, the same batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sequence {
    /// The producer's id.
    pub producer: i64,
    /// Its epoch.
    pub epoch: i16,
    /// Number of the batch's first record.
    pub first: i32,
}

/// Messages that were appended together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// How many; at least 1. Fewer than the offsets between the two where some were compacted away.
    pub records: u64,
    /// Offset of the first; counted from 0 until the broker has given offsets.
    pub first: i64,
    /// Offset of the last.
    pub last: i64,
    /// Its size on the wire in bytes, compressed as it is.
    pub bytes: u64,
    /// A checksum over its content, which stays the same on its way through the broker unless that compresses anew or sets the
    /// time (CRC-32C of the batch).
    pub checksum: Option<u32>,
    /// Its producer's count, where it has one.
    pub sequence: Option<Sequence>,
    /// The first message's timestamp in milliseconds, as the producer wrote it; the broker keeps it. `None`: the format has none,
    /// or it stands for something else now (KIP-534).
    pub timestamp: Option<i64>,
    /// It is part of a transaction.
    pub transactional: bool,
    /// Those of its messages that are told of singly, in the order of offsets.
    pub traced: Option<Rc<[Traced]>>,
    /// First and last offset of each range between the two that holds no message; `None`: there is none, or it is not known.
    pub gaps: Option<Box<[(i64, i64)]>>,
}

/// A message of a batch whose own trace is sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traced {
    /// Its offset less that of the batch's first message.
    pub delta: u32,
    /// How many messages of the batch come before it.
    pub place: u32,
    /// The context that it brought.
    pub context: TraceContext,
}

/// Messages of a batch that are told of together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// Offset of the first.
    pub first: i64,
    /// Offset of the last.
    pub last: i64,
    /// How many; at least 1.
    pub count: u64,
    /// Of one that is told of singly.
    pub trace: Option<&'a TraceContext>,
}

impl Batch {
    /// Its messages, those that are told of singly between the others.
    pub fn parts(&self) -> Vec<Part<'_>> {
        let (mut parts, mut next, mut told) = (Vec::new(), self.first, 0);
        for traced in self.traced.as_deref().unwrap_or_default() {
            let (offset, place) = (self.first.saturating_add(traced.delta.into()), u64::from(traced.place));
            // What was read of a batch and what its header says may contradict each other.
            let fits = place.checked_sub(told).is_some_and(|before| before <= offset.abs_diff(next)) && offset >= next;
            let behind = self.records.checked_sub(place + 1).is_some_and(|behind| behind <= self.last.abs_diff(offset));
            if !fits || !behind || offset > self.last {
                continue;
            }
            if place > told {
                parts.push(Part { first: next, last: offset - 1, count: place - told, trace: None });
            }
            parts.push(Part { first: offset, last: offset, count: 1, trace: Some(&traced.context) });
            (next, told) = (offset + 1, place + 1);
        }
        if told < self.records && next <= self.last {
            parts.push(Part { first: next, last: self.last, count: self.records - told, trace: None });
        }
        parts
    }
}

/// Which brokers must have a batch before its producer is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Acks {
    /// None: the producer is not answered.
    None,
    /// The partition's leader.
    Leader,
    /// All replicas that are in sync.
    All,
}

/// A request's number on its connection; an answer names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// Why a message was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CopyFate {
    /// To be tried again.
    Retry,
    /// Nobody tries it again.
    DeadLetter,
}

/// A message that was consumed elsewhere before it was produced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// How many offsets it lies behind the first of its batch.
    pub place: u64,
    /// What becomes of the original.
    pub fate: CopyFate,
    /// Which message that is.
    pub original: Original,
}

/// The message that another one is a copy of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Original {
    /// The copy says so itself.
    Named {
        /// Where it is.
        partition: Partition,
        /// Its offset there.
        offset: i64,
        /// The group that consumed it there, if that is said.
        group: Option<Name>,
        /// That group is not said, but called so unless somebody chose otherwise.
        presumed: bool,
        /// The class of the exception that its consumer met.
        cause: Option<Name>,
    },
    /// The copy says nothing. It is alike to messages that its application was sent: in key and value, or in key and trace.
    Alike {
        /// These, the latest first.
        sent: Vec<Sent>,
        /// The application was not long ago sent others that are not known any more, or could not be read.
        incomplete: bool,
    },
}

/// A message that an application was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// From where.
    pub partition: Partition,
    /// Its offset there.
    pub offset: i64,
    /// Over which connection.
    pub connection: ConnectionId,
}

/// What a share group's member says of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// There is none at this offset.
    Gap,
    /// Done.
    Accept,
    /// Somebody may have it again.
    Release,
    /// Nobody may have it again.
    Reject,
    /// It takes longer.
    Renew,
}

impl Verdict {
    /// By its number on the wire (ShareAcknowledgeRequest.json).
    pub fn of(number: i64) -> Option<Verdict> {
        match number {
            0 => Some(Verdict::Gap),
            1 => Some(Verdict::Accept),
            2 => Some(Verdict::Release),
            3 => Some(Verdict::Reject),
            4 => Some(Verdict::Renew),
            _ => None,
        }
    }
}

/// A member of a consumer group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The group.
    pub group: Name,
    /// The id that the coordinator gave, or the member chose; empty for a consumer that assigns itself and only commits.
    pub member: Name,
}

/// How long a member of a group may be silent, as it said when it joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patience {
    /// Without a word to its coordinator, until it is expired.
    pub session: Option<Duration>,
    /// Between two polls for messages.
    pub poll: Option<Duration>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum LogOperation {
    /// A topic's id and its name belong together.
    TopicNamed {
        /// The id.
        id: TopicId,
        /// The name.
        name: Name,
    },
    /// A producer sent a batch.
    Produced {
        /// The request that holds it.
        request: RequestId,
        /// Where to.
        partition: Partition,
        /// What.
        batch: Batch,
        /// Who has to have it.
        acks: Acks,
        /// Those of its messages that are copies of others.
        copies: Vec<Copy>,
    },
    /// The broker answered for what a request appends to a partition.
    ProduceAnswered {
        /// The request.
        request: RequestId,
        /// The partition.
        partition: Partition,
        /// The offset that the first record was given; `None`: not told, as with an error.
        offset: Option<i64>,
        /// The broker's error code; 0: none.
        error: i16,
    },
    /// Nobody will know what the broker answered to a request.
    AnswerLost {
        /// The request.
        request: RequestId,
    },
    /// The broker sent messages of a partition to a consumer.
    Fetched {
        /// Which partition.
        partition: Partition,
        /// What, in the order of the log; never empty.
        batches: Vec<Batch>,
        /// The consumer asked from this offset on; what the first batch holds before it is not handed over. `None`: not known.
        from: Option<i64>,
        /// A reader of committed messages will drop them: their transaction was aborted.
        aborted: bool,
        /// The flow that carried them.
        flow: Flow,
        /// Position behind the last byte: when the reader passes it, the application has them.
        end: Position,
    },
    /// The broker told how far a partition reaches.
    Reaches {
        /// The partition.
        partition: Partition,
        /// Offset behind the last message that consumers may be given: the high watermark.
        end: Option<i64>,
        /// Offset behind the last one that readers of committed messages may be given: the last stable offset.
        stable: Option<i64>,
    },
    /// There is no such topic, or none any more.
    TopicGone(Topic),
    /// What a group has committed was deleted: in all partitions, or in one.
    OffsetsDeleted {
        /// The group.
        group: Name,
        /// The partition; `None`: all.
        partition: Option<Partition>,
    },
    /// Something that passed on this connection was not understood: bytes of it are missing, or nobody knows where a frame begins.
    Unread,
    /// A consumer speaks here as a member of a group.
    MemberSeen(Member),
    /// What a member consumes from now on, and nothing else.
    Assigned {
        /// The member.
        member: Member,
        /// Its partitions.
        partitions: Vec<Partition>,
        /// How long it may be silent.
        patience: Patience,
    },
    /// A consumer asks for what it wants, once more.
    FetchAsked,
    /// A consumer wants messages of a partition from now on, or does not any more.
    Wanted {
        /// The partition.
        partition: Partition,
        /// It does.
        wanted: bool,
    },
    /// A member is none any more: it said so, or the coordinator does not know it.
    MemberLeft(Member),
    /// The coordinator told where a group stands in a partition.
    Position {
        /// The member that asked.
        member: Member,
        /// The partition.
        partition: Partition,
        /// The committed offset; `None`: there is none.
        offset: Option<i64>,
    },
    /// A commit, as the coordinator answered it.
    Committed {
        /// The member that commits.
        member: Member,
        /// The partition.
        partition: Partition,
        /// All before it is done.
        offset: i64,
        /// The broker's error code; 0: none.
        error: i16,
        /// It counts when this producer's transaction is committed.
        transaction: Option<i64>,
        /// When the member asked for it.
        asked: Timestamp,
    },
    /// A share group's member was given messages, each on its own (KIP-932).
    Acquired {
        /// The member.
        member: Member,
        /// The partition.
        partition: Partition,
        /// Offset of the first.
        first: i64,
        /// Offset of the last.
        last: i64,
        /// How often they were given, with this time, as the broker counts.
        delivery: u32,
        /// The flow that carried them.
        flow: Flow,
        /// Position behind the last byte of all that came with them.
        end: Position,
    },
    /// What a share group's member says of messages, as the broker answered it.
    Judged {
        /// The member.
        member: Member,
        /// The partition.
        partition: Partition,
        /// Offset of the first.
        first: i64,
        /// Offset of the last.
        last: i64,
        /// What it says of them.
        verdict: Verdict,
        /// The broker's error code; 0: none.
        error: i16,
        /// When the member said so.
        asked: Timestamp,
    },
    /// A producer's transaction ended, as the coordinator answered.
    TransactionEnded {
        /// The producer's id.
        producer: i64,
        /// Committed, or aborted.
        committed: bool,
        /// The broker's error code; 0: none.
        error: i16,
    },
}
