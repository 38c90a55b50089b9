//! What is remembered of logs, so that spans link to each other and have true times: batches, and what each group was handed.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;

use hashbrown::HashMap;

use crate::export::resource::Resource;
use crate::export::spans::ids::{SpanContext, publish_context};
use crate::export::spans::pairs::resource;
use crate::lifecycle::transition::{Attributes, Transition};
use crate::names::Name;
use crate::protocol::operation::Identity;
use crate::time::Timestamp;

/// Where, whose, and for whom: what spans have in common.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Subject {
    pub topic: Name,
    pub partition: i32,
    pub group: Option<Name>,
    pub resource: Resource,
    pub client_id: Option<Name>,
    pub server: Option<SocketAddr>,
}

impl Subject {
    /// Of a line about a partition.
    pub fn of(line: &Transition<'_>) -> Option<Subject> {
        Subject::of_attributes(&line.attributes)
    }

    /// Of anything about a partition.
    pub fn of_attributes(attributes: &Attributes<'_>) -> Option<Subject> {
        Some(Subject {
            topic: attributes.topic?.clone(),
            partition: attributes.partition?,
            group: attributes.group.cloned(),
            resource: resource(attributes.process),
            client_id: attributes.client_id.cloned(),
            server: attributes.server.copied(),
        })
    }

    /// Whether a line has the same one. Cheaper than making another.
    pub fn is_of(&self, line: &Transition<'_>) -> bool {
        let Attributes { topic, partition, group, client_id, server, process, .. } = line.attributes;
        let pid = match &self.resource {
            Resource::Process { pid, .. } => Some(*pid),
            Resource::Agent | Resource::Unknown => None,
        };
        topic == Some(&self.topic)
            && partition == Some(self.partition)
            && group == self.group.as_ref()
            && client_id == self.client_id.as_ref()
            && server == self.server.as_ref()
            && pid == process.map(|process| process.pid)
    }
}

/// Messages that were appended together.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub identity: Identity,
    pub first: i64,
    pub last: i64,
    pub records: u64,
    /// Chosen by chance: it has its spans whatever becomes of it.
    pub sampled: bool,
    /// Whose it is and when it was sent, where that was seen.
    pub sent: Option<Sent>,
    /// The producer's span went out.
    pub told: bool,
}

/// A batch's producer.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub subject: Rc<Subject>,
    pub created: Timestamp,
    pub confirmed: Option<Timestamp>,
}

impl Known {
    /// The context of our span of its sending.
    pub fn context(&self) -> SpanContext {
        publish_context(self.identity, None)
    }
}

/// Messages that a consumer was handed at once.
#[derive(Clone, Debug)]
pub(super) struct Polled {
    pub subject: Rc<Subject>,
    /// Of a consumer without a group, told apart by its connection.
    pub client: Option<SocketAddr>,
    pub first: i64,
    pub last: i64,
    pub count: u64,
    pub delivery: u32,
    pub dispatched: Timestamp,
    /// When the application read them, if that was seen.
    pub read: Option<Timestamp>,
    /// Something of it was chosen by chance.
    pub sampled: bool,
    /// Its span went out, in this context.
    pub told: Option<SpanContext>,
}

impl Polled {
    fn is_for(&self, line: &Transition<'_>) -> bool {
        let attributes = &line.attributes;
        self.subject.group.as_ref() == attributes.group
            && (attributes.group.is_some() || self.client == attributes.client.copied())
    }

    pub fn overlaps(&self, (first, last): (i64, i64)) -> bool {
        self.first <= last && first <= self.last
    }
}

/// One partition.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// In the order of offsets.
    batches: VecDeque<Known>,
    /// In the order in which they were handed out.
    polls: VecDeque<Polled>,
    /// Messages that were copied elsewhere to be tried again: the group, the offset, and the span of the work on them.
    copied: VecDeque<(Option<Name>, i64, SpanContext)>,
    subjects: VecDeque<Rc<Subject>>,
}

impl Place {
    /// Applications whose names are shared.
    const SUBJECTS: usize = 16;

    /// The subject of a line, shared with lines before it.
    pub fn subject(&mut self, line: &Transition<'_>) -> Option<Rc<Subject>> {
        if let Some(subject) = self.subjects.iter().find(|subject| subject.is_of(line)) {
            return Some(subject.clone());
        }
        let subject = Rc::new(Subject::of(line)?);
        if self.subjects.len() >= Self::SUBJECTS {
            self.subjects.pop_front();
        }
        self.subjects.push_back(subject.clone());
        Some(subject)
    }

