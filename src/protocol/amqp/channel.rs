//! One channel: contents, deliveries, settlements, confirms, transactions.

use super::confirm::{Answer, Confirms};
use super::consumers::{self, Consumers};
use super::content::{Content, Lead, Source};
use super::header::Header;
use super::identity::BodyDigest;
use super::method::Method;
use super::requests::{self, Request, Requests};
use super::transaction::Transactions;
use crate::names::Name;
use crate::protocol::Trouble;
use crate::protocol::operation::{BrokerError, ChannelId, Destination, Gap, Message, Operation, Outcome, Peer, Tags};
use crate::protocol::output::Output;
use crate::stream::{Flow, Position};
use crate::time::Timestamp;

/// What a channel costs in memory, with its contents under way.
pub(super) const COST: usize = 2048;
/// What an entry of x-death costs.
const DEATH_COST: usize = 1024;
/// What an operation kept for a commit costs.
const OPERATION_COST: usize = 512;

/// A channel's state.
pub(super) struct Channel {
    pub id: ChannelId,
    /// Contents under way, by sender.
    contents: [Option<Content>; 2],
    /// By sender: frames of a content whose method was not seen are no error.
    headless: [bool; 2],
    last_destination: [Option<Destination>; 2],
    pub(super) consumers: Consumers,
    pub(super) requests: Requests,
    /// The queue declared last: the one that an empty name means.
    pub(super) last_queue: Option<Name>,
    confirms: Confirms,
    transactions: Option<Box<Transactions>>,
    /// The last delivery tag; `None`: the channel's beginning was not seen.
    last_tag: Option<u64>,
    /// How it came to be and how far it has got.
    pub life: Life,
    /// What it cost in memory when that was counted last.
    pub counted: usize,
}

/// The stages of a channel's life.
#[derive(Debug)]
pub(super) enum Life {
    /// channel.open was sent, and not answered yet.
    Opening,
    /// Its first frame was seen, but not its opening; whether the broker has sent frames on it since.
    Emerged { broker_heard: bool },
    /// Open.
    Open,
    /// The client wants it closed; the broker has not answered yet.
    Closing { error: Option<BrokerError> },
    /// It is closed, and was said to be; frames that the client sent before it knew may still come. `late` if one did.
    Closed { by: Option<Peer>, error: Option<BrokerError>, connection: bool, late: bool },
}

impl Channel {
    /// A channel that was seen from its beginning on.
    pub fn opened(id: ChannelId, life: Life) -> Channel {
        Channel::new(id, life, Confirms::Off, Some(0))
    }

    /// A channel of which only a frame was seen, of the client's or the broker's.
    pub fn emerged(id: ChannelId, broker_heard: bool, time: Timestamp) -> Channel {
        let mut channel = Channel::new(id, Life::Emerged { broker_heard }, Confirms::unknown(), None);
        channel.headless = [true; 2];
        // Answers to requests from before may still come.
        channel.requests.client_gap(time);
        channel
    }

    fn new(id: ChannelId, life: Life, confirms: Confirms, last_tag: Option<u64>) -> Channel {
        Channel {
            id,
            contents: [None, None],
            headless: [false; 2],
            last_destination: [None, None],
            consumers: Consumers::default(),
            requests: Requests::default(),
            last_queue: None,
            confirms,
            transactions: None,
            last_tag,
            life,
            counted: 0,
        }
    }

    /// What it costs in memory.
    pub fn cost(&self) -> usize {
        let deaths: usize = self.contents.iter().flatten().map(Content::deaths).sum();
        let kept = self.transactions.as_ref().map_or(0, |transactions| transactions.kept());
        COST + self.consumers.cost()
            + self.requests.len() * requests::COST
            + deaths * DEATH_COST
            + kept * OPERATION_COST
    }

    /// This side has sent a frame.
    pub fn heard(&mut self, from: Peer) {
        if let (Life::Emerged { broker_heard }, Peer::Broker) = (&mut self.life, from) {
            *broker_heard = true;
        }
    }

    /// Takes a method.
    pub fn take(&mut self, method: &Method<'_>, from: Peer, out: &mut Output<'_>) {
        if !self.method(method, from, out) {
            self.topology(method, from, out);
        }
    }

