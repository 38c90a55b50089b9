//! Queues with a limit that drop their oldest messages (x-max-length and x-max-length-bytes, x-overflow drop-head; RabbitMQ,
//! "Queue Length Limit"). The broker says nothing of it on any connection, so it is inferred, from what only an agent on the
//! broker's host can know: that more messages wait than the queue takes, or that newer ones were given out before.

use std::collections::VecDeque;
use std::time::Duration;

use hashbrown::HashMap;

use super::Lifecycles;
use super::expire::GRACE;
use super::message::{Chain, Message};
use super::messages::{MessageRef, Messages};
use super::party::Party;
use super::queues::is_undelivered;
use super::topology::Afterlife;
use super::transition::{Observer, Reason, State};
use crate::names::Name;
use crate::protocol::operation::QueueArguments;
use crate::stream::ConnectionId;
use crate::time::Timestamp;

/// What more queues drop is not told.
const MOST_QUEUES: usize = 4096;
/// Publishers of one queue whose order is followed.
const MOST_PUBLISHERS: usize = 64;
/// A queue is looked through this much less often for each message that waits in it.
const PAUSE: Duration = Duration::from_micros(10);

/// The queues that drop their oldest messages.
#[derive(Default)]
pub(super) struct Overflows {
    /// By the queue's number.
    table: HashMap<u64, Limited>,
    /// When the first of them is to be looked through.
    next: Option<Timestamp>,
}

struct Limited {
    queue: Name,
    /// It takes no more messages than this.
    most: usize,
    /// Messages that were published to it, oldest first. Those at the front that somebody was given are taken out.
    waiting: VecDeque<MessageRef>,
    /// Of each publisher, the newest message that was given out, in the order of first sight.
    given: Vec<(ConnectionId, u64)>,
    suspicion: Option<Suspicion>,
}

/// Something must have been dropped. It is looked for when all that was under way then has come through here.
struct Suspicion {
    due: Timestamp,
    /// The last message that was published before.
    last: u64,
    given: Vec<(ConnectionId, u64)>,
}

impl Overflows {
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub fn contains(&self, number: u64) -> bool {
        self.table.contains_key(&number)
    }

    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.next
    }

    /// A queue was declared that takes so many messages; true if it was not known, and there is room.
    pub fn declared(&mut self, number: u64, queue: &Name, most: usize) -> bool {
        if self.table.len() >= MOST_QUEUES || self.table.contains_key(&number) {
            return false;
        }
        let (waiting, given) = (VecDeque::new(), Vec::new());
        self.table.insert(number, Limited { queue: queue.clone(), most, waiting, given, suspicion: None });
        true
    }

    /// A queue is gone, or was used unseen.
    pub fn remove(&mut self, number: u64) {
        self.table.remove(&number);
    }

    /// Frames were missed: whoever was given a message then is not known.
    pub fn missed(&mut self) {
        for limited in self.table.values_mut() {
            limited.waiting.clear();
            limited.given.clear();
            limited.suspicion = None;
        }
        self.next = None;
    }

    /// A message was published that goes to this queue only.
    pub fn published(&mut self, time: Timestamp, number: u64, reference: MessageRef, messages: &Messages) {
        let Some(limited) = self.table.get_mut(&number) else { return };
        // Without an identity it would not be found in a delivery; with a time to live of its own it may be gone for that.
        let is_followed = |entry: &Message| {
            entry.key.is_some() && entry.extras.as_ref().is_none_or(|extras| extras.expiration_ms.is_none())
        };
        if !messages.get(reference).is_some_and(is_followed) {
            return;
        }
        limited.waiting.push_back(reference);
        let due = limited.suspect(time, messages);
        self.expect(due);
    }

    /// Somebody was given a message of this queue for the first time.
    pub fn given(&mut self, time: Timestamp, number: u64, reference: MessageRef, messages: &Messages) {
        let Some(limited) = self.table.get_mut(&number) else { return };
        let Some(entry) = messages.get(reference) else { return };
        let Some(publisher) = entry.publisher.as_ref().map(|publisher| publisher.connection) else { return };
        let order = entry.place.sequence;
        let known = limited.given.iter().position(|(other, _)| *other == publisher);
        match known {
            Some(place) => limited.given[place].1 = limited.given[place].1.max(order),
            None if limited.given.len() < MOST_PUBLISHERS => limited.given.push((publisher, order)),
            None => {}
        }
        let due = limited.suspect(time, messages);
        self.expect(due);
    }

    fn expect(&mut self, due: Option<Timestamp>) {
        self.next = self.next.into_iter().chain(due).min();
    }

    /// The messages that were dropped, with their queues, by what was suspected long enough ago.
    fn take_dropped(&mut self, now: Timestamp, messages: &Messages) -> Vec<(Name, MessageRef)> {
        let mut dropped = Vec::new();
        // In the order of the queues' numbers, so that a replay says the same.
        let is_due = |limited: &Limited| limited.suspicion.as_ref().is_some_and(|suspicion| suspicion.due <= now);
        let mut due: Vec<u64> =
            self.table.iter().filter(|(_, limited)| is_due(limited)).map(|(number, _)| *number).collect();
        due.sort_unstable();
        for number in due {
            let Some(limited) = self.table.get_mut(&number) else { continue };
            let queue = limited.queue.clone();
            dropped.extend(limited.take_dropped(messages).into_iter().map(|reference| (queue.clone(), reference)));
            limited.suspect(now, messages);
        }
        let suspicions = self.table.values().filter_map(|limited| limited.suspicion.as_ref());
        self.next = suspicions.map(|suspicion| suspicion.due).min();
        dropped
    }
}

