//! From a producer into the log.

use std::rc::Rc;

use super::super::party::Party;
use super::super::transition::{Evidence, Observer, Reason, State};
use super::lines::Subject;
use super::partition::{Produced, Repeated, Stored};
use super::topics::{Place, Topics};
use super::{Logs, single};
use crate::protocol::operation::log::{self, Acks, Batch, Copy, RequestId};
use crate::time::Timestamp;

/// A batch that a producer sends.
pub(super) struct Sending<'a> {
    pub batch: &'a Batch,
    pub acks: Acks,
    pub copies: &'a [Copy],
}

/// The broker has the batch already (org.apache.kafka.common.protocol.Errors, DUPLICATE_SEQUENCE_NUMBER).
const DUPLICATE_SEQUENCE_NUMBER: i16 = 46;

impl Logs {
    pub(super) fn produced(
        &mut self,
        time: Timestamp,
        party: &Rc<Party>,
        request: RequestId,
        partition: &log::Partition,
        sending: &Sending<'_>,
        observer: &mut dyn Observer,
    ) {
        let Sending { batch, acks, copies } = *sending;
        let Some((place, known)) = self.partition(partition) else { return };
        let repeated = known.repeated(batch, party, request);
        let request = (party.connection, request);
        match repeated {
            Repeated::Stored => return,
            Repeated::Waiting(produced) => {
                produced.request = request;
                produced.awaits = acks != Acks::None;
                return self.awaits_answer(party, place, acks);
            }
            Repeated::No => {}
        }
        let mut produced = Produced {
            request,
            batch: batch.clone(),
            acks,
            state: State::Created,
            awaits: acks != Acks::None,
            created: time,
            party: party.clone(),
            copies: copies.to_vec(),
            roots: Vec::new(),
        };
        let subject = Subject { topics: &self.topics, place };
        let mut line = subject.of_produced(&produced, time, State::Created);
        line.attributes.operation = Some(SEND);
        line.attributes.body_size = Some(batch.bytes);
        line.attributes.unanswered = acks == Acks::None;
        single::tell(&line, &produced.batch, observer);
        if acks == Acks::None {
            self.copies_stored(time, &mut produced, (place, None, false), observer);
        }
        // Nobody answers for it, so that it may stay here until somebody reads it, or for ever.
        let evicted = self.partitions.get_mut(&place).and_then(|known| known.add(produced));
        self.statistics.evicted_batches += u64::from(evicted.is_some_and(|evicted| evicted.acks != Acks::None));
        self.awaits_answer(party, place, acks);
    }

    fn awaits_answer(&mut self, party: &Party, place: Place, acks: Acks) {
        if acks != Acks::None {
            let Logs { index, partitions, .. } = self;
            let connection = party.connection;
            let waits = |place| partitions.get(&place).is_some_and(|known| known.awaits(connection));
            index.produces(connection, place, waits);
        }
    }

    pub(super) fn produce_answered(
        &mut self,
        time: Timestamp,
        party: &Rc<Party>,
        request: RequestId,
        partition: &log::Partition,
        (offset, error): (Option<i64>, i16),
        observer: &mut dyn Observer,
    ) {
        let Some(place) = self.place(partition) else { return };
        if let Some(offset) = offset.filter(|offset| error == 0 && *offset >= 0) {
            self.at(place).ends.at_least(offset.saturating_add(1), time);
        }
        let Logs { partitions, topics, statistics, .. } = self;
        let Some(known) = partitions.get_mut(&place) else {
            statistics.unmatched_answers += 1;
            return;
        };
        let request = (party.connection, request);
        if error != 0 && error != DUPLICATE_SEQUENCE_NUMBER {
            match known.of_request(request) {
                Some(produced) => {
                    produced.awaits = false;
                    refuse(topics, place, produced, Reason::Refused, Evidence::Observed, time, Some(error), observer);
                }
                None => statistics.unmatched_answers += u64::from(!known.take_repeat(request)),
            }
            return;
        }
        let Some(mut produced) = known.take_of_request(request) else {
            statistics.unmatched_answers += u64::from(!known.take_repeat(request));
            return;
        };
        let offset = offset.filter(|offset| *offset >= 0);
        let last = offset.map(|first| first.saturating_add_unsigned(produced.batch.records - 1));
        if let Some((first, last)) = offset.zip(last) {
            (produced.batch.first, produced.batch.last) = (first, last);
        }
        let mut line = Subject { topics, place }.of_produced(&produced, time, State::Confirmed);
        line.corrects = (produced.state == State::PublishFailed).then_some(State::PublishFailed);
        line.attributes.operation = Some(SEND);
        line.attributes.offsets = offset.zip(last);
        single::tell(&line, &produced.batch, observer);
        if let Some((first, last)) = offset.zip(last) {
            known.ends.at_least(last.saturating_add(1), time);
            let Produced { ref batch, created, ref party, .. } = produced;
            let (sequence, party) = (batch.sequence, party.clone());
            known.store(Stored { first, last, sequence, created, confirmed: Some(time), party });
        }
        self.copies_stored(time, &mut produced, (place, offset, false), observer);
    }

