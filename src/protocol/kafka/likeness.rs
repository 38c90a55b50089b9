//! Whether two records are alike: by fingerprints of what they hold, whatever their batches are compressed with.

use xxhash_rust::xxh3::xxh3_64;

use super::batch::Batch;
use super::batches::{Lost, Visitor, Wish};
use super::pieces::Digest;
use super::reader::End;
use super::records::Record;
use crate::protocol::operation::TraceContext;

/// Fingerprints of one record. Two records are alike where one of them is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Likeness {
    /// Of key and value; `None` where there is neither.
    pub content: Option<u64>,
    /// Of key and trace; `None` without a trace. Instrumented clients give what they publish again a span of its own, so that it
    /// counts only where no key tells messages of one trace apart.
    pub trace: Option<u64>,
}

impl Likeness {
    /// Of a record.
    pub fn of(record: &Record<'_>) -> Likeness {
        let named = record.key.or(record.value);
        Likeness {
            content: named.map(|_| fingerprint(b'c', &[part(record.key), part(record.value)])),
            trace: record.trace.as_ref().map(|trace| of_trace(record.key, trace)),
        }
    }

    /// What there is.
    pub fn all(self) -> impl Iterator<Item = u64> {
        self.content.into_iter().chain(self.trace)
    }
}

/// Null is another value than the empty one.
fn part(digest: Option<Digest>) -> [u8; 16] {
    let mut bytes = [0; 16];
    if let Some(Digest { hash, length }) = digest {
        let (all, _) = bytes.split_at_mut(13);
        let (of_hash, rest) = all.split_at_mut(8);
        of_hash.copy_from_slice(&hash.to_be_bytes());
        let (of_length, there) = rest.split_at_mut(4);
        of_length.copy_from_slice(&length.to_be_bytes());
        there.fill(1);
    }
    bytes
}

fn of_trace(key: Option<Digest>, trace: &TraceContext) -> u64 {
    let mut span = [0; 16];
    if key.is_none() {
        let (place, _) = span.split_at_mut(trace.span_id.len());
        place.copy_from_slice(&trace.span_id);
    }
    fingerprint(b't', &[part(key), trace.trace_id, span])
}

fn fingerprint(kind: u8, parts: &[[u8; 16]]) -> u64 {
    let mut bytes = [0; 49];
    let (first, rest) = bytes.split_at_mut(1);
    first.fill(kind);
    for (place, part) in rest.chunks_exact_mut(16).zip(parts) {
        place.copy_from_slice(part);
    }
    xxh3_64(&bytes)
}

/// The fingerprints of a batch's records, with their places in it.
#[derive(Debug, Default)]
pub(super) struct Prints {
    pub found: Vec<(u64, u32)>,
    /// No more than so many.
    pub most: usize,
    /// There were more.
    pub is_full: bool,
}

impl Visitor for Prints {
    fn batch(&mut self, _: &Batch) -> Wish {
        Wish::HeadersOnly
    }

    fn record(&mut self, _: &Batch, record: &Record<'_>) {
        let Ok(place) = u32::try_from(record.offset_delta) else { return };
        for print in Likeness::of(record).all() {
            if self.found.len() < self.most {
                self.found.push((print, place));
            } else {
                self.is_full = true;
            }
        }
    }

    fn end(&mut self, _: &Batch, _: &End) {}

    fn lost(&mut self, _: Lost) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: Option<u64>, value: Option<u64>, trace: Option<(u8, u8)>) -> Record<'static> {
        let digest = |hash: u64| Digest { hash, length: 5 };
        Record {
            offset_delta: 0,
            timestamp_delta: 0,
            key: key.map(digest),
            value: value.map(digest),
            headers: 0,
            marker: None,
            trace: trace.map(|(trace, span)| TraceContext { trace_id: [trace; 16], span_id: [span; 8], flags: 1 }),
            provenance: None,
        }
    }

    fn content(key: Option<u64>, value: Option<u64>) -> Option<u64> {
        Likeness::of(&record(key, value, None)).content
    }

    fn trace(key: Option<u64>, trace: (u8, u8)) -> Option<u64> {
        Likeness::of(&record(key, Some(9), Some(trace))).trace
    }

    #[test]
    fn key_and_value_are_told_apart() {
        let all = [
            content(Some(1), Some(2)),
            content(Some(2), Some(1)),
            content(None, Some(2)),
            content(Some(2), None),
            content(Some(0), Some(2)),
        ];
        for (number, one) in all.iter().enumerate() {
            assert!(one.is_some() && !all[number + 1..].contains(one), "{number}");
        }
        assert_eq!(content(None, None), None, "nothing tells it from others");
        assert_eq!(content(Some(1), Some(2)), content(Some(1), Some(2)));
    }

    #[test]
    fn a_span_counts_where_there_is_no_key() {
        assert_eq!(trace(Some(1), (7, 1)), trace(Some(1), (7, 2)));
        assert_ne!(trace(Some(1), (7, 1)), trace(Some(2), (7, 1)));
        assert_ne!(trace(Some(1), (7, 1)), trace(Some(1), (8, 1)));
        assert_ne!(trace(None, (7, 1)), trace(None, (7, 2)));
        assert_eq!(trace(None, (7, 1)), trace(None, (7, 1)));
        assert_eq!(Likeness::of(&record(Some(1), None, None)).trace, None);
    }
}
