//! Topics and their partitions, under whatever they were called.

use std::collections::BTreeSet;

use hashbrown::HashMap;

use crate::names::Name;
use crate::protocol::operation::log::{Topic, TopicId};

/// A topic's number in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct TopicNumber(u32);

/// A partition of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Place {
    pub topic: TopicNumber,
    pub partition: i32,
}

/// See the [module](self).
#[derive(Default)]
pub(super) struct Topics {
    known: Vec<Known>,
    by_name: HashMap<Name, TopicNumber>,
    by_id: HashMap<TopicId, TopicNumber>,
}

/// What it means that an id and a name belong together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Learned {
    /// What the topic was called so far, for want of its name.
    pub was: Option<Name>,
    /// It had two numbers: what is known under the first belongs to the second.
    pub moved: Option<(TopicNumber, TopicNumber)>,
    /// It was deleted and made again: its number before, and now.
    pub remade: Option<(TopicNumber, TopicNumber)>,
}

struct Known {
    name: Name,
    id: Option<TopicId>,
    /// The name is the topic's own, not its id.
    named: bool,
    /// Its partitions of which something is known.
    partitions: BTreeSet<i32>,
}

impl Topics {
    /// Topics that are kept apart. Beyond it there is no room for another.
    pub const MOST: usize = 65_536;

    /// The number of a topic; `None` where there is no room.
    pub fn number(&mut self, topic: &Topic) -> Option<TopicNumber> {
        if let Some(number) = self.find(topic) {
            return Some(number);
        }
        match topic {
            Topic::Name(name) => {
                let number = self.add(name.clone(), None, true)?;
                self.by_name.insert(name.clone(), number);
                Some(number)
            }
            Topic::Id(id) => {
                let number = self.add(text(id).into(), Some(*id), false)?;
                self.by_id.insert(*id, number);
                Some(number)
            }
        }
    }

    /// A topic's id and its name belong together.
    pub fn named(&mut self, id: TopicId, name: &Name) -> Learned {
        let of_id = self.by_id.get(&id).copied();
        let of_name = self.by_name.get(name).copied();
        let was = of_id.and_then(|one| self.get(one)).filter(|known| !known.named).map(|known| known.name.clone());
        let mut learned = Learned { was, ..Learned::default() };
        match (of_id, of_name) {
            (Some(one), Some(two)) if one == two => {}
            (_, Some(two)) if self.get(two).is_some_and(|known| known.id.is_none()) => {
                self.by_id.insert(id, two);
                self.set(two, id, name);
                learned.moved = of_id.map(|one| (one, two));
            }
            // A topic that was deleted and made again has another id, and begins anew.
            (Some(one), before) => {
                self.set(one, id, name);
                self.by_name.insert(name.clone(), one);
                learned.remade = before.map(|before| (before, one));
            }
            (None, before) => {
                let Some(number) = self.add(name.clone(), Some(id), true) else { return learned };
                self.by_id.insert(id, number);
                self.by_name.insert(name.clone(), number);
                learned.remade = before.map(|before| (before, number));
            }
        }
        learned
    }

    /// What it is called: its name, or its id in Kafka's own writing while that is unknown.
    pub fn name(&self, number: TopicNumber) -> Option<&Name> {
        self.get(number).map(|known| &known.name)
    }

    /// The same, unless another topic has the name now.
    pub fn current_name(&self, number: TopicNumber) -> Option<&Name> {
        let known = self.get(number)?;
        let current = !known.named || self.by_name.get(&known.name) == Some(&number);
        current.then_some(&known.name)
    }

    /// The number of a topic that is known.
    pub fn find(&self, topic: &Topic) -> Option<TopicNumber> {
        match topic {
            Topic::Name(name) => self.by_name.get(name),
            Topic::Id(id) => self.by_id.get(id),
        }
        .copied()
    }

    /// Something is known of a partition from now on.
    pub fn has_partition(&mut self, place: Place) {
        if let Some(known) = self.known.get_mut(place.topic.0 as usize) {
            known.partitions.insert(place.partition);
        }
    }

