//! One connection's two flows: who is who, frames to methods, holes, the way back from a hole.

use std::ops::Range;

use super::connection::Connection;
use super::cursor::Flaw;
use super::frame::{Decoder, Item, PREFACE, Whole};
use super::header::Header;
use super::hunt::{Hunter, Terrain};
use super::method::Method;
use super::specification::{Argument, Sender, Specification};
use crate::protocol::operation::{Gap, Operation, Peer};
use crate::protocol::output::{Ledger, Output};
use crate::protocol::{Trouble, detect};
use crate::stream::{ConnectionId, Facts, Flow, Position};
use crate::time::Timestamp;

/// Bytes without a sign of the protocol after which a connection that was joined late is taken for something else.
const FOREIGN_BYTES: u64 = 1 << 20;
/// How much of a foreign client's bytes may hold its login.
const FOREIGN_LOGIN: u64 = 64 << 10;
/// Bytes kept while a boundary is searched; an undecided chain may hold a whole frame.
const HUNT: usize = 256 << 10;
/// The same for a connection that is taken for something else.
const HUNT_FOREIGN: usize = 8 << 10;
/// The frame size that is used before, or without, negotiation.
const USUAL_FRAME: u32 = 131_072;
/// Octets of a frame besides its payload.
const OVERHEAD: u64 = 8;

/// A session of AMQP 0-9-1.
pub(in crate::protocol) struct Session {
    decoders: [Decoder; 2],
    hunters: [Hunter; 2],
    state: State,
}

/// Everything of a session but its decoders, whose items borrow from them.
struct State {
    connection: Connection,
    client: Option<Flow>,
    /// A method proved which flow is the client's.
    client_proved: bool,
    /// The connection has shown that it speaks the protocol.
    proved: bool,
    /// The connection was said to speak something else.
    foreign: bool,
    flows: [Lost; 2],
}

/// How a flow is lost, while it is.
#[derive(Clone, Copy, Default)]
struct Lost {
    /// Bytes searched since.
    searched: u64,
    /// Up to where it was told what was lost: the next byte, if it is [`Position::MAX`]. `None`: nothing had been decoded
    /// before.
    told: Option<Position>,
    /// A hole of unknown length came since.
    unknown: bool,
    /// Bytes before this position may be a login: not to be kept, and not searched.
    secret_until: Position,
    /// Bytes before this position told what is spoken here instead: a replay needs them, and they are no login.
    public_until: Position,
}

impl Session {
    /// A session of a connection of which this is known.
    pub fn new(facts: Option<&Facts>) -> Session {
        let late = !facts.is_some_and(|facts| facts.from_start);
        let mut session = Session {
            decoders: [Decoder::new(late), Decoder::new(late)],
            hunters: Default::default(),
            state: State {
                connection: Connection::new(late),
                client: None,
                client_proved: false,
                proved: false,
                foreign: false,
                flows: [Lost::default(); 2],
            },
        };
        facts.inspect(|facts| session.facts(facts));
        session
    }

    /// What is known of the connection has changed.
    pub fn facts(&mut self, facts: &Facts) {
        if facts.roles_known && !self.state.client_proved {
            self.state.set_client(Flow::Forward);
        }
    }

    /// Whether the connection has shown that it speaks the protocol.
    pub fn is_proved(&self) -> bool {
        self.state.proved
    }

    /// The connection speaks something else: nothing is looked for any more.
    pub fn forget_searches(&mut self, connection: ConnectionId, ledger: &mut Ledger<'_>) {
        for flow in [Flow::Forward, Flow::Backward] {
            self.forget_search(flow, connection, ledger);
        }
    }

    /// What it costs in memory.
    pub fn cost(&mut self) -> usize {
        let buffers: usize = self.decoders.iter().map(Decoder::cost).sum();
        let searches: usize = self.hunters.iter().map(Hunter::cost).sum();
        size_of::<Session>() + buffers + searches + self.state.connection.cost()
    }

