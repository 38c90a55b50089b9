//! The filter language: which transitions somebody wants to see.
//!
//! ```text
//! queue=orders* state=dead* latency>1s
//! state=failed|rejected or delivery>=3
//! queue=orders,bills !(process=beam* or redelivered=yes)
//! ```
//!
//! Terms next to each other must all hold; `or` between them means either, `!` or `not` turns one round, and parentheses
//! group. A term is `name operator value`; `|` or `,` between values means any of them. Text may hold `*` and `?`;
//! names of states, reasons and the like are read without regard to case. A term about something that a transition does
//! not have does not hold, so that `queue!=orders` (which is `!queue=orders`) also shows lines without a queue.
//!
//! `docs/configuration.md` lists the names.

mod parse;
mod subject;

use std::fmt;
use std::time::Duration;

use crate::glob::Glob;
use crate::lifecycle::transition::{Event, State, Transition};
use crate::units::{show_duration, show_size};
use subject::Subject;

/// A filter, ready to be asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    expression: Option<Expression>,
}

/// Why a text is no filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterError {
    /// Where, in characters from the beginning; 0 is the first.
    pub position: usize,
    /// What is wrong, and what would be allowed.
    pub message: String,
}

impl Filter {
    /// Longest text accepted, in bytes.
    pub const LONGEST: usize = 4096;
    /// How deep parentheses and negations may nest.
    pub const DEEPEST: usize = 32;

    /// Reads a filter. An empty text lets everything pass.
    ///
    /// # Errors
    /// Says where, what is wrong, and what is allowed.
    pub fn parse(text: &str) -> Result<Filter, FilterError> {
        Ok(Filter { expression: parse::parse(text)? })
    }

    /// Whether everything passes.
    pub fn is_empty(&self) -> bool {
        self.expression.is_none()
    }

    /// Whether this transition is wanted.
    pub fn matches(&self, transition: &Transition<'_>) -> bool {
        self.expression.as_ref().is_none_or(|expression| expression.holds(&Subject::of_transition(transition)))
    }

    /// Whether this event is wanted. Terms that only transitions can fulfil (state, latency, …) do not hold for it.
    pub fn matches_event(&self, event: &Event<'_>) -> bool {
        self.expression.as_ref().is_none_or(|expression| expression.holds(&Subject::of_event(event)))
    }
}

impl std::str::FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Filter, FilterError> {
        Filter::parse(text)
    }
}

/// A text that [`Filter::parse`] reads as the same filter.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expression.as_ref().map_or(Ok(()), |expression| write!(f, "{expression}"))
    }
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "filter, character {}: {}", self.position + 1, self.message)
    }
}

impl std::error::Error for FilterError {}

/// One name of the language.
pub struct Key {
    /// The name.
    pub name: &'static str,
    /// Other spellings.
    pub aliases: &'static [&'static str],
    /// What its values look like.
    pub kind: Kind,
    /// What it is about.
    pub help: &'static str,
    field: Field,
}

/// What a key's values look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text with `*` and `?`; knows `=` and `!=`.
    Text,
    /// One word of a list, with `*` and `?`, in any case; knows `=` and `!=`.
    Word,
    /// A whole number; knows every operator.
    Number,
    /// A size in bytes, such as 64KiB; knows every operator.
    Size,
    /// A duration, such as 1s or 20ms; knows `>`, `>=`, `<`, `<=`.
    Duration,
    /// yes or no; knows `=` and `!=`.
    Flag,
}

macro_rules! keys {
    ($($field:ident $kind:ident $name:literal $(| $alias:literal)* : $help:literal;)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Field { $($field),* }

        /// Every name of the language.
        pub const KEYS: &[Key] = &[$(Key {
            name: $name,
            aliases: &[$($alias),*],
            kind: Kind::$kind,
            help: $help,
            field: Field::$field,
        }),*];
    };
}

keys! {
    State Word "state": "state entered, such as DeadLettered";
    Previous Word "previous": "state left";
    Reason Word "reason": "why, such as rejected or expired";
    Evidence Word "evidence": "observed or inferred";
    Settlement Word "settlement": "explicit, multiple or automatic";
    Event Text "event": "name of an event that is no message state, such as channel_closed";
    Queue Text "queue": "queue of a delivery, settlement or dead letter";
    Topic Text "topic": "topic of a log";
    Group Text "group": "consumer group";
    Exchange Text "exchange": "exchange; the default exchange is \"\"";
    RoutingKey Text "key" | "routing_key": "routing key";
    Vhost Text "vhost": "virtual host";
    Source Text "source": "queue, or topic, that the message died in";
    Destination Text "destination": "queue, or topic, that took a dead letter";
    Message Text "message": "acktrail's 32 hex digits for the message, or its message-id";
    MessageId Text "id": "message-id property";
    Correlation Text "correlation" | "correlation_id": "correlation-id property";
    Trace Text "trace" | "trace_id": "trace id of the message's own trace context, hex digits";
    Consumer Text "consumer": "consumer tag";
    Client Text "client": "the client's name for its connection, or its address:port";
    Server Text "server": "the broker's address:port";
    Process Text "process": "executable of the application's process on this host";
    Operation Text "operation": "the wire's own word: publish, deliver, ack, …";
    Error Text "error": "the broker's error text";
    Pid Number "pid": "process id of the application on this host";
    Delivery Number "delivery": "1 for the first delivery of a message in a queue or group";
    Count Number "count": "how many messages the line speaks of";
    Tag Number "tag": "delivery tag";
    Partition Number "partition": "partition of a topic";
    Offset Number "offset": "first offset of the range that the line speaks of";
    Lag Number "lag": "how many messages the group is behind in the partition, as the line leaves it";
    Code Number "code": "the broker's reply code, such as 406";
    Size Size "size": "body size";
    Latency Duration "latency": "time since the message's previous step";
    Age Duration "age": "time since the message was published";
    Retry Duration "retry": "time since the message first failed in this queue";
    Redelivered Flag "redelivered": "the broker's redelivered bit";
    Ambiguous Flag "ambiguous": "twins without identity were matched first in, first out";
}

