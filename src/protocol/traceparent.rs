//! W3C trace context as messages carry it.

use super::operation::TraceContext;

/// Reads a traceparent header: W3C's text, or its binary form of 29 bytes.
pub(super) fn traceparent(value: &[u8]) -> Option<TraceContext> {
    let (trace_id, span_id, flags) = match value {
        [0, 0, rest @ ..] if rest.len() == 27 => {
            let (trace, rest) = rest.split_first_chunk::<16>()?;
            let (span, rest) = rest.strip_prefix(&[1])?.split_first_chunk::<8>()?;
            let [2, flags] = rest else { return None };
            (*trace, *span, *flags)
        }
        _ => text_traceparent(value)?,
    };
    (trace_id != [0; 16] && span_id != [0; 8]).then_some(TraceContext { trace_id, span_id, flags })
}

fn text_traceparent(value: &[u8]) -> Option<([u8; 16], [u8; 8], u8)> {
    let mut fields = value.splitn(5, |&byte| byte == b'-');
    let [version] = hex(fields.next()?)?;
    let (trace_id, span_id, [flags]) = (hex(fields.next()?)?, hex(fields.next()?)?, hex(fields.next()?)?);
    // Version 0 has exactly four fields; later ones may have more; 255 is forbidden.
    let sound = version != 0xff && (version != 0 || fields.next().is_none());
    sound.then_some((trace_id, span_id, flags))
}

fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        if let [high, low] = pair {
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traceparent_as_text_and_binary() {
        let text = traceparent(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").unwrap();
        assert_eq!((text.trace_id[0], text.span_id[7], text.flags), (0x0a, 0x31, 1));
        let binary = [&[0, 0][..], &text.trace_id, &[1], &text.span_id, &[2, 1]].concat();
        assert_eq!(traceparent(&binary), Some(text));
        for bad in [
            &b"00-00000000000000000000000000000000-b7ad6b7169203331-01"[..],
            b"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            b"00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            b"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            b"",
        ] {
            assert_eq!(traceparent(bad), None);
        }
    }
}
