//! The pages under docs/ against the tables in the code, both ways.

use std::collections::BTreeSet;

use acktrail::export::registry::{ATTRIBUTES, EVENTS, FIELDS, Instrument, METRICS, Type};
use acktrail::lifecycle::transition::{Reason, State};

const EVENTS_PAGE: &str = include_str!("../../docs/events.md");
const METRICS_PAGE: &str = include_str!("../../docs/metrics.md");

/// The rows of the first table under `## heading`: the cells of each, the first without its back quotes.
fn table<'a>(page: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let section = page.split("\n## ").find(|section| section.starts_with(heading)).expect(heading);
    let rows = section.lines().skip_while(|line| !line.starts_with("| ---")).skip(1);
    rows.take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().trim_matches('`')).collect())
        .collect()
}

fn names<'a>(page: &'a str, heading: &str) -> BTreeSet<&'a str> {
    let rows = table(page, heading);
    assert!(rows.iter().all(|row| row.len() >= 2 && !row[1].is_empty()), "a row of {heading} says nothing");
    let names: BTreeSet<_> = rows.iter().map(|row| row[0]).collect();
    assert_eq!(names.len(), rows.len(), "a name stands twice under {heading}");
    names
}

fn same(documented: &BTreeSet<&str>, known: impl IntoIterator<Item = &'static str>) {
    let known: BTreeSet<_> = known.into_iter().collect();
    let undocumented: Vec<_> = known.difference(documented).collect();
    let unknown: Vec<_> = documented.difference(&known).collect();
    assert!(undocumented.is_empty() && unknown.is_empty(), "undocumented {undocumented:?}, unknown {unknown:?}");
}

#[test]
fn every_state_reason_event_and_field_is_documented() {
    same(&names(EVENTS_PAGE, "States"), State::ALL.map(State::name));
    same(&names(EVENTS_PAGE, "Reasons"), Reason::ALL.map(Reason::name));
    same(&names(EVENTS_PAGE, "Events"), EVENTS.iter().copied());
    same(&names(EVENTS_PAGE, "Fields"), FIELDS.iter().copied());
}

/// Every name that is given to an event in the stages, found in their sources, is registered.
#[test]
fn every_event_of_the_stages_is_registered() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = std::fs::read_dir(root.join("lifecycle")).unwrap().map(|entry| entry.unwrap().path());
    let mut found = 0;
    for file in files.filter(|path| path.extension().is_some_and(|extension| extension == "rs")) {
        let source = std::fs::read_to_string(&file).unwrap();
        for call in source.split(".event(").skip(1) {
            let arguments = call.split(';').next().unwrap_or_default();
            let Some(name) = arguments.split('"').nth(1) else { continue };
            assert!(EVENTS.contains(&name), "{name} of {} is not registered", file.display());
            found += 1;
        }
    }
    assert!(found > 5, "the way events are made has changed: {found} found");
}

#[test]
fn every_attribute_of_a_line_is_documented_with_its_type() {
    let in_lines = ATTRIBUTES.iter().filter(|attribute| attribute.in_lines());
    same(&names(EVENTS_PAGE, "Attributes"), in_lines.clone().map(|attribute| attribute.key));
    for row in table(EVENTS_PAGE, "Attributes") {
        let attribute = in_lines.clone().find(|attribute| attribute.key == row[0]).expect(row[0]);
        assert_eq!(row[1], type_name(attribute.kind), "{}", row[0]);
    }
}

#[test]
fn every_metric_is_documented_with_instrument_and_unit() {
    same(&names(METRICS_PAGE, "Metrics"), METRICS.iter().map(|metric| metric.name));
    for row in table(METRICS_PAGE, "Metrics") {
        let metric = METRICS.iter().find(|metric| metric.name == row[0]).expect(row[0]);
        let instrument = match metric.instrument {
            Instrument::Counter => "counter",
            Instrument::UpDownCounter => "up-down counter",
            Instrument::Gauge => "gauge",
            Instrument::Histogram => "histogram",
        };
        assert_eq!(row[1..], [instrument, metric.unit, metric.says], "{}", row[0]);
    }
}

#[test]
fn every_attribute_of_telemetry_is_documented_with_its_place() {
    let telemetry = ATTRIBUTES.iter().filter(|attribute| attribute.in_telemetry());
    same(&names(METRICS_PAGE, "Attributes"), telemetry.clone().map(|attribute| attribute.key));
    for row in table(METRICS_PAGE, "Attributes") {
        let attribute = telemetry.clone().find(|attribute| attribute.key == row[0]).expect(row[0]);
        let places: String = ['m', 's', 'r'].into_iter().filter(|place| attribute.places.contains(*place)).collect();
        assert_eq!(row[1..3], [type_name(attribute.kind), &places], "{}", row[0]);
    }
}

fn type_name(kind: Type) -> &'static str {
    match kind {
        Type::Text => "text",
        Type::Int => "number",
        Type::Bool => "bool",
    }
}
