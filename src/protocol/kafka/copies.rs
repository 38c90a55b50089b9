//! Retry and dead-letter topics by their names. A name alone is no evidence: it only decides whose records are looked into, and
//! what a record is that something else shows to be a copy.

use hashbrown::HashMap;

use super::provenance::Convention;
use crate::glob::Glob;
use crate::names::Name;
use crate::protocol::operation::log::CopyFate;

/// Names of dead-letter topics: Spring's `-dlt` and `.DLT`, Uber's `_dlq` and what is like it, Quarkus's `dead-letter-topic-`.
pub const DEAD_LETTER_TOPICS: &[&str] =
    &["*dlt*", "*dlq*", "*dead?letter*", "*deadletter*", "*.dead", "*-dead", "*_dead"];
/// Names of retry topics.
pub const RETRY_TOPICS: &[&str] =
    &["*retry*", "*retries*", "*.delay.*", "*-delay-*", "*_delay_*", "*.delayed", "*-delayed", "*_delayed"];
/// Names of topics where copies are, among others, that say where they come from: Spring Cloud Stream's `error.`, whatever
/// somebody called the topic of a Kafka connector's errors.
pub const HEADER_TOPICS: &[&str] = &["*error*", "*dead*", "*fail*", "*invalid*", "*reject*", "*delay*"];

/// How copies are recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopySettings {
    /// Patterns for names of dead-letter topics. Upper and lower case are the same.
    pub dead_letter_topics: Vec<Glob>,
    /// Patterns for names of retry topics; what is a dead-letter topic is none.
    pub retry_topics: Vec<Glob>,
    /// Patterns for names of topics where only a record's own headers make it a copy.
    pub header_topics: Vec<Glob>,
    /// Bytes of memory for what applications were sent and may publish again.
    pub bytes: usize,
}

impl CopySettings {
    /// The memory for what applications were sent, by default.
    pub const BYTES: usize = 8 << 20;
}

impl Default for CopySettings {
    fn default() -> Self {
        let globs = |patterns: &[&str]| patterns.iter().map(|pattern| Glob::new(pattern)).collect();
        CopySettings {
            dead_letter_topics: globs(DEAD_LETTER_TOPICS),
            retry_topics: globs(RETRY_TOPICS),
            header_topics: globs(HEADER_TOPICS),
            bytes: CopySettings::BYTES,
        }
    }
}

/// What a topic's name says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing.
    Ordinary,
    /// There may be copies in it that say so themselves.
    WithHeaders,
    /// Whatever is a copy in it is to be tried again.
    Retry,
    /// Whatever is a copy in it is dead.
    DeadLetter,
}

impl Kind {
    /// What becomes of a message that is copied to such a topic without a word.
    pub fn fate(self) -> Option<CopyFate> {
        match self {
            Kind::Ordinary | Kind::WithHeaders => None,
            Kind::Retry => Some(CopyFate::Retry),
            Kind::DeadLetter => Some(CopyFate::DeadLetter),
        }
    }

    /// What becomes of a message whose copy a framework produces into such a topic.
    pub fn fate_by(self, convention: Convention) -> CopyFate {
        match convention {
            // Its last topic has the same headers.
            Convention::SpringRetryTopic | Convention::SmallRyeRetry if self != Kind::DeadLetter => CopyFate::Retry,
            Convention::Original if self == Kind::Retry => CopyFate::Retry,
            _ => CopyFate::DeadLetter,
        }
    }
}

/// The kinds of topics. Each name is held against the patterns once.
#[derive(Default)]
pub(super) struct Kinds {
    settings: CopySettings,
    known: HashMap<Name, Kind>,
}

impl Kinds {
    /// Names whose kind is remembered. Beyond it all are forgotten and found out anew.
    const MOST: usize = 65_536;

    /// By these patterns.
    pub fn new(settings: CopySettings) -> Kinds {
        Kinds { settings, known: HashMap::new() }
    }

    /// What a topic's name says of it.
    pub fn of(&mut self, topic: &Name) -> Kind {
        if let Some(kind) = self.known.get(topic) {
            return *kind;
        }
        let CopySettings { dead_letter_topics, retry_topics, header_topics, .. } = &self.settings;
        let fits = |globs: &[Glob]| globs.iter().any(|glob| glob.matches_ignoring_case(topic));
        let kind = if fits(dead_letter_topics) {
            Kind::DeadLetter
        } else if fits(retry_topics) {
            Kind::Retry
        } else if fits(header_topics) {
            Kind::WithHeaders
        } else {
            Kind::Ordinary
        };
        if self.known.len() >= Self::MOST {
            self.known.clear();
        }
        self.known.insert(topic.clone(), kind);
        kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &str) -> Kind {
        Kinds::default().of(&name.into())
    }

    #[test]
    fn names_of_frameworks_are_known() {
        for name in
            ["orders.DLT", "orders-dlt", "orders_dlq", "dlq.billing", "dead-letter-topic-in", "g__t__dlq", "a.dead"]
        {
            assert_eq!(kind(name), Kind::DeadLetter, "{name}");
        }
        for name in ["orders-retry-0", "orders_retry_5000", "orders.RETRY.1", "orders-delay-5", "retries"] {
            assert_eq!(kind(name), Kind::Retry, "{name}");
        }
        for name in ["error.orders.billing", "sink-errors", "deadlines", "flight-delays", "failed"] {
            assert_eq!(kind(name), Kind::WithHeaders, "{name}");
        }
        assert_eq!(kind("orders"), Kind::Ordinary);
        assert_eq!(kind("orders-retry-dlt"), Kind::DeadLetter, "the end of a way through retry topics");
    }

    #[test]
    fn patterns_are_the_users() {
        let settings = CopySettings { dead_letter_topics: vec![Glob::new("grave.*")], ..CopySettings::default() };
        let mut kinds = Kinds::new(settings);
        let mut kind = |name: &str| kinds.of(&name.into());
        assert_eq!((kind("Grave.orders"), kind("orders-dlq"), kind("orders")), {
            (Kind::DeadLetter, Kind::Ordinary, Kind::Ordinary)
        });
    }

    #[test]
    fn the_last_topic_of_a_retry_chain_is_a_dead_letter() {
        let fate = |convention, name| kind(name).fate_by(convention);
        assert_eq!(fate(Convention::SpringRetryTopic, "orders-retry-1"), CopyFate::Retry);
        assert_eq!(fate(Convention::SpringRetryTopic, "orders-dlt"), CopyFate::DeadLetter);
        assert_eq!(fate(Convention::SmallRyeRetry, "delayed"), CopyFate::Retry);
        assert_eq!(fate(Convention::KafkaConnect, "failed"), CopyFate::DeadLetter);
        assert_eq!(kind("failed").fate(), None, "a name that says too little");
    }
}
