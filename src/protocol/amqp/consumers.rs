//! Consumers of a channel: which queue a delivery comes from.

use std::collections::VecDeque;

use hashbrown::HashMap;

use crate::names::{Name, Names};
use crate::protocol::operation::Destination;

/// The pseudo-queue of direct reply-to. Its consumers never acknowledge.
pub(super) const REPLY_TO: &str = "amq.rabbitmq.reply-to";
/// What a consumer costs in memory.
pub(super) const COST: usize = 256;

/// Deliveries kept to see whether they are settled, while their consumer's mode is not known.
const MOST_UNSETTLED: usize = 256;

/// The consumers of one channel by their tags.
#[derive(Debug, Default)]
pub(super) struct Consumers {
    table: HashMap<Name, Consumer>,
    /// Delivery tags to consumers of which it is not known whether they settle.
    unsettled: VecDeque<(u64, Name)>,
}

#[derive(Debug)]
struct Consumer {
    queue: Queue,
    automatic: Option<bool>,
    /// The queue that was told for its tag, as of another channel with the same number.
    told: Option<Name>,
}

#[derive(Clone, Debug)]
enum Queue {
    /// It began unseen.
    Unknown,
    /// Its basic.consume said so.
    Declared(Name),
    /// What came to it through the default exchange, where the routing key is the queue's name.
    Learned(Name),
    /// It was sent something that contradicts what was learned.
    Contradicted,
}

impl Queue {
    fn name(&self) -> Option<&Name> {
        match self {
            Queue::Declared(queue) | Queue::Learned(queue) => Some(queue),
            Queue::Unknown | Queue::Contradicted => None,
        }
    }
}

/// What is known of a delivery by its consumer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Origin {
    pub queue: Option<Name>,
    pub automatic: Option<bool>,
    /// This very delivery told the queue of a consumer that began unseen.
    pub learned: bool,
}

impl Consumers {
    /// What they cost in memory.
    pub fn cost(&self) -> usize {
        self.table.len() * COST + self.unsettled.capacity() * size_of::<(u64, Name)>()
    }

    /// Whether this one is known.
    pub fn contains(&self, consumer: &[u8]) -> bool {
        std::str::from_utf8(consumer).is_ok_and(|consumer| self.table.contains_key(consumer))
    }

    /// A consumer began.
    pub fn start(&mut self, consumer: Name, queue: Name, no_ack: bool) {
        self.table.insert(consumer, Consumer { queue: Queue::Declared(queue), automatic: Some(no_ack), told: None });
    }

    /// The channel turns out to be another one than they were taken for: nothing is known any more of who began before and who
    /// after. What was told of them is not told again.
    pub fn begun_anew(self) -> Consumers {
        let unknown = |(consumer, known): (Name, Consumer)| {
            let told = known.queue.name().cloned().or(known.told);
            (consumer, Consumer { queue: Queue::Unknown, automatic: None, told })
        };
        Consumers { table: self.table.into_iter().map(unknown).collect(), unsettled: VecDeque::new() }
    }

    /// A consumer ended: its queue.
    pub fn cancel(&mut self, consumer: &Name) -> Option<Name> {
        self.table.remove(consumer)?.queue.name().cloned()
    }

    /// A delivery to a consumer. `copied`: its routing key need not be why it is in the queue. `room`: one may be added.
    pub fn delivered(
        &mut self,
        consumer: &Name,
        tag: u64,
        destination: &Destination,
        copied: bool,
        room: bool,
        names: &mut Names,
    ) -> Origin {
        if !room && !self.table.contains_key(consumer) {
            return Origin::default();
        }
        let known = self.table.entry_ref(consumer).or_insert_with(|| Consumer {
            queue: Queue::Unknown,
            automatic: None,
            told: None,
        });
        let mut learned = false;
        if destination.exchange.is_empty() && !copied {
            let wire = reply_queue(&destination.routing_key);
            match &known.queue {
                Queue::Unknown => {
                    let is_reply = wire == REPLY_TO;
                    let queue = if is_reply { names.intern(wire.as_bytes()) } else { destination.routing_key.clone() };
                    learned = known.told.as_ref() != Some(&queue);
                    known.queue = Queue::Learned(queue);
                    known.automatic = known.automatic.or(is_reply.then_some(true));
                }
                Queue::Learned(queue) if **queue != *wire => known.queue = Queue::Contradicted,
                _ => {}
            }
        }
        if known.automatic.is_none() {
            if self.unsettled.len() == MOST_UNSETTLED {
                self.unsettled.pop_front();
            }
            self.unsettled.push_back((tag, consumer.clone()));
        }
        Origin { queue: known.queue.name().cloned(), automatic: known.automatic, learned }
    }

