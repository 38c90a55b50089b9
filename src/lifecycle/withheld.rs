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

    fn renamed(&mut self, from: &Name, to: &Name) {
        self.listener.renamed(from, to);
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
    topic: Option<Name>,
    group: Option<Name>,
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
        // All of them by name: one that is added must not be forgotten here.
        let Attributes {
            system,
            operation,
            exchange,
            routing_key,
            queue,
            topic,
            partition,
            offsets,
            group,
            // What waits is about messages with an identity, which those of logs have not.
            batches: _,
            unanswered,
            requested,
            lag,
            vhost,
            message_id,
            conversation_id,
            body_size,
            client_id,
            consumer_tag,
            delivery_tag,
            redelivered,
            settlement,
            stream_offset,
            dead_letter_source,
            dead_letter_destination,
            dead_letter_partition,
            dead_letter_offset,
            error_code,
            error_text,
            server,
            client,
            process,
            producer,
            trace,
        } = line.attributes;
        let owned = Attributes {
            system,
            operation,
            partition,
            offsets,
            unanswered,
            requested,
            lag,
            body_size,
            delivery_tag,
            redelivered,
            settlement,
            stream_offset,
            dead_letter_partition,
            dead_letter_offset,
            error_code,
            ..Attributes::default()
        };
        Kept {
            fixed: Transition {
                time: line.time,
                state: line.state,
                previous: line.previous,
                evidence: line.evidence,
                ambiguous: line.ambiguous,
                corrects: line.corrects,
                reason: line.reason,
                awaits: line.awaits,
                count: line.count,
                message: line.message,
                delivery: line.delivery,
                attributes: owned,
                timings: line.timings,
            },
            exchange: exchange.cloned(),
            routing_key: routing_key.cloned(),
            queue: queue.cloned(),
            topic: topic.cloned(),
            group: group.cloned(),
            vhost: vhost.cloned(),
            message_id: message_id.cloned(),
            conversation_id: conversation_id.cloned(),
            client_id: client_id.cloned(),
            consumer_tag: consumer_tag.cloned(),
            dead_letter_source: dead_letter_source.cloned(),
            dead_letter_destination: dead_letter_destination.cloned(),
            error_text: error_text.cloned(),
            server: server.copied(),
            client: client.copied(),
            process: process.cloned(),
            producer: producer.cloned(),
            trace: trace.copied(),
        }
    }

    fn line(&self) -> Transition<'_> {
        let fixed: Transition<'_> = self.fixed;
        let attributes = Attributes {
            exchange: self.exchange.as_ref(),
            routing_key: self.routing_key.as_ref(),
            queue: self.queue.as_ref(),
            topic: self.topic.as_ref(),
            group: self.group.as_ref(),
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

#[cfg(test)]
mod tests {
    use super::super::transition::{Reason, Settlement, Timings};
    use super::*;
    use crate::stream::ConnectionId;

    const CHANNEL: ChannelId = ChannelId { connection: ConnectionId(1), number: 1, incarnation: 0 };

    /// Messages and reasons, as they are told.
    #[derive(Default)]
    struct Told(Vec<(u128, Option<Reason>)>);

    impl Observer for Told {
        fn transition(&mut self, line: &Transition<'_>) {
            self.0.push((line.message.unwrap().0, line.reason));
        }

        fn event(&mut self, _: &Event<'_>) {}
    }

    fn failed(message: u128, second: u64) -> Transition<'static> {
        let line = Transition::new(Timestamp(second * 1_000_000_000), State::Failed);
        Transition { message: Some(Identity(message)), awaits: Some(CHANNEL), ..line }
    }

    #[test]
    fn more_lines_than_may_wait_are_told_without_a_reason_oldest_first() {
        let (mut withheld, mut told) = (Withheld::default(), Told::default());
        let most = MOST_LINES as u128;
        for message in 0..most + 3 {
            withheld.before(&mut told).transition(&failed(message, 1));
        }
        assert_eq!(told.0, [(0, None), (1, None), (2, None)]);
        let why = Why { reason: Reason::ChannelClosed, error_code: Some(406) };
        withheld.before(&mut told).explained(CHANNEL, Some(why));
        let expected = (0..most + 3).map(|message| (message, (message > 2).then_some(why.reason)));
        assert!(told.0.iter().copied().eq(expected), "in their order, with the reason");
        assert_eq!((withheld.lines, withheld.poll_timeout()), (0, None));
    }

    #[test]
    fn nothing_waits_longer_than_the_patience_or_the_end() {
        let (mut withheld, mut told) = (Withheld::default(), Told::default());
        withheld.before(&mut told).transition(&failed(1, 1));
        withheld.before(&mut told).transition(&failed(2, 2));
        let due = withheld.poll_timeout().unwrap();
        withheld.handle_timeout(Timestamp(due.0 - 1), &mut told);
        assert!(told.0.is_empty());
        withheld.handle_timeout(due, &mut told);
        assert_eq!(told.0, [(1, None)]);
        withheld.release_all(&mut told);
        assert_eq!(told.0, [(1, None), (2, None)]);
        assert_eq!(withheld.lines, 0);
    }

    #[test]
    fn one_that_waits_again_waits_its_own_time() {
        let (mut withheld, mut told) = (Withheld::default(), Told::default());
        withheld.before(&mut told).transition(&failed(1, 1));
        withheld.before(&mut told).transition(&Transition { awaits: None, ..failed(2, 1) });
        // Behind another, so that its first time stays in the list.
        withheld.before(&mut told).transition(&failed(3, 1));
        let other = ChannelId { number: 2, ..CHANNEL };
        withheld.before(&mut told).transition(&Transition { awaits: Some(other), ..failed(4, 1) });
        withheld.before(&mut told).explained(other, None);
        withheld.before(&mut told).transition(&failed(4, 9));
        withheld.handle_timeout(Timestamp(5_000_000_000), &mut told);
        assert_eq!(told.0, [(2, None), (4, None), (1, None), (3, None)]);
    }

    #[test]
    fn a_line_that_waited_says_all_that_it_said() {
        let name: [Name; 13] = std::array::from_fn(|number| format!("name {number}").into());
        let (server, client) = (([127, 0, 0, 1], 5672).into(), ([127, 0, 0, 1], 40000).into());
        let owners = [7, 8].map(|pid| Owner { pid, executable: format!("app {pid}") });
        let trace = TraceContext { trace_id: [1; 16], span_id: [2; 8], flags: 1 };
        let moment = |second| Some(Timestamp(second));
        let line = Transition {
            time: Timestamp(9),
            state: State::Acknowledged,
            previous: Some(State::Processing),
            evidence: Evidence::Inferred,
            ambiguous: true,
            corrects: Some(State::Dropped),
            reason: Some(Reason::Requeued),
            awaits: None,
            count: 3,
            message: Some(Identity(5)),
            delivery: Some(2),
            attributes: Attributes {
                system: "rabbitmq",
                operation: Some("ack"),
                exchange: Some(&name[0]),
                routing_key: Some(&name[1]),
                queue: Some(&name[2]),
                topic: Some(&name[11]),
                partition: Some(13),
                offsets: Some((14, 15)),
                group: Some(&name[12]),
                batches: &[],
                unanswered: true,
                requested: moment(6),
                lag: Some(16),
                vhost: Some(&name[3]),
                message_id: Some(&name[4]),
                conversation_id: Some(&name[5]),
                body_size: Some(10),
                client_id: Some(&name[6]),
                consumer_tag: Some(&name[7]),
                delivery_tag: Some(11),
                redelivered: Some(true),
                settlement: Some(Settlement::Multiple),
                stream_offset: Some(12),
                dead_letter_source: Some(&name[8]),
                dead_letter_destination: Some(&name[9]),
                dead_letter_partition: Some(16),
                dead_letter_offset: Some(17),
                error_code: Some(406),
                error_text: Some(&name[10]),
                server: Some(&server),
                client: Some(&client),
                process: Some(&owners[0]),
                producer: Some(&owners[1]),
                trace: Some(&trace),
            },
            timings: Timings {
                created: moment(1),
                confirmed: moment(2),
                dispatched: moment(3),
                processing: moment(4),
                first_failed: moment(5),
            },
        };
        assert_eq!(format!("{:?}", Kept::new(&line).line()), format!("{line:?}"));
    }
}