    /// Whether a method's delivery tag, if it has one, can follow the last one.
    pub fn can_be_next(&self, method: &Method<'_>) -> bool {
        match *method {
            Method::Deliver { exchange, routing_key, .. } if consumers::is_direct_reply(exchange, routing_key) => true,
            Method::Deliver { tag, .. } | Method::GetOk { tag, .. } => self.last_tag.is_none_or(|last| tag > last),
            _ => true,
        }
    }

    /// Whether the broker takes the client's frames.
    pub fn is_alive(&self) -> bool {
        !matches!(self.life, Life::Closed { .. })
    }

    /// Whether a content of this sender is under way.
    pub fn is_amid(&self, from: Peer) -> bool {
        self.contents[index(from)].is_some()
    }

    /// The size of the next body frame, if a content of this sender is not complete.
    pub fn next_body_frame(&self, from: Peer, largest: Option<u32>) -> Option<u32> {
        self.contents[index(from)].as_ref()?.next_frame(largest)
    }

    /// Takes a method that begins a content, settles, confirms, or changes the channel's mode. False: it is another one.
    fn method(&mut self, method: &Method<'_>, from: Peer, out: &mut Output<'_>) -> bool {
        if self.contents[index(from)].is_some() {
            self.contents[index(from)] = None;
            out.trouble(Trouble::UnexpectedFrame);
        }
        self.learn_tags(out);
        match (*method, from) {
            (Method::Publish { exchange, routing_key, mandatory }, _) => {
                let lead = self.publish(exchange, routing_key, mandatory, out);
                self.begin(Peer::Client, lead);
            }
            (Method::Deliver { consumer, tag, redelivered, exchange, routing_key }, _) => {
                let source = Source::Consumer(out.name(consumer));
                let lead = self.deliver(source, tag, redelivered, exchange, routing_key, out);
                self.begin(Peer::Broker, lead);
            }
            (Method::GetOk { tag, redelivered, exchange, routing_key }, _) => {
                let source = self.answered_get((60, 71), out);
                let lead = self.deliver(source, tag, redelivered, exchange, routing_key, out);
                self.begin(Peer::Broker, lead);
            }
            (Method::GetEmpty, _) => drop(self.answered_get((60, 72), out)),
            (Method::Return { code, text, exchange, routing_key }, _) => {
                let error = out.error(code, text, (60, 40));
                let destination = out.destination(&mut self.last_destination[index(from)], exchange, routing_key);
                self.begin(from, Lead::Return { error, destination });
            }
            (Method::Ack { tag, multiple }, Peer::Client) => {
                self.settle(tags(tag, multiple), Outcome::Acknowledged, out)
            }
            (Method::Nack { tag, multiple, requeue }, Peer::Client) => {
                self.settle(
                    tags(tag, multiple),
                    if requeue { Outcome::RequeuedByNack } else { Outcome::RejectedByNack },
                    out,
                );
            }
            (Method::Reject { tag, requeue }, _) => {
                self.settle(
                    Tags::One(tag),
                    if requeue { Outcome::RequeuedByReject } else { Outcome::RejectedByReject },
                    out,
                );
            }
            (Method::Ack { tag, multiple }, Peer::Broker) => self.answer(tags(tag, multiple), false, out),
            (Method::Nack { tag, multiple, .. }, Peer::Broker) => self.answer(tags(tag, multiple), true, out),
            (Method::ConfirmSelect, _) => self.confirms.select(),
            (Method::TxSelect | Method::TxSelectOk, _) => drop(self.transactions.get_or_insert_default()),
            (Method::TxCommit, _) => self.end_transaction(true, out),
            (Method::TxRollback, _) => self.end_transaction(false, out),
            (Method::TxCommitOk, _) => self.transaction_ended(true, out),
            (Method::TxRollbackOk, _) => self.transaction_ended(false, out),
            _ => return false,
        }
        true
    }

