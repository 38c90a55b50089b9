//! Batches made here, by the Java client, and by nobody who means well.

mod codecs;
mod encode;
mod holes;
mod java;
mod legacy;
mod originals;
mod properties;
mod traces;
mod wrong;

use crate::protocol::kafka::batch::Batch;
use crate::protocol::kafka::batches::{Batches, Lost, Side, Visitor, Wish};
use crate::protocol::kafka::codec::{Budget, Codec, Scratch};
use crate::protocol::kafka::pieces::Digest;
use crate::protocol::kafka::provenance::Provenance;
use crate::protocol::kafka::reader::{End, Outcome};
use crate::protocol::kafka::records::{Marker, Record};
use crate::protocol::operation::TraceContext;
use xxhash_rust::xxh3::xxh3_64;

/// A record without what it borrows.
#[derive(Clone, Debug, PartialEq)]
struct Kept {
    offset_delta: i64,
    timestamp_delta: i64,
    key: Option<Digest>,
    value: Option<Digest>,
    headers: u32,
    marker: Option<Marker>,
    trace: Option<TraceContext>,
    provenance: Option<Provenance>,
}

#[derive(Clone, Debug, PartialEq)]
enum Event {
    Batch(Batch),
    Record(Box<Kept>),
    End(End),
    Lost(Lost),
}

/// Keeps all that it is told.
struct Seen {
    wish: Wish,
    events: Vec<Event>,
}

impl Visitor for Seen {
    fn batch(&mut self, batch: &Batch) -> Wish {
        self.events.push(Event::Batch(*batch));
        self.wish
    }

    fn record(&mut self, _: &Batch, record: &Record<'_>) {
        self.events.push(Event::Record(Box::new(Kept {
            offset_delta: record.offset_delta,
            timestamp_delta: record.timestamp_delta,
            key: record.key,
            value: record.value,
            headers: record.headers,
            marker: record.marker,
            trace: record.trace,
            provenance: record.provenance.cloned(),
        })));
    }

    fn end(&mut self, _: &Batch, end: &End) {
        self.events.push(Event::End(*end));
    }

    fn lost(&mut self, lost: Lost) {
        self.events.push(Event::Lost(lost));
    }
}

impl Seen {
    fn batches(&self) -> Vec<Batch> {
        self.events
            .iter()
            .filter_map(|event| if let Event::Batch(batch) = event { Some(*batch) } else { None })
            .collect()
    }

    fn records(&self) -> Vec<&Kept> {
        self.events
            .iter()
            .filter_map(|event| if let Event::Record(record) = event { Some(&**record) } else { None })
            .collect()
    }

    fn ends(&self) -> Vec<End> {
        self.events.iter().filter_map(|event| if let Event::End(end) = event { Some(*end) } else { None }).collect()
    }

    fn outcomes(&self) -> Vec<Outcome> {
        self.ends().iter().map(|end| end.outcome).collect()
    }

    fn lost(&self) -> Vec<Lost> {
        self.events.iter().filter_map(|event| if let Event::Lost(lost) = event { Some(*lost) } else { None }).collect()
    }
}

const RECORDS: Wish = Wish::Records(GENEROUS);
const GENEROUS: Budget = Budget { input: 10 << 20, output: 32 << 20, ratio: 200, memory: 8 << 20 };

/// Bytes of a field, or a hole in it.
#[derive(Clone, Debug)]
enum Piece<'a> {
    Data(&'a [u8]),
    Hole(u64),
}

/// Reads a field of `total` bytes that comes in these pieces.
fn read(side: Side, wish: Wish, total: u64, pieces: &[Piece<'_>]) -> Seen {
    let mut seen = Seen { wish, events: Vec::new() };
    let (mut batches, mut scratch) = (Batches::new(side, total), Scratch::default());
    for piece in pieces {
        match piece {
            Piece::Data(bytes) => batches.data(bytes, &mut scratch, &mut seen),
            Piece::Hole(length) => batches.hole(*length, &mut scratch, &mut seen),
        }
        assert!(batches.cost() < 16 << 20);
    }
    batches.end(&mut scratch, &mut seen);
    assert_eq!(batches.left(), 0);
    seen
}

fn fetched(bytes: &[u8]) -> Seen {
    read(Side::Fetch, RECORDS, bytes.len() as u64, &[Piece::Data(bytes)])
}

fn produced(bytes: &[u8]) -> Seen {
    read(Side::Produce, RECORDS, bytes.len() as u64, &[Piece::Data(bytes)])
}

fn digest(bytes: &[u8]) -> Digest {
    Digest { hash: xxh3_64(bytes), length: bytes.len() as u32 }
}

const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

#[test]
fn a_header_says_all_that_it_says() {
    let batch = encode::Batch { attributes: 1 << 3 | 1 << 4 | 1 << 6, ..encode::Batch::new(42, Codec::Zstd, three()) };
    let bytes = batch.write();
    let seen = fetched(&bytes);
    let header = seen.batches()[0];
    let attributes = header.attributes;
    assert_eq!((header.start, header.size, header.truncated, header.magic), (0, bytes.len() as u64, false, 2));
    assert_eq!((header.base_offset, header.leader_epoch, header.last_offset_delta), (42, 5, 2));
    assert_eq!((header.last_offset(), header.end()), (44, bytes.len() as u64));
    assert_eq!((header.base_timestamp, header.max_timestamp), (encode::BASE_TIMESTAMP, encode::BASE_TIMESTAMP + 2));
    assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (4711, 3, 17));
    assert_eq!((header.count, attributes.codec), (Some(3), Codec::Zstd));
    assert!(attributes.log_append_time && attributes.transactional && attributes.delete_horizon);
    assert!(!attributes.control && !attributes.reserved);
}

