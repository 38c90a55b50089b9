//! Queues that end by themselves: exclusive ones with their connection, auto-delete ones with their last consumer. What waits in
//! them ends with them, undelivered and not dead-lettered (RabbitMQ, queues; rabbit_amqqueue_process), and nobody is told.
//!
//! It is said only where nothing else can have become of the message:
//!
//! - The queue's declaration was seen, with the broker's answer, and limits no length (what is pushed out ends otherwise).
//! - The message was published after it, and all known bindings led to this queue alone at that time. Bindings of today would
//!   count what was published before the queue was bound, and therefore never was in it.
//! - Whoever could be given the message was seen: of an exclusive queue its own connection, of an auto-delete queue all
//!   connections of the broker. No frame of theirs was missed.
//! - All consumers of an auto-delete queue are known: the broker's answer to the declaration counted none. basic.get makes
//!   nobody a consumer.

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use hashbrown::HashMap;

use super::Lifecycles;
use super::message::{Message, Route};
use super::messages::{MessageRef, Messages};
use super::party::Party;
use super::queues::{is_back, is_undelivered};
use super::transition::{Observer, Reason};
use crate::names::Name;
use crate::protocol::operation::{ChannelId, Operation, Peer, QueueArguments};
use crate::stream::ConnectionId;
use crate::time::Timestamp;

/// More exclusive queues of one connection are taken for ones that stay.
const MOST_EXCLUSIVE: usize = 4096;
/// So many messages of a queue are remembered before those are dropped that do not wait any more. There are many such queues.
const FIRST_SWEEP: usize = 64;

/// The queues that end by themselves, and what is known of who uses them.
#[derive(Default)]
pub(super) struct Endings {
    /// By the queue's number.
    table: HashMap<u64, Ending>,
    /// How often it may have changed to which of them a publish leads.
    routing: u32,
    /// Connections of which frames may be missed.
    obscure: HashMap<ConnectionId, Obscure>,
    /// Until when frames of any connection may have been missed.
    missed_until: Option<Timestamp>,
}

/// One queue that ends by itself.
struct Ending {
    /// The connection that it ends with.
    owner: Option<ConnectionId>,
    /// It ends with its last consumer, and all of them are known.
    auto_delete: bool,
    /// It outlives the broker, and its consumers' ends that the broker does not live to see.
    durable: bool,
    /// It has had a consumer.
    used: bool,
    declared: Timestamp,
    /// Messages that may wait in it, some of them twice.
    waiting: VecDeque<MessageRef>,
    sweep_at: usize,
}

/// How a consumer ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Parting {
    /// The broker has taken note of it.
    Told,
    /// Its connection is lost, and the broker may be, too.
    Lost,
    /// The broker cancelled it: because its queue is deleted, or goes on elsewhere.
    Cancelled,
}

/// Why frames of a connection may be missed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Obscure {
    /// It was joined in the middle; `opened`: a channel was opened since, so that the client's frames are understood.
    Late { opened: bool },
    /// Something of it was lost, or could not be read.
    Torn,
}

/// Where a channel's publishes lead: the route, as of which [`Endings::routing`], and the queue's number.
#[derive(Debug)]
pub(super) struct Way {
    route: Rc<Route>,
    routing: u32,
    queue: Option<u64>,
}

impl Endings {
    /// It may have changed where publishes lead.
    pub fn rerouted(&mut self) {
        self.routing = self.routing.wrapping_add(1);
    }

    fn remove(&mut self, number: u64) -> Option<Ending> {
        let ending = self.table.remove(&number)?;
        self.rerouted();
        Some(ending)
    }

    /// Some connections are not watched: what others than its owner do with a queue is not known.
    pub fn unseen(&mut self) {
        self.table.retain(|_, ending| ending.owner.is_some());
        self.rerouted();
    }

    fn missed(&mut self, time: Timestamp) {
        self.missed_until = self.missed_until.max(Some(time));
    }

    /// A consumer may be there that is not known.
    fn lose_count(&mut self, number: u64) {
        match self.table.get_mut(&number) {
            Some(ending) if ending.owner.is_some() => ending.auto_delete = false,
            Some(_) => drop(self.remove(number)),
            None => {}
        }
    }
}

