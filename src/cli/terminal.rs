//! Colour, width and columns.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::fd::AsRawFd;

use crate::config::Color;

/// Whether to colour what goes to standard output.
pub fn colors_stdout(choice: Color) -> bool {
    colors(choice, |name| std::env::var_os(name), std::io::stdout().is_terminal())
}

/// Whether to colour: a choice decides; else `NO_COLOR` (if not empty), `CLICOLOR_FORCE`, `CLICOLOR=0` and `TERM=dumb`
/// (<https://no-color.org>, <https://bixense.com/clicolors>), else whether it is a terminal.
pub fn colors(choice: Color, variable: impl Fn(&str) -> Option<OsString>, terminal: bool) -> bool {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    match choice {
        Color::Always => true,
        Color::Never => false,
        Color::Auto if set("NO_COLOR").is_some() => false,
        Color::Auto if set("CLICOLOR_FORCE").is_some_and(|value| value != "0") => true,
        Color::Auto if set("CLICOLOR").is_some_and(|value| value == "0") => false,
        Color::Auto if set("TERM").is_some_and(|value| value == "dumb") => false,
        Color::Auto => terminal,
    }
}

/// Columns of the terminal at standard output: as `COLUMNS` says, else the terminal, else 100. Between 40 and 400.
pub fn width_stdout() -> usize {
    let said = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    said.or_else(terminal_width).unwrap_or(100).clamp(40, 400)
}

fn terminal_width() -> Option<usize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes a winsize to the address given, which is that of a live one.
    let answer = unsafe { libc::ioctl(std::io::stdout().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (answer == 0 && size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// A colour, or its absence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Style {
    #[default]
    Plain,
    Dim,
    Bold,
    Red,
    BoldRed,
    Green,
    Yellow,
    Blue,
    Magenta,
    Cyan,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Style::Plain => "",
            Style::Dim => "2",
            Style::Bold => "1",
            Style::Red => "31",
            Style::BoldRed => "1;31",
            Style::Green => "32",
            Style::Yellow => "33",
            Style::Blue => "34",
            Style::Magenta => "35",
            Style::Cyan => "36",
        }
    }

    /// Appends the text, coloured if `colors`.
    pub fn paint(self, text: &str, colors: bool, out: &mut String) {
        if colors && self != Style::Plain && !text.trim().is_empty() {
            out.push_str("\x1b[");
            out.push_str(self.code());
            out.push('m');
            out.push_str(text);
            out.push_str("\x1b[0m");
        } else {
            out.push_str(text);
        }
    }
}

/// Columns that a text takes: wide characters two, combining ones none.
pub fn columns(text: &str) -> usize {
    text.chars().map(character_columns).sum()
}

