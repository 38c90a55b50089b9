//! Lines that wait for their reason.
//!
//! A broker that ends a channel hands what was outstanding on it to the next consumer at once, and only then says a word to
//! the first: the redelivery is seen before the reason. The state machine goes on, but what it says of such a message waits
//! here until the channel's end is seen, in order, so that nobody has to correct anything. It does not wait long, and not
//! without bounds: then the lines go out without a reason.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use hashbrown::HashMap;

use super::transition::{Attributes, Event, Evidence, Observer, State, Transition, Why};
use crate::capture::Owner;
use crate::names::Name;
use crate::protocol::operation::{ChannelId, Identity, TraceContext};
use crate::time::Timestamp;

/// How long a reason is waited for, in the records' own time. The broker says it within milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);
/// Lines that wait at most, of about half a kilobyte each.
const MOST_LINES: usize = 8192;

/// The lines that wait, by message.
#[derive(Default)]
pub struct Withheld {
    waiting: HashMap<Identity, Waiting>,
    /// Since when each of them waits, and which number it has, in order; also of those that do not any more.
    since: VecDeque<(Timestamp, u64, Identity)>,
    /// How many have waited so far.
    number: u64,
    lines: usize,
}

/// A message's lines.
struct Waiting {
    number: u64,
    lines: Vec<Kept>,
}

impl Withheld {
    /// Stands between the state machine and who listens to it.
    pub fn before<'a>(&'a mut self, listener: &'a mut dyn Observer) -> impl Observer + 'a {
        Withholding { withheld: self, listener }
    }

    /// When [`Withheld::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        Some(self.since.front()?.0.plus(PATIENCE))
    }

    /// Lets go of what has waited long enough.
    pub fn handle_timeout(&mut self, now: Timestamp, listener: &mut dyn Observer) {
        while self.poll_timeout().is_some_and(|due| due <= now) {
            self.release_oldest(listener);
        }
    }

    /// Lets go of everything: nothing more will come.
    pub fn release_all(&mut self, listener: &mut dyn Observer) {
        while !self.since.is_empty() {
            self.release_oldest(listener);
        }
    }

    fn release_oldest(&mut self, listener: &mut dyn Observer) {
        if let Some((_, number, message)) = self.since.pop_front()
            && self.waiting.get(&message).is_some_and(|waiting| waiting.number == number)
        {
            self.release(&message, listener);
        }
    }

    fn release(&mut self, message: &Identity, listener: &mut dyn Observer) {
        let Some(Waiting { lines, .. }) = self.waiting.remove(message) else { return };
        self.lines -= lines.len();
        for kept in lines {
            listener.transition(&kept.line());
        }
    }

    /// Takes a line of a message that waits, or begins to with it.
    fn keep(&mut self, message: Identity, line: &Transition<'_>, listener: &mut dyn Observer) {
        let waiting = self.waiting.entry(message).or_insert_with(|| {
            self.number += 1;
            self.since.push_back((line.time, self.number, message));
            Waiting { number: self.number, lines: Vec::new() }
        });
        let mut line = *line;
        // What follows from a failure has the failure's reason.
        if let Some(last) = waiting.lines.last()
            && line.state == State::Retrying
            && line.previous == Some(last.fixed.state)
            && line.reason.is_none()
        {
            line.awaits = last.fixed.awaits;
        }
        waiting.lines.push(Kept::new(&line));
        self.lines += 1;
        while self.lines > MOST_LINES {
            self.release_oldest(listener);
        }
    }

    fn explain(&mut self, channel: ChannelId, why: Option<Why>, listener: &mut dyn Observer) {
        let mut complete = Vec::new();
        for (message, Waiting { number, lines }) in &mut self.waiting {
            for kept in lines.iter_mut().filter(|kept| kept.fixed.awaits == Some(channel)) {
                kept.explain(why);
            }
            if lines.iter().all(|kept| kept.fixed.awaits.is_none()) {
                complete.push((*number, *message));
            }
        }
        // In the order in which they came.
        complete.sort_unstable();
        for (_, message) in complete {
            self.release(&message, listener);
        }
        while self.since.front().is_some_and(|(_, _, message)| !self.waiting.contains_key(message)) {
            self.since.pop_front();
        }
    }
}

struct Withholding<'a> {
    withheld: &'a mut Withheld,
    listener: &'a mut dyn Observer,
}

