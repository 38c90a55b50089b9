//! What was sent is recognised when it is published again, however both are compressed; and what is kept stays within bounds.

use proptest::prelude::*;

use super::*;
use crate::protocol::kafka::copies::CopySettings;
use crate::protocol::kafka::likeness::Likeness;
use crate::protocol::kafka::originals::{Application, Originals, Whereabouts};
use crate::protocol::operation::log::{Partition, Topic};
use crate::stream::ConnectionId;
use crate::time::Timestamp;
use encode::{Batch as Written, Record as Fields};

const NOW: Timestamp = Timestamp(1_000_000_000_000);
const LATER: Timestamp = Timestamp(1_301_000_000_000);
const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

fn fields(key: &str, value: &str) -> Fields {
    Fields { key: Some(key.into()), value: Some(value.into()), ..Fields::default() }
}

fn traced(record: Fields, trace: u8, span: u8) -> Fields {
    let context = format!("00-{}-{}-01", format!("{trace:02x}").repeat(16), format!("{span:02x}").repeat(8));
    record.header("traceparent", context.as_bytes())
}

fn batch(base_offset: i64, codec: Codec, records: Vec<Fields>) -> Vec<u8> {
    let numbered = records.into_iter().enumerate();
    let records = numbered.map(|(number, record)| Fields { offset_delta: number as i32, ..record }).collect();
    Written::new(base_offset, codec, records).write()
}

/// Hands what is wanted over, as it came.
struct Keeping<'a> {
    originals: &'a mut Originals,
    application: Application,
    kept: usize,
}

impl Visitor for Keeping<'_> {
    fn batch(&mut self, batch: &Batch) -> Wish {
        if self.originals.wants(self.application, batch.size, NOW) { Wish::Bytes } else { Wish::HeadersOnly }
    }

    fn record(&mut self, _: &Batch, _: &Record<'_>) {
        panic!("nobody asked for records");
    }

    fn bytes(&mut self, batch: &Batch, bytes: Vec<u8>) {
        assert_eq!(bytes.len() as u64, batch.size - batch.header_bytes());
        let from = (Partition { topic: Topic::Name("orders".into()), number: 0 }, ConnectionId(7));
        self.originals.keep(self.application, from, batch, bytes, NOW);
        self.kept += 1;
    }

    fn end(&mut self, _: &Batch, _: &End) {}

    fn lost(&mut self, _: Lost) {}
}

