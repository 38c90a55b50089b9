//! Tests of the module above.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use proptest::prelude::*;

use super::*;
use crate::capture::Owner;
use crate::lifecycle::transition::{Attributes, Evidence, Reason, Settlement, Timings};
use crate::names::Name;
use crate::protocol::operation::{Identity, TraceContext};
use crate::time::Timestamp;

static CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 40_000);

struct Names {
    queue: Name,
    key: Name,
    id: Name,
    process: Owner,
}

impl Names {
    fn new() -> Names {
        Names {
            queue: "orders.eu".into(),
            key: "new order".into(),
            id: "abc-17".into(),
            process: Owner { pid: 123, executable: "beam.smp".to_owned() },
        }
    }

    fn dead_letter(&self) -> Transition<'_> {
        let second = Timestamp(1_000_000_000);
        Transition {
            previous: Some(State::Rejected),
            evidence: Evidence::Inferred,
            reason: Some(Reason::Rejected),
            message: Some(Identity(0xabcd_0000_0000_0000_0000_0000_0000_0001)),
            delivery: Some(2),
            attributes: Attributes {
                system: "rabbitmq",
                queue: Some(&self.queue),
                routing_key: Some(&self.key),
                message_id: Some(&self.id),
                body_size: Some(2048),
                process: Some(&self.process),
                client: Some(&CLIENT),
                redelivered: Some(true),
                settlement: Some(Settlement::Explicit),
                trace: Some(&TraceContext { trace_id: [0x1f; 16], span_id: [1; 8], flags: 1 }),
                ..Attributes::default()
            },
            timings: Timings { created: Some(second), ..Timings::default() },
            ..Transition::new(second.plus(Duration::from_millis(1500)), State::DeadLettered)
        }
    }
}

fn matches(filter: &str) -> bool {
    let names = Names::new();
    Filter::parse(filter).unwrap_or_else(|error| panic!("{filter}: {error}")).matches(&names.dead_letter())
}

#[test]
fn every_kind_of_term() {
    for filter in [
        "",
        "  ",
        "queue=orders*",
        "queue = orders*",
        "queue=bills|orders.??",
        "queue=bills,orders*",
        "state=dead*",
        "state=DEADLETTERED",
        "previous=rejected reason=rejected",
        "latency>1s latency<=1500ms age>=1.5s",
        "delivery>=2 delivery=2 delivery=1|2 delivery!=3",
        "message=abcd*",
        "message=abc-17",
        "id=abc*",
        "pid=123 process=beam*",
        "evidence=inferred settlement=explicit",
        "size>=2KiB size<1MiB",
        "redelivered=yes ambiguous=no",
        "client=127.0.0.1:*",
        "trace=1f1f*",
        "key=\"new order\"",
        "exchange!=amq.direct",
        "!exchange=*",
        "not exchange=*",
        "(queue=bills or queue=orders*) and !(delivery=1)",
        "queue=bills or state=dead* delivery=2",
        "count=1",
    ] {
        assert!(matches(filter), "{filter}");
    }
    for filter in [
        "queue=orders",
        "state=failed|rejected",
        "latency>2s",
        "retry>0",
        "delivery>2",
        "message=bcd*",
        "pid=124",
        "evidence=observed",
        "size>2KiB",
        "redelivered=no",
        "exchange=*",
        "queue=orders* delivery=1",
        "queue=bills or state=dead* delivery=1",
        "event=*",
    ] {
        assert!(!matches(filter), "{filter}");
    }
}

#[test]
fn or_binds_looser_than_and() {
    assert!(matches("delivery=2 or queue=x state=failed"));
    assert!(!matches("(delivery=2 or queue=x) state=failed"));
}

#[test]
fn events_have_names_but_no_states() {
    let event = Event {
        time: Timestamp(0),
        name: "channel_closed",
        count: Some(7),
        detail: None,
        evidence: Evidence::Observed,
        attributes: Attributes { error_code: Some(406), ..Attributes::default() },
    };
    for (filter, expected) in [
        ("", true),
        ("event=channel*", true),
        ("code=406", true),
        ("count>5", true),
        ("state=*", false),
        ("!state=*", true),
        ("latency>0", false),
        ("ambiguous=no", false),
    ] {
        assert_eq!(Filter::parse(filter).expect(filter).matches_event(&event), expected, "{filter}");
    }
}