impl Ending {
    fn new(owner: Option<ConnectionId>, auto_delete: bool, durable: bool, declared: Timestamp) -> Ending {
        let (waiting, sweep_at) = (VecDeque::new(), FIRST_SWEEP);
        Ending { owner, auto_delete, durable, used: false, declared, waiting, sweep_at }
    }

    fn add(&mut self, reference: MessageRef, messages: &Messages) {
        let waits = |reference: &MessageRef| {
            let waits = |entry: &Message| entry.chains.is_empty() || entry.chains.iter().any(is_back);
            messages.get(*reference).is_some_and(waits)
        };
        // A queue gives out its oldest first, so that nothing else is left to do nearly always.
        while self.waiting.front().is_some_and(|oldest| !waits(oldest)) {
            self.waiting.pop_front();
        }
        if self.waiting.len() >= self.sweep_at {
            let mut waiting = Vec::from(std::mem::take(&mut self.waiting));
            waiting.retain(waits);
            waiting.sort_unstable();
            waiting.dedup();
            self.sweep_at = (2 * waiting.len()).max(FIRST_SWEEP);
            self.waiting = waiting.into();
        }
        self.waiting.push_back(reference);
    }
}

impl Lifecycles {
    pub(super) fn queue_declared(
        &mut self,
        time: Timestamp,
        connection: ConnectionId,
        queue: &Name,
        arguments: Option<Box<QueueArguments>>,
        consumers: Option<u64>,
        observer: &mut dyn Observer,
    ) {
        let party = self.party(connection);
        let listed = arguments.as_ref().is_some_and(|arguments| arguments.exclusive)
            && self.declared_exclusive(connection, queue);
        self.expiring |= arguments.as_ref().is_some_and(|arguments| arguments.message_ttl_ms.is_some());
        let mut ending = None;
        // Without an answer it may have been refused.
        if let (Some(arguments), Some(consumers)) = (&arguments, consumers) {
            self.declared_again(time, connection, queue, arguments, consumers, &party, observer);
            let unused = consumers == 0 && self.topology(&party).consumers(queue) == 0;
            let ends = if arguments.exclusive {
                listed && !self.endings.obscure.contains_key(&connection)
            } else {
                arguments.auto_delete && unused && self.sees_all(&party)
            };
            let limited = arguments.max_length.is_some() || arguments.max_length_bytes.is_some();
            if ends && !limited && party.vhost.is_some() {
                if self.topology(&party).number(queue).is_some_and(|number| !self.endings.table.contains_key(&number)) {
                    // It may have ended and begun anew unseen. What was bound then need not be bound now.
                    self.forget_queue(queue, &party);
                }
                let owner = arguments.exclusive.then_some(connection);
                let auto_delete = arguments.auto_delete && unused;
                ending = Some(Ending::new(owner, auto_delete, arguments.durable, time));
            }
        }
        let number = self.topology(&party).declare_queue(queue, arguments, connection);
        if let (Some(number), Some(ending)) = (number, ending)
            && self.endings.table.try_insert(number, ending).is_ok()
        {
            self.endings.rerouted();
        }
    }

    /// A queue of this name was known: whether it is the same, or its end was not seen. The broker lets nobody declare a queue
    /// with other properties than it has.
    #[expect(clippy::too_many_arguments, reason = "one call, from the function above")]
    fn declared_again(
        &mut self,
        time: Timestamp,
        connection: ConnectionId,
        queue: &Name,
        arguments: &QueueArguments,
        consumers: u64,
        party: &Party,
        observer: &mut dyn Observer,
    ) {
        let (number, known) = (self.topology(party).number(queue), self.topology(party).consumers(queue));
        let Some((number, ending)) = number.and_then(|number| Some((number, self.endings.table.get(&number)?))) else {
            return;
        };
        let (owner, counted) = (arguments.exclusive.then_some(connection), ending.auto_delete);
        let left_unseen = counted && ending.used && known == 0 && consumers == 0;
        let stays = owner.is_none() && !arguments.auto_delete;
        if ending.owner != owner || stays || left_unseen {
            let owner = ending.owner;
            self.queue_ended(time, queue, number, party, observer);
            self.orphan_deliveries(&[queue.clone()].into(), owner, party);
        } else if counted && consumers != known as u64 {
            self.endings.lose_count(number);
        }
    }

