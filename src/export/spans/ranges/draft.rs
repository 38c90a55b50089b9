//! One span about a range of offsets.

use super::known::{Known, Polled, Subject};
use crate::export::metrics::Value;
use crate::export::registry::attribute;
use crate::export::spans::ids::{Role, SpanContext, span_id, trace_id};
use crate::export::spans::pairs::Pairs;
use crate::export::spans::{Kind, Link, Span};
use crate::lifecycle::KAFKA;
use crate::lifecycle::transition::{Evidence, Reason, Settlement, State, Transition};
use crate::names::Name;
use crate::protocol::kafka::error_name;
use crate::protocol::operation::{Identity, TraceContext};
use crate::time::Timestamp;

/// Links of one span; more are counted (the limit of OpenTelemetry's SDKs).
const MOST_LINKS: usize = 128;

/// What a span follows from.
#[derive(Default)]
pub(super) struct Links {
    pub links: Vec<Link>,
    pub dropped: u32,
}

impl Links {
    /// Another one.
    pub fn push(&mut self, link: Link) {
        if self.links.len() >= MOST_LINKS {
            self.dropped = self.dropped.saturating_add(1);
        } else if self.links.iter().all(|other| other.context != link.context) {
            self.links.push(link);
        }
    }

    /// A batch, with what it does not share with the others.
    pub fn batch(&mut self, known: &Known) {
        let mut attributes = Pairs(Vec::with_capacity(3));
        attributes.offsets((known.first, known.last), known.records);
        self.push(Link { context: known.context(), attributes: attributes.0 });
    }

    /// What a consumer was handed at once, if that has a span; gives its context.
    pub fn poll(&mut self, polled: &Polled) -> Option<SpanContext> {
        let context = polled.told?;
        let mut attributes = Pairs(Vec::with_capacity(3));
        attributes.offsets((polled.first, polled.last), polled.count);
        self.push(Link { context, attributes: attributes.0 });
        Some(context)
    }
}

/// How what a span is about ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome<'a> {
    pub state: Option<State>,
    pub reason: Option<Reason>,
    pub evidence: Evidence,
    pub settlement: Option<Settlement>,
    pub error: Option<i32>,
    /// More about a failure, in words.
    pub text: Option<&'a Name>,
}

impl<'a> Outcome<'a> {
    pub fn of(line: &Transition<'a>) -> Outcome<'a> {
        Outcome {
            state: Some(line.state),
            reason: line.reason,
            evidence: line.evidence,
            settlement: line.attributes.settlement,
            error: line.attributes.error_code,
            text: line.attributes.error_text,
        }
    }
}

/// A span about to be made.
pub(super) struct Draft<'a> {
    pub subject: &'a Subject,
    /// The span's name is `operation destination`.
    pub operation: &'static str,
    pub destination: &'a Name,
    pub kind: Kind,
    pub identity: Identity,
    pub role: Role,
    /// The context that the messages brought.
    pub own: Option<&'a TraceContext>,
    /// The one thing that it follows from, if it is one: its parent.
    pub origin: Option<SpanContext>,
    pub links: Links,
    pub start: Timestamp,
    pub end: Timestamp,
    /// When the broker had handed it out, before `start`.
    pub dispatched: Option<Timestamp>,
    pub offsets: Option<(i64, i64)>,
    pub count: u64,
    pub delivery: Option<u32>,
    pub outcome: Option<Outcome<'a>>,
    pub failed: bool,
    pub important: bool,
}

