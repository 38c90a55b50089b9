//! What a span says, collected from a line.

use std::net::SocketAddr;

use crate::capture::Owner;
use crate::export::destination::Destination;
use crate::export::metrics::Value;
use crate::export::registry::{Attribute, attribute};
use crate::export::resource::Resource;
use crate::lifecycle::transition::Transition;
use crate::names::Name;

/// Whose a span is.
pub(super) fn resource(process: Option<&Owner>) -> Resource {
    match process {
        Some(process) => Resource::Process { pid: process.pid, executable: process.executable.as_str().into() },
        None => Resource::Unknown,
    }
}

/// A name, or nothing.
pub(super) fn text(name: Option<&Name>) -> &str {
    name.map_or("", |name| &**name)
}

/// A span has about so many attributes; a list that grows until it has them costs more than all of them.
const USUAL: usize = 24;

/// Attributes being collected.
pub(super) struct Pairs(pub(super) Vec<(&'static Attribute, Value)>);

impl Pairs {
    pub(super) fn new() -> Pairs {
        Pairs(Vec::with_capacity(USUAL))
    }

    pub(super) fn operation(&mut self, line: &Transition<'_>, name: &'static str, kind: &'static str) {
        self.word(&attribute::SYSTEM, Some(line.attributes.system).filter(|system| !system.is_empty()));
        self.word(&attribute::OPERATION_NAME, Some(name));
        self.word(&attribute::OPERATION_TYPE, Some(kind));
    }

    /// The destination's attributes; gives the span's name.
    pub(super) fn destination(&mut self, operation: &str, line: &Transition<'_>, queue: Option<&Name>) -> String {
        let (exchange, routing_key) = (text(line.attributes.exchange), text(line.attributes.routing_key));
        let destination = Destination::new(exchange, routing_key, text(queue));
        let folded = destination.folded().text();
        let name = format!("{operation} {folded}");
        self.destination_pairs(destination.text(), destination.is_generated().then_some(folded));
        name
    }

    pub(super) fn destination_pairs(&mut self, name: String, template: Option<String>) {
        self.text(&attribute::DESTINATION_NAME, name);
        if let Some(template) = template {
            self.text(&attribute::DESTINATION_TEMPLATE, template);
            self.0.push((&attribute::DESTINATION_ANONYMOUS, Value::Bool(true)));
        }
    }

    /// What the message itself says.
    pub(super) fn message(&mut self, line: &Transition<'_>) {
        let attributes = &line.attributes;
        self.name(&attribute::MESSAGE_ID, attributes.message_id);
        self.name(&attribute::CONVERSATION_ID, attributes.conversation_id);
        self.int(&attribute::BODY_SIZE, attributes.body_size);
        self.name(&attribute::ROUTING_KEY, attributes.routing_key);
        self.name(&attribute::EXCHANGE, attributes.exchange);
        self.name(&attribute::VHOST, attributes.vhost);
        if let Some(identity) = line.message {
            self.0.push((&attribute::MESSAGE, Value::Text(format!("{:032x}", identity.0))));
        }
        self.int(&attribute::COUNT, Some(line.count).filter(|count| *count > 1));
    }

    /// The broker; `sending`: the node that was really contacted.
    pub(super) fn server(&mut self, line: &Transition<'_>, sending: bool) {
        self.broker(line.attributes.server, sending);
    }

    /// As [`Pairs::server`].
    pub(super) fn broker(&mut self, server: Option<&SocketAddr>, sending: bool) {
        let Some(server) = server else { return };
        let address = server.ip().to_string();
        let port = Some(u64::from(server.port()));
        if sending {
            self.text(&attribute::PEER_ADDRESS, address.clone());
            self.int(&attribute::PEER_PORT, port);
        }
        self.text(&attribute::SERVER_ADDRESS, address);
        self.int(&attribute::SERVER_PORT, port);
    }

    pub(super) fn delivery(&mut self, line: &Transition<'_>) {
        let attributes = &line.attributes;
        self.name(&attribute::CLIENT_ID, attributes.client_id);
        self.name(&attribute::QUEUE, attributes.queue);
        self.name(&attribute::CONSUMER_TAG, attributes.consumer_tag);
        self.int(&attribute::DELIVERY_TAG, attributes.delivery_tag);
        self.int(&attribute::STREAM_OFFSET, attributes.stream_offset);
        self.int(&attribute::DELIVERY, line.delivery.map(u64::from));
        if let Some(redelivered) = attributes.redelivered {
            self.0.push((&attribute::REDELIVERED, Value::Bool(redelivered)));
        }
        self.word(&attribute::SETTLEMENT, attributes.settlement.map(|settlement| settlement.name()));
    }

    /// How the span ended.
    pub(super) fn outcome(&mut self, line: &Transition<'_>) {
        self.word(&attribute::STATE, Some(line.state.name()));
        self.word(&attribute::REASON, line.reason.map(|reason| reason.name()));
        self.word(&attribute::EVIDENCE, Some(line.evidence.name()));
        if line.ambiguous {
            self.0.push((&attribute::AMBIGUOUS, Value::Bool(true)));
        }
    }

    /// `error.type`: the broker's code if there is one, else the reason, else the state.
    pub(super) fn error(&mut self, line: &Transition<'_>) {
        let value = match (line.attributes.error_code, line.reason) {
            (Some(code), _) => Value::Text(code.to_string()),
            (None, Some(reason)) => Value::Word(reason.name()),
            (None, None) => Value::Word(line.state.name()),
        };
        self.0.push((&attribute::ERROR_TYPE, value));
        self.name(&attribute::ERROR_TEXT, line.attributes.error_text);
    }

    pub(super) fn name(&mut self, key: &'static Attribute, value: Option<&Name>) {
        if let Some(value) = value {
            self.text(key, value.to_string());
        }
    }

    pub(super) fn text(&mut self, key: &'static Attribute, value: String) {
        if !value.is_empty() {
            self.0.push((key, Value::Text(value)));
        }
    }

    pub(super) fn word(&mut self, key: &'static Attribute, value: Option<&'static str>) {
        if let Some(value) = value {
            self.0.push((key, Value::Word(value)));
        }
    }

    pub(super) fn int(&mut self, key: &'static Attribute, value: Option<u64>) {
        if let Some(value) = value {
            self.0.push((key, Value::Int(i64::try_from(value).unwrap_or(i64::MAX))));
        }
    }
}
