//! How far groups are behind.
//!
//! A group's lag in a partition is the end of the log less the offset that the group has committed, as `kafka-consumer-groups
//! --describe` has it, and never negative. The end is the high watermark, also for groups that read committed messages only: what
//! an open transaction holds up is behind for them as well. It is known from what brokers answer to consumers (Fetch) and to
//! whoever asks for it (ListOffsets), and is at least what a producer was told of its own messages. Where no commit is known, or
//! no end, there is no lag.

use std::time::Duration;

use hashbrown::HashMap;

use super::super::KAFKA;
use super::Logs;
use super::chain::Chain;
use super::consumers::Consumer;
use super::partition::Partition;
use super::topics::Place;
use crate::names::Name;
use crate::protocol::operation::log::{self, Topic};
use crate::time::Timestamp;

/// How far a group is behind in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lag {
    /// messaging.system.
    pub system: &'static str,
    /// The group.
    pub group: Name,
    /// The topic.
    pub topic: Name,
    /// The partition.
    pub partition: i32,
    /// The offset that the group has committed: all before it is done.
    pub committed: i64,
    /// Offset behind the last message that consumers may be given.
    pub end: i64,
    /// Offset behind the last message that readers of committed messages may be given, where that was told.
    pub stable: Option<i64>,
    /// `end` less `committed`; 0 where more was committed.
    pub lag: u64,
}

/// An offset as it was told last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub offset: i64,
    told: Timestamp,
}

impl Mark {
    /// Answers overtake each other on their way from different connections, and a follower knows less than the leader: a lower
    /// offset counts if nothing higher was told for so long.
    const OVERTAKEN: Duration = Duration::from_secs(5);

    pub fn new(offset: i64, told: Timestamp) -> Mark {
        Mark { offset, told }
    }

    /// What holds after somebody told another one.
    fn after(before: Option<Mark>, offset: i64, time: Timestamp) -> Mark {
        match before {
            Some(mark) if offset < mark.offset && time < mark.told.plus(Self::OVERTAKEN) => mark,
            _ => Mark::new(offset, time),
        }
    }
}

/// How far a partition reaches.
#[derive(Debug, Default)]
pub(super) struct Ends {
    end: Option<Mark>,
    stable: Option<Mark>,
}

impl Ends {
    /// It reaches this far at least.
    pub fn at_least(&mut self, offset: i64, time: Timestamp) {
        if self.end.is_none_or(|mark| mark.offset <= offset) {
            self.end = Some(Mark::new(offset, time));
        }
    }

    /// When the end was told last.
    pub fn told_at(&self) -> Option<Timestamp> {
        self.end.map(|mark| mark.told)
    }

    fn told(&mut self, end: Option<i64>, stable: Option<i64>, time: Timestamp) {
        if let Some(offset) = end {
            self.end = Some(Mark::after(self.end, offset, time));
        }
        if let Some(offset) = stable {
            self.stable = Some(Mark::after(self.stable, offset, time));
            self.at_least(offset, time);
        }
    }

    /// Of a partition that was known under another name as well.
    pub fn merge(&mut self, other: &Ends) {
        let later = |one: Option<Mark>, other: Option<Mark>| match (one, other) {
            (Some(one), Some(other)) if one.told >= other.told => Some(one),
            (one, other) => other.or(one),
        };
        self.end = later(self.end, other.end);
        self.stable = later(self.stable, other.stable);
    }
}

/// How many messages the owner of a chain is behind in its partition; `None`: not known.
pub(super) fn lag(known: &Partition, chain: &Chain) -> Option<u64> {
    let (end, standing) = known.ends.end.zip(chain.standing)?;
    Some(behind(end.offset, standing.offset))
}

fn behind(end: i64, committed: i64) -> u64 {
    if end > committed { end.abs_diff(committed) } else { 0 }
}

/// When groups were heard of last.
#[derive(Default)]
pub(super) struct Groups {
    heard: HashMap<Name, Timestamp>,
}

