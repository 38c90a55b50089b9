//! One state machine for every message: operations in, transitions out.
//!
//! ```text
//!               ┌────────► Returned (unroutable)      ┌──► Acknowledged
//! Created ──► (Confirmed) ──► Dispatched ──► Processing ──► Rejected ──► DeadLettered | Dropped | Retrying
//!               └────────► PublishFailed              │        ▲
//!                          Expired ◄── (in the queue) └──► Failed ──► Retrying ──► Dispatched …
//! ```
//!
//! A message has a state of its own until its first delivery (left half), and a *chain* of deliveries for each queue that
//! it was seen in (right half). What each operation does in which state:
//!
//! | operation | state before | state after |
//! | --- | --- | --- |
//! | published | | Created |
//! | confirmed | Created | Confirmed |
//! | publish refused, or its channel lost | Created | PublishFailed |
//! | returned | Created | Returned; a confirm that follows changes nothing |
//! | delivered | none, or Retrying in this queue | Dispatched |
//! | delivered again | Dispatched, Processing (the loss was not seen) | Failed, Retrying, Dispatched |
//! | delivered with x-death of this queue | Rejected, DeadLettered, Dropped | Retrying, Dispatched |
//! | delivered with x-death of other queues | any but Acknowledged, in those | DeadLettered there; Dispatched here |
//! | delivered with x-death of other queues: an application's copy, back in the queue of the original | Created, Confirmed | Retrying, Dispatched |
//! | queue purged, deleted, or ended by itself | Created, Confirmed, Failed, Retrying, of messages in it | Dropped |
//! | its time to live passes | Created, Confirmed | Expired, then DeadLettered where the queue's declaration says so |
//! | read | Dispatched | Processing; with no-ack Acknowledged at once |
//! | acknowledged | Dispatched, Processing | Acknowledged |
//! | rejected | Dispatched, Processing | Rejected, then what the queue's declaration says: DeadLettered, Dropped or Retrying |
//! | requeued, recovered, channel or connection ended | Dispatched, Processing | Failed, then Retrying, or DeadLettered at the delivery limit |
//!
//! An inferred state that later evidence contradicts is taken back: the line that replaces it says so in `corrects`.

mod channel;
mod dead_letter;
mod deliver;
mod emit;
mod endings;
mod expire;
mod handed_on;
mod keys;
mod log;
mod message;
mod messages;
mod party;
mod publish;
mod queues;
mod settle;
mod topology;
pub mod transition;
mod unseen;
pub mod withheld;

#[cfg(test)]
mod transcript;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::rc::Rc;

use hashbrown::HashMap;

use channel::{Channel, Held};
use endings::Endings;
use log::Logs;
use messages::{MessageRef, Messages};
use party::Party;
use topology::Topology;
use transition::{Event, Evidence, Observer};
use unseen::Unseen;

use crate::names::Name;
use crate::protocol::operation::{ChannelId, Observed, Operation, Peer, SessionFacts, Tags};
use crate::stream::{ConnectionId, Facts, Flow, Position};
use crate::time::Timestamp;

pub(crate) use expire::GRACE;
/// The name of Kafka's system in every line.
pub const KAFKA: &str = "kafka";

pub use log::{Lag, Statistics as LogStatistics};
pub use messages::MessageLimits;

/// What the state machine could not follow, cumulative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Messages forgotten with an open fate, because the table was full.
    pub evicted_messages: u64,
    /// Settled messages forgotten, because the table was full. What comes of them later is told as of a message that was not
    /// seen before: a dead letter that is read is told once more. If nothing comes, nothing is lost.
    pub forgotten_messages: u64,
    /// Deliveries whose settlement may have been lost, at the end of their channel.
    pub unknown_fates: u64,
    /// Deliveries that a hole took, as the next delivery tag told.
    pub lost_deliveries: u64,
    /// Settlements of deliveries that were not seen (before the capture began, or lost).
    pub unmatched_settlements: u64,
    /// Confirms of publishes that were not seen.
    pub unmatched_confirms: u64,
    /// Declarations that found no room.
    pub refused_declarations: u64,
}

