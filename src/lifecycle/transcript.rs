//! Tests of the state machine as transcripts: commands, `----`, what the machine says. Read `transcripts/*.txt`.

mod log;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::rc::Rc;
use std::time::Duration;

use super::transition::{Event, Evidence, Observer, Transition};
use super::withheld::Withheld;
use super::{Lifecycles, MessageLimits};
use crate::capture::{Counters, Owner};
use crate::names::{Name, Names};
use crate::protocol::operation::*;
use crate::stream::{ConnectionId, End, Facts, Flow};
use crate::time::Timestamp;

const TRANSCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/lifecycle/transcripts");

#[test]
fn transcripts() {
    let mut files: Vec<_> = std::fs::read_dir(TRANSCRIPTS).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 5, "the transcripts are missing");
    let rewrite = std::env::var_os("REWRITE").is_some();
    let mut wrong = String::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let run = replay(&text);
        if rewrite {
            std::fs::write(&file, run).unwrap();
        } else if run != text {
            let _ = writeln!(wrong, "{}:\n{}", file.display(), difference(&text, &run));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn settled_messages_beyond_their_budget_are_counted_as_forgotten() {
    let mut stage = Stage::new();
    let settle = |stage: &mut Stage, how: &str, tags: std::ops::RangeInclusive<u32>| {
        for tag in tags {
            stage.command(&format!("publish m{tag} queue=work"));
            stage.command(&format!("deliver m{tag} queue=work tag={tag} on=2/1"));
            stage.command(&format!("{how} {tag} on=2/1"));
        }
    };
    stage.command("connect 2");
    stage.command("queue work dlx=default dlk=dead on=2/1");
    settle(&mut stage, "reject", 1..=150);
    let statistics = stage.machine.statistics();
    assert_eq!((statistics.forgotten_messages, statistics.evicted_messages), (50, 0));
    // What went well is forgotten as a matter of course.
    settle(&mut stage, "ack", 151..=300);
    assert_eq!(stage.machine.statistics().forgotten_messages, 50);
    // This is why they are counted: of a forgotten one it is not known any more that its dead letter was told.
    stage.lines.text.clear();
    for tag in [1, 150] {
        stage.command(&format!("deliver m{tag} queue=dead key=dead tag={tag} deaths=work:rejected:1::work on=3/1"));
    }
    let expected = "m1 DeadLettered queue=work reason=rejected to=dead
m1 DeadLettered -> Dispatched queue=dead delivery=1
m150 DeadLettered -> Dispatched queue=dead delivery=1\n";
    assert_eq!(stage.lines.text, expected);
}

fn difference(expected: &str, found: &str) -> String {
    let place = expected.lines().zip(found.lines()).position(|(expected, found)| expected != found);
    let place = place.unwrap_or(expected.lines().count().min(found.lines().count()));
    let around = |text: &str| text.lines().skip(place.saturating_sub(6)).take(14).collect::<Vec<_>>().join("\n");
    format!("line {}\n--- expected\n{}\n--- found\n{}", place + 1, around(expected), around(found))
}

/// The transcript with the machine's answers in place of what it holds. Each file starts with an empty machine; a line
/// `===` begins anew within a file.
fn replay(text: &str) -> String {
    let mut stage = Stage::new();
    let mut output = String::new();
    let mut answering = false;
    for line in text.lines() {
        if answering && !line.is_empty() {
            continue;
        }
        answering = line == "----";
        let _ = writeln!(output, "{line}");
        match line {
            "----" => output.push_str(&std::mem::take(&mut stage.lines.text)),
            "===" => stage = Stage::new(),
            line if line.is_empty() || line.starts_with('#') => {}
            line => stage.command(line),
        }
    }
    assert!(stage.lines.text.is_empty(), "not asked for: {}", stage.lines.text);
    output
}

#[derive(Default)]
struct Lines {
    text: String,
    names: HashMap<Identity, String>,
}

struct Stage {
    machine: Lifecycles,
    withheld: Withheld,
    lines: Lines,
    names: Names,
    now: Timestamp,
    position: u64,
}

/// A command's words: the verb, what stands alone, and `key=value`.
struct Words<'a> {
    plain: Vec<&'a str>,
    pairs: HashMap<&'a str, &'a str>,
}

impl<'a> Words<'a> {
    fn parse(line: &'a str) -> Words<'a> {
        let mut words = Words { plain: Vec::new(), pairs: HashMap::new() };
        for word in line.split_whitespace() {
            match word.split_once('=') {
                Some((key, value)) => drop(words.pairs.insert(key, value)),
                None => words.plain.push(word),
            }
        }
        words
    }

    fn get(&self, key: &str) -> Option<&'a str> {
        self.pairs.get(key).copied()
    }

