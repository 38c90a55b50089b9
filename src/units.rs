//! Durations and sizes as people write them: `500ms`, `8MiB`. One reading for the command line, the configuration file
//! and the filter language.

use std::time::Duration;

/// What a duration may look like, for error messages.
pub const DURATION_FORM: &str = "a number and one of ns, us, ms, s, m, h, such as 500ms";
/// What a size may look like, for error messages.
pub const SIZE_FORM: &str = "a number of bytes, or a number and one of KiB, MiB, GiB, such as 8MiB";

const DURATION_UNITS: [(&str, u64); 7] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("µs", 1_000),
    ("ns", 1),
];

const SIZE_UNITS: [(&str, u64); 11] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("G", 1 << 30),
    ("M", 1 << 20),
    ("K", 1 << 10),
    ("B", 1),
];

/// Reads a duration: digits, at most one point, a unit. `0` needs no unit.
///
/// # Errors
/// Anything else, and what does not fit 64 bits of nanoseconds; the text says what is allowed.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    if unit.is_empty() && number.parse() == Ok(0u64) {
        return Ok(Duration::ZERO);
    }
    let factor = DURATION_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    factor
        .and_then(|factor| scale(number, factor))
        .map(Duration::from_nanos)
        .ok_or_else(|| format!("{text:?} is no duration: {DURATION_FORM}"))
}

/// Reads a size in bytes: digits, at most one point, and a unit or none. KiB, MiB, GiB (also K, M, G) are powers of 1024,
/// kB, MB, GB powers of 1000.
///
/// # Errors
/// Anything else, and what does not fit 64 bits; the text says what is allowed.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let factor = match unit {
        "" => Some(1),
        unit => SIZE_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor),
    };
    factor.and_then(|factor| scale(number, factor)).ok_or_else(|| format!("{text:?} is no size: {SIZE_FORM}"))
}

/// Writes a duration so that [`parse_duration`] reads the same one: whole numbers of the largest unit that fits.
pub fn show_duration(duration: Duration) -> String {
    let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    if nanoseconds == 0 {
        return "0".to_owned();
    }
    let unit = DURATION_UNITS.iter().find(|(_, factor)| nanoseconds.is_multiple_of(*factor));
    unit.map_or_else(|| format!("{nanoseconds}ns"), |(name, factor)| format!("{}{name}", nanoseconds / factor))
}

/// Writes a size so that [`parse_size`] reads the same one.
pub fn show_size(bytes: u64) -> String {
    let unit = SIZE_UNITS[..3].iter().find(|(_, factor)| bytes != 0 && bytes.is_multiple_of(*factor));
    unit.map_or_else(|| bytes.to_string(), |(name, factor)| format!("{}{name}", bytes / factor))
}

/// Three significant digits at most, for people: `1.23ms`, `45µs`, `12.3s`, `5m03s`. Not for reading back.
pub fn brief_duration(duration: Duration) -> String {
    let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let seconds = nanoseconds / 1_000_000_000;
    match nanoseconds {
        0..1_000 => format!("{nanoseconds}ns"),
        1_000..1_000_000 => short(nanoseconds as f64 / 1e3, "µs"),
        1_000_000..1_000_000_000 => short(nanoseconds as f64 / 1e6, "ms"),
        1_000_000_000..60_000_000_000 => short(nanoseconds as f64 / 1e9, "s"),
        60_000_000_000..3_600_000_000_000 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

fn short(value: f64, unit: &str) -> String {
    match value {
        value if value < 9.995 => format!("{value:.2}{unit}"),
        value if value < 99.95 => format!("{value:.1}{unit}"),
        value => format!("{value:.0}{unit}"),
    }
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start())
}

/// `number × factor`, exactly: decimal places beyond the unit's resolution are an error, not rounded.
fn scale(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 9 || (number.contains('.') && fraction.is_empty()) {
        return None;
    }
    let mut total = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    if !fraction.is_empty() {
        let denominator = 10u128.pow(u32::try_from(fraction.len()).ok()?);
        let part = u128::from(fraction.parse::<u64>().ok()?) * u128::from(factor);
        if !part.is_multiple_of(denominator) {
            return None;
        }
        total = total.checked_add(u64::try_from(part / denominator).ok()?)?;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1.5 s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "5", "s", "-1s", "1..2s", "1.s", ".5s", "1x", "1s1", "99999999999999h", "0.5ns", "1e3s"] {
            let error = parse_duration(wrong).expect_err(wrong);
            assert!(error.contains("such as 500ms"), "{error}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("8MiB"), Ok(8 << 20));
        assert_eq!(parse_size("64K"), Ok(65536));
        assert_eq!(parse_size("1.5KiB"), Ok(1536));
        assert_eq!(parse_size("10kB"), Ok(10_000));
        assert_eq!(parse_size("77"), Ok(77));
        for wrong in ["", "MiB", "-1", "8 Mib", "99999999999GiB", "0.3B", "1,5K"] {
            let error = parse_size(wrong).expect_err(wrong);
            assert!(error.contains("such as 8MiB"), "{error}");
        }
    }

    #[test]
    fn brief_durations_stay_short() {
        let shown: Vec<String> = [0, 999, 1_234, 99_960, 1_500_000, 12_345_000_000, 303_000_000_000, 7_380_000_000_000]
            .map(|nanoseconds| brief_duration(Duration::from_nanos(nanoseconds)))
            .into();
        assert_eq!(shown, ["0ns", "999ns", "1.23µs", "100µs", "1.50ms", "12.3s", "5m03s", "2h03m"]);
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(number in any::<u64>(), step in 0usize..7) {
            let duration = Duration::from_nanos(number / DURATION_UNITS[step].1 * DURATION_UNITS[step].1);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
            prop_assert_eq!(parse_size(&show_size(number)), Ok(number));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,12}") {
            let _ = parse_duration(&text);
            let _ = parse_size(&text);
        }
    }
}
