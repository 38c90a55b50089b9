//! The consumer's half: settlements, and what ends deliveries without one.

use super::channel::Held;
use super::endings::Parting;
use super::message::Chain;
use super::messages::{MessageRef, Messages};
use super::party::Party;
use super::publish::Failure;
use super::transition::{Attributes, Evidence, Observer, Reason, Settlement, State, Why};
use super::{Event, Lifecycles, emit};
use crate::protocol::operation::{BrokerError, ChannelId, Gap, Outcome, Peer, Tags};
use crate::stream::ConnectionId;
use crate::time::Timestamp;

/// Class and method of basic.publish.
const BASIC_PUBLISH: (u16, u16) = (60, 40);

/// The name of a side in every output.
pub(super) fn peer_name(peer: Peer) -> &'static str {
    match peer {
        Peer::Client => "client",
        Peer::Broker => "broker",
    }
}

/// Whether a settlement, or confirm, named this one alone.
pub(super) fn settlement(multiple: bool) -> Settlement {
    if multiple { Settlement::Multiple } else { Settlement::Explicit }
}

impl Lifecycles {
    pub(super) fn settled(
        &mut self,
        time: Timestamp,
        id: ChannelId,
        tags: Tags,
        outcome: Outcome,
        observer: &mut dyn Observer,
    ) {
        if self.connection(id.connection).has_ended(id) {
            // The broker discards what a client still sends on a channel that it has closed (AMQP 0-9-1, 1.4.2.5).
            return;
        }
        let party = self.party(id.connection);
        let channel = self.channel(id);
        let taken = match tags {
            Tags::One(tag) => {
                let held = channel.held.take_one(tag);
                if let Some(held) = held {
                    channel.was_settled(&held);
                    self.settle_one(time, &held, outcome, Settlement::Explicit, &party, observer);
                } else {
                    self.settled_unseen(time, id, tag, observer);
                }
                return;
            }
            // The broker refuses a tag that is not outstanding, and with it everything that it would have covered.
            Tags::UpTo(tag) if channel.complete && channel.held.get(tag).is_none() => return,
            tags => channel.held.take(tags),
        };
        let covered = matches!((tags, taken.last()), (Tags::UpTo(tag), Some(held)) if held.tag == tag);
        if let (Tags::UpTo(tag), false) = (tags, covered) {
            self.settled_unseen(time, id, tag, observer);
        }
        if covered && let Some(held) = taken.last() {
            self.channel(id).was_settled(held);
        }
        for held in taken {
            // Another settlement of it may have been lost in a hole; that of the tag that is named was not, or naming it again
            // would be refused.
            let certain = !held.doubtful || tags == Tags::UpTo(held.tag);
            self.settle_with_others(time, id, &held, certain, outcome, &party, observer);
        }
    }

    /// basic.recover was done.
    pub(super) fn recovered(&mut self, time: Timestamp, id: ChannelId, spared: &[Tags], observer: &mut dyn Observer) {
        let party = self.party(id.connection);
        let channel = self.channel(id);
        channel.recovering = false;
        for held in channel.held.take_if(|held| !spared.iter().any(|tags| tags.covers(held.tag))) {
            let certain = !held.doubtful;
            self.settle_with_others(time, id, &held, certain, Outcome::Recovered, &party, observer);
        }
    }

    /// A settlement covers this delivery among others; `certain`: no other can have come before.
    #[expect(clippy::too_many_arguments, reason = "two callers, in a loop each")]
    fn settle_with_others(
        &mut self,
        time: Timestamp,
        id: ChannelId,
        held: &Held,
        certain: bool,
        outcome: Outcome,
        party: &Party,
        observer: &mut dyn Observer,
    ) {
        // What was settled by being sent is not covered.
        if certain && (!held.unsure || self.channel(id).settles(held)) {
            self.settle_one(time, held, outcome, Settlement::Multiple, party, observer);
        } else {
            self.forget_body(held);
            self.fate_unknown(time, held, party, observer);
        }
    }

