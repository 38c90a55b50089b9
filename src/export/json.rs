//! JSON lines: one object a line, written by hand because every message passes here several times.
//!
//! Fields and attributes are those of `docs/events.md`. What does not apply is absent; text is escaped, so that a line is
//! valid JSON in valid UTF-8 whatever a name holds.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use super::destination::{Destination, operation_type};
use super::registry::{Attribute, EVENTS, attribute};
use crate::lifecycle::transition::{Attributes, Event, State, Transition};
use crate::time::Timestamp;

/// Appends the line of a transition, with its line feed.
pub fn transition_line(transition: &Transition<'_>, out: &mut Vec<u8>) {
    out.reserve(TYPICAL_LINE);
    out.extend_from_slice(b"{\"kind\":\"transition\",\"time\":\"");
    time(transition.time, out);
    out.extend_from_slice(b"\",\"state\":\"");
    out.extend_from_slice(transition.state.name().as_bytes());
    if let Some(previous) = transition.previous {
        out.extend_from_slice(b"\",\"previous\":\"");
        out.extend_from_slice(previous.name().as_bytes());
    }
    out.extend_from_slice(b"\",\"evidence\":\"");
    out.extend_from_slice(transition.evidence.name().as_bytes());
    if let Some(corrected) = transition.corrects {
        out.extend_from_slice(b"\",\"corrects\":\"");
        out.extend_from_slice(corrected.name().as_bytes());
    }
    if let Some(reason) = transition.reason {
        out.extend_from_slice(b"\",\"reason\":\"");
        out.extend_from_slice(reason.name().as_bytes());
    }
    out.push(b'"');
    if transition.ambiguous {
        out.extend_from_slice(b",\"ambiguous\":true");
    }
    out.extend_from_slice(b",\"count\":");
    number(transition.count, out);
    if let Some(identity) = transition.message {
        out.extend_from_slice(b",\"message\":\"");
        hex(&identity.0.to_be_bytes(), out);
        out.push(b'"');
    }
    if let Some(delivery) = transition.delivery {
        out.extend_from_slice(b",\"delivery\":");
        number(u64::from(delivery), out);
    }
    attributes(&transition.attributes, Some(transition.state), out);
    out.extend_from_slice(b"}\n");
}

/// Appends the line of an event, with its line feed.
pub fn event_line(event: &Event<'_>, out: &mut Vec<u8>) {
    debug_assert!(EVENTS.contains(&event.name), "{} is not registered", event.name);
    out.reserve(TYPICAL_LINE);
    out.extend_from_slice(b"{\"kind\":\"event\",\"event\":");
    string(event.name, out);
    out.extend_from_slice(b",\"time\":\"");
    time(event.time, out);
    out.extend_from_slice(b"\",\"evidence\":\"");
    out.extend_from_slice(event.evidence.name().as_bytes());
    out.push(b'"');
    if let Some(count) = event.count {
        out.extend_from_slice(b",\"count\":");
        number(count, out);
    }
    if let Some(detail) = event.detail {
        out.extend_from_slice(b",\"detail\":");
        string(detail, out);
    }
    attributes(&event.attributes, None, out);
    out.extend_from_slice(b"}\n");
}

/// Appends text as a JSON string with its quotes.
pub fn string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    escaped(text, out);
    out.push(b'"');
}