    /// Takes the next bytes of a flow.
    pub fn data(
        &mut self,
        flow: Flow,
        position: Position,
        bytes: &[u8],
        packet_start: bool,
        out: &mut Output<'_>,
        ledger: &mut Ledger<'_>,
    ) {
        let decoder = &mut self.decoders[flow.index()];
        decoder.set_position(position);
        decoder.set_room(out.room);
        if self.state.is_late_and_foreign(decoder.is_lost(), flow, bytes, packet_start) {
            self.state.foreign("TLS", flow, position, out);
            self.state.flows[flow.index()].public_until = position + detect::TLS_HEAD;
        }
        let mut left = self.feed(flow, bytes, out, ledger);
        let mut held: Option<Vec<u8>> = None;
        while left > 0 {
            let source = held.as_deref().unwrap_or(bytes);
            let rest = source.get(source.len() - left..).unwrap_or_default();
            let at_packet = packet_start && held.is_none() && left == bytes.len();
            let found = self.search(flow, rest, at_packet, out, ledger);
            wipe(&mut held);
            let Some((position, bytes)) = found else { break };
            self.decoders[flow.index()].resume(position, bytes.starts_with(PREFACE));
            self.state.resumed(flow, position, out);
            left = self.feed(flow, &bytes, out, ledger);
            held = Some(bytes);
        }
        wipe(&mut held);
    }

    /// The next bytes of a flow are missing.
    pub fn hole(
        &mut self,
        flow: Flow,
        position: Position,
        length: Option<u64>,
        out: &mut Output<'_>,
        ledger: &mut Ledger<'_>,
    ) {
        let decoder = &mut self.decoders[flow.index()];
        let Some(length) = length else {
            if !decoder.is_lost() {
                decoder.lose();
                self.state.lost(flow, position, None, None, out);
                self.state.flows[flow.index()].told = Some(Position::MAX);
            } else {
                self.state.flows[flow.index()].unknown = true;
            }
            return self.forget_search(flow, out.connection, ledger);
        };
        decoder.set_position(position);
        let mut left = length;
        while left > 0 {
            let before = left;
            let state = &self.state;
            let item =
                self.decoders[flow.index()].next_in_hole(&mut left, |channel| state.next_body_frame(channel, flow));
            match item {
                Some(Item::Lost(trouble)) => {
                    self.state.lost(flow, position + length - before, Some(before), trouble, out)
                }
                Some(item) => self.state.item(flow, item, position + length - left, out, ledger),
                None => break,
            }
        }
        if self.decoders[flow.index()].is_lost() {
            self.forget_search(flow, out.connection, ledger);
        }
    }

    /// The client's application, or the broker's, has read.
    pub fn read(&mut self, flow: Flow, from: Position, position: Position, out: &mut Output<'_>) {
        // Only what a client reads says something about a message: it has a delivery.
        if self.state.proved && self.state.client == Some(flow.reverse()) {
            out.push(Operation::Read { flow, from, position });
        }
    }

    /// The connection has ended.
    pub fn closed(&mut self, out: &mut Output<'_>, ledger: &mut Ledger<'_>) {
        for flow in [Flow::Forward, Flow::Backward] {
            self.forget_search(flow, out.connection, ledger);
        }
        self.state.connection.end(out);
        if self.state.proved {
            self.state.connection.tell_end(false, out);
        }
    }

    /// Nobody will know how the connection goes on.
    pub fn given_up(&mut self, out: &mut Output<'_>, ledger: &mut Ledger<'_>) {
        for flow in [Flow::Forward, Flow::Backward] {
            self.state.lost(flow, self.decoders[flow.index()].position(), None, None, out);
        }
        self.closed(out, ledger);
    }

    /// Since when bytes wait for a search's decision that are a secret if they are no frames.
    pub fn undecided_since(&self) -> Option<Timestamp> {
        let of_flow =
            |flow: Flow| self.hunters[flow.index()].undecided_since().filter(|_| self.state.may_be_login(flow));
        [Flow::Forward, Flow::Backward].into_iter().filter_map(of_flow).min()
    }

