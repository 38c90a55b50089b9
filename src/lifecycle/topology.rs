//! Queues, exchanges and bindings as the wire declared them: what decides where a rejected message goes.
//!
//! It is never complete: what was declared before the capture, by policies or by the management interface, is not here.
//! So an answer is either certain as far as the declarations go, or `None`.

use hashbrown::HashMap;

use crate::names::Name;
use crate::protocol::operation::QueueArguments;
use crate::stream::ConnectionId;

/// What becomes of a message that its queue does not want any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Afterlife {
    /// The queue's declaration was not seen.
    Unknown,
    /// It stays where it is: streams do not reject.
    Stays,
    /// There is no dead-letter exchange (as far as the declaration goes; a policy could have added one).
    Gone,
    /// To this queue, or to `exchange:routing key` where the queue is not known.
    DeadLetterQueue(Name),
    /// To this queue, from which it comes back after its time to live.
    ComesBack(Name),
}

/// The declarations of one virtual host.
pub(super) struct Topology {
    queues: HashMap<Name, Queue>,
    exchanges: HashMap<Name, Exchange>,
    /// Declarations that found no room.
    pub refused: u64,
    next_number: u64,
}

#[derive(Default)]
struct Queue {
    /// Never used again: tells a queue from later ones of its name, and from those of other virtual hosts.
    number: u64,
    arguments: Option<Box<QueueArguments>>,
    /// A message that this queue had rejected was seen to come back to it.
    comes_back: bool,
    /// The connection that it ends with.
    owner: Option<ConnectionId>,
    /// Consumers that were seen to start, and not to end.
    consumers: usize,
}

#[derive(Default)]
struct Exchange {
    kind: Option<Name>,
    alternate: Option<Name>,
    bindings: Vec<Binding>,
}

struct Binding {
    target: Name,
    to_exchange: bool,
    routing_key: Name,
    arguments: bool,
}

/// A queue, exchange or binding that finds no room here is as if it had never been declared.
const MOST_QUEUES: usize = 65_536;
const MOST_EXCHANGES: usize = 16_384;
const MOST_BINDINGS: usize = 16_384;
/// Exchange-to-exchange bindings are followed this deep; RabbitMQ itself stops only at cycles.
const DEEPEST: usize = 8;

impl Topology {
    /// Without declarations. `place` is another one for each virtual host.
    pub fn new(place: usize) -> Topology {
        let next_number = (place as u64) << 40;
        Topology { queues: HashMap::new(), exchanges: HashMap::new(), refused: 0, next_number }
    }

    /// Takes a declaration by `client`, and returns the queue's number.
    pub fn declare_queue(
        &mut self,
        queue: &Name,
        arguments: Option<Box<QueueArguments>>,
        client: ConnectionId,
    ) -> Option<u64> {
        let Some(known) = self.queue(queue) else {
            self.refused += 1;
            return None;
        };
        if let Some(arguments) = arguments {
            known.owner = arguments.exclusive.then_some(client);
            known.arguments = Some(arguments);
        }
        Some(known.number)
    }

    /// This queue, also where nothing is known but its name; `None` if there is no room.
    fn queue(&mut self, queue: &Name) -> Option<&mut Queue> {
        if self.queues.len() >= MOST_QUEUES && !self.queues.contains_key(queue) {
            return None;
        }
        let next_number = &mut self.next_number;
        Some(self.queues.entry(queue.clone()).or_insert_with(|| {
            *next_number += 1;
            Queue { number: *next_number, ..Queue::default() }
        }))
    }

    pub fn delete_queue(&mut self, queue: &Name) {
        self.queues.remove(queue);
        for exchange in self.exchanges.values_mut() {
            exchange.bindings.retain(|binding| binding.to_exchange || binding.target != *queue);
        }
    }

    /// The number of the queue that has this name now.
    pub fn number(&self, queue: &Name) -> Option<u64> {
        Some(self.queues.get(queue)?.number)
    }

