//! Requests and responses drawn at random: written field by field from the table, not from its compiled layouts, with all
//! that a walk must tell of them. And a visitor that keeps what it is told.

#![allow(dead_code, reason = "each test uses a part of it")]

// Of the file that includes this one: the crate's kafka module.
use super::{Field, Kind, Message, Node, Table, Type, Value, Visitor};

/// What a visitor is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Enter(Field),
    Leave(Field),
    Value(Field, Told),
    /// All bytes of record batches; `None` is missing.
    Records(Vec<Option<u8>>),
    Secret(u64, u64),
}

/// A value of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Int(i64),
    Text(Vec<u8>),
    Bytes(Vec<u8>),
    Uuid([u8; 16]),
    Count(u32),
    Null,
    Unknown,
}

/// Keeps what it is told.
#[derive(Debug, Default)]
pub struct Recorder {
    pub calls: Vec<Call>,
    /// Record batches have begun: how long they will be.
    open: Option<u32>,
}

impl Visitor for Recorder {
    fn enter(&mut self, field: Field) {
        self.tell(Call::Enter(field));
    }

    fn leave(&mut self, field: Field) {
        self.tell(Call::Leave(field));
    }

    fn value(&mut self, field: Field, value: Value<'_>) {
        let told = match value {
            Value::Int(value) => Told::Int(value),
            Value::Text(bytes) => Told::Text(bytes.to_vec()),
            Value::Bytes(bytes) => Told::Bytes(bytes.to_vec()),
            Value::Uuid(bytes) => Told::Uuid(bytes),
            Value::Count(count) => Told::Count(count),
            Value::Null => Told::Null,
            Value::Unknown => Told::Unknown,
        };
        self.tell(Call::Value(field, told));
    }

    fn records_begin(&mut self, _: u64, length: u32) {
        self.tell(Call::Records(Vec::new()));
        self.open = Some(length);
    }

    fn records_data(&mut self, bytes: &[u8]) {
        assert!(!bytes.is_empty());
        self.records().extend(bytes.iter().map(|byte| Some(*byte)));
    }

    fn records_hole(&mut self, length: u64) {
        assert!(length > 0);
        self.records().extend(std::iter::repeat_n(None, length as usize));
    }

    fn records_end(&mut self) {
        let length = self.records().len();
        assert_eq!(self.open.take(), Some(length as u32), "records end where they should");
    }

    fn secret(&mut self, from: u64, length: u64) {
        self.tell(Call::Secret(from, length));
    }
}

impl Recorder {
    fn tell(&mut self, call: Call) {
        assert_eq!(self.open, None, "nothing is told inside of records");
        self.calls.push(call);
    }

    fn records(&mut self) -> &mut Vec<Option<u8>> {
        match self.calls.last_mut() {
            Some(Call::Records(bytes)) if self.open.is_some() => bytes,
            _ => panic!("bytes of records, and none have begun"),
        }
    }
}

/// What depends on a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Nothing that is told.
    Nothing,
    /// Where everything behind it is.
    Structure,
    /// The call with this number.
    Call(usize),
}

/// A request or a response from behind the fixed part of its header.
#[derive(Clone, Debug, Default)]
pub struct Body {
    pub bytes: Vec<u8>,
    /// For each byte.
    pub owners: Vec<Owner>,
    /// What a walk tells if all bytes are there.
    pub calls: Vec<Call>,
}

/// Draws a body of this version.
pub fn draw(table: &Table, message: &Message, version: i16, noise: &mut dyn FnMut() -> u32) -> Body {
    let flexible = message.flexible.contains(version);
    let mut writer = Writer { body: Body::default(), key: message.key, version, flexible, in_tag: false, noise };
    match message.kind {
        Kind::Request => writer.client_id(flexible),
        // ApiVersions: the client does not know yet whether the broker can do this.
        Kind::Response if flexible && message.key != 18 => writer.tags(&[]),
        Kind::Response | Kind::Data => {}
    }
    writer.fields(table.fields(message));
    writer.body
}

struct Writer<'n> {
    body: Body,
    key: i16,
    version: i16,
    flexible: bool,
    in_tag: bool,
    noise: &'n mut dyn FnMut() -> u32,
}

