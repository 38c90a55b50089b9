//! Retry and dead-letter topics: consumers produce copies, and commit the original, in whatever order.
//!
//! What becomes of the original is told when its copy is known to be in the log, with the copy's place. A copy of a copy is told
//! of the first original, so that a message that goes through several topics is one.

use std::rc::Rc;

use super::super::emit;
use super::super::party::Party;
use super::super::transition::{Observer, Reason, State};
use super::Logs;
use super::chain::{Chain, Past, Standing};
use super::consumers::Consumer;
use super::lines::Subject;
use super::partition::Produced;
use super::topics::Place;
use crate::names::Name;
use crate::protocol::operation::log::{Copy, CopyFate, Original, Sent};
use crate::time::Timestamp;

/// A message in the hands of a group, or of a consumer without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Root {
    place: Place,
    consumer: Consumer,
    offset: i64,
}

/// A batch of which some messages are copies, as far as it is known to be in the log.
pub(super) struct Stored {
    pub place: Place,
    /// The first offset of the batch; `None`: not known.
    pub first: Option<i64>,
    pub copies: Vec<Copy>,
    pub party: Rc<Party>,
    /// Nobody said that it is there.
    pub presumed: bool,
}

/// What a copy was made of.
struct Found {
    root: Root,
    /// The copy was made of a copy: of which.
    through: Option<Root>,
    ambiguous: bool,
    cause: Option<Name>,
    /// The copy does not say so itself.
    inferred: bool,
}

impl Logs {
    /// The broker has a batch: tells what becomes of the messages that it has copies of.
    pub(super) fn copies_stored(
        &mut self,
        time: Timestamp,
        produced: &mut Produced,
        (place, first, presumed): (Place, Option<i64>, bool),
        observer: &mut dyn Observer,
    ) {
        if produced.copies.is_empty() {
            for (behind, root) in std::mem::take(&mut produced.roots) {
                self.remember(place, first, behind, root);
            }
            return;
        }
        let (copies, party) = (std::mem::take(&mut produced.copies), produced.party.clone());
        let stored = Stored { place, first, copies, party, presumed };
        let transaction =
            produced.batch.sequence.filter(|_| produced.batch.transactional).map(|sequence| sequence.producer);
        if let Some(refused) = self.promise_copies(transaction, stored) {
            produced.roots = self.tell_copies(time, refused, observer);
        }
    }

    /// Tells what becomes of the messages that a batch has copies of, and which these are.
    pub(super) fn tell_copies(
        &mut self,
        time: Timestamp,
        stored: Stored,
        observer: &mut dyn Observer,
    ) -> Vec<(u64, Rc<Root>)> {
        let Stored { place, first, copies, party, presumed } = stored;
        let mut roots = Vec::new();
        for copy in copies {
            let Some(found) = self.find(time, &party, &copy) else { continue };
            let root = Rc::new(found.root.clone());
            match first {
                Some(_) => self.remember(place, first, copy.place, root),
                None => roots.push((copy.place, root)),
            }
            let at = (place, first.map(|first| first.saturating_add_unsigned(copy.place)));
            self.copied(time, &party, &found, (copy.fate, presumed), at, observer);
        }
        roots
    }

    fn remember(&mut self, place: Place, first: Option<i64>, behind: u64, root: Rc<Root>) {
        if let (Some(first), Some(known)) = (first, self.partitions.get_mut(&place)) {
            known.is_copy(first.saturating_add_unsigned(behind), root);
        }
    }

    fn copied(
        &mut self,
        time: Timestamp,
        party: &Rc<Party>,
        found: &Found,
        (fate, presumed): (CopyFate, bool),
        (copy, copy_offset): (Place, Option<i64>),
        observer: &mut dyn Observer,
    ) {
        let (state, reason) = match fate {
            CopyFate::Retry => (State::Retrying, Reason::RetryTopic),
            CopyFate::DeadLetter => (State::DeadLettered, Reason::Republished),
        };
        if let Some(Root { place, consumer, offset }) = &found.through
            && let Some(chain) = self.partitions.get_mut(place).and_then(|known| known.chains.get_mut(consumer))
        {
            chain.passed_on(*offset, state);
        }
        let Root { place, ref consumer, offset } = found.root;
        let Some(mut chain) = self.take_chain(place, consumer) else { return };
        if let Some(Past { state: before, delivery, first_failed, single }) = chain.take_copied(offset, state) {
            let subject = Subject { topics: &self.topics, place };
            let mut line = subject.line(time, state, Some(party), 1);
            line.previous = before;
            line.corrects = before.filter(|before| *before == State::Acknowledged);
            line.reason = Some(reason);
            line.delivery = delivery;
            line.evidence = emit::evidence(found.inferred || presumed);
            line.ambiguous = found.ambiguous;
            line.attributes.group = consumer.group();
            line.attributes.offsets = Some((offset, offset));
            line.attributes.trace = single.as_ref().map(|single| &single.context);
            line.attributes.dead_letter_source = self.topics.name(place.topic);
            line.attributes.dead_letter_destination = self.topics.name(copy.topic);
            line.attributes.dead_letter_partition = Some(copy.partition);
            line.attributes.dead_letter_offset = copy_offset;
            line.attributes.error_text = found.cause.as_ref();
            line.timings.first_failed = Some(first_failed.get().unwrap_or(time));
            observer.transition(&line);
        }
        self.put_chain(place, consumer.clone(), chain);
    }

