//! Names that come from the wire: queues, exchanges, routing keys, consumer tags, clients.
//!
//! They are hostile. A [`Name`] is valid UTF-8 (other bytes are escaped as `\xNN`), holds no control characters, and is
//! at most [`Names::LONGEST`] bytes long, a cut one ending in `…`. Equal names share one allocation, kept while somebody
//! uses it.

use std::rc::Rc;

use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;

/// A shared, cleaned name.
pub type Name = Rc<str>;

/// The table of names in use.
pub struct Names {
    table: HashTable<(Box<[u8]>, Name)>,
    hasher: DefaultHashBuilder,
    sweep_at: usize,
}

impl Default for Names {
    fn default() -> Self {
        Names { table: HashTable::new(), hasher: DefaultHashBuilder::default(), sweep_at: Self::FIRST_SWEEP }
    }
}

impl Names {
    /// The longest name kept, in bytes. AMQP's short strings are at most 255 bytes anyway; escaping may lengthen them.
    pub const LONGEST: usize = 512;
    const FIRST_SWEEP: usize = 4096;

    /// The shared name for these bytes of the wire.
    pub fn intern(&mut self, wire: &[u8]) -> Name {
        let hash = self.hasher.hash_one(wire);
        if let Some((_, name)) = self.table.find(hash, |(key, _)| &**key == wire) {
            return name.clone();
        }
        if self.table.len() >= self.sweep_at {
            self.sweep();
        }
        let name: Name = clean(wire).into();
        let key: Box<[u8]> = wire[..wire.len().min(4 * Self::LONGEST)].into();
        if key.len() == wire.len() {
            let hasher = &self.hasher;
            self.table.insert_unique(hash, (key, name.clone()), |(key, _)| hasher.hash_one(&**key));
        }
        name
    }

    /// How many names are in the table.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Forgets the names that nobody uses. What is left is in use, so the table is bounded by its users' own budgets.
    fn sweep(&mut self) {
        self.table.retain(|(_, name)| Rc::strong_count(name) > 1);
        self.sweep_at = (self.table.len() * 2).max(Self::FIRST_SWEEP);
    }
}

/// Printable text for bytes of the wire: invalid UTF-8 and control characters escaped, cut at [`Names::LONGEST`].
pub fn clean(wire: &[u8]) -> String {
    let mut text = String::with_capacity(wire.len().min(Names::LONGEST));
    for chunk in wire.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() || is_invisible(character) {
                text.extend(character.escape_unicode());
            } else {
                text.push(character);
            }
            if text.len() > Names::LONGEST {
                return cut(text);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
        if text.len() > Names::LONGEST {
            return cut(text);
        }
    }
    text
}

/// Direction overrides and zero-width characters: they make a terminal or a page show something else than what is there.
fn is_invisible(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn cut(mut text: String) -> String {
    let mut end = Names::LONGEST - '…'.len_utf8();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text.push('…');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_share_one_allocation() {
        let mut names = Names::default();
        let first = names.intern(b"orders");
        assert!(Rc::ptr_eq(&first, &names.intern(b"orders")));
        assert_eq!(names.len(), 1);
    }

    #[test]
    fn hostile_names_are_escaped_and_cut() {
        assert_eq!(clean(b"a\x1b[31mb"), "a\\u{1b}[31mb");
        assert_eq!(clean(b"\xff\x00"), "\\xff\\u{0}");
        assert_eq!(clean("a\u{202e}b".as_bytes()), "a\\u{202e}b");
        let long = clean(&vec![b'x'; 10_000]);
        assert!(long.len() <= Names::LONGEST && long.ends_with('…'));
        assert!(clean("é".repeat(10_000).as_bytes()).len() <= Names::LONGEST);
    }

    #[test]
    fn names_that_nobody_uses_are_forgotten() {
        let mut names = Names::default();
        let kept = names.intern(b"kept");
        for number in 0..100_000u32 {
            names.intern(format!("amq.gen-{number}").as_bytes());
        }
        assert!(names.len() <= 2 * Names::FIRST_SWEEP, "{}", names.len());
        assert!(Rc::ptr_eq(&kept, &names.intern(b"kept")));
    }
}