/// Tables whose entries may go stale are swept from this size on.
const FIRST_SWEEP: usize = 4096;

/// When a table of which so many are left is swept again: what a sweep costs has been earned by as many additions.
fn next_sweep(left: usize) -> usize {
    (2 * left).max(FIRST_SWEEP)
}

/// The state machine of all messages.
pub struct Lifecycles {
    messages: Messages,
    connections: HashMap<ConnectionId, Connection>,
    /// Declarations by broker port and virtual host.
    topologies: HashMap<(Option<u16>, Option<Name>), Topology>,
    /// Queues that end by themselves.
    endings: Endings,
    /// What may have been given to somebody without being seen.
    unseen: Unseen,
    /// How often bindings were added, from 1 on: what followed them before follows them again.
    bindings: u32,
    /// Messages without an id in a consumer's hands, by [`Message::body`](crate::protocol::operation::Message::body).
    held_bodies: HashMap<u64, MessageRef>,
    /// When so many are held, those whose message was forgotten are dropped.
    held_bodies_sweep_at: usize,
    /// When messages expire that nobody has been given.
    expiries: BinaryHeap<Reverse<(Timestamp, MessageRef)>>,
    /// When so many are waited for, those that can expire no longer are dropped.
    expiries_sweep_at: usize,
    /// Some queue has a time to live.
    expiring: bool,
    /// Messages in logs.
    logs: Logs,
    statistics: Statistics,
}

struct Connection {
    facts: Option<Facts>,
    session: Option<Rc<SessionFacts>>,
    party: Rc<Party>,
    channels: HashMap<(u16, u32), Channel>,
    /// The incarnations that ended, by number: what a client still sends on them is not taken.
    ended: HashMap<u16, u32>,
    /// Deliveries that the application has not read yet, in order.
    unread: VecDeque<Unread>,
    /// Queues that end with it.
    exclusive: Vec<Name>,
    /// It was said to end.
    ending: bool,
    /// Its end was told.
    end_told: bool,
    /// When frames of it were last lost.
    gapped: Option<Timestamp>,
}

struct Unread {
    end: Position,
    channel: ChannelId,
    what: Reading,
}

enum Reading {
    /// A settlement will follow: the delivery with this tag.
    Settled(u64),
    /// Settled by being sent; reading is all that is left.
    Automatic(Held),
}

impl Lifecycles {
    /// Nothing known yet.
    pub fn new(limits: MessageLimits) -> Lifecycles {
        Lifecycles {
            messages: Messages::new(limits),
            connections: HashMap::new(),
            topologies: HashMap::new(),
            endings: Endings::default(),
            unseen: Unseen::default(),
            bindings: 1,
            held_bodies: HashMap::new(),
            held_bodies_sweep_at: FIRST_SWEEP,
            expiries: BinaryHeap::new(),
            expiries_sweep_at: FIRST_SWEEP,
            expiring: false,
            logs: Logs::default(),
            statistics: Statistics::default(),
        }
    }

    /// What could not be followed so far.
    pub fn statistics(&self) -> Statistics {
        let refused = self.topologies.values().map(|topology| topology.refused).sum();
        let forgotten_messages = self.messages.forgotten;
        Statistics { refused_declarations: refused, forgotten_messages, ..self.statistics }
    }

    /// What could not be followed in logs so far.
    pub fn log_statistics(&self) -> LogStatistics {
        self.logs.statistics()
    }

