//! Retry and dead-letter topics: consumers produce copies that say where they come from, and commit the original.

use std::rc::Rc;

use super::super::party::Party;
use super::super::transition::{Observer, Reason, State};
use super::Logs;
use super::chain::{Chain, Past};
use super::consumers::Consumer;
use super::lines::Subject;
use super::topics::Place;
use crate::names::Name;
use crate::protocol::operation::log::{self, CopyFate};
use crate::time::Timestamp;

/// A message was copied.
pub(super) struct Copied<'a> {
    pub copy: &'a log::Partition,
    pub offset: i64,
    pub group: Option<&'a Name>,
    pub fate: CopyFate,
    pub cause: Option<&'a Name>,
}

impl Logs {
    pub(super) fn copied(
        &mut self,
        time: Timestamp,
        party: &Rc<Party>,
        origin: &log::Partition,
        copied: &Copied<'_>,
        observer: &mut dyn Observer,
    ) {
        let (Some(place), Some(copy)) = (self.place(origin), self.place(copied.copy)) else { return };
        let Some(consumer) = self.copier(party, place, copied) else { return };
        let Some(mut chain) = self.take_chain(place, &consumer) else { return };
        let (state, reason) = match copied.fate {
            CopyFate::Retry => (State::Retrying, Reason::RetryTopic),
            CopyFate::DeadLetter => (State::DeadLettered, Reason::Republished),
        };
        let past = chain.take_copied(copied.offset, state);
        if let Some(Past { state: before, delivery, first_failed }) = past {
            let subject = Subject { topics: &self.topics, place };
            let mut line = subject.line(time, state, Some(party), 1);
            line.previous = before;
            line.corrects = before.filter(|before| *before == State::Acknowledged);
            line.reason = Some(reason);
            line.delivery = delivery;
            line.attributes.group = consumer.group();
            line.attributes.offsets = Some((copied.offset, copied.offset));
            line.attributes.dead_letter_source = self.topics.name(place.topic);
            line.attributes.dead_letter_destination = self.topics.name(copy.topic);
            line.attributes.error_text = copied.cause;
            line.timings.first_failed = Some(first_failed.get().unwrap_or(time));
            observer.transition(&line);
        }
        self.put_chain(place, consumer, chain);
    }

    /// The group that the copier consumed the original for.
    fn copier(&self, party: &Party, place: Place, copied: &Copied<'_>) -> Option<Consumer> {
        let named = copied.group.map(|group| Consumer::Group(group.clone()));
        let known = self.partitions.get(&place);
        if let (Some(named), Some(known)) = (&named, known)
            && known.chains.contains_key(named)
        {
            return Some(named.clone());
        }
        let chains = &known?.chains;
        let only = |fits: &dyn Fn(&Chain) -> bool| {
            let mut fitting = chains.iter().filter(|(_, chain)| fits(chain));
            fitting.next().filter(|_| fitting.next().is_none()).map(|(consumer, _)| consumer.clone())
        };
        let holder = only(&|chain| chain.is_known_to(party, copied.offset));
        holder.or_else(|| only(&|chain| chain.has_done(copied.offset))).or(named)
    }
}