#[test]
fn errors_say_where_and_what_is_allowed() {
    for (filter, position, part) in [
        ("queu=orders", 0, "did you mean \"queue\""),
        ("queue=a stat=b", 8, "did you mean \"state\""),
        ("banana=1", 0, "allowed: state, previous"),
        ("orders", 0, "there is no \"orders\""),
        ("queue", 5, "expected = or !="),
        ("queue>3", 5, "queue knows = or != only"),
        ("latency=1s", 7, "latency knows >, >=, < or <= only"),
        ("latency>soon", 8, "such as 500ms"),
        ("delivery>=two", 10, "no whole number"),
        ("size>1XiB", 5, "such as 8MiB"),
        ("state=ded", 6, "allowed: Created"),
        ("state=Acknowleged", 6, "did you mean \"Acknowledged\""),
        ("reason=reject", 7, "did you mean \"rejected\""),
        ("redelivered=perhaps", 12, "yes or no"),
        ("queue=", 6, "a value is missing"),
        ("queue=a|", 8, "a value is missing"),
        ("queue=\"a", 6, "closing quote"),
        ("(queue=a", 8, "closing parenthesis"),
        ("queue=a)", 7, "was not opened"),
        ("queue=a or", 10, "expected a term"),
        ("!", 1, "expected a term"),
        ("pid>1|2", 0, "one value only"),
        ("redelivered=yes|no", 16, "not both"),
    ] {
        let error = Filter::parse(filter).expect_err(filter);
        assert_eq!(error.position, position, "{filter}: {error}");
        assert!(error.to_string().contains(part), "{filter}: {error}");
    }
}

#[test]
fn depth_and_length_are_bounded() {
    assert!(Filter::parse(&"(".repeat(4000)).expect_err("deep").message.contains("nested"));
    assert!(Filter::parse(&"!".repeat(4000)).expect_err("deep").message.contains("nested"));
    assert!(Filter::parse(&"x".repeat(5000)).expect_err("long").message.contains("longer"));
    assert!(Filter::parse(&format!("{}queue=a{}", "(".repeat(31), ")".repeat(31))).is_ok());
}

#[test]
fn every_reason_can_be_asked_for() {
    for reason in Reason::ALL {
        assert!(Filter::parse(&format!("reason={}", reason.name())).is_ok());
    }
    let mut names: Vec<&str> = KEYS.iter().flat_map(|key| key.aliases.iter().copied().chain([key.name])).collect();
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all, "two keys of one name");
}

fn term() -> impl Strategy<Value = Expression> {
    let text = "[a-z .*?\\\\\"()|=é]{0,6}".prop_map(|text| Glob::new(&text));
    let word = prop::sample::select(vec!["dead*", "Failed", "acknowledged"]).prop_map(Glob::new);
    let comparison =
        prop::sample::select(vec![Comparison::Greater, Comparison::AtLeast, Comparison::Less, Comparison::AtMost]);
    prop_oneof![
        prop::collection::vec(text, 1..4).prop_map(|globs| Term { field: Field::Queue, test: Test::Text(globs) }),
        prop::collection::vec(word, 1..3).prop_map(|globs| Term { field: Field::State, test: Test::Word(globs) }),
        prop::collection::vec(any::<u64>(), 1..3)
            .prop_map(|numbers| Term { field: Field::Size, test: Test::Equal(numbers, Kind::Size) }),
        (comparison, any::<u64>()).prop_map(|(comparison, limit)| Term {
            field: Field::Latency,
            test: Test::Compare(comparison, limit, Kind::Duration)
        }),
        any::<bool>().prop_map(|wanted| Term { field: Field::Redelivered, test: Test::Flag(wanted) }),
    ]
    .prop_map(Expression::Term)
}

/// Expressions as the parser builds them: no double negation, no group of one, no group in its like.
fn expression() -> impl Strategy<Value = Expression> {
    term().prop_recursive(4, 24, 4, |inner| {
        let several = prop::collection::vec(inner.clone(), 2..4);
        prop_oneof![
            inner.prop_map(parse_negation),
            several.clone().prop_map(|inner| Expression::All(flatten(inner, true))),
            several.prop_map(|inner| Expression::Any(flatten(inner, false))),
        ]
    })
}

fn parse_negation(expression: Expression) -> Expression {
    match expression {
        Expression::Not(inner) => *inner,
        other => Expression::Not(Box::new(other)),
    }
}

fn flatten(inner: Vec<Expression>, all: bool) -> Vec<Expression> {
    let unfold = |expression: Expression| match expression {
        Expression::All(inner) if all => inner,
        Expression::Any(inner) if !all => inner,
        other => vec![other],
    };
    inner.into_iter().flat_map(unfold).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_is_displayed_reads_back(expression in expression()) {
        let filter = Filter { expression: Some(expression) };
        let shown = filter.to_string();
        prop_assert_eq!(Filter::parse(&shown), Ok(filter), "{}", shown);
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,60}") {
        let _ = Filter::parse(&text);
    }

    #[test]
    fn nothing_near_the_language_panics_and_what_it_reads_it_reads_again(
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                "queue", "state", "latency", "=", "!=", ">", "<=", "!", "(", ")", "|", ",", " ", "\"", "\\", "or", "and",
                "not", "dead*", "1s", "3", "yes", "*", "?",
            ]),
            0..16,
        )
    ) {
        if let Ok(filter) = Filter::parse(&pieces.concat()) {
            prop_assert_eq!(Filter::parse(&filter.to_string()), Ok(filter.clone()), "{}", filter);
        }
    }
}