/// A consumer is sent a field in these pieces; how many batches of it are kept.
fn send(originals: &mut Originals, application: Application, total: usize, pieces: &[Piece<'_>]) -> usize {
    let mut keeping = Keeping { originals, application, kept: 0 };
    let (mut batches, mut scratch) = (Batches::new(Side::Fetch, total as u64), Scratch::default());
    for piece in pieces {
        match piece {
            Piece::Data(bytes) => batches.data(bytes, &mut scratch, &mut keeping),
            Piece::Hole(length) => batches.hole(*length, &mut scratch, &mut keeping),
        }
    }
    batches.end(&mut scratch, &mut keeping);
    keeping.kept
}

fn sent(originals: &mut Originals, application: Application, bytes: &[u8]) -> usize {
    send(originals, application, bytes.len(), &[Piece::Data(bytes)])
}

/// The first record's likeness.
fn likeness(codec: Codec, record: Fields) -> Likeness {
    struct First(Option<Likeness>);
    impl Visitor for First {
        fn batch(&mut self, _: &Batch) -> Wish {
            RECORDS
        }
        fn record(&mut self, _: &Batch, record: &Record<'_>) {
            self.0.get_or_insert(Likeness::of(record));
        }
        fn end(&mut self, _: &Batch, _: &End) {}
        fn lost(&mut self, _: Lost) {}
    }
    let (bytes, mut first) = (batch(0, codec, vec![record]), First(None));
    Batches::new(Side::Produce, bytes.len() as u64).data(&bytes, &mut Scratch::default(), &mut first);
    first.0.unwrap()
}

/// The offsets of what is like a record that is published, and whether there may be more.
fn alike(originals: &mut Originals, application: Application, record: Fields) -> (Vec<i64>, bool) {
    let (sent, incomplete) = originals.alike(application, likeness(Codec::None, record), NOW);
    assert!(sent.iter().all(|sent| sent.connection == ConnectionId(7)));
    (sent.iter().map(|sent| sent.offset).collect(), incomplete)
}

fn producing(originals: &mut Originals) -> Application {
    let application = originals.join(Whereabouts::Process(1));
    originals.produces(application);
    application
}

#[test]
fn content_tells_whatever_it_is_compressed_with() {
    for codec in CODECS {
        let mut originals = Originals::default();
        let application = producing(&mut originals);
        let records = vec![fields("a", "one"), fields("b", "two"), fields("b", "one")];
        let bytes = batch(40, codec, records);
        let (first, second) = bytes.split_at(bytes.len() / 2);
        assert_eq!(send(&mut originals, application, bytes.len(), &[Piece::Data(first), Piece::Data(second)]), 1);
        for copied in CODECS {
            let (found, _) = originals.alike(application, likeness(copied, fields("b", "two")), NOW);
            assert_eq!(found.iter().map(|sent| sent.offset).collect::<Vec<_>>(), [41], "{codec:?} {copied:?}");
        }
        assert_eq!(alike(&mut originals, application, fields("a", "two")), (vec![], false));
    }
}

#[test]
fn twins_come_the_latest_first_and_a_trace_tells_them_apart() {
    let mut originals = Originals::default();
    let application = producing(&mut originals);
    let twins = vec![traced(fields("a", "one"), 1, 1), traced(fields("a", "one"), 2, 2), fields("a", "one")];
    assert_eq!(sent(&mut originals, application, &batch(5, Codec::None, twins)), 1);
    assert_eq!(alike(&mut originals, application, fields("a", "one")).0, [7, 6, 5]);
    assert_eq!(alike(&mut originals, application, traced(fields("a", "one"), 2, 9)).0, [6]);
    assert_eq!(alike(&mut originals, application, traced(fields("a", "changed"), 1, 9)).0, [5]);
    assert_eq!(alike(&mut originals, application, traced(fields("b", "changed"), 1, 1)).0, [] as [i64; 0]);
}

#[test]
fn what_one_application_was_sent_another_one_does_not_publish() {
    let mut originals = Originals::default();
    let (one, other) = (producing(&mut originals), originals.join(Whereabouts::Process(2)));
    assert_ne!(one, other);
    assert_eq!(originals.join(Whereabouts::Process(1)), one, "another connection of it");
    sent(&mut originals, one, &batch(0, Codec::None, vec![fields("a", "one")]));
    assert_eq!(alike(&mut originals, other, fields("a", "one")), (vec![], false));
    originals.leave(one);
    assert_eq!(alike(&mut originals, one, fields("a", "one")), (vec![0], false));
    originals.leave(one);
    assert_eq!(originals.cost(), 0, "nobody is left");
    assert_eq!(alike(&mut originals, one, fields("a", "one")), (vec![], false));
}

#[test]
fn what_is_not_kept_is_known_to_be_missing_for_a_while() {
    let large = || batch(0, Codec::None, vec![fields("a", &"x".repeat(5000))]);
    let mut originals = Originals::default();
    let application = originals.join(Whereabouts::Process(1));
    assert_eq!(sent(&mut originals, application, &large()), 0, "it may never produce anything");
    assert_eq!(alike(&mut originals, application, fields("b", "one")), (vec![], true));
    let (_, incomplete) = originals.alike(application, likeness(Codec::None, fields("b", "one")), LATER);
    assert!(!incomplete);
    originals.produces(application);
    assert_eq!(sent(&mut originals, application, &large()), 1);
    let small = CopySettings { bytes: 8 << 10, ..CopySettings::default() };
    let mut originals = Originals::new(small);
    let application = producing(&mut originals);
    for offset in 0..100 {
        let value = format!("{offset}");
        sent(&mut originals, application, &batch(offset, Codec::None, vec![fields("a", &value)]));
        assert!(originals.cost() <= 8 << 10);
    }
    assert_eq!(alike(&mut originals, application, fields("a", "99")), (vec![99], true));
    assert_eq!(alike(&mut originals, application, fields("a", "0")), (vec![], true));
}

#[test]
fn a_hole_takes_a_batch_and_no_more() {
    let mut originals = Originals::default();
    let application = producing(&mut originals);
    let batches = [0, 1].map(|offset| batch(offset, Codec::None, vec![fields("a", &offset.to_string())]));
    let (head, _) = batches[0].split_at(65);
    let missing = (batches[0].len() - 65) as u64;
    let pieces = [Piece::Data(head), Piece::Hole(missing), Piece::Data(&batches[1])];
    assert_eq!(send(&mut originals, application, batches.concat().len(), &pieces), 1);
    assert_eq!(alike(&mut originals, application, fields("a", "1")).0, [1]);
    assert_eq!(alike(&mut originals, application, fields("a", "0")).0, [] as [i64; 0]);
}

#[test]
fn a_batch_that_swells_is_read_within_bounds() {
    let mut originals = Originals::new(CopySettings { bytes: 2 << 20, ..CopySettings::default() });
    let application = producing(&mut originals);
    let body: Vec<u8> =
        (0..100_000).flat_map(|delta| encode::record(&Fields { offset_delta: delta, ..fields("a", "b") })).collect();
    let mut written = Written::new(0, Codec::Gzip, encode::records([b"b".to_vec()]));
    written.records[0].offset_delta = 99_999;
    written.count = Some(100_000);
    let bytes = written.write_with(&encode::compress(Codec::Gzip, &body));
    assert_eq!(sent(&mut originals, application, &bytes), 1);
    let (_, incomplete) = alike(&mut originals, application, fields("x", "y"));
    assert!(incomplete && originals.cost() <= 2 << 20);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    /// Whatever comes, from whomever: never more than the budget, nothing left at the end, and what is kept is found.
    #[test]
    fn bounds_hold(steps in proptest::collection::vec((0u32..4, 0u8..4, 1usize..40, 0usize..CODECS.len()), 1..80)) {
        let budget = 20 << 10;
        let mut originals = Originals::new(CopySettings { bytes: budget, ..CopySettings::default() });
        let applications: Vec<Application> =
            (0..4).map(|process| originals.join(Whereabouts::Process(process))).collect();
        for (number, (process, what, count, codec)) in steps.into_iter().enumerate() {
            let application = applications[process as usize];
            match what {
                0 => originals.produces(application),
                1 => drop(alike(&mut originals, application, fields("k", "0"))),
                _ => {
                    let first = number as i64 * 100;
                    let records: Vec<Fields> = (0..count).map(|place| fields("k", &format!("{number} {place}"))).collect();
                    let kept = sent(&mut originals, application, &batch(first, CODECS[codec], records));
                    let cost_of_one = 200 + 100 * count;
                    if kept == 1 && cost_of_one < budget / 4 {
                        let (found, _) = alike(&mut originals, application, fields("k", &format!("{number} 0")));
                        prop_assert_eq!(found, [first]);
                    }
                }
            }
            prop_assert!(originals.cost() <= budget);
        }
        applications.into_iter().for_each(|application| originals.leave(application));
        prop_assert_eq!(originals.cost(), 0);
    }
}
