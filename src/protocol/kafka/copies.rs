//! Retry and dead-letter topics by their names. A name alone is no evidence: it only decides whose records are looked into.

use super::provenance::Convention;
use crate::protocol::operation::log::CopyFate;

/// What the names of dead-letter topics have in them: Spring's `-dlt` and `.DLT`, `dlq`, Quarkus's `dead-letter-topic-`,
/// Spring Cloud Stream's `error.`.
const DEAD: [&str; 4] = ["dlt", "dlq", "dead", "error"];
/// What the names of retry topics have in them.
const RETRY: [&str; 2] = ["retry", "delay"];

/// Whether copies may be produced into a topic of this name.
pub(super) fn is_likely(name: &str) -> bool {
    DEAD.iter().chain(&RETRY).any(|word| contains(name, word))
}

/// What becomes of a message whose copy a framework produces into this topic.
pub(super) fn fate(convention: Convention, topic: Option<&str>) -> CopyFate {
    let is_dead = |topic: Option<&str>| topic.is_some_and(|name| DEAD.iter().any(|word| contains(name, word)));
    match convention {
        // Its last topic has the same headers.
        Convention::SpringRetryTopic if !is_dead(topic) => CopyFate::Retry,
        Convention::SmallRyeRetry if !is_dead(topic) => CopyFate::Retry,
        _ => CopyFate::DeadLetter,
    }
}

/// Whether a name has a word in it, in whatever case.
fn contains(name: &str, word: &str) -> bool {
    name.as_bytes().windows(word.len()).any(|part| part.eq_ignore_ascii_case(word.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_frameworks_are_known() {
        for name in
            ["orders.DLT", "orders-dlt", "orders-retry-0", "orders_retry_5000", "dlq.billing", "dead-letter-topic-in"]
        {
            assert!(is_likely(name), "{name}");
        }
        assert!(!is_likely("orders"));
    }

    #[test]
    fn the_last_topic_of_a_retry_chain_is_a_dead_letter() {
        assert_eq!(fate(Convention::SpringRetryTopic, Some("orders-retry-1")), CopyFate::Retry);
        assert_eq!(fate(Convention::SpringRetryTopic, Some("orders-dlt")), CopyFate::DeadLetter);
        assert_eq!(fate(Convention::KafkaConnect, Some("failed")), CopyFate::DeadLetter);
    }
}