impl Groups {
    /// Groups of which nothing is heard for so long have no lag any more.
    const SILENT: Duration = Duration::from_secs(3600);
    /// Groups among which silent ones are looked for when there are so many.
    const MOST: usize = 65_536;

    /// A group's member, or somebody else, spoke of a group.
    pub fn heard(&mut self, group: &Name, time: Timestamp) {
        if let Some(heard) = self.heard.get_mut(group) {
            *heard = time;
            return;
        }
        if self.heard.len() >= Self::MOST {
            self.heard.retain(|_, heard| time < heard.plus(Self::SILENT));
        }
        if self.heard.len() < Self::MOST {
            self.heard.insert(group.clone(), time);
        }
    }

    fn lives(&self, group: &Name, now: Timestamp) -> bool {
        self.heard.get(group).is_some_and(|heard| now < heard.plus(Self::SILENT))
    }
}

impl Logs {
    /// How far every group is behind, in no order.
    pub fn lags(&self, now: Timestamp) -> impl Iterator<Item = Lag> + '_ {
        let current = self.partitions.iter().filter_map(|(place, known)| {
            let topic = self.topics.current_name(place.topic)?;
            Some((place.partition, topic, known))
        });
        current.flat_map(move |(partition, topic, known)| {
            known.chains.iter().filter_map(move |(consumer, chain)| {
                let group = consumer.group().filter(|group| self.groups.lives(group, now))?;
                let (end, standing) = known.ends.end.zip(chain.standing)?;
                let (end, committed) = (end.offset, standing.offset);
                Some(Lag {
                    system: KAFKA,
                    group: group.clone(),
                    topic: topic.clone(),
                    partition,
                    committed,
                    end,
                    stable: known.ends.stable.map(|mark| mark.offset),
                    lag: behind(end, committed),
                })
            })
        })
    }

    /// The lag of a chain that is in its partition's hands no more.
    pub(super) fn lag(&self, place: Place, chain: &Chain) -> Option<u64> {
        lag(self.partitions.get(&place)?, chain)
    }

    pub(super) fn reaches(
        &mut self,
        time: Timestamp,
        partition: &log::Partition,
        end: Option<i64>,
        stable: Option<i64>,
    ) {
        if let Some((_, known)) = self.partition(partition) {
            known.ends.told(end, stable, time);
        }
    }

    /// The topic was deleted: how far it reached, and what was committed, is of no topic any more.
    pub(super) fn topic_gone(&mut self, topic: &Topic) {
        let Some(number) = self.topics.find(topic) else { return };
        for partition in self.topics.partitions(number) {
            let Some(known) = self.partitions.get_mut(&Place { topic: number, partition }) else { continue };
            known.ends = Ends::default();
            known.chains.values_mut().for_each(|chain| chain.standing = None);
        }
    }

    pub(super) fn offsets_deleted(&mut self, group: &Name, partition: Option<&log::Partition>) {
        let consumer = Consumer::Group(group.clone());
        let place = match partition {
            Some(partition) => match self.place(partition) {
                Some(place) => Some(place),
                None => return,
            },
            None => None,
        };
        for (_, known) in self.partitions.iter_mut().filter(|(of, _)| place.is_none_or(|place| place == **of)) {
            if let Some(chain) = known.chains.get_mut(&consumer) {
                chain.standing = None;
            }
        }
    }
}

impl Chain {
    /// The group has committed this.
    pub(super) fn stands(&mut self, offset: i64, time: Timestamp) {
        self.standing = Some(Mark::new(offset, time));
    }

    /// The coordinator told where the group stands; `None`: it has committed nothing.
    pub(super) fn told_to_stand(&mut self, offset: Option<i64>, time: Timestamp) {
        self.standing = match offset {
            Some(offset) => Some(Mark::after(self.standing, offset, time)),
            None => self.standing.filter(|mark| time < mark.told.plus(Mark::OVERTAKEN)),
        };
    }
}