    /// Decides against every boundary that was found before this time and is not proved.
    pub fn give_up_searches(&mut self, before: Timestamp, connection: ConnectionId, ledger: &mut Ledger<'_>) {
        for flow in [Flow::Forward, Flow::Backward] {
            let passed_over = self.hunters[flow.index()].give_up(before);
            self.state.unread(flow, passed_over, connection, ledger);
        }
    }

    /// What was held for the search is not part of a frame that anybody will read.
    fn forget_search(&mut self, flow: Flow, connection: ConnectionId, ledger: &mut Ledger<'_>) {
        let passed_over = self.hunters[flow.index()].clear();
        self.state.unread(flow, passed_over, connection, ledger);
    }

    /// Decodes; answers how many bytes at the end were not, because the place is lost.
    fn feed(&mut self, flow: Flow, bytes: &[u8], out: &mut Output<'_>, ledger: &mut Ledger<'_>) -> usize {
        let Session { decoders, state, .. } = self;
        let start = decoders[flow.index()].position();
        let mut input = bytes;
        loop {
            let decoder = &mut decoders[flow.index()];
            // Nearly all that comes: not a frame at a time, for that costs twice as much.
            if let Some(content) = decoder.peek_content(input)
                && state.whole(flow, &content, decoder.position() + content.length as u64, out, ledger)
            {
                decoder.take_content(&content, &mut input);
                continue;
            }
            let Some(item) = decoder.next(&mut input) else { return input.len() };
            let end = start + (bytes.len() - input.len()) as u64;
            let before = state.connection.frame_max;
            match item {
                Item::Lost(trouble) => state.lost(flow, end, None, trouble, out),
                item => state.item(flow, item, end, out, ledger),
            }
            if let (true, Some(frame_max)) = (state.connection.frame_max != before, state.connection.frame_max) {
                decoders.iter_mut().for_each(|decoder| decoder.set_frame_max(frame_max));
            }
        }
    }

    /// Looks for a boundary in bytes behind which the place was lost.
    fn search(
        &mut self,
        flow: Flow,
        rest: &[u8],
        at_packet: bool,
        out: &mut Output<'_>,
        ledger: &mut Ledger<'_>,
    ) -> Option<(Position, Vec<u8>)> {
        let state = &mut self.state;
        let position = self.decoders[flow.index()].position();
        self.decoders[flow.index()].set_position(position + rest.len() as u64);
        if state.is_secret(flow, position) {
            let from = position.max(state.flows[flow.index()].public_until);
            ledger.secrets.add(out.connection, flow, from..position + rest.len() as u64);
            self.forget_search(flow, out.connection, ledger);
            return None;
        }
        let lost = &mut state.flows[flow.index()];
        lost.searched += rest.len() as u64;
        lost.told = lost.told.map(|told| if told == Position::MAX { position } else { told });
        if lost.searched > FOREIGN_BYTES && !state.proved && !state.foreign {
            state.foreign("unknown", flow, position, out);
        }
        let terrain = Terrain {
            sender: state.client.map(|client| if client == flow { Peer::Client } else { Peer::Broker }),
            channel_max: state.connection.channel_max,
            frame_max: state.connection.frame_max.filter(|&frame_max| frame_max > 0),
            narrow: state.foreign,
            kept: if state.foreign { HUNT_FOREIGN } else { HUNT.min(out.room) },
            proved: state.proved,
            now: out.time,
            plausible: &|channel, method| state.is_plausible(channel, method),
        };
        let mut passed_over = |range| state.unread(flow, range, out.connection, ledger);
        self.hunters[flow.index()].search(position, rest, at_packet, &terrain, &mut passed_over)
    }
}