fn three() -> Vec<encode::Record> {
    let mut records = encode::records([b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);
    records[1].key = Some(b"key".to_vec());
    records[2].value = None;
    records
}

#[test]
fn records_are_the_same_through_every_codec() {
    for codec in CODECS {
        let seen = produced(&encode::Batch::new(0, codec, three()).write());
        let records = seen.records();
        assert_eq!(records.len(), 3, "{codec:?}");
        assert_eq!((records[0].key, records[0].value), (None, Some(digest(b"one"))));
        assert_eq!((records[1].key, records[1].value), (Some(digest(b"key")), Some(digest(b"two"))));
        assert_eq!((records[2].value, records[2].offset_delta, records[2].timestamp_delta), (None, 2, 2));
        let end = seen.ends()[0];
        assert_eq!(
            (end.outcome, end.records, end.checksum, end.missing),
            (Outcome::Read, 3, Some(true), 0),
            "{codec:?}"
        );
        assert_eq!((end.base_offset, end.work > 0), (Some(0), true));
    }
}

#[test]
fn without_a_wish_there_are_headers_only() {
    let bytes = [0, 3, 6].map(|offset| encode::Batch::new(offset, Codec::Gzip, three()).write()).concat();
    let seen = read(Side::Fetch, Wish::HeadersOnly, bytes.len() as u64, &[Piece::Data(&bytes)]);
    assert_eq!(seen.batches().iter().map(|batch| batch.base_offset).collect::<Vec<_>>(), [0, 3, 6]);
    assert!(seen.records().is_empty());
    assert_eq!(seen.outcomes(), [Outcome::NotAsked; 3]);
    assert_eq!(
        seen.ends()[0],
        End { base_offset: Some(0), ..End::of_header(&seen.batches()[0], 0, Outcome::NotAsked) }
    );
}

#[test]
fn headers_of_interest_are_kept_and_others_are_stepped_over() {
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut record = encode::Record { value: Some(vec![7; 300]), ..encode::Record::default() }
        .header("traceparent", trace.replace("0af7", "ffff").as_bytes())
        .header(&"long".repeat(100), &[0; 1000])
        .header("traceparent", trace.as_bytes())
        .header("traceparent", b"nonsense")
        .header("__dlq.errors.topic", b"orders")
        .header("__dlq.errors.message", &[b'x'; 1000])
        .header("__dlq.errors.offset", &[b'1'; 1000]);
    record.headers.push((b"__dlq.errors.group".to_vec(), None));
    let seen = produced(
        &encode::Batch::new(0, Codec::None, vec![record, encode::Record { offset_delta: 1, ..Default::default() }])
            .write(),
    );
    let records = seen.records();
    assert_eq!((records[0].headers, records[0].trace.map(|trace| trace.trace_id[0])), (8, Some(0x0a)));
    let provenance = records[0].provenance.as_ref().unwrap();
    assert_eq!((&*provenance.origin.topic, provenance.origin.offset), (&b"orders"[..], None));
    assert_eq!((provenance.reason.len(), provenance.origin.group.len()), (256, 0));
    assert_eq!((records[1].trace, &records[1].provenance, records[1].headers), (None, &None, 0));
}

#[test]
fn control_records_tell_how_a_transaction_ended() {
    for (kind, marker) in [(0u8, Marker::Abort), (1, Marker::Commit), (4, Marker::Other(4))] {
        let record = encode::Record { key: Some(vec![0, 0, 0, kind]), value: Some(vec![0; 6]), ..Default::default() };
        let bytes = encode::Batch { attributes: 1 << 5, ..encode::Batch::new(9, Codec::None, vec![record]) }.write();
        for cut in 0..bytes.len() {
            let (left, right) = bytes.split_at(cut);
            let pieces = [Piece::Data(left), Piece::Data(right)];
            let seen = read(Side::Fetch, RECORDS, bytes.len() as u64, &pieces);
            assert_eq!(seen.records()[0].marker, Some(marker));
        }
    }
}

#[test]
fn a_batch_that_compaction_emptied_has_nothing_but_a_header() {
    let empty = encode::Batch { count: Some(0), ..encode::Batch::new(0, Codec::None, three()) }.write_with(&[]);
    let bytes = [empty, encode::Batch::new(3, Codec::None, three()).write()].concat();
    let seen = fetched(&bytes);
    assert_eq!(seen.batches().iter().map(|batch| batch.count).collect::<Vec<_>>(), [Some(0), Some(3)]);
    assert_eq!(seen.outcomes(), [Outcome::Read, Outcome::Read]);
}

#[test]
fn a_response_may_cut_its_last_batch_a_request_may_not() {
    let (first, last) =
        (encode::Batch::new(0, Codec::None, three()).write(), encode::Batch::new(3, Codec::None, three()).write());
    for cut in 1..last.len() {
        let bytes = [&first[..], &last[..cut]].concat();
        let seen = fetched(&bytes);
        if cut < crate::protocol::kafka::batch::HEADER {
            assert_eq!(seen.batches().len(), 1);
            let lost = Lost {
                from: first.len() as u64,
                bytes: cut as u64,
                why: crate::protocol::kafka::batches::Loss::Truncated,
            };
            assert_eq!(seen.lost(), [lost], "{cut}");
        } else {
            assert!(seen.batches()[1].truncated && seen.lost().is_empty());
            assert_eq!((seen.batches()[1].size, seen.records().len()), (last.len() as u64, 3));
            assert_eq!(seen.ends()[1].outcome, Outcome::Incomplete);
        }
        let seen = produced(&bytes);
        let lost =
            Lost { from: first.len() as u64, bytes: cut as u64, why: crate::protocol::kafka::batches::Loss::Malformed };
        assert_eq!((seen.batches().len(), seen.lost()), (1, vec![lost]), "{cut}");
    }
}