    /// The same, if the queue ends with this connection.
    pub fn number_owned(&self, queue: &Name, owner: ConnectionId) -> Option<u64> {
        Some(self.queues.get(queue).filter(|known| known.owner == Some(owner))?.number)
    }

    /// How many consumers a queue is known to have.
    pub fn consumers(&self, queue: &Name) -> usize {
        self.queues.get(queue).map_or(0, |known| known.consumers)
    }

    /// A consumer began: the queue's number.
    pub fn consumer_started(&mut self, queue: &Name) -> Option<u64> {
        let known = self.queue(queue)?;
        known.consumers += 1;
        Some(known.number)
    }

    /// A consumer of the queue with this number ended: how many are left. `None`: that queue is no more.
    pub fn consumer_ended(&mut self, queue: &Name, number: u64) -> Option<usize> {
        let known = self.queues.get_mut(queue).filter(|known| known.number == number)?;
        known.consumers = known.consumers.saturating_sub(1);
        Some(known.consumers)
    }

    pub fn declare_exchange(&mut self, exchange: &Name, kind: Option<Name>, alternate: Option<Name>) {
        if self.exchanges.len() >= MOST_EXCHANGES && !self.exchanges.contains_key(exchange) {
            self.refused += 1;
            return;
        }
        let known = self.exchanges.entry(exchange.clone()).or_default();
        if kind.is_some() {
            known.kind = kind;
            known.alternate = alternate;
        }
    }

    pub fn delete_exchange(&mut self, exchange: &Name) {
        self.exchanges.remove(exchange);
    }

    pub fn bind(&mut self, exchange: &Name, target: &Name, to_exchange: bool, routing_key: &Name, arguments: bool) {
        if !self.exchanges.contains_key(exchange) {
            self.declare_exchange(exchange, predeclared_kind(exchange), None);
        }
        let Some(known) = self.exchanges.get_mut(exchange) else { return };
        let is_it = |binding: &Binding| {
            binding.target == *target && binding.to_exchange == to_exchange && binding.routing_key == *routing_key
        };
        if known.bindings.iter().any(is_it) {
            return;
        }
        if known.bindings.len() >= MOST_BINDINGS {
            self.refused += 1;
            return;
        }
        known.bindings.push(Binding {
            target: target.clone(),
            to_exchange,
            routing_key: routing_key.clone(),
            arguments,
        });
    }

    pub fn unbind(&mut self, exchange: &Name, target: &Name, to_exchange: bool, routing_key: &Name) {
        if let Some(known) = self.exchanges.get_mut(exchange) {
            known.bindings.retain(|binding| {
                binding.target != *target || binding.to_exchange != to_exchange || binding.routing_key != *routing_key
            });
        }
    }

    /// A rejected message was seen to come back to the queue that had rejected it.
    pub fn learn_comes_back(&mut self, queue: &Name) {
        if let Some(known) = self.queues.get_mut(queue) {
            known.comes_back = true;
        }
    }

    /// What the queue's declaration said, if it was seen.
    pub fn arguments(&self, queue: &Name) -> Option<&QueueArguments> {
        self.queues.get(queue)?.arguments.as_deref()
    }

    /// The queue that a publish goes to and its time to live there, in milliseconds, where both are known. `own` is the
    /// message's own expiration; the shorter of the two counts (RabbitMQ, time-to-live).
    pub fn expiry(&self, exchange: &Name, routing_key: &Name, own: Option<u64>) -> Option<(Name, u64)> {
        let mut queues = self.routed(exchange, routing_key);
        let queue = queues.pop().filter(|_| queues.is_empty())?;
        let arguments = self.arguments(&queue)?;
        if arguments.queue_type.as_deref() == Some("stream") {
            return None;
        }
        let ttl = own.into_iter().chain(arguments.message_ttl_ms).min()?;
        Some((queue, ttl))
    }