impl Writer<'_> {
    fn draw(&mut self, below: u32) -> u32 {
        (self.noise)() % below
    }

    fn write(&mut self, bytes: &[u8], owner: Owner) {
        self.body.bytes.extend(bytes);
        self.body.owners.extend(bytes.iter().map(|_| owner));
    }

    fn structure(&mut self, bytes: &[u8]) {
        self.write(bytes, Owner::Structure);
    }

    fn uvarint(&mut self, mut value: usize) {
        while value >= 0x80 {
            self.structure(&[value as u8 | 0x80]);
            value >>= 7;
        }
        self.structure(&[value as u8]);
    }

    /// A length or count; `None` is null.
    fn length(&mut self, length: Option<usize>, short: bool) {
        match length {
            _ if self.flexible => self.uvarint(length.map_or(0, |length| length + 1)),
            _ if short => self.structure(&length.map_or(-1, |length| length as i16).to_be_bytes()),
            _ => self.structure(&length.map_or(-1, |length| length as i32).to_be_bytes()),
        }
    }

    fn tell(&mut self, field: Option<Field>, told: Told) {
        if let Some(field) = field {
            self.body.calls.push(Call::Value(field, told));
        }
    }

    /// A value of a field that has a meaning, or of one that has none.
    fn value(&mut self, field: Option<Field>, told: Told, bytes: &[u8]) {
        let owner = if field.is_some() { Owner::Call(self.body.calls.len()) } else { Owner::Nothing };
        self.tell(field, told);
        self.write(bytes, owner);
    }

    /// Always with an old-style length.
    fn client_id(&mut self, flexible: bool) {
        self.flexible = false;
        self.text(Some(Field::ClientId), true);
        self.flexible = flexible;
        if flexible {
            self.tags(&[]);
        }
    }

    fn fields(&mut self, nodes: &[Node]) {
        let mut tagged = Vec::new();
        for (node, inner) in siblings(nodes) {
            if !node.versions.contains(self.version) {
                continue;
            }
            if node.tagged.contains(self.version) {
                tagged.push((node, inner));
            } else {
                self.field(node, inner);
            }
        }
        if self.flexible {
            tagged.retain(|_| self.draw(2) == 0);
            tagged.sort_by_key(|(node, _)| node.tag);
            self.tags(&tagged);
        }
    }

    fn tags(&mut self, tagged: &[(&Node, &[Node])]) {
        let unknown = if self.draw(5) == 0 { 1 + self.draw(3) as usize } else { 0 };
        self.uvarint(tagged.len() + unknown);
        for (node, inner) in tagged {
            self.uvarint(node.tag as usize);
            let before = self.body.bytes.len();
            let was_in_tag = std::mem::replace(&mut self.in_tag, true);
            self.field(node, inner);
            self.in_tag = was_in_tag;
            // Its size stands before it, and is known now.
            let bytes = self.body.bytes.split_off(before);
            let mut owners = self.body.owners.split_off(before);
            if node.meaning.is_none() && inner.iter().all(|node| node.meaning.is_none()) {
                // Passed over by its size.
                owners.fill(Owner::Nothing);
            }
            self.uvarint(bytes.len());
            self.body.bytes.extend(bytes);
            self.body.owners.extend(owners);
        }
        for tag in 0..unknown {
            self.uvarint(100 + 100 * tag);
            let content = self.random_bytes(false);
            self.uvarint(content.len());
            self.write(&content, Owner::Nothing);
        }
    }

    fn field(&mut self, node: &Node, inner: &[Node]) {
        // A tagged field that has its default would not be written by everybody.
        let null = node.nullable.contains(self.version) && !self.in_tag && self.draw(4) == 0;
        if node.array {
            return self.array(node, inner, null);
        }
        match node.kind {
            Type::Struct => self.nested(node, inner, null),
            // Drawn at random it could say that what follows is in version 0, on which all of the rest depends.
            Type::Int16 if self.key == 18 && self.version > 0 && node.meaning == Some(Field::ErrorCode) => {
                self.tell(node.meaning, Told::Int(0));
                self.structure(&[0, 0]);
            }
            _ => self.scalar(node, null),
        }
    }

    fn nested(&mut self, node: &Node, inner: &[Node], null: bool) {
        if node.nullable.contains(self.version) {
            self.structure(&[if null { 0xff } else { 1 }]);
        }
        if null {
            return self.tell(node.meaning, Told::Null);
        }
        self.body.calls.extend(node.meaning.map(Call::Enter));
        self.fields(inner);
        self.body.calls.extend(node.meaning.map(Call::Leave));
    }

    fn array(&mut self, node: &Node, inner: &[Node], null: bool) {
        let count = match self.draw(12) {
            _ if null => None,
            // More than one byte of a varint counts.
            0 if node.kind != Type::Struct => Some(150),
            few => Some(few as usize % 4 + usize::from(self.in_tag)),
        };
        self.length(count, false);
        self.tell(node.meaning, count.map_or(Told::Null, |count| Told::Count(count as u32)));
        for _ in 0..count.unwrap_or(0) {
            if node.kind == Type::Struct {
                self.body.calls.extend(node.meaning.map(Call::Enter));
                self.fields(inner);
                self.body.calls.extend(node.meaning.map(Call::Leave));
            } else {
                self.scalar(node, false);
            }
        }
    }

    fn scalar(&mut self, node: &Node, null: bool) {
        let field = node.meaning;
        match node.kind {
            Type::Bool => {
                let value = self.in_tag || self.draw(2) == 0;
                self.value(field, Told::Int(i64::from(value)), &[u8::from(value)]);
            }
            Type::Int8 | Type::Int16 | Type::Int32 | Type::Int64 => self.int(node),
            Type::Uuid => {
                let uuid: [u8; 16] = std::array::from_fn(|_| self.draw(256) as u8);
                self.value(field, Told::Uuid(uuid), &uuid);
            }
            Type::String if null => self.null(field, true),
            Type::String => self.text(field, false),
            Type::Bytes | Type::Records if null => self.null(field, false),
            Type::Bytes if field == Some(Field::Secret) => {
                let bytes = self.random_bytes(false);
                self.length(Some(bytes.len()), false);
                self.body.calls.push(Call::Secret(self.body.bytes.len() as u64, bytes.len() as u64));
                self.write(&bytes, Owner::Nothing);
            }
            Type::Bytes => self.bytes(field),
            Type::Records => {
                let bytes = self.random_bytes(false);
                self.length(Some(bytes.len()), false);
                let owner = Owner::Call(self.body.calls.len());
                self.body.calls.push(Call::Records(bytes.iter().map(|byte| Some(*byte)).collect()));
                self.write(&bytes, owner);
            }
            Type::Struct => panic!("a struct is no scalar"),
        }
    }

    fn int(&mut self, node: &Node) {
        let value = i64::from(self.draw(u32::MAX)) << 32 | i64::from(self.draw(u32::MAX));
        let bytes = value.to_be_bytes();
        match node.kind {
            Type::Int8 => self.value(node.meaning, Told::Int(i64::from(value as i8)), &bytes[7..]),
            Type::Int16 => self.value(node.meaning, Told::Int(i64::from(value as i16)), &bytes[6..]),
            Type::Int32 => self.value(node.meaning, Told::Int(i64::from(value as i32)), &bytes[4..]),
            _ => self.value(node.meaning, Told::Int(value), &bytes),
        }
    }

    fn null(&mut self, field: Option<Field>, short: bool) {
        self.length(None, short);
        self.tell(field, Told::Null);
    }

    fn text(&mut self, field: Option<Field>, nullable: bool) {
        if nullable && self.draw(4) == 0 {
            return self.null(field, true);
        }
        let text: Vec<u8> = self.random_bytes(false).iter().map(|byte| b'a' + byte % 26).collect();
        self.length(Some(text.len()), true);
        let told = if text.len() > 1024 { Told::Unknown } else { Told::Text(text.clone()) };
        self.value(field, told, &text);
    }

    fn bytes(&mut self, field: Option<Field>) {
        let bytes = self.random_bytes(true);
        self.length(Some(bytes.len()), false);
        let longest = match field {
            Some(Field::Subscription | Field::Assignment) => 65536,
            _ => 1024,
        };
        let told = if bytes.len() > longest { Told::Unknown } else { Told::Bytes(bytes.clone()) };
        self.value(field, told, &bytes);
    }

    /// Mostly few; sometimes about as many as are kept, or as need a longer length.
    fn random_bytes(&mut self, many: bool) -> Vec<u8> {
        let length = match self.draw(60) {
            0 => 1023 + self.draw(4),
            1 => 126 + self.draw(4),
            2 => 0,
            3 if many => 65_535 + self.draw(3),
            _ => 1 + self.draw(20),
        };
        (0..length).map(|_| self.draw(256) as u8).collect()
    }
}

/// Each field of a struct with what is in it.
fn siblings(nodes: &[Node]) -> impl Iterator<Item = (&Node, &[Node])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let node = nodes.get(at)?;
        let inner = at + 1
            ..nodes[at + 1..]
                .iter()
                .position(|next| next.depth <= node.depth)
                .map_or(nodes.len(), |next| at + 1 + next);
        at = inner.end;
        Some((node, &nodes[inner]))
    })
}

/// Numbers that look random, the same ones for the same seed.
pub fn noise(seed: u64) -> impl FnMut() -> u32 {
    let mut state = seed;
    move || {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed >> 32) as u32
    }
}