    /// A settlement of a delivery from before the capture, or one that a hole took; or one that the broker will refuse.
    fn settled_unseen(&mut self, time: Timestamp, id: ChannelId, tag: u64, observer: &mut dyn Observer) {
        let channel = self.channel(id);
        channel.was_settled_unseen();
        channel.doubt_until = channel.doubt_until.max(Some(time));
        if channel.complete {
            // There was no such delivery: the client's mistake, and the broker's answer follows.
            return;
        }
        self.statistics.unmatched_settlements += 1;
        let mut event = self.event(time, id.connection, "settled_unseen");
        event.attributes.delivery_tag = Some(tag);
        observer.event(&event);
    }

    fn settle_one(
        &mut self,
        time: Timestamp,
        held: &Held,
        outcome: Outcome,
        how: Settlement,
        party: &Party,
        observer: &mut dyn Observer,
    ) {
        self.forget_body(held);
        // What is settled has been read; the record of it was lost, or the application is on another host.
        self.messages.processing(time, held, party, Evidence::Inferred, observer);
        let (state, reason, operation) = match outcome {
            Outcome::Acknowledged => (State::Acknowledged, None, "ack"),
            Outcome::RejectedByReject => (State::Rejected, Some(Reason::Rejected), "reject"),
            Outcome::RejectedByNack => (State::Rejected, Some(Reason::Rejected), "nack"),
            Outcome::RequeuedByReject => (State::Failed, Some(Reason::Requeued), "reject"),
            Outcome::RequeuedByNack => (State::Failed, Some(Reason::Requeued), "nack"),
            Outcome::Recovered => (State::Failed, Some(Reason::Recovered), "recover"),
        };
        let ended = self.messages.end_delivery(time, held, party, observer, |chain, line| {
            chain.state = state;
            chain.evidence = Evidence::Observed;
            chain.reason = reason;
            line.settlement = Some(how);
            line.operation = Some(operation);
        });
        if !ended {
            return;
        }
        let place = held.chain as usize;
        match state {
            State::Rejected => self.afterlife(time, held.message, place, held, Reason::Rejected, observer),
            State::Failed => {
                let counted = outcome != Outcome::RequeuedByNack || !self.nack_is_free(party.connection);
                self.comes_again(time, held, counted, false, observer);
            }
            _ => {}
        }
    }

    /// RabbitMQ ≥ 4.3 does not count basic.nack with requeue as a failed delivery.
    fn nack_is_free(&self, connection: ConnectionId) -> bool {
        self.broker_version(connection).is_some_and(|version| version >= (4, 3))
    }

    /// Major and minor version of a connection's broker, where it has said so.
    fn broker_version(&self, connection: ConnectionId) -> Option<(u32, u32)> {
        let session = self.connections.get(&connection)?.session.as_ref()?;
        let version = session.broker.as_deref()?.split_whitespace().last()?;
        let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        Some((parts.next().unwrap_or(0), parts.next().unwrap_or(0)))
    }

    /// A failed delivery goes back to its queue, unless that was the last one that the queue allows.
    fn comes_again(
        &mut self,
        time: Timestamp,
        held: &Held,
        counted: bool,
        inferred: bool,
        observer: &mut dyn Observer,
    ) {
        let (reference, place) = (held.message, held.chain as usize);
        if self.messages.chain(held).is_some_and(|chain| chain.reader.is_some()) {
            // A stream gives nothing twice unless a consumer goes back in it.
            return;
        }
        if held.queue_gone {
            self.died(time, reference, place, Some(held), (State::Dropped, Reason::QueueDeleted, None), observer);
            return;
        }
        let at_limit = if counted { self.is_at_delivery_limit(held) } else { Some(false) };
        if at_limit == Some(true) {
            self.afterlife(time, reference, place, held, Reason::DeliveryLimit, observer);
        } else {
            // A queue that counts may have a limit that nobody saw it declared with.
            let inferred = inferred || (at_limit.is_none() && held.failures > 0);
            self.retrying(time, reference, place, Some(held), None, inferred, observer);
        }
    }

