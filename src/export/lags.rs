//! Lags of consumer groups, of which there may be very many, as a bounded number of series and of rows.

use super::json;
use super::routes::OTHER;
use crate::lifecycle::Lag;
use crate::names::Name;

/// One series: how far a group is behind in a partition, or in several together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    /// messaging.system.
    pub system: &'static str,
    /// The group.
    pub group: Name,
    /// The topic.
    pub topic: Name,
    /// The partition; `None`: all that the group has read of the topic.
    pub partition: Option<i32>,
    /// Messages.
    pub lag: u64,
}

/// Series by partition. Where there are more partitions, groups with many of them have one for each topic.
pub const PARTITIONS: usize = 4096;
/// Groups' topics that have series. All others are `other`.
pub const TOPICS: usize = 1024;
/// Rows of a summary: those that are furthest behind.
pub const ROWS: usize = 1000;

/// As series, in an order that stays as long as no partition is added. A group's topic is told by partition, or as a sum, never
/// both; those with the fewest partitions are the last to be summed up.
pub fn series(lags: impl Iterator<Item = Lag>) -> Vec<Series> {
    let mut all: Vec<Lag> = lags.collect();
    all.sort_unstable_by(|one, other| (&one.group, &one.topic).cmp(&(&other.group, &other.topic)));
    let of_topic = |one: &Lag, other: &Lag| (&one.group, &one.topic) == (&other.group, &other.topic);
    let mut topics: Vec<&mut [Lag]> = all.chunk_by_mut(of_topic).collect();
    // Stable, so that topics with as many partitions stay in the order of their names.
    topics.sort_by_key(|lags| lags.len());
    let mut series = Vec::new();
    let mut other: Option<Series> = None;
    let mut left = PARTITIONS;
    for (number, lags) in topics.into_iter().enumerate() {
        let sum = lags.iter().map(|lag| lag.lag).sum();
        let Some(first) = lags.first() else { continue };
        let of_all = |group: &Name, topic: &Name| Series {
            system: first.system,
            group: group.clone(),
            topic: topic.clone(),
            partition: None,
            lag: sum,
        };
        if number >= TOPICS {
            match &mut other {
                Some(other) => other.lag += sum,
                None => other = Some(of_all(&OTHER.into(), &OTHER.into())),
            }
        } else if lags.len() > left {
            // Those that follow have as many partitions, or more.
            left = 0;
            series.push(of_all(&first.group, &first.topic));
        } else {
            left -= lags.len();
            lags.sort_unstable_by_key(|lag| lag.partition);
            series.extend(lags.iter().map(|lag| Series {
                system: lag.system,
                group: lag.group.clone(),
                topic: lag.topic.clone(),
                partition: Some(lag.partition),
                lag: lag.lag,
            }));
        }
    }
    series.extend(other);
    series
}

/// The rows of a summary in the order of group, topic and partition, and how many more there would be.
pub fn rows(lags: impl Iterator<Item = Lag>) -> (Vec<Lag>, usize) {
    let mut rows: Vec<Lag> = lags.collect();
    let name = |lag: &Lag| (lag.group.clone(), lag.topic.clone(), lag.partition);
    let folded = rows.len().saturating_sub(ROWS);
    if folded > 0 {
        rows.sort_by_cached_key(|lag| (std::cmp::Reverse(lag.lag), name(lag)));
        rows.truncate(ROWS);
    }
    rows.sort_by_cached_key(name);
    (rows, folded)
}

/// Appends a row as a JSON object.
pub(super) fn object(row: &Lag, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"system\":");
    json::string(row.system, out);
    for (key, name) in [("group", &row.group), ("destination", &row.topic)] {
        out.push(b',');
        json::string(key, out);
        out.push(b':');
        json::string(name, out);
    }
    let numbers = [
        ("partition", Some(i64::from(row.partition))),
        ("committed", Some(row.committed)),
        ("end", Some(row.end)),
        ("stable", row.stable),
    ];
    for (key, value) in numbers.into_iter().filter_map(|(key, value)| Some((key, u64::try_from(value?).ok()?))) {
        out.push(b',');
        json::string(key, out);
        out.push(b':');
        json::number(value, out);
    }
    out.extend_from_slice(b",\"lag\":");
    json::number(row.lag, out);
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lag(group: &str, topic: &str, partition: i32, lag: u64) -> Lag {
        let (group, topic) = (group.into(), topic.into());
        Lag { system: "kafka", group, topic, partition, committed: 5, end: 5 + lag as i64, stable: None, lag }
    }

    #[test]
    fn few_partitions_have_a_series_each() {
        let found = series([lag("b", "t", 1, 7), lag("b", "t", 0, 3), lag("a", "t", 0, 1)].into_iter());
        let shown: Vec<_> = found.iter().map(|one| (&*one.group, one.partition, one.lag)).collect();
        assert_eq!(shown, [("a", Some(0), 1), ("b", Some(0), 3), ("b", Some(1), 7)]);
    }

    #[test]
    fn groups_with_many_partitions_are_summed_up_first_and_nothing_is_lost() {
        let many = |group: &'static str| (0..3000).map(move |partition| lag(group, "wide", partition, 2));
        let found = series(many("x").chain(many("w")).chain([lag("z", "narrow", 0, 5)]));
        assert!(found.len() <= PARTITIONS + TOPICS + 1);
        let of = |group: &str| found.iter().filter(|one| &*one.group == group).collect::<Vec<_>>();
        assert_eq!(of("z").len(), 1);
        assert_eq!(of("w").len(), 3000);
        assert_eq!(of("x").iter().map(|one| (one.partition, one.lag)).collect::<Vec<_>>(), [(None, 6000)]);
        let groups = (0..3000).map(|number| lag(&format!("g{number:04}"), "t", 0, 1));
        let found = series(groups);
        assert_eq!(found.len(), TOPICS + 1);
        assert_eq!(found.iter().map(|one| one.lag).sum::<u64>(), 3000);
        assert_eq!((&*found[TOPICS].group, found[TOPICS].lag), (OTHER, 3000 - TOPICS as u64));
    }

    #[test]
    fn a_summary_has_those_that_are_furthest_behind() {
        let (found, folded) = rows((0..1500).map(|number| lag("g", "t", number, number as u64 / 2)));
        assert_eq!((found.len(), folded), (ROWS, 500));
        assert_eq!((found[0].partition, found[ROWS - 1].partition), (500, 1499));
        let mut text = Vec::new();
        object(&lag("g", "t", 3, 4), &mut text);
        let expected =
            r#"{"system":"kafka","group":"g","destination":"t","partition":3,"committed":5,"end":9,"lag":4}"#;
        assert_eq!(std::str::from_utf8(&text), Ok(expected));
    }
}
