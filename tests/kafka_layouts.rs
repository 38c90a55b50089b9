//! The table of Kafka's layouts against Kafka itself: the message definitions inside the kafka-clients artifacts, and the
//! classes generated from them. Needs what `scripts/deps.sh test` gets: `cargo test --test kafka_layouts -- --ignored`.

#[path = "kafka_layouts/definitions.rs"]
mod definitions;
#[path = "support/kafka.rs"]
mod encode;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use acktrail::protocol::kafka::{Field, Kind, Message, Node, Table, Type, Value, Versions, Visitor, table};
use definitions::{Definition, Entry};

/// Oldest first.
const RELEASES: [&str; 4] = ["2.8.2", "3.9.2", "4.3.1", "4.4.0"];

/// Fields that had other names once: of which message, how deep, the old name and that of the newest definitions, which is
/// ours. Names are not on the wire.
const RENAMED: &[(&str, usize, &str, &str)] = &[
    ("FetchResponse", 1, "PartitionResponses", "Partitions"),
    ("FetchResponse", 2, "Partition", "PartitionIndex"),
    ("FetchResponse", 2, "RecordSet", "Records"),
    ("OffsetCommitRequest", 0, "GenerationId", "GenerationIdOrMemberEpoch"),
    ("AddPartitionsToTxnRequest", 0, "TransactionalId", "V3AndBelowTransactionalId"),
    ("AddPartitionsToTxnRequest", 0, "ProducerId", "V3AndBelowProducerId"),
    ("AddPartitionsToTxnRequest", 0, "ProducerEpoch", "V3AndBelowProducerEpoch"),
    ("AddPartitionsToTxnRequest", 0, "Topics", "V3AndBelowTopics"),
    ("AddPartitionsToTxnResponse", 0, "Results", "ResultsByTopicV3AndBelow"),
    ("AddPartitionsToTxnResponse", 1, "Results", "ResultsByPartition"),
    ("AddPartitionsToTxnResponse", 2, "ErrorCode", "PartitionErrorCode"),
    ("TxnOffsetCommitRequest", 0, "GenerationId", "GenerationIdOrMemberEpoch"),
];

fn folder() -> PathBuf {
    let work = std::env::var_os("ACKTRAIL_WORK").map(PathBuf::from);
    let work = work.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".work"));
    work.join("kafka-definitions")
}

/// The name of the file that defines a message.
fn file_name(message: &Message) -> String {
    match message.kind {
        Kind::Request => format!("{}Request", message.name),
        Kind::Response => format!("{}Response", message.name),
        Kind::Data => message.name.to_owned(),
    }
}

/// A message's definition in a release, if it had one then, and the versions that its brokers accepted.
fn definition(release: &str, message: &Message) -> Option<(Definition, Versions)> {
    let load = |name: &str| Definition::load(&folder().join(release).join(format!("common/message/{name}.json")));
    let definition = load(&file_name(message))?;
    let mut valid = definition.valid;
    // Said in the request only, and true of both.
    if message.kind != Kind::Data && load(&format!("{}Request", message.name))?.latest_is_unstable {
        valid.last -= 1;
    }
    Some((definition, valid))
}

/// The fields of one version, as the table has them.
fn ours(message: &Message, version: i16) -> Vec<Entry> {
    let nodes = table().fields(message);
    let mut entries = Vec::new();
    // A struct that a version does not have takes its fields with it.
    let mut absent = usize::MAX;
    for node in nodes {
        if node.depth <= absent {
            absent = if node.versions.contains(version) { usize::MAX } else { node.depth };
        }
        if absent == usize::MAX {
            entries.push(Entry {
                depth: node.depth,
                name: node.name.to_owned(),
                kind: format!("{}{:?}", if node.array { "[]" } else { "" }, node.kind).to_lowercase(),
                nullable: node.nullable.contains(version),
                tag: node.tagged.contains(version).then_some(node.tag),
            });
        }
    }
    entries
}

