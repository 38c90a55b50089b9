//! Where rejected, expired and surplus messages go: inferred from declarations at first, told by `x-death` later.

use super::channel::Held;
use super::message::{Chain, Message, Route, same_name};
use super::messages::MessageRef;
use super::party::Party;
use super::topology::Afterlife;
use super::transition::{Evidence, Observer, Reason, State};
use super::{Lifecycles, emit};
use crate::names::Name;
use crate::protocol::operation::{Death, Extras};
use crate::time::Timestamp;

/// More deaths than this are not walked through for one delivery.
const MOST_DEATHS: usize = 32;

impl Lifecycles {
    /// A delivery ended without success: says Retrying, on the way back to its queue.
    #[expect(clippy::too_many_arguments, reason = "each says one thing about the line")]
    pub(super) fn retrying(
        &mut self,
        time: Timestamp,
        reference: MessageRef,
        place: usize,
        held: Option<&Held>,
        way: Option<Name>,
        inferred: bool,
        observer: &mut dyn Observer,
    ) {
        let Some(entry) = self.messages.get_mut(reference) else { return };
        let Some(chain) = entry.chains.get_mut(place) else { return };
        let previous = chain.state;
        let corrects = chain.evidence == Evidence::Inferred && matches!(previous, State::DeadLettered | State::Dropped);
        chain.state = State::Retrying;
        chain.evidence = emit::evidence(inferred);
        if way.is_some() {
            chain.reason = Some(Reason::RetryTopic);
        }
        chain.destination = way.map(Box::new);
        let Some(chain) = entry.chains.get(place) else { return };
        let mut line = emit::of_consequence(entry, chain, held, time);
        line.previous = Some(previous);
        line.corrects = corrects.then_some(previous);
        observer.transition(&line);
        self.waits_again(reference, place);
        self.messages.await_again(reference);
        self.settle_message(reference);
    }

    /// Whether a copy that an application made of a delivery comes back, through `way`, to the queue that it had that from:
    /// a retry, as if the broker had put it there.
    fn has_returned(
        &mut self,
        time: Timestamp,
        reference: MessageRef,
        way: &Name,
        queue: Option<&Name>,
        observer: &mut dyn Observer,
    ) -> bool {
        let Some(entry) = self.messages.get_mut(reference) else { return false };
        let Some(origin) = entry.origin.as_ref().filter(|origin| same_name(origin.queue.as_ref(), queue)) else {
            return false;
        };
        if entry.chains.of_queue(queue).is_some() {
            // It has been said.
            return true;
        }
        let mut chain = Chain::new(origin.queue.clone(), entry.state);
        // It goes on where the original's deliveries ended.
        (chain.delivery, chain.attempt) = (origin.delivery, 1);
        chain.first_failed = if origin.first_failed.get().is_some() { origin.first_failed } else { entry.created };
        let Some(place) = entry.chains.push(chain) else { return false };
        self.retrying(time, reference, place, None, Some(way.clone()), false, observer);
        true
    }

    /// A message left its queue for good: what the queue's declaration says becomes of it.
    pub(super) fn afterlife(
        &mut self,
        time: Timestamp,
        reference: MessageRef,
        place: usize,
        held: &Held,
        reason: Reason,
        observer: &mut dyn Observer,
    ) {
        let Some(chain) = self.messages.get(reference).and_then(|entry| entry.chains.get(place)) else { return };
        let Some(entry) = self.messages.get(reference) else { return };
        let route = chain.route.as_ref().unwrap_or(&entry.route).clone();
        let party = chain.holder.as_ref().or(entry.publisher.as_ref()).cloned();
        let (Some(queue), Some(party)) = (chain.queue.clone(), party) else {
            self.messages.await_again(reference);
            self.settle_message(reference);
            return;
        };
        match self.topology(&party).afterlife(&queue, &route.routing_key) {
            Afterlife::Unknown | Afterlife::Stays => {
                self.messages.await_again(reference);
                self.settle_message(reference);
            }
            Afterlife::ComesBack(way) => self.retrying(time, reference, place, Some(held), Some(way), true, observer),
            Afterlife::Gone => self.died(time, reference, place, Some(held), (State::Dropped, reason, None), observer),
            Afterlife::DeadLetterQueue(name) => {
                self.died(time, reference, place, Some(held), (State::DeadLettered, reason, Some(name)), observer);
            }
        }
    }

