//! Records that a trace singles out: those whose own trace context says that it is sampled.
//!
//! Their headers lie inside of batches, among keys and values, and most of them compressed. So batches are looked into only as far
//! as somebody wants to know, within a number of bytes a second, and a topic without any trace is left alone for a while. What a
//! batch had in it is remembered: a producer's batch comes again for each group that reads it.

use std::rc::Rc;
use std::time::Duration;

use hashbrown::HashMap;

use super::batch::Batch;
use super::codec::{Budget, Codec};
use super::reader::{End, Outcome};
use super::records::Record;
use crate::names::Name;
use crate::protocol::operation::TraceContext;
use crate::protocol::operation::log::Traced;
use crate::time::Timestamp;

/// How far records are looked at for their trace contexts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceSettings {
    /// Bytes of batches that are worked on for it in a second, as they come and as they are without compression. 0: none.
    pub bytes_per_second: u64,
    /// Records that are told of singly in a second. Of more a share, by their trace ids.
    pub records_per_second: u64,
}

impl TraceSettings {
    /// Nobody wants to know.
    pub const NONE: TraceSettings = TraceSettings { bytes_per_second: 0, records_per_second: 0 };
    /// Bytes a second by default.
    pub const BYTES: u64 = 4 << 20;
}

/// The flag of a context whose trace is recorded (W3C Trace Context, 3.2.2.5.1).
const SAMPLED: u8 = 1;

/// See the [module](self).
#[derive(Debug)]
pub(in crate::protocol) struct Traces {
    settings: TraceSettings,
    share: Share,
    second: u64,
    /// Bytes of this second that were worked on.
    spent: u64,
    topics: HashMap<Name, Quiet>,
    known: Known,
    statistics: TraceStatistics,
    /// Sampled records of the batch at hand.
    found: Vec<Traced>,
    /// Records of the batch at hand that were read, and whether one of them had a context at all.
    read: u32,
    any: bool,
}

/// What could not be looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceStatistics {
    /// Batches of topics with traces that the budget did not allow to be read.
    pub refused_batches: u64,
    /// Sampled records that were not told of singly, because there were too many.
    pub refused_records: u64,
}

/// What is to be done with a batch.
#[derive(Debug)]
pub(super) enum Look {
    /// Nothing.
    No,
    /// It was read before.
    Known(Rc<[Traced]>),
    /// Its records are to be read within this budget.
    Read(Budget),
}

/// A topic in which no trace was found lately.
#[derive(Clone, Copy, Debug, Default)]
struct Quiet {
    /// It is left alone until then.
    until: Timestamp,
    /// For so long the last time.
    pause: Duration,
    /// Batches without any trace, one after the other, since the last with one, or since the last pause.
    empty: u32,
}

impl Default for Traces {
    fn default() -> Traces {
        Traces::new(TraceSettings::NONE)
    }
}

