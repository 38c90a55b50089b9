//! One connection's two flows: frames to requests and responses, who answers what, holes, the way back from a hole.

use std::mem;
use std::ops::Range;

use super::codec::Scratch;
use super::detect;
use super::exchange::{Context, Exchange, Pending};
use super::header::{RequestHeader, ResponseHeader};
use super::layout::{Direction, Layout};
use super::memory::Memory;
use super::originals::Whereabouts;
use super::scribe::{Scribe, api};
use super::side::{Side, State};
use super::visitor::Outcome;
use super::walk::Walk;
use crate::protocol::Trouble;
use crate::protocol::operation::log::{LogOperation, RequestId};
use crate::protocol::operation::{Gap, Operation};
use crate::protocol::output::{Ledger, Output};
use crate::protocol::sessions::Secrets;
use crate::stream::{ConnectionId, Facts, Flow, Position};

/// Bytes of a frame's size.
pub(super) const SIZE: usize = 4;
/// Bytes at the beginning of a request and of a response that tell what it is.
pub(super) const REQUEST_HEAD: usize = SIZE + RequestHeader::LENGTH;
const RESPONSE_HEAD: usize = SIZE + ResponseHeader::LENGTH;
/// No broker takes or sends as much at once (`socket.request.max.bytes` is 100 MiB, `fetch.max.bytes` 55 MiB by default).
pub(super) const LARGEST: i32 = 1 << 30;

/// The version of Fetch from which on it says whether it wants committed messages only (KIP-98).
const FETCH_ISOLATED: i16 = 4;

/// A session of Kafka's protocol.
pub(in crate::protocol) struct Session {
    client: Flow,
    requests: Side,
    responses: Side,
    exchange: Exchange,
    memory: Memory,
    scratch: Scratch,
    /// Requests so far.
    count: u64,
    /// Joined in the middle: responses may come whose requests were not seen.
    late: bool,
    /// The client logs in by frames that have no header (SaslHandshake, version 0).
    raw_login: bool,
}

impl Session {
    /// A session of a connection whose client sends this flow. Says who speaks there.
    pub fn new(client: Flow, facts: Option<&Facts>, out: &mut Output<'_>) -> Session {
        let late = !facts.is_some_and(|facts| facts.from_start);
        let application = out.originals.join(Whereabouts::of(out.connection, client, facts));
        let memory = Memory::new(client, late, application);
        memory.tell_facts(out);
        if late {
            out.push(Operation::Log(LogOperation::Unread));
        }
        Session {
            client,
            requests: Side::new(late),
            responses: Side::new(late),
            exchange: Exchange::default(),
            memory,
            scratch: Scratch::default(),
            count: 0,
            late,
            raw_login: false,
        }
    }

    /// What is known of the connection has changed.
    pub fn facts(&mut self, facts: &Facts, out: &mut Output<'_>) {
        let whereabouts = Whereabouts::of(out.connection, self.client, Some(facts));
        let application = out.originals.join(whereabouts);
        out.originals.leave(std::mem::replace(&mut self.memory.application, application));
        self.requests.reading.tapped_elsewhere();
        self.responses.reading.tapped_elsewhere();
    }

    /// What it costs in memory.
    pub fn cost(&self) -> usize {
        let sides = self.requests.cost() + self.responses.cost();
        size_of::<Session>() + sides + self.exchange.cost() + self.memory.cost()
    }

    /// Takes the next bytes of a flow.
    pub fn data(
        &mut self,
        flow: Flow,
        position: Position,
        mut bytes: &[u8],
        packet_start: bool,
        out: &mut Output<'_>,
        ledger: &mut Ledger<'_>,
    ) {
        let is_request = flow == self.client;
        self.side(is_request).position = position;
        let mut at_start = packet_start;
        while !bytes.is_empty() {
            if matches!(self.side(is_request).state, State::Lost) && !self.found(is_request, bytes, at_start) {
                self.pass_over(is_request, bytes.len(), out, ledger.secrets);
                return;
            }
            at_start = false;
            match &mut self.side(is_request).state {
                State::Head if is_request => self.request_head(&mut bytes, out, ledger.secrets),
                State::Head => self.response_head(&mut bytes, out, ledger.secrets),
                State::Body(..) => self.body(is_request, &mut bytes, out, ledger.secrets),
                State::Skip { .. } => self.skip(is_request, &mut bytes, out.connection, ledger.secrets),
                State::Lost => return,
            }
        }
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
        let is_request = flow == self.client;
        let Some(length) = length else { return self.lost(is_request, None, out) };
        self.side(is_request).position = position;
        let mut left = length;
        while left > 0 {
            match &mut self.side(is_request).state {
                State::Body(walk, _) => {
                    // What was in record batches says nothing of groups.
                    if !walk.is_in_records(left) {
                        self.unread(is_request, out);
                    }
                    self.body_hole(is_request, &mut left, out, ledger.secrets);
                }
                State::Skip { left: of_frame, .. } => {
                    let missed = left.min(*of_frame);
                    *of_frame -= missed;
                    left -= missed;
                    let side = self.side(is_request);
                    side.position += missed;
                    if matches!(side.state, State::Skip { left: 0, .. }) {
                        side.state = State::Head;
                    }
                }
                State::Head => return self.lost(is_request, Some(left), out),
                State::Lost => return,
            }
        }
    }

