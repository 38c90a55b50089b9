//! A message, and its way through each queue.

use std::cell::Cell;
use std::num::{NonZeroU32, NonZeroU64, NonZeroU128};
use std::rc::Rc;

use super::messages::{MessageRef, Place};
use super::party::Party;
use super::transition::{Evidence, Reason, State};
use crate::names::Name;
use crate::protocol::operation::{ChannelId, Extras, Identity};
use crate::time::Timestamp;

/// Exchange and routing key of a publish, shared by all messages that took it.
#[derive(Debug)]
pub(super) struct Route {
    pub exchange: Name,
    pub routing_key: Name,
    /// The most queues that a message of this route was seen in, or that known bindings lead it to.
    reach: Cell<u32>,
    /// As of which [`super::Lifecycles::bindings`] the bindings were followed.
    followed: Cell<u32>,
}

impl Route {
    pub fn new(exchange: &Name, routing_key: &Name) -> Route {
        Route {
            exchange: exchange.clone(),
            routing_key: routing_key.clone(),
            reach: Cell::new(0),
            followed: Cell::new(0),
        }
    }

    /// Whether the bindings have changed since this was asked last; `bindings` says how often they have in all.
    pub fn must_be_followed(&self, bindings: u32) -> bool {
        self.followed.replace(bindings) != bindings
    }

    /// Its messages reach at least this many queues.
    pub fn reaches(&self, queues: usize) -> u32 {
        let queues = u32::try_from(queues).unwrap_or(u32::MAX);
        self.reach.replace(self.reach.get().max(queues))
    }
}

impl PartialEq for Route {
    fn eq(&self, other: &Route) -> bool {
        self.exchange == other.exchange && self.routing_key == other.routing_key
    }
}

/// A time that may not be known, in the space of one: there are many messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moment(Option<NonZeroU64>);

impl Moment {
    pub fn get(self) -> Option<Timestamp> {
        self.0.map(|nanoseconds| Timestamp(nanoseconds.get()))
    }

    /// Keeps the earlier of two.
    pub fn get_or_insert(&mut self, time: Timestamp) {
        self.0 = self.0.or(NonZeroU64::new(time.0));
    }
}

impl From<Timestamp> for Moment {
    fn from(time: Timestamp) -> Moment {
        Moment(NonZeroU64::new(time.0))
    }
}

/// One message: what its publish showed, and a chain of deliveries for each queue that it was seen in.
#[derive(Debug)]
pub(super) struct Message {
    /// What a publish or delivery with the same bytes yields; `None` where a hole took them.
    pub key: Option<NonZeroU128>,
    /// Of a copy that an application made: what it goes on from.
    pub origin: Option<Box<Origin>>,
    /// State before, and apart from, any delivery.
    pub state: State,
    /// How the state was reached.
    pub evidence: Evidence,
    /// There were other messages with the same identity, so that deliveries were matched first in, first out.
    pub ambiguous: bool,
    /// The broker has still to say whether it took it.
    pub awaits_confirm: bool,
    /// The broker returns it if no queue is bound for it.
    pub mandatory: bool,
    /// Where it was published to; of a message whose publish was not seen, where its first delivery said it was.
    pub route: Rc<Route>,
    pub publisher: Option<Rc<Party>>,
    pub message_id: Option<Name>,
    pub extras: Option<Box<Extras>>,
    pub body: Option<NonZeroU64>,
    /// Length of the body plus one.
    body_size: Option<NonZeroU64>,
    pub created: Moment,
    pub confirmed: Moment,
    pub chains: Chains,
    /// Where the table keeps it.
    pub place: Place,
}

impl Message {
    /// A message first seen now, without chains.
    pub fn new(key: Option<Identity>, route: Rc<Route>) -> Message {
        let key = key.and_then(|identity| NonZeroU128::new(identity.0));
        Message {
            key,
            origin: None,
            state: State::Created,
            evidence: Evidence::Observed,
            ambiguous: false,
            awaits_confirm: false,
            mandatory: false,
            route,
            publisher: None,
            message_id: None,
            extras: None,
            body: None,
            body_size: None,
            created: Moment::default(),
            confirmed: Moment::default(),
            chains: Chains::default(),
            place: Place::default(),
        }
    }

