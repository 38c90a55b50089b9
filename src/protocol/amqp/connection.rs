//! What happens on channel 0, and how channels come and go.

use std::collections::BTreeMap;

use super::channel::{self, Channel, Life};
use super::method::{Closing, Method};
use super::table::{Table, Value};
use crate::names::Name;
use crate::protocol::Trouble;
use crate::protocol::operation::{BrokerError, ChannelId, Operation, Peer, SessionFacts};
use crate::protocol::output::Output;
use crate::stream::{Flow, Position};

/// What a channel number that was ever used costs in memory.
const NUMBER_COST: usize = 48;
const REPLY_SUCCESS: u16 = 200;
const PRECONDITION_FAILED: u16 = 406;

/// A connection's channels, and what was agreed for all of them.
pub(super) struct Connection {
    pub facts: SessionFacts,
    /// The facts have grown since they were last told.
    pub news: bool,
    pub channels: BTreeMap<u16, Box<Channel>>,
    incarnations: BTreeMap<u16, u32>,
    pub channel_max: u16,
    /// The negotiated frame size; 0: none. `None`: not known.
    pub frame_max: Option<u32>,
    /// Frames may have been missed: a channel's opening among them.
    pub gapped: bool,
    /// The login is over: the client's bytes hold no password any more.
    pub logged_in: bool,
    /// connection.close: by whom, and why.
    closing: Option<(Peer, Option<BrokerError>)>,
    /// Its end was told.
    end_told: bool,
    /// All channels were closed with the connection.
    closed: bool,
    /// Memory of all channels, as far as it was counted.
    cost: usize,
    /// The channel that may have changed since it was counted.
    touched: Option<u16>,
}

impl Connection {
    /// A connection that was seen from its beginning, or not.
    pub fn new(late: bool) -> Connection {
        Connection {
            facts: SessionFacts { system: "rabbitmq", late, ..SessionFacts::default() },
            news: true,
            channels: BTreeMap::new(),
            incarnations: BTreeMap::new(),
            channel_max: u16::MAX,
            frame_max: None,
            gapped: late,
            logged_in: late,
            closing: None,
            end_told: false,
            closed: false,
            cost: 0,
            touched: None,
        }
    }

    /// What it costs in memory.
    pub fn cost(&mut self) -> usize {
        self.count_touched(None);
        self.cost + self.incarnations.len() * NUMBER_COST
    }

    /// Lets `act` work on a channel. What it costs then is counted when another one is worked on, or when somebody asks:
    /// most frames follow others of their channel.
    pub fn with<T>(&mut self, number: u16, act: impl FnOnce(&mut Channel) -> T) -> Option<T> {
        if self.touched != Some(number) {
            self.count_touched(Some(number));
        }
        self.channels.get_mut(&number).map(|channel| act(channel))
    }

    fn count_touched(&mut self, next: Option<u16>) {
        let touched = std::mem::replace(&mut self.touched, next);
        if let Some(channel) = touched.and_then(|number| self.channels.get_mut(&number)) {
            let cost = channel.cost();
            self.cost = self.cost + cost - std::mem::replace(&mut channel.counted, cost);
        }
    }

    /// Takes a method of channel 0.
    pub fn method(&mut self, method: &Method<'_>, from: Peer, out: &mut Output<'_>) {
        match method {
            Method::Start { server_properties } => {
                self.facts.broker = product(*server_properties, out);
                self.news = true;
            }
            Method::StartOk { client_properties } => {
                self.facts.client_product = product(*client_properties, out);
                self.facts.client_name = text(*client_properties, "connection_name", out);
                self.news = true;
            }
            Method::TuneOk { channel_max, frame_max } => {
                self.channel_max = if *channel_max == 0 { u16::MAX } else { *channel_max };
                self.frame_max = Some(*frame_max);
            }
            Method::Open { vhost } => {
                self.facts.vhost = Some(out.name(vhost));
                self.news = true;
            }
            Method::ConnectionClose(closing) => {
                let error = error(closing, out);
                self.closing = Some((from, error));
                if from == Peer::Broker {
                    self.end(out);
                    self.tell_end(true, out);
                }
            }
            Method::ConnectionCloseOk => {
                // The other side has closed it, also where a hole took that.
                let other = if from == Peer::Broker { Peer::Client } else { Peer::Broker };
                self.closing.get_or_insert((other, None));
                self.end(out);
                self.tell_end(true, out);
            }
            Method::Blocked { reason } => {
                let reason = Some(out.name(reason));
                out.push(Operation::Blocked { reason });
            }
            Method::Unblocked => out.push(Operation::Blocked { reason: None }),
            _ => {}
        }
    }

    /// Takes a method about a channel's own life. False: it is another one.
    pub fn channel_method(&mut self, number: u16, method: &Method<'_>, from: Peer, out: &mut Output<'_>) -> bool {
        match (method, from) {
            (Method::ChannelOpen, Peer::Client) => self.open(number, Life::Opening, out),
            (Method::ChannelOpenOk, Peer::Broker) => self.opened(number, out),
            (Method::ChannelClose(closing), from) => self.close(number, closing, from, out),
            (Method::ChannelCloseOk, from) => self.close_answered(number, from, out),
            _ => return false,
        }
        true
    }

