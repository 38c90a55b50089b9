//! Which group a fetch is for. The wire does not say: a consumer fetches on one connection and speaks to its coordinator on
//! another. Both are of one application, under one client id, and the partition is assigned to one of its members.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::rc::Rc;

use hashbrown::{HashMap, HashSet};

use super::super::party::Party;
use super::topics::{Place, TopicNumber};
use crate::names::Name;
use crate::protocol::operation::log::Member;
use crate::stream::ConnectionId;

/// Where consumers run together: a process of this host, or another host; under one client id.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Application {
    process: Option<u32>,
    host: Option<IpAddr>,
    client: Option<Name>,
    /// Of a party of which nothing is known.
    connection: Option<ConnectionId>,
}

impl Application {
    pub fn of(party: &Party) -> Application {
        let process = party.process.as_ref().map(|process| process.pid);
        let host = party.client.filter(|_| process.is_none()).map(|client| client.ip());
        let unknown = process.is_none() && host.is_none();
        let connection = unknown.then_some(party.connection);
        Application { process, host, client: party.client_name.clone(), connection }
    }

    /// The same, without what it calls itself.
    pub fn unnamed(self) -> Application {
        Application { client: None, ..self }
    }

    /// Whether two connections are of one application.
    pub fn is_of_both(one: &Party, other: &Party) -> bool {
        one.connection == other.connection || Application::of(one) == Application::of(other)
    }
}

/// Whose offsets a partition is read by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Consumer {
    /// A group's.
    Group(Name),
    /// An application's own: it belongs to no group, or to none that is known.
    Alone(Rc<Application>),
}

impl Consumer {
    pub fn group(&self) -> Option<&Name> {
        match self {
            Consumer::Group(group) => Some(group),
            Consumer::Alone(_) => None,
        }
    }
}

/// How a fetch's group was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub consumer: Consumer,
    /// The number of the assignment that gave the partition to the member; 0 if none was seen.
    pub assignment: u64,
    /// It was not seen to be assigned the partition.
    pub guessed: bool,
    /// Members of other groups would fit as well.
    pub ambiguous: bool,
}

/// What an assignment changes for a member, in partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rebalance {
    pub held: usize,
    pub gained: usize,
    pub lost: usize,
}

struct Claim {
    member: Member,
    /// Where it speaks to its coordinator.
    connection: ConnectionId,
    /// Its partitions; `None`: not seen.
    partitions: Option<HashSet<Place>>,
    /// Partitions that it asked or committed the offset of, where no assignment was seen.
    touched: HashSet<Place>,
    assignment: u64,
}

impl Claim {
    fn holds(&self, place: Place) -> bool {
        self.partitions.as_ref().map_or_else(|| self.touched.contains(&place), |held| held.contains(&place))
    }
}

/// See the [module](self).
#[derive(Default)]
pub(super) struct Consumers {
    applications: HashMap<Application, Vec<Claim>>,
    /// Connections that fetch, with the member that they were found to be of.
    fetching: HashMap<ConnectionId, Member>,
    assignments: u64,
}

impl Consumers {
    /// Members of one application that are kept. The one that was added first makes room.
    const MEMBERS: usize = 1024;
    /// Applications that are kept.
    const APPLICATIONS: usize = 65_536;
    /// Partitions of one member.
    const PARTITIONS: usize = 65_536;

    /// A member speaks here.
    pub fn seen(&mut self, party: &Party, member: &Member) {
        self.claim(party, member);
    }

    /// A member consumes these, and nothing else: what that changes. `None`: there is no room for it.
    pub fn assigned(
        &mut self,
        party: &Party,
        member: &Member,
        places: impl Iterator<Item = Place>,
    ) -> Option<Rebalance> {
        self.assignments += 1;
        let number = self.assignments;
        let claim = self.claim(party, member)?;
        let places: HashSet<Place> = places.take(Self::PARTITIONS).collect();
        let before = claim.partitions.take().unwrap_or_default();
        let rebalance = Rebalance {
            held: places.len(),
            gained: places.difference(&before).count(),
            lost: before.difference(&places).count(),
        };
        claim.partitions = Some(places);
        claim.touched.clear();
        claim.assignment = number;
        Some(rebalance)
    }

    /// Whoever holds partitions of a topic holds those of another one, too: it is the same, or has taken its place.
    pub fn also_holds(&mut self, topic: TopicNumber, other: TopicNumber) {
        for claim in self.applications.values_mut().flatten() {
            let held = claim.partitions.as_mut().unwrap_or(&mut claim.touched);
            let same: Vec<Place> = held.iter().copied().filter(|place| place.topic == topic).collect();
            held.extend(same.into_iter().map(|place| Place { topic: other, ..place }));
        }
    }

    /// What was assigned to a member, in order.
    pub fn places(&self, party: &Party, member: &Member) -> BTreeSet<Place> {
        let claims = self.applications.get(&Application::of(party)).map(Vec::as_slice).unwrap_or_default();
        let claim = claims.iter().find(|claim| claim.member == *member);
        claim.and_then(|claim| claim.partitions.as_ref()).into_iter().flatten().copied().collect()
    }