    /// Makes a new message out of a forgotten one: the same as [`Message::new`], without a copy of it that would be read
    /// again at once, which a processor does not like.
    pub fn renew(&mut self, identity: Option<Identity>, new_route: Rc<Route>) {
        // All of them by name: one that is added must not be forgotten here.
        let Message {
            key,
            origin,
            state,
            evidence,
            ambiguous,
            awaits_confirm,
            mandatory,
            route,
            publisher,
            message_id,
            extras,
            body,
            body_size,
            created,
            confirmed,
            chains,
            place,
        } = self;
        *key = identity.and_then(|identity| NonZeroU128::new(identity.0));
        *origin = None;
        *state = State::Created;
        *evidence = Evidence::Observed;
        *ambiguous = false;
        *awaits_confirm = false;
        *mandatory = false;
        *route = new_route;
        *publisher = None;
        *message_id = None;
        *extras = None;
        *body = None;
        *body_size = None;
        *created = Moment::default();
        *confirmed = Moment::default();
        *chains = Chains::default();
        *place = Place::default();
    }

    /// Lets go of what it owns: it is forgotten, and its memory kept for another.
    pub fn empty(&mut self) {
        self.origin = None;
        self.publisher = None;
        self.message_id = None;
        self.extras = None;
        self.chains = Chains::default();
    }

    /// The identity to print.
    pub fn identity(&self) -> Option<Identity> {
        let shown = self.origin.as_ref().and_then(|origin| origin.identity);
        shown.or(self.key.map(|key| Identity(key.get())))
    }

    /// Length of the body in bytes.
    pub fn body_size(&self) -> Option<u64> {
        self.body_size.map(|size| size.get() - 1)
    }

    /// Keeps what a publish or delivery says of the body.
    pub fn set_body(&mut self, hash: Option<u64>, size: Option<u64>) {
        self.body = self.body.or(hash.and_then(NonZeroU64::new));
        self.body_size = self.body_size.or(size.and_then(|size| NonZeroU64::new(size.saturating_add(1))));
    }

    /// Where it belongs, by what may still come.
    pub fn list(&self) -> List {
        let ended = matches!(self.state, State::Returned | State::PublishFailed | State::Expired | State::Dropped);
        // A consumer may be done with it before the broker confirms it.
        let open = self.awaits_confirm || self.chains.iter().any(Chain::is_open) || (self.chains.is_empty() && !ended);
        if open {
            return List::Active;
        }
        // All queues that messages of this route were seen in have acknowledged it: nothing more is to be expected.
        let own = self.chains.iter().filter(|chain| chain.route.as_ref().is_some_and(|r| Rc::ptr_eq(r, &self.route)));
        let own = own.count();
        let known = self.route.reaches(own) as usize;
        let acknowledged = self.chains.iter().all(|chain| chain.state == State::Acknowledged);
        if acknowledged && own >= known { List::Complete } else { List::Settled }
    }
}

/// The delivery that an application held when it published a copy of it.
#[derive(Debug)]
pub(super) struct Origin {
    /// The original.
    pub message: MessageRef,
    /// The identity to show: changed headers give the copy a key of its own.
    pub identity: Option<Identity>,
    /// The queue that the original was taken from.
    pub queue: Option<Name>,
    pub state: State,
    pub delivery: Option<NonZeroU32>,
    pub first_failed: Moment,
}

/// A message's way through one queue.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    /// The queue; `None` where it is not known.
    pub queue: Option<Name>,
    pub state: State,
    pub evidence: Evidence,
    /// Number of the latest delivery, where it is known how many there were.
    pub delivery: Option<NonZeroU32>,
    /// Number of the latest delivery that was seen here: tells a stale settlement from one of the latest delivery.
    pub attempt: u32,
    /// Streams give every consumer a chain of its own.
    pub reader: Option<Box<Reader>>,
    /// Exchange and routing key of the latest delivery: after dead-lettering not those of the publish.
    pub route: Option<Rc<Route>>,
    pub dispatched: Moment,
    pub processing: Moment,
    pub first_failed: Moment,
    /// Why it failed last.
    pub reason: Option<Reason>,
    /// Where it went when it died.
    pub destination: Option<Box<Name>>,
    /// A settlement of the latest delivery may have been lost: whether it is in anybody's hands, nobody knows.
    pub unknown: bool,
    /// Who was given the latest delivery.
    pub holder: Option<Rc<Party>>,
}

/// A consumer of a stream. Applications like to give all of theirs the same tag, so the channel tells them apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reader {
    pub channel: ChannelId,
    pub consumer: Name,
}