    /// Whether a quorum queue gives a message up that has failed once more. The broker counts from the message's last arrival
    /// in the queue on, and tells its count with each delivery. `None`: the queue's declaration is not known.
    fn is_at_delivery_limit(&mut self, held: &Held) -> Option<bool> {
        let chain = self.messages.chain(held)?;
        let (queue, holder) = (chain.queue.clone()?, chain.holder.clone()?);
        let usual = self.broker_version(holder.connection).and_then(usual_delivery_limit);
        let arguments = self.topology(&holder).arguments(&queue)?;
        let quorum = arguments.queue_type.as_deref() == Some("quorum");
        // A negative limit is none.
        let limit = arguments.delivery_limit.map_or(usual, |limit| u32::try_from(limit).ok());
        Some(quorum && limit.is_some_and(|limit| held.failures >= limit))
    }

    /// A channel ended: what was outstanding on it comes again, what waited for a confirm never gets one.
    pub(super) fn channel_closed(
        &mut self,
        time: Timestamp,
        id: ChannelId,
        by: Option<Peer>,
        error: Option<&BrokerError>,
        connection: bool,
        observer: &mut dyn Observer,
    ) {
        let known = self.connection(id.connection);
        let closed_before = known.ended.insert(id.number, id.incarnation) == Some(id.incarnation);
        if closed_before && !known.channels.contains_key(&(id.number, id.incarnation)) {
            // The close-ok of a close that was told already.
            return;
        }
        let party = self.party(id.connection);
        if connection || by.is_none() {
            self.connection_ended(time, id.connection, by, error, observer);
        } else {
            let event = self.event(time, id.connection, "channel_closed");
            observer.event(&ended(event, by, error));
        }
        if connection {
            self.exclusive_queues_end(id.connection, &party);
        }
        let known = self.connection(id.connection);
        let Some(mut channel) = known.channels.remove(&(id.number, id.incarnation)) else { return };
        let gapped = known.gapped;
        self.publishes_ended(time, &channel, (by, error), gapped, observer);
        // Queues of which these were the last consumers end with them, and take what is held of them along.
        let consumers = std::mem::take(&mut channel.consumers).into_values();
        // A broker that ends a connection may end as well.
        let parting = if !connection || by == Some(Peer::Client) { Parting::Told } else { Parting::Lost };
        let ended = self.consumers_ended(time, id.connection, consumers, parting, observer);
        let reason = if timed_out(error) {
            Reason::AckTimeout
        } else if connection {
            Reason::ConnectionLost
        } else {
            Reason::ChannelClosed
        };
        observer.explained(id, Some(Why { reason, error_code: error.map(|error| i32::from(error.code)) }));
        for held in channel.held.take(Tags::All) {
            self.forget_body(&held);
            if held.doubtful || !channel.settles(&held) {
                self.fate_unknown(time, &held, &party, observer);
            } else if self.released(time, &held, reason, error, &party, observer) {
                let queue = self.messages.chain(&held).and_then(|chain| chain.queue.as_ref());
                let queue_gone = queue.is_some_and(|queue| ended.contains(queue));
                self.comes_again(time, &Held { queue_gone, ..held }, true, true, observer);
            }
        }
    }

    /// A channel ended with a delivery outstanding whose settlement a hole may have taken: nothing is claimed of it.
    fn fate_unknown(&mut self, time: Timestamp, held: &Held, party: &Party, observer: &mut dyn Observer) {
        if !self.messages.is_latest(held) {
            return;
        }
        let Some(chain) = self.messages.get_mut(held.message).and_then(|m| m.chains.get_mut(held.chain as usize))
        else {
            return;
        };
        if !chain.is_in_flight() {
            return;
        }
        chain.unknown = true;
        self.statistics.unknown_fates += 1;
        if let Some(entry) = self.messages.get(held.message)
            && let Some(chain) = entry.chains.get(held.chain as usize)
        {
            let line = emit::of_delivery(entry, chain, held, party, time);
            observer.event(&emit::event_of(&line, "fate_unknown"));
        }
        self.messages.await_again(held.message);
        self.settle_message(held.message);
    }