/// Appends a whole number.
pub fn number(mut value: u64, out: &mut Vec<u8>) {
    let mut digits = [0u8; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// Appends bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

/// Appends a time as RFC 3339 in UTC with nanoseconds: `2026-11-22T14:31:07.123456789Z`, without quotes.
pub fn time(time: Timestamp, out: &mut Vec<u8>) {
    const SECOND: u64 = 1_000_000_000;
    let seconds = time.0 / SECOND;
    let (year, month, day) = civil_date(seconds / 86_400);
    let of_day = seconds % 86_400;
    let mut text = *b"0000-00-00T00:00:00.000000000Z";
    two_digits(&mut text, 0, year / 100);
    two_digits(&mut text, 2, year % 100);
    two_digits(&mut text, 5, month);
    two_digits(&mut text, 8, day);
    two_digits(&mut text, 11, of_day / 3600);
    two_digits(&mut text, 14, of_day / 60 % 60);
    two_digits(&mut text, 17, of_day % 60);
    let fraction = time.0 % SECOND;
    text[20] = b'0' + (fraction / 100_000_000) as u8;
    two_digits(&mut text, 21, fraction / 1_000_000 % 100);
    two_digits(&mut text, 23, fraction / 10_000 % 100);
    two_digits(&mut text, 25, fraction / 100 % 100);
    two_digits(&mut text, 27, fraction % 100);
    out.extend_from_slice(&text);
}

/// Room for a line without long names.
const TYPICAL_LINE: usize = 1024;

fn attributes(attributes: &Attributes<'_>, state: Option<State>, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"attributes\":{");
    let mut object = Object { out };
    object.text(&attribute::SYSTEM, Some(attributes.system).filter(|system| !system.is_empty()));
    object.text(&attribute::OPERATION_NAME, attributes.operation);
    object.text(&attribute::OPERATION_TYPE, operation_type(state, attributes.operation));
    object.destination(Destination::of(attributes));
    object.text(&attribute::MESSAGE_ID, attributes.message_id.map(|name| &**name));
    object.text(&attribute::CONVERSATION_ID, attributes.conversation_id.map(|name| &**name));
    object.number(&attribute::BODY_SIZE, attributes.body_size);
    object.text(&attribute::CLIENT_ID, attributes.client_id.map(|name| &**name));
    object.text(&attribute::ROUTING_KEY, attributes.routing_key.map(|name| &**name));
    object.number(&attribute::DELIVERY_TAG, attributes.delivery_tag);
    object.text(&attribute::EXCHANGE, attributes.exchange.map(|name| &**name));
    object.text(&attribute::VHOST, attributes.vhost.map(|name| &**name));
    object.text(&attribute::QUEUE, attributes.queue.map(|name| &**name));
    object.text(&attribute::GROUP, attributes.group.map(|name| &**name));
    object.partition(attributes.partition);
    if let Some((first, last)) = attributes.offsets {
        object.number(&attribute::OFFSET, u64::try_from(first).ok());
        object.number(&attribute::OFFSET_LAST, u64::try_from(last).ok());
    }
    object.number(&attribute::LAG, attributes.lag);
    object.text(&attribute::CONSUMER_TAG, attributes.consumer_tag.map(|name| &**name));
    object.number(&attribute::STREAM_OFFSET, attributes.stream_offset);
    object.boolean(&attribute::REDELIVERED, attributes.redelivered);
    object.text(&attribute::SETTLEMENT, attributes.settlement.map(|settlement| settlement.name()));
    object.text(&attribute::DEAD_LETTER_SOURCE, attributes.dead_letter_source.map(|name| &**name));
    object.text(&attribute::DEAD_LETTER_DESTINATION, attributes.dead_letter_destination.map(|name| &**name));
    object.signed_text(&attribute::DEAD_LETTER_PARTITION, attributes.dead_letter_partition);
    let offset = attributes.dead_letter_offset.and_then(|offset| u64::try_from(offset).ok());
    object.number(&attribute::DEAD_LETTER_OFFSET, offset);
    object.error_type(attributes.error_code);
    object.text(&attribute::ERROR_TEXT, attributes.error_text.map(|name| &**name));
    object.address(&attribute::SERVER_ADDRESS, &attribute::SERVER_PORT, attributes.server);
    object.address(&attribute::CLIENT_ADDRESS, &attribute::CLIENT_PORT, attributes.client);
    if let Some(process) = attributes.process {
        object.number(&attribute::PROCESS_PID, Some(u64::from(process.pid)));
        object.text(&attribute::PROCESS_EXECUTABLE, Some(process.executable.as_str()));
    }
    if let Some(trace) = attributes.trace {
        object.hex(&attribute::TRACE_ID, &trace.trace_id);
        object.hex(&attribute::SPAN_ID, &trace.span_id);
    }
    object.end();
}

/// The inside of a JSON object whose `{` has been written. Each member ends in a comma; the last becomes the `}`.
struct Object<'a> {
    out: &'a mut Vec<u8>,
}

impl Object<'_> {
    /// Empty text does not apply, and is left out.
    fn text(&mut self, attribute: &Attribute, value: Option<&str>) {
        if let Some(value) = value
            && !value.is_empty()
        {
            self.key(attribute);
            string(value, self.out);
            self.out.push(b',');
        }
    }

    fn number(&mut self, attribute: &Attribute, value: Option<u64>) {
        if let Some(value) = value {
            self.key(attribute);
            number(value, self.out);
            self.out.push(b',');
        }
    }

    fn boolean(&mut self, attribute: &Attribute, value: Option<bool>) {
        if let Some(value) = value {
            self.key(attribute);
            self.out.extend_from_slice(if value { b"true," } else { b"false," });
        }
    }

    fn hex(&mut self, attribute: &Attribute, bytes: &[u8]) {
        self.key(attribute);
        self.out.push(b'"');
        hex(bytes, self.out);
        self.out.extend_from_slice(b"\",");
    }

    /// `error.type` is a string in the conventions, so the broker's code is written as one.
    fn error_type(&mut self, code: Option<i32>) {
        self.signed_text(&attribute::ERROR_TYPE, code);
    }

    /// In the conventions it is text.
    fn partition(&mut self, partition: Option<i32>) {
        self.signed_text(&attribute::PARTITION, partition);
    }

    fn signed_text(&mut self, attribute: &Attribute, value: Option<i32>) {
        let Some(value) = value else { return };
        self.key(attribute);
        self.out.push(b'"');
        if value < 0 {
            self.out.push(b'-');
        }
        number(u64::from(value.unsigned_abs()), self.out);
        self.out.extend_from_slice(b"\",");
    }

    fn destination(&mut self, destination: Option<Destination<'_>>) {
        let Some(destination) = destination else { return };
        self.key(&attribute::DESTINATION_NAME);
        let mut before = b'"';
        for part in destination.parts() {
            self.out.push(before);
            escaped(part, self.out);
            before = b':';
        }
        self.out.extend_from_slice(b"\",");
    }

    fn address(&mut self, host: &Attribute, port: &Attribute, address: Option<&SocketAddr>) {
        let Some(address) = address else { return };
        self.key(host);
        self.out.push(b'"');
        match address.ip() {
            IpAddr::V4(ip) => {
                for (index, octet) in ip.octets().into_iter().enumerate() {
                    if index > 0 {
                        self.out.push(b'.');
                    }
                    number(u64::from(octet), self.out);
                }
            }
            // Writing to a vector cannot fail.
            IpAddr::V6(ip) => drop(write!(self.out, "{ip}")),
        }
        self.out.extend_from_slice(b"\",");
        self.number(port, Some(u64::from(address.port())));
    }

    fn key(&mut self, attribute: &Attribute) {
        self.out.extend_from_slice(attribute.json.as_bytes());
    }

    fn end(self) {
        if let Some(last @ b',') = self.out.last_mut() {
            *last = b'}';
        } else {
            self.out.push(b'}');
        }
    }
}