    /// A message expired in a queue: without a dead-letter exchange that was its end.
    pub(super) fn dead_letter_expired(
        &mut self,
        time: Timestamp,
        reference: MessageRef,
        place: usize,
        observer: &mut dyn Observer,
    ) {
        let Some(entry) = self.messages.get(reference) else { return };
        let (Some(queue), Some(party)) =
            (entry.chains.get(place).and_then(|chain| chain.queue.clone()), entry.publisher.clone())
        else {
            return;
        };
        let key = entry.route.routing_key.clone();
        if self.topology(&party).arguments(&queue).is_some_and(|arguments| arguments.dead_letter_exchange.is_some()) {
            let way = match self.topology(&party).afterlife(&queue, &key) {
                Afterlife::DeadLetterQueue(name) | Afterlife::ComesBack(name) => Some(name),
                Afterlife::Unknown | Afterlife::Stays | Afterlife::Gone => None,
            };
            self.died(time, reference, place, None, (State::DeadLettered, Reason::Expired, way), observer);
        } else {
            self.messages.await_again(reference);
            self.settle_message(reference);
        }
    }

    pub(super) fn died(
        &mut self,
        time: Timestamp,
        reference: MessageRef,
        place: usize,
        held: Option<&Held>,
        (state, reason, destination): (State, Reason, Option<Name>),
        observer: &mut dyn Observer,
    ) {
        let Some(entry) = self.messages.get_mut(reference) else { return };
        let Some(chain) = entry.chains.get_mut(place) else { return };
        let previous = std::mem::replace(&mut chain.state, state);
        chain.evidence = Evidence::Inferred;
        chain.reason = Some(reason);
        chain.destination = destination.map(Box::new);
        let Some(chain) = entry.chains.get(place) else { return };
        let mut line = emit::of_consequence(entry, chain, held, time);
        line.previous = Some(previous);
        observer.transition(&line);
        self.messages.await_again(reference);
        self.settle_message(reference);
    }

    /// Which message arrives here with these deaths.
    pub(super) fn dead_message(
        &mut self,
        key: crate::protocol::operation::Identity,
        queue: Option<&Name>,
        extras: &Extras,
        party: &Party,
    ) -> Option<MessageRef> {
        let latest = extras.deaths.first()?;
        let oldest = extras.deaths.last()?;
        let here = |entry: &Message| entry.publisher.as_ref().is_none_or(|p| p.shares_broker_with(party));
        // It comes back to a queue that it died in.
        if extras.deaths.iter().any(|death| same_name(Some(&death.queue), queue)) {
            let dead_here = |chain: &Chain| same_name(chain.queue.as_ref(), queue) && chain.is_awaited();
            let found = self.messages.find_awaited(key, |entry| here(entry) && entry.chains.iter().any(dead_here));
            if found.is_some() {
                return found;
            }
        }
        // It failed in the queue that it last died in.
        let not_here = |entry: &Message| here(entry) && entry.chains.of_queue(queue).is_none();
        let dead_there = |chain: &Chain| same_name(chain.queue.as_ref(), Some(&latest.queue)) && chain.is_awaited();
        let found = self.messages.find_awaited(key, |entry| not_here(entry) && entry.chains.iter().any(dead_there));
        if found.is_some() {
            return found;
        }
        // It was never delivered there: expired, or pushed out.
        let lane = latest.queue.as_ptr() as usize;
        let is_origin = |entry: &Message| {
            entry.route.exchange == oldest.exchange
                && oldest.routing_key.as_ref().is_none_or(|key| entry.route.routing_key == *key)
        };
        let never_there = |entry: &Message| {
            entry.chains.of_queue(Some(&latest.queue)).is_none_or(|at| entry.chains.get(at).is_some_and(Chain::is_open))
        };
        self.messages.next_of_queue(key, queue, lane, |entry| not_here(entry) && is_origin(entry) && never_there(entry))
    }

    /// Says what a delivery's deaths tell that was not said before.
    pub(super) fn apply_deaths(
        &mut self,
        time: Timestamp,
        reference: MessageRef,
        queue: Option<&Name>,
        route: &Route,
        extras: &Extras,
        observer: &mut dyn Observer,
    ) {
        let deaths = &extras.deaths[..extras.deaths.len().min(MOST_DEATHS)];
        let published_so = self.messages.get(reference).is_some_and(|entry| {
            let deaths = entry.extras.as_ref().map(|published| &published.deaths);
            deaths == Some(&extras.deaths) && *entry.route == *route
        });
        if published_so {
            // A client published it with these headers, and the broker added nothing. RabbitMQ 4 begins its own anew, which may
            // come out the same: but what has died comes by another way.
            return;
        }
        let Some(latest) = deaths.first() else { return };
        if may_be_back(queue, deaths) {
            return;
        }
        let comes_back = deaths.iter().any(|death| same_name(Some(&death.queue), queue))
            || self.has_returned(time, reference, &latest.queue, queue, observer);
        for (index, death) in deaths.iter().enumerate().rev() {
            let next = index.checked_sub(1).and_then(|index| deaths.get(index)).map(|death| &death.queue).or(queue);
            if comes_back {
                let way = deaths.first().map(|death| &death.queue).filter(|way| !same_name(Some(way), queue));
                self.came_back(time, reference, death, queue, way, observer);
            } else {
                self.dead_lettered(time, reference, death, next, observer);
            }
        }
    }

