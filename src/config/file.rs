//! The configuration file: TOML, where every word is checked and every complaint names its line.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::suggest;

use super::{KEYS, Loader, Place, Value};

/// Reads a file's text into the loader. What is right is taken even where something else is wrong, so that every problem
/// is told at once.
pub(super) fn read(loader: &mut Loader, path: &Path, text: &str) {
    let place = |offset: usize| {
        let before = text.get(..offset.min(text.len())).unwrap_or(text);
        Place::File(path.to_owned(), before.matches('\n').count() + 1)
    };
    let document = match DeTable::parse(text) {
        Ok(document) => document,
        Err(error) => {
            let offset = error.span().map_or(0, |span| span.start);
            return loader.problem(place(offset), format!("this is not TOML: {}", error.message()));
        }
    };
    let first = loader.problems.len();
    for (name, section) in document.get_ref() {
        let at = name.span().start;
        let name = name.get_ref().as_ref();
        if !sections().any(|section| section == name) {
            loader.problem(place(at), unknown_section(name));
            continue;
        }
        let DeValue::Table(keys) = section.get_ref() else {
            loader.problem(place(at), format!("{name} is a section: write [{name}] on a line of its own"));
            continue;
        };
        for (key, value) in keys {
            let full = format!("{name}.{}", key.get_ref());
            match KEYS.iter().find(|known| known.name == full) {
                Some(known) => loader.set(known, &convert(value), place(value.span().start)),
                None => loader.problem(place(key.span().start), unknown_key(name, key.get_ref())),
            }
        }
    }
    // The parser gives sections and keys in the order of the alphabet.
    if let Some(problems) = loader.problems.get_mut(first..) {
        problems.sort_by_key(|problem| match problem.place {
            Place::File(_, line) => line,
            _ => 0,
        });
    }
}

/// The sections' names, in the order of the keys.
pub(super) fn sections() -> impl Iterator<Item = &'static str> {
    let mut last = "";
    KEYS.iter().filter_map(move |key| {
        let section = key.name.split_once('.').map_or("", |(section, _)| section);
        (std::mem::replace(&mut last, section) != section).then_some(section)
    })
}

fn unknown_section(name: &str) -> String {
    let allowed: Vec<&str> = sections().collect();
    let elsewhere = KEYS.iter().find(|key| key.name.split_once('.').is_some_and(|(_, key)| key == name));
    let hint = match elsewhere {
        Some(key) => format!("; it belongs into a section: {}", key.name),
        None => suggest::hint(name, allowed.iter().copied()),
    };
    format!("there is no section [{name}]{hint}; allowed: {}", allowed.join(", "))
}

fn unknown_key(section: &str, name: &str) -> String {
    let of_section = |key: &&super::Key| key.name.split_once('.').filter(|(of, _)| *of == section).map(|(_, key)| key);
    let allowed: Vec<&str> = KEYS.iter().filter_map(|key| of_section(&key)).collect();
    let elsewhere = KEYS.iter().find(|key| key.name.split_once('.').is_some_and(|(_, key)| key == name));
    let hint = match (suggest::nearest(name, allowed.iter().copied()), elsewhere) {
        (Some(near), _) => format!("; did you mean \"{near}\"?"),
        (None, Some(key)) => format!("; did you mean {}?", key.name),
        (None, None) => String::new(),
    };
    format!("there is no key {name:?} in [{section}]{hint}; allowed: {}", allowed.join(", "))
}

/// The nesting of a TOML document is bounded by its parser.
fn convert(value: &Spanned<DeValue<'_>>) -> Value {
    match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map_or(Value::Text(number.to_string()), Value::Integer)
        }
        DeValue::Float(number) => number.as_str().parse().map_or(Value::Text(number.to_string()), Value::Float),
        DeValue::Boolean(flag) => Value::Flag(*flag),
        DeValue::Datetime(_) => Value::Other,
        DeValue::Array(values) => Value::List(values.iter().map(convert).collect()),
        DeValue::Table(table) => {
            Value::Table(table.iter().map(|(name, value)| (name.get_ref().to_string(), convert(value))).collect())
        }
    }
}
