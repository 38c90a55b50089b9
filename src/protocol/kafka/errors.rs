//! What brokers' error codes are called.

/// The names, in the order of their codes from 0 on (org.apache.kafka.common.protocol.Errors of kafka-clients 4.4.0).
const NAMES: &str = include_str!("errors.txt");

/// The name of an error code; `None` for one that is newer than the table.
pub fn error_name(code: i32) -> Option<&'static str> {
    match code {
        -1 => Some("UNKNOWN_SERVER_ERROR"),
        _ => NAMES.lines().nth(usize::try_from(code).ok()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_names_of_the_protocol_guide() {
        assert_eq!(error_name(-1), Some("UNKNOWN_SERVER_ERROR"));
        assert_eq!(error_name(3), Some("UNKNOWN_TOPIC_OR_PARTITION"));
        assert_eq!(error_name(25), Some("UNKNOWN_MEMBER_ID"));
        assert_eq!(error_name(46), Some("DUPLICATE_SEQUENCE_NUMBER"));
        assert_eq!(error_name(121), Some("INVALID_RECORD_STATE"));
        for unknown in [-2, 30_000, i32::MAX, i32::MIN] {
            assert_eq!(error_name(unknown), None);
        }
    }
}
