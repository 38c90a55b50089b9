//! Patterns with `*` (any characters) and `?` (one character); `\` takes the next character as it is.

use std::fmt;

/// A pattern, ready to match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    pieces: Vec<Piece>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Char(char),
    One,
    Many,
}

impl Glob {
    /// Reads a pattern. A backslash at the end stands for itself.
    pub fn new(pattern: &str) -> Glob {
        let mut pieces = Vec::new();
        let mut characters = pattern.chars();
        while let Some(character) = characters.next() {
            let piece = match character {
                '*' => Piece::Many,
                '?' => Piece::One,
                '\\' => Piece::Char(characters.next().unwrap_or('\\')),
                other => Piece::Char(other),
            };
            if piece != Piece::Many || pieces.last() != Some(&Piece::Many) {
                pieces.push(piece);
            }
        }
        Glob { pieces }
    }

    /// Whether the whole text matches.
    pub fn matches(&self, text: &str) -> bool {
        self.run(text, |left, right| left == right)
    }

    /// Whether the whole text matches, ASCII letters of either case being equal.
    pub fn matches_ignoring_case(&self, text: &str) -> bool {
        self.run(text, |left, right| left.eq_ignore_ascii_case(&right))
    }

    /// Remembers only the last `*`: enough for patterns without alternatives, and at worst length × length.
    fn run(&self, text: &str, equal: impl Fn(char, char) -> bool) -> bool {
        let mut rest = text.chars();
        let mut at = 0;
        let mut star: Option<(usize, std::str::Chars<'_>)> = None;
        loop {
            let here = rest.clone();
            let fits = match (self.pieces.get(at), rest.next()) {
                (None, None) => return true,
                (Some(Piece::Many), _) => {
                    rest = here.clone();
                    star = Some((at + 1, here));
                    true
                }
                (Some(Piece::One), Some(_)) => true,
                (Some(Piece::Char(wanted)), Some(character)) => equal(*wanted, character),
                _ => false,
            };
            if fits {
                at += 1;
                continue;
            }
            let Some((behind, from)) = &mut star else { return false };
            if from.next().is_none() {
                return false;
            }
            at = *behind;
            rest = from.clone();
        }
    }
}

/// The pattern as the filter language writes it, in quotes where it must be.
impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let special = |character: char| {
            character.is_whitespace() || matches!(character, '(' | ')' | '|' | ',' | '"' | '=' | '<' | '>' | '!')
        };
        let quoted = self.pieces.is_empty()
            || self.pieces.iter().any(|piece| matches!(piece, Piece::Char(character) if special(*character)));
        let quote = if quoted { "\"" } else { "" };
        f.write_str(quote)?;
        for piece in &self.pieces {
            match piece {
                Piece::Many => f.write_str("*")?,
                Piece::One => f.write_str("?")?,
                Piece::Char(character @ ('*' | '?' | '\\' | '"')) => write!(f, "\\{character}")?,
                Piece::Char(character) => write!(f, "{character}")?,
            }
        }
        f.write_str(quote)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn stars_and_question_marks() {
        for (pattern, text, expected) in [
            ("orders*", "orders.eu", true),
            ("orders*", "orders", true),
            ("orders", "orders.eu", false),
            ("*dead*", "work.dead.letters", true),
            ("a?c", "aéc", true),
            ("a?c", "ac", false),
            ("*a*b", "xaxbxab", true),
            ("*a*b", "xaxbxa", false),
            ("", "", true),
            ("", "x", false),
            ("*", "", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("end\\", "end\\", true),
        ] {
            assert_eq!(Glob::new(pattern).matches(text), expected, "{pattern} against {text}");
        }
        assert!(Glob::new("DEAD*").matches_ignoring_case("DeadLettered"));
    }

    #[test]
    fn many_stars_do_not_explode() {
        let pattern = Glob::new(&"*a".repeat(200));
        assert!(!pattern.matches(&"a".repeat(199)));
        assert!(pattern.matches(&"a".repeat(2000)));
    }

    /// The definition, spelled out by recursion.
    fn slow(pattern: &[Piece], text: &[char]) -> bool {
        match (pattern.first(), text.first()) {
            (None, None) => true,
            (Some(Piece::Many), _) => slow(&pattern[1..], text) || (!text.is_empty() && slow(pattern, &text[1..])),
            (Some(Piece::One), Some(_)) => slow(&pattern[1..], &text[1..]),
            (Some(Piece::Char(wanted)), Some(character)) => wanted == character && slow(&pattern[1..], &text[1..]),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn matches_like_the_definition(pattern in "[ab*?]{0,8}", text in "[ab]{0,10}") {
            let glob = Glob::new(&pattern);
            let characters: Vec<char> = text.chars().collect();
            prop_assert_eq!(glob.matches(&text), slow(&glob.pieces, &characters));
        }
    }
}