    fn number<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        self.get(key).map(|value| value.parse().unwrap_or_else(|_| panic!("{key}={value} is no number")))
    }

    fn has(&self, word: &str) -> bool {
        self.plain.contains(&word)
    }
}

impl Stage {
    fn new() -> Stage {
        Stage {
            machine: Lifecycles::new(MessageLimits { active: 100, settled: 100, complete: 1 }),
            withheld: Withheld::default(),
            lines: Lines::default(),
            names: Names::default(),
            now: Timestamp(1_000_000_000),
            position: 0,
        }
    }

    fn name(&mut self, text: &str) -> Name {
        self.names.intern(text.as_bytes())
    }

    fn say(&mut self, connection: ConnectionId, operation: Operation) {
        let mut observed = Observed { time: self.now, connection, operation };
        self.machine.handle(&mut observed, &mut self.withheld.before(&mut self.lines));
    }

    fn command(&mut self, line: &str) {
        let words = Words::parse(line);
        let on = channel(words.get("on").unwrap_or("1/1"));
        let operation = match words.plain[0] {
            "advance" => {
                self.now = self.now.plus(Duration::from_millis(words.plain[1].parse().unwrap()));
                self.machine.handle_timeout(self.now, &mut self.withheld.before(&mut self.lines));
                return self.withheld.handle_timeout(self.now, &mut self.lines);
            }
            "connect" => return self.connect(&words),
            "unseen" => return self.machine.handle_unseen(),
            "counters" => {
                let ring_full_records = words.number("lost").unwrap_or_default();
                let counters = Counters { time: self.now, ring_full_records, ..Counters::default() };
                return self.machine.handle_counters(&counters);
            }
            "lost" | "closed" => {
                let connection = ConnectionId(words.plain[1].parse().unwrap());
                let observer = &mut self.withheld.before(&mut self.lines);
                return self.machine.handle_closed(connection, self.now, observer);
            }
            "publish" => self.publish(on, &words),
            "confirm" => Operation::Confirmed {
                channel: on,
                tags: tags(&words),
                inferred: words.has("inferred") || words.has("earlier"),
                earlier: words.has("earlier"),
            },
            "open" => Operation::ChannelOpened(on),
            "unmatched" => {
                Operation::UnmatchedConfirm { channel: on, tags: tags(&words), refused: words.has("refused") }
            }
            "learn" => Operation::TagsLearned {
                channel: on,
                first: words.plain[1].parse().unwrap(),
                publishes: words.number("publishes").unwrap(),
            },
            "refuse" => Operation::PublishFailed { channel: on, tags: tags(&words), inferred: false },
            "return" => Operation::Returned {
                channel: on,
                error: BrokerError { code: 312, text: "NO_ROUTE".into(), method: (0, 0) },
                destination: self.destination(&words),
                message: self.message(&words),
            },
            "deliver" => self.deliver(on, &words),
            // `from=1`: of the deliveries so far, the reads that ended before the second were lost.
            "read" => Operation::Read {
                flow: Flow::Backward,
                from: words.number::<u64>("from").unwrap_or(0) * 100,
                position: self.position,
            },
            "ack" => self.settle(on, &words, Outcome::Acknowledged),
            "reject" => self.settle(on, &words, Outcome::RejectedByReject),
            "requeue" => self.settle(on, &words, Outcome::RequeuedByNack),
            "recover" if words.has("asked") => Operation::RecoverAsked(on),
            "recover" => Operation::Recovered {
                channel: on,
                spared: words.number("spared").map(Tags::UpTo).into_iter().collect(),
            },
            "close" => close(on, &words),
            "queue" => self.queue(&words),
            "consume" => Operation::ConsumerStarted {
                channel: on,
                consumer: self.name(words.get("tag").unwrap_or("consumer")),
                queue: self.name(words.plain[1]),
                automatic: Some(false),
                learned: false,
                answered: !words.has("nowait"),
            },
            "cancel" => Operation::ConsumerCancelled {
                channel: on,
                consumer: self.name(words.get("tag").unwrap_or("consumer")),
                queue: None,
                by: if words.get("by") == Some("broker") { Peer::Broker } else { Peer::Client },
                answered: !words.has("nowait"),
            },
            "delete" | "purge" => Operation::QueueEmptied {
                queue: self.name(words.plain[1]),
                deleted: words.plain[0] == "delete",
                messages: words.number("messages"),
            },
            "exchange" => Operation::ExchangeDeclared {
                exchange: self.name(words.plain[1]),
                kind: Some(self.name(words.plain[2])),
                alternate: words.get("alternate").map(Name::from),
            },
            "bind" => Operation::Binding {
                exchange: self.name(words.plain[1]),
                target: self.name(words.plain[2]),
                to_exchange: false,
                routing_key: self.name(words.get("key").unwrap_or("")),
                bound: true,
                arguments: false,
            },
            "disconnect" => Operation::ConnectionEnded { by: Some(Peer::Client), error: None, agreed: true },
            "log" => self.log(&words),
            "foreign" => Operation::NotDecoded { protocol: "MQTT" },
            "gap" => Operation::Gap(Gap {
                from_broker: words.has("broker"),
                channel: None,
                bytes: Some(100),
                deliveries: words.number("deliveries"),
            }),
            other => panic!("unknown command {other}"),
        };
        self.say(on.connection, operation);
    }

