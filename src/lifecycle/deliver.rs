//! The broker's half: Dispatched and Processing, and which message a delivery is of.

use std::num::NonZeroU32;
use std::ops::Range;
use std::rc::Rc;

use super::channel::Held;
use super::dead_letter::may_be_back;
use super::message::{Chain, Message, Moment, Reader, Route, same_name};
use super::messages::{MessageRef, Messages};
use super::party::Party;
use super::transition::{Evidence, Observer, Reason, Settlement, State};
use super::{Connection, Lifecycles, Reading, Unread, emit};
use crate::names::Name;
use crate::protocol::operation::{self, ChannelId, Destination, Extras};
use crate::stream::{ConnectionId, Flow, Position};
use crate::time::Timestamp;

/// A consumer that began before the capture either settles or not; after this many deliveries without a settlement on its
/// channel it is taken for one that does not.
const UNDECIDED: u64 = 1024;

/// A delivery's own facts, apart from the message.
pub(super) struct Delivery {
    pub channel: ChannelId,
    pub tag: u64,
    pub consumer: Option<Name>,
    pub queue: Option<Name>,
    pub automatic: Option<bool>,
    pub redelivered: bool,
    pub end: Position,
}

impl Lifecycles {
    pub(super) fn delivered(
        &mut self,
        time: Timestamp,
        delivery: Delivery,
        destination: &Destination,
        message: &operation::Message,
        observer: &mut dyn Observer,
    ) {
        let party = self.party(delivery.channel.connection);
        if let (None, Some(queue)) = (message.identity, &delivery.queue) {
            self.took_unknown(delivery.channel.connection, queue);
        }
        let route = self.messages.route(&destination.exchange, &destination.routing_key);
        let body = message.body.filter(|_| message.message_id.is_none() && message.body_size != Some(0));
        let broker_count = message.extras.as_ref().and_then(|extras| extras.delivery_count);
        let deaths = message.extras.as_ref().map_or(&[][..], |extras| &extras.deaths);
        let arrived_from = deaths.first().filter(|_| !may_be_back(delivery.queue.as_ref(), deaths));
        let death = arrived_from.map(|death| death.queue.clone());
        let died_here = deaths.iter().any(|death| same_name(Some(&death.queue), delivery.queue.as_ref()));
        let reference = self.message_of(time, &delivery, &route, message, &party, observer);
        let Some(place) = self.chain_of(reference, &delivery) else { return };
        self.handed_on(time, reference, place, delivery.channel, observer);
        let Some(entry) = self.messages.get_mut(reference) else { return };
        let (message_state, message_evidence, seen) = (entry.state, entry.evidence, entry.created.get().is_some());
        let Some(chain) = entry.chains.get_mut(place) else { return };
        let first = chain.attempt == 0 && !chain.is_awaited();
        let wrong = is_wrong(chain).then_some(chain.state);
        // A message that was thought lost on its way to the broker has arrived.
        let arrived = first && message_state == State::PublishFailed && message_evidence == Evidence::Inferred;
        let back = died_here && !seen;
        let death = death.filter(|_| first && !back);
        let previous = match (first, &death) {
            (true, None) if back => Some(State::Retrying),
            (true, Some(_)) => Some(State::DeadLettered),
            (true, None) => seen.then_some(message_state),
            (false, _) => Some(chain.state),
        };
        chain.delivery = match (chain.delivery, chain.attempt) {
            (Some(latest), _) => latest.checked_add(1),
            // It was here before: each death may have taken any number of deliveries.
            (None, _) if back => None,
            (None, 0) if !delivery.redelivered => Some(NonZeroU32::MIN),
            _ => broker_count.and_then(|count| NonZeroU32::MIN.checked_add(u32::try_from(count).ok()?)),
        };
        chain.attempt += 1;
        chain.unknown = false;
        chain.state = State::Dispatched;
        chain.evidence = Evidence::Observed;
        chain.reason = None;
        chain.dispatched = time.into();
        chain.processing = Moment::default();
        chain.route = Some(route);
        chain.holder = Some(party.clone());
        let held = Held {
            tag: delivery.tag,
            message: reference,
            chain: u32::try_from(place).unwrap_or(u32::MAX),
            attempt: chain.attempt,
            consumer: delivery.consumer,
            redelivered: delivery.redelivered,
            failures: broker_count.map_or(0, |count| u32::try_from(count).unwrap_or(u32::MAX)),
            end: delivery.end,
            doubtful: false,
            unsure: delivery.automatic.is_none(),
            queue_gone: false,
        };
        if arrived {
            entry.state = State::Created;
        }
        if let Some(entry) = self.messages.get(reference)
            && let Some(chain) = entry.chains.get(place)
        {
            let mut line = emit::of_delivery(entry, chain, &held, &party, time);
            line.previous = previous;
            line.corrects = arrived.then_some(State::PublishFailed).or(wrong);
            line.attributes.dead_letter_source = death.as_ref();
            line.attributes.operation = Some(if held.consumer.is_some() { "deliver" } else { "get" });
            observer.transition(&line);
        }
        self.settle_message(reference);
        self.hold(time, delivery.channel, delivery.automatic, held, body, &party, observer);
    }