    /// A connection ended: says so, once for all its channels.
    pub(super) fn connection_ended(
        &mut self,
        time: Timestamp,
        connection: ConnectionId,
        by: Option<Peer>,
        error: Option<&BrokerError>,
        observer: &mut dyn Observer,
    ) {
        if std::mem::replace(&mut self.connection(connection).end_told, true) {
            return;
        }
        let name = if by.is_some() { "connection_closed" } else { "connection_lost" };
        observer.event(&ended(self.event(time, connection, name), by, error));
    }

    /// A delivery ended with its channel. True: its message goes back to its queue, if that is still there.
    fn released(
        &mut self,
        time: Timestamp,
        held: &Held,
        reason: Reason,
        error: Option<&BrokerError>,
        party: &Party,
        observer: &mut dyn Observer,
    ) -> bool {
        let ended = self.messages.end_delivery(time, held, party, observer, |chain, line| {
            let gone = held.queue_gone;
            chain.state = if gone { State::Dropped } else { State::Failed };
            chain.evidence = emit::evidence(gone);
            chain.reason = Some(if gone { Reason::QueueDeleted } else { reason });
            line.error_code = error.map(|error| i32::from(error.code));
        });
        ended && !held.queue_gone
    }

    fn publishes_ended(
        &mut self,
        time: Timestamp,
        channel: &super::channel::Channel,
        (by, error): (Option<Peer>, Option<&BrokerError>),
        gapped: Option<Timestamp>,
        observer: &mut dyn Observer,
    ) {
        let untold: Vec<MessageRef> = channel.untold().collect();
        let refused = error.filter(|error| error.method == BASIC_PUBLISH);
        if let Some(error) = refused {
            self.publish_refused_with(time, untold, error, observer);
        }
        // What came before a refused publish the broker had taken, without saying so.
        let nobody_knows = by == Some(Peer::Client) || channel.confirms_doubtful || refused.is_some();
        let reason = if by.is_none() { Reason::ConnectionLost } else { Reason::ChannelClosed };
        let waiting: Vec<MessageRef> = channel.unconfirmed.iter().copied().collect();
        // An orderly end may be in a hole, and confirms before it.
        let lost = by.is_none().then_some(gapped).flatten();
        for reference in waiting {
            let created = self.messages.get(reference).and_then(|entry| entry.created.get());
            let unseen = lost.is_some_and(|lost| created.is_none_or(|created| created <= lost));
            if !nobody_knows && !unseen {
                let failure = Failure { inferred: true, error, ..Failure::of(reason) };
                self.publish_failed(time, reference, failure, observer);
            }
            self.answered(reference);
        }
    }

    /// The broker closed a channel because of a publish on it. What came before that publish it had taken, what came after
    /// it discarded. Which one it was, an exchange's name in the error tells; without one, only a single candidate is
    /// certain, and of several it is the last, if the client waits, as clients do when they are refused.
    fn publish_refused_with(
        &mut self,
        time: Timestamp,
        mut untold: Vec<MessageRef>,
        error: &BrokerError,
        observer: &mut dyn Observer,
    ) {
        untold.retain(|reference| self.messages.get(*reference).is_some_and(|entry| entry.chains.is_empty()));
        // Those with a number and those without are kept apart.
        untold.sort_by_key(|reference| self.messages.order(*reference));
        let is_named = |reference: &MessageRef| {
            self.messages.get(*reference).is_some_and(|entry| is_named(&entry.route.exchange, error))
        };
        let (first, reason, inferred) = match untold.iter().position(is_named) {
            Some(first) => (first, Reason::ExchangeRefused, false),
            None => (untold.len().saturating_sub(1), Reason::ChannelClosed, untold.len() > 1),
        };
        for reference in untold.split_off(first) {
            let failure = Failure { reason, inferred, error: Some(error), settlement: None };
            self.publish_failed(time, reference, failure, observer);
        }
    }