    /// A member asked or committed the offset of a partition.
    pub fn touched(&mut self, party: &Party, member: &Member, place: Place) {
        if let Some(claim) = self.claim(party, member)
            && claim.partitions.is_none()
            && claim.touched.len() < Self::PARTITIONS
        {
            claim.touched.insert(place);
        }
    }

    /// A member is none any more. What it had; `None`: it was not known.
    pub fn left(&mut self, party: &Party, member: &Member) -> Option<Vec<Place>> {
        self.fetching.retain(|_, of| of != member);
        let application = Application::of(party);
        let claims = self.applications.get_mut(&application)?;
        let at = claims.iter().position(|claim| claim.member == *member)?;
        let claim = claims.remove(at);
        if claims.is_empty() {
            self.applications.remove(&application);
        }
        let mut places: Vec<Place> = claim.partitions.unwrap_or(claim.touched).into_iter().collect();
        // In an order that a replay has as well.
        places.sort_unstable();
        Some(places)
    }

    /// A connection has ended. The members that spoke on it remain: they may come back on another one.
    pub fn closed(&mut self, connection: ConnectionId) {
        self.fetching.remove(&connection);
    }

    /// The group that a connection asks for a partition for, if that is certain.
    pub fn group_of(&self, party: &Party, place: Place) -> Option<Consumer> {
        let claims = self.applications.get(&Application::of(party)).map(Vec::as_slice).unwrap_or_default();
        let known = self.fetching.get(&party.connection);
        let chosen = Self::choose(claims, known, party.connection, place);
        chosen.filter(|(_, guessed)| !guessed).map(|(claim, _)| Consumer::Group(claim.member.group.clone()))
    }

    /// For whom a connection fetches a partition.
    pub fn of_fetch(&mut self, party: &Party, place: Place) -> Found {
        let application = Application::of(party);
        let claims = self.applications.get(&application).map(Vec::as_slice).unwrap_or_default();
        let known = self.fetching.get(&party.connection);
        let chosen = Self::choose(claims, known, party.connection, place);
        let Some((claim, guessed)) = chosen else {
            return Found {
                consumer: Consumer::Alone(Rc::new(application)),
                assignment: 0,
                guessed: false,
                ambiguous: false,
            };
        };
        if !guessed && known != Some(&claim.member) {
            self.fetching.insert(party.connection, claim.member.clone());
        }
        let consumer = Consumer::Group(claim.member.group.clone());
        let ambiguous = guessed && claim.holds(place);
        Found { consumer, assignment: claim.assignment, guessed, ambiguous }
    }

    fn choose<'a>(
        claims: &'a [Claim],
        known: Option<&Member>,
        connection: ConnectionId,
        place: Place,
    ) -> Option<(&'a Claim, bool)> {
        let known_to_fetch = |claim: &&Claim| known == Some(&claim.member) || claim.connection == connection;
        let mut holders = claims.iter().filter(|claim| claim.holds(place));
        if let Some(claim) = claims.iter().filter(|claim| claim.holds(place)).find(known_to_fetch) {
            return Some((claim, false));
        }
        match (holders.next(), holders.next()) {
            (Some(only), None) => Some((only, false)),
            // Of several, the last: the others may have been left behind by members that nobody saw leave.
            (Some(_), Some(_)) => {
                let last = claims.iter().rfind(|claim| claim.holds(place))?;
                let mut holders = claims.iter().filter(|claim| claim.holds(place));
                Some((last, !holders.all(|claim| claim.member.group == last.member.group)))
            }
            (None, _) => {
                let mut unknown = claims.iter().filter(|claim| claim.partitions.is_none());
                match (unknown.next(), unknown.next()) {
                    (Some(only), None) => Some((only, true)),
                    _ => None,
                }
            }
        }
    }

    fn claim(&mut self, party: &Party, member: &Member) -> Option<&mut Claim> {
        let application = Application::of(party);
        if !self.applications.contains_key(&application) && self.applications.len() >= Self::APPLICATIONS {
            return None;
        }
        let claims = self.applications.entry(application).or_default();
        // Who does not say which member it is, is the one that is known of its group.
        let is_it =
            |claim: &Claim| claim.member == *member || (member.member.is_empty() && claim.member.group == member.group);
        let at = match claims.iter().position(is_it) {
            Some(at) => at,
            None => {
                if claims.len() >= Self::MEMBERS {
                    claims.remove(0);
                }
                claims.push(Claim {
                    member: member.clone(),
                    connection: party.connection,
                    partitions: None,
                    touched: HashSet::new(),
                    assignment: 0,
                });
                claims.len() - 1
            }
        };
        let claim = claims.get_mut(at)?;
        claim.connection = party.connection;
        Some(claim)
    }
}
