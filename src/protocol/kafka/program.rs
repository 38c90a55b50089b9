//! A version of a message as a list of instructions: what a field's version range decides is decided here, once.

use super::field::Field;
use super::table::{Kind, Message, Node, Table, Type, siblings};

/// ApiVersions, whose responses are special: they never have a tagged header, and an unsupported version is answered in
/// version 0 (KIP-511).
pub(super) const API_VERSIONS: i16 = 18;

/// How a length is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// Unsigned varint of the length and one; 0 is null.
    Compact,
    /// Two bytes; -1 is null.
    Short,
    /// Four bytes; -1 is null.
    Long,
}

/// One step through a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Instruction {
    /// So many bytes without meaning.
    Pass { length: u16 },
    /// An integer of 1, 2, 4 or 8 bytes.
    Int { field: Field, width: u8 },
    /// Sixteen bytes.
    Uuid { field: Field },
    /// A string.
    Text { field: Option<Field>, length: Length, nullable: bool },
    /// Bytes.
    Bytes { field: Option<Field>, length: Length, nullable: bool },
    /// Bytes that nobody may see.
    Secret { length: Length, nullable: bool },
    /// Record batches.
    Records { length: Length, nullable: bool },
    /// An array, whose element is the instructions up to its [`Instruction::Repeat`].
    Array(Array),
    /// The end of an array's element.
    Repeat { field: Option<Field>, begin: u16 },
    /// An array without meaning of elements of so many bytes.
    PassArray { length: Length, nullable: bool, width: u16 },
    /// A struct begins.
    Enter { field: Field },
    /// A struct ends.
    Leave { field: Field },
    /// A struct that may be null, which a byte says. It ends before `end`.
    Optional { field: Option<Field>, end: u16 },
    /// Tagged fields: their number. Two instructions for each of them follow.
    Tags,
    /// The next tagged field's number.
    NextTag,
    /// Its size. [`Program::known`] has those with a meaning in these places.
    TagContent { first: u16, count: u8 },
    /// The end of a tagged field; the next one's number is read at `back`.
    TagEnd { back: u16 },
    /// An error code. If it says that the version is not supported, the rest is in version 0, at `old`.
    Version { old: u16 },
    /// The body ends.
    End,
}

/// An array that has a meaning, or elements that differ in size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Array {
    pub field: Option<Field>,
    /// Elements are structs: entered and left, if they have a meaning.
    pub scope: bool,
    pub length: Length,
    pub nullable: bool,
    /// No element has fewer bytes.
    pub smallest: u8,
    /// What comes behind it.
    pub end: u16,
}

/// A tagged field that has a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// Its number.
    pub tag: u32,
    /// Its instructions.
    pub begin: u16,
}

/// How to read one version of one message, from behind the fixed part of its header.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Program {
    pub instructions: Vec<Instruction>,
    pub known: Vec<Known>,
    /// How many arrays and tagged fields are in each other at most.
    pub depth: usize,
    /// Something in it is secret.
    pub secret: bool,
}

impl Program {
    /// Compiles a version of a message.
    pub fn new(table: &Table, message: &Message, version: i16) -> Program {
        let flexible = message.flexible.contains(version);
        let mut compiler = Compiler { program: Program::default(), version, flexible, pass: 0, waiting: Vec::new() };
        match message.kind {
            Kind::Request => {
                let field = Some(Field::ClientId);
                compiler.push(Instruction::Text { field, length: Length::Short, nullable: true });
                compiler.header_tags(flexible);
            }
            Kind::Response => compiler.header_tags(flexible && message.key != API_VERSIONS),
            Kind::Data => {}
        }
        compiler.message(table.fields(message));
        if message.kind == Kind::Response && message.key == API_VERSIONS && version > 0 {
            compiler.fall_back(table.fields(message));
        }
        compiler.program
    }
}

struct Compiler<'t> {
    program: Program,
    version: i16,
    flexible: bool,
    /// Bytes to pass over before the next instruction.
    pass: u16,
    /// Tagged fields whose instructions come behind the end.
    waiting: Vec<Waiting<'t>>,
}

struct Waiting<'t> {
    known: usize,
    node: &'t Node,
    inner: &'t [Node],
    back: u16,
    depth: usize,
}

impl<'t> Compiler<'t> {
    fn message(&mut self, fields: &'t [Node]) {
        self.fields(fields, 0);
        self.push(Instruction::End);
        while let Some(waiting) = self.waiting.pop() {
            let begin = self.here();
            if let Some(known) = self.program.known.get_mut(waiting.known) {
                known.begin = begin;
            }
            self.field(waiting.node, waiting.inner, waiting.depth);
            self.push(Instruction::TagEnd { back: waiting.back });
        }
    }

    /// Puts version 0 behind a version whose first field is the error code.
    fn fall_back(&mut self, fields: &'t [Node]) {
        (self.version, self.flexible) = (0, false);
        let begin = self.here();
        self.message(fields);
        if let Some(first) = self.program.instructions.first_mut() {
            *first = Instruction::Version { old: begin + 1 };
        }
    }

    fn header_tags(&mut self, flexible: bool) {
        if flexible {
            self.tags(&[], 0);
        }
    }

    /// The fields of a struct, and the bytes that they have at least.
    fn fields(&mut self, fields: &'t [Node], depth: usize) -> usize {
        let mut smallest = 0;
        let mut tagged = Vec::new();
        let version = self.version;
        for (node, inner) in siblings(fields).filter(|(node, _)| node.versions.contains(version)) {
            if node.tagged.contains(self.version) {
                tagged.push((node, inner));
            } else {
                smallest += self.field(node, inner, depth);
            }
        }
        if self.flexible {
            smallest += self.tags(&tagged, depth);
        }
        smallest
    }