impl State {
    /// Takes what a decoder found; `end` is the position behind it.
    fn item(&mut self, flow: Flow, item: Item<'_>, end: Position, out: &mut Output<'_>, ledger: &mut Ledger<'_>) {
        match item {
            Item::Preface(first) => self.preface(flow, first, end, out),
            Item::Secret { from, until } => ledger.secrets.add(out.connection, flow, from..until),
            Item::Method { channel, payload } => self.method(flow, channel, payload, out, ledger),
            Item::Header { channel, payload } => self.header(flow, channel, payload, end, out),
            Item::Body { channel, bytes, ends } => self.body(flow, channel, bytes, ends, end, out),
            Item::BodyHole { channel, length } => self.body_hole(flow, channel, length, out),
            Item::BodyUnread { channel, length } => {
                self.unread(flow, end.saturating_sub(length)..end, out.connection, ledger);
                self.body_hole(flow, channel, length, out);
            }
            Item::FrameLost { channel, size, left, trouble } => {
                // Nobody reads which method it was: it may be a login's.
                if channel == 0 {
                    self.unread(flow, end..end + Position::from(left), out.connection, ledger);
                }
                self.frame_lost(flow, channel, size, trouble, end, out);
            }
            Item::Heartbeat => {
                self.prove();
                self.connection.channels.values_mut().for_each(|channel| channel.learn_tags(out));
            }
            Item::Lost(_) => {}
        }
        self.tell_facts(out);
    }

    /// Takes a content in one piece; false if there is more to it than to most of them, and nothing was done.
    fn whole(
        &mut self,
        flow: Flow,
        content: &Whole<'_>,
        end: Position,
        out: &mut Output<'_>,
        ledger: &mut Ledger<'_>,
    ) -> bool {
        let Connection { news, logged_in, .. } = self.connection;
        if news || !logged_in || !self.client_proved || !self.proved || self.foreign {
            return false;
        }
        let Some(method) = Method::read_content(content.method) else { return false };
        let from = method.content_sender();
        if self.peer(flow) != Some(from) {
            return false;
        }
        let Ok(header) = Header::read(content.header, out.names) else { return false };
        let taken = self
            .connection
            .with(content.channel, |channel| channel.whole(&method, header, content.body, flow, end, out));
        if taken != Some(true) {
            return false;
        }
        if let (Some(counts), [c1, c2, m1, m2, ..]) = (ledger.counts.as_mut(), content.method) {
            counts.add(
                out.connection,
                content.channel,
                (u16::from_be_bytes([*c1, *c2]), u16::from_be_bytes([*m1, *m2])),
            );
        }
        true
    }

    fn preface(&mut self, flow: Flow, first: &[u8], end: Position, out: &mut Output<'_>) {
        // A broker that refuses what a client speaks answers with the header that it would have liked, and hangs up.
        if self.foreign && first.starts_with(b"AMQP") {
            return;
        }
        if first == PREFACE {
            if !self.client_proved {
                self.set_client(flow);
                self.client_proved = true;
            }
            return self.prove();
        }
        if !detect::is_proxy_header(first) {
            self.foreign(detect::name(first), flow, end - first.len() as u64, out);
        }
    }

    fn method(&mut self, flow: Flow, number: u16, payload: &[u8], out: &mut Output<'_>, ledger: &mut Ledger<'_>) {
        let &[c1, c2, m1, m2, ..] = payload else { return out.trouble(Trouble::Malformed) };
        let numbers = (u16::from_be_bytes([c1, c2]), u16::from_be_bytes([m1, m2]));
        if let Some(counts) = ledger.counts.as_mut() {
            counts.add(out.connection, number, numbers);
        }
        let Some(specification) = Specification::find(numbers.0, numbers.1) else {
            return out.trouble(Trouble::Unknown);
        };
        let method = match Method::read(specification, payload) {
            Ok(method) => method,
            Err(_) => return out.trouble(Trouble::Malformed),
        };
        if specification.arguments.contains(&Argument::Table) && !matches!(method, Method::StartOk { .. }) {
            match specification.validate(payload.get(4..).unwrap_or_default()) {
                Ok(()) => {}
                Err(Flaw::TooDeep) => out.trouble(Trouble::TooDeep),
                Err(_) => return out.trouble(Trouble::Malformed),
            }
        }
        let Some(from) = self.sender(flow, specification.sender, out) else { return };
        self.prove();
        self.tell_facts(out);
        // Start, secure and their answers; with anything else the login is over.
        self.connection.logged_in |= !matches!(numbers, (10, 10 | 11 | 20 | 21));
        if number == 0 {
            return self.connection.method(&method, from, out);
        }
        if !self.connection.channel_method(number, &method, from, out) {
            self.connection.on_method(number, &method, from, out);
        }
    }

