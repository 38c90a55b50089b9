//! Queues that are emptied: what waits in them is gone, and what consumers hold of them has nowhere to go back to.

use std::collections::BTreeSet;

use super::message::{Chain, Message};
use super::messages::MessageRef;
use super::party::Party;
use super::transition::{Evidence, Observer, Reason, State};
use super::{Connection, Event, Lifecycles, emit};
use crate::names::Name;
use crate::stream::ConnectionId;
use crate::time::Timestamp;

impl Lifecycles {
    /// A queue was purged or deleted: what waited in it is gone.
    pub(super) fn queue_emptied(
        &mut self,
        time: Timestamp,
        connection: ConnectionId,
        queue: &Name,
        deleted: bool,
        messages: Option<u64>,
        observer: &mut dyn Observer,
    ) {
        let party = self.party(connection);
        let event = self.event(time, connection, "queue_emptied");
        let mut event = Event { detail: Some(if deleted { "deleted" } else { "purged" }), count: messages, ..event };
        event.attributes.queue = Some(queue);
        observer.event(&event);
        let most = messages.map_or(usize::MAX, |count| usize::try_from(count).unwrap_or(usize::MAX));
        let waiting: Vec<MessageRef> = self.messages.active_messages().collect();
        let reason = if deleted { Reason::QueueDeleted } else { Reason::Purged };
        let mut gone = 0;
        for reference in waiting {
            if gone >= most {
                break;
            }
            if self.waits_in(reference, queue, &party) {
                self.emptied(time, reference, queue, reason, &party, observer);
                gone += 1;
            }
        }
        if deleted {
            self.forget_queue(queue, &party);
            self.orphan_deliveries(&[queue.clone()].into(), None, &party);
        }
    }

    /// What consumers still hold of deleted queues can be acknowledged, but never comes again. `owner`: the only connection
    /// that could use them.
    pub(super) fn orphan_deliveries(&mut self, queues: &BTreeSet<Name>, owner: Option<ConnectionId>, party: &Party) {
        let Lifecycles { messages, connections, .. } = self;
        let orphan = |connection: &mut Connection| {
            for held in connection.channels.values_mut().flat_map(|channel| channel.held.iter_mut()) {
                let queue = messages.chain(held).and_then(|chain| chain.queue.as_ref());
                held.queue_gone |= queue.is_some_and(|queue| queues.contains(queue));
            }
        };
        match owner {
            _ if queues.is_empty() => {}
            Some(owner) => connections.get_mut(&owner).into_iter().for_each(orphan),
            None => connections.values_mut().filter(|other| other.party.shares_broker_with(party)).for_each(orphan),
        }
    }

    /// Whether a message is known to be in this queue, and nowhere in a consumer's hands.
    fn waits_in(&mut self, reference: MessageRef, queue: &Name, party: &Party) -> bool {
        let Some(entry) = self.messages.get(reference).filter(|_| !self.leaves_out()) else { return false };
        if entry.publisher.as_ref().is_some_and(|publisher| !publisher.shares_broker_with(party)) {
            return false;
        }
        match entry.chains.of_queue(Some(queue)).and_then(|place| entry.chains.get(place)) {
            Some(chain) => is_back(chain),
            None => is_undelivered(entry) && self.goes_only_to(reference, queue, party),
        }
    }

    fn goes_only_to(&mut self, reference: MessageRef, queue: &Name, party: &Party) -> bool {
        let Some(entry) = self.messages.get(reference) else { return false };
        let route = entry.route.clone();
        let reached = self.topology(party).routed(&route.exchange, &route.routing_key);
        reached.len() == 1 && reached[0] == *queue
    }

    pub(super) fn emptied(
        &mut self,
        time: Timestamp,
        reference: MessageRef,
        queue: &Name,
        reason: Reason,
        party: &Party,
        observer: &mut dyn Observer,
    ) {
        let Some(entry) = self.messages.get_mut(reference) else { return };
        let place = entry.chains.of_queue(Some(queue));
        let place = place.or_else(|| entry.chains.push(Chain::new(Some(queue.clone()), entry.state)));
        let Some(chain) = place.and_then(|place| entry.chains.get_mut(place)) else { return };
        let previous = std::mem::replace(&mut chain.state, State::Dropped);
        chain.evidence = Evidence::Inferred;
        chain.reason = Some(reason);
        let Some(chain) = place.and_then(|place| entry.chains.get(place)) else { return };
        let mut line = emit::of_chain(entry, chain, Some(party), time);
        line.previous = Some(previous);
        observer.transition(&line);
        self.settle_message(reference);
    }
}

/// Whether a message that was given to a consumer is in its queue again.
pub(super) fn is_back(chain: &Chain) -> bool {
    matches!(chain.state, State::Failed | State::Retrying) && chain.destination.is_none()
}

/// Whether a message was given to nobody yet, and went nowhere but where its routing key led.
pub(super) fn is_undelivered(entry: &Message) -> bool {
    let has_copies = entry.extras.as_ref().is_some_and(|extras| extras.carbon_copies);
    entry.chains.is_empty() && matches!(entry.state, State::Created | State::Confirmed) && !has_copies
}
