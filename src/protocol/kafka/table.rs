//! `layouts.txt`, read: which fields requests and responses have, in which versions.

use std::ops::Range;
use std::sync::LazyLock;

use super::field::Field;

/// A range of versions, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The first.
    pub first: i16,
    /// The last; before the first if there is none.
    pub last: i16,
}

impl Versions {
    /// No version.
    pub const NONE: Versions = Versions { first: 0, last: -1 };

    /// Whether this version is one of them.
    pub fn contains(self, version: i16) -> bool {
        self.first <= version && version <= self.last
    }

    /// `3`, `0-12` or `9+`, which ends with the message's own.
    fn read(word: &str, last: i16) -> Option<Versions> {
        let (first, last) = match word.split_once('-') {
            _ if word.ends_with('+') => (word.trim_end_matches('+').parse().ok()?, last),
            Some((first, last)) => (first.parse().ok()?, last.parse().ok()?),
            None => (word.parse().ok()?, word.parse().ok()?),
        };
        (0 <= first && first <= last).then_some(Versions { first, last })
    }
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A client's.
    Request,
    /// A broker's.
    Response,
    /// What is inside of bytes fields.
    Data,
}

/// A request, a response, or what is inside of bytes fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// The API's key; -1 for data.
    pub key: i16,
    /// The API's name, without Request or Response.
    pub name: &'static str,
    /// Versions that brokers accept.
    pub versions: Versions,
    /// Those with compact lengths and tagged fields (KIP-482).
    pub flexible: Versions,
    fields: Range<usize>,
}

/// A field's type, or that of an array's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the message definitions' own names")]
pub enum Type {
    Bool,
    Int8,
    Int16,
    Int32,
    Int64,
    Uuid,
    String,
    Bytes,
    Records,
    Struct,
}

impl Type {
    const WORDS: [(Type, &'static str); 10] = [
        (Type::Bool, "bool"),
        (Type::Int8, "int8"),
        (Type::Int16, "int16"),
        (Type::Int32, "int32"),
        (Type::Int64, "int64"),
        (Type::Uuid, "uuid"),
        (Type::String, "string"),
        (Type::Bytes, "bytes"),
        (Type::Records, "records"),
        (Type::Struct, "struct"),
    ];

    /// The type with this name.
    pub fn find(word: &str) -> Option<Type> {
        Type::WORDS.iter().find(|(_, known)| *known == word).map(|(kind, _)| *kind)
    }
}

/// A field of a message, or of a struct in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// How many structs it is in.
    pub depth: usize,
    /// Its name in the message definitions.
    pub name: &'static str,
    /// Its type. A struct's fields are the nodes behind it that are deeper.
    pub kind: Type,
    /// It is an array of these.
    pub array: bool,
    /// Versions that have it.
    pub versions: Versions,
    /// Versions in which it may be null.
    pub nullable: Versions,
    /// Versions in which it is a tagged field.
    pub tagged: Versions,
    /// Its tag in these.
    pub tag: u32,
    /// What it means to us.
    pub meaning: Option<Field>,
}

/// All messages.
#[derive(Debug, Default)]
pub struct Table {
    messages: Vec<Message>,
    nodes: Vec<Node>,
}

impl Table {
    /// All of them, in the order of `layouts.txt`.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// A message's fields, those of structs behind these.
    pub fn fields(&self, message: &Message) -> &[Node] {
        self.nodes.get(message.fields.clone()).unwrap_or_default()
    }

