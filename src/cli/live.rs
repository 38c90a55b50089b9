//! The live view: one transition or event a line, in columns.
//!
//! ```text
//! 22:13:20.000  Dispatched      orders            7f3a91c204de  #1    1.20ms  java[4711]
//! 22:13:21.500  DeadLettered ~  orders            order-17      #3     1.50s  rejected → orders.dead  java[4711]
//! 22:13:22.000  Acknowledged    bills/0 shipping  100-119       #1     9.7ms  ×20  java[4712]
//! ```
//!
//! Columns: time of day (UTC), state (`~` inferred, `?` twins matched by order), queue or exchange:key, or topic/partition and
//! consumer group; message-id or first digits of the identity, or offsets; delivery, time since the step before, and what else
//! there is to say.

use std::time::Duration;

use crate::lifecycle::transition::State;
use crate::row::Row;
use crate::units::brief_duration;

use super::terminal::{Align, Style, columns, cut, fit};

/// Lays rows out for a terminal of some width.
#[derive(Clone, Copy, Debug)]
pub struct Live {
    width: usize,
    colors: bool,
    place: usize,
    message: usize,
    latency: usize,
}

const CLOCK: usize = 12;
const STATE: usize = 15;
const DELIVERY: usize = 4;
const LATENCY: usize = 7;
/// Two spaces between the seven columns.
const GAPS: usize = 12;
/// In less, names need the place more than times do.
const ROOM_FOR_LATENCY: usize = 90;

impl Live {
    /// For this many columns (less than 72 are treated as 72), with or without colour.
    pub fn new(width: usize, colors: bool) -> Live {
        let width = width.max(72);
        let (latency, part) = if width < ROOM_FOR_LATENCY { (0, 12) } else { (LATENCY, 9) };
        let left = width - CLOCK - STATE - DELIVERY - latency - GAPS;
        let place = (left * part / 25).clamp(10, 48);
        let message = (left * 11 / 50).clamp(8, 36);
        Live { width, colors, place, message, latency }
    }

    /// Appends the heading.
    pub fn heading(&self, out: &mut String) {
        let cells = [
            fit("time", CLOCK, Align::Left),
            fit("state", STATE, Align::Left),
            fit("queue or topic", self.place, Align::Left),
            fit("message", self.message, Align::Left),
            fit("dlv", DELIVERY, Align::Left),
            fit(if self.latency > 0 { "since" } else { "" }, self.latency, Align::Right),
        ];
        Style::Bold.paint(cells.join("  ").trim_end(), self.colors, out);
        out.push('\n');
    }

    /// Appends a row's line.
    pub fn line(&self, row: &Row, out: &mut String) {
        let start = out.len();
        let (style, mark) = (style(row), mark(row));
        Style::Dim.paint(&row.clock(), self.colors, out);
        out.push_str("  ");
        // The longest events are those of connections, which have no place.
        let no_place = row.event && row.place.is_empty();
        let room = if no_place { STATE + 2 + self.place } else { STATE };
        let name = match row.event {
            true => fit(&format!("·{}", row.what), room, Align::Left),
            false => fit(&row.what, STATE - 2, Align::Left),
        };
        style.paint(&name, self.colors, out);
        out.push_str(&fit(mark, room.saturating_sub(columns(&name)), Align::Right));
        out.push_str("  ");
        if !no_place {
            out.push_str(&fit(&row.place, self.place, Align::Left));
            out.push_str("  ");
        }
        out.push_str(&fit(&self.message(row), self.message, Align::Left));
        out.push_str("  ");
        let delivery = row.delivery.map(|number| format!("#{number}")).unwrap_or_default();
        let repeated = if row.delivery.is_some_and(|number| number > 1) { Style::Yellow } else { Style::Dim };
        repeated.paint(&fit(&delivery, DELIVERY, Align::Left), self.colors, out);
        if self.latency > 0 {
            let latency = row.latency.map(|latency| brief_duration(Duration::from_nanos(latency))).unwrap_or_default();
            out.push_str("  ");
            out.push_str(&fit(&latency, self.latency, Align::Right));
        }
        self.rest(row, style, out);
        let end = start + out.get(start..).map_or(0, |line| line.trim_end().len());
        out.truncate(end);
        out.push('\n');
    }

    fn message(&self, row: &Row) -> String {
        match (&row.message_id, &row.message) {
            (Some(id), _) => id.clone(),
            (None, Some(hex)) => hex.get(..self.message.min(12)).unwrap_or(hex).to_owned(),
            (None, None) => String::new(),
        }
    }

