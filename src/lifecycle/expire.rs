//! Messages whose time to live passes while nobody is given them. The broker says nothing of it on any connection, so it is
//! inferred: from the queue's declaration, the message's own expiration, and from nobody having been given the message,
//! which only an agent on the broker's host can know, and only while it misses nothing (`unseen.rs`).

use std::cmp::Reverse;
use std::time::Duration;

use super::message::{Chain, Message};
use super::messages::MessageRef;
use super::party::Party;
use super::transition::{Evidence, Observer, Reason, State};
use super::{Lifecycles, emit};
use crate::names::Name;
use crate::time::Timestamp;

/// How long after its time a message is given up: a delivery sent just before it may still be on its way through here, or the
/// news that it was lost, which comes with the counters of every second.
pub(crate) const GRACE: Duration = Duration::from_millis(1500);

impl Lifecycles {
    /// When [`Lifecycles::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let expiry = self.expiries.peek().map(|Reverse((time, _))| *time);
        expiry.into_iter().chain(self.logs.poll_timeout()).min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Timestamp, observer: &mut dyn Observer) {
        while let Some(Reverse((time, reference))) = self.expiries.peek().copied() {
            if time > now {
                break;
            }
            self.expiries.pop();
            self.expired(time, reference, observer);
        }
        self.logs.handle_timeout(now, observer);
    }

    pub(super) fn expect_expiry(&mut self, time: Timestamp, reference: MessageRef, party: &Party) {
        let Some((_, ttl)) = self.expiry_of(reference, party) else { return };
        if self.expiries.len() >= self.expiries_sweep_at {
            // Most messages are delivered long before their time is up. What is left is bounded by the table of messages.
            let messages = &self.messages;
            self.expiries.retain(|Reverse((_, reference))| messages.get(*reference).is_some_and(may_expire));
            self.expiries_sweep_at = super::next_sweep(self.expiries.len());
        }
        let deadline = time.plus(Duration::from_millis(ttl)).plus(GRACE);
        self.expiries.push(Reverse((deadline, reference)));
    }

    fn expiry_of(&mut self, reference: MessageRef, party: &Party) -> Option<(Name, u64)> {
        if !self.sees_all(party) {
            return None;
        }
        let entry = self.messages.get(reference)?;
        let own = entry.extras.as_ref().and_then(|extras| extras.expiration_ms);
        if own.is_none() && !self.expiring {
            return None;
        }
        if entry.extras.as_ref().is_some_and(|extras| extras.carbon_copies) {
            return None;
        }
        let route = entry.route.clone();
        let home = entry.origin.as_ref().and_then(|origin| origin.queue.clone());
        let topology = self.topology(party);
        let (queue, ttl) = topology.expiry(&route.exchange, &route.routing_key, own)?;
        // What an application sends back to itself this way only waits: its time is not up when its time has passed.
        let returns = home.is_some_and(|home| topology.dead_letters_to(&queue, &route.routing_key, &home));
        (!returns).then_some((queue, ttl))
    }

    pub(super) fn expired(&mut self, time: Timestamp, reference: MessageRef, observer: &mut dyn Observer) {
        let Some(publisher) = self.messages.get(reference).and_then(|entry| entry.publisher.clone()) else { return };
        let Some((queue, _)) = self.expiry_of(reference, &publisher) else { return };
        let created = self.messages.get(reference).and_then(|entry| entry.created.get());
        if !self.has_seen_all(created, &publisher) {
            return;
        }
        let Some(entry) = self.messages.get_mut(reference) else { return };
        if !may_expire(entry) {
            return;
        }
        let mut chain = Chain::new(Some(queue), State::Expired);
        chain.evidence = Evidence::Inferred;
        chain.reason = Some(Reason::Expired);
        let Some(place) = entry.chains.push(chain) else { return };
        let Some(chain) = entry.chains.get(place) else { return };
        let mut line = emit::of_chain(entry, chain, Some(&publisher), time);
        line.previous = Some(entry.state);
        observer.transition(&line);
        self.dead_letter_expired(time, reference, place, observer);
    }
}

/// Whether nobody was given it yet.
fn may_expire(entry: &Message) -> bool {
    entry.chains.is_empty() && matches!(entry.state, State::Created | State::Confirmed)
}
