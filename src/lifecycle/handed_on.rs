//! What one consumer holds turns up elsewhere: with another consumer, or in a dead-letter queue.

use super::channel::Held;
use super::message::Chain;
use super::messages::MessageRef;
use super::transition::{Evidence, Observer, Reason, State};
use super::{Lifecycles, emit};
use crate::protocol::operation::ChannelId;
use crate::stream::ConnectionId;
use crate::time::Timestamp;

/// So many deliveries of a connection are looked at for the one that was handed on.
const MOST_SEARCHED: usize = 4096;

impl Lifecycles {
    /// The broker gives to one consumer what another still holds: it has failed there, and comes again.
    pub(super) fn handed_on(
        &mut self,
        time: Timestamp,
        reference: MessageRef,
        place: usize,
        to: ChannelId,
        observer: &mut dyn Observer,
    ) {
        if self.is_in_flight(reference, place) {
            let held = self.taken_back(time, reference, place, Some(to), observer);
            self.retrying(time, reference, place, held.as_ref(), None, true, observer);
        }
    }

    /// Whether a chain's latest delivery is in somebody's hands, as far as that was seen.
    pub(super) fn is_in_flight(&self, reference: MessageRef, place: usize) -> bool {
        self.messages.get(reference).and_then(|entry| entry.chains.get(place)).is_some_and(Chain::is_in_flight)
    }

    /// The broker has taken a delivery that is in flight back before it was seen why: says Failed, and gives the delivery if it is
    /// known which that was. `to` has it now, where it is with a consumer.
    ///
    /// The broker hands on what a channel or connection held before it says a word to the client (rabbit_reader ends the
    /// channels, and with them their deliveries, and sends the close then), so that the reason follows in most cases.
    pub(super) fn taken_back(
        &mut self,
        time: Timestamp,
        reference: MessageRef,
        place: usize,
        to: Option<ChannelId>,
        observer: &mut dyn Observer,
    ) -> Option<Held> {
        let chain = self.messages.get(reference)?.chains.get(place)?;
        let (holder, attempt, dispatched) = (chain.holder.clone(), chain.attempt, chain.dispatched.get());
        let found = holder.as_ref().and_then(|holder| self.find_held(holder.connection, reference, place, attempt));
        let other = holder.as_ref().and_then(|holder| self.connections.get(&holder.connection));
        let timed_out = other.is_some_and(|other| {
            to.is_none_or(|to| other.party.connection != to.connection)
                && other.channels.values().any(|channel| channel.cancelled_by_broker)
        });
        // A hole may have taken what gave the delivery back: a settlement, a recover, the end of its channel.
        let gapped = other.and_then(|other| other.gapped);
        let unseen = gapped.is_some_and(|gapped| dispatched.is_none_or(|at| at <= gapped));
        // A channel does not give itself what it takes along.
        let awaits = found.as_ref().filter(|(channel, held)| {
            !timed_out && !unseen && !held.doubtful && to != Some(*channel) && self.is_open(*channel)
        });
        let awaits = awaits.map(|(channel, _)| *channel);
        let entry = self.messages.get_mut(reference)?;
        let chain = entry.chains.get_mut(place)?;
        let previous = std::mem::replace(&mut chain.state, State::Failed);
        chain.evidence = Evidence::Inferred;
        chain.reason = timed_out.then_some(Reason::AckTimeout);
        chain.first_failed.get_or_insert(time);
        let chain = entry.chains.get(place)?;
        let mut line = emit::of_chain(entry, chain, holder.as_deref(), time);
        if let Some((_, held)) = &found {
            emit::of_held(&mut line, held);
        }
        line.previous = Some(previous);
        line.awaits = awaits;
        observer.transition(&line);
        found.map(|(_, held)| held)
    }

    /// Where a delivery is outstanding.
    fn find_held(
        &mut self,
        connection: ConnectionId,
        message: MessageRef,
        place: usize,
        attempt: u32,
    ) -> Option<(ChannelId, Held)> {
        let known = self.connections.get_mut(&connection)?;
        let mut most = MOST_SEARCHED;
        for (&(number, incarnation), channel) in &mut known.channels {
            let is_it =
                |held: &Held| held.message == message && held.chain as usize == place && held.attempt == attempt;
            if let Some(held) = channel.held.find(channel.handed_on, most, is_it).cloned() {
                channel.handed_on = held.tag;
                return Some((ChannelId { connection, number, incarnation }, held));
            }
            most = most.saturating_sub(channel.held.places());
        }
        None
    }

    /// Whether a channel's end has still to come.
    fn is_open(&self, id: ChannelId) -> bool {
        self.connections.get(&id.connection).is_some_and(|connection| !connection.has_ended(id))
    }
}