    /// Whether there is room to remember that this queue ends with its connection.
    fn declared_exclusive(&mut self, connection: ConnectionId, queue: &Name) -> bool {
        let exclusive = &mut self.connection(connection).exclusive;
        let known = exclusive.contains(queue);
        if !known && exclusive.len() < MOST_EXCLUSIVE {
            exclusive.push(queue.clone());
            return true;
        }
        known
    }

    /// A connection ends: what its consumers still hold of its exclusive queues never comes again. The queues themselves are
    /// gone when nothing can come from it any more, [`Lifecycles::exclusive_queues_ended`].
    pub(super) fn exclusive_queues_end(&mut self, connection: ConnectionId, party: &Party) {
        let known = self.connection(connection);
        if std::mem::replace(&mut known.ending, true) {
            return;
        }
        let mut queues: BTreeSet<Name> = known.exclusive.iter().cloned().collect();
        let topology = self.topology(party);
        queues.retain(|queue| topology.number_owned(queue, connection).is_some());
        self.orphan_deliveries(&queues, Some(connection), party);
    }

    /// A connection is gone, and with it its exclusive queues.
    pub(super) fn exclusive_queues_ended(
        &mut self,
        time: Timestamp,
        connection: ConnectionId,
        observer: &mut dyn Observer,
    ) {
        let party = self.party(connection);
        for queue in std::mem::take(&mut self.connection(connection).exclusive) {
            // Somebody else may have declared it by now.
            if let Some(number) = self.topology(&party).number_owned(&queue, connection) {
                self.queue_ended(time, &queue, number, &party, observer);
            }
        }
    }

    pub(super) fn consumer_started(&mut self, id: ChannelId, consumer: &Name, queue: &Name, certain: bool) {
        let party = self.party(id.connection);
        if party.vhost.is_none() {
            return self.consumer_somewhere(queue, &party);
        }
        let Some(number) = self.topology(&party).consumer_started(queue) else { return };
        let earlier = self.channel(id).consumers.insert(consumer.clone(), (queue.clone(), number));
        if let Some((queue, number)) = earlier {
            self.topology(&party).consumer_ended(&queue, number);
        }
        if !certain {
            self.endings.lose_count(number);
        } else if let Some(ending) = self.endings.table.get_mut(&number) {
            ending.used = true;
        }
    }

    /// A consumer of a queue with this name, in a virtual host that is not known.
    fn consumer_somewhere(&mut self, queue: &Name, party: &Party) {
        let port = party.server.map(|server| server.port());
        for ((other, _), topology) in &self.topologies {
            if port.is_none() || other.is_none() || *other == port {
                topology.number(queue).into_iter().for_each(|number| self.endings.lose_count(number));
            }
        }
    }

    /// A consumer was cancelled, and the broker has said so. One that is cancelled without an answer is so with its channel's
    /// end at the latest.
    pub(super) fn consumer_cancelled(
        &mut self,
        time: Timestamp,
        id: ChannelId,
        consumer: &Name,
        by: Peer,
        observer: &mut dyn Observer,
    ) {
        let parting = if by == Peer::Client { Parting::Told } else { Parting::Cancelled };
        if let Some((queue, number)) = self.channel(id).consumers.remove(consumer) {
            self.consumers_ended(time, id.connection, [(queue, number)], parting, observer);
        }
    }

    /// Consumers are no more: the queues that ended with them.
    pub(super) fn consumers_ended(
        &mut self,
        time: Timestamp,
        connection: ConnectionId,
        consumers: impl IntoIterator<Item = (Name, u64)>,
        parting: Parting,
        observer: &mut dyn Observer,
    ) -> BTreeSet<Name> {
        let (mut queues, mut all_own) = (BTreeSet::new(), true);
        for (queue, number) in consumers {
            let owned = self.endings.table.get(&number).is_some_and(|ending| ending.owner.is_some());
            if self.consumer_ended(time, connection, &queue, number, parting, observer) {
                all_own &= owned;
                queues.insert(queue);
            }
        }
        let party = self.party(connection);
        self.orphan_deliveries(&queues, all_own.then_some(connection), &party);
        queues
    }

