//! Values as the file or the command line gives them, and the forms that keys ask for.

use std::path::PathBuf;
use std::time::Duration;

use crate::units::{parse_duration, parse_size};

/// A value before its key has looked at it.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A text of the file.
    Text(String),
    /// A whole number of the file.
    Integer(i64),
    /// A number of the file.
    Float(f64),
    /// true or false in the file.
    Flag(bool),
    /// A list.
    List(Vec<Value>),
    /// A table.
    Table(Vec<(String, Value)>),
    /// Something of the file that no key takes: a date.
    Other,
    /// A word of the command line: a text, a number or a flag, as its key wants it.
    Word(String),
}

impl Value {
    /// What it is, for messages.
    pub fn describe(&self) -> String {
        match self {
            Value::Text(text) | Value::Word(text) => format!("{text:?}"),
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Flag(flag) => flag.to_string(),
            Value::List(_) => "a list".to_owned(),
            Value::Table(_) => "a table".to_owned(),
            Value::Other => "a date".to_owned(),
        }
    }

    pub(super) fn text(&self) -> Result<&str, String> {
        match self {
            Value::Text(text) | Value::Word(text) => Ok(text),
            other => Err(format!("{} is no text", other.describe())),
        }
    }

    pub(super) fn flag(&self) -> Result<bool, String> {
        match self {
            Value::Flag(flag) => Ok(*flag),
            Value::Word(word) if word == "true" => Ok(true),
            Value::Word(word) if word == "false" => Ok(false),
            other => Err(format!("{} is neither true nor false", other.describe())),
        }
    }

    pub(super) fn integer(&self, from: i64, to: i64) -> Result<i64, String> {
        let number = match self {
            Value::Integer(number) => Some(*number),
            Value::Word(word) => word.parse().ok(),
            _ => None,
        };
        let number = number.ok_or_else(|| format!("{} is no whole number", self.describe()))?;
        if (from..=to).contains(&number) { Ok(number) } else { Err(format!("{number} is out of range")) }
    }

    pub(super) fn count(&self, from: u64, to: u64) -> Result<u64, String> {
        let limit = |value| i64::try_from(value).unwrap_or(i64::MAX);
        self.integer(limit(from), limit(to)).map(i64::unsigned_abs)
    }

    pub(super) fn port(&self) -> Result<u16, String> {
        u16::try_from(self.integer(1, 65535)?).map_err(|_| "no port".to_owned())
    }

    pub(super) fn ratio(&self) -> Result<f64, String> {
        let number = match self {
            Value::Float(number) => Some(*number),
            Value::Integer(number) => Some(*number as f64),
            Value::Word(word) => word.parse().ok(),
            _ => None,
        };
        let number = number.ok_or_else(|| format!("{} is no number", self.describe()))?;
        if (0.0..=1.0).contains(&number) { Ok(number) } else { Err(format!("{number} is out of range")) }
    }

    /// A size in bytes, as a whole number or with a unit.
    pub(super) fn size(&self, from: u64, to: u64) -> Result<u64, String> {
        let bytes = match self {
            Value::Integer(number) => u64::try_from(*number).map_err(|_| format!("{number} is out of range"))?,
            other => parse_size(other.text()?)?,
        };
        if (from..=to).contains(&bytes) { Ok(bytes) } else { Err(format!("{} is out of range", self.describe())) }
    }

    pub(super) fn duration(&self, from: Duration, to: Duration) -> Result<Duration, String> {
        let duration = match self {
            Value::Integer(0) => Duration::ZERO,
            Value::Integer(number) => return Err(format!("{number} has no unit")),
            other => parse_duration(other.text()?)?,
        };
        if (from..=to).contains(&duration) { Ok(duration) } else { Err(format!("{} is out of range", self.describe())) }
    }

    /// A path that is not empty.
    pub(super) fn path(&self) -> Result<PathBuf, String> {
        match self.text()? {
            "" => Err("the path is empty".to_owned()),
            text if text.contains('\0') => Err("the path holds a zero byte".to_owned()),
            text => Ok(PathBuf::from(text)),
        }
    }

    pub(super) fn list<T>(&self, item: impl Fn(&Value) -> Result<T, String>) -> Result<Vec<T>, String> {
        match self {
            Value::List(values) => values.iter().map(item).collect(),
            other => Err(format!("{} is no list", other.describe())),
        }
    }

    /// A table of texts; on the command line a list of `NAME=VALUE`.
    pub(super) fn pairs(&self) -> Result<Vec<(String, String)>, String> {
        match self {
            Value::Table(pairs) => {
                pairs.iter().map(|(name, value)| Ok((name.clone(), value.text()?.to_owned()))).collect()
            }
            Value::List(_) => self.list(|value| {
                let text = value.text()?;
                let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} holds no ="))?;
                Ok((name.to_owned(), value.to_owned()))
            }),
            other => Err(format!("{} is no table", other.describe())),
        }
    }
}