    /// Takes a content that was published or delivered, in one piece: the same as method, header and body one after the other.
    /// False if there is more to it than to most of them, and nothing was done.
    pub fn whole(
        &mut self,
        method: &Method<'_>,
        mut header: Header,
        body: &[u8],
        flow: Flow,
        end: Position,
        out: &mut Output<'_>,
    ) -> bool {
        let from = method.content_sender();
        if self.is_amid(from) || !self.can_be_next(method) {
            return false;
        }
        self.heard(from);
        self.learn_tags(out);
        let lead = match *method {
            Method::Publish { exchange, routing_key, mandatory } => self.publish(exchange, routing_key, mandatory, out),
            Method::Deliver { consumer, tag, redelivered, exchange, routing_key } => {
                let source = Source::Consumer(out.name(consumer));
                self.deliver(source, tag, redelivered, exchange, routing_key, out)
            }
            _ => return false,
        };
        self.headless[index(from)] = false;
        bound(&mut header, out);
        if let Some(trouble) = header.trouble() {
            out.trouble(trouble);
        }
        let message = header.message(Some(BodyDigest::of(body)));
        self.say(lead, message, flow, end, out);
        true
    }

    /// Takes a content header.
    pub fn header(&mut self, mut header: Header, from: Peer, flow: Flow, end: Position, out: &mut Output<'_>) {
        bound(&mut header, out);
        match &mut self.contents[index(from)] {
            Some(content) => {
                if !content.header(header) {
                    self.contents[index(from)] = None;
                    return out.trouble(Trouble::UnexpectedFrame);
                }
                self.complete(from, flow, end, out);
            }
            None => self.headless_frame(from, out),
        }
    }

    /// Takes bytes of a body frame, or a hole in it (`Err`).
    pub fn body(&mut self, bytes: Result<&[u8], u64>, from: Peer, out: &mut Output<'_>) {
        match &mut self.contents[index(from)] {
            Some(content) => {
                let fits = match bytes {
                    Ok(bytes) => content.body(bytes),
                    Err(length) => content.hole(length),
                };
                if !fits {
                    self.contents[index(from)] = None;
                    self.headless[index(from)] = true;
                    out.trouble(Trouble::UnexpectedFrame);
                }
            }
            None => self.headless_frame(from, out),
        }
    }

    /// A body frame has ended at `end`.
    pub fn body_frame_ended(&mut self, from: Peer, flow: Flow, end: Position, out: &mut Output<'_>) {
        if let Some(content) = &mut self.contents[index(from)] {
            content.frame_ended();
            self.complete(from, flow, end, out);
        }
    }

    /// A hole took frames of this sender, or one that cannot be read.
    pub fn gap(&mut self, from: Peer, flow: Flow, position: Position, out: &mut Output<'_>) {
        if let Some(content) = &self.contents[index(from)] {
            let end = content.earliest_end(position);
            self.finish(from, flow, end, out);
        }
        self.headless[index(from)] = true;
        match from {
            Peer::Client => {
                self.confirms.gap(out.time);
                self.requests.client_gap(out.time);
            }
            Peer::Broker => self.requests.broker_gap(out.time),
        }
        if let Some(transactions) = &mut self.transactions {
            match from {
                Peer::Client => transactions.client_gap(),
                Peer::Broker => transactions.broker_gap(),
            }
        }
    }

    /// Asks the broker for something; false if there is no room to remember it.
    pub fn ask(&mut self, request: Request, out: &mut Output<'_>) {
        if !out.take_room(requests::COST) {
            return;
        }
        if !self.requests.push(request) {
            out.trouble(Trouble::BudgetExhausted);
        }
    }

    /// basic.recover was done: everything outstanding comes again.
    pub fn recovered(&mut self, out: &mut Output<'_>) {
        let spared = self.transactions.as_ref().map_or(Vec::new(), |transactions| transactions.settled().collect());
        out.push(Operation::Recovered { channel: self.id, spared });
    }

    fn publish(&mut self, exchange: &[u8], routing_key: &[u8], mandatory: bool, out: &mut Output<'_>) -> Lead {
        let destination = out.destination(&mut self.last_destination[0], exchange, routing_key);
        // What comes after the broker closed the channel is not counted by it.
        let tag = if self.is_alive() { self.confirms.published(out.time) } else { None };
        Lead::Publish { tag, destination, mandatory }
    }

