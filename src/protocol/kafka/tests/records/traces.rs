//! Which records are told of singly, and what looking for them may cost.

use std::rc::Rc;

use super::*;
use crate::names::Name;
use crate::protocol::kafka::traces::{Look, TraceSettings, Traces};
use crate::protocol::operation::log::Traced;
use crate::time::Timestamp;

const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
const ALL: TraceSettings = TraceSettings { bytes_per_second: 4 << 20, records_per_second: u64::MAX };
const SECOND: u64 = 1_000_000_000;

/// Takes the batches of one topic as a session does.
struct Topic<'a> {
    traces: &'a mut Traces,
    name: Name,
    now: Timestamp,
    reading: bool,
    found: Vec<Option<Rc<[Traced]>>>,
    read: usize,
}

impl Visitor for Topic<'_> {
    fn batch(&mut self, batch: &Batch) -> Wish {
        self.reading = false;
        match self.traces.look(&self.name, batch, self.now) {
            Look::No => self.found.push(None),
            Look::Known(traced) => self.found.push(Some(traced)),
            Look::Read(budget) => {
                self.reading = true;
                self.read += 1;
                return Wish::Records(budget);
            }
        }
        Wish::HeadersOnly
    }

    fn record(&mut self, _: &Batch, record: &Record<'_>) {
        assert!(self.reading);
        self.traces.note(record, self.now);
    }

    fn end(&mut self, batch: &Batch, end: &End) {
        if self.reading {
            self.found.push(Some(self.traces.end(&self.name, batch, end, self.now)));
        }
    }

    fn lost(&mut self, lost: Lost) {
        panic!("{lost:?}");
    }
}

/// What is found in some bytes that pass at a time, and how many batches were read for it.
fn pass(traces: &mut Traces, topic: &str, now: u64, bytes: &[u8]) -> (Vec<Option<Rc<[Traced]>>>, usize) {
    let now = Timestamp(now);
    let mut topic = Topic { traces, name: topic.into(), now, reading: false, found: Vec::new(), read: 0 };
    let mut batches = Batches::new(Side::Produce, bytes.len() as u64);
    let mut scratch = Scratch::default();
    batches.data(bytes, &mut scratch, &mut topic);
    batches.end(&mut scratch, &mut topic);
    (topic.found, topic.read)
}