    /// A hole took frames: what was outstanding may have been settled in it.
    pub(super) fn gap(&mut self, time: Timestamp, connection: ConnectionId, gap: Gap, observer: &mut dyn Observer) {
        let known = self.connection(connection);
        known.gapped = known.gapped.max(Some(time));
        let touched = known.channels.iter_mut().filter(|((number, incarnation), _)| {
            gap.channel.is_none_or(|channel| channel.number == *number && channel.incarnation == *incarnation)
        });
        for (&(number, incarnation), channel) in touched {
            observer.explained(ChannelId { connection, number, incarnation }, None);
            if gap.from_broker {
                channel.missed_broker();
            } else {
                channel.doubt_until = channel.doubt_until.max(Some(time));
                channel.held.iter_mut().for_each(|held| held.doubtful = true);
            }
        }
        self.statistics.lost_deliveries += gap.deliveries.unwrap_or(0);
        let event = self.event(time, connection, "resynchronised");
        let detail = match (gap.from_broker, gap.deliveries) {
            (true, Some(_)) => "deliveries lost",
            (true, None) => "bytes of the broker lost",
            (false, _) => "bytes of the client lost",
        };
        observer.event(&Event { count: gap.deliveries.or(gap.bytes), detail: Some(detail), ..event });
    }
}

impl Messages {
    /// Ends a delivery: `change` sets the chain's new state. False where the delivery was not the latest any more.
    pub(super) fn end_delivery(
        &mut self,
        time: Timestamp,
        held: &Held,
        party: &Party,
        observer: &mut dyn Observer,
        change: impl FnOnce(&mut Chain, &mut Attributes<'_>),
    ) -> bool {
        if !self.is_latest(held) {
            return false;
        }
        let Some(entry) = self.get_mut(held.message) else { return false };
        let Some(chain) = entry.chains.get_mut(held.chain as usize) else { return false };
        if !chain.is_in_flight() {
            return false;
        }
        let previous = chain.state;
        let mut settled = Attributes::default();
        chain.destination = None;
        change(chain, &mut settled);
        if matches!(chain.state, State::Failed | State::Rejected) {
            chain.first_failed.get_or_insert(time);
        }
        let Some(chain) = entry.chains.get(held.chain as usize) else { return false };
        let mut line = emit::of_delivery(entry, chain, held, party, time);
        line.previous = Some(previous);
        line.attributes.settlement = settled.settlement;
        line.attributes.operation = settled.operation;
        line.attributes.error_code = settled.error_code;
        observer.transition(&line);
        self.settle(held.message);
        true
    }
}

/// An event about an end, with who began and why.
fn ended<'a>(event: Event<'a>, by: Option<Peer>, error: Option<&'a BrokerError>) -> Event<'a> {
    let mut event = Event { detail: by.map(peer_name), ..event };
    event.attributes.error_code = error.map(|error| i32::from(error.code));
    event.attributes.error_text = error.map(|error| &error.text);
    event
}

/// RabbitMQ ≥ 4.0 limits every quorum queue that does not say otherwise.
fn usual_delivery_limit(version: (u32, u32)) -> Option<u32> {
    (version >= (4, 0)).then_some(20)
}

/// Whether a broker's error names this exchange: `no exchange 'x' in vhost '/'` (RabbitMQ, rabbit_misc:not_found).
fn is_named(exchange: &str, error: &BrokerError) -> bool {
    error.text.contains(&format!("exchange '{exchange}'"))
}

/// RabbitMQ's consumer timeout closes the channel: `delivery acknowledgement on channel N timed out`.
fn timed_out(error: Option<&BrokerError>) -> bool {
    error.is_some_and(|error| error.code == 406 && error.text.contains("timed out"))
}
