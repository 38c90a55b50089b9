//! The table at the end: what became of the messages of each queue, and what the capture lost.

use std::time::Duration;

use crate::units::brief_duration;

use super::terminal::{Align, Style, Table};

/// Everything the closing table shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Closing {
    /// One line per queue, in the order in which they are shown.
    pub queues: Vec<QueueLine>,
    /// What the capture saw and lost.
    pub capture: CaptureLine,
}

/// A queue, or the publishes that no queue is known for. Numbers are messages that entered the state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueueLine {
    /// Queue, or `exchange:routing key`.
    pub name: String,
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
    /// Deliveries that nobody has settled yet.
    pub in_flight: u64,
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

type Column = (&'static str, Style, fn(&QueueLine) -> u64);

/// The numbers' columns. Those that are zero everywhere are left out, apart from the first ones.
const COLUMNS: [Column; 14] = [
    ("published", Style::Plain, |line| line.created),
    ("dispatched", Style::Plain, |line| line.dispatched),
    ("acked", Style::Green, |line| line.acknowledged),
    ("in flight", Style::Plain, |line| line.in_flight),
    ("confirmed", Style::Plain, |line| line.confirmed),
    ("processing", Style::Plain, |line| line.processing),
    ("failed", Style::Red, |line| line.failed),
    ("retrying", Style::Yellow, |line| line.retrying),
    ("rejected", Style::Red, |line| line.rejected),
    ("dead", Style::BoldRed, |line| line.dead_lettered),
    ("dropped", Style::BoldRed, |line| line.dropped),
    ("expired", Style::Yellow, |line| line.expired),
    ("returned", Style::Yellow, |line| line.returned),
    ("refused", Style::Red, |line| line.publish_failed),
];
const ALWAYS: usize = 4;

type Times = (&'static str, fn(&QueueLine) -> Option<Percentiles>);

/// The times' columns, each left out where no queue has any.
const TIMES: [Times; 2] = [("in broker", |line| line.broker), ("consuming", |line| line.processing_time)];

impl Closing {
    /// Appends the table and the capture's line.
    pub fn render(&self, width: usize, colors: bool, out: &mut String) {
        if self.queues.is_empty() {
            out.push_str("no messages were seen\n");
        } else {
            self.table().render(width, colors, out);
        }
        self.capture.render(colors, out);
    }

    fn table(&self) -> Table {
        let any = |column: &Column| self.queues.iter().any(|line| (column.2)(line) > 0);
        let shown: Vec<&Column> = COLUMNS
            .iter()
            .enumerate()
            .filter(|(index, column)| *index < ALWAYS || any(column))
            .map(|(_, it)| it)
            .collect();
        let times: Vec<&Times> =
            TIMES.iter().filter(|(_, of)| self.queues.iter().any(|line| of(line).is_some())).collect();
        let mut heading = vec![("queue".to_owned(), Align::Left)];
        heading.extend(shown.iter().map(|(name, ..)| ((*name).to_owned(), Align::Right)));
        for (name, _) in &times {
            heading.push((format!("{name} p50"), Align::Right));
            heading.push(("p95".to_owned(), Align::Right));
        }
        let heading: Vec<(&str, Align)> = heading.iter().map(|(name, align)| (name.as_str(), *align)).collect();
        let mut table = Table::new(&heading);
        for line in &self.queues {
            let mut cells = vec![(line.name.clone(), Style::Plain)];
            for (_, style, of) in &shown {
                let number = of(line);
                cells.push((number.to_string(), if number == 0 { Style::Dim } else { *style }));
            }
            for (_, of) in &times {
                let show = |time: Option<Duration>| (time.map(brief_duration).unwrap_or_default(), Style::Plain);
                cells.push(show(of(line).map(|times| times.p50)));
                cells.push(show(of(line).map(|times| times.p95)));
            }
            table.row(cells);
        }
        table
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
        Closing {
            queues: vec![
                QueueLine {
                    name: "orders".to_owned(),
                    created: 1000,
                    confirmed: 1000,
                    dispatched: 1010,
                    acknowledged: 990,
                    failed: 10,
                    dead_lettered: 10,
                    broker: Some(Percentiles { p50: Duration::from_micros(850), p95: Duration::from_millis(12) }),
                    ..QueueLine::default()
                },
                QueueLine { name: "orders.dead".to_owned(), in_flight: 10, ..QueueLine::default() },
            ],
            capture: CaptureLine {
                duration: Duration::from_secs(61),
                connections: 3,
                segments: 4000,
                bytes: 1_234_567,
                lost: vec![("ring_full records".to_owned(), 0)],
            },
        }
    }

    #[test]
    fn columns_that_are_zero_everywhere_are_left_out() {
        let mut out = String::new();
        closing().render(140, false, &mut out);
        let expected = "\
queue        published  dispatched  acked  in flight  confirmed  failed  dead  in broker p50     p95
orders            1000        1010    990          0       1000      10    10          850µs  12.0ms
orders.dead          0           0      0         10          0       0     0
capture: 3 connections, 4000 segments, 1234.6 kB in 1m01s; nothing lost
";
        assert_eq!(out, expected);
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
