//! A connection's session, of whatever protocol it turns out to speak.
//!
//! AMQP is presumed until something else is proved: whatever does not look like it is passed over there as what may be secret.

use super::output::{Ledger, Output};
use super::{amqp, kafka};
use crate::stream::{ConnectionId, Facts, Flow, Position};
use crate::time::Timestamp;

/// See the [module](self).
pub(super) struct Session {
    spoken: Spoken,
    /// What is known of the connection, while its protocol is not.
    facts: Option<Facts>,
}

enum Spoken {
    Amqp(Box<amqp::Session>),
    Kafka(Box<kafka::Session>),
}

impl Session {
    /// A session of a connection of which this is known.
    pub fn new(facts: Option<&Facts>) -> Session {
        Session { spoken: Spoken::Amqp(Box::new(amqp::Session::new(facts))), facts: facts.cloned() }
    }

    /// What is known of the connection has changed.
    pub fn facts(&mut self, facts: &Facts, out: &mut Output<'_>) {
        match &mut self.spoken {
            Spoken::Amqp(session) => {
                session.facts(facts);
                self.facts = Some(facts.clone());
            }
            Spoken::Kafka(session) => session.facts(facts, out),
        }
    }

    /// What it costs in memory.
    pub fn cost(&mut self) -> usize {
        match &mut self.spoken {
            Spoken::Amqp(session) => session.cost(),
            Spoken::Kafka(session) => session.cost(),
        }
    }

    /// Takes the next bytes of a flow.
    pub fn data(
        &mut self,
        flow: Flow,
        position: Position,
        bytes: &[u8],
        packet_start: bool,
        out: &mut Output<'_>,
        ledger: &mut Ledger<'_>,
    ) {
        if packet_start {
            self.detect(flow, bytes, out, ledger);
        }
        match &mut self.spoken {
            Spoken::Amqp(session) => session.data(flow, position, bytes, packet_start, out, ledger),
            Spoken::Kafka(session) => session.data(flow, position, bytes, packet_start, out, ledger),
        }
    }

    /// The next bytes of a flow are missing.
    pub fn hole(
        &mut self,
        flow: Flow,
        position: Position,
        length: Option<u64>,
        out: &mut Output<'_>,
        ledger: &mut Ledger<'_>,
    ) {
        match &mut self.spoken {
            Spoken::Amqp(session) => session.hole(flow, position, length, out, ledger),
            Spoken::Kafka(session) => session.hole(flow, position, length, out, ledger),
        }
    }

    /// An application has read.
    pub fn read(&mut self, flow: Flow, from: Position, position: Position, out: &mut Output<'_>) {
        match &mut self.spoken {
            Spoken::Amqp(session) => session.read(flow, from, position, out),
            Spoken::Kafka(session) => session.read(flow, from, position, out),
        }
    }

    /// The connection has ended.
    pub fn closed(&mut self, out: &mut Output<'_>, ledger: &mut Ledger<'_>) {
        match &mut self.spoken {
            Spoken::Amqp(session) => session.closed(out, ledger),
            Spoken::Kafka(session) => session.closed(out),
        }
    }

    /// Nobody will know how the connection goes on.
    pub fn given_up(&mut self, out: &mut Output<'_>, ledger: &mut Ledger<'_>) {
        match &mut self.spoken {
            Spoken::Amqp(session) => session.given_up(out, ledger),
            Spoken::Kafka(session) => session.closed(out),
        }
    }

    /// Since when bytes wait for a search's decision that are a secret if they are no frames.
    pub fn undecided_since(&self) -> Option<Timestamp> {
        match &self.spoken {
            Spoken::Amqp(session) => session.undecided_since(),
            Spoken::Kafka(_) => None,
        }
    }

    /// Decides against every boundary that was found before this time and is not proved.
    pub fn give_up_searches(&mut self, before: Timestamp, connection: ConnectionId, ledger: &mut Ledger<'_>) {
        if let Spoken::Amqp(session) = &mut self.spoken {
            session.give_up_searches(before, connection, ledger);
        }
    }

    /// Whether a packet of a connection that has proved nothing yet begins with a request of Kafka's, from the end that may be
    /// the client.
    fn detect(&mut self, flow: Flow, bytes: &[u8], out: &mut Output<'_>, ledger: &mut Ledger<'_>) {
        let Spoken::Amqp(session) = &mut self.spoken else { return };
        if session.is_proved() {
            return;
        }
        let is_server = self.facts.as_ref().is_some_and(|facts| facts.roles_known && flow == Flow::Backward);
        if !is_server && kafka::is_request(bytes) {
            session.forget_searches(out.connection, ledger);
            let session = kafka::Session::new(flow, self.facts.as_ref(), out);
            self.spoken = Spoken::Kafka(Box::new(session));
        }
    }
}