    /// How far every consumer group is behind, in no order.
    pub fn lags(&self, now: Timestamp) -> impl Iterator<Item = Lag> + '_ {
        self.logs.lags(now)
    }

    /// Messages whose fate is open.
    pub fn open_messages(&self) -> usize {
        self.messages.active()
    }

    /// Settled messages that are still remembered.
    pub fn remembered_messages(&self) -> usize {
        self.messages.settled()
    }

    /// The transport knows a connection, or knows more about it.
    pub fn handle_facts(&mut self, connection: ConnectionId, facts: &Facts) {
        self.joined(connection, !facts.from_start);
        let known = self.connection(connection);
        known.facts = Some(facts.clone());
        known.party = Party::new(connection, known.facts.as_ref(), known.session.as_deref());
    }

    /// A connection's both ends are gone; its channels' ends came before as operations.
    pub fn handle_closed(&mut self, connection: ConnectionId, time: Timestamp, observer: &mut dyn Observer) {
        self.drop_unread(connection, time, observer);
        if let Some(party) = self.connections.get(&connection).map(|connection| connection.party.clone()) {
            self.logs.closed(time, &party, observer);
        }
        self.exclusive_queues_ended(time, connection, observer);
        self.left(time, connection);
        self.unseen.left(time, connection);
        self.connections.remove(&connection);
    }

    /// Reads what these operations will need of the messages that are known. Since its publish a message has left the
    /// processor's caches; to wait for one after the other takes far longer than for all together.
    pub fn look_ahead(&self, operations: &[Observed]) {
        let mut read = 0;
        for observed in operations {
            if let Operation::Delivered { message, .. } = &observed.operation
                && let Some(identity) = message.identity
            {
                read ^= self.messages.look_at(identity);
            }
        }
        std::hint::black_box(read);
    }

    /// Something happened. What is kept of it is taken out of it.
    pub fn handle(&mut self, observed: &mut Observed, observer: &mut dyn Observer) {
        let Observed { time, connection, operation } = observed;
        self.dispatch(*time, *connection, operation, observer);
        self.report_evicted(*time, observer);
    }

    fn dispatch(
        &mut self,
        time: Timestamp,
        connection: ConnectionId,
        operation: &mut Operation,
        observer: &mut dyn Observer,
    ) {
        self.clarify(time, connection, operation);
        match operation {
            Operation::Session(facts) => self.session(connection, facts.clone()),
            Operation::Published { channel, tag, destination, mandatory, message } => {
                self.published(time, *channel, (*tag, *mandatory), destination, message, observer);
            }
            Operation::Confirmed { channel, tags, inferred, earlier } => {
                let settlement = (!*earlier).then(|| settle::settlement(!matches!(tags, Tags::One(_))));
                self.confirmed(time, *channel, *tags, *inferred, settlement, observer);
            }
            Operation::PublishFailed { channel, tags, inferred } => {
                self.publish_refused(time, *channel, *tags, *inferred, observer);
            }
            Operation::TagsLearned { channel, first, publishes } => {
                self.channel(*channel).learn_tags(*first, *publishes);
            }
            Operation::UnmatchedConfirm { channel, tags, refused } => {
                self.statistics.unmatched_confirms += 1;
                if *refused {
                    self.publish_failed_unseen(time, *channel, *tags, observer);
                }
            }
            Operation::Returned { channel, error, destination, message } => {
                self.returned(time, *channel, error, destination, message, observer);
            }
            Operation::Delivered {
                channel,
                tag,
                consumer,
                queue,
                automatic,
                redelivered,
                destination,
                message,
                flow: _,
                end,
            } => {
                let delivery = deliver::Delivery {
                    channel: *channel,
                    tag: *tag,
                    consumer: consumer.take(),
                    queue: queue.take(),
                    automatic: *automatic,
                    redelivered: *redelivered,
                    end: *end,
                };
                self.delivered(time, delivery, destination, message, observer);
            }
            Operation::Read { flow, from, position } => {
                self.read(time, connection, *flow, *from..*position, observer);
                self.logs.read(time, connection, *flow, *from..*position, observer);
            }
            Operation::Log(operation) => {
                let party = self.party(connection);
                self.logs.handle(time, &party, operation, observer);
            }
            Operation::Recovered { channel, spared } => self.recovered(time, *channel, spared, observer),
            Operation::RecoverAsked(channel) => self.channel(*channel).recovering = true,
            Operation::Settled { channel, tags, outcome } => self.settled(time, *channel, *tags, *outcome, observer),
            Operation::SettleFailed { channel, tag, error } => {
                let event = self.event(time, channel.connection, "settle_failed");
                let mut event = Event { detail: Some(&error.text), ..event };
                event.attributes.delivery_tag = *tag;
                event.attributes.error_code = Some(i32::from(error.code));
                event.attributes.error_text = Some(&error.text);
                observer.event(&event);
            }
            Operation::ChannelOpened(channel) => {
                self.channel(*channel).complete = true;
            }
            Operation::ChannelClosed { channel, by, error, connection } => {
                self.channel_closed(time, *channel, *by, error.as_ref(), *connection, observer);
            }
            Operation::ConnectionEnded { by, error, agreed } => {
                self.connection_ended(time, connection, *by, error.as_ref(), observer);
                if *agreed {
                    self.exclusive_queues_ended(time, connection, observer);
                }
            }
            Operation::ConsumerStarted { channel, consumer, queue, automatic: _, learned, answered } => {
                self.consumer_started(*channel, consumer, queue, *answered);
                let event = self.event(time, channel.connection, "consumer_started");
                let mut event = Event { evidence: emit::evidence(*learned), ..event };
                event.attributes.consumer_tag = Some(consumer);
                event.attributes.queue = Some(queue);
                observer.event(&event);
            }
            Operation::ConsumerCancelled { channel, consumer, queue, by, answered } => {
                if *by == Peer::Broker {
                    self.channel(*channel).cancelled_by_broker = true;
                }
                let event = self.event(time, channel.connection, "consumer_cancelled");
                let mut event = Event { detail: Some(settle::peer_name(*by)), ..event };
                event.attributes.consumer_tag = Some(consumer);
                event.attributes.queue = queue.as_ref();
                observer.event(&event);
                if *answered {
                    self.consumer_cancelled(time, *channel, consumer, *by, observer);
                }
            }
            Operation::QueueDeclared { queue, arguments, messages: _, consumers } => {
                self.queue_declared(time, connection, queue, arguments.take(), *consumers, observer);
            }
            Operation::QueueEmptied { queue, deleted, messages } => {
                self.queue_emptied(time, connection, queue, *deleted, *messages, observer);
            }
            Operation::ExchangeDeclared { exchange, kind, alternate } => {
                let party = self.party(connection);
                self.endings.rerouted();
                self.topology(&party).declare_exchange(exchange, kind.take(), alternate.take());
            }
            Operation::ExchangeDeleted { exchange } => {
                let party = self.party(connection);
                self.endings.rerouted();
                self.topology(&party).delete_exchange(exchange);
            }
            Operation::Binding { exchange, target, to_exchange, routing_key, bound, arguments } => {
                let party = self.party(connection);
                self.bindings = self.bindings.wrapping_add(u32::from(*bound));
                self.endings.rerouted();
                let topology = self.topology(&party);
                if *bound {
                    topology.bind(exchange, target, *to_exchange, routing_key, *arguments);
                } else {
                    topology.unbind(exchange, target, *to_exchange, routing_key);
                }
            }
            Operation::Transaction { channel, committed, published, settled } => {
                let event = self.event(time, channel.connection, "transaction");
                let detail = Some(if *committed { "committed" } else { "rolled back" });
                observer.event(&Event { count: Some(*published + *settled), detail, ..event });
            }
            Operation::Blocked { reason } => {
                let name = if reason.is_some() { "blocked" } else { "unblocked" };
                let event = self.event(time, connection, name);
                observer.event(&Event { detail: reason.as_deref(), ..event });
            }
            Operation::Gap(gap) => {
                self.missed(time, connection);
                let party = self.party(connection);
                self.logs.missed(time, &party);
                if gap.from_broker {
                    self.unseen.hole(time);
                }
                self.gap(time, connection, *gap, observer);
            }
            Operation::NotDecoded { protocol } => {
                self.missed(time, connection);
                self.unseen.not_decoded(connection);
                let event = self.event(time, connection, "not_decoded");
                observer.event(&Event { detail: Some(protocol), ..event });
            }
            Operation::Trouble(trouble) => {
                self.missed(time, connection);
                let party = self.party(connection);
                self.logs.missed(time, &party);
                self.unseen.missed(time);
                let event = self.event(time, connection, "parse_trouble");
                observer.event(&Event { detail: Some(trouble.name()), ..event });
            }
        }
    }

    /// Messages that had to make room are counted, and those in a consumer's hands are told one by one.
    fn report_evicted(&mut self, time: Timestamp, observer: &mut dyn Observer) {
        for message in std::mem::take(&mut self.messages.evicted) {
            self.statistics.evicted_messages += 1;
            for chain in message.chains.iter().filter(|chain| chain.is_in_flight()) {
                let line = emit::of_consequence(&message, chain, None, time);
                observer.event(&emit::event_of(&line, "evicted"));
            }
        }
    }

    fn session(&mut self, connection: ConnectionId, session: Rc<SessionFacts>) {
        let known = self.connection(connection);
        known.session = Some(session);
        known.party = Party::new(connection, known.facts.as_ref(), known.session.as_deref());
        self.endings.rerouted();
    }

    fn event(&self, time: Timestamp, connection: ConnectionId, name: &'static str) -> Event<'_> {
        let party = self.connections.get(&connection).map(|connection| &*connection.party);
        Event { time, name, count: None, detail: None, evidence: Evidence::Observed, attributes: emit::of_party(party) }
    }

    fn connection(&mut self, id: ConnectionId) -> &mut Connection {
        self.connections.entry(id).or_insert_with(|| Connection {
            facts: None,
            session: None,
            party: Party::unknown(id),
            channels: HashMap::new(),
            ended: HashMap::new(),
            unread: VecDeque::new(),
            exclusive: Vec::new(),
            ending: false,
            end_told: false,
            gapped: None,
        })
    }

    fn party(&mut self, id: ConnectionId) -> Rc<Party> {
        self.connection(id).party.clone()
    }

    /// Drops what waits on a channel for messages that were forgotten.
    fn trim(&mut self, id: ChannelId) {
        let Lifecycles { messages, connections, .. } = self;
        let channels = connections.get_mut(&id.connection).map(|connection| &mut connection.channels);
        if let Some(channel) = channels.and_then(|channels| channels.get_mut(&(id.number, id.incarnation))) {
            channel.held.trim(|held| messages.get(held.message).is_none());
            channel.unconfirmed.trim(|reference| messages.get(*reference).is_none());
        }
    }

    fn channel(&mut self, id: ChannelId) -> &mut Channel {
        self.connection(id.connection).channel(id)
    }

    fn topology(&mut self, party: &Party) -> &mut Topology {
        let key = (party.server.map(|server| server.port()), party.vhost.clone());
        let place = self.topologies.len();
        // A connection joined in the middle has not said its virtual host. If the broker has shown only one, it is that one.
        if key.1.is_none() && !self.topologies.contains_key(&key) {
            let mut known = self.topologies.keys().filter(|(port, vhost)| *port == key.0 && vhost.is_some());
            if let (Some(only), None) = (known.next().cloned(), known.next()) {
                return self.topologies.entry(only).or_insert_with(|| Topology::new(place));
            }
        }
        self.topologies.entry(key).or_insert_with(|| Topology::new(place))
    }

    /// After a chain's state changed.
    fn settle_message(&mut self, reference: MessageRef) {
        self.messages.settle(reference);
    }
}

impl Connection {
    fn channel(&mut self, id: ChannelId) -> &mut Channel {
        self.channels.entry((id.number, id.incarnation)).or_default()
    }

    /// Whether a channel was closed, and not opened again since.
    fn has_ended(&self, id: ChannelId) -> bool {
        !self.ended.is_empty() && self.ended.get(&id.number) == Some(&id.incarnation)
    }

    /// The flow that the broker sends.
    fn broker_flow(&self) -> Option<Flow> {
        let client = self.session.as_ref().and_then(|session| session.client_flow);
        let client = client.or_else(|| self.facts.as_ref()?.roles_known.then_some(Flow::Forward));
        client.map(Flow::reverse)
    }
}