impl Traces {
    /// Topics that are known. Beyond it all are looked at anew.
    const TOPICS: usize = 16_384;
    /// A topic without traces is left alone for so long at first, then twice as long each time, up to the second.
    const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(64)];
    /// After so many batches without a trace, one after the other.
    const EMPTY: u32 = 16;
    /// Records of one batch that are told of singly.
    const OF_BATCH: usize = 4096;
    /// What one batch may cost at most.
    const BATCH: Budget = Budget { input: 4 << 20, output: 16 << 20, ratio: 200, memory: 8 << 20 };

    /// Nothing seen yet.
    pub fn new(settings: TraceSettings) -> Traces {
        Traces {
            settings,
            share: Share::default(),
            second: 0,
            spent: 0,
            topics: HashMap::new(),
            known: Known::default(),
            statistics: TraceStatistics::default(),
            found: Vec::new(),
            read: 0,
            any: false,
        }
    }

    /// Looks as far as this says from now on.
    pub fn set(&mut self, settings: TraceSettings) {
        self.settings = settings;
    }

    /// What could not be looked at so far.
    pub fn statistics(&self) -> TraceStatistics {
        self.statistics
    }

    /// What is to be done with a batch of a topic that passes now. After [`Look::Read`] its records are to be [noted](Traces::note),
    /// and its [end](Traces::end) to be told.
    pub(super) fn look(&mut self, topic: &Name, batch: &Batch, now: Timestamp) -> Look {
        let TraceSettings { bytes_per_second, records_per_second } = self.settings;
        let is_read = batch.magic == 2 && !batch.truncated && !batch.attributes.control;
        if !is_read || bytes_per_second == 0 || records_per_second == 0 {
            return Look::No;
        }
        if self.topics.get(topic).is_some_and(|quiet| now < quiet.until) {
            return Look::No;
        }
        if let Some(known) = self.known.get(&Key::of(batch)) {
            return Look::Known(known);
        }
        let second = now.0 / 1_000_000_000;
        if second != self.second {
            (self.second, self.spent) = (second, 0);
        }
        let left = bytes_per_second.saturating_sub(self.spent);
        if batch.size > left || matches!(batch.attributes.codec, Codec::Unknown(_)) {
            self.refuse(topic);
            return Look::No;
        }
        self.found.clear();
        (self.read, self.any) = (0, false);
        Look::Read(Budget { output: Self::BATCH.output.min(left), ..Self::BATCH })
    }

    /// A record of the batch at hand.
    pub(super) fn note(&mut self, record: &Record<'_>, now: Timestamp) {
        let place = self.read;
        self.read += 1;
        let Some(context) = &record.trace else { return };
        self.any = true;
        let Ok(delta) = u32::try_from(record.offset_delta) else { return };
        if context.flags & SAMPLED == 0 {
            return;
        }
        let admitted = self.share.admits(context, now, self.settings.records_per_second);
        if admitted && self.found.len() < Self::OF_BATCH {
            self.found.push(Traced { delta, place, context: *context });
        } else {
            self.statistics.refused_records += 1;
        }
    }

    /// The batch at hand has passed: its sampled records.
    pub(super) fn end(&mut self, topic: &Name, batch: &Batch, end: &End, now: Timestamp) -> Rc<[Traced]> {
        self.spent = self.spent.saturating_add(end.work);
        let found: Rc<[Traced]> = self.found.as_slice().into();
        self.found.clear();
        match end.outcome {
            Outcome::Read => {
                self.rest(topic, now);
                self.known.put(Key::of(batch), found.clone());
                found
            }
            // Those that were read are right, and the others are not known.
            Outcome::Refused(_) => {
                self.rest(topic, now);
                self.statistics.refused_batches += 1;
                found
            }
            Outcome::NotAsked | Outcome::Malformed | Outcome::Incomplete | Outcome::Missed => Rc::default(),
        }
    }

    /// Remembers whether a topic has traces at all.
    fn rest(&mut self, topic: &Name, now: Timestamp) {
        if self.topics.len() >= Self::TOPICS && !self.topics.contains_key(topic) {
            self.topics.clear();
        }
        let quiet = self.topics.entry(topic.clone()).or_default();
        if self.any {
            *quiet = Quiet::default();
            return;
        }
        quiet.empty += 1;
        let [least, most] = Self::PAUSES;
        if quiet.empty >= Self::EMPTY {
            let pause = (2 * quiet.pause).clamp(least, most);
            *quiet = Quiet { until: now.plus(pause), pause, empty: 0 };
        }
    }

    /// A batch is not read: a loss where its topic has traces, or may have.
    fn refuse(&mut self, topic: &Name) {
        let is_quiet = self.topics.get(topic).is_some_and(|quiet| quiet.pause > Duration::ZERO);
        self.statistics.refused_batches += u64::from(!is_quiet);
    }
}

/// Which of too many records are told of: a share by their trace ids, one second behind the demand, so that nearly always all
/// records of a trace are, or none, and on all hosts the same.
#[derive(Debug, Default)]
struct Share {
    second: u64,
    demanded: u64,
    admitted: u64,
    /// Trace ids whose lowest 56 bits reach it are told of (OpenTelemetry, consistent probability sampling).
    threshold: u64,
}

impl Share {
    fn admits(&mut self, context: &TraceContext, now: Timestamp, most: u64) -> bool {
        const WHOLE: u64 = 1 << 56;
        if most == u64::MAX {
            return true;
        }
        let second = now.0 / 1_000_000_000;
        if second > self.second {
            let adjoining = second - self.second == 1;
            let over = adjoining && self.demanded > most;
            let rejected = if over { 1.0 - most as f64 / self.demanded as f64 } else { 0.0 };
            *self = Share { second, demanded: 0, admitted: 0, threshold: (WHOLE as f64 * rejected) as u64 };
        }
        self.demanded += 1;
        let random = u128::from_be_bytes(context.trace_id) as u64 & (WHOLE - 1);
        let admitted = random >= self.threshold && self.admitted < most.saturating_mul(2);
        self.admitted += u64::from(admitted);
        admitted
    }
}

/// What stays the same of a batch from its producer to its readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    checksum: u32,
    size: u64,
    records: Option<u32>,
    timestamp: i64,
    sequence: (i64, i16, i32),
}

impl Key {
    fn of(batch: &Batch) -> Key {
        Key {
            checksum: batch.crc,
            size: batch.size,
            records: batch.count,
            timestamp: batch.base_timestamp,
            sequence: (batch.producer_id, batch.producer_epoch, batch.base_sequence),
        }
    }
}

/// Batches that were read, in two generations.
#[derive(Debug, Default)]
struct Known {
    young: HashMap<Key, Rc<[Traced]>>,
    old: HashMap<Key, Rc<[Traced]>>,
    /// What the young ones hold.
    cost: usize,
}

impl Known {
    /// Memory of one generation in bytes.
    const COST: usize = 1 << 20;

    fn get(&self, key: &Key) -> Option<Rc<[Traced]>> {
        self.young.get(key).or_else(|| self.old.get(key)).cloned()
    }

    fn put(&mut self, key: Key, traced: Rc<[Traced]>) {
        self.cost += size_of::<(Key, Rc<[Traced]>)>() + size_of_val(&*traced);
        if self.cost > Self::COST {
            self.old = std::mem::take(&mut self.young);
            self.cost = 0;
        }
        self.young.insert(key, traced);
    }
}