    fn header(&mut self, flow: Flow, number: u16, payload: &[u8], end: Position, out: &mut Output<'_>) {
        let Some(from) = self.peer(flow) else { return };
        self.connection.on_frame(number, from, out, |channel, out| match Header::read(payload, out.names) {
            Ok(header) => channel.header(header, from, flow, end, out),
            Err(_) => {
                out.trouble(Trouble::Malformed);
                channel.gap(from, flow, end, out);
            }
        });
    }

    fn body(&mut self, flow: Flow, number: u16, bytes: &[u8], ends: bool, end: Position, out: &mut Output<'_>) {
        let Some(from) = self.peer(flow) else { return };
        self.connection.on_frame(number, from, out, |channel, out| {
            if !bytes.is_empty() {
                channel.body(Ok(bytes), from, out);
            }
            if ends {
                channel.body_frame_ended(from, flow, end, out);
            }
        });
    }

    fn body_hole(&mut self, flow: Flow, number: u16, length: u64, out: &mut Output<'_>) {
        if let Some(from) = self.peer(flow) {
            self.connection.with(number, |channel| channel.body(Err(length), from, out));
        }
    }

    fn frame_lost(
        &mut self,
        flow: Flow,
        number: u16,
        size: u32,
        trouble: Option<Trouble>,
        end: Position,
        out: &mut Output<'_>,
    ) {
        if let Some(trouble) = trouble {
            out.trouble(trouble);
        }
        self.connection.gapped = true;
        let (Some(from), Some(channel)) = (self.peer(flow), self.connection.channels.get(&number)) else { return };
        let gap = Gap {
            from_broker: from == Peer::Broker,
            channel: Some(channel.id),
            bytes: Some(u64::from(size) + OVERHEAD),
            deliveries: None,
        };
        self.connection.gap(Some(number), from, flow, end, out);
        out.push(Operation::Gap(gap));
    }

    /// The place in a flow is lost, with `bytes` of it.
    fn lost(
        &mut self,
        flow: Flow,
        position: Position,
        bytes: Option<u64>,
        trouble: Option<Trouble>,
        out: &mut Output<'_>,
    ) {
        self.tell_facts(out);
        if let Some(trouble) = trouble.filter(|_| self.proved) {
            out.trouble(trouble);
        }
        self.connection.gapped = true;
        let Lost { secret_until, public_until, .. } = self.flows[flow.index()];
        let told = Some(position + bytes.unwrap_or(0));
        self.flows[flow.index()] = Lost { searched: 0, told, unknown: false, secret_until, public_until };
        if self.proved {
            self.gap(flow, position, bytes, out);
        }
    }

    /// The place in a flow was found again at `position`.
    fn resumed(&mut self, flow: Flow, position: Position, out: &mut Output<'_>) {
        let lost = std::mem::take(&mut self.flows[flow.index()]);
        self.connection.gapped = true;
        let known = std::mem::replace(&mut self.proved, true);
        self.foreign = false;
        let Some(told) = lost.told.filter(|_| known) else { return };
        if lost.unknown || position > told {
            let bytes = (!lost.unknown).then_some(position.saturating_sub(told));
            self.gap(flow, position, bytes.filter(|&bytes| bytes > 0), out);
        }
    }

    fn gap(&mut self, flow: Flow, position: Position, bytes: Option<u64>, out: &mut Output<'_>) {
        let Some(from) = self.peer(flow) else { return };
        self.connection.gap(None, from, flow, position, out);
        let from_broker = from == Peer::Broker;
        out.push(Operation::Gap(Gap { from_broker, channel: None, bytes, deliveries: None }));
    }