    /// Which message this is a delivery of; a new one where its publish was not seen.
    fn message_of(
        &mut self,
        time: Timestamp,
        delivery: &Delivery,
        route: &Rc<Route>,
        message: &operation::Message,
        party: &Party,
        observer: &mut dyn Observer,
    ) -> MessageRef {
        let queue = delivery.queue.as_ref();
        let offset = message.extras.as_ref().and_then(|extras| extras.stream_offset);
        let deaths = message.extras.as_ref().is_some_and(|extras| !extras.deaths.is_empty());
        let mut found = None;
        if let Some(key) = message.identity {
            let here = |entry: &Message| {
                // In a stream the offset tells twins apart, once one of them was read.
                let known = || entry.extras.as_ref().and_then(|extras| extras.stream_offset);
                (offset.is_none() || known().is_none_or(|known| offset == Some(known)))
                    && entry.publisher.as_ref().is_none_or(|p| p.shares_broker_with(party))
            };
            // It failed here and comes again.
            let again = |entry: &Message| {
                (delivery.redelivered || !deaths)
                    && entry.chains.iter().find(|chain| is_chain_of(chain, delivery)).is_some_and(|chain| {
                        matches!(chain.state, State::Failed | State::Retrying)
                            // A consumer of a stream may go back in it.
                            || chain.reader.is_some()
                            || (delivery.redelivered && (chain.unknown || chain.is_in_flight()))
                            || is_wrong(chain)
                    })
                    && here(entry)
            };
            // It was published to where this delivery says, and this queue has not had it.
            let next = |entry: &Message| {
                let published_dead = entry.extras.as_ref().is_some_and(|extras| !extras.deaths.is_empty());
                published_dead == deaths
                    && (Rc::ptr_eq(&entry.route, route) || entry.route == *route)
                    && !entry.chains.iter().any(|chain| is_chain_of(chain, delivery))
                    && here(entry)
            };
            found = match self.messages.only(key) {
                Some((reference, entry)) => (again(entry) || next(entry)).then_some(reference),
                None => {
                    let lane =
                        Rc::as_ptr(route) as usize ^ usize::from(deaths) ^ offset.map_or(0, |_| lane_of(delivery));
                    let again = self.messages.find_awaited(key, again);
                    again.or_else(|| self.messages.next_of_queue(key, queue, lane, next))
                }
            };
        }
        if let (None, Some(extras)) = (found, message.extras.as_ref().filter(|_| deaths)) {
            found = message.identity.and_then(|key| self.dead_message(key, queue, extras, party));
        }
        let reference = match found {
            Some(reference) => reference,
            None => self.unseen(route, message),
        };
        self.learn(reference, message);
        if let Some(extras) = message.extras.as_ref().filter(|_| deaths) {
            self.apply_deaths(time, reference, queue, route, extras, observer);
        }
        reference
    }

    /// A message whose publish was not seen: before the capture, on another host, or in a hole.
    fn unseen(&mut self, route: &Rc<Route>, message: &operation::Message) -> MessageRef {
        let death = message.extras.as_ref().and_then(|extras| extras.deaths.last());
        let route = match death.and_then(|death| Some((&death.exchange, death.routing_key.as_ref()?))) {
            Some((exchange, key)) => self.messages.route(exchange, key),
            None => route.clone(),
        };
        self.messages.insert(message.identity, route, |entry| {
            entry.message_id = message.message_id.clone();
            entry.set_body(message.body, message.body_size);
        })
    }

    /// What a delivery shows that the publish did not (offsets, counters), or that a hole had taken.
    fn learn(&mut self, reference: MessageRef, message: &operation::Message) {
        let Some(entry) = self.messages.get_mut(reference) else { return };
        entry.set_body(message.body, message.body_size);
        let Some(extras) = &message.extras else { return };
        let telling = extras.trace.is_some() || extras.correlation_id.is_some() || extras.stream_offset.is_some();
        if !telling {
            return;
        }
        let known: &mut Extras = entry.extras.get_or_insert_default();
        known.trace = known.trace.or(extras.trace);
        known.correlation_id = known.correlation_id.take().or_else(|| extras.correlation_id.clone());
        known.stream_offset = extras.stream_offset.or(known.stream_offset);
    }

