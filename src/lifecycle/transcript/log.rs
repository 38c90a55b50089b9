//! The commands about logs: `log …`. `topic/0` is a partition, `#1/0` one of a topic that is known by its id.

use std::rc::Rc;
use std::time::Duration;

use super::{Stage, Words};
use crate::protocol::operation::log::{
    Acks, Batch, Copy, CopyFate, LogOperation, Member, Original, Partition, Patience, RequestId, Sent, Sequence, Topic,
    TopicId, Traced,
};
use crate::protocol::operation::{Operation, TraceContext};
use crate::stream::{ConnectionId, Flow};

impl Stage {
    pub(super) fn log(&mut self, words: &Words<'_>) -> Operation {
        let named = words.plain.get(2).filter(|word| word.contains('/')).map(|word| partition_of(word));
        let at = || named.clone().expect("which partition?");
        let request = RequestId(words.number("request").unwrap_or(1));
        let error = words.number("error").unwrap_or(0);
        Operation::Log(match words.plain[1] {
            "named" => LogOperation::TopicNamed { id: id(words.plain[2]), name: words.plain[3].into() },
            "produce" => {
                let acks = if words.get("acks") == Some("0") { Acks::None } else { Acks::All };
                let count: i64 = words.number("count").unwrap_or(1);
                let (batch, copies) = (batch(words, 0, count - 1), copies(words));
                LogOperation::Produced { request, partition: at(), batch, acks, copies }
            }
            "answer" => {
                LogOperation::ProduceAnswered { request, partition: at(), offset: words.number("offset"), error }
            }
            "unanswered" => LogOperation::AnswerLost { request },
            // `3-7`: one batch; `3-4,5-7`: two.
            "fetch" => {
                let batches = words.plain[3].split(',').map(|range| {
                    let (first, last) = range.split_once('-').unwrap();
                    batch(words, first.parse().unwrap(), last.parse().unwrap())
                });
                self.position += 100;
                LogOperation::Fetched {
                    partition: at(),
                    batches: batches.collect(),
                    from: words.number("from"),
                    aborted: words.has("aborted"),
                    flow: Flow::Backward,
                    end: self.position,
                }
            }
            "reaches" => {
                LogOperation::Reaches { partition: at(), end: words.number("end"), stable: words.number("stable") }
            }
            "gone" => LogOperation::TopicGone(partition_of(&format!("{}/0", words.plain[2])).topic),
            "forget" => LogOperation::OffsetsDeleted { group: member(words).group, partition: named },
            "unread" => LogOperation::Unread,
            "member" => LogOperation::MemberSeen(member(words)),
            // `poll=300`, `session=45`: seconds that it may be silent.
            "assign" => LogOperation::Assigned {
                member: member(words),
                partitions: words.plain[2..].iter().map(|word| partition_of(word)).collect(),
                patience: Patience {
                    session: words.number("session").map(Duration::from_secs),
                    poll: words.number("poll").map(Duration::from_secs),
                },
            },
            "wants" => LogOperation::Wanted { partition: at(), wanted: !words.has("not") },
            "asks" => LogOperation::FetchAsked,
            "leave" => LogOperation::MemberLeft(member(words)),
            "position" => {
                LogOperation::Position { member: member(words), partition: at(), offset: words.number("offset") }
            }
            "commit" => LogOperation::Committed {
                member: member(words),
                partition: at(),
                offset: words.number("offset").unwrap(),
                error,
                transaction: words.number("producer"),
                asked: self.now,
            },
            "end" => LogOperation::TransactionEnded {
                producer: words.number("producer").unwrap(),
                committed: words.has("commit"),
                error,
            },
            other => panic!("unknown command log {other}"),
        })
    }
}

fn partition_of(word: &str) -> Partition {
    let (topic, number) = word.split_once('/').unwrap();
    let topic = if topic.starts_with('#') { Topic::Id(id(topic)) } else { Topic::Name(topic.into()) };
    Partition { topic, number: number.parse().unwrap() }
}

fn id(word: &str) -> TopicId {
    let number: u128 = word.strip_prefix('#').unwrap().parse().unwrap();
    TopicId(number.to_be_bytes())
}

fn member(words: &Words<'_>) -> Member {
    Member { group: words.get("group").unwrap_or("g").into(), member: words.get("member").unwrap_or("").into() }
}

fn batch(words: &Words<'_>, first: i64, last: i64) -> Batch {
    let sequence = words.get("seq").map(|numbers| {
        let numbers: Vec<i64> = numbers.split(':').map(|number| number.parse().unwrap()).collect();
        Sequence { producer: numbers[0], epoch: numbers[1] as i16, first: numbers[2] as i32 }
    });
    // `gaps=3-5,8-8`: offsets of the batch that hold nothing.
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap();
        (first.parse::<i64>().unwrap(), last.parse::<i64>().unwrap())
    };
    let gaps = words.get("gaps").map(|list| list.split(',').map(range).collect());
    Batch {
        records: words.number("records").unwrap_or((last - first + 1) as u64),
        first,
        last,
        bytes: 100,
        checksum: words.number("sum"),
        sequence,
        traced: traced(words, first, last),
        timestamp: None,
        transactional: words.has("transactional"),
        gaps,
    }
}

/// `copy=orders/0:3` has headers that say so, `alike=2:orders/0:3,2:orders/0:5` was sent over connection 2 as either; `… retry`.
/// They are the batch's first messages.
fn copies(words: &Words<'_>) -> Vec<Copy> {
    let fate = if words.has("retry") { CopyFate::Retry } else { CopyFate::DeadLetter };
    let message = |word: &str| {
        let (partition, offset) = word.rsplit_once(':').unwrap();
        (partition_of(partition), offset.parse::<i64>().unwrap())
    };
    let named = words.get("copy").into_iter().flat_map(|list| list.split(',')).map(|word| {
        let (partition, offset) = message(word);
        let (group, cause) = (words.get("of").map(Into::into), words.get("cause").map(Into::into));
        Original::Named { partition, offset, group, presumed: words.has("presumed"), cause }
    });
    let alike = words.get("alike").map(|list| {
        let sent = list.split(',').filter(|word| !word.is_empty()).map(|word| {
            let (connection, word) = word.split_once(':').unwrap();
            let (partition, offset) = message(word);
            Sent { partition, offset, connection: ConnectionId(connection.parse().unwrap()) }
        });
        Original::Alike { sent: sent.collect(), incomplete: words.has("incomplete") }
    });
    let places = 0..;
    places.zip(named.chain(alike)).map(|(place, original)| Copy { place, fate, original }).collect()
}

/// `traced=2,5`: the messages at these offsets (of a batch that is produced: from 0 on) bring sampled traces.
fn traced(words: &Words<'_>, first: i64, last: i64) -> Option<Rc<[Traced]>> {
    let offsets = words.get("traced")?.split(',').map(|offset| offset.parse::<i64>().unwrap());
    let of_batch = offsets.filter(|offset| (first..=last).contains(offset)).map(|offset| {
        let delta = u32::try_from(offset - first).unwrap();
        Traced { delta, place: delta, context: TraceContext { trace_id: [7; 16], span_id: [8; 8], flags: 1 } }
    });
    Some(of_batch.collect())
}
