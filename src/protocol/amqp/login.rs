//! What a login keeps secret: which methods carry credentials, and where in them.

/// Which arguments of a method are secret.
enum Secret {
    /// connection.secure-ok, connection.update-secret: all of them.
    All,
    /// connection.start-ok: everything behind the client's properties.
    BehindTable,
}

/// Whether a method of channel 0 with this payload carries credentials.
pub(super) fn is_secret(payload: &[u8]) -> bool {
    secret_of(payload).is_some()
}

/// How much of a payload of `size` bytes is no secret, if it begins with `payload`; `None`: not known before more has come.
pub(super) fn public_length(payload: &[u8], size: u32) -> Option<u32> {
    if payload.len() < 4 {
        return (size < 4).then_some(size);
    }
    match secret_of(payload) {
        None => Some(size),
        Some(Secret::All) => Some(4),
        Some(Secret::BehindTable) => {
            let length = payload.get(4..8).and_then(|length| length.try_into().ok()).map(u32::from_be_bytes);
            match length {
                // A table that goes on behind the frame's end is a lie, and may hide a password.
                Some(length) => Some(length.checked_add(8).filter(|end| *end <= size).unwrap_or(8)),
                None => (size < 8).then_some(size),
            }
        }
    }
}

fn secret_of(payload: &[u8]) -> Option<Secret> {
    match payload {
        [0, 10, 0, 11, ..] => Some(Secret::BehindTable),
        [0, 10, 0, 21 | 70, ..] => Some(Secret::All),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_clients_properties_of_a_start_ok_are_public() {
        let start_ok = b"\0\x0a\0\x0b\0\0\0\x03abcPLAIN";
        assert!(is_secret(start_ok));
        let known = |length: usize, size| public_length(&start_ok[..length], size);
        assert_eq!((known(3, 30), known(4, 30), known(8, 30)), (None, None, Some(11)));
        assert_eq!((known(3, 3), known(4, 7)), (Some(3), Some(7)), "too short to hold one");
        assert_eq!(public_length(b"\0\x0a\0\x0b\xff\xff\xff\xff", 30), Some(8), "a lie");
    }

    #[test]
    fn other_logins_are_secret_altogether() {
        assert_eq!((public_length(b"\0\x0a\0\x15", 30), public_length(b"\0\x0a\0\x46", 30)), (Some(4), Some(4)));
        assert_eq!(public_length(b"\0\x0a\0\x28", 30), Some(30));
        assert!(!is_secret(b"\0\x0a\0\x28\x01/"));
    }
}