    /// Remembers a batch. One that begins at the same offset is replaced.
    pub fn add(&mut self, known: Known, room: Room) {
        let at = self.batches.partition_point(|other| other.first < known.first);
        match self.batches.get_mut(at) {
            Some(other) if other.first == known.first => *other = known,
            _ => self.batches.insert(at, known),
        }
        self.trim(room);
    }

    /// The batch that begins at an offset.
    pub fn batch(&self, first: i64) -> Option<&Known> {
        let at = self.batches.partition_point(|other| other.first < first);
        self.batches.get(at).filter(|known| known.first == first)
    }

    /// The batches that hold something of a range.
    pub fn batches(&mut self, (first, last): (i64, i64)) -> impl Iterator<Item = &mut Known> {
        let from = self.batches.partition_point(|known| known.last < first);
        self.batches.iter_mut().skip(from).take_while(move |known| known.first <= last)
    }

    /// Remembers what was handed out, in place of what the same consumer was handed of it before.
    pub fn handed(&mut self, polled: Polled, line: &Transition<'_>, room: Room) {
        if let Some(last) = self.polls.back_mut()
            && last.is_for(line)
            && (last.dispatched, last.delivery) == (polled.dispatched, polled.delivery)
            && last.last < polled.first
        {
            last.last = polled.last;
            last.count += polled.count;
            last.sampled |= polled.sampled;
            return;
        }
        self.forget((polled.first, polled.last), line);
        self.polls.push_back(polled);
        self.trim(room);
    }

    /// The span of the work on a message that was copied to be tried again.
    pub fn copied(&self, group: Option<&Name>, offset: i64) -> Option<SpanContext> {
        let is_it = |(of, copied, _): &&(Option<Name>, i64, SpanContext)| of.as_ref() == group && *copied == offset;
        self.copied.iter().rfind(is_it).map(|(_, _, context)| *context)
    }

    /// Remembers it.
    pub fn copy(&mut self, group: Option<&Name>, offset: i64, context: SpanContext, room: Room) {
        self.copied.push_back((group.cloned(), offset, context));
        self.trim(room);
    }

    /// Forgets the oldest beyond what there is room for.
    fn trim(&mut self, Room(most): Room) {
        self.batches.drain(..self.batches.len().saturating_sub(most));
        self.polls.drain(..self.polls.len().saturating_sub(most));
        self.copied.drain(..self.copied.len().saturating_sub(most));
    }

    /// What the consumer of a line was handed of a range.
    pub fn polls<'a>(
        &'a mut self,
        line: &'a Transition<'_>,
        range: (i64, i64),
    ) -> impl Iterator<Item = &'a mut Polled> {
        self.polls.iter_mut().filter(move |polled| polled.overlaps(range) && polled.is_for(line))
    }

    /// The consumer of a line is done with a range.
    pub fn forget(&mut self, (first, last): (i64, i64), line: &Transition<'_>) {
        self.polls.retain_mut(|polled| {
            if !polled.overlaps((first, last)) || !polled.is_for(line) {
                return true;
            }
            if polled.first < first && last < polled.last {
                return true;
            }
            if polled.first < first {
                polled.last = first - 1;
            } else {
                polled.first = last.saturating_add(1);
            }
            polled.first <= polled.last
        });
    }
}

/// How many batches, and how much that was handed out and is not settled, one partition may remember.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room(usize);

type Key = (Name, i32);

/// All partitions, in two generations: the ones that were used longest ago go together.
#[derive(Debug, Default)]
pub(super) struct Places {
    young: HashMap<Key, Place>,
    old: HashMap<Key, Place>,
}

impl Places {
    /// Partitions of one generation.
    const MOST: usize = 4096;

    /// Batches of all partitions of one generation together, and as much of what was handed out.
    const ENTRIES: usize = 32_768;
    /// For one partition, while there are few.
    const EACH: usize = 256;

    /// What is remembered of a line's partition, and how much of it may be.
    pub fn of(&mut self, attributes: &Attributes<'_>) -> Option<(&mut Place, Room)> {
        let key = (attributes.topic?.clone(), attributes.partition?);
        if !self.young.contains_key(&key) {
            if self.young.len() >= Self::MOST {
                self.old = std::mem::take(&mut self.young);
            }
            let place = self.old.remove(&key).unwrap_or_default();
            self.young.insert(key.clone(), place);
            if self.young.len().is_power_of_two() {
                let room = self.room();
                self.young.values_mut().for_each(|place| place.trim(room));
            }
        }
        let room = self.room();
        self.young.get_mut(&key).map(|place| (place, room))
    }

    fn room(&self) -> Room {
        Room((Self::ENTRIES / self.young.len().max(1)).min(Self::EACH))
    }
}