    fn deliver(
        &mut self,
        from: Source,
        tag: u64,
        redelivered: bool,
        exchange: &[u8],
        routing_key: &[u8],
        out: &mut Output<'_>,
    ) -> Lead {
        if !consumers::is_direct_reply(exchange, routing_key) {
            let lost = self.last_tag.map_or(0, |last| tag.saturating_sub(last).saturating_sub(1));
            if lost > 0 {
                let deliveries = Some(lost);
                out.push(Operation::Gap(Gap { from_broker: true, channel: Some(self.id), bytes: None, deliveries }));
            }
            self.last_tag = Some(tag);
        }
        let destination = out.destination(&mut self.last_destination[1], exchange, routing_key);
        Lead::Deliver { tag, from, redelivered, destination }
    }

    fn begin(&mut self, from: Peer, lead: Lead) {
        self.headless[index(from)] = false;
        self.contents[index(from)] = Some(Content::new(lead));
    }

    fn answered_get(&mut self, answer: (u16, u16), out: &mut Output<'_>) -> Source {
        match self.requests.answered(answer, out.time, |_| None) {
            Some(Request::Get { queue, no_ack }) => {
                Source::Get { queue: queue.or_else(|| self.last_queue.clone()), automatic: Some(no_ack) }
            }
            _ => Source::Get { queue: None, automatic: None },
        }
    }

    fn headless_frame(&mut self, from: Peer, out: &mut Output<'_>) {
        if !std::mem::replace(&mut self.headless[index(from)], true) {
            out.trouble(Trouble::UnexpectedFrame);
        }
    }

    fn complete(&mut self, from: Peer, flow: Flow, end: Position, out: &mut Output<'_>) {
        if self.contents[index(from)].as_ref().is_some_and(Content::is_complete) {
            self.finish(from, flow, end, out);
        }
    }

    fn finish(&mut self, from: Peer, flow: Flow, end: Position, out: &mut Output<'_>) {
        let Some(content) = &mut self.contents[index(from)] else { return };
        if let Some(trouble) = content.trouble() {
            out.trouble(trouble);
        }
        let (lead, message) = (content.lead.take(), content.message());
        self.contents[index(from)] = None;
        if let Some(lead) = lead {
            self.say(lead, message, flow, end, out);
        }
    }

    /// Says what a content was.
    fn say(&mut self, lead: Lead, message: Message, flow: Flow, end: Position, out: &mut Output<'_>) {
        let channel = self.id;
        match lead {
            Lead::Publish { tag, destination, mandatory } => {
                self.count_or_keep(|| Operation::Published { channel, tag, destination, mandatory, message }, out);
            }
            Lead::Return { error, destination } => {
                out.push(Operation::Returned { channel, error, destination, message });
            }
            Lead::Deliver { tag, from, redelivered, destination } => {
                let (consumer, queue, automatic) = self.origin(from, tag, &destination, &message, out);
                out.push(Operation::Delivered {
                    channel,
                    tag,
                    consumer,
                    queue,
                    automatic,
                    redelivered,
                    destination,
                    message,
                    flow,
                    end,
                });
            }
        }
    }

    /// Where a delivery comes from: consumer, queue, and whether it is settled by being sent.
    fn origin(
        &mut self,
        from: Source,
        tag: u64,
        destination: &Destination,
        message: &Message,
        out: &mut Output<'_>,
    ) -> (Option<Name>, Option<Name>, Option<bool>) {
        // Without its header it is not known whether the message is a copy for another queue.
        let copied = message.body_size.is_none() || message.extras.as_ref().is_some_and(|extras| extras.carbon_copies);
        match from {
            Source::Get { queue, automatic } => {
                let named = (destination.exchange.is_empty() && !copied).then(|| destination.routing_key.clone());
                (None, queue.or(named), automatic)
            }
            Source::Consumer(consumer) => {
                let room = out.room >= consumers::COST;
                let origin = self.consumers.delivered(&consumer, tag, destination, copied, room, out.names);
                let automatic = origin.automatic;
                if let (true, Some(queue)) = (origin.learned, &origin.queue) {
                    out.push(Operation::ConsumerStarted {
                        channel: self.id,
                        consumer: consumer.clone(),
                        queue: queue.clone(),
                        automatic,
                        learned: true,
                        answered: false,
                    });
                }
                (Some(consumer), origin.queue, automatic)
            }
        }
    }