    /// What else there is to say, most important first; cut at the terminal's edge.
    fn rest(&self, row: &Row, style: Style, out: &mut String) {
        let gaps = if self.latency > 0 { GAPS - 2 } else { GAPS - 4 };
        let mut left = self.width - CLOCK - STATE - self.place - self.message - DELIVERY - self.latency - gaps;
        let correction = row.corrects.as_ref().map(|state| format!("not {state}"));
        let count = row.count.map(|count| format!("×{count}"));
        // Whatever is handed out is behind until it is committed: that alone says nothing.
        let lag = row.lag.filter(|lag| *lag > row.count.unwrap_or(1)).map(|lag| format!("lag {lag}"));
        let destination = row.destination.as_ref().map(|name| format!("→ {name}"));
        let parts = [
            (correction, Style::Yellow),
            (row.reason.clone(), style),
            (count, Style::Bold),
            (lag, Style::Yellow),
            (destination, Style::Plain),
            (row.detail.clone(), Style::Plain),
            (row.process.clone(), Style::Dim),
        ];
        for (text, style) in parts {
            let Some(text) = text.filter(|text| !text.is_empty()) else { continue };
            if left < 5 {
                return;
            }
            let text = cut(&text, left - 2);
            left -= columns(&text) + 2;
            out.push_str("  ");
            style.paint(&text, self.colors, out);
        }
    }
}

fn mark(row: &Row) -> &'static str {
    match (row.inferred, row.ambiguous) {
        (true, true) => "~?",
        (true, false) => "~",
        (false, true) => "?",
        (false, false) => "",
    }
}

fn style(row: &Row) -> Style {
    if row.event {
        return Style::Magenta;
    }
    let state = State::ALL.into_iter().find(|state| state.name() == row.what);
    match state {
        Some(State::Created) => Style::Cyan,
        Some(State::Confirmed) => Style::Dim,
        Some(State::Dispatched | State::Processing) => Style::Blue,
        Some(State::Acknowledged) => Style::Green,
        Some(State::Retrying | State::Expired | State::Returned) => Style::Yellow,
        Some(State::Failed | State::Rejected | State::PublishFailed) => Style::Red,
        Some(State::DeadLettered | State::Dropped) => Style::BoldRed,
        None => Style::Plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn dead_letter() -> Row {
        Row {
            time: 1_700_000_001_500_000_000,
            what: "DeadLettered".to_owned(),
            inferred: true,
            place: "orders".to_owned(),
            message_id: Some("order-17".to_owned()),
            message: Some("7f3a91c204de00000000000000000000".to_owned()),
            delivery: Some(3),
            latency: Some(1_500_000_000),
            reason: Some("rejected".to_owned()),
            destination: Some("orders.dead".to_owned()),
            process: Some("java[4711]".to_owned()),
            ..Row::default()
        }
    }

    fn line(row: &Row, width: usize, colors: bool) -> String {
        let mut out = String::new();
        Live::new(width, colors).line(row, &mut out);
        out
    }

    #[test]
    fn lines_of_two_widths() {
        assert_eq!(
            line(&dead_letter(), 120, false),
            "22:13:21.500  DeadLettered  ~  orders                     order-17         #3      1.50s  rejected  → orders.dead  java…\n"
        );
        assert_eq!(
            line(&dead_letter(), 80, false),
            "22:13:21.500  DeadLettered  ~  orders             order-17  #3    rejected  → o…\n"
        );
        let created = Row { what: "Created".to_owned(), place: ":orders".to_owned(), ..Row::default() };
        assert_eq!(line(&created, 80, false), "00:00:00.000  Created          :orders\n");
    }

    #[test]
    fn events_and_corrections() {
        let event = Row { what: "channel_closed".to_owned(), event: true, count: Some(7), ..Row::default() };
        assert!(line(&event, 100, false).contains("·channel_closed"));
        assert!(line(&event, 100, false).ends_with("×7\n"));
        let detail = Some("client".to_owned());
        let closed = Row { what: "connection_closed".to_owned(), event: true, detail, ..Row::default() };
        let channel = Row { what: "channel_closed".to_owned(), ..closed.clone() };
        let at = |row: &Row| line(row, 100, false).find("client");
        assert!(line(&closed, 100, false).contains("·connection_closed "), "whole");
        assert_eq!(at(&closed), at(&channel), "in the same column");
        let corrected =
            Row { corrects: Some("DeadLettered".to_owned()), what: "Retrying".to_owned(), ..Row::default() };
        assert!(line(&corrected, 120, false).contains("not DeadLettered"));
    }

    #[test]
    fn colours_only_where_asked() {
        assert!(!line(&dead_letter(), 200, false).contains('\x1b'));
        let coloured = line(&dead_letter(), 200, true);
        assert!(coloured.contains("\x1b[1;31mDeadLettered"), "{coloured:?}");
    }

    proptest! {
        #[test]
        fn every_line_fits(
            width in 72usize..220,
            words in prop::collection::vec(prop::option::of("\\PC{0,60}"), 7),
            what in "[A-Za-z]{0,30}",
            numbers in any::<(u64, Option<u32>, Option<u64>, Option<u64>, bool, bool, bool)>(),
        ) {
            let (time, delivery, latency, count, event, inferred, ambiguous) = numbers;
            let delivery = delivery.map(|number| number % 1000);
            let word = |index: usize| words.get(index).cloned().flatten();
            let row = Row {
                time, what, event, inferred, ambiguous, place: word(0).unwrap_or_default(), message_id: word(1), message: word(2),
                delivery, latency, count, lag: count, corrects: None, reason: word(3), destination: word(4), detail: word(5), process: word(6),
            };
            let text = line(&row, width, false);
            prop_assert!(columns(text.trim_end_matches('\n')) <= width, "{}", text);
            prop_assert_eq!(text.matches('\n').count(), 1);
        }
    }
}
