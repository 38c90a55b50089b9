//! Share groups (KIP-932): each message on its own, given to one member at a time, under a lock that runs out.

use std::rc::Rc;

use super::super::party::Party;
use super::super::transition::{Event, Evidence, Observer, Reason, Settlement, State};
use super::Logs;
use super::chain::{Chain, Delivery, Piece};
use super::consume::Handed;
use super::consumers::{Consumer, Found};
use super::gaps::{Part, span};
use super::lines::Subject;
use super::topics::Place;
use crate::names::Name;
use crate::protocol::operation::log::{self, Verdict};
use crate::stream::{Flow, Position};
use crate::time::Timestamp;

/// How often a message is given before the broker archives it (`group.share.delivery.count.limit`, its default).
const DELIVERY_LIMIT: u32 = 5;

/// Messages that a member was given.
pub(super) struct Given {
    pub offsets: (i64, i64),
    pub delivery: u32,
    pub flow: Flow,
    pub end: Position,
}

/// What a member says of messages, as the broker answered.
pub(super) struct Judged {
    pub offsets: (i64, i64),
    pub verdict: Verdict,
    pub error: i16,
    /// When the member said so.
    pub asked: Timestamp,
}

impl Logs {
    pub(super) fn acquired(
        &mut self,
        time: Timestamp,
        party: &Rc<Party>,
        group: &Name,
        partition: &log::Partition,
        given: &Given,
        observer: &mut dyn Observer,
    ) {
        let Some(place) = self.place(partition) else { return };
        let consumer = Consumer::Group(group.clone());
        let Some(mut chain) = self.take_chain(place, &consumer) else { return };
        let (first, last) = given.offsets;
        for piece in chain.take(first, last) {
            // A lock that was renewed: the same delivery, told once more.
            if piece.delivery >= given.delivery {
                chain.put(piece);
            } else {
                self.fail(time, place, &consumer, &mut chain, &piece, Reason::AckTimeout, observer);
            }
        }
        // The broker itself says how often.
        let found = Found { consumer, assignment: 0, guessed: false, ambiguous: false };
        for (first, last) in chain.free(first, last) {
            for delivery in chain.deliveries(first, last) {
                let Delivery { first, last, .. } = delivery;
                let delivery = Delivery { number: given.delivery, refetched: false, ..delivery };
                let part = Part { count: span(first, last), counted: true };
                let handed = Handed { delivery, part, batches: &[], trace: None };
                self.hand_out(time, party, place, (&mut chain, &found), &handed, observer);
                self.awaits_read(time, party, (place, &found.consumer), (first, last), (given.flow, given.end));
            }
        }
        self.put_chain(place, found.consumer, chain);
    }

    pub(super) fn judged(
        &mut self,
        time: Timestamp,
        party: &Rc<Party>,
        group: &Name,
        partition: &log::Partition,
        judged: &Judged,
        observer: &mut dyn Observer,
    ) {
        let Some(place) = self.place(partition) else { return };
        let consumer = Consumer::Group(group.clone());
        let (first, last) = judged.offsets;
        if judged.error != 0 {
            let subject = Subject { topics: &self.topics, place };
            let mut attributes = subject.line(time, State::Failed, Some(party), 1).attributes;
            attributes.group = Some(group);
            attributes.offsets = Some(judged.offsets);
            attributes.operation = Some(ACKNOWLEDGE);
            attributes.error_code = Some(i32::from(judged.error));
            attributes.requested = Some(judged.asked);
            let count = Some(last.abs_diff(first) + 1);
            let (name, evidence) = ("settle_failed", Evidence::Observed);
            return observer.event(&Event { time, name, count, detail: None, evidence, attributes });
        }
        let Some(mut chain) = self.take_chain(place, &consumer) else { return };
        for piece in chain.take(first, last) {
            self.judge(time, place, &consumer, &mut chain, piece, judged, observer);
        }
        self.put_chain(place, consumer, chain);
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one line")]
    fn judge(
        &mut self,
        time: Timestamp,
        place: Place,
        consumer: &Consumer,
        chain: &mut Chain,
        mut piece: Piece,
        judged: &Judged,
        observer: &mut dyn Observer,
    ) {
        let verdict = judged.verdict;
        let (state, reason) = match verdict {
            Verdict::Gap => return,
            Verdict::Renew => return chain.put(piece),
            Verdict::Accept => (State::Acknowledged, None),
            Verdict::Release => (State::Failed, Some(Reason::Requeued)),
            Verdict::Reject => (State::Rejected, Some(Reason::Rejected)),
        };
        if piece.state == State::Dispatched {
            // Who judges has read it, seen or not.
            let mut line = self.of_piece(&piece, place, consumer, time, State::Processing);
            line.previous = Some(State::Dispatched);
            line.evidence = Evidence::Inferred;
            observer.transition(&line);
            piece.state = State::Processing;
        }
        let mut line = self.of_piece(&piece, place, consumer, time, state);
        line.previous = Some(State::Processing);
        line.reason = reason;
        line.attributes.operation = Some(ACKNOWLEDGE);
        line.attributes.settlement = Some(Settlement::Explicit);
        line.attributes.requested = Some(judged.asked);
        if state != State::Acknowledged {
            line.timings.first_failed = Some(piece.first_failed.get().unwrap_or(time));
        }
        observer.transition(&line);
        // What nobody is given again: the broker archives it.
        let end = match verdict {
            Verdict::Reject => Some(Reason::Rejected),
            Verdict::Release if piece.delivery >= DELIVERY_LIMIT => Some(Reason::DeliveryLimit),
            _ => None,
        };
        if let Some(reason) = end {
            let mut line = self.of_piece(&piece, place, consumer, time, State::Dropped);
            line.previous = Some(state);
            line.reason = Some(reason);
            line.evidence = Evidence::Inferred;
            observer.transition(&line);
        } else if verdict == Verdict::Release {
            chain.failed(&piece, time);
        }
    }
}

/// What a share group's member does with what it was given.
const ACKNOWLEDGE: &str = "acknowledge";
