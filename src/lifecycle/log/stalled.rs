//! Members that stopped: a partition is assigned to one, its group is behind there, the log goes on, and the member does not ask
//! for it any more.
//!
//! It is told once, when the member has asked for nothing of the partition for longer than the group allows: the time between two
//! polls that it named when it joined (five minutes unless it did); or, if it said nothing to its coordinator either, its session's
//! time-out (45 seconds unless it named it). Only of partitions that it was seen to ask for, and whose end was told since: so the
//! broker that it would ask is seen here. The end of it is told as well.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use hashbrown::HashMap;

use super::super::emit;
use super::super::party::Party;
use super::super::transition::{Event, Evidence, Observer};
use super::Logs;
use super::chain::Chain;
use super::consumers::Consumer;
use super::lag;
use super::partition::Partition;
use super::topics::Place;
use crate::names::Name;
use crate::protocol::operation::log::{Member, Patience};
use crate::stream::ConnectionId;
use crate::time::Timestamp;

/// The time between two polls, unless the member named it (`max.poll.interval.ms`, its default).
const POLL: Duration = Duration::from_secs(300);
/// A session's time-out, unless the member named it (`session.timeout.ms`, `group.consumer.session.timeout.ms`, their defaults).
const SESSION: Duration = Duration::from_secs(45);
/// How often it is looked who has stopped.
const PACE: Duration = Duration::from_secs(10);

/// Who a partition is assigned to.
#[derive(Debug)]
pub(super) struct Owner {
    member: Member,
    party: Rc<Party>,
    patience: Patience,
    since: Timestamp,
}

/// A group's partition and its owner.
#[derive(Debug, Default)]
pub(super) struct Watched {
    owner: Option<Rc<Owner>>,
    /// The connection that asks for it.
    asking: Option<ConnectionId>,
    /// When it was asked for last by one that does so no more.
    asked: Option<Timestamp>,
    stalled: bool,
}

/// See the [module](self).
#[derive(Default)]
pub(super) struct Watch {
    /// What connections ask for, and when they did last.
    asking: HashMap<ConnectionId, Asking>,
    /// When members spoke to their coordinators last.
    heard: HashMap<Name, Timestamp>,
    /// When to look next.
    next: Option<Timestamp>,
}

struct Asking {
    last: Timestamp,
    places: BTreeSet<Place>,
    /// One of its partitions was told to have stopped.
    stalled: bool,
}

impl Watch {
    /// Members whose last words are remembered.
    const MEMBERS: usize = 65_536;

    /// When [`Logs::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.next
    }

    /// A member spoke to its coordinator.
    pub fn heard(&mut self, member: &Member, time: Timestamp) {
        if let Some(heard) = self.heard.get_mut(&member.member) {
            *heard = time;
        } else if self.heard.len() < Self::MEMBERS {
            self.heard.insert(member.member.clone(), time);
        }
    }

    /// When the owner of a partition asked for it last, or was assigned it after that.
    fn asked(&self, watched: &Watched) -> Option<Timestamp> {
        let now = watched.asking.and_then(|connection| self.asking.get(&connection)).map(|asking| asking.last);
        let since = watched.owner.as_ref().map(|owner| owner.since);
        now.max(watched.asked).map(|asked| since.map_or(asked, |since| asked.max(since)))
    }

    /// When the owner will have stopped, if nothing is heard of it; `None`: nobody can know.
    fn deadline(&self, watched: &Watched) -> Option<(Timestamp, &'static str)> {
        let owner = watched.owner.as_ref()?;
        let asked = self.asked(watched)?;
        let heard = self.heard.get(&owner.member.member).copied().unwrap_or(owner.since).max(asked);
        let poll = asked.plus(owner.patience.poll.unwrap_or(POLL));
        let silent = heard.plus(owner.patience.session.unwrap_or(SESSION));
        Some(if poll <= silent { (poll, NO_FETCH) } else { (silent, SILENT) })
    }
}

const NO_FETCH: &str = "it asks for nothing more";
const SILENT: &str = "it says nothing more";

impl Partition {
    /// A connection asked for it for the last time.
    fn asks_no_more(&mut self, connection: ConnectionId, last: Timestamp) {
        for watched in self.chains.values_mut().map(|chain| &mut chain.watched) {
            if watched.asking == Some(connection) {
                (watched.asking, watched.asked) = (None, Some(last));
            }
        }
    }
}