    /// Where a message goes that `queue` dead-letters.
    pub fn afterlife(&self, queue: &Name, routing_key: &Name) -> Afterlife {
        let Some(known) = self.queues.get(queue) else { return Afterlife::Unknown };
        let Some(arguments) = known.arguments.as_deref() else { return Afterlife::Unknown };
        if arguments.queue_type.as_deref() == Some("stream") {
            return Afterlife::Stays;
        }
        let Some(exchange) = &arguments.dead_letter_exchange else { return Afterlife::Gone };
        let key = arguments.dead_letter_routing_key.as_ref().unwrap_or(routing_key);
        let targets = self.routed(exchange, key);
        if let Some(way) = targets.iter().find(|target| self.leads_back(target, queue, key)) {
            return Afterlife::ComesBack(way.clone());
        }
        let destination = match targets.as_slice() {
            [only] => only.clone(),
            _ => format!("{exchange}:{key}").into(),
        };
        if known.comes_back { Afterlife::ComesBack(destination) } else { Afterlife::DeadLetterQueue(destination) }
    }

    /// Whether what dies in `queue` is known to reach `home` next.
    pub fn dead_letters_to(&self, queue: &Name, routing_key: &Name, home: &Name) -> bool {
        let Some(arguments) = self.arguments(queue) else { return false };
        let Some(exchange) = &arguments.dead_letter_exchange else { return false };
        let key = arguments.dead_letter_routing_key.as_ref().unwrap_or(routing_key);
        self.routed(exchange, key).contains(home)
    }

    /// Whether messages expire in `way` and then reach `home` again.
    fn leads_back(&self, way: &Name, home: &Name, routing_key: &Name) -> bool {
        let expires = |way: &Name| self.arguments(way).is_some_and(|arguments| arguments.message_ttl_ms.is_some());
        way == home || (expires(way) && self.dead_letters_to(way, routing_key, home))
    }

    /// The queues that a message to this exchange with this key is known to reach, in order of binding. May miss some whose
    /// bindings were not seen.
    pub fn routed(&self, exchange: &Name, routing_key: &Name) -> Vec<Name> {
        let mut queues = Vec::new();
        self.follow(exchange, routing_key, DEEPEST, &mut queues);
        queues
    }

    fn follow(&self, exchange: &Name, routing_key: &Name, depth: usize, queues: &mut Vec<Name>) {
        if exchange.is_empty() {
            if !queues.contains(routing_key) {
                queues.push(routing_key.clone());
            }
            return;
        }
        let (Some(known), Some(deeper)) = (self.exchanges.get(exchange), depth.checked_sub(1)) else { return };
        let mut matched = false;
        for binding in &known.bindings {
            if !matches(known.kind.as_deref(), binding, routing_key) {
                continue;
            }
            matched = true;
            if binding.to_exchange {
                self.follow(&binding.target, routing_key, deeper, queues);
            } else if !queues.contains(&binding.target) {
                queues.push(binding.target.clone());
            }
        }
        if let (false, Some(alternate)) = (matched, &known.alternate) {
            self.follow(alternate, routing_key, deeper, queues);
        }
    }
}

/// The kinds of the exchanges that every virtual host has (AMQP 0-9-1, 3.1.3).
fn predeclared_kind(exchange: &str) -> Option<Name> {
    let kind = match exchange {
        "amq.direct" => "direct",
        "amq.fanout" => "fanout",
        "amq.topic" => "topic",
        "amq.headers" | "amq.match" => "headers",
        _ => return None,
    };
    Some(kind.into())
}

fn matches(kind: Option<&str>, binding: &Binding, routing_key: &str) -> bool {
    match kind {
        Some("fanout") => true,
        Some("topic") => topic_matches(&binding.routing_key, routing_key),
        Some("direct") => *binding.routing_key == *routing_key,
        // An exchange whose declaration was not seen: equal keys route in every kind but headers.
        None => *binding.routing_key == *routing_key && !binding.arguments,
        _ => false,
    }
}

