//! The tables at the end: what was published where and how it was answered; what became of it in each queue, or of each topic in
//! each consumer group; and what the capture lost.

use std::time::Duration;

use crate::units::brief_duration;

use super::terminal::{Align, Style, Table};

/// Everything the closing table shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Closing {
    /// One line per place, in the order in which they are shown.
    pub places: Vec<PlaceLine>,
    /// What the capture saw and lost.
    pub capture: CaptureLine,
}

/// A queue; a topic, as one group consumes it; or where something was published. Numbers are messages that entered the state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PlaceLine {
    /// Queue, topic, or `exchange:routing key`.
    pub name: String,
    /// It is a topic.
    pub is_topic: bool,
    /// The consumer group.
    pub group: Option<String>,
    /// Published.
    pub created: u64,
    /// Confirmed by the broker.
    pub confirmed: u64,
    /// Refused by the broker.
    pub publish_failed: u64,
    /// Given back as unroutable.
    pub returned: u64,
    /// Handed to a consumer, each time.
    pub dispatched: u64,
    /// Read by the consumer's application, each time.
    pub processing: u64,
    /// Acknowledged.
    pub acknowledged: u64,
    /// Deliveries that failed but may come again.
    pub failed: u64,
    /// Came, or will come, again.
    pub retrying: u64,
    /// Rejected for good.
    pub rejected: u64,
    /// Dead-lettered.
    pub dead_lettered: u64,
    /// Gone without a dead-letter queue.
    pub dropped: u64,
    /// Their time to live passed.
    pub expired: u64,
    /// Deliveries that nobody has settled yet. Consumers without a group settle nothing.
    pub in_flight: Option<u64>,
    /// How many messages the group is behind, over all partitions that are known.
    pub lag: Option<u64>,
    /// Published to dispatched.
    pub broker: Option<Percentiles>,
    /// Read by the application to settled.
    pub processing_time: Option<Percentiles>,
}

/// A median and a 95th percentile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percentiles {
    /// Half took at most this.
    pub p50: Duration,
    /// 95 % took at most this.
    pub p95: Duration,
}

/// What the capture saw and lost.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CaptureLine {
    /// How long it ran.
    pub duration: Duration,
    /// Connections followed.
    pub connections: u64,
    /// Segments seen.
    pub segments: u64,
    /// Their payload in bytes.
    pub bytes: u64,
    /// What was lost: where and why (`ring_full records`), and how much. Zeros are not shown.
    pub lost: Vec<(String, u64)>,
}