impl Logs {
    /// A partition is assigned to a member.
    pub(super) fn owned(
        &mut self,
        time: Timestamp,
        party: &Rc<Party>,
        (member, patience): (&Member, Patience),
        places: &[Place],
        observer: &mut dyn Observer,
    ) {
        let consumer = Consumer::Group(member.group.clone());
        let owner = Rc::new(Owner { member: member.clone(), party: party.clone(), patience, since: time });
        self.watch.heard(member, time);
        for place in places {
            let same = |watched: &Watched| watched.owner.as_ref().is_some_and(|owner| owner.member == *member);
            let before = self.partitions.get(place).and_then(|known| known.chains.get(&consumer));
            let why = if before.is_some_and(|chain| same(&chain.watched)) { ASSIGNED } else { TAKEN };
            self.resumed(time, *place, &consumer, why, observer);
            let Some(mut chain) = self.take_chain(*place, &consumer) else { continue };
            if !same(&chain.watched) {
                chain.watched = Watched::default();
            }
            chain.watched.owner = Some(owner.clone());
            self.put_chain(*place, consumer.clone(), chain);
        }
        if self.watch.next.is_none() && !places.is_empty() {
            self.watch.next = Some(time.plus(PACE));
        }
    }

    /// A member has these no more.
    pub(super) fn disowned(&mut self, time: Timestamp, member: &Member, places: &[Place], observer: &mut dyn Observer) {
        let consumer = Consumer::Group(member.group.clone());
        for place in places {
            let known = self.partitions.get(place).and_then(|known| known.chains.get(&consumer));
            if known.is_some_and(|chain| chain.watched.owner.as_ref().is_some_and(|owner| owner.member == *member)) {
                self.resumed(time, *place, &consumer, LEFT, observer);
                if let Some(chain) = self.partitions.get_mut(place).and_then(|known| known.chains.get_mut(&consumer)) {
                    chain.watched.owner = None;
                }
            }
        }
        self.watch.heard.remove(&member.member);
    }

    /// A consumer asks a broker for something.
    pub(super) fn asks(&mut self, time: Timestamp, party: &Party, observer: &mut dyn Observer) {
        let Some(asking) = self.watch.asking.get_mut(&party.connection) else { return };
        asking.last = time;
        if !std::mem::take(&mut asking.stalled) {
            return;
        }
        for place in asking.places.clone() {
            let Some(known) = self.partitions.get(&place) else { continue };
            let is_it = |chain: &Chain| chain.watched.stalled && chain.watched.asking == Some(party.connection);
            let mut stalled: Vec<Consumer> =
                known.chains.iter().filter(|(_, chain)| is_it(chain)).map(|(consumer, _)| consumer.clone()).collect();
            stalled.sort_unstable_by(|one, other| one.group().cmp(&other.group()));
            for consumer in stalled {
                self.resumed(time, place, &consumer, ASKS, observer);
            }
        }
    }

    /// A consumer asks for a partition from now on.
    pub(super) fn wants(&mut self, time: Timestamp, party: &Party, place: Place, observer: &mut dyn Observer) {
        let Some(consumer) = self.consumers.group_of(party, place) else { return };
        let new = Asking { last: time, places: BTreeSet::new(), stalled: false };
        let asking = self.watch.asking.entry(party.connection).or_insert(new);
        asking.last = time;
        asking.places.insert(place);
        self.resumed(time, place, &consumer, ASKS, observer);
        let Some(mut chain) = self.take_chain(place, &consumer) else { return };
        chain.watched.asking = Some(party.connection);
        self.put_chain(place, consumer, chain);
        self.watch.next = self.watch.next.or(Some(time.plus(PACE)));
    }

    /// A consumer does not ask for a partition any more.
    pub(super) fn wants_no_more(&mut self, time: Timestamp, connection: ConnectionId, place: Place) {
        if let Some(asking) = self.watch.asking.get_mut(&connection) {
            asking.last = time;
            asking.places.remove(&place);
        }
        if let Some(known) = self.partitions.get_mut(&place) {
            known.asks_no_more(connection, time);
        }
    }

