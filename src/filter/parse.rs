//! From text to expression, by recursive descent of bounded depth.

use crate::lifecycle::transition::{Evidence, Reason, Settlement, State};
use crate::suggest;
use crate::units::{parse_duration, parse_size};

use super::{Comparison, Expression, Field, Filter, FilterError, KEYS, Key, Kind, Term, Test};
use crate::glob::Glob;

/// Reads the whole text; `None` where it is empty.
pub(super) fn parse(text: &str) -> Result<Option<Expression>, FilterError> {
    if text.len() > Filter::LONGEST {
        return Err(FilterError { position: 0, message: format!("longer than {} bytes", Filter::LONGEST) });
    }
    let mut parser = Parser { characters: text.chars().collect(), at: 0 };
    parser.skip_space();
    if parser.peek().is_none() {
        return Ok(None);
    }
    let expression = parser.either(0)?;
    match parser.peek() {
        None => Ok(Some(expression)),
        Some(_) => Err(parser.error("a parenthesis is closed that was not opened")),
    }
}

struct Parser {
    characters: Vec<char>,
    at: usize,
}

/// The operator between name and value.
#[derive(Clone, Copy)]
enum Operator {
    Equal,
    NotEqual,
    Compare(Comparison),
}

impl Parser {
    /// `all or all or …`
    fn either(&mut self, depth: usize) -> Result<Expression, FilterError> {
        let mut choices = vec![self.all(depth)?];
        while self.word("or") {
            choices.push(self.all(depth)?);
        }
        Ok(single(choices, Expression::Any))
    }

    /// Terms next to each other, with or without `and`.
    fn all(&mut self, depth: usize) -> Result<Expression, FilterError> {
        let mut terms = vec![self.unary(depth)?];
        loop {
            let explicit = self.word("and");
            match self.peek() {
                None | Some(')') if !explicit => break,
                Some(_) if !explicit && self.at_word("or") => break,
                _ => terms.push(self.unary(depth)?),
            }
        }
        Ok(single(terms, Expression::All))
    }

    fn unary(&mut self, depth: usize) -> Result<Expression, FilterError> {
        if depth >= Filter::DEEPEST {
            return Err(self.error(format!("nested more than {} deep", Filter::DEEPEST)));
        }
        if self.take('!') || self.word("not") {
            self.skip_space();
            return Ok(negate(self.unary(depth + 1)?));
        }
        if self.take('(') {
            self.skip_space();
            let inner = self.either(depth + 1)?;
            if !self.take(')') {
                return Err(self.error("a closing parenthesis is missing"));
            }
            self.skip_space();
            return Ok(inner);
        }
        self.term()
    }

    fn term(&mut self) -> Result<Expression, FilterError> {
        let start = self.at;
        let key = self.key()?;
        let operator_at = self.at;
        let operator = self.operator(key)?;
        if !allowed(key.kind, operator) {
            let message = format!("{} knows {} only", key.name, operators(key.kind));
            return Err(FilterError { position: operator_at, message });
        }
        self.skip_space();
        let values = self.values(key)?;
        let test = match operator {
            Operator::Compare(comparison) => match values.as_slice() {
                [(at, value)] => Test::Compare(comparison, number(key, value, *at)?, key.kind),
                _ => return Err(FilterError { position: start, message: "one value only behind < and >".to_owned() }),
            },
            _ => equality(key, &values)?,
        };
        self.skip_space();
        let term = Expression::Term(Term { field: key.field, test });
        Ok(if matches!(operator, Operator::NotEqual) { negate(term) } else { term })
    }