    /// The message that a copy was made of.
    fn find(&mut self, time: Timestamp, party: &Party, copy: &Copy) -> Option<Found> {
        match &copy.original {
            Original::Named { partition, offset, group, presumed, cause } => {
                let place = self.place(partition)?;
                let (offset, cause) = (*offset, cause.clone());
                let found = |root, through| Found { root, through, ambiguous: false, cause, inferred: false };
                if let Some(root) = self.origin(place, offset) {
                    return Some(found(root, None));
                }
                let consumer = self.copier(party, place, offset, (group.as_ref(), *presumed))?;
                Some(found(Root { place, consumer, offset }, None))
            }
            Original::Alike { sent, incomplete } => {
                let found = self.alike(time, sent, copy.fate);
                self.statistics.unmatched_copies += u64::from(found.is_none() && *incomplete);
                found
            }
        }
    }

    /// Of what is itself a copy: what it was made of first.
    fn origin(&self, place: Place, offset: i64) -> Option<Root> {
        self.partitions.get(&place)?.copy_of(offset).map(|root| (**root).clone())
    }

    /// Of messages that are alike, the one that its consumer has had in hands longest.
    fn alike(&mut self, time: Timestamp, sent: &[Sent], fate: CopyFate) -> Option<Found> {
        let mut fitting: Vec<(Standing, Root)> = Vec::new();
        for Sent { partition, offset, connection } in sent {
            let Some(place) = self.place(partition) else { continue };
            let Some(known) = self.partitions.get(&place) else { continue };
            for (consumer, chain) in &known.chains {
                let direct = Root { place, consumer: consumer.clone(), offset: *offset };
                fitting.extend(chain.standing(*offset, *connection, time).map(|standing| (standing, direct)));
            }
        }
        let (standing, direct) = fitting
            .iter()
            .min_by_key(|(standing, of)| (*standing, of.place, of.offset, of.consumer.group().cloned()))?;
        // What is being retried may still die, but not be retried once more without being handed out.
        if *standing == Standing::DeadLettered || (*standing == Standing::Retrying && fate == CopyFate::Retry) {
            return None;
        }
        let through = self.origin(direct.place, direct.offset);
        let root = through.as_ref().unwrap_or(direct);
        // Twins: which of them was copied before, nobody knew either. What was only committed is another matter.
        let is_twin = |other: Standing| other == *standing || other > Standing::Done;
        let is_other = |of: &Root| *of != *root && self.origin(of.place, of.offset).is_none_or(|first| first != *root);
        let ambiguous = fitting.iter().any(|(other, of)| is_twin(*other) && is_other(of));
        let (root, through) = (root.clone(), through.map(|_| direct.clone()));
        Some(Found { root, through, ambiguous, cause: None, inferred: true })
    }

    /// The group that the copier consumed the original for.
    fn copier(
        &self,
        party: &Party,
        place: Place,
        offset: i64,
        (group, presumed): (Option<&Name>, bool),
    ) -> Option<Consumer> {
        let named = group.map(|group| Consumer::Group(group.clone()));
        let chains = &self.partitions.get(&place)?.chains;
        if let Some(named) = named.as_ref().filter(|named| chains.contains_key(*named)) {
            return Some(named.clone());
        }
        let only = |fits: &dyn Fn(&Chain) -> bool| {
            let mut fitting = chains.iter().filter(|(_, chain)| fits(chain));
            fitting.next().filter(|_| fitting.next().is_none()).map(|(consumer, _)| consumer.clone())
        };
        let holder = only(&|chain| chain.is_known_to(party, offset));
        let named = named.filter(|_| !presumed);
        // Of whom nobody knows the process, somebody else's connection may have had it: then only one group may have.
        let had = || only(&|chain| chain.has(offset)).or_else(|| only(&|chain| chain.has_done(offset)));
        holder.or_else(had).or(named)
    }
}