    /// Nobody will know what the broker said: what becomes of the messages, their readers tell.
    pub(super) fn answer_lost(
        &mut self,
        time: Timestamp,
        party: &Rc<Party>,
        request: RequestId,
        observer: &mut dyn Observer,
    ) {
        let mut copied = Vec::new();
        for place in self.index.producing(party.connection) {
            let Some(known) = self.partitions.get_mut(&place) else { continue };
            for produced in known.awaiting(party.connection).filter(|produced| produced.request.1 == request) {
                produced.awaits = false;
                if !produced.copies.is_empty() {
                    copied.push(place);
                }
            }
        }
        // It was sent, and there is no word of a failure.
        for place in copied {
            let sent = |produced: &Produced| produced.request == (party.connection, request);
            let taken = self.partitions.get_mut(&place).and_then(|known| known.take_first(sent));
            let Some(mut produced) = taken else { continue };
            self.copies_stored(time, &mut produced, (place, None, true), observer);
            self.partitions.get_mut(&place).map(|known| known.add(produced));
        }
    }

    /// The broker will not answer any more. It may have the messages all the same.
    pub(super) fn publishes_lost(&mut self, time: Timestamp, party: &Rc<Party>, observer: &mut dyn Observer) {
        let Logs { partitions, topics, index, .. } = self;
        for place in index.closed(party.connection) {
            let Some(known) = partitions.get_mut(&place) else { continue };
            for produced in known.awaiting(party.connection) {
                produced.awaits = false;
                refuse(topics, place, produced, Reason::ConnectionLost, Evidence::Inferred, time, None, observer);
            }
        }
    }

    /// Somebody was handed a batch, so that it is in the log, whatever its producer was told.
    pub(super) fn found_in_log(&mut self, time: Timestamp, place: Place, batch: &Batch, observer: &mut dyn Observer) {
        let Logs { partitions, topics, .. } = self;
        let Some(known) = partitions.get_mut(&place) else { return };
        let Some(mut produced) = known.take_stored(batch) else { return };
        if produced.state == State::PublishFailed {
            let mut line = Subject { topics, place }.of_produced(&produced, time, State::Confirmed);
            line.corrects = Some(State::PublishFailed);
            line.evidence = Evidence::Inferred;
            line.attributes.offsets = Some((batch.first, batch.last));
            single::tell(&line, batch, observer);
        }
        let Produced { created, ref party, .. } = produced;
        let (first, last, sequence, party) = (batch.first, batch.last, batch.sequence, party.clone());
        known.store(Stored { first, last, sequence, created, confirmed: None, party });
        self.copies_stored(time, &mut produced, (place, Some(first), false), observer);
    }
}

/// The operation's name in the conventions for Kafka (OpenTelemetry, messaging spans, Kafka).
const SEND: &str = "send";

#[expect(clippy::too_many_arguments, reason = "the parts of one line")]
fn refuse(
    topics: &Topics,
    place: Place,
    produced: &mut Produced,
    reason: Reason,
    evidence: Evidence,
    time: Timestamp,
    error: Option<i16>,
    observer: &mut dyn Observer,
) {
    if produced.state == State::PublishFailed {
        return;
    }
    let mut line = Subject { topics, place }.of_produced(produced, time, State::PublishFailed);
    line.reason = Some(reason);
    line.evidence = evidence;
    line.attributes.operation = Some(SEND);
    line.attributes.error_code = error.map(i32::from);
    single::tell(&line, &produced.batch, observer);
    produced.state = State::PublishFailed;
}
