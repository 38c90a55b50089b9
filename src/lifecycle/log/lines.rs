//! From tables to lines.

use super::super::emit;
use super::super::party::Party;
use super::super::transition::{State, Timings, Transition};
use super::chain::Piece;
use super::consumers::Consumer;
use super::partition::{Produced, Stored};
use super::topics::{Place, Topics};
use crate::time::Timestamp;

/// What lines about a partition have in common.
pub(super) struct Subject<'a> {
    pub topics: &'a Topics,
    pub place: Place,
}

impl<'a> Subject<'a> {
    /// `count` messages of the partition enter a state.
    pub fn line(&self, time: Timestamp, state: State, party: Option<&'a Party>, count: u64) -> Transition<'a> {
        let mut line = Transition { count, attributes: emit::of_party(party), ..Transition::new(time, state) };
        line.attributes.topic = self.topics.name(self.place.topic);
        line.attributes.partition = Some(self.place.partition);
        line
    }

    /// What was produced, before its offsets are known.
    pub fn of_produced(&self, produced: &'a Produced, time: Timestamp, state: State) -> Transition<'a> {
        let mut line = self.line(time, state, Some(&produced.party), produced.batch.records);
        line.previous = (state != State::Created).then_some(produced.state);
        line.timings.created = Some(produced.created);
        line.attributes.producer = produced.party.process.as_ref();
        line
    }

    /// What a group's consumer holds; `stored`: what is known of the first of them.
    pub fn of_piece(
        &self,
        piece: &'a Piece,
        consumer: &'a Consumer,
        stored: Option<&'a Stored>,
        time: Timestamp,
        state: State,
    ) -> Transition<'a> {
        let mut line = self.line(time, state, Some(&piece.holder), piece.count);
        line.delivery = Some(piece.delivery);
        line.evidence = emit::evidence(!piece.counted);
        line.attributes.group = consumer.group();
        line.attributes.offsets = Some((piece.first, piece.last));
        line.attributes.trace = piece.single.as_ref().map(|single| &single.context);
        line.attributes.producer = stored.and_then(|stored| stored.party.process.as_ref());
        line.timings = Timings {
            created: stored.map(|stored| stored.created),
            confirmed: stored.and_then(|stored| stored.confirmed),
            dispatched: Some(piece.dispatched),
            processing: piece.processing.get(),
            first_failed: piece.first_failed.get(),
        };
        line
    }
}