    /// An application has read.
    pub fn read(&mut self, flow: Flow, from: Position, position: Position, out: &mut Output<'_>) {
        if flow != self.client {
            out.push(Operation::Read { flow, from, position });
        }
    }

    /// The connection has ended, or nobody will know how it goes on.
    pub fn closed(&mut self, out: &mut Output<'_>) {
        for is_request in [true, false] {
            self.cut_short(is_request, out);
        }
        // Whether the broker answered these is not known where what it said last is not.
        let lost = matches!(self.responses.state, State::Lost);
        self.exchange.drain().filter(|_| lost).for_each(|pending| missed(&pending, out));
        out.originals.leave(self.memory.application);
    }

    fn side(&mut self, is_request: bool) -> &mut Side {
        if is_request { &mut self.requests } else { &mut self.responses }
    }

    fn request_head(&mut self, bytes: &mut &[u8], out: &mut Output<'_>, secrets: &mut Secrets) {
        if self.short_token(true, bytes, RequestHeader::LENGTH) {
            return;
        }
        let side = &mut self.requests;
        if !side.fill(bytes, REQUEST_HEAD) {
            return;
        }
        let frame = side.position - REQUEST_HEAD as Position;
        let size = side.size(RequestHeader::LENGTH);
        let Some((header, left)) = detect::header(&side.head).zip(size) else {
            return self.no_request(frame, size, out, secrets);
        };
        // Before it is the latest request that tokens are told from.
        let layout = header.layout(Direction::Request).filter(|_| !self.is_token(header));
        let Some(layout) = layout else {
            return self.no_request(frame, size, out, secrets);
        };
        self.count += 1;
        if [api::PRODUCE, api::INIT_PRODUCER_ID].contains(&header.api_key) {
            out.originals.produces(self.memory.application);
        }
        let side = &mut self.requests;
        side.header = header;
        side.context = match header.api_key {
            api::PRODUCE => Context::Produce { request: RequestId(self.count), answered: true },
            api::FETCH => Context::Fetch { committed: (header.api_version < FETCH_ISOLATED).then_some(false) },
            api::LIST_OFFSETS => Context::Ends(Box::default()),
            _ => Context::Plain,
        };
        side.reading.begin();
        self.raw_login = (header.api_key, header.api_version) == (api::SASL_HANDSHAKE, 0);
        side.state = State::Body(Box::new(Walk::new(layout, left)), side.position);
        self.nothing_left(true, left, out, secrets);
    }

    /// After the first version of SaslHandshake come the mechanism's own bytes, until a request is one again.
    fn is_token(&self, header: RequestHeader) -> bool {
        let next = self.requests.header.correlation_id.checked_add(1);
        self.raw_login && next != Some(header.correlation_id)
    }

    /// A login's own bytes may be fewer than any header has, or none: then the frame is passed over. True also while its size is
    /// not complete.
    fn short_token(&mut self, is_request: bool, bytes: &mut &[u8], shortest: usize) -> bool {
        if !self.raw_login {
            return false;
        }
        let side = self.side(is_request);
        if side.held < SIZE && !side.fill(bytes, SIZE) {
            return true;
        }
        let [size @ .., _, _, _, _, _, _, _, _] = side.head;
        let size = u32::from_be_bytes(size);
        let is_short = side.held == SIZE && (size as usize) < shortest;
        if is_short {
            side.held = 0;
            side.state = State::Skip { left: u64::from(size), secret: true };
        }
        is_short
    }