impl Limited {
    /// Whether something must have been dropped, or is about to be: when to look, if that was not known yet.
    fn suspect(&mut self, now: Timestamp, messages: &Messages) -> Option<Timestamp> {
        let waits = |reference: &MessageRef| messages.get(*reference).is_some_and(is_undelivered);
        while self.waiting.front().is_some_and(|oldest| !waits(oldest)) {
            self.waiting.pop_front();
        }
        if self.suspicion.is_some() {
            return None;
        }
        let oldest = messages.get(*self.waiting.front()?)?;
        if self.waiting.len() <= self.most && !is_passed(oldest, &self.given) {
            return None;
        }
        let last = messages.order(*self.waiting.back()?)?;
        let pause = PAUSE.saturating_mul(u32::try_from(self.waiting.len()).unwrap_or(u32::MAX));
        let due = now.plus(GRACE).plus(pause);
        self.suspicion = Some(Suspicion { due, last, given: self.given.clone() });
        Some(due)
    }

    fn take_dropped(&mut self, messages: &Messages) -> Vec<MessageRef> {
        let Some(Suspicion { last, given, .. }) = self.suspicion.take() else { return Vec::new() };
        self.waiting.retain(|reference| messages.get(*reference).is_some_and(is_undelivered));
        let known = self.waiting.iter().filter(|reference| messages.order(**reference) <= Some(last)).count();
        let mut too_many = known.saturating_sub(self.most);
        let mut dropped = Vec::new();
        self.waiting.retain(|reference| {
            let Some(entry) = messages.get(*reference) else { return false };
            // Those behind `last` are not among the oldest, as `most` of those before it are left.
            let gone = too_many > 0 || is_passed(entry, &given);
            too_many = too_many.saturating_sub(1);
            if gone {
                dropped.push(*reference);
            }
            !gone
        });
        dropped
    }
}

/// Whether a newer message of the same publisher was given out: a queue gives out its oldest first.
fn is_passed(entry: &Message, given: &[(ConnectionId, u64)]) -> bool {
    let publisher = entry.publisher.as_ref().map(|publisher| publisher.connection);
    given.iter().any(|(other, newest)| Some(*other) == publisher && entry.place.sequence < *newest)
}

