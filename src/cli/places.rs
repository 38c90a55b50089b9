//! From totals to the lines of the closing tables.

use std::collections::BTreeMap;

use super::closing::PlaceLine;
use super::latencies::Latencies;
use crate::export::lags::Series;
use crate::export::summary::{Total, Totals};
use crate::lifecycle::KAFKA;
use crate::lifecycle::transition::State;
use crate::names::Name;

/// What a line is about.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    is_topic: bool,
    /// Queue, or topic, or where something was published.
    name: Name,
    group: Option<Name>,
}

impl Place {
    fn of(system: &str, destination: &Name, queue: Option<&Name>) -> Place {
        match system == KAFKA {
            true => Place { is_topic: true, name: destination.clone(), group: queue.cloned() },
            false => Place { is_topic: false, name: queue.unwrap_or(destination).clone(), group: None },
        }
    }
}

/// A line for each place where something happened, or where a group is behind, sorted by name.
pub fn lines(totals: &Totals, latencies: &Latencies, lags: Vec<Series>) -> Vec<PlaceLine> {
    let mut places: BTreeMap<Place, PlaceLine> = BTreeMap::new();
    for total in totals.rows() {
        let place = Place::of(total.system, &total.destination, total.queue.as_ref());
        count(places.entry(place).or_default(), &total);
    }
    let mut in_flight: BTreeMap<Place, i64> = BTreeMap::new();
    for (route, more) in totals.in_flight() {
        let place = Place::of(route.system, &route.destination, route.queue.as_ref());
        *in_flight.entry(place).or_default() += more;
    }
    for Series { topic, group, lag, .. } in lags {
        let place = Place { is_topic: true, name: topic, group: Some(group) };
        *places.entry(place).or_default().lag.get_or_insert_default() += lag;
    }
    let finish = |(place, mut line): (Place, PlaceLine)| {
        if !place.is_topic || place.group.is_some() {
            line.in_flight = Some(in_flight.get(&place).map_or(0, |sum| u64::try_from(*sum).unwrap_or(0)));
        }
        (line.broker, line.processing_time) = latencies.of(&place.name, place.group.as_ref());
        line.name = place.name.to_string();
        line.is_topic = place.is_topic;
        line.group = place.group.map(|group| group.to_string());
        line
    };
    places.into_iter().map(finish).collect()
}

fn count(line: &mut PlaceLine, total: &Total) {
    let place = match total.state {
        State::Created => &mut line.created,
        State::Confirmed => &mut line.confirmed,
        State::PublishFailed => &mut line.publish_failed,
        State::Returned => &mut line.returned,
        State::Expired => &mut line.expired,
        State::Dispatched => &mut line.dispatched,
        State::Processing => &mut line.processing,
        State::Acknowledged => &mut line.acknowledged,
        State::Rejected => &mut line.rejected,
        State::Failed => &mut line.failed,
        State::Retrying => &mut line.retrying,
        State::DeadLettered => &mut line.dead_lettered,
        State::Dropped => &mut line.dropped,
    };
    *place += total.count;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::transition::{Attributes, Observer, Transition};
    use crate::time::Timestamp;

    /// What a topic's lines give for a consumer group, or for consumers without one.
    fn lines_of(group: Option<&str>, states: &[(Option<State>, State, u64)]) -> Vec<PlaceLine> {
        let (topic, group) = (Name::from("orders"), group.map(Name::from));
        let (mut totals, mut latencies) = (Totals::new(), Latencies::default());
        for (previous, state, count) in states {
            let attributes =
                Attributes { system: KAFKA, topic: Some(&topic), group: group.as_ref(), ..Attributes::default() };
            let mut line =
                Transition { previous: *previous, count: *count, ..Transition::new(Timestamp(9_000), *state) };
            line.attributes = attributes;
            line.timings.processing = Some(Timestamp(1_000));
            totals.transition(&line);
            latencies.transition(&line);
        }
        let behind = |partition| Series {
            system: KAFKA,
            group: "shipping".into(),
            topic: topic.clone(),
            partition: Some(partition),
            lag: 4,
        };
        let mut lines = lines(&totals, &latencies, vec![behind(0), behind(1)]);
        let shipping = lines.pop().unwrap();
        assert_eq!(
            (shipping.group.as_deref(), shipping.lag),
            (Some("shipping"), Some(8)),
            "nothing else was seen of it"
        );
        lines
    }

    #[test]
    fn what_is_sent_twice_or_copied_is_no_longer_in_flight_when_it_is_settled() {
        use State::{Acknowledged, Dispatched, Processing, Retrying};
        let states = [
            (None, Dispatched, 5),
            (Some(Dispatched), Dispatched, 5),
            (Some(Dispatched), Processing, 5),
            (Some(Processing), Acknowledged, 3),
            (Some(Processing), Retrying, 1),
        ];
        let found = lines_of(Some("billing"), &states);
        assert_eq!(found.len(), 1);
        assert_eq!((&*found[0].name, found[0].group.as_deref()), ("orders", Some("billing")));
        assert_eq!((found[0].dispatched, found[0].in_flight), (10, Some(1)));
        assert!(found[0].processing_time.is_some() && found[0].broker.is_none());
    }

    #[test]
    fn consumers_without_a_group_have_nothing_in_flight_because_they_settle_nothing() {
        let found = lines_of(None, &[(None, State::Dispatched, 5)]);
        assert_eq!((found[0].dispatched, found[0].in_flight), (5, None));
    }
}