fn traceparent(number: u64, flags: u8) -> Vec<u8> {
    let trace = u128::from(number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    format!("00-{trace:032x}-{:016x}-{flags:02x}", number + 1).into_bytes()
}

/// So many records; those of `sampled` bring a trace, the odd ones of the others one that is not recorded.
fn batch(codec: Codec, count: usize, sampled: impl Fn(usize) -> bool) -> Vec<u8> {
    let mut records = encode::records((0..count).map(|number| format!("value {number}").into_bytes()));
    for (number, record) in records.iter_mut().enumerate() {
        let flags = u8::from(sampled(number));
        if flags == 1 || number % 2 == 1 {
            *record = record
                .clone()
                .header("content-type", b"text")
                .header("traceparent", &traceparent(number as u64, flags));
        }
    }
    encode::Batch::new(0, codec, records).write()
}

/// Records without any header, each time others.
fn plain(number: u64) -> Vec<u8> {
    encode::Batch::new(0, Codec::None, encode::records([number.to_be_bytes().to_vec()])).write()
}

#[test]
fn sampled_records_are_found_in_every_codec_and_read_once() {
    for codec in CODECS {
        let mut traces = Traces::new(ALL);
        let bytes = batch(codec, 50, |number| number == 7 || number == 49);
        let (found, read) = pass(&mut traces, "orders", 0, &bytes);
        let [Some(traced)] = &found[..] else { panic!("{codec:?} {found:?}") };
        let said: Vec<_> =
            traced.iter().map(|traced| (traced.delta, traced.place, traced.context.span_id[7])).collect();
        assert_eq!((said, read), (vec![(7, 7, 8), (49, 49, 50)], 1), "{codec:?}");
        // Its readers are sent the same, with another offset.
        let mut log = bytes.clone();
        log[..8].copy_from_slice(&4711i64.to_be_bytes());
        assert_eq!(pass(&mut traces, "orders", 0, &log), (found, 0), "{codec:?}");
        assert_eq!(traces.statistics(), crate::protocol::kafka::TraceStatistics::default());
    }
}

#[test]
fn what_compaction_left_has_its_place_among_the_others() {
    let mut records = encode::records((0..3).map(|number| vec![number]));
    for (record, delta) in records.iter_mut().zip([2, 5, 9]) {
        *record = encode::Record { offset_delta: delta, ..record.clone() }.header("traceparent", &traceparent(1, 1));
    }
    let bytes = encode::Batch::new(0, Codec::None, records).write();
    let (found, _) = pass(&mut Traces::new(ALL), "orders", 0, &bytes);
    let traced = found[0].as_deref().unwrap();
    assert_eq!(traced.iter().map(|traced| (traced.delta, traced.place)).collect::<Vec<_>>(), [(2, 0), (5, 1), (9, 2)]);
}

#[test]
fn a_topic_without_traces_is_left_alone_for_longer_and_longer() {
    let mut traces = Traces::new(ALL);
    // Ten batches a second.
    let read = |traces: &mut Traces, seconds: std::ops::Range<u64>| -> Vec<usize> {
        let second = |second: u64| (0..10).map(move |tenth| second * SECOND + tenth * SECOND / 10);
        seconds.map(|at| second(at).map(|now| pass(traces, "plain", now, &plain(now)).1).sum()).collect()
    };
    let counts = read(&mut traces, 0..300);
    assert_eq!(counts[..4], [10, 6, 5, 10], "{counts:?}");
    assert!(counts.iter().sum::<usize>() <= 160, "{}", counts.iter().sum::<usize>());
    assert_eq!(traces.statistics().refused_batches, 0);
    // One with a trace, where it is looked at again, and all that follow are read.
    let looked = (300..400).find(|second| {
        let bytes = batch(Codec::None, 3, |number| number == *second as usize % 3);
        pass(&mut traces, "plain", second * SECOND, &bytes).1 == 1
    });
    let second = looked.expect("it is looked at again") + 1;
    assert_eq!(read(&mut traces, second..second + 1), [10]);
    assert_eq!(read(&mut traces, second + 1..second + 2), [6], "sixteen in a row without any");
}

#[test]
fn so_many_bytes_a_second_and_the_rest_is_counted() {
    let mut traces = Traces::new(TraceSettings { bytes_per_second: 20_000, ..ALL });
    let pad = |number: u64| {
        let record = encode::Record { value: Some(vec![number as u8; 7_000]), ..encode::Record::default() };
        encode::Batch::new(0, Codec::None, vec![record.header("traceparent", &traceparent(number, 1))]).write()
    };
    let read: Vec<usize> = (0..6).map(|number| pass(&mut traces, "large", number, &pad(number)).1).collect();
    assert_eq!((read, traces.statistics().refused_batches), (vec![1, 1, 0, 0, 0, 0], 4));
    assert_eq!(pass(&mut traces, "large", SECOND, &pad(9)).1, 1, "another second");
    // A thousand times as much as it seems.
    let record = encode::Record { value: Some(vec![0; 5 << 20]), ..encode::Record::default() };
    let bomb = encode::Batch::new(0, Codec::Gzip, vec![record.header("traceparent", &traceparent(1, 1))]).write();
    let (found, read) = pass(&mut traces, "bomb", 2 * SECOND, &bomb);
    assert_eq!((read, found[0].as_deref()), (1, Some(&[][..])));
    assert_eq!(traces.statistics().refused_batches, 5);
}

#[test]
fn of_too_many_a_share_is_told_and_everywhere_the_same() {
    let settings = TraceSettings { bytes_per_second: 1 << 30, records_per_second: 100 };
    let second = |traces: &mut Traces, at: u64| -> Vec<[u8; 16]> {
        let batches = (0..20u64).flat_map(|part| {
            let mut records = encode::records((0..500).map(|number| format!("{at} {part} {number}").into_bytes()));
            for (number, record) in (part * 500..).zip(&mut records) {
                *record = record.clone().header("traceparent", &traceparent(number, 1));
            }
            encode::Batch::new(part as i64 * 500, Codec::None, records).write()
        });
        let (found, _) = pass(traces, "busy", at * SECOND, &batches.collect::<Vec<_>>());
        found.iter().flatten().flat_map(|traced| traced.iter().map(|traced| traced.context.trace_id)).collect()
    };
    let mut traces = Traces::new(settings);
    assert_eq!(second(&mut traces, 0).len(), 200, "nobody knew");
    let told = second(&mut traces, 1);
    assert!((70..130).contains(&told.len()), "{}", told.len());
    assert_eq!(traces.statistics().refused_records, 20_000 - 200 - told.len() as u64);
    let mut other = Traces::new(settings);
    second(&mut other, 0);
    assert_eq!(second(&mut other, 1), told);
}

#[test]
fn nobody_wants_to_know_and_nothing_is_read() {
    for settings in [TraceSettings::NONE, TraceSettings { bytes_per_second: 0, ..ALL }] {
        let bytes = batch(Codec::Zstd, 3, |_| true);
        assert_eq!(pass(&mut Traces::new(settings), "orders", 0, &bytes), (vec![None], 0));
    }
}