/// A column of numbers: its heading, its colour, whether it is there although all of it is zero, and what it shows. Where nothing is
/// known there is none.
type Number = (&'static str, Style, bool, fn(&PlaceLine) -> Option<u64>);

/// What happens to messages before any consumer.
const PUBLISHED: [Number; 4] = [
    ("messages", Style::Plain, true, |line| Some(line.created)),
    ("confirmed", Style::Plain, true, |line| Some(line.confirmed)),
    ("returned", Style::Yellow, false, |line| Some(line.returned)),
    ("refused", Style::Red, false, |line| Some(line.publish_failed)),
];

/// What becomes of them then.
const CONSUMED: [Number; 11] = [
    ("dispatched", Style::Plain, true, |line| Some(line.dispatched)),
    ("processing", Style::Plain, false, |line| Some(line.processing)),
    ("acked", Style::Green, true, |line| Some(line.acknowledged)),
    ("in flight", Style::Plain, true, |line| line.in_flight),
    ("lag", Style::Yellow, true, |line| line.lag),
    ("failed", Style::Red, false, |line| Some(line.failed)),
    ("retrying", Style::Yellow, false, |line| Some(line.retrying)),
    ("rejected", Style::Red, false, |line| Some(line.rejected)),
    ("dead", Style::BoldRed, false, |line| Some(line.dead_lettered)),
    ("dropped", Style::BoldRed, false, |line| Some(line.dropped)),
    ("expired", Style::Yellow, false, |line| Some(line.expired)),
];

/// A column of names.
type Words = (&'static str, fn(&PlaceLine) -> String);

/// A column of times, left out where nothing has any.
type Time = (&'static str, fn(&PlaceLine) -> Option<Duration>);

const TIMES: [Time; 4] = [
    ("broker p50", |line| line.broker.map(|times| times.p50)),
    ("broker p95", |line| line.broker.map(|times| times.p95)),
    ("consuming p50", |line| line.processing_time.map(|times| times.p50)),
    ("consuming p95", |line| line.processing_time.map(|times| times.p95)),
];

impl Closing {
    /// Appends the tables and the capture's line.
    pub fn render(&self, width: usize, colors: bool, out: &mut String) {
        let mut names: Vec<Words> = vec![("published to", PlaceLine::name)];
        let published = self.with_any(&PUBLISHED);
        let mut tables = vec![table(&published, &names, &PUBLISHED, &[])];
        names = vec![(self.kind(), PlaceLine::name)];
        if self.places.iter().any(|line| line.is_topic) {
            names.push(("group", PlaceLine::group));
        }
        let consumed = self.with_any(&CONSUMED);
        let whole = table(&consumed, &names, &CONSUMED, &TIMES);
        if whole.fits(width) {
            tables.push(whole);
        } else {
            tables.push(table(&consumed, &names, &CONSUMED, &[]));
            let timed = |line: &&PlaceLine| TIMES.iter().any(|time| time.1(line).is_some());
            tables.push(table(&consumed.into_iter().filter(timed).collect::<Vec<_>>(), &names, &[], &TIMES));
        }
        if tables.iter().all(Table::is_empty) {
            out.push_str("no messages were seen\n");
        }
        for table in tables.iter().filter(|table| !table.is_empty()) {
            table.render(width, colors, out);
            out.push('\n');
        }
        self.capture.render(colors, out);
    }

    /// What the places are of which messages are consumed.
    fn kind(&self) -> &'static str {
        let topics = self.places.iter().filter(|line| line.is_topic).count();
        match topics {
            0 => "queue",
            all if all == self.places.len() => "topic",
            _ => "queue or topic",
        }
    }

    /// The places for which one of these numbers is not zero.
    fn with_any(&self, numbers: &[Number]) -> Vec<&PlaceLine> {
        self.places.iter().filter(|line| numbers.iter().any(|number| is_there(line, number))).collect()
    }
}

fn is_there(line: &PlaceLine, number: &Number) -> bool {
    number.3(line).is_some_and(|number| number > 0)
}

/// A row for each place, without columns in which there is nothing.
fn table(lines: &[&PlaceLine], names: &[Words], numbers: &[Number], times: &[Time]) -> Table {
    let shown = |line: &PlaceLine, number: &Number| match number.2 {
        true => number.3(line).is_some(),
        false => is_there(line, number),
    };
    let numbers = numbers.iter().filter(|number| lines.iter().any(|line| shown(line, number)));
    let numbers: Vec<&Number> = numbers.collect();
    let times: Vec<&Time> = times.iter().filter(|time| lines.iter().any(|line| time.1(line).is_some())).collect();
    let heading = names.iter().map(|(name, _)| (*name, Align::Left));
    let heading = heading.chain(numbers.iter().map(|number| (number.0, Align::Right)));
    let heading: Vec<_> = heading.chain(times.iter().map(|time| (time.0, Align::Right))).collect();
    let mut table = Table::new(&heading);
    for line in lines {
        let mut cells: Vec<_> = names.iter().map(|(_, name)| (name(line), Style::Plain)).collect();
        cells.extend(numbers.iter().map(|(_, style, _, of)| match of(line) {
            Some(0) => ("0".to_owned(), Style::Dim),
            number => (number.map(|number| number.to_string()).unwrap_or_default(), *style),
        }));
        cells.extend(times.iter().map(|(_, of)| (of(line).map(brief_duration).unwrap_or_default(), Style::Plain)));
        table.row(cells);
    }
    table
}

impl PlaceLine {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn group(&self) -> String {
        match (&self.group, self.is_topic) {
            (Some(group), _) => group.clone(),
            (None, true) => "(none)".to_owned(),
            (None, false) => String::new(),
        }
    }
}

impl CaptureLine {
    fn render(&self, colors: bool, out: &mut String) {
        let seen = format!(
            "capture: {} connections, {} segments, {} in {}; ",
            self.connections,
            self.segments,
            megabytes(self.bytes),
            brief_duration(self.duration)
        );
        out.push_str(&seen);
        let lost: Vec<String> =
            self.lost.iter().filter(|(_, much)| *much > 0).map(|(what, much)| format!("{much} {what}")).collect();
        if lost.is_empty() {
            Style::Green.paint("nothing lost", colors, out);
        } else {
            Style::BoldRed.paint(&format!("lost: {}", lost.join(", ")), colors, out);
        }
        out.push('\n');
    }
}

fn megabytes(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} bytes"),
        10_000..10_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closing() -> Closing {
        let times = Percentiles { p50: Duration::from_micros(850), p95: Duration::from_millis(12) };
        let orders = PlaceLine {
            name: "orders".to_owned(),
            created: 1000,
            confirmed: 1000,
            dispatched: 1010,
            acknowledged: 990,
            in_flight: Some(0),
            failed: 10,
            dead_lettered: 10,
            broker: Some(times),
            ..PlaceLine::default()
        };
        let dead = PlaceLine { name: "orders.dead".to_owned(), in_flight: Some(10), ..PlaceLine::default() };
        let capture = CaptureLine {
            duration: Duration::from_secs(61),
            connections: 3,
            segments: 4000,
            bytes: 1_234_567,
            lost: vec![("ring_full records".to_owned(), 0)],
        };
        Closing { places: vec![orders, dead], capture }
    }

    fn rendered(closing: &Closing, width: usize) -> String {
        let mut out = String::new();
        closing.render(width, false, &mut out);
        out
    }

    #[test]
    fn columns_that_are_zero_everywhere_are_left_out() {
        let expected = "\
published to  messages  confirmed
orders            1000       1000

queue        dispatched  acked  in flight  failed  dead  broker p50  broker p95
orders             1010    990          0      10    10       850µs      12.0ms
orders.dead           0      0         10       0     0

capture: 3 connections, 4000 segments, 1234.6 kB in 1m01s; nothing lost
";
        assert_eq!(rendered(&closing(), 80), expected);
        let narrower = "\
queue        dispatched  acked  in flight  failed  dead
orders             1010    990          0      10    10
orders.dead           0      0         10       0     0

queue   broker p50  broker p95
orders       850µs      12.0ms

capture: 3 connections, 4000 segments, 1234.6 kB in 1m01s; nothing lost
";
        assert!(rendered(&closing(), 70).ends_with(narrower), "times have a table of their own before any is cut");
    }

    #[test]
    fn topics_stand_with_their_groups() {
        let topic = PlaceLine { name: "orders".to_owned(), is_topic: true, ..PlaceLine::default() };
        let billing = PlaceLine {
            group: Some("billing".to_owned()),
            dispatched: 5,
            acknowledged: 3,
            in_flight: Some(2),
            lag: Some(4),
            ..topic.clone()
        };
        let nobody = PlaceLine { dispatched: 7, created: 9, confirmed: 9, ..topic };
        let closing = Closing { places: vec![nobody, billing], ..Closing::default() };
        let expected = "\
published to  messages  confirmed
orders               9          9

topic   group    dispatched  acked  in flight  lag
orders  (none)            7      0
orders  billing           5      3          2    4

capture: 0 connections, 0 segments, 0 bytes in 0ns; nothing lost
";
        assert_eq!(rendered(&closing, 80), expected);
    }

    #[test]
    fn losses_are_said_and_nothing_is_not_a_table() {
        let mut closing = Closing::default();
        closing.capture.lost = vec![("ring_full records".to_owned(), 3), ("stream bytes".to_owned(), 70)];
        let mut out = String::new();
        closing.render(80, false, &mut out);
        assert!(out.starts_with("no messages were seen\n"), "{out}");
        assert!(out.ends_with("lost: 3 ring_full records, 70 stream bytes\n"), "{out}");
    }
}