    /// Lets `act` work on the channel that a frame came on, if there is one or one comes to life.
    pub fn on_frame(
        &mut self,
        number: u16,
        from: Peer,
        out: &mut Output<'_>,
        act: impl FnOnce(&mut Channel, &mut Output<'_>),
    ) {
        if self.touched != Some(number) {
            self.count_touched(Some(number));
        }
        if let Some(channel) = self.channels.get_mut(&number) {
            channel.heard(from);
            act(channel, out);
        } else if self.emerges(number, from, out) {
            self.with(number, |channel| act(channel, out));
        }
    }

    /// A frame came on a channel that does not exist: one whose opening was not seen comes to life, if it can have been missed.
    fn emerges(&mut self, number: u16, from: Peer, out: &mut Output<'_>) -> bool {
        if self.closed {
            return false;
        }
        if !self.gapped || number == 0 || number > self.channel_max {
            out.trouble(Trouble::UnexpectedFrame);
            return false;
        }
        let time = out.time;
        self.insert(number, out, |id| Channel::emerged(id, from == Peer::Broker, time))
    }

    /// Takes a method of a channel, but those about the channel's own life.
    pub fn on_method(&mut self, number: u16, method: &Method<'_>, from: Peer, out: &mut Output<'_>) {
        let mut begun_anew = false;
        self.on_frame(number, from, out, |channel, out| {
            begun_anew = !channel.can_be_next(method);
            if !begun_anew {
                channel.take(method, from, out);
            }
        });
        if begun_anew {
            self.reopened_unseen(number, out);
            self.with(number, |channel| channel.take(method, from, out));
        }
    }

    /// The delivery tags have begun anew: the channel was closed and opened again unseen.
    fn reopened_unseen(&mut self, number: u16, out: &mut Output<'_>) {
        let consumers = self.with(number, |channel| std::mem::take(&mut channel.consumers)).unwrap_or_default();
        self.closed_unseen(number, out);
        let time = out.time;
        if self.insert(number, out, |id| Channel::emerged(id, true, time)) {
            self.with(number, |channel| {
                channel.consumers = consumers.begun_anew();
                out.push(Operation::ChannelOpened(channel.id));
            });
        }
    }

    /// A hole took frames of a sender: of one channel, or of all.
    pub fn gap(&mut self, only: Option<u16>, from: Peer, flow: Flow, position: Position, out: &mut Output<'_>) {
        self.gapped = true;
        let numbers: Vec<u16> = match only {
            Some(number) => vec![number],
            None => self.channels.keys().copied().collect(),
        };
        for number in numbers {
            self.with(number, |channel| channel.gap(from, flow, position, out));
        }
    }

    /// The connection is over: so are its channels.
    pub fn end(&mut self, out: &mut Output<'_>) {
        self.closed = true;
        let (by, error) = match &self.closing {
            Some((by, error)) => (Some(*by), error.clone()),
            None => (None, None),
        };
        for (_, mut channel) in std::mem::take(&mut self.channels) {
            channel.learn_tags(out);
            match &channel.life {
                Life::Closed { late: false, .. } => {}
                Life::Closed { .. } => say_closed(&channel, out),
                Life::Closing { error: own } if by.is_none() => {
                    let error = own.clone();
                    channel.life = Life::Closed { by: Some(Peer::Client), error, connection: true, late: false };
                    say_closed(&channel, out);
                }
                _ => {
                    channel.life = Life::Closed { by, error: error.clone(), connection: true, late: false };
                    say_closed(&channel, out);
                }
            }
        }
        self.cost = 0;
    }

    /// Says that the connection has ended, unless that was said.
    pub fn tell_end(&mut self, agreed: bool, out: &mut Output<'_>) {
        if std::mem::replace(&mut self.end_told, true) {
            return;
        }
        let (by, error) = self.closing.clone().map_or((None, None), |(by, error)| (Some(by), error));
        out.push(Operation::ConnectionEnded { by, error, agreed });
    }

    fn open(&mut self, number: u16, life: Life, out: &mut Output<'_>) {
        if number == 0 || number > self.channel_max || self.closed {
            return out.trouble(Trouble::UnexpectedFrame);
        }
        self.closed_unseen(number, out);
        if self.insert(number, out, |id| Channel::opened(id, life)) {
            self.with(number, |channel| out.push(Operation::ChannelOpened(channel.id)));
        }
    }

    fn opened(&mut self, number: u16, out: &mut Output<'_>) {
        let Some(channel) = self.channels.get_mut(&number) else {
            return self.open(number, Life::Open, out);
        };
        match channel.life {
            Life::Opening => channel.life = Life::Open,
            // It was opened in a hole of the client's frames, and has been used since.
            Life::Emerged { broker_heard: false } => {
                channel.life = Life::Open;
                out.push(Operation::ChannelOpened(channel.id));
            }
            _ => self.open(number, Life::Open, out),
        }
    }

    fn close(&mut self, number: u16, closing: &Closing<'_>, from: Peer, out: &mut Output<'_>) {
        if !self.channels.contains_key(&number) && !self.emerges(number, from, out) {
            return;
        }
        let error = error(closing, out);
        let Some(channel) = self.channels.get_mut(&number) else { return };
        channel.heard(from);
        channel.learn_tags(out);
        match (from, &channel.life) {
            (_, Life::Closed { .. }) => {}
            (Peer::Client, _) => channel.life = Life::Closing { error },
            (Peer::Broker, _) => {
                if let Some((error, tag)) = error.as_ref().and_then(|error| Some((error, failed_settlement(error)?))) {
                    out.push(Operation::SettleFailed { channel: channel.id, tag, error: error.clone() });
                }
                channel.life = Life::Closed { by: Some(Peer::Broker), error, connection: false, late: false };
                say_closed(channel, out);
            }
        }
    }

    /// channel.close-ok. The broker's ends a channel that the client closed; the client's is the last frame of one that the
    /// broker closed.
    fn close_answered(&mut self, number: u16, from: Peer, out: &mut Output<'_>) {
        let Some(channel) = self.channels.get_mut(&number) else { return };
        match (from, &channel.life) {
            (Peer::Client, Life::Closed { late, .. }) => {
                if *late {
                    say_closed(channel, out);
                }
                self.remove(number);
            }
            (Peer::Client, _) | (Peer::Broker, Life::Closed { .. }) => {}
            (Peer::Broker, life) => {
                let error = if let Life::Closing { error } = life { error.clone() } else { None };
                channel.life = Life::Closed { by: Some(Peer::Client), error, connection: false, late: false };
                say_closed(channel, out);
                self.remove(number);
            }
        }
    }

    /// A number is opened that is still in use: its channel's end was missed.
    fn closed_unseen(&mut self, number: u16, out: &mut Output<'_>) {
        let Some(channel) = self.channels.get_mut(&number) else { return };
        let said = match &channel.life {
            Life::Closed { late, .. } => !late,
            _ => {
                channel.life = Life::Closed { by: None, error: None, connection: false, late: false };
                false
            }
        };
        if !said {
            say_closed(channel, out);
        }
        self.remove(number);
    }

    fn insert(&mut self, number: u16, out: &mut Output<'_>, make: impl FnOnce(ChannelId) -> Channel) -> bool {
        if !out.take_room(channel::COST + NUMBER_COST) {
            return false;
        }
        let next = self.incarnations.entry(number).or_default();
        let id = ChannelId { connection: out.connection, number, incarnation: *next };
        *next += 1;
        self.channels.insert(number, Box::new(make(id)));
        self.count_touched(Some(number));
        true
    }

    fn remove(&mut self, number: u16) {
        if let Some(channel) = self.channels.remove(&number) {
            self.cost -= channel.counted;
        }
    }
}

fn say_closed(channel: &Channel, out: &mut Output<'_>) {
    if let Life::Closed { by, error, connection, .. } = &channel.life {
        out.push(Operation::ChannelClosed {
            channel: channel.id,
            by: *by,
            error: error.clone(),
            connection: *connection,
        });
    }
}

fn error(closing: &Closing<'_>, out: &mut Output<'_>) -> Option<BrokerError> {
    let failed = closing.code != REPLY_SUCCESS && closing.code != 0;
    failed.then(|| out.error(closing.code, closing.text, closing.method))
}

/// Whether an error refuses a settlement, and the tag that it names. A consumer that did not settle in time was refused
/// nothing, though the code is the same.
fn failed_settlement(error: &BrokerError) -> Option<Option<u64>> {
    if error.code != PRECONDITION_FAILED {
        return None;
    }
    let (_, tag) = error.text.split_once("unknown delivery tag ")?;
    let digits = tag.split(|character: char| !character.is_ascii_digit()).next();
    Some(digits.and_then(|digits| digits.parse().ok()))
}

fn product(properties: Table<'_>, out: &mut Output<'_>) -> Option<Name> {
    let product = properties.get("product").and_then(Value::text)?;
    let version = properties.get("version").and_then(Value::text).unwrap_or_default();
    let separator: &[u8] = if version.is_empty() { b"" } else { b" " };
    Some(out.name(&[product, separator, version].concat()))
}

fn text(properties: Table<'_>, key: &str, out: &mut Output<'_>) -> Option<Name> {
    properties.get(key).and_then(Value::text).map(|text| out.name(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_settlements_are_told_from_their_text() {
        let error = |code, text: &str| BrokerError { code, text: text.into(), method: (60, 80) };
        let tag = failed_settlement(&error(406, "PRECONDITION_FAILED - unknown delivery tag 17"));
        assert_eq!(tag, Some(Some(17)));
        let timeout =
            "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 1000 ms";
        assert_eq!(failed_settlement(&error(406, timeout)), None);
        assert_eq!(failed_settlement(&error(406, "PRECONDITION_FAILED - inequivalent arg")), None);
        assert_eq!(failed_settlement(&error(404, "NOT_FOUND - unknown delivery tag 1")), None);
    }
}