/// The time since the step before this one, where both were seen: published to dispatched (the wait in the broker),
/// dispatched to read by the application (the wait in the receive buffer), read to settled.
pub fn latency(transition: &Transition<'_>) -> Option<Duration> {
    let timings = &transition.timings;
    let before = match transition.state {
        State::Created => None,
        State::Confirmed | State::PublishFailed | State::Returned | State::Expired => timings.created,
        State::Dispatched if transition.delivery.is_some_and(|delivery| delivery > 1) => {
            timings.first_failed.or(timings.created)
        }
        State::Dispatched => timings.created,
        State::Processing => timings.dispatched,
        State::Acknowledged | State::Rejected | State::Failed => timings.processing.or(timings.dispatched),
        State::Retrying | State::DeadLettered | State::Dropped => {
            timings.processing.or(timings.dispatched).or(timings.created)
        }
    };
    before.map(|before| transition.time.since(before))
}

#[derive(Clone, Debug, PartialEq)]
enum Expression {
    Term(Term),
    Not(Box<Expression>),
    All(Vec<Expression>),
    Any(Vec<Expression>),
}

#[derive(Clone, Debug, PartialEq)]
struct Term {
    field: Field,
    test: Test,
}

#[derive(Clone, Debug, PartialEq)]
enum Test {
    Text(Vec<Glob>),
    Word(Vec<Glob>),
    /// Any of these.
    Equal(Vec<u64>, Kind),
    /// In nanoseconds where the field is a duration.
    Compare(Comparison, u64, Kind),
    Flag(bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Greater,
    AtLeast,
    Less,
    AtMost,
}

impl Comparison {
    fn sign(self) -> &'static str {
        match self {
            Comparison::Greater => ">",
            Comparison::AtLeast => ">=",
            Comparison::Less => "<",
            Comparison::AtMost => "<=",
        }
    }

    fn holds(self, value: u64, limit: u64) -> bool {
        match self {
            Comparison::Greater => value > limit,
            Comparison::AtLeast => value >= limit,
            Comparison::Less => value < limit,
            Comparison::AtMost => value <= limit,
        }
    }
}

impl Expression {
    /// The depth was bounded by the parser.
    fn holds(&self, subject: &Subject<'_>) -> bool {
        match self {
            Expression::Term(term) => term.holds(subject),
            Expression::Not(inner) => !inner.holds(subject),
            Expression::All(inner) => inner.iter().all(|expression| expression.holds(subject)),
            Expression::Any(inner) => inner.iter().any(|expression| expression.holds(subject)),
        }
    }
}

impl Term {
    fn holds(&self, subject: &Subject<'_>) -> bool {
        match &self.test {
            Test::Text(globs) => subject.any_text(self.field, |text| globs.iter().any(|glob| glob.matches(text))),
            Test::Word(globs) => {
                subject.any_text(self.field, |text| globs.iter().any(|glob| glob.matches_ignoring_case(text)))
            }
            Test::Equal(values, _) => subject.number(self.field).is_some_and(|value| values.contains(&value)),
            Test::Compare(comparison, limit, _) => {
                subject.number(self.field).is_some_and(|value| comparison.holds(value, *limit))
            }
            Test::Flag(wanted) => subject.flag(self.field) == Some(*wanted),
        }
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expression::Term(term) => write!(f, "{term}"),
            Expression::Not(inner) => match &**inner {
                Expression::Any(_) | Expression::All(_) => write!(f, "!({inner})"),
                inner => write!(f, "!{inner}"),
            },
            Expression::All(inner) => join(f, inner, " ", |inner| matches!(inner, Expression::Any(_))),
            Expression::Any(inner) => join(f, inner, " or ", |_| false),
        }
    }
}

fn join(
    f: &mut fmt::Formatter<'_>,
    inner: &[Expression],
    between: &str,
    bracket: impl Fn(&Expression) -> bool,
) -> fmt::Result {
    for (index, expression) in inner.iter().enumerate() {
        let gap = if index == 0 { "" } else { between };
        if bracket(expression) {
            write!(f, "{gap}({expression})")?;
        } else {
            write!(f, "{gap}{expression}")?;
        }
    }
    Ok(())
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = KEYS.iter().find(|key| key.field == self.field).map_or("", |key| key.name);
        match &self.test {
            Test::Text(globs) | Test::Word(globs) => {
                let values: Vec<String> = globs.iter().map(Glob::to_string).collect();
                write!(f, "{name}={}", values.join("|"))
            }
            Test::Equal(values, kind) => {
                let values: Vec<String> = values.iter().map(|value| show_number(*value, *kind)).collect();
                write!(f, "{name}={}", values.join("|"))
            }
            Test::Compare(comparison, limit, kind) => {
                write!(f, "{name}{}{}", comparison.sign(), show_number(*limit, *kind))
            }
            Test::Flag(wanted) => write!(f, "{name}={}", if *wanted { "yes" } else { "no" }),
        }
    }
}

fn show_number(value: u64, kind: Kind) -> String {
    match kind {
        Kind::Duration => show_duration(Duration::from_nanos(value)),
        Kind::Size => show_size(value),
        _ => value.to_string(),
    }
}

#[cfg(test)]
mod tests;