fn character_columns(character: char) -> usize {
    match u32::from(character) {
        0x20..=0x2ff => 1,
        0..0x20
        | 0x300..=0x36f
        | 0x1ab0..=0x1aff
        | 0x1dc0..=0x1dff
        | 0x200b..=0x200f
        | 0x20d0..=0x20ff
        | 0xfe00..=0xfe0f
        | 0xfe20..=0xfe2f => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// The text if it fits, else its beginning and `…`.
pub fn cut(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let mut left = width.saturating_sub(1);
    let mut end = 0;
    for (at, character) in text.char_indices() {
        let Some(rest) = left.checked_sub(character_columns(character)) else { break };
        left = rest;
        end = at + character.len_utf8();
    }
    let mark = if width == 0 { "" } else { "…" };
    format!("{}{mark}", text.get(..end).unwrap_or_default())
}

/// The side at which a column's texts are flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Texts.
    Left,
    /// Numbers.
    Right,
}

/// The text, cut or padded to exactly this many columns.
pub fn fit(text: &str, width: usize, align: Align) -> String {
    let text = cut(text, width);
    let space = " ".repeat(width.saturating_sub(columns(&text)));
    match align {
        Align::Left => text + &space,
        Align::Right => space + &text,
    }
}

/// Names cut shorter than this say nothing any more.
const NARROWEST: usize = 20;

/// A table: a heading, rows, and how each column is aligned. Where it does not fit, left-aligned columns give way; where that is
/// not enough, the table goes on below, in as many blocks as it takes, each with the columns of names that it begins with.
pub struct Table {
    heading: Vec<(String, Align)>,
    rows: Vec<Vec<(String, Style)>>,
}

impl Table {
    /// An empty table.
    pub fn new(heading: &[(&str, Align)]) -> Table {
        Table { heading: heading.iter().map(|(text, align)| ((*text).to_owned(), *align)).collect(), rows: Vec::new() }
    }

    /// Adds a row; one cell per column.
    pub fn row(&mut self, cells: Vec<(String, Style)>) {
        self.rows.push(cells);
    }

    /// It has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether it needs no second block.
    pub fn fits(&self, width: usize) -> bool {
        let all: Vec<usize> = (0..self.heading.len()).collect();
        self.within(width, &all).1
    }

    /// The table's lines. At most `width` columns wide unless names and one column of numbers alone need more.
    pub fn render(&self, width: usize, colors: bool, out: &mut String) {
        let all: Vec<usize> = (0..self.heading.len()).collect();
        let names = self.heading.iter().take_while(|(_, align)| *align == Align::Left).count();
        let (names, mut rest) = all.split_at(names);
        loop {
            let fitting = (2..=rest.len()).rev().find(|more| self.within(width, &part(names, rest, *more)).1);
            let block = part(names, rest, fitting.unwrap_or(1));
            self.block(&block, &self.within(width, &block).0, colors, out);
            rest = rest.get(fitting.unwrap_or(1)..).unwrap_or_default();
            if rest.is_empty() {
                return;
            }
        }
    }

    /// Some of the columns.
    fn block(&self, block: &[usize], widths: &[usize], colors: bool, out: &mut String) {
        let heading: Vec<(String, Style)> = self.heading.iter().map(|(text, _)| (text.clone(), Style::Bold)).collect();
        for row in std::iter::once(&heading).chain(&self.rows) {
            let mut gap = 0;
            for (column, width) in block.iter().zip(widths) {
                let (Some((text, style)), Some((_, align))) = (row.get(*column), self.heading.get(*column)) else {
                    continue;
                };
                let cell = fit(text, *width, *align);
                let bare = cell.trim_end();
                out.push_str(&" ".repeat(gap));
                style.paint(bare, colors, out);
                gap = 2 + cell.len() - bare.len();
            }
            out.truncate(out.trim_end_matches(' ').len());
            out.push('\n');
        }
    }

    /// Widths of some columns, names shortened as far as that helps; whether they fit then.
    fn within(&self, total: usize, block: &[usize]) -> (Vec<usize>, bool) {
        let wanted = |column: &usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(*column)).map(|(text, _)| text);
            let heading = self.heading.get(*column).map(|(text, _)| text);
            heading.into_iter().chain(cells).map(|text| columns(text)).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> = block.iter().map(wanted).collect();
        let is_name = |column: &usize| self.heading.get(*column).is_some_and(|(_, align)| *align == Align::Left);
        let mut excess = (widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1)).saturating_sub(total);
        while excess > 0 {
            let names = widths.iter_mut().zip(block).filter(|(width, column)| is_name(column) && **width > NARROWEST);
            let Some((widest, _)) = names.max_by_key(|(width, _)| **width) else { return (widths, false) };
            *widest -= 1;
            excess -= 1;
        }
        (widths, true)
    }
}