/// Compares a version with its definition in a release. Gives the renamings that it took, or what differs.
fn compare(message: &Message, version: i16, theirs: &[Entry]) -> Result<BTreeSet<usize>, String> {
    let file = file_name(message);
    let ours = ours(message, version);
    let mut used = BTreeSet::new();
    let mut place = ours.iter().peekable();
    let mut theirs = theirs.iter().peekable();
    while let Some(our) = place.next() {
        let their = theirs.peek().map(|their| {
            let renamed = RENAMED.iter().position(|(of, depth, old, new)| {
                (*of, *depth, *old, *new) == (&file, their.depth, &their.name, &our.name)
            });
            used.extend(renamed);
            Entry { name: renamed.map_or(&their.name, |_| &our.name).clone(), ..(**their).clone() }
        });
        if their.as_ref() == Some(our) {
            theirs.next();
        } else if our.tag.is_some() {
            // Tagged fields are added to versions that are there already.
            while place.next_if(|next| next.depth > our.depth).is_some() {}
        } else {
            return Err(format!("{file} {version}: the table has {our:?}, the definition {their:?}"));
        }
    }
    theirs.next().map_or(Ok(used), |their| Err(format!("{file} {version}: the table lacks {their:?}")))
}

#[test]
#[ignore = "needs the artifacts that scripts/deps.sh test gets"]
fn the_table_is_what_the_definitions_say() {
    let mut used = BTreeSet::new();
    for message in table().messages() {
        let mut versions = BTreeSet::new();
        let mut found = false;
        for release in RELEASES {
            let Some((definition, valid)) = definition(release, message) else { continue };
            let newest = release == RELEASES[RELEASES.len() - 1];
            found |= newest;
            assert!(definition.key.is_none_or(|key| key == message.key), "{message:?}");
            for version in valid.first..=valid.last {
                let flexible = definition.flexible.contains(version);
                assert_eq!(flexible, message.flexible.contains(version), "{message:?} {version} {release}");
                let theirs = definition.entries(version);
                let renamed = compare(message, version, &theirs).unwrap_or_else(|wrong| panic!("{release}: {wrong}"));
                assert!(!newest || renamed.is_empty() && theirs == ours(message, version), "{message:?} {version}");
                used.extend(renamed);
            }
            versions.extend(valid.first..=valid.last);
        }
        assert!(found, "the newest release has {}", file_name(message));
        assert!(versions.into_iter().eq(message.versions.first..=message.versions.last), "versions of {message:?}");
    }
    assert!(used.into_iter().eq(0..RENAMED.len()), "renamings that nobody needs");
}

#[test]
#[ignore = "needs the artifacts that scripts/deps.sh test gets"]
fn kafka_clients_reads_the_same() {
    let mut read = BTreeMap::<&str, usize>::new();
    for release in ["3.9.2", "4.4.0"] {
        let mut lines = String::new();
        for message in table().messages() {
            let Some((_, valid)) = definition(release, message) else { continue };
            for version in valid.first..=valid.last {
                for seed in 0..5 {
                    lines += &line(message, version, seed);
                    *read.entry(release).or_default() += 1;
                }
            }
        }
        for (asked, answer) in lines.lines().zip(java(release, &lines).lines()) {
            assert_eq!(answer, "ok", "{release} reads {asked}");
        }
    }
    assert!(read.values().all(|read| *read > 1000), "{read:?}");
}

/// A message drawn at random, as a line: what it is, its version, its bytes.
fn line(message: &Message, version: i16, seed: u64) -> String {
    let mut random = encode::noise(seed);
    let mut body = encode::draw(table(), message, version, &mut || random()).bytes;
    let [a, b] = message.key.to_be_bytes();
    let [c, d] = version.to_be_bytes();
    let header: &[u8] = match message.kind {
        Kind::Request => &[a, b, c, d, 0, 0, 0, 9],
        Kind::Response => &[0, 0, 0, 9],
        Kind::Data => &[],
    };
    body.splice(0..0, header.iter().copied());
    let what = match message.kind {
        Kind::Request => "request",
        Kind::Response => "response",
        Kind::Data => message.name,
    };
    let bytes: String = body.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{what} {} {version} {bytes}\n", message.key)
}

/// What the release's classes say to each line.
fn java(release: &str, lines: &str) -> String {
    let jars = [folder().join(format!("kafka-clients-{release}.jar")), folder().join("slf4j-api.jar")];
    let mut child = Command::new("java")
        .arg("-cp")
        .arg(std::env::join_paths(jars).expect("a class path"))
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kafka_layouts/ReadBodies.java"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("java");
    let mut input = child.stdin.take().expect("a pipe");
    let text = lines.to_owned();
    let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let output = child.wait_with_output().expect("java's answers");
    assert!(output.status.success());
    writer.join().expect("a writer").expect("java reads all lines");
    let answers = String::from_utf8(output.stdout).expect("text");
    assert_eq!(answers.lines().count(), lines.lines().count(), "an answer to each line");
    answers
}