    /// Reads a table. The error names line and fault.
    fn read(text: &'static str) -> Result<Table, String> {
        let mut table = Table::default();
        for (number, line) in text.lines().enumerate() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let result = match words.as_slice() {
                [] => Ok(()),
                [word, ..] if word.starts_with('#') => Ok(()),
                _ if line.starts_with(' ') => table.read_field(line, &words),
                _ => table.read_head(&words),
            };
            result.map_err(|fault| format!("line {}: {fault}: {line}", number + 1))?;
        }
        Ok(table)
    }

    fn read_head(&mut self, words: &[&'static str]) -> Result<(), &'static str> {
        let (kind, key, words) = match words {
            ["request", key, words @ ..] => (Kind::Request, *key, words),
            ["response", key, words @ ..] => (Kind::Response, *key, words),
            ["data", words @ ..] => (Kind::Data, "-1", words),
            _ => return Err("neither request, response nor data"),
        };
        let (name, versions, flexible) = match words {
            [name, versions] => (name, versions, None),
            [name, versions, "flexible", flexible] => (name, versions, Some(flexible)),
            _ => return Err("words that a head does not have"),
        };
        let versions = Versions::read(versions, -1).ok_or("no versions")?;
        let flexible = match flexible {
            None => Versions::NONE,
            Some(word) => Versions::read(word, versions.last).ok_or("no flexible versions")?,
        };
        let key = key.parse().map_err(|_| "no key")?;
        let fields = self.nodes.len()..self.nodes.len();
        self.messages.push(Message { kind, key, name, versions, flexible, fields });
        Ok(())
    }

    fn read_field(&mut self, line: &str, words: &[&'static str]) -> Result<(), &'static str> {
        let message = self.messages.last_mut().ok_or("a field of no message")?;
        let [name, kind, versions, rest @ ..] = words else { return Err("too few words") };
        let mut node = Node {
            depth: ((line.len() - line.trim_start().len()) / 2).saturating_sub(1),
            name,
            kind: Type::find(kind.trim_start_matches("[]")).ok_or("no type")?,
            array: kind.starts_with("[]"),
            versions: Versions::read(versions, message.versions.last).ok_or("no versions")?,
            nullable: Versions::NONE,
            tagged: Versions::NONE,
            tag: 0,
            meaning: None,
        };
        let mut rest = rest;
        while !rest.is_empty() {
            let read = |word| Versions::read(word, message.versions.last).ok_or("no versions");
            rest = match rest {
                ["null", versions, rest @ ..] => {
                    node.nullable = read(versions)?;
                    rest
                }
                ["tag", tag, versions, rest @ ..] => {
                    node.tag = tag.parse().map_err(|_| "no tag")?;
                    node.tagged = read(versions)?;
                    rest
                }
                ["=", word] => {
                    node.meaning = Some(Field::find(word).ok_or("a meaning that nobody knows")?);
                    &[]
                }
                _ => return Err("words that a field does not have"),
            };
        }
        let above = self.nodes.get(message.fields.clone()).and_then(<[Node]>::last);
        let deepest = above.map_or(0, |above| above.depth + usize::from(above.kind == Type::Struct));
        if node.depth > deepest {
            return Err("indented beneath what is no struct");
        }
        self.nodes.push(node);
        message.fields.end = self.nodes.len();
        Ok(())
    }
}

/// Each field of a struct with what is in it.
pub(super) fn siblings(nodes: &[Node]) -> impl Iterator<Item = (&Node, &[Node])> {
    let mut rest = nodes;
    std::iter::from_fn(move || {
        let (node, behind) = rest.split_first()?;
        let inner = behind.iter().take_while(|inner| inner.depth > node.depth).count();
        let (inside, next) = behind.split_at_checked(inner)?;
        rest = next;
        Some((node, inside))
    })
}

/// The table, which is read when it is first asked for.
pub fn table() -> &'static Table {
    static TABLE: LazyLock<Table> = LazyLock::new(|| {
        // The text is a part of the program, and a test reads it.
        Table::read(include_str!("layouts.txt")).expect("layouts.txt is sound")
    });
    &TABLE
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_table_is_read() {
        let table = Table::read(include_str!("layouts.txt")).unwrap();
        assert_eq!(table.messages.len(), 2 * 28 + 2);
        let fetch = table.messages.iter().find(|one| one.name == "Fetch" && one.kind == Kind::Response).unwrap();
        assert_eq!((fetch.key, fetch.versions), (1, Versions { first: 0, last: 18 }));
        assert_eq!(fetch.flexible, Versions { first: 12, last: 18 });
        let leader = table.fields(fetch).iter().find(|node| node.name == "CurrentLeader").unwrap();
        let expected = Node {
            depth: 2,
            name: "CurrentLeader",
            kind: Type::Struct,
            array: false,
            versions: Versions { first: 12, last: 18 },
            nullable: Versions::NONE,
            tagged: Versions { first: 12, last: 18 },
            tag: 1,
            meaning: Some(Field::CurrentLeader),
        };
        assert_eq!(*leader, expected);
        let top: Vec<&str> = siblings(table.fields(fetch)).map(|(node, _)| node.name).collect();
        assert_eq!(top, ["ThrottleTimeMs", "ErrorCode", "SessionId", "Responses", "NodeEndpoints"]);
    }

    #[test]
    fn requests_and_responses_come_in_pairs_and_every_meaning_is_used() {
        let table = table();
        let pairs = |kind| {
            let of_kind = table.messages.iter().filter(move |message| message.kind == kind);
            of_kind.map(|message| (message.key, message.name, message.versions.first, message.versions.last))
        };
        assert!(pairs(Kind::Request).eq(pairs(Kind::Response)));
        let used: BTreeSet<Field> = table.nodes.iter().filter_map(|node| node.meaning).collect();
        // The header's, which is in no message.
        let all: BTreeSet<Field> = Field::ALL.iter().copied().filter(|field| *field != Field::ClientId).collect();
        assert_eq!(used, all);
    }

    #[test]
    fn faults_are_named() {
        let head = "request 0 Produce 0-2\n";
        for (text, fault) in [
            ("answer 0 Produce 0-2", "neither request, response nor data"),
            ("request x Produce 0-2", "no key"),
            ("request 0 Produce 2-0", "no versions"),
            ("request 0 Produce 0-2 flexible 3+", "no flexible versions"),
            ("request 0 Produce 0-2 more", "words that a head does not have"),
            ("  Acks int16 0+", "a field of no message"),
            ("request 0 Produce 0-2\n  Acks int16", "too few words"),
            ("request 0 Produce 0-2\n  Acks int17 0+", "no type"),
            ("request 0 Produce 0-2\n  Acks int16 3+", "no versions"),
            ("request 0 Produce 0-2\n  Acks int16 0+ null x", "no versions"),
            ("request 0 Produce 0-2\n  Acks int16 0+ tag x 0+", "no tag"),
            ("request 0 Produce 0-2\n  Acks int16 0+ = axe", "a meaning that nobody knows"),
            ("request 0 Produce 0-2\n  Acks int16 0+ acks", "words that a field does not have"),
            ("request 0 Produce 0-2\n    Acks int16 0+", "indented beneath what is no struct"),
            ("request 0 Produce 0-2\n  Acks int16 0+\n    More int16 0+", "indented beneath what is no struct"),
        ] {
            let line = text.lines().count();
            let last = text.lines().last().unwrap();
            assert_eq!(Table::read(text).unwrap_err(), format!("line {line}: {fault}: {last}"));
        }
        assert_eq!(Table::read(head).unwrap().messages.len(), 1);
    }
}
