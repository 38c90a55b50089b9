//! Consumers of a channel: which queue a delivery comes from.

use hashbrown::HashMap;

use crate::names::{Name, Names};
use crate::protocol::operation::Destination;

/// The pseudo-queue of direct reply-to. Its consumers never acknowledge.
pub(super) const REPLY_TO: &str = "amq.rabbitmq.reply-to";
/// What a consumer costs in memory.
pub(super) const COST: usize = 256;

/// The consumers of one channel by their tags.
#[derive(Debug, Default)]
pub(super) struct Consumers {
    table: HashMap<Name, Consumer>,
}

#[derive(Debug)]
struct Consumer {
    queue: Queue,
    automatic: Option<bool>,
}

#[derive(Debug)]
enum Queue {
    /// Its basic.consume said so.
    Declared(Name),
    /// What came to it through the default exchange, where the routing key is the queue's name.
    Learned(Name),
    /// It was sent something that contradicts what was learned.
    Contradicted,
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
    /// How many are known.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether this one is known.
    pub fn contains(&self, consumer: &[u8]) -> bool {
        std::str::from_utf8(consumer).is_ok_and(|consumer| self.table.contains_key(consumer))
    }

    /// A consumer began.
    pub fn start(&mut self, consumer: Name, queue: Name, no_ack: bool) {
        self.table.insert(consumer, Consumer { queue: Queue::Declared(queue), automatic: Some(no_ack) });
    }

    /// A consumer ended: its queue.
    pub fn cancel(&mut self, consumer: &Name) -> Option<Name> {
        match self.table.remove(consumer)?.queue {
            Queue::Declared(queue) | Queue::Learned(queue) => Some(queue),
            Queue::Contradicted => None,
        }
    }

    /// A delivery to a consumer. `copied`: its routing key need not be why it is in the queue. `room`: one may be learned.
    pub fn delivered(
        &mut self,
        consumer: &Name,
        destination: &Destination,
        copied: bool,
        room: bool,
        names: &mut Names,
    ) -> Origin {
        let direct = destination.exchange.is_empty() && !copied;
        if let Some(known) = self.table.get_mut(consumer) {
            if let Queue::Learned(queue) = &known.queue {
                if direct && **queue != *reply_queue(&destination.routing_key) {
                    known.queue = Queue::Contradicted;
                }
            }
            let queue = match &known.queue {
                Queue::Declared(queue) | Queue::Learned(queue) => Some(queue.clone()),
                Queue::Contradicted => None,
            };
            return Origin { queue, automatic: known.automatic, learned: false };
        }
        if !direct || !room {
            return Origin::default();
        }
        let wire = reply_queue(&destination.routing_key);
        let automatic = (wire == REPLY_TO).then_some(true);
        let queue = if wire == REPLY_TO { names.intern(wire.as_bytes()) } else { destination.routing_key.clone() };
        self.table.insert(consumer.clone(), Consumer { queue: Queue::Learned(queue.clone()), automatic });
        Origin { queue: Some(queue), automatic, learned: true }
    }
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
        consumers.delivered(&"tag".into(), &destination, copied, true, &mut Names::default())
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
    fn direct_replies_need_no_settlement() {
        let mut consumers = Consumers::default();
        let origin = deliver(&mut consumers, "", "amq.rabbitmq.reply-to.g1h2", false);
        assert_eq!((origin.queue.as_deref(), origin.automatic), (Some(REPLY_TO), Some(true)));
        assert!(deliver(&mut consumers, "", "amq.rabbitmq.reply-to.g1h3", false).queue.is_some());
    }
}