/// Appends text with what JSON forbids inside a string escaped (RFC 8259, section 7).
fn escaped(text: &str, out: &mut Vec<u8>) {
    let mut rest = text.as_bytes();
    while let Some(clean) = clean_prefix(rest) {
        let (before, after) = rest.split_at(clean);
        out.extend_from_slice(before);
        let Some((&byte, after)) = after.split_first() else { return };
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            _ => {
                out.extend_from_slice(b"\\u00");
                hex(&[byte], out);
            }
        }
        rest = after;
    }
    out.extend_from_slice(rest);
}

/// How many bytes precede the first that needs escaping; `None` if none does. Eight at a time: names are rarely longer
/// than a few words, and almost never hold one.
fn clean_prefix(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let zero_bytes = |word: u64| word.wrapping_sub(ONES) & !word & HIGH;
    let (words, tail) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
        let special = zero_bytes(word ^ (ONES * u64::from(b'"'))) | zero_bytes(word ^ (ONES * u64::from(b'\\')));
        // The lowest marked byte is exact; a borrow can only mark wrongly above a rightly marked one.
        let marked = control | special;
        if marked != 0 {
            return Some(index * 8 + marked.trailing_zeros() as usize / 8);
        }
    }
    let tail_start = bytes.len() - tail.len();
    let needs_escape = |byte: &u8| *byte < 0x20 || matches!(byte, b'"' | b'\\');
    tail.iter().position(needs_escape).map(|position| tail_start + position)
}

/// Year, month and day of a number of days since 1970-01-01 (proleptic Gregorian calendar; eras of 400 years, years
/// that begin in March so that the leap day comes last).
fn civil_date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

fn two_digits(text: &mut [u8; 30], at: usize, value: u64) {
    text[at] = b'0' + (value / 10 % 10) as u8;
    text[at + 1] = b'0' + (value % 10) as u8;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rfc3339(nanoseconds: u64) -> String {
        let mut out = Vec::new();
        time(Timestamp(nanoseconds), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn times_are_rfc_3339_with_nanoseconds() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(rfc3339(1_795_357_867_123_456_789), "2026-11-22T14:31:07.123456789Z");
        assert_eq!(rfc3339(951_782_400_000_000_001), "2000-02-29T00:00:00.000000001Z");
        assert_eq!(rfc3339(4_107_542_399_999_999_999), "2100-02-28T23:59:59.999999999Z");
        assert_eq!(rfc3339(u64::MAX), "2554-07-21T23:34:33.709551615Z");
    }

    #[test]
    fn dates_agree_with_a_calendar_counted_day_by_day() {
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..213_504 {
            assert_eq!(civil_date(days), (year, month, day));
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                2 => 28 + u64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day += 1;
            if day > length {
                (day, month) = (1, month + 1);
            }
            if month > 12 {
                (month, year) = (1, year + 1);
            }
        }
    }

    #[test]
    fn every_ascii_character_is_escaped_where_json_asks_for_it() {
        for position in 0..20 {
            for code in 0..128u8 {
                let mut bytes = vec![b'x'; 20];
                bytes[position] = code;
                bytes[19 - position] = b'\xc3';
                bytes.insert(20 - position, b'\xa9');
                let Ok(text) = std::str::from_utf8(&bytes) else { continue };
                let mut out = Vec::new();
                string(text, &mut out);
                assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
            }
        }
    }

    #[test]
    fn numbers_are_written_whole() {
        for value in [0, 7, 10, 99, 100, 1_000_000_007, u64::MAX] {
            let mut out = Vec::new();
            number(value, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), value.to_string());
        }
    }
}