    /// One death of a message that is back in a queue that it had died in.
    fn came_back(
        &mut self,
        time: Timestamp,
        reference: MessageRef,
        death: &Death,
        queue: Option<&Name>,
        way: Option<&Name>,
        observer: &mut dyn Observer,
    ) {
        let Some(entry) = self.messages.get_mut(reference) else { return };
        let place = entry.chains.of_queue(Some(&death.queue));
        if !same_name(Some(&death.queue), queue) {
            // The queue it waited in on the way: not a death, and not to be reported as one later.
            if place.is_none() {
                let mut chain = Chain::new(Some(death.queue.clone()), State::DeadLettered);
                chain.reason = reason_of(death);
                entry.chains.push(chain);
            }
            return;
        }
        let Some(place) = place else { return };
        let Some(chain) = entry.chains.get(place) else { return };
        let holder = chain.holder.clone();
        if chain.is_awaited() && chain.state != State::Retrying && chain.state != State::Failed {
            let way = way.or(chain.destination.as_deref()).unwrap_or(&death.queue).clone();
            self.retrying(time, reference, place, None, Some(way), false, observer);
        }
        if let Some(holder) = holder {
            self.topology(&holder).learn_comes_back(&death.queue);
        }
    }

    /// One death of a message that has arrived somewhere else.
    fn dead_lettered(
        &mut self,
        time: Timestamp,
        reference: MessageRef,
        death: &Death,
        destination: Option<&Name>,
        observer: &mut dyn Observer,
    ) {
        let reason = reason_of(death);
        let Some(entry) = self.messages.get_mut(reference) else { return };
        let known = entry.chains.of_queue(Some(&death.queue));
        let place = known.or_else(|| entry.chains.push(Chain::new(Some(death.queue.clone()), entry.state)));
        let Some(place) = place else { return };
        let seen = entry.created.get().is_some();
        // Without a settlement only what had failed before can die.
        if matches!(reason, Some(Reason::DeliveryLimit | Reason::Expired | Reason::Maxlen))
            && self.is_in_flight(reference, place)
        {
            self.taken_back(time, reference, place, None, observer);
        }
        let Some(entry) = self.messages.get_mut(reference) else { return };
        let Some(chain) = entry.chains.get_mut(place) else { return };
        let mut previous = if known.is_some() || seen { Some(chain.state) } else { None };
        let mut corrects = None;
        match chain.state {
            State::Acknowledged => return,
            State::DeadLettered => {
                chain.evidence = Evidence::Observed;
                chain.destination = destination.cloned().map(Box::new).or(chain.destination.take());
                return;
            }
            State::Dropped | State::Retrying
                if chain.evidence == Evidence::Inferred || reason == Some(Reason::DeliveryLimit) =>
            {
                corrects = Some(chain.state);
            }
            _ => {}
        }
        chain.evidence = Evidence::Observed;
        chain.reason = reason;
        if known.is_none() && reason == Some(Reason::Expired) {
            chain.state = State::Expired;
            if let Some(chain) = entry.chains.get(place) {
                let mut line = emit::of_chain(entry, chain, entry.publisher.as_deref(), time);
                line.previous = previous;
                observer.transition(&line);
            }
            previous = Some(State::Expired);
        }
        let Some(chain) = entry.chains.get_mut(place) else { return };
        chain.state = State::DeadLettered;
        chain.destination = destination.cloned().map(Box::new);
        let Some(chain) = entry.chains.get(place) else { return };
        let party = chain.holder.as_deref().or(entry.publisher.as_deref());
        let mut line = emit::of_chain(entry, chain, party, time);
        line.previous = previous;
        line.corrects = corrects;
        line.attributes.dead_letter_source = chain.queue.as_ref();
        if chain.holder.is_none() && matches!(reason, Some(Reason::Rejected | Reason::DeliveryLimit)) {
            // A consumer's doing, who was not seen. It was not the publisher.
            emit::without_client(&mut line);
        }
        observer.transition(&line);
        self.settle_message(reference);
    }
}

/// Whether a message may be back in a queue that it died in: it expired on its way, and which queue this is is not known. Then
/// it would be a retry, and no dead letter.
pub(super) fn may_be_back(queue: Option<&Name>, deaths: &[Death]) -> bool {
    queue.is_none() && matches!(deaths, [latest, _, ..] if reason_of(latest) == Some(Reason::Expired))
}

/// The broker's word for why a message died (RabbitMQ, dead letter exchanges: `reason`).
fn reason_of(death: &Death) -> Option<Reason> {
    match &*death.reason {
        "rejected" => Some(Reason::Rejected),
        "expired" => Some(Reason::Expired),
        "maxlen" => Some(Reason::Maxlen),
        "delivery_limit" => Some(Reason::DeliveryLimit),
        _ => None,
    }
}