    /// A field, and the bytes that it has at least.
    fn field(&mut self, node: &'t Node, inner: &'t [Node], depth: usize) -> usize {
        let nullable = node.nullable.contains(self.version);
        match node.kind {
            _ if node.array => self.array(node, inner, nullable, depth),
            Type::Struct => self.structure(node, inner, nullable, depth),
            _ => self.value(node, nullable),
        }
    }

    fn value(&mut self, node: &Node, nullable: bool) -> usize {
        let field = node.meaning;
        let short = if self.flexible { Length::Compact } else { Length::Short };
        let long = if self.flexible { Length::Compact } else { Length::Long };
        match (node.kind, field) {
            (Type::String, _) => self.sized(Instruction::Text { field, length: short, nullable }, short),
            (Type::Bytes, Some(Field::Secret)) => {
                self.program.secret = true;
                self.sized(Instruction::Secret { length: long, nullable }, long)
            }
            (Type::Bytes, _) => self.sized(Instruction::Bytes { field, length: long, nullable }, long),
            (Type::Records, _) => self.sized(Instruction::Records { length: long, nullable }, long),
            (Type::Uuid, Some(field)) => {
                self.push(Instruction::Uuid { field });
                16
            }
            (kind, Some(field)) => {
                let width = width(kind);
                self.push(Instruction::Int { field, width });
                usize::from(width)
            }
            (kind, None) => {
                let width = width(kind);
                self.pass += u16::from(width);
                usize::from(width)
            }
        }
    }

    /// A value that begins with its length.
    fn sized(&mut self, instruction: Instruction, length: Length) -> usize {
        self.push(instruction);
        size(length)
    }

    fn structure(&mut self, node: &'t Node, inner: &'t [Node], nullable: bool, depth: usize) -> usize {
        let field = node.meaning;
        if !nullable {
            if let Some(field) = field {
                self.push(Instruction::Enter { field });
            }
            let smallest = self.fields(inner, depth);
            self.leave(field);
            return smallest;
        }
        let place = self.reserve();
        self.fields(inner, depth);
        self.leave(field);
        let end = self.here();
        self.set(place, Instruction::Optional { field, end });
        1
    }

    fn leave(&mut self, field: Option<Field>) {
        if let Some(field) = field {
            self.push(Instruction::Leave { field });
        }
    }

    fn array(&mut self, node: &'t Node, inner: &'t [Node], nullable: bool, depth: usize) -> usize {
        let length = if self.flexible { Length::Compact } else { Length::Long };
        let scope = node.kind == Type::Struct;
        let place = self.reserve();
        let begin = self.here();
        let smallest = if scope { self.fields(inner, depth + 1) } else { self.value(node, false) };
        if usize::from(begin) == self.program.instructions.len() && node.meaning.is_none() {
            // Nothing but bytes to pass over.
            let width = std::mem::take(&mut self.pass);
            self.set(place, Instruction::PassArray { length, nullable, width });
            return size(length);
        }
        let field = node.meaning;
        self.push(Instruction::Repeat { field: field.filter(|_| scope), begin });
        // What the array's own frame needs.
        self.program.depth = self.program.depth.max(depth + 1);
        let smallest = u8::try_from(smallest.max(1)).unwrap_or(u8::MAX);
        let end = self.here();
        self.set(place, Instruction::Array(Array { field, scope, length, nullable, smallest, end }));
        size(length)
    }

    fn tags(&mut self, tagged: &[(&'t Node, &'t [Node])], depth: usize) -> usize {
        self.push(Instruction::Tags);
        let back = self.here();
        self.push(Instruction::NextTag);
        let known = &mut self.program.known;
        let first = known.len();
        for (node, inner) in tagged.iter().filter(|(node, inner)| has_meaning(node, inner)) {
            self.waiting.push(Waiting { known: known.len(), node, inner, back, depth: depth + 1 });
            known.push(Known { tag: node.tag, begin: 0 });
        }
        let count = (known.len() - first) as u8;
        self.push(Instruction::TagContent { first: first as u16, count });
        self.program.depth = self.program.depth.max(depth + 1);
        1
    }

    /// Where the next instruction will be, once what is to be passed over has been.
    fn here(&mut self) -> u16 {
        self.flush();
        self.program.instructions.len() as u16
    }

    fn push(&mut self, instruction: Instruction) {
        self.flush();
        self.program.instructions.push(instruction);
    }

    /// A place for an instruction that needs to know what comes behind it.
    fn reserve(&mut self) -> usize {
        self.push(Instruction::End);
        self.program.instructions.len() - 1
    }

    fn set(&mut self, place: usize, instruction: Instruction) {
        if let Some(found) = self.program.instructions.get_mut(place) {
            *found = instruction;
        }
    }

    fn flush(&mut self) {
        if self.pass > 0 {
            self.program.instructions.push(Instruction::Pass { length: self.pass });
            self.pass = 0;
        }
    }
}

fn has_meaning(node: &Node, inner: &[Node]) -> bool {
    node.meaning.is_some() || inner.iter().any(|node| node.meaning.is_some())
}

/// Bytes of a length.
fn size(length: Length) -> usize {
    match length {
        Length::Compact => 1,
        Length::Short => 2,
        Length::Long => 4,
    }
}

/// Bytes of a value of fixed size.
fn width(kind: Type) -> u8 {
    match kind {
        Type::Bool | Type::Int8 => 1,
        Type::Int16 => 2,
        Type::Int32 => 4,
        Type::Int64 => 8,
        Type::Uuid => 16,
        Type::String | Type::Bytes | Type::Records | Type::Struct => 0,
    }
}