impl Observer for Withholding<'_> {
    fn transition(&mut self, line: &Transition<'_>) {
        match line.message {
            Some(message)
                if line.awaits.is_some()
                    || (!self.withheld.waiting.is_empty() && self.withheld.waiting.contains_key(&message)) =>
            {
                self.withheld.keep(message, line, self.listener);
            }
            _ => self.listener.transition(line),
        }
    }

    fn event(&mut self, event: &Event<'_>) {
        self.listener.event(event);
    }

    fn explained(&mut self, channel: ChannelId, why: Option<Why>) {
        if !self.withheld.waiting.is_empty() {
            self.withheld.explain(channel, why, self.listener);
        }
    }
}

/// A line with everything that it borrowed.
struct Kept {
    /// What it did not borrow.
    fixed: Transition<'static>,
    exchange: Option<Name>,
    routing_key: Option<Name>,
    queue: Option<Name>,
    vhost: Option<Name>,
    message_id: Option<Name>,
    conversation_id: Option<Name>,
    client_id: Option<Name>,
    consumer_tag: Option<Name>,
    dead_letter_source: Option<Name>,
    dead_letter_destination: Option<Name>,
    error_text: Option<Name>,
    server: Option<SocketAddr>,
    client: Option<SocketAddr>,
    process: Option<Owner>,
    producer: Option<Owner>,
    trace: Option<TraceContext>,
}

impl Kept {
    fn new(line: &Transition<'_>) -> Kept {
        let Transition { attributes, .. } = line;
        Kept {
            fixed: Transition {
                previous: line.previous,
                evidence: line.evidence,
                ambiguous: line.ambiguous,
                corrects: line.corrects,
                reason: line.reason,
                awaits: line.awaits,
                count: line.count,
                message: line.message,
                delivery: line.delivery,
                attributes: Attributes {
                    system: attributes.system,
                    operation: attributes.operation,
                    body_size: attributes.body_size,
                    delivery_tag: attributes.delivery_tag,
                    redelivered: attributes.redelivered,
                    settlement: attributes.settlement,
                    stream_offset: attributes.stream_offset,
                    error_code: attributes.error_code,
                    ..Attributes::default()
                },
                timings: line.timings,
                ..Transition::new(line.time, line.state)
            },
            exchange: attributes.exchange.cloned(),
            routing_key: attributes.routing_key.cloned(),
            queue: attributes.queue.cloned(),
            vhost: attributes.vhost.cloned(),
            message_id: attributes.message_id.cloned(),
            conversation_id: attributes.conversation_id.cloned(),
            client_id: attributes.client_id.cloned(),
            consumer_tag: attributes.consumer_tag.cloned(),
            dead_letter_source: attributes.dead_letter_source.cloned(),
            dead_letter_destination: attributes.dead_letter_destination.cloned(),
            error_text: attributes.error_text.cloned(),
            server: attributes.server.copied(),
            client: attributes.client.copied(),
            process: attributes.process.cloned(),
            producer: attributes.producer.cloned(),
            trace: attributes.trace.copied(),
        }
    }

    fn line(&self) -> Transition<'_> {
        let fixed: Transition<'_> = self.fixed;
        let attributes = Attributes {
            exchange: self.exchange.as_ref(),
            routing_key: self.routing_key.as_ref(),
            queue: self.queue.as_ref(),
            vhost: self.vhost.as_ref(),
            message_id: self.message_id.as_ref(),
            conversation_id: self.conversation_id.as_ref(),
            client_id: self.client_id.as_ref(),
            consumer_tag: self.consumer_tag.as_ref(),
            dead_letter_source: self.dead_letter_source.as_ref(),
            dead_letter_destination: self.dead_letter_destination.as_ref(),
            error_text: self.error_text.as_ref(),
            server: self.server.as_ref(),
            client: self.client.as_ref(),
            process: self.process.as_ref(),
            producer: self.producer.as_ref(),
            trace: self.trace.as_ref(),
            ..fixed.attributes
        };
        Transition { attributes, awaits: None, ..fixed }
    }

    /// The end that it waited for was seen, or never will be.
    fn explain(&mut self, why: Option<Why>) {
        self.fixed.awaits = None;
        let Some(why) = why else { return };
        self.fixed.reason = Some(why.reason);
        if self.fixed.state == State::Failed {
            self.fixed.evidence = Evidence::Observed;
            self.fixed.attributes.error_code = why.error_code;
        }
    }
}