    /// The chain of this delivery, made if it is the first in its queue.
    fn chain_of(&mut self, reference: MessageRef, delivery: &Delivery) -> Option<usize> {
        let reader = self.stream_reader(reference, delivery);
        let entry = self.messages.get_mut(reference)?;
        let known = entry.chains.iter().position(|chain| {
            same_name(chain.queue.as_ref(), delivery.queue.as_ref()) && chain.reader.as_deref() == reader.as_ref()
        });
        if known.is_some() {
            return known;
        }
        let mut chain = Chain::new(delivery.queue.clone(), entry.state);
        chain.reader = reader.map(Box::new);
        entry.chains.push(chain)
    }

    /// A stream keeps its messages: every consumer gets each of them, as a chain of its own.
    fn stream_reader(&self, reference: MessageRef, delivery: &Delivery) -> Option<Reader> {
        let entry = self.messages.get(reference)?;
        let is_stream = entry.extras.as_ref().is_some_and(|extras| extras.stream_offset.is_some());
        let consumer = delivery.consumer.clone().filter(|_| is_stream)?;
        Some(Reader { channel: delivery.channel, consumer })
    }

    /// Keeps a delivery until it is settled, or, if that is all there is to come, until it is read.
    #[expect(clippy::too_many_arguments, reason = "one call, from the function above")]
    fn hold(
        &mut self,
        time: Timestamp,
        id: ChannelId,
        automatic: Option<bool>,
        mut held: Held,
        body: Option<u64>,
        party: &Party,
        observer: &mut dyn Observer,
    ) {
        let connection = self.connection(id.connection);
        let channel = connection.channel(id);
        let inferred = automatic.is_none();
        if automatic == Some(true) || (inferred && channel.is_presumed_automatic(held.consumer.as_ref())) {
            if !party.reads_seen {
                self.messages.processing(time, &held, party, Evidence::Inferred, observer);
                self.messages.settled_by_sending(time, &held, party, inferred, observer);
                return;
            }
            let end = held.end;
            let what = Reading::Automatic(held);
            connection.unread.push_back(Unread { end, channel: id, what });
            return;
        }
        held.doubtful = channel.doubt_until.is_some_and(|until| time < until);
        let (tag, end, reference) = (held.tag, held.end, held.message);
        let undecided = if inferred { held.consumer.clone() } else { None };
        if channel.held.push(tag, held).is_err() {
            self.statistics.unmatched_settlements += 1;
            return;
        }
        if channel.held.is_long() {
            self.trim(id);
        }
        if let Some(body) = body {
            self.remember_body(body, reference);
        }
        if party.reads_seen {
            self.connection(id.connection).unread.push_back(Unread { end, channel: id, what: Reading::Settled(tag) });
        }
        if let Some(consumer) = undecided {
            self.presume(time, id, &consumer, party, observer);
        }
    }

    fn remember_body(&mut self, body: u64, reference: MessageRef) {
        if self.held_bodies.len() >= self.held_bodies_sweep_at {
            let messages = &self.messages;
            self.held_bodies.retain(|_, reference| messages.get(*reference).is_some());
            self.held_bodies_sweep_at = super::next_sweep(self.held_bodies.len());
        }
        self.held_bodies.insert(body, reference);
    }

    /// Decides about a consumer that began before the capture, once there are enough deliveries to tell.
    fn presume(&mut self, time: Timestamp, id: ChannelId, consumer: &Name, party: &Party, observer: &mut dyn Observer) {
        let Some(habit) = self.channel(id).habit(Some(consumer)) else { return };
        habit.deliveries += 1;
        if habit.settles || habit.deliveries < UNDECIDED {
            return;
        }
        habit.presumed_automatic = true;
        let event = self.event(time, id.connection, "automatic_presumed");
        let mut event = super::Event { evidence: Evidence::Inferred, count: Some(UNDECIDED), ..event };
        event.attributes.consumer_tag = Some(consumer);
        observer.event(&event);
        for held in self.channel(id).held.take_if(|held| held.unsure && held.consumer.as_ref() == Some(consumer)) {
            if !self.messages.is_latest(&held) {
                continue;
            }
            self.forget_body(&held);
            let state = self.messages.chain(&held).map(|chain| chain.state);
            if party.reads_seen && state == Some(State::Dispatched) {
                let end = held.end;
                let what = Reading::Automatic(held);
                self.connection(id.connection).unread.push_back(Unread { end, channel: id, what });
                continue;
            }
            self.messages.processing(time, &held, party, Evidence::Inferred, observer);
            self.messages.settled_by_sending(time, &held, party, true, observer);
        }
        let unread = &mut self.connection(id.connection).unread;
        unread.make_contiguous().sort_by_key(|unread| unread.end);
    }