impl Chain {
    /// A chain that has not been delivered yet.
    pub fn new(queue: Option<Name>, state: State) -> Chain {
        Chain {
            queue,
            state,
            evidence: Evidence::Observed,
            delivery: None,
            attempt: 0,
            reader: None,
            route: None,
            dispatched: Moment::default(),
            processing: Moment::default(),
            first_failed: Moment::default(),
            reason: None,
            destination: None,
            unknown: false,
            holder: None,
        }
    }

    /// Something is still to come: a settlement, or a redelivery.
    pub fn is_open(&self) -> bool {
        match self.state {
            State::Created | State::Confirmed | State::Dispatched | State::Processing | State::Retrying => {
                !self.unknown
            }
            State::Failed => !self.unknown && self.reader.is_none(),
            _ => false,
        }
    }

    /// It failed, and a delivery of the same message may still come: to this queue again, or from a dead-letter queue.
    pub fn is_awaited(&self) -> bool {
        matches!(
            self.state,
            State::Failed | State::Retrying | State::Rejected | State::DeadLettered | State::Dropped | State::Expired
        )
    }

    /// It is in a consumer's hands.
    pub fn is_in_flight(&self) -> bool {
        !self.unknown && matches!(self.state, State::Dispatched | State::Processing)
    }
}

/// The chains of a message: nearly always one, so that one is kept in place.
#[derive(Debug, Default)]
pub(super) struct Chains {
    first: Option<Chain>,
    #[expect(clippy::box_collection, reason = "one word in the many messages that have no second chain")]
    more: Option<Box<Vec<Chain>>>,
}

impl Chains {
    /// More queues than this are not followed for one message.
    const MOST: usize = 256;

    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Chain> {
        self.first.iter().chain(self.more.iter().flat_map(|more| more.iter()))
    }

    pub fn get(&self, index: usize) -> Option<&Chain> {
        if index == 0 { self.first.as_ref() } else { self.more.as_ref()?.get(index - 1) }
    }

    pub fn get_mut(&mut self, index: usize) -> Option<&mut Chain> {
        if index == 0 { self.first.as_mut() } else { self.more.as_mut()?.get_mut(index - 1) }
    }

    /// The chain of this queue.
    pub fn of_queue(&self, queue: Option<&Name>) -> Option<usize> {
        self.iter().position(|chain| same_name(chain.queue.as_ref(), queue))
    }

    /// Adds a chain and returns its index; `None` where there are too many.
    pub fn push(&mut self, chain: Chain) -> Option<usize> {
        if self.first.is_none() {
            self.first = Some(chain);
            return Some(0);
        }
        let more = self.more.get_or_insert_default();
        if more.len() + 1 >= Self::MOST {
            return None;
        }
        more.push(chain);
        Some(more.len())
    }
}

/// Whether two names, where known, are the same. Interned names mostly share their allocation.
pub(super) fn same_name(one: Option<&Name>, other: Option<&Name>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Rc::ptr_eq(one, other) || one == other,
        (None, None) => true,
        _ => false,
    }
}

/// Which list a message is in: what is still moving is forgotten only when the table is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum List {
    #[default]
    Active,
    Settled,
    Complete,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewed_message_is_a_new_one() {
        let route = |name: &str| Rc::new(Route::new(&"".into(), &name.into()));
        let mut message = Message::new(Some(Identity(7)), route("old"));
        message.state = State::Returned;
        message.evidence = Evidence::Inferred;
        (message.ambiguous, message.awaits_confirm, message.mandatory) = (true, true, true);
        message.publisher = Some(Party::unknown(crate::stream::ConnectionId(3)));
        message.message_id = Some("id".into());
        message.extras = Some(Box::default());
        message.set_body(Some(8), Some(9));
        (message.created, message.confirmed) = (Timestamp(1).into(), Timestamp(2).into());
        message.chains.push(Chain::new(Some("work".into()), State::Dispatched));
        message.chains.push(Chain::new(Some("copy".into()), State::Dispatched));
        message.place.sequence = 4;
        let (key, new) = (Some(Identity(11)), route("new"));
        let text = |message: &Message| format!("{message:?}");
        assert_ne!(text(&message), text(&Message::new(key, new.clone())));
        message.empty();
        message.renew(key, new.clone());
        assert_eq!(text(&message), text(&Message::new(key, new)));
    }
}
