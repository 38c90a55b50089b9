//! Which listening sockets belong to a broker.
//!
//! RabbitMQ listens on several ports: AMQP, the distribution of its Erlang node, management, metrics, other protocols.
//! Those that can be told are left out; a wrong one is harmless, because a session proves its protocol by its bytes. Kafka listens for
//! clients, for brokers and for controllers, all in one protocol.

use std::fs;
use std::net::SocketAddr;

use crate::capture::Owner;
use crate::capture::wire::Listener;

/// A broker's listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// What it is, in OpenTelemetry's `messaging.system`.
    pub system: &'static str,
    /// Where it listens.
    pub address: SocketAddr,
    /// In which network namespace (inode number).
    pub netns: u32,
    /// The broker's process.
    pub owner: Owner,
}

/// What a broker listens for at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Port {
    /// Clients.
    Clients(u16),
    /// Other nodes of its cluster.
    Nodes(u16),
}

/// The brokers found so far.
#[derive(Debug, Default)]
pub(super) struct Brokers {
    found: Vec<Broker>,
}

impl Brokers {
    /// More listening sockets than this are a mistake or an attack, and not remembered.
    const MOST: usize = 256;

    pub(super) fn found(&self) -> &[Broker] {
        &self.found
    }

    /// Looks at a listening socket, reading its process's command line where its executable asks for it. Its port, if it is a
    /// broker's and not known.
    pub(super) fn consider(&mut self, listener: Listener) -> Option<Port> {
        if !EXECUTABLES.contains(&listener.owner.executable.as_str()) || self.found.len() >= Self::MOST {
            return None;
        }
        let command_line = fs::read(format!("/proc/{}/cmdline", listener.owner.pid)).unwrap_or_default();
        let port = listener.local.port();
        let system = system(&listener.owner.executable, &command_line)?;
        if system == RABBITMQ && is_for_nodes(port, &command_line) {
            return Some(Port::Nodes(port));
        }
        if system == RABBITMQ && OTHER_PORTS.contains(&port) {
            return None;
        }
        let broker = Broker { system, address: listener.local, netns: listener.netns, owner: listener.owner };
        // A restarted broker listens there again: the entry is the same but for its process.
        self.found.retain(|known| (known.address, known.netns) != (broker.address, broker.netns));
        let new = self.found.iter().all(|known| known.address.port() != port);
        self.found.push(broker);
        new.then_some(Port::Clients(port))
    }
}

const RABBITMQ: &str = "rabbitmq";
/// The executable of every Erlang node, and that of every Java program.
const EXECUTABLES: [&str; 2] = [ERLANG, JAVA];
const ERLANG: &str = "beam.smp";
const JAVA: &str = "java";
/// The classes that a Kafka broker is started by: from its scripts, and in its container image.
const KAFKA_CLASSES: [&[u8]; 2] = [b"kafka.Kafka", b"kafka.docker.KafkaDockerWrapper"];

/// What RabbitMQ listens on besides AMQP, unless configured otherwise: epmd, management, MQTT, STOMP, streams, metrics, and
/// the WebSocket variants (rabbitmq.com/docs/networking).
const OTHER_PORTS: [u16; 14] =
    [4369, 15671, 15672, 1883, 8883, 61613, 61614, 5551, 5552, 15674, 15675, 15676, 15691, 15692];
/// Where its nodes connect to each other.
const USUAL_NODE_PORT: u16 = 25_672;

/// Which broker a process is, if it is one.
fn system(executable: &str, command_line: &[u8]) -> Option<&'static str> {
    match executable {
        ERLANG if is_rabbitmq(command_line) => Some(RABBITMQ),
        JAVA if arguments(command_line).any(|argument| KAFKA_CLASSES.contains(&argument)) => Some("kafka"),
        _ => None,
    }
}

fn is_rabbitmq(command_line: &[u8]) -> bool {
    arguments(command_line).any(|argument| memchr::memmem::find(argument, b"rabbit").is_some())
}

/// Erlang's own distribution: RabbitMQ's start script gives its range as `-kernel inet_dist_listen_min P`, `…_max P`.
fn is_for_nodes(port: u16, command_line: &[u8]) -> bool {
    let limit = |name: &[u8]| {
        let value = arguments(command_line).skip_while(|argument| *argument != name).nth(1)?;
        std::str::from_utf8(value).ok()?.parse::<u16>().ok()
    };
    let distribution = limit(b"inet_dist_listen_min")
        .is_some_and(|low| (low..=limit(b"inet_dist_listen_max").unwrap_or(low)).contains(&port));
    distribution || port == USUAL_NODE_PORT
}

fn arguments(command_line: &[u8]) -> impl Iterator<Item = &[u8]> {
    command_line.split(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMAND_LINE: &[u8] = b"/usr/lib/erlang/erts-13.1.5/bin/beam.smp\0-W\0w\0-s\0rabbit\0boot\0\
        -kernel\0inet_dist_listen_min\x0024001\0-kernel\0inet_dist_listen_max\x0024003\0-noshell\0";

    #[test]
    fn only_amqp_ports_of_rabbitmq_are_watched() {
        assert!(is_rabbitmq(COMMAND_LINE));
        assert!(!is_rabbitmq(b"/usr/lib/erlang/erts-13.1.5/bin/beam.smp\0-s\0ejabberd\0"));
        for (port, other) in
            [(5672, false), (24000, false), (24001, true), (24003, true), (24004, false), (15672, false)]
        {
            assert_eq!(is_for_nodes(port, COMMAND_LINE), other, "{port}");
        }
        assert!(is_for_nodes(25672, b"beam.smp\0-kernel\0inet_dist_listen_min\0nonsense\0"));
    }

    #[test]
    fn a_kafka_broker_is_known_by_its_class() {
        let broker = b"java\0-Xmx1G\0-cp\0/opt/kafka/libs/*\0kafka.Kafka\0config/server.properties\0";
        assert_eq!(system("java", broker), Some("kafka"));
        assert_eq!(system("java", b"java\0-cp\0kafka-clients.jar\0org.example.Consumer\0"), None);
        assert_eq!(system("beam.smp", COMMAND_LINE), Some("rabbitmq"));
        assert_eq!(system("python3", broker), None);
    }
}