    /// What came is no request that is known.
    fn no_request(&mut self, frame: Position, left: Option<u32>, out: &mut Output<'_>, secrets: &mut Secrets) {
        let side = &mut self.requests;
        let known = detect::header(&side.head);
        match left {
            // Nobody knows what is in it: it may be a password. What it is, a replay has to know as well.
            Some(left) if self.raw_login || known.is_some() => {
                if let (Some(header), false) = (known, self.raw_login) {
                    if Layout::is_followed(header.api_key) || header.api_key > detect::LARGEST_API {
                        out.trouble(Trouble::Unknown);
                    }
                    self.requests.header = header;
                    self.sent(Context::Unknown, Outcome::Complete, out);
                } else {
                    secrets.add(out.connection, self.client, frame + SIZE as Position..side.position);
                }
                self.requests.state = State::Skip { left: u64::from(left), secret: true };
            }
            _ => {
                out.trouble(Trouble::Malformed);
                self.lost(true, None, out);
            }
        }
    }

    fn response_head(&mut self, bytes: &mut &[u8], out: &mut Output<'_>, secrets: &mut Secrets) {
        if self.short_token(false, bytes, ResponseHeader::LENGTH) {
            return;
        }
        let side = &mut self.responses;
        if !side.fill(bytes, RESPONSE_HEAD) {
            return;
        }
        let Some(left) = side.size(ResponseHeader::LENGTH) else {
            out.trouble(Trouble::Malformed);
            return self.lost(false, None, out);
        };
        let [_, _, _, _, correlation @ .., _, _, _, _] = side.head;
        let correlation = ResponseHeader::read(correlation).correlation_id;
        let Some(pending) = answered(&mut self.exchange, correlation, out) else {
            // A login's own bytes, by which a password can be tried out, or the answer to what was not seen.
            let (secret, from) = (self.raw_login, side.position - ResponseHeader::LENGTH as Position);
            if secret {
                secrets.add(out.connection, self.client.reverse(), from..side.position);
            } else if !self.late {
                out.trouble(Trouble::UnexpectedFrame);
            }
            self.responses.state = State::Skip { left: u64::from(left), secret };
            return;
        };
        self.late = false;
        let side = &mut self.responses;
        side.header = pending.header;
        side.context = pending.context;
        let layout = side.header.layout(Direction::Response).filter(|_| !matches!(side.context, Context::Unknown));
        side.state = match layout {
            Some(layout) => {
                side.reading.begin();
                State::Body(Box::new(Walk::new(layout, left)), side.position)
            }
            None => State::Skip { left: u64::from(left), secret: false },
        };
    }

    /// A frame that ends with its head.
    fn nothing_left(&mut self, is_request: bool, left: u32, out: &mut Output<'_>, secrets: &mut Secrets) {
        if left == 0 {
            self.body(is_request, &mut &[][..], out, secrets);
        }
    }

    fn body(&mut self, is_request: bool, bytes: &mut &[u8], out: &mut Output<'_>, secrets: &mut Secrets) {
        let before = bytes.len();
        let outcome = self.walk(is_request, out, secrets, |walk, scribe| walk.feed(bytes, scribe));
        self.side(is_request).position += (before - bytes.len()) as Position;
        self.ended(is_request, outcome, out);
    }

    fn body_hole(&mut self, is_request: bool, missing: &mut u64, out: &mut Output<'_>, secrets: &mut Secrets) {
        let before = *missing;
        self.side(is_request).torn = true;
        let outcome = self.walk(is_request, out, secrets, |walk, scribe| walk.feed_hole(missing, scribe));
        self.side(is_request).position += before - *missing;
        self.ended(is_request, outcome, out);
    }

    fn walk(
        &mut self,
        is_request: bool,
        out: &mut Output<'_>,
        secrets: &mut Secrets,
        feed: impl FnOnce(&mut Walk, &mut Scribe<'_, '_>) -> Option<Outcome>,
    ) -> Option<Outcome> {
        let Session { requests, responses, memory, scratch, client, .. } = self;
        let (side, flow) = if is_request { (requests, *client) } else { (responses, client.reverse()) };
        let Side { state: State::Body(walk, start), context, reading, .. } = side else { return None };
        walk.set_room(u32::try_from(out.room).unwrap_or(u32::MAX));
        let mut found: Vec<Range<Position>> = Vec::new();
        let layout = walk.layout();
        let connection = out.connection;
        let mut scribe = Scribe {
            layout,
            is_request,
            reading,
            memory,
            context,
            scratch,
            flow,
            start: *start,
            secrets: &mut found,
            out,
        };
        let outcome = feed(walk, &mut scribe);
        if outcome == Some(Outcome::Complete) {
            scribe.done();
        }
        found.into_iter().for_each(|range| secrets.add(connection, flow, range));
        outcome
    }