/// The columns of names, and some more.
fn part(names: &[usize], rest: &[usize], more: usize) -> Vec<usize> {
    names.iter().chain(rest.iter().take(more)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn who_decides_about_colour() {
        let decide = |choice, variables: &[(&str, &str)], terminal| {
            let variables: Vec<(String, String)> =
                variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let find = |name: &str| variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.into());
            colors(choice, find, terminal)
        };
        assert!(decide(Color::Auto, &[], true));
        assert!(!decide(Color::Auto, &[], false));
        assert!(!decide(Color::Auto, &[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")], true));
        assert!(decide(Color::Auto, &[("NO_COLOR", "")], true));
        assert!(decide(Color::Auto, &[("CLICOLOR_FORCE", "1")], false));
        assert!(!decide(Color::Auto, &[("CLICOLOR_FORCE", "0")], false));
        assert!(!decide(Color::Auto, &[("CLICOLOR", "0")], true));
        assert!(!decide(Color::Auto, &[("TERM", "dumb")], true));
        assert!(decide(Color::Always, &[("NO_COLOR", "1")], false));
        assert!(!decide(Color::Never, &[("CLICOLOR_FORCE", "1")], true));
    }

    #[test]
    fn texts_are_cut_by_columns_not_bytes() {
        assert_eq!(cut("orders", 6), "orders");
        assert_eq!(cut("orders", 5), "orde…");
        assert_eq!(cut("注文注文", 5), "注文…");
        assert_eq!(cut("注文", 2), "…");
        assert_eq!(cut("ab", 0), "");
        assert_eq!(fit("é", 3, Align::Left), "é  ");
        assert_eq!(fit("12", 4, Align::Right), "  12");
    }

    #[test]
    fn a_table_lines_up_and_gives_way() {
        let mut table = Table::new(&[("queue", Align::Left), ("acked", Align::Right)]);
        table.row(vec![("orders".to_owned(), Style::Plain), ("12".to_owned(), Style::Green)]);
        table.row(vec![("a-queue-with-a-very-long-name".to_owned(), Style::Plain), ("3".to_owned(), Style::Plain)]);
        let mut out = String::new();
        table.render(27, false, &mut out);
        assert_eq!(out, "queue                 acked\norders                   12\na-queue-with-a-very…      3\n");
        let mut coloured = String::new();
        table.render(25, true, &mut coloured);
        assert!(coloured.contains("\x1b[32m    12") || coloured.contains("\x1b[32m   12"), "{coloured:?}");
    }

    #[test]
    fn a_table_that_is_too_wide_goes_on_below() {
        let mut table = Table::new(&[
            ("queue", Align::Left),
            ("acked", Align::Right),
            ("failed", Align::Right),
            ("dead", Align::Right),
        ]);
        let number = |number: &str| (number.to_owned(), Style::Plain);
        table.row(vec![number("orders"), number("12"), number("1"), number("0")]);
        table.row(vec![number("bills"), number("1234567"), number("0"), number("1")]);
        let mut out = String::new();
        table.render(24, false, &mut out);
        let expected = "\
queue     acked  failed
orders       12       1
bills   1234567       0
queue   dead
orders     0
bills      1
";
        assert_eq!(out, expected);
    }

    proptest! {
        #[test]
        fn a_table_is_never_wider_than_it_must_be(
            rows in prop::collection::vec(prop::collection::vec("[a-z]{0,40}", 2..9), 1..4),
            width in 60usize..120,
        ) {
            let aligns = [Align::Left, Align::Left, Align::Right, Align::Right, Align::Right, Align::Right, Align::Right, Align::Right];
            let count = rows.iter().map(Vec::len).max().unwrap_or(0);
            let heading: Vec<(&str, Align)> = aligns.iter().take(count).map(|align| ("heading", *align)).collect();
            let mut table = Table::new(&heading);
            for mut row in rows {
                row.resize(count, String::new());
                // The longest number has 20 digits.
                let cells = row.into_iter().enumerate().map(|(at, text)| if at < 2 { text } else { cut(&text, 15) });
                table.row(cells.map(|text| (text, Style::Plain)).collect());
            }
            let mut out = String::new();
            table.render(width, false, &mut out);
            prop_assert!(out.lines().all(|line| columns(line) <= width), "{width}\n{out}");
        }

        #[test]
        fn what_is_fitted_fits(text in "\\PC{0,30}", width in 0usize..40) {
            prop_assert_eq!(columns(&fit(&text, width, Align::Left)), width);
            prop_assert_eq!(columns(&fit(&text, width, Align::Right)), width);
        }
    }
}