    /// The application has read: what ends before `read.end` is in its hands. What ends within `read` came there just now;
    /// when the rest of it did, was lost.
    pub(super) fn read(
        &mut self,
        time: Timestamp,
        connection: ConnectionId,
        flow: Flow,
        read: Range<Position>,
        observer: &mut dyn Observer,
    ) {
        let Lifecycles { messages, connections, .. } = self;
        let Some(connection) = connections.get_mut(&connection) else { return };
        if connection.broker_flow() != Some(flow) {
            return;
        }
        let Connection { party, channels, unread, .. } = connection;
        while unread.front().is_some_and(|unread| unread.end <= read.end)
            && let Some(Unread { end, channel, what }) = unread.pop_front()
        {
            let late = end <= read.start;
            let evidence = emit::evidence(late);
            match what {
                Reading::Settled(tag) => {
                    let channel = channels.get(&(channel.number, channel.incarnation));
                    if let Some(held) = channel.and_then(|channel| channel.held.get(tag)) {
                        messages.processing(time, held, party, evidence, observer);
                    }
                }
                Reading::Automatic(held) => {
                    messages.processing(time, &held, party, evidence, observer);
                    messages.settled_by_sending(time, &held, party, held.unsure || late, observer);
                }
            }
        }
    }

    /// A connection ended: what was settled by being sent, and never read, is lost.
    pub(super) fn drop_unread(&mut self, connection: ConnectionId, time: Timestamp, observer: &mut dyn Observer) {
        let party = self.party(connection);
        let unread = std::mem::take(&mut self.connection(connection).unread);
        for unread in unread {
            let Reading::Automatic(held) = unread.what else { continue };
            self.messages.end_delivery(time, &held, &party, observer, |chain, line| {
                chain.state = State::Dropped;
                chain.evidence = Evidence::Inferred;
                chain.reason = Some(Reason::ConnectionLost);
                line.settlement = Some(Settlement::Automatic);
            });
        }
    }

    pub(super) fn forget_body(&mut self, held: &Held) {
        let body = self.messages.get(held.message).filter(|entry| entry.message_id.is_none());
        if let Some(body) = body.and_then(|entry| entry.body)
            && self.held_bodies.get(&body.get()) == Some(&held.message)
        {
            self.held_bodies.remove(&body.get());
        }
    }
}

impl Messages {
    /// Dispatched → Processing; nothing where it is there already, or further.
    pub(super) fn processing(
        &mut self,
        time: Timestamp,
        held: &Held,
        party: &Party,
        evidence: Evidence,
        observer: &mut dyn Observer,
    ) {
        if !self.is_latest(held) {
            return;
        }
        let Some(entry) = self.get_mut(held.message) else { return };
        let Some(chain) = entry.chains.get_mut(held.chain as usize) else { return };
        if chain.state != State::Dispatched {
            return;
        }
        chain.state = State::Processing;
        chain.evidence = evidence;
        // An inferred one happened at some time before this, so that nothing can be measured from it.
        if evidence == Evidence::Observed {
            chain.processing = time.into();
        }
        let Some(chain) = entry.chains.get(held.chain as usize) else { return };
        let mut line = emit::of_delivery(entry, chain, held, party, time);
        line.previous = Some(State::Dispatched);
        line.attributes.operation = Some("process");
        observer.transition(&line);
    }

    /// What is settled by being sent is settled.
    pub(super) fn settled_by_sending(
        &mut self,
        time: Timestamp,
        held: &Held,
        party: &Party,
        inferred: bool,
        observer: &mut dyn Observer,
    ) {
        self.end_delivery(time, held, party, observer, |chain, line| {
            chain.state = State::Acknowledged;
            chain.evidence = emit::evidence(inferred);
            line.settlement = Some(Settlement::Automatic);
        });
    }

    /// Whether a delivery in somebody's hands is the latest of its chain.
    pub(super) fn is_latest(&self, held: &Held) -> bool {
        self.chain(held).is_some_and(|chain| chain.attempt == held.attempt)
    }

    pub(super) fn chain(&self, held: &Held) -> Option<&Chain> {
        self.get(held.message)?.chains.get(held.chain as usize)
    }
}

/// A delivery shows that this end of the chain, which had been inferred, did not happen.
fn is_wrong(chain: &Chain) -> bool {
    chain.evidence == Evidence::Inferred && matches!(chain.state, State::Expired | State::Dropped | State::DeadLettered)
}

/// A consumer of a stream comes by all messages at its own pace.
fn lane_of(delivery: &Delivery) -> usize {
    let ChannelId { connection, number, .. } = delivery.channel;
    let consumer = delivery.consumer.as_ref().map_or(0, |consumer| consumer.as_ptr() as usize);
    consumer ^ (connection.0 as usize).rotate_left(32) ^ usize::from(number) << 1
}

fn is_chain_of(chain: &Chain, delivery: &Delivery) -> bool {
    same_name(chain.queue.as_ref(), delivery.queue.as_ref())
        && chain.reader.as_ref().is_none_or(|reader| {
            reader.channel == delivery.channel && Some(&reader.consumer) == delivery.consumer.as_ref()
        })
}