    /// A settlement named a tag: whoever was sent that delivery is one who settles.
    pub fn settled(&mut self, tag: u64) {
        let Some((_, consumer)) = self.unsettled.iter().find(|(other, _)| *other == tag) else { return };
        let consumer = consumer.clone();
        self.unsettled.retain(|(_, other)| *other != consumer);
        if let Some(known) = self.table.get_mut(&consumer) {
            known.automatic = Some(false);
        }
        if self.unsettled.is_empty() {
            self.unsettled = VecDeque::new();
        }
    }
}

/// Whether a delivery is a direct reply. They all have tag 1, whatever else the channel was given.
pub(super) fn is_direct_reply(exchange: &[u8], routing_key: &[u8]) -> bool {
    let rest = routing_key.strip_prefix(REPLY_TO.as_bytes());
    exchange.is_empty() && rest.is_some_and(|rest| rest.starts_with(b"."))
}

/// The queue that a routing key of the default exchange names.
fn reply_queue(routing_key: &str) -> &str {
    match routing_key.strip_prefix(REPLY_TO) {
        Some(rest) if rest.starts_with('.') => REPLY_TO,
        _ => routing_key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deliver(consumers: &mut Consumers, exchange: &str, key: &str, copied: bool) -> Origin {
        let destination = Destination { exchange: exchange.into(), routing_key: key.into() };
        consumers.delivered(&"tag".into(), 1, &destination, copied, true, &mut Names::default())
    }

    #[test]
    fn the_default_exchange_tells_the_queue_until_it_is_contradicted() {
        let mut consumers = Consumers::default();
        assert_eq!(deliver(&mut consumers, "ex", "key", false), Origin::default());
        assert_eq!(deliver(&mut consumers, "", "orders", true), Origin::default());
        let learned = deliver(&mut consumers, "", "orders", false);
        assert_eq!((learned.queue.as_deref(), learned.learned), (Some("orders"), true));
        assert_eq!(deliver(&mut consumers, "ex", "key", false).queue.as_deref(), Some("orders"));
        assert_eq!(deliver(&mut consumers, "", "other", false).queue, None);
        assert_eq!(deliver(&mut consumers, "", "orders", false).queue, None);
    }

    #[test]
    fn what_was_declared_is_not_doubted() {
        let mut consumers = Consumers::default();
        consumers.start("tag".into(), "work".into(), true);
        let origin = deliver(&mut consumers, "", "other", false);
        assert_eq!((origin.queue.as_deref(), origin.automatic), (Some("work"), Some(true)));
        assert_eq!(consumers.cancel(&"tag".into()).as_deref(), Some("work"));
    }

    #[test]
    fn the_settlement_of_a_delivery_tells_that_its_consumer_settles() {
        let mut consumers = Consumers::default();
        assert_eq!(deliver(&mut consumers, "ex", "key", false).automatic, None);
        consumers.settled(2);
        assert_eq!(deliver(&mut consumers, "ex", "key", false).automatic, None);
        consumers.settled(1);
        assert_eq!(deliver(&mut consumers, "ex", "key", false).automatic, Some(false));
        assert_eq!(consumers.cost(), COST);
    }

    #[test]
    fn what_was_told_of_a_consumer_is_not_told_again_on_another_channel() {
        let mut consumers = Consumers::default();
        consumers.start("tag".into(), "work".into(), true);
        let mut consumers = consumers.begun_anew().begun_anew();
        let again = deliver(&mut consumers, "", "work", false);
        assert_eq!((again.queue.as_deref(), again.automatic, again.learned), (Some("work"), None, false));
        let mut consumers = consumers.begun_anew();
        let other = deliver(&mut consumers, "", "elsewhere", false);
        assert_eq!((other.queue.as_deref(), other.learned), (Some("elsewhere"), true));
    }

    #[test]
    fn direct_replies_need_no_settlement() {
        let mut consumers = Consumers::default();
        let origin = deliver(&mut consumers, "", "amq.rabbitmq.reply-to.g1h2", false);
        assert_eq!((origin.queue.as_deref(), origin.automatic), (Some(REPLY_TO), Some(true)));
        assert!(deliver(&mut consumers, "", "amq.rabbitmq.reply-to.g1h3", false).queue.is_some());
    }
}