    /// The connection looks like something else.
    fn foreign(&mut self, protocol: &'static str, flow: Flow, position: Position, out: &mut Output<'_>) {
        if self.may_be_login(flow) {
            self.flows[flow.index()].secret_until = position + FOREIGN_LOGIN;
        }
        if !self.foreign {
            self.foreign = true;
            self.tell_facts(out);
            out.trouble(Trouble::NotThisProtocol);
            out.push(Operation::NotDecoded { protocol });
        }
    }

    fn is_late_and_foreign(&self, lost: bool, flow: Flow, bytes: &[u8], packet_start: bool) -> bool {
        let first = self.flows[flow.index()].searched == 0;
        lost && first && packet_start && !self.proved && !self.foreign && detect::is_tls(bytes)
    }

    /// Whether bytes of a flow whose place is lost may hold a password.
    fn is_secret(&self, flow: Flow, position: Position) -> bool {
        let login = !self.connection.logged_in && self.proved && self.may_be_login(flow);
        login || position < self.flows[flow.index()].secret_until
    }

    /// Whether a login may be among a flow's bytes: the broker sends none.
    fn may_be_login(&self, flow: Flow) -> bool {
        self.peer(flow) != Some(Peer::Broker)
    }

    /// Nobody has read, or will read, these bytes of a flow as part of a frame: they may be what is left of a login.
    fn unread(&self, flow: Flow, bytes: Range<Position>, connection: ConnectionId, ledger: &mut Ledger<'_>) {
        if self.may_be_login(flow) {
            ledger.secrets.add(connection, flow, bytes);
        }
    }

    fn is_plausible(&self, number: u16, method: &Method<'_>) -> bool {
        if number == 0 || matches!(method, Method::ChannelOpen | Method::ChannelOpenOk) || self.connection.facts.late {
            return true;
        }
        let Some(channel) = self.connection.channels.get(&number) else { return false };
        match method {
            Method::Deliver { consumer, .. } => channel.can_be_next(method) && channel.consumers.contains(consumer),
            _ => channel.can_be_next(method),
        }
    }

    fn next_body_frame(&self, number: u16, flow: Flow) -> Option<u32> {
        let largest = match self.connection.frame_max {
            Some(0) => None,
            Some(frame_max) => Some(frame_max),
            None => Some(USUAL_FRAME),
        };
        let largest = largest.map(|frame_max| frame_max.saturating_sub(OVERHEAD as u32));
        let from = self.peer(flow)?;
        let others = self.connection.channels.iter().any(|(other, channel)| *other != number && channel.is_amid(from));
        // With two contents under way at once either may go on.
        if others { None } else { self.connection.channels.get(&number)?.next_body_frame(from, largest) }
    }

    /// Who sends on a flow, where known.
    fn peer(&self, flow: Flow) -> Option<Peer> {
        self.client.map(|client| if client == flow { Peer::Client } else { Peer::Broker })
    }

    /// Who sent a method; learned from those that only one side may send.
    fn sender(&mut self, flow: Flow, sender: Sender, out: &mut Output<'_>) -> Option<Peer> {
        let expected = match sender {
            Sender::Either => return self.peer(flow),
            Sender::Client => Peer::Client,
            Sender::Broker => Peer::Broker,
        };
        if self.peer(flow) != Some(expected) {
            if self.client_proved {
                out.trouble(Trouble::UnexpectedFrame);
                return None;
            }
            self.set_client(if expected == Peer::Client { flow } else { flow.reverse() });
        }
        self.client_proved = true;
        Some(expected)
    }

    fn set_client(&mut self, flow: Flow) {
        self.client = Some(flow);
        if self.connection.facts.client_flow != Some(flow) {
            self.connection.facts.client_flow = Some(flow);
            self.connection.news = true;
        }
    }

    fn prove(&mut self) {
        self.proved = true;
        self.foreign = false;
    }

    fn tell_facts(&mut self, out: &mut Output<'_>) {
        if std::mem::take(&mut self.connection.news) {
            out.push(Operation::Session(self.connection.facts.clone().into()));
        }
    }
}

/// What was held for a search may hold a login.
fn wipe(held: &mut Option<Vec<u8>>) {
    if let Some(bytes) = held {
        bytes.fill(0);
        std::hint::black_box(bytes);
    }
}