    fn key(&mut self) -> Result<&'static Key, FilterError> {
        let start = self.at;
        let name: String = self.while_(|character| character.is_alphanumeric() || "_-.".contains(character));
        if name.is_empty() {
            return Err(self.error("expected a term such as queue=orders*"));
        }
        let lower = name.to_ascii_lowercase().replace('-', "_");
        let known = KEYS.iter().find(|key| key.name == lower || key.aliases.contains(&lower.as_str()));
        self.skip_space();
        known.ok_or_else(|| {
            let names: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
            let hint = suggest::hint(&lower, names.iter().copied());
            let message = format!("there is no {name:?}{hint}; allowed: {}", names.join(", "));
            FilterError { position: start, message }
        })
    }

    fn operator(&mut self, key: &Key) -> Result<Operator, FilterError> {
        let second_equal = self.characters.get(self.at + 1) == Some(&'=');
        let (operator, length) = match (self.peek(), second_equal) {
            (Some('='), _) => (Operator::Equal, 1),
            (Some('!'), true) => (Operator::NotEqual, 2),
            (Some('>'), true) => (Operator::Compare(Comparison::AtLeast), 2),
            (Some('<'), true) => (Operator::Compare(Comparison::AtMost), 2),
            (Some('>'), false) => (Operator::Compare(Comparison::Greater), 1),
            (Some('<'), false) => (Operator::Compare(Comparison::Less), 1),
            _ => {
                return Err(self.error(format!("expected {} behind {}", operators(key.kind), key.name)));
            }
        };
        self.at += length;
        Ok(operator)
    }

    /// One value or several, each with its place.
    fn values(&mut self, key: &Key) -> Result<Vec<(usize, String)>, FilterError> {
        let mut values = Vec::new();
        loop {
            let at = self.at;
            let value = if self.peek() == Some('"') { self.quoted()? } else { self.bare() };
            let quoted = self.characters.get(at) == Some(&'"');
            if value.is_empty() && !quoted {
                let message = format!("a value is missing behind {}: {}", key.name, form(key.kind));
                return Err(FilterError { position: at, message });
            }
            values.push((at, value));
            if !(self.take('|') || self.take(',')) {
                return Ok(values);
            }
        }
    }

    /// Keeps backslashes: the pattern reads them.
    fn bare(&mut self) -> String {
        let mut escaped = false;
        self.while_(|character| {
            let ends = character.is_whitespace() || "()|,\"=<>!".contains(character);
            let goes_on = !character.is_whitespace() && (escaped || !ends);
            escaped = character == '\\' && !escaped;
            goes_on
        })
    }

    fn quoted(&mut self) -> Result<String, FilterError> {
        let start = self.at;
        self.at += 1;
        let mut escaped = false;
        let value = self.while_(|character| {
            let goes_on = escaped || character != '"';
            escaped = character == '\\' && !escaped;
            goes_on
        });
        if self.take('"') {
            return Ok(value);
        }
        Err(FilterError { position: start, message: "the closing quote is missing".to_owned() })
    }

    fn while_(&mut self, mut wanted: impl FnMut(char) -> bool) -> String {
        let start = self.at;
        while self.peek().is_some_and(&mut wanted) {
            self.at += 1;
        }
        self.characters[start..self.at].iter().collect()
    }

    fn peek(&self) -> Option<char> {
        self.characters.get(self.at).copied()
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    /// Whether the bare word stands here: followed by space, parenthesis or the end, not by an operator.
    fn at_word(&self, word: &str) -> bool {
        let mut characters = self.characters.iter().skip(self.at);
        let same =
            word.chars().all(|wanted| characters.next().is_some_and(|found| found.eq_ignore_ascii_case(&wanted)));
        same && characters.next().is_none_or(|next| next.is_whitespace() || "()!".contains(*next))
    }

    fn word(&mut self, word: &str) -> bool {
        let found = self.at_word(word);
        if found {
            self.at += word.len();
            self.skip_space();
        }
        found
    }

    fn skip_space(&mut self) {
        self.while_(char::is_whitespace);
    }

    fn error(&self, message: impl Into<String>) -> FilterError {
        FilterError { position: self.at, message: message.into() }
    }
}

fn single(mut inner: Vec<Expression>, several: impl Fn(Vec<Expression>) -> Expression) -> Expression {
    match inner.pop() {
        Some(only) if inner.is_empty() => only,
        Some(last) => {
            inner.push(last);
            several(inner)
        }
        None => several(inner),
    }
}