    fn connect(&mut self, words: &Words<'_>) {
        let number: u16 = words.plain[1].parse().unwrap();
        let connection = ConnectionId(u64::from(number));
        let local = !words.has("remote");
        let owner = words.number("pid").map(|pid| Owner { pid, executable: "app".into() });
        let client = End { address: ([127, 0, 0, 1], 40_000 + number).into(), owner, local, reads_seen: local };
        let server = End { address: ([127, 0, 0, 1], 5672).into(), owner: None, local: true, reads_seen: true };
        let late = words.has("late");
        let facts = Facts { ends: [client, server], roles_known: true, from_start: !late };
        self.machine.handle_facts(connection, &facts);
        let session = SessionFacts {
            client_flow: Some(Flow::Forward),
            vhost: (!late).then(|| "/".into()),
            broker: words.get("broker").map(|version| format!("RabbitMQ {version}").into()),
            late,
            ..SessionFacts::default()
        };
        self.say(connection, Operation::Session(Rc::new(session)));
    }

    fn destination(&mut self, words: &Words<'_>) -> Destination {
        Destination {
            exchange: self.name(words.get("exchange").unwrap_or("")),
            routing_key: self.name(words.get("key").or(words.get("queue")).unwrap_or("")),
        }
    }

    /// A message by name: `m1` has the id m1; with `noid` its identity is a fingerprint of the name.
    fn message(&mut self, words: &Words<'_>) -> Message {
        let name = words.plain[1];
        let identity = Identity(xxhash_rust::xxh3::xxh3_128(name.as_bytes()));
        self.lines.names.insert(identity, name.into());
        let id = !words.has("noid");
        let deaths = words.get("deaths").map(|deaths| deaths.split(',').map(death).collect()).unwrap_or_default();
        let extras = Extras {
            deaths,
            expiration_ms: words.number("expires"),
            stream_offset: words.number("offset"),
            delivery_count: words.number("count"),
            ..Extras::default()
        };
        Message {
            identity: Some(identity),
            source: if id { IdentitySource::MessageId } else { IdentitySource::Fingerprint },
            body: Some(xxhash_rust::xxh3::xxh3_64(words.get("body").unwrap_or(name).as_bytes())),
            body_size: Some(10),
            message_id: id.then(|| name.into()),
            extras: (extras != Extras::default()).then(|| Box::new(extras)),
        }
    }

    fn publish(&mut self, channel: ChannelId, words: &Words<'_>) -> Operation {
        Operation::Published {
            channel,
            tag: words.number("tag"),
            destination: self.destination(words),
            mandatory: words.has("mandatory"),
            message: self.message(words),
        }
    }

    fn deliver(&mut self, channel: ChannelId, words: &Words<'_>) -> Operation {
        self.position += 100;
        Operation::Delivered {
            channel,
            tag: words.number("tag").expect("tag="),
            consumer: Some(words.get("consumer").unwrap_or("consumer").into()),
            queue: words.get("queue").map(|queue| self.name(queue)),
            automatic: if words.has("unsure") { None } else { Some(words.has("auto")) },
            redelivered: words.has("redelivered"),
            destination: self.destination(words),
            message: self.message(words),
            flow: Flow::Backward,
            end: self.position,
        }
    }

    fn settle(&mut self, channel: ChannelId, words: &Words<'_>, outcome: Outcome) -> Operation {
        Operation::Settled { channel, tags: tags(words), outcome }
    }

    fn queue(&mut self, words: &Words<'_>) -> Operation {
        let arguments = QueueArguments {
            dead_letter_exchange: words.get("dlx").map(|name| self.name(if name == "default" { "" } else { name })),
            dead_letter_routing_key: words.get("dlk").map(|key| self.name(key)),
            message_ttl_ms: words.number("ttl"),
            queue_type: words.get("type").map(Name::from),
            delivery_limit: words.number("limit"),
            max_length: words.number("most"),
            durable: words.has("durable"),
            exclusive: words.has("exclusive"),
            auto_delete: words.has("auto-delete"),
            ..QueueArguments::default()
        };
        let answered = !words.has("nowait");
        Operation::QueueDeclared {
            queue: self.name(words.plain[1]),
            arguments: Some(Box::new(arguments)),
            messages: answered.then_some(0),
            consumers: answered.then(|| words.number("consumers").unwrap_or(0)),
        }
    }
}

