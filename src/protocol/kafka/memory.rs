//! What a session keeps between requests.

use std::rc::Rc;

use hashbrown::HashMap;

use super::originals::Application;
use crate::names::Name;
use crate::protocol::operation::log::{Partition, Patience, Topic, TopicId};
use crate::protocol::operation::{Operation, SessionFacts};
use crate::protocol::output::Output;
use crate::stream::Flow;

/// What Kafka is called.
const SYSTEM: &str = "kafka";

/// See the [module](self).
pub(super) struct Memory {
    facts: SessionFacts,
    /// As the client wrote it.
    client_id: Vec<u8>,
    pub fetches: Fetches,
    /// What the group's member on this connection said when it joined.
    pub patience: Patience,
    /// Whose client it is.
    pub application: Application,
}

impl Memory {
    pub fn new(client: Flow, late: bool, application: Application) -> Memory {
        let facts = SessionFacts { system: SYSTEM, client_flow: Some(client), late, ..SessionFacts::default() };
        Memory { facts, client_id: Vec::new(), fetches: Fetches::default(), patience: Patience::default(), application }
    }

    /// Says who speaks here, again if more is known.
    pub fn tell_facts(&self, out: &mut Output<'_>) {
        out.push(Operation::Session(Rc::new(self.facts.clone())));
    }

    /// What the client calls itself; the bytes of a request's header.
    pub fn client(&mut self, name: &[u8], out: &mut Output<'_>) {
        if self.client_id == name && self.facts.client_name.is_some() {
            return;
        }
        self.client_id.clear();
        self.client_id.extend_from_slice(name);
        self.facts.client_name = Some(out.name(name));
        self.tell_facts(out);
    }

    /// What the client called itself last.
    pub fn client_id(&self) -> &[u8] {
        &self.client_id
    }

    /// The client's library.
    pub fn software(&mut self, name: Option<&Name>, version: Option<&Name>, out: &mut Output<'_>) {
        let Some(name) = name else { return };
        let product: Name = match version {
            Some(version) => format!("{name} {version}").into(),
            None => name.clone(),
        };
        if self.facts.client_product.as_ref() != Some(&product) {
            self.facts.client_product = Some(product);
            self.tell_facts(out);
        }
    }

    /// Memory in bytes.
    pub fn cost(&self) -> usize {
        self.client_id.capacity() + self.fetches.positions.capacity() * (size_of::<Partition>() + size_of::<Wanted>())
    }
}

/// Names of topics by their ids, which mean the same on every connection.
#[derive(Default)]
pub(in crate::protocol) struct TopicNames {
    known: HashMap<TopicId, Name>,
}

impl TopicNames {
    /// Names that are kept. Beyond it they are told again each time.
    const MOST: usize = 65_536;

    /// An id and a name belong together; false if that was known.
    pub fn learn(&mut self, id: TopicId, name: &Name) -> bool {
        if self.known.get(&id) == Some(name) {
            return false;
        }
        if self.known.len() < Self::MOST {
            self.known.insert(id, name.clone());
        }
        true
    }

    /// What a topic is called, where that is known.
    pub fn name<'a>(&'a self, topic: &'a Topic) -> Option<&'a Name> {
        match topic {
            Topic::Name(name) => Some(name),
            Topic::Id(id) => self.known.get(id),
        }
    }
}

/// From which offsets on a consumer wants its partitions. With a fetch session a request names only those that have changed
/// (KIP-227).
#[derive(Default)]
pub(super) struct Fetches {
    positions: HashMap<Partition, Wanted>,
    session: u64,
    /// The request at hand names all that are wanted.
    names_all: bool,
}

/// Of a partition: from where on it is wanted, and how far it reaches, as was told last.
struct Wanted {
    from: i64,
    reaches: Ends,
    /// The number of the fetch session, or of the request without one.
    session: u64,
}

/// High watermark and last stable offset.
type Ends = (Option<i64>, Option<i64>);

impl Fetches {
    /// Partitions of one connection that are kept.
    const MOST: usize = 65_536;

    /// A new fetch session, or none: only what the request names is wanted.
    pub fn clear(&mut self) {
        self.session += 1;
        self.names_all = true;
    }

    /// Some requests were not read: from where on what is wanted is not known any more.
    pub fn lost(&mut self) {
        self.session += 1;
    }

    /// A request has named what it wants: what is not wanted any more.
    pub fn named(&mut self) -> Vec<Partition> {
        if !std::mem::take(&mut self.names_all) {
            return Vec::new();
        }
        let session = self.session;
        let left = self.positions.extract_if(|_, wanted| wanted.session != session);
        let mut left: Vec<Partition> = left.map(|(partition, _)| partition).collect();
        // In an order that a replay has as well.
        left.sort_unstable();
        left
    }

    /// A partition is wanted from an offset on; whether it was not before.
    pub fn wants(&mut self, partition: &Partition, offset: Option<i64>) -> bool {
        let Some(from) = offset else {
            self.forget(partition);
            return false;
        };
        let session = self.session;
        if let Some(wanted) = self.positions.get_mut(partition) {
            (wanted.from, wanted.session) = (from, session);
            return false;
        }
        let has_room = self.positions.len() < Self::MOST;
        if has_room {
            self.positions.insert(partition.clone(), Wanted { from, reaches: (None, None), session });
        }
        has_room
    }

    /// A partition is not wanted any more, or it is not known from where on; whether it was.
    pub fn forget(&mut self, partition: &Partition) -> bool {
        self.positions.remove(partition).is_some()
    }

    /// From where on a partition is wanted.
    pub fn position(&self, partition: &Partition) -> Option<i64> {
        let wanted = self.positions.get(partition).filter(|wanted| wanted.session == self.session);
        wanted.map(|wanted| wanted.from)
    }

    /// A partition reaches as far as this; false if that was known.
    pub fn reaches(&mut self, partition: &Partition, ends: Ends) -> bool {
        let Some(wanted) = self.positions.get_mut(partition) else { return true };
        std::mem::replace(&mut wanted.reaches, ends) != ends
    }
}