fn negate(expression: Expression) -> Expression {
    match expression {
        Expression::Not(inner) => *inner,
        other => Expression::Not(Box::new(other)),
    }
}

fn allowed(kind: Kind, operator: Operator) -> bool {
    match operator {
        Operator::Compare(_) => matches!(kind, Kind::Number | Kind::Size | Kind::Duration),
        _ => kind != Kind::Duration,
    }
}

fn operators(kind: Kind) -> &'static str {
    match kind {
        Kind::Text | Kind::Word | Kind::Flag => "= or !=",
        Kind::Number | Kind::Size => "=, !=, >, >=, < or <=",
        Kind::Duration => ">, >=, < or <=",
    }
}

fn form(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => {
            "text, with * for anything and ? for one character; in double quotes if it holds a space or ()|,=<>!"
        }
        Kind::Word => "a name, with * for anything and ? for one character",
        Kind::Number => "a whole number",
        Kind::Size => crate::units::SIZE_FORM,
        Kind::Duration => crate::units::DURATION_FORM,
        Kind::Flag => "yes or no",
    }
}

fn equality(key: &Key, values: &[(usize, String)]) -> Result<Test, FilterError> {
    match key.kind {
        Kind::Text => Ok(Test::Text(values.iter().map(|(_, value)| Glob::new(value)).collect())),
        Kind::Word => {
            let globs: Result<Vec<Glob>, FilterError> =
                values.iter().map(|(at, value)| word(key, value, *at)).collect();
            Ok(Test::Word(globs?))
        }
        Kind::Flag => match values {
            [(at, value)] => flag(key, value, *at).map(Test::Flag),
            _ => {
                let position = values.get(1).map_or(0, |(at, _)| *at);
                Err(FilterError { position, message: "yes or no, not both".to_owned() })
            }
        },
        Kind::Number | Kind::Size | Kind::Duration => {
            let numbers: Result<Vec<u64>, FilterError> =
                values.iter().map(|(at, value)| number(key, value, *at)).collect();
            Ok(Test::Equal(numbers?, key.kind))
        }
    }
}

/// A word that matches nothing is a slip, not a wish to see nothing.
fn word(key: &Key, value: &str, position: usize) -> Result<Glob, FilterError> {
    let names = names(key.field);
    let glob = Glob::new(value);
    if names.iter().any(|name| glob.matches_ignoring_case(name)) {
        return Ok(glob);
    }
    let hint = suggest::hint(value, names.iter().copied());
    let message = format!("no {} is called {value:?}{hint}; allowed: {}", key.name, names.join(", "));
    Err(FilterError { position, message })
}

fn names(field: Field) -> Vec<&'static str> {
    match field {
        Field::Reason => Reason::ALL.map(|reason| reason.name()).to_vec(),
        Field::Evidence => [Evidence::Observed, Evidence::Inferred].map(Evidence::name).to_vec(),
        Field::Settlement => {
            [Settlement::Explicit, Settlement::Multiple, Settlement::Automatic].map(Settlement::name).to_vec()
        }
        _ => State::ALL.map(State::name).to_vec(),
    }
}

fn flag(key: &Key, value: &str, position: usize) -> Result<bool, FilterError> {
    match value.to_ascii_lowercase().as_str() {
        "yes" | "true" | "1" => Ok(true),
        "no" | "false" | "0" => Ok(false),
        _ => Err(FilterError { position, message: format!("{} is yes or no, not {value:?}", key.name) }),
    }
}

fn number(key: &Key, value: &str, position: usize) -> Result<u64, FilterError> {
    let read = match key.kind {
        Kind::Duration => parse_duration(value).map(|duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)),
        Kind::Size => parse_size(value),
        _ => value.parse().map_err(|_| format!("{value:?} is no whole number")),
    };
    read.map_err(|message| FilterError { position, message: format!("{}: {message}", key.name) })
}