fn close(channel: ChannelId, words: &Words<'_>) -> Operation {
    let error = words.number("code").map(|code| BrokerError {
        code,
        text: words.get("text").unwrap_or("").replace('_', " ").into(),
        method: if words.has("publish") { (60, 40) } else { (0, 0) },
    });
    let by = match words.get("by") {
        Some("client") => Some(Peer::Client),
        Some("broker") => Some(Peer::Broker),
        _ => None,
    };
    Operation::ChannelClosed { channel, by, error, connection: by.is_none() || words.has("connection") }
}

/// `queue:reason:count:exchange:key`.
fn death(text: &str) -> Death {
    let parts: Vec<&str> = text.split(':').collect();
    Death {
        queue: parts[0].into(),
        reason: parts[1].into(),
        count: parts.get(2).map_or(1, |count| count.parse().unwrap()),
        exchange: parts.get(3).copied().unwrap_or("").into(),
        routing_key: Some(parts.get(4).copied().unwrap_or(parts[0]).into()),
        time_seconds: None,
    }
}

fn tags(words: &Words<'_>) -> Tags {
    match words.plain.get(1) {
        Some(&"all") => Tags::All,
        Some(tag) if words.has("multiple") => Tags::UpTo(tag.parse().unwrap()),
        Some(tag) => Tags::One(tag.parse().unwrap()),
        None => panic!("which tag?"),
    }
}

/// `connection/channel`.
fn channel(text: &str) -> ChannelId {
    let (connection, number) = text.split_once('/').unwrap();
    let connection = ConnectionId(connection.parse().unwrap());
    ChannelId { connection, number: number.parse().unwrap(), incarnation: 0 }
}

impl Observer for Lines {
    fn transition(&mut self, line: &Transition<'_>) {
        if line.attributes.topic.is_none() {
            let name = line.message.and_then(|message| self.names.get(&message)).map_or("?", |name| name);
            let _ = write!(self.text, "{name} ");
        }
        if let Some(previous) = line.previous {
            let _ = write!(self.text, "{} -> ", previous.name());
        }
        let _ = write!(self.text, "{}", line.state.name());
        if let Some(queue) = line.attributes.queue {
            let _ = write!(self.text, " queue={queue}");
        }
        if let Some((topic, partition)) = line.attributes.topic.zip(line.attributes.partition) {
            let _ = write!(self.text, " {topic}/{partition}");
            if let Some((first, last)) = line.attributes.offsets {
                let _ = write!(self.text, " {first}-{last}");
            }
            let _ = write!(self.text, " count={}", line.count);
            if line.attributes.trace.is_some() {
                self.text.push_str(" traced");
            }
        }
        if let Some(group) = line.attributes.group {
            let _ = write!(self.text, " group={group}");
        }
        if let Some(lag) = line.attributes.lag {
            let _ = write!(self.text, " lag={lag}");
        }
        if let Some(delivery) = line.delivery {
            let _ = write!(self.text, " delivery={delivery}");
        }
        if let Some(reason) = line.reason {
            let _ = write!(self.text, " reason={}", reason.name());
        }
        if let Some(to) = line.attributes.dead_letter_destination {
            let _ = write!(self.text, " to={to}");
        }
        if let Some(partition) = line.attributes.dead_letter_partition {
            let _ = write!(self.text, "/{partition}");
        }
        if let Some(offset) = line.attributes.dead_letter_offset {
            let _ = write!(self.text, ":{offset}");
        }
        if let Some(settlement) = line.attributes.settlement {
            let _ = write!(self.text, " {}", settlement.name());
        }
        if line.evidence == Evidence::Inferred {
            self.text.push_str(" inferred");
        }
        if let Some(corrects) = line.corrects {
            let _ = write!(self.text, " corrects={}", corrects.name());
        }
        if line.ambiguous {
            self.text.push_str(" ambiguous");
        }
        self.text.push('\n');
    }

    fn event(&mut self, event: &Event<'_>) {
        let _ = write!(self.text, "event {}", event.name);
        if let Some(count) = event.count {
            let _ = write!(self.text, " count={count}");
        }
        let attributes = &event.attributes;
        if let Some(((topic, partition), lag)) = attributes.topic.zip(attributes.partition).zip(attributes.lag) {
            let _ = write!(self.text, " {topic}/{partition} lag={lag}");
        }
        if let Some(detail) = event.detail {
            let _ = write!(self.text, " ({detail})");
        }
        self.text.push('\n');
    }
}
