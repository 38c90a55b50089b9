//! Who speaks on a connection: what every line about it repeats.

use std::net::SocketAddr;
use std::rc::Rc;

use super::emit::SYSTEM;
use crate::capture::Owner;
use crate::names::Name;
use crate::protocol::operation::SessionFacts;
use crate::stream::{ConnectionId, Facts, Flow};

/// A client of a broker, by one connection.
#[derive(Debug)]
pub(super) struct Party {
    /// The broker's kind.
    pub system: &'static str,
    pub connection: ConnectionId,
    pub server: Option<SocketAddr>,
    pub client: Option<SocketAddr>,
    /// The client's process, where it is on this host.
    pub process: Option<Owner>,
    /// The client's socket is watched here, so that its reads are seen.
    pub reads_seen: bool,
    /// The broker's socket is watched here, so that everything it sends to anybody is seen.
    pub broker_seen: bool,
    pub client_name: Option<Name>,
    pub vhost: Option<Name>,
}

impl Party {
    /// A connection of which nothing is known yet.
    pub fn unknown(connection: ConnectionId) -> Rc<Party> {
        Rc::new(Party {
            system: SYSTEM,
            connection,
            server: None,
            client: None,
            process: None,
            reads_seen: false,
            broker_seen: false,
            client_name: None,
            vhost: None,
        })
    }

    /// What the transport and the session know together.
    pub fn new(connection: ConnectionId, facts: Option<&Facts>, session: Option<&SessionFacts>) -> Rc<Party> {
        let client_flow = session.and_then(|session| session.client_flow).unwrap_or(Flow::Forward);
        let known = facts.is_some_and(|facts| facts.roles_known) || session.is_some_and(|s| s.client_flow.is_some());
        let ends = facts.filter(|_| known).map(|facts| {
            let client = &facts.ends[client_flow.index()];
            (client, &facts.ends[client_flow.reverse().index()])
        });
        Rc::new(Party {
            system: session.map(|session| session.system).filter(|system| !system.is_empty()).unwrap_or(SYSTEM),
            connection,
            server: ends.map(|(_, server)| server.address),
            client: ends.map(|(client, _)| client.address),
            process: ends.and_then(|(client, _)| client.owner.clone()),
            reads_seen: ends.is_some_and(|(client, _)| client.reads_seen),
            broker_seen: ends.is_some_and(|(_, server)| server.local),
            client_name: session.and_then(|session| session.client_name.clone()),
            vhost: session.and_then(|session| session.vhost.clone()),
        })
    }

    /// Whether both may speak of the same queues: the same broker port, and no different virtual hosts. Addresses are not
    /// compared: a broker has several, and the nodes of a cluster have one each.
    pub fn shares_broker_with(&self, other: &Party) -> bool {
        let port = |party: &Party| party.server.map(|server| server.port());
        differ(port(self), port(other)).is_none() && differ(self.vhost.as_ref(), other.vhost.as_ref()).is_none()
    }

    /// Whether both are the same application: one process, or one connection.
    pub fn is_same_application(&self, other: &Party) -> bool {
        match (&self.process, &other.process) {
            (Some(one), Some(two)) => one.pid == two.pid,
            _ => self.connection == other.connection,
        }
    }
}

/// `Some` where both are known and differ.
fn differ<T: PartialEq>(one: Option<T>, other: Option<T>) -> Option<()> {
    match (one, other) {
        (Some(one), Some(other)) if one != other => Some(()),
        _ => None,
    }
}