/// Topic patterns: words between dots, `*` is one word, `#` any number (RabbitMQ documentation, topic exchange).
fn topic_matches(pattern: &str, key: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('.').collect();
    let key: Vec<&str> = if key.is_empty() { Vec::new() } else { key.split('.').collect() };
    // Row by row: which prefixes of the key the pattern so far can match. No recursion, so no pattern is expensive.
    let mut reachable = vec![false; key.len() + 1];
    reachable[0] = true;
    for word in pattern {
        let mut next = vec![false; key.len() + 1];
        match word {
            "#" => {
                let mut seen = false;
                for (place, slot) in next.iter_mut().enumerate() {
                    seen |= reachable[place];
                    *slot = seen;
                }
            }
            word => {
                for place in 0..key.len() {
                    next[place + 1] = reachable[place] && (word == "*" || word == key[place]);
                }
            }
        }
        reachable = next;
    }
    reachable[key.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.into()
    }

    #[test]
    fn topic_patterns() {
        for (pattern, key, expected) in [
            ("#", "", true),
            ("#", "a.b", true),
            ("*", "a", true),
            ("*", "", false),
            ("*", "a.b", false),
            ("a.#", "a", true),
            ("a.#.c", "a.b.b.c", true),
            ("a.*.c", "a.b.c", true),
            ("a.*.c", "a.c", false),
            ("#.#.#.#.x", "a.b.c.d.e.f", false),
        ] {
            assert_eq!(topic_matches(pattern, key), expected, "{pattern} {key}");
        }
    }

    #[test]
    fn afterlives() {
        let mut topology = Topology::new(0);
        let arguments = |dlx: Option<&str>, key: Option<&str>, ttl| {
            Some(Box::new(QueueArguments {
                dead_letter_exchange: dlx.map(name),
                dead_letter_routing_key: key.map(name),
                message_ttl_ms: ttl,
                ..QueueArguments::default()
            }))
        };
        let key = name("work");
        assert_eq!(topology.afterlife(&name("work"), &key), Afterlife::Unknown);
        topology.declare_queue(&name("work"), None, ConnectionId(1));
        assert_eq!(topology.afterlife(&name("work"), &key), Afterlife::Unknown);
        topology.declare_queue(&name("work"), arguments(None, None, None), ConnectionId(1));
        assert_eq!(topology.afterlife(&name("work"), &key), Afterlife::Gone);
        topology.declare_queue(&name("work"), arguments(Some("dlx"), None, None), ConnectionId(1));
        assert_eq!(topology.afterlife(&name("work"), &key), Afterlife::DeadLetterQueue(name("dlx:work")));
        topology.declare_exchange(&name("dlx"), Some(name("fanout")), None);
        topology.bind(&name("dlx"), &name("dead"), false, &name(""), false);
        assert_eq!(topology.afterlife(&name("work"), &key), Afterlife::DeadLetterQueue(name("dead")));
        topology.declare_queue(&name("dead"), arguments(Some(""), Some("work"), Some(100)), ConnectionId(1));
        assert_eq!(topology.afterlife(&name("work"), &key), Afterlife::ComesBack(name("dead")));
    }

    #[test]
    fn cycles_of_exchanges_end() {
        let mut topology = Topology::new(0);
        topology.declare_exchange(&name("a"), Some(name("fanout")), None);
        topology.declare_exchange(&name("b"), Some(name("fanout")), None);
        topology.bind(&name("a"), &name("b"), true, &name(""), false);
        topology.bind(&name("b"), &name("a"), true, &name(""), false);
        topology.bind(&name("b"), &name("q"), false, &name(""), false);
        assert_eq!(topology.routed(&name("a"), &name("x")), vec![name("q")]);
    }
}