    fn settle(&mut self, tags: Tags, outcome: Outcome, out: &mut Output<'_>) {
        // A broker that has closed the channel does not hear the client's settlements any more.
        if self.is_alive() {
            if let Tags::One(tag) | Tags::UpTo(tag) = tags {
                // Both name a delivery that is outstanding (the broker refuses others).
                self.consumers.settled(tag);
            }
            let channel = self.id;
            self.count_or_keep(|| Operation::Settled { channel, tags, outcome }, out);
        }
    }

    /// Says it, or keeps it until it is committed.
    fn count_or_keep(&mut self, operation: impl FnOnce() -> Operation, out: &mut Output<'_>) {
        if let Life::Closed { late, .. } = &mut self.life {
            *late = true;
        }
        match &mut self.transactions {
            None => out.push(operation()),
            Some(transactions) => {
                let room = out.take_room(OPERATION_COST);
                if !transactions.keep(operation(), room) && room {
                    out.trouble(Trouble::BudgetExhausted);
                }
            }
        }
    }

    fn end_transaction(&mut self, commit: bool, out: &mut Output<'_>) {
        match self.transactions.get_or_insert_default().end(commit) {
            Some(operations) => operations.into_iter().for_each(|operation| out.push(operation)),
            None => out.trouble(Trouble::BudgetExhausted),
        }
    }

    fn transaction_ended(&mut self, commit: bool, out: &mut Output<'_>) {
        let batch = self.transactions.get_or_insert_default().ended(commit).unwrap_or_default();
        if commit {
            batch.operations.into_iter().for_each(|operation| out.push(operation));
        }
        out.push(Operation::Transaction {
            channel: self.id,
            committed: commit,
            published: batch.published,
            settled: batch.settled,
        });
    }

    /// The broker answers for publishes.
    fn answer(&mut self, tags: Tags, refused: bool, out: &mut Output<'_>) {
        let channel = self.id;
        let answer = self.confirms.answered(tags, refused, out.time);
        if answer == Answer::default() {
            return out.trouble(Trouble::UnexpectedFrame);
        }
        if let Some((tags, inferred)) = answer.known {
            self.say_answered(tags, refused, inferred, out);
        }
        if let Some(tags) = answer.unmatched {
            out.push(Operation::UnmatchedConfirm { channel, tags, refused });
        }
    }

    fn say_answered(&mut self, tags: Tags, refused: bool, inferred: bool, out: &mut Output<'_>) {
        let channel = self.id;
        out.push(match refused {
            false => Operation::Confirmed { channel, tags, inferred, earlier: false },
            true => Operation::PublishFailed { channel, tags, inferred },
        });
    }

    /// Time has passed, which may tell which publishes the broker has answered for.
    pub fn learn_tags(&mut self, out: &mut Output<'_>) {
        let Some(learned) = self.confirms.learn(out.time) else { return };
        if learned.publishes == 0 {
            return;
        }
        let (channel, first) = (self.id, learned.first);
        out.push(Operation::TagsLearned { channel, first, publishes: learned.publishes });
        for tags in learned.refused {
            self.say_answered(tags, true, true, out);
        }
        let tags = Tags::UpTo(learned.answered);
        out.push(Operation::Confirmed { channel, tags, inferred: true, earlier: true });
    }
}

/// Keeps the entries of x-death only if there is room for them.
fn bound(header: &mut Header, out: &mut Output<'_>) {
    if let Some(extras) = header.extras.as_mut().filter(|extras| !extras.deaths.is_empty())
        && !out.take_room(extras.deaths.len() * DEATH_COST)
    {
        extras.deaths = Vec::new();
    }
}

/// The place of a sender's state.
fn index(from: Peer) -> usize {
    match from {
        Peer::Client => 0,
        Peer::Broker => 1,
    }
}

/// Tag 0 and multiple: everything outstanding (section 1.8.3.13 of the specification).
fn tags(tag: u64, multiple: bool) -> Tags {
    match (tag, multiple) {
        (0, true) => Tags::All,
        (tag, true) => Tags::UpTo(tag),
        (tag, false) => Tags::One(tag),
    }
}
