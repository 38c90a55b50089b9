//! What a connection's first bytes look like, where they are not what was expected.

/// The name of what these first bytes, at least eight, look like; `unknown` if like nothing known.
pub(super) fn name(first: &[u8]) -> &'static str {
    const HTTP: [&[u8]; 9] =
        [b"GET ", b"POST ", b"PUT ", b"HEAD ", b"DELETE ", b"OPTIONS", b"PATCH ", b"CONNECT ", b"HTTP/1."];
    if is_tls(first) {
        return "TLS";
    }
    if first.starts_with(b"AMQP") {
        return match first.get(4..8) {
            Some([0 | 2 | 3, 1, 0, 0]) => "AMQP 1.0",
            _ => "another version of AMQP",
        };
    }
    if first.first() == Some(&0x10) && first.windows(2).skip(2).any(|pair| pair == b"MQ") {
        return "MQTT";
    }
    if HTTP.iter().any(|method| first.starts_with(method)) {
        return "HTTP";
    }
    if is_proxy_header(first) {
        return "PROXY";
    }
    if first.starts_with(b"CONNECT\n") || first.starts_with(b"STOMP\n") {
        return "STOMP";
    }
    if matches!(first, [_, _, _, _, 0, 17, 0, 1, ..]) {
        return "RabbitMQ stream protocol";
    }
    if first.starts_with(b"SSH-") {
        return "SSH";
    }
    "unknown"
}

/// Bytes that tell a TLS record.
pub(super) const TLS_HEAD: u64 = 5;

/// A TLS record: a handshake, or application data of a connection that was joined late (RFC 8446, section 5.1).
pub(super) fn is_tls(first: &[u8]) -> bool {
    const LONGEST: u16 = (1 << 14) + 256;
    match first {
        [20..=23, 3, 0..=4, high, low, ..] => (1..=LONGEST).contains(&u16::from_be_bytes([*high, *low])),
        _ => false,
    }
}

/// The header that a proxy puts before a connection's own bytes (PROXY protocol, versions 1 and 2).
pub(super) fn is_proxy_header(first: &[u8]) -> bool {
    first.starts_with(b"PROXY ") || first.starts_with(b"\r\n\r\n\0\r\nQ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_have_names() {
        for (first, expected) in [
            (&b"\x16\x03\x01\x02\x00\x01\x00\x01"[..], "TLS"),
            (b"AMQP\0\x01\0\0", "AMQP 1.0"),
            (b"AMQP\x03\x01\0\0", "AMQP 1.0"),
            (b"AMQP\0\0\x08\0", "another version of AMQP"),
            (b"\x10\x2c\0\x04MQTT", "MQTT"),
            (b"\x10\xac\x01\0\x04MQT", "MQTT"),
            (b"\x10\x2c\0\x06MQIs", "MQTT"),
            (b"GET / HT", "HTTP"),
            (b"PROXY TC", "PROXY"),
            (b"\0\0\0\x33\0\x11\0\x01", "RabbitMQ stream protocol"),
            (b"xxxxxxxx", "unknown"),
            (b"", "unknown"),
        ] {
            assert_eq!(name(first), expected, "{first:?}");
        }
    }
}