    /// A connection asks for nothing any more.
    pub(super) fn asks_no_more(&mut self, connection: ConnectionId) {
        let Some(Asking { last, places, .. }) = self.watch.asking.remove(&connection) else { return };
        for place in places {
            if let Some(known) = self.partitions.get_mut(&place) {
                known.asks_no_more(connection, last);
            }
        }
    }

    /// Time has passed: who has stopped?
    pub fn handle_timeout(&mut self, now: Timestamp, observer: &mut dyn Observer) {
        while let Some(at) = self.watch.next.filter(|next| *next <= now) {
            let mut waiting = false;
            let mut stopped = Vec::new();
            for (place, known) in &self.partitions {
                for (consumer, chain) in &known.chains {
                    let Some((deadline, how)) = self.watch.deadline(&chain.watched) else { continue };
                    if chain.watched.stalled {
                        continue;
                    }
                    waiting = true;
                    let behind = lag::lag(known, chain).is_some_and(|lag| lag > 0);
                    if deadline <= at && behind && self.is_silent(known, &chain.watched) {
                        stopped.push((*place, consumer.group().cloned(), how));
                    }
                }
            }
            stopped.sort_unstable();
            for (place, group, how) in stopped {
                if let Some(group) = group {
                    self.stopped(at, place, group, how, observer);
                }
            }
            // Nothing changes until the next record: so it is enough to look once behind the last deadline.
            self.watch.next = waiting.then(|| at.plus(PACE));
        }
    }

    /// The owner's silence is its own: the log goes on here, and nothing of what it said was missed.
    fn is_silent(&self, known: &Partition, watched: &Watched) -> bool {
        let (Some(asked), Some(owner)) = (self.watch.asked(watched), &watched.owner) else { return false };
        Some(asked) < known.ends.told_at() && self.unheard.heard_all(asked, &owner.party)
    }

    fn stopped(&mut self, time: Timestamp, place: Place, group: Name, how: &'static str, observer: &mut dyn Observer) {
        let consumer = Consumer::Group(group);
        self.tell(time, place, &consumer, ("consumer_stalled", how), observer);
        let chain = self.partitions.get_mut(&place).and_then(|known| known.chains.get_mut(&consumer));
        let Some(watched) = chain.map(|chain| &mut chain.watched) else { return };
        watched.stalled = true;
        if let Some(asking) = watched.asking.and_then(|connection| self.watch.asking.get_mut(&connection)) {
            asking.stalled = true;
        }
    }

    /// A member that had stopped goes on, or there is nothing any more for which it would.
    pub(super) fn resumed(
        &mut self,
        time: Timestamp,
        place: Place,
        consumer: &Consumer,
        why: &'static str,
        observer: &mut dyn Observer,
    ) {
        let chain = self.partitions.get_mut(&place).and_then(|known| known.chains.get_mut(consumer));
        if chain.is_some_and(|chain| std::mem::take(&mut chain.watched.stalled)) {
            self.tell(time, place, consumer, ("consumer_resumed", why), observer);
            self.watch.next = self.watch.next.or(Some(time.plus(PACE)));
        }
    }

    fn tell(
        &self,
        time: Timestamp,
        place: Place,
        consumer: &Consumer,
        (name, why): (&'static str, &str),
        observer: &mut dyn Observer,
    ) {
        let Some(known) = self.partitions.get(&place) else { return };
        let Some(chain) = known.chains.get(consumer) else { return };
        let Some(owner) = &chain.watched.owner else { return };
        let mut attributes = emit::of_party(Some(&*owner.party));
        attributes.topic = self.topics.name(place.topic);
        attributes.partition = Some(place.partition);
        attributes.group = consumer.group();
        attributes.lag = lag::lag(known, chain);
        let detail = format!("member {}: {why}", owner.member.member);
        let (detail, evidence) = (Some(detail.as_str()), Evidence::Inferred);
        observer.event(&Event { time, name, count: None, detail, evidence, attributes });
    }
}

const ASKS: &str = "it asks again";
const ASSIGNED: &str = "assigned anew";
const TAKEN: &str = "assigned to another member";
const LEFT: &str = "it has left";
/// The group is not behind any more.
pub(super) const LEVEL: &str = "nothing is left to ask for";
