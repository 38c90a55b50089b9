//! What has been read of a request or response: the values at hand, from the outermost struct to the innermost.

use super::field::Field;
use super::visitor::Value;
use crate::names::Name;
use crate::protocol::operation::log::{Partition, Topic, TopicId};
use crate::protocol::output::Output;

const FIELDS: usize = Field::ALL.len();
const _: () = assert!(FIELDS <= u128::BITS as usize);

/// What an element of an array has of its own: it is forgotten when the next one begins.
const OF_PARTITION: &[Field] = &[
    Field::ErrorCode,
    Field::BaseOffset,
    Field::FetchOffset,
    Field::HighWatermark,
    Field::LastStableOffset,
    Field::LogStartOffset,
    Field::CommittedOffset,
    Field::Timestamp,
    Field::Offset,
];

/// See the [module](self).
pub(super) struct Row {
    numbers: [i64; FIELDS],
    known: u128,
    topic: Option<Name>,
    topic_id: Option<TopicId>,
    partition: Option<i32>,
    /// The error code of the whole response, which precedes those of its parts; 0: none.
    pub outer_error: i16,
    /// Inside an element for a partition.
    pub in_partition: bool,
    /// Inside of a list of partitions that are not wanted any more.
    pub forgotten: bool,
    /// Inside an element for a member.
    in_member: bool,
    pub group: Option<Name>,
    /// The member that the request or response is about.
    pub member: Option<Name>,
    /// The member of the element at hand.
    pub listed_member: Option<Name>,
    /// What a coordinator is asked for.
    pub coordinator: Option<Name>,
    pub software: Option<Name>,
    pub software_version: Option<Name>,
    pub protocol_type: Option<Name>,
}

impl Default for Row {
    fn default() -> Row {
        Row {
            numbers: [0; FIELDS],
            known: 0,
            topic: None,
            topic_id: None,
            partition: None,
            outer_error: 0,
            in_partition: false,
            forgotten: false,
            in_member: false,
            group: None,
            member: None,
            listed_member: None,
            coordinator: None,
            software: None,
            software_version: None,
            protocol_type: None,
        }
    }
}

impl Row {
    /// An element or a struct begins.
    pub fn enter(&mut self, field: Field) {
        match field {
            Field::Topics | Field::Owned | Field::Forgotten => {
                self.topic = None;
                self.topic_id = None;
                self.partition = None;
                self.forgotten = field == Field::Forgotten;
            }
            Field::Partitions => {
                if !self.in_partition {
                    self.outer_error = self.error().unwrap_or(self.outer_error);
                }
                self.partition = None;
                self.in_partition = true;
                OF_PARTITION.iter().for_each(|field| self.forget(*field));
            }
            Field::Members => {
                self.listed_member = None;
                self.in_member = true;
            }
            Field::Groups => {
                self.member = None;
                self.forget(Field::ErrorCode);
            }
            _ => {}
        }
    }

    /// It ends.
    pub fn leave(&mut self, field: Field) {
        match field {
            Field::Partitions => {
                self.in_partition = false;
                self.forget(Field::ErrorCode);
            }
            Field::Forgotten => self.forgotten = false,
            Field::Members => self.in_member = false,
            _ => {}
        }
    }

    /// A value.
    pub fn set(&mut self, field: Field, value: Value<'_>, out: &mut Output<'_>) {
        match (field, value) {
            (Field::Topic, Value::Text(name)) => self.topic = Some(out.name(name)),
            (Field::TopicId, Value::Uuid(id)) if id != [0; 16] => self.topic_id = Some(TopicId(id)),
            (Field::Partition, Value::Int(number)) => self.partition = i32::try_from(number).ok(),
            (Field::Group, value) => self.group = text(value, out),
            (Field::Member, value) if self.in_member => self.listed_member = text(value, out),
            (Field::Member, value) => self.member = text(value, out),
            (Field::CoordinatorKey, value) => self.coordinator = text(value, out),
            (Field::SoftwareName, value) => self.software = text(value, out),
            (Field::SoftwareVersion, value) => self.software_version = text(value, out),
            (Field::ProtocolType, value) => self.protocol_type = text(value, out),
            (_, Value::Int(number)) => {
                if let Some(place) = self.numbers.get_mut(field as usize) {
                    *place = number;
                    self.known |= 1 << field as u32;
                }
            }
            _ => self.forget(field),
        }
    }

    /// A number; `None`: it has not come, or a hole took it.
    pub fn number(&self, field: Field) -> Option<i64> {
        let known = self.known >> field as u32 & 1 == 1;
        self.numbers.get(field as usize).copied().filter(|_| known)
    }

    /// The error code at hand; `None`: a hole took it.
    pub fn error(&self) -> Option<i16> {
        self.number(Field::ErrorCode).and_then(|code| i16::try_from(code).ok())
    }

    /// The partition at hand.
    pub fn partition(&self) -> Option<Partition> {
        let name = self.topic.clone().map(Topic::Name);
        Some(Partition { topic: name.or(self.topic_id.map(Topic::Id))?, number: self.partition? })
    }

    /// The topic at hand: by its id where it is there, which a topic that is made again under the same name does not have.
    pub fn topic(&self) -> Option<Topic> {
        let id = self.topic_id.map(Topic::Id);
        id.or_else(|| self.topic.clone().map(Topic::Name))
    }

    /// The id and the name of the topic at hand, where both are there.
    pub fn topic_names(&self) -> Option<(TopicId, Name)> {
        self.topic_id.zip(self.topic.clone())
    }

    fn forget(&mut self, field: Field) {
        self.known &= !(1 << field as u32);
    }
}

fn text(value: Value<'_>, out: &mut Output<'_>) -> Option<Name> {
    match value {
        Value::Text(text) => Some(out.name(text)),
        _ => None,
    }
}
