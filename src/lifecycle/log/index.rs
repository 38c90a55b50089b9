//! Which partitions a connection, or an application, has to do with, so that its end need not look at all of them.

use std::collections::BTreeSet;
use std::rc::Rc;

use hashbrown::HashMap;

use super::consumers::Application;
use super::topics::Place;
use crate::stream::ConnectionId;

/// See the [module](self). It may name a partition more, never one less. In the order of partitions, so that a replay tells the same.
#[derive(Default)]
pub(super) struct Index {
    producing: HashMap<ConnectionId, Producing>,
    alone: HashMap<Rc<Application>, BTreeSet<Place>>,
}

#[derive(Default)]
struct Producing {
    places: BTreeSet<Place>,
    /// With so many it is looked which of them still wait for an answer.
    sweep_at: usize,
}

impl Index {
    /// Partitions of a connection that are looked through at the least.
    const FEW: usize = 64;

    /// A connection produces into a partition, and will be answered. `waits` tells of which partitions answers are still to come.
    pub fn produces(&mut self, connection: ConnectionId, place: Place, waits: impl Fn(Place) -> bool) {
        let producing = self.producing.entry(connection).or_default();
        producing.places.insert(place);
        if producing.places.len() > producing.sweep_at.max(Self::FEW) {
            producing.places.retain(|place| waits(*place));
            producing.sweep_at = 2 * producing.places.len();
        }
    }

    /// The partitions that a connection may wait for answers of.
    pub fn producing(&self, connection: ConnectionId) -> impl Iterator<Item = Place> + '_ {
        self.producing.get(&connection).into_iter().flat_map(|producing| producing.places.iter().copied())
    }

    /// A connection has ended. The partitions that it may have waited for answers of.
    pub fn closed(&mut self, connection: ConnectionId) -> BTreeSet<Place> {
        self.producing.remove(&connection).unwrap_or_default().places
    }

    /// An application reads a partition for itself.
    pub fn reads_alone(&mut self, application: &Rc<Application>, place: Place) {
        self.alone.entry(application.clone()).or_default().insert(place);
    }

    /// It does so no more.
    pub fn reads_for_others(&mut self, application: &Application, place: Place) {
        if let Some(places) = self.alone.get_mut(application) {
            places.remove(&place);
            if places.is_empty() {
                self.alone.remove(application);
            }
        }
    }

    /// The partitions that an application reads for itself, to be told anew of those where it goes on.
    pub fn take_alone(&mut self, application: &Application) -> BTreeSet<Place> {
        self.alone.remove(application).unwrap_or_default()
    }
}