    /// The partitions of which something is known.
    pub fn partitions(&self, number: TopicNumber) -> impl Iterator<Item = i32> + '_ {
        self.get(number).into_iter().flat_map(|known| known.partitions.iter().copied())
    }

    /// The same, and from now on nothing is known of any.
    pub fn take_partitions(&mut self, number: TopicNumber) -> BTreeSet<i32> {
        self.known.get_mut(number.0 as usize).map(|known| std::mem::take(&mut known.partitions)).unwrap_or_default()
    }

    /// Whether it is one of the broker's own ([`INTERNAL`]).
    pub fn is_internal(&self, number: TopicNumber) -> bool {
        self.get(number).is_some_and(|known| known.named && INTERNAL.contains(&&*known.name))
    }

    fn get(&self, number: TopicNumber) -> Option<&Known> {
        self.known.get(number.0 as usize)
    }

    fn set(&mut self, number: TopicNumber, id: TopicId, name: &Name) {
        if let Some(known) = self.known.get_mut(number.0 as usize) {
            known.name = name.clone();
            known.id = Some(id);
            known.named = true;
        }
    }

    fn add(&mut self, name: Name, id: Option<TopicId>, named: bool) -> Option<TopicNumber> {
        let number = u32::try_from(self.known.len()).ok().filter(|_| self.known.len() < Self::MOST)?;
        self.known.push(Known { name, id, named, partitions: BTreeSet::new() });
        Some(TopicNumber(number))
    }
}

/// Topics in which brokers keep what they know (org.apache.kafka.common.internals.Topic).
const INTERNAL: [&str; 4] = ["__consumer_offsets", "__transaction_state", "__share_group_state", "__cluster_metadata"];

/// A topic's id as Kafka writes it: 22 characters of base64url without padding (org.apache.kafka.common.Uuid).
fn text(id: &TopicId) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let number = u128::from_be_bytes(id.0);
    // 128 bits are 21 digits of six bits and one of two, which stand first in it.
    let digit = |place: u32| if place < 21 { number >> (122 - 6 * place) } else { number << 4 };
    (0..22).map(|place| char::from(DIGITS[(digit(place) & 63) as usize])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(topic: &str) -> Topic {
        Topic::Name(topic.into())
    }

    #[test]
    fn ids_are_written_as_kafka_does() {
        // The ids of the metadata topic and of no topic (org.apache.kafka.common.Uuid: METADATA_TOPIC_ID, ZERO_UUID).
        assert_eq!(text(&TopicId(1u128.to_be_bytes())), "AAAAAAAAAAAAAAAAAAAAAQ");
        assert_eq!(text(&TopicId([0; 16])), "AAAAAAAAAAAAAAAAAAAAAA");
        let id = TopicId(*b"\x32\x4e\xc4\x10\x5a\x70\x52\xd4\x36\x42\xff\xfe\xfd\xfc\xfb\xfa");
        assert_eq!(text(&id), "Mk7EEFpwUtQ2Qv_-_fz7-g");
    }

    #[test]
    fn a_topic_is_one_whatever_it_was_called_first() {
        let id = TopicId([7; 16]);
        let mut topics = Topics::default();
        let by_id = topics.number(&Topic::Id(id)).unwrap();
        let by_name = topics.number(&name("orders")).unwrap();
        assert_ne!(by_id, by_name);
        let was = topics.name(by_id).cloned();
        let learned = Learned { was, moved: Some((by_id, by_name)), remade: None };
        assert_eq!(topics.named(id, &"orders".into()), learned);
        assert_eq!(topics.number(&Topic::Id(id)), Some(by_name));
        assert_eq!(topics.named(id, &"orders".into()), Learned::default());
    }

    #[test]
    fn a_topic_made_again_is_another_one() {
        let mut topics = Topics::default();
        topics.named(TopicId([1; 16]), &"orders".into());
        let first = topics.number(&name("orders"));
        let learned = topics.named(TopicId([2; 16]), &"orders".into());
        let second = topics.number(&name("orders"));
        assert_ne!(second, first);
        assert_eq!(learned.remade, first.zip(second));
        assert_eq!(topics.number(&Topic::Id(TopicId([1; 16]))), first);
    }
}