/// How many messages a queue takes before it drops its oldest; `None`: it does not, or nobody can tell which these are.
pub(super) fn limit(arguments: &QueueArguments) -> Option<usize> {
    let drops_oldest = matches!(arguments.overflow.as_deref(), None | Some("drop-head"));
    let in_order = arguments.max_priority.is_none() && arguments.queue_type.as_deref() != Some("stream");
    // What waits too long is gone for another reason.
    if !drops_oldest || !in_order || arguments.message_ttl_ms.is_some() {
        return None;
    }
    match (arguments.max_length, arguments.max_length_bytes) {
        (Some(most), _) => Some(usize::try_from(most).unwrap_or(usize::MAX)),
        (None, Some(_)) => Some(usize::MAX),
        (None, None) => None,
    }
}

impl Lifecycles {
    /// Somebody was given a message of this queue for the first time.
    pub(super) fn first_given(&mut self, time: Timestamp, reference: MessageRef, queue: Option<&Name>, party: &Party) {
        if self.overflows.is_empty() || party.vhost.is_none() {
            return;
        }
        if let Some(number) = queue.and_then(|queue| self.topology(party).number(queue)) {
            self.overflows.given(time, number, reference, &self.messages);
        }
    }

    /// What limited queues have dropped by now.
    pub(super) fn tell_dropped(&mut self, now: Timestamp, observer: &mut dyn Observer) {
        if self.overflows.poll_timeout().is_none_or(|due| due > now) {
            return;
        }
        for (queue, reference) in self.overflows.take_dropped(now, &self.messages) {
            self.overflowed(now, reference, &queue, observer);
        }
    }

    /// A full queue has dropped a message.
    pub(super) fn overflowed(
        &mut self,
        time: Timestamp,
        reference: MessageRef,
        queue: &Name,
        observer: &mut dyn Observer,
    ) {
        let Some(entry) = self.messages.get(reference) else { return };
        let (Some(party), key) = (entry.publisher.clone(), entry.route.routing_key.clone()) else { return };
        let way = match self.topology(&party).afterlife(queue, &key) {
            Afterlife::Gone => return self.emptied(time, reference, queue, Reason::Maxlen, &party, observer),
            Afterlife::DeadLetterQueue(name) | Afterlife::ComesBack(name) => Some(name),
            Afterlife::Unknown | Afterlife::Stays => None,
        };
        let Some(entry) = self.messages.get_mut(reference) else { return };
        let chain = Chain::new(Some(queue.clone()), entry.state);
        let Some(place) = entry.chains.push(chain) else { return };
        self.died(time, reference, place, None, (State::DeadLettered, Reason::Maxlen, way), observer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_drops_its_oldest_in_order_is_followed() {
        let limited = QueueArguments { max_length: Some(3), ..QueueArguments::default() };
        let with = |change: fn(&mut QueueArguments)| {
            let mut arguments = limited.clone();
            change(&mut arguments);
            limit(&arguments)
        };
        assert_eq!(limit(&QueueArguments::default()), None);
        assert_eq!(with(|_| ()), Some(3));
        assert_eq!(with(|arguments| arguments.overflow = Some("drop-head".into())), Some(3));
        assert_eq!(with(|arguments| arguments.queue_type = Some("quorum".into())), Some(3));
        assert_eq!(with(|arguments| arguments.overflow = Some("reject-publish".into())), None);
        assert_eq!(with(|arguments| arguments.max_priority = Some(5)), None);
        assert_eq!(with(|arguments| arguments.message_ttl_ms = Some(5)), None);
        assert_eq!(with(|arguments| arguments.queue_type = Some("stream".into())), None);
        let bytes = QueueArguments { max_length_bytes: Some(100), ..QueueArguments::default() };
        assert_eq!(limit(&bytes), Some(usize::MAX), "how many these are is not known");
    }
}
