//! Where a session's operations go, and what it may take of the budget meanwhile.

use super::kafka::{Originals, TopicNames, Traces};
use super::sessions::{Demands, MethodCounts, Secrets};
use crate::capture::Demand;
use crate::names::{Name, Names};
use crate::protocol::Trouble;
use crate::protocol::operation::{BrokerError, Destination, Observed, Operation};
use crate::stream::{ConnectionId, Flow};
use crate::time::Timestamp;

/// What everything in a session needs while it handles an event.
pub(in crate::protocol) struct Output<'a> {
    pub operations: &'a mut Vec<Observed>,
    pub names: &'a mut Names,
    /// Names of topics whose ids are known, of all connections.
    pub topics: &'a mut TopicNames,
    /// What applications were sent, of all connections.
    pub originals: &'a mut Originals,
    /// Which records are told of singly, of all connections.
    pub traces: &'a mut Traces,
    pub connection: ConnectionId,
    /// When the bytes at hand passed.
    pub time: Timestamp,
    /// Bytes of memory that the session may still take.
    pub room: usize,
    /// What is demanded of flows from now on.
    pub demands: &'a mut Demands,
}

/// What comes from outside with an event, besides the operations' way out.
pub(in crate::protocol) struct Ledger<'a> {
    pub secrets: &'a mut Secrets,
    pub counts: Option<&'a mut MethodCounts>,
}

impl Output<'_> {
    /// Says that something happened.
    pub fn push(&mut self, operation: Operation) {
        self.operations.push(Observed { time: self.time, connection: self.connection, operation });
    }

    /// Says that something could not be read.
    pub fn trouble(&mut self, trouble: Trouble) {
        self.push(Operation::Trouble(trouble));
    }

    /// Takes memory from the budget; false, and said so, if there is none left.
    pub fn take_room(&mut self, bytes: usize) -> bool {
        match self.room.checked_sub(bytes) {
            Some(room) => {
                self.room = room;
                true
            }
            None => {
                self.trouble(Trouble::BudgetExhausted);
                false
            }
        }
    }

    /// From now on this is demanded of a flow.
    pub fn demand(&mut self, flow: Flow, demand: Demand) {
        self.demands.add(self.connection, flow, demand);
    }

    /// The shared name for these bytes.
    pub fn name(&mut self, wire: &[u8]) -> Name {
        self.names.intern(wire)
    }

    /// The same as `last` if it says the same, as it does for nearly every message of a channel.
    pub fn destination(&mut self, last: &mut Option<Destination>, exchange: &[u8], routing_key: &[u8]) -> Destination {
        if let Some(known) = last
            && known.exchange.as_bytes() == exchange
            && known.routing_key.as_bytes() == routing_key
        {
            return known.clone();
        }
        let destination = Destination { exchange: self.name(exchange), routing_key: self.name(routing_key) };
        last.insert(destination).clone()
    }

    /// A broker's error.
    pub fn error(&mut self, code: u16, text: &[u8], method: (u16, u16)) -> BrokerError {
        BrokerError { code, text: self.name(text), method }
    }
}