impl Draft<'_> {
    /// The ids that the span will have.
    pub fn context(&self) -> SpanContext {
        let trace_id = self.origin.map_or_else(|| trace_id(self.identity, self.own), |origin| origin.trace_id);
        let elsewhere = if *self.destination == self.subject.topic { "" } else { self.destination };
        SpanContext { trace_id, span_id: span_id(self.identity, self.role, elsewhere, self.delivery.unwrap_or(0)) }
    }

    /// The span.
    pub fn span(self) -> Span {
        let context = self.context();
        let mut pairs = Pairs::new();
        let kind_of_operation = match (self.role, self.kind) {
            (Role::Poll, _) => "receive",
            (Role::Settle, _) => "settle",
            (_, Kind::Consumer) => "process",
            (_, Kind::Producer | Kind::Client) => "send",
        };
        pairs.word(&attribute::SYSTEM, Some(KAFKA));
        pairs.word(&attribute::OPERATION_NAME, Some(self.operation));
        pairs.word(&attribute::OPERATION_TYPE, Some(kind_of_operation));
        pairs.text(&attribute::DESTINATION_NAME, self.destination.to_string());
        let elsewhere = *self.destination != self.subject.topic;
        if !elsewhere {
            pairs.text(&attribute::PARTITION, self.subject.partition.to_string());
        }
        pairs.name(&attribute::GROUP, self.subject.group.as_ref());
        pairs.name(&attribute::CLIENT_ID, self.subject.client_id.as_ref());
        match self.offsets.filter(|_| !elsewhere) {
            Some(offsets) => pairs.offsets(offsets, self.count),
            None => pairs.count(self.count),
        }
        pairs.broker(self.subject.server.as_ref(), kind_of_operation != "process");
        pairs.int(&attribute::DELIVERY, self.delivery.map(u64::from));
        if let Some(outcome) = self.outcome {
            pairs.ended(&outcome, self.failed);
        }
        if elsewhere {
            pairs.name(&attribute::DEAD_LETTER_SOURCE, Some(&self.subject.topic));
            pairs.name(&attribute::DEAD_LETTER_DESTINATION, Some(self.destination));
        }
        let events = self.dispatched.filter(|dispatched| *dispatched < self.start).map(|time| (time, "dispatched"));
        Span {
            resource: self.subject.resource.clone(),
            context,
            parent: self.origin.map(|origin| origin.span_id),
            kind: self.kind,
            name: format!("{} {}", self.operation, self.destination),
            start: self.start,
            end: self.end.max(self.start),
            attributes: pairs.0,
            links: self.links.links,
            dropped_links: self.links.dropped,
            events: events.into_iter().collect(),
            failed: self.failed,
            important: self.important,
        }
    }
}

impl Pairs {
    /// A range of offsets that holds so many messages.
    fn offsets(&mut self, (first, last): (i64, i64), count: u64) {
        self.int(&attribute::OFFSET, u64::try_from(first).ok());
        if last > first {
            self.int(&attribute::OFFSET_LAST, u64::try_from(last).ok());
        }
        self.count(count);
    }

    fn count(&mut self, count: u64) {
        self.int(&attribute::COUNT, Some(count).filter(|count| *count > 1));
    }

    fn ended(&mut self, outcome: &Outcome<'_>, failed: bool) {
        self.word(&attribute::STATE, outcome.state.map(State::name));
        self.word(&attribute::REASON, outcome.reason.map(|reason| reason.name()));
        self.word(&attribute::EVIDENCE, Some(outcome.evidence.name()));
        self.word(&attribute::SETTLEMENT, outcome.settlement.map(|settlement| settlement.name()));
        if failed {
            self.failure(outcome.error, outcome.reason, outcome.state);
            self.name(&attribute::ERROR_TEXT, outcome.text);
        }
    }

    /// `error.type`: what the protocol calls the broker's error, else the reason, else the state.
    fn failure(&mut self, error: Option<i32>, reason: Option<Reason>, state: Option<State>) {
        let value = match (error, reason) {
            (Some(code), _) => error_name(code).map_or_else(|| Value::Text(code.to_string()), Value::Word),
            (None, Some(reason)) => Value::Word(reason.name()),
            (None, None) => Value::Word(state.map_or("_OTHER", State::name)),
        };
        self.0.push((&attribute::ERROR_TYPE, value));
    }
}