    /// A consumer is no more: whether its queue ended with it.
    fn consumer_ended(
        &mut self,
        time: Timestamp,
        connection: ConnectionId,
        queue: &Name,
        number: u64,
        parting: Parting,
        observer: &mut dyn Observer,
    ) -> bool {
        let party = self.party(connection);
        if self.topology(&party).consumer_ended(queue, number) != Some(0) {
            return false;
        }
        let Some(ending) = self.endings.table.get(&number).filter(|ending| ending.auto_delete) else { return false };
        let told = parting == Parting::Told || (parting == Parting::Lost && !ending.durable);
        if ending.used && told && self.is_certain(ending, &party) {
            self.queue_ended(time, queue, number, &party, observer);
            return true;
        }
        self.endings.lose_count(number);
        false
    }

    /// Whether all is known of who was given a queue's messages.
    fn is_certain(&self, ending: &Ending, party: &Party) -> bool {
        let may_use = |id: &ConnectionId| match ending.owner {
            Some(owner) => *id == owner,
            None => self.connections.get(id).is_none_or(|other| other.party.shares_broker_with(party)),
        };
        let missed = ending.owner.is_none() && self.endings.missed_until.is_some_and(|until| until >= ending.declared);
        !missed && !self.endings.obscure.keys().any(may_use)
    }

    /// A queue is gone: what waited in it as well.
    fn queue_ended(&mut self, time: Timestamp, queue: &Name, number: u64, party: &Party, observer: &mut dyn Observer) {
        if let Some(mut ending) = self.endings.remove(number)
            && self.is_certain(&ending, party)
        {
            let mut waiting = Vec::from(std::mem::take(&mut ending.waiting));
            waiting.sort_by_key(|reference| self.messages.order(*reference));
            waiting.dedup();
            for reference in waiting {
                self.ended_with(time, reference, queue, ending.declared, party, observer);
            }
        }
        self.forget_queue(queue, party);
    }

    fn ended_with(
        &mut self,
        time: Timestamp,
        reference: MessageRef,
        queue: &Name,
        declared: Timestamp,
        party: &Party,
        observer: &mut dyn Observer,
    ) {
        let Some(entry) = self.messages.get(reference) else { return };
        // Without an identity it would not have been found in a delivery.
        let waits = entry.key.is_some()
            && match entry.chains.of_queue(Some(queue)).and_then(|place| entry.chains.get(place)) {
                Some(chain) => is_back(chain) && chain.dispatched.get() > Some(declared),
                None => is_undelivered(entry),
            };
        let own = entry.extras.as_ref().and_then(|extras| extras.expiration_ms);
        let created = entry.created.get().unwrap_or(declared);
        let ttl = self.topology(party).arguments(queue).and_then(|arguments| arguments.message_ttl_ms);
        let deadline = own.into_iter().chain(ttl).min().map(|ttl| created.plus(Duration::from_millis(ttl)));
        if waits && deadline.is_some_and(|deadline| deadline <= time) {
            self.expired(time, reference, observer);
        } else if waits {
            self.emptied(time, reference, queue, Reason::QueueDeleted, party, observer);
        }
    }

    /// Forgets a queue's declaration.
    pub(super) fn forget_queue(&mut self, queue: &Name, party: &Party) {
        if let Some(number) = self.topology(party).number(queue) {
            self.endings.remove(number);
        }
        self.topology(party).delete_queue(queue);
        self.endings.rerouted();
    }

    /// A message was published: remembers it where it waits in a queue that ends by itself.
    pub(super) fn may_wait(&mut self, time: Timestamp, id: ChannelId, reference: MessageRef, party: &Party) {
        let Some(route) = self.messages.get(reference).map(|entry| entry.route.clone()) else { return };
        let routing = self.endings.routing;
        let known = self.channel(id).way.as_ref();
        let queue = match known.filter(|way| way.routing == routing && Rc::ptr_eq(&way.route, &route)) {
            Some(way) => way.queue,
            None => {
                let queue = self.leads_to(&route, party);
                self.channel(id).way = Some(Way { route, routing, queue });
                queue
            }
        };
        if let Some(ending) = queue.and_then(|number| self.endings.table.get_mut(&number))
            && ending.declared < time
        {
            ending.add(reference, &self.messages);
        }
    }