    /// A frame was read to its end, if `outcome` says so.
    fn ended(&mut self, is_request: bool, outcome: Option<Outcome>, out: &mut Output<'_>) {
        let Some(outcome) = outcome else { return };
        match outcome {
            Outcome::Complete => {}
            Outcome::Lost => out.push(Operation::Gap(gap(!is_request, None))),
            Outcome::Malformed | Outcome::Trailing => out.trouble(Trouble::Malformed),
        }
        let side = self.side(is_request);
        side.state = State::Head;
        let context = mem::replace(&mut side.context, Context::Plain);
        let torn = mem::take(&mut side.torn) || outcome != Outcome::Complete;
        if is_request {
            self.sent(context, outcome, out);
        } else if torn {
            let header = side.header;
            missed(&Pending { header, context }, out);
        }
    }

    /// A request has passed.
    fn sent(&mut self, context: Context, outcome: Outcome, out: &mut Output<'_>) {
        let context = match context {
            Context::Produce { answered: false, .. } => return,
            // What of it was read, the answer is for.
            context @ (Context::Produce { .. } | Context::Fetch { .. } | Context::Replicate) => context,
            context if outcome == Outcome::Complete => context,
            _ => Context::Unknown,
        };
        let header = self.requests.header;
        if let Some(forgotten) = self.exchange.sent(Pending { header, context }) {
            missed(&forgotten, out);
        }
    }

    fn skip(&mut self, is_request: bool, bytes: &mut &[u8], connection: ConnectionId, secrets: &mut Secrets) {
        let flow = if is_request { self.client } else { self.client.reverse() };
        let side = self.side(is_request);
        let State::Skip { left, secret } = &mut side.state else { return };
        let length = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
        *left -= length as u64;
        let ends = *left == 0;
        if *secret {
            secrets.add(connection, flow, side.position..side.position + length as Position);
        }
        side.position += length as Position;
        *bytes = bytes.get(length..).unwrap_or_default();
        if ends {
            side.state = State::Head;
        }
    }

    /// Where frames begin is not known any more.
    fn lost(&mut self, is_request: bool, bytes: Option<u64>, out: &mut Output<'_>) {
        self.cut_short(is_request, out);
        let side = self.side(is_request);
        if !matches!(side.state, State::Lost) {
            side.state = State::Lost;
            side.held = 0;
            self.unread(is_request, out);
            out.push(Operation::Gap(gap(!is_request, bytes)));
        }
    }

    /// A frame ends before its time.
    fn cut_short(&mut self, is_request: bool, out: &mut Output<'_>) {
        let side = self.side(is_request);
        if !matches!(side.state, State::Body(..)) {
            return;
        }
        side.state = State::Head;
        let context = mem::replace(&mut side.context, Context::Plain);
        if is_request {
            self.sent(context, Outcome::Lost, out);
        } else {
            let header = side.header;
            missed(&Pending { header, context }, out);
        }
    }

    /// Whether a frame begins with these bytes, as several facts agree.
    fn found(&mut self, is_request: bool, bytes: &[u8], packet_start: bool) -> bool {
        if !packet_start {
            return false;
        }
        let found = if is_request {
            detect::is_request(bytes, Some(self.memory.client_id()).filter(|id| !id.is_empty()))
        } else {
            detect::response(bytes).is_some_and(|correlation| self.exchange.find(correlation).is_some())
        };
        if found {
            self.side(is_request).state = State::Head;
            self.side(is_request).held = 0;
        }
        found
    }

    /// Something is not understood, from where on fetches want what among it.
    fn unread(&mut self, is_request: bool, out: &mut Output<'_>) {
        if is_request {
            self.memory.fetches.lost();
        }
        out.push(Operation::Log(LogOperation::Unread));
    }

    /// Bytes that nobody can read. A client's may be its login.
    fn pass_over(&mut self, is_request: bool, length: usize, out: &mut Output<'_>, secrets: &mut Secrets) {
        self.unread(is_request, out);
        let client = self.client;
        let side = self.side(is_request);
        let from = side.position;
        side.position += length as Position;
        if is_request {
            secrets.add(out.connection, client, from..side.position);
        }
    }
}

/// The request that a response is for.
fn answered(exchange: &mut Exchange, correlation: i32, out: &mut Output<'_>) -> Option<Pending> {
    exchange.answered(correlation, |pending| missed(&pending, out))
}

/// A request's answer was not seen, or not to its end.
fn missed(pending: &Pending, out: &mut Output<'_>) {
    if let Context::Produce { request, .. } = pending.context {
        out.push(Operation::Log(LogOperation::AnswerLost { request }));
    }
}

fn gap(from_broker: bool, bytes: Option<u64>) -> Gap {
    Gap { from_broker, channel: None, bytes, deliveries: None }
}