    /// The queue that ends by itself to which messages of this route go, if they go nowhere else.
    fn leads_to(&mut self, route: &Route, party: &Party) -> Option<u64> {
        party.vhost.as_ref()?;
        let topology = self.topology(party);
        let reached = topology.routed(&route.exchange, &route.routing_key);
        let [only] = reached.as_slice() else { return None };
        let number = topology.number(only)?;
        self.endings.table.contains_key(&number).then_some(number)
    }

    /// A message is back in its queue.
    pub(super) fn waits_again(&mut self, reference: MessageRef, place: usize) {
        if self.endings.table.is_empty() {
            return;
        }
        let Some(chain) = self.messages.get(reference).and_then(|entry| entry.chains.get(place)) else { return };
        let (Some(queue), Some(holder)) = (chain.queue.clone(), chain.holder.clone()) else { return };
        if holder.vhost.is_none() {
            return;
        }
        let number = self.topology(&holder).number(&queue);
        if let Some(ending) = number.and_then(|number| self.endings.table.get_mut(&number)) {
            ending.add(reference, &self.messages);
        }
    }

    /// A message of a queue was delivered, and nobody knows which.
    pub(super) fn took_unknown(&mut self, connection: ConnectionId, queue: &Name) {
        let party = self.party(connection);
        let number = self.topology(&party).number(queue);
        number.and_then(|number| self.endings.remove(number));
    }

    /// Frames of a connection may have been missed: nothing is said of what they may have done.
    pub(super) fn missed(&mut self, time: Timestamp, connection: ConnectionId) {
        self.endings.missed(time);
        if self.endings.obscure.insert(connection, Obscure::Torn) == Some(Obscure::Torn) {
            return;
        }
        let party = self.party(connection);
        for queue in self.connection(connection).exclusive.clone() {
            let number = self.topology(&party).number_owned(&queue, connection);
            number.and_then(|number| self.endings.remove(number));
        }
    }

    /// A connection is known from now on; `late`: its beginning was not seen.
    pub(super) fn joined(&mut self, connection: ConnectionId, late: bool) {
        if late && !self.connections.contains_key(&connection) {
            self.endings.obscure.insert(connection, Obscure::Late { opened: false });
        }
    }

    /// A connection that was joined in the middle is understood once a channel was opened on it and the broker has been
    /// understood since.
    pub(super) fn clarify(&mut self, time: Timestamp, connection: ConnectionId, operation: &Operation) {
        let Some(Obscure::Late { opened }) = self.endings.obscure.get_mut(&connection) else { return };
        match operation {
            Operation::ChannelOpened(_) => *opened = true,
            Operation::Delivered { .. }
            | Operation::Confirmed { .. }
            | Operation::ConsumerStarted { answered: true, .. }
            | Operation::QueueDeclared { consumers: Some(_), .. }
                if *opened =>
            {
                self.endings.obscure.remove(&connection);
                self.endings.missed(time);
            }
            _ => {}
        }
    }

    /// A connection is gone, and with it what it may have done unseen.
    pub(super) fn left(&mut self, time: Timestamp, connection: ConnectionId) {
        if self.endings.obscure.remove(&connection).is_some() {
            self.endings.missed(time);
        }
    }

    /// Whether any queue is known that ends by itself.
    pub(super) fn has_endings(&self) -> bool {
        !self.endings.table.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::MessageLimits;
    use super::super::message::Chain;
    use super::super::transition::State;
    use super::*;
    use crate::protocol::operation::Identity;

    #[test]
    fn what_does_not_wait_any_more_takes_no_memory() {
        let mut messages = Messages::new(MessageLimits::default());
        let mut ending = Ending::new(None, true, false, Timestamp(0));
        let route = messages.route(&"".into(), &"work".into());
        let mut published = |key| messages.insert(Some(Identity(key)), route.clone(), |_| ());
        let waits = published(1);
        let references: Vec<MessageRef> = (2..10_000).map(&mut published).collect();
        for reference in references {
            ending.add(waits, &messages);
            ending.add(reference, &messages);
            let entry = messages.get_mut(reference).unwrap();
            entry.chains.push(Chain::new(Some("work".into()), State::Acknowledged));
            assert!(ending.waiting.len() <= FIRST_SWEEP, "{}", ending.waiting.len());
        }
        assert!(ending.waiting.contains(&waits));
    }
}
