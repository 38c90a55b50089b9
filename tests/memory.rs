//! Memory of logs that many groups read: 1,000 partitions, 20 groups, a million messages in flight, counted by allocated bytes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use acktrail::capture::Owner;
use acktrail::lifecycle::transition::{Event, Observer, State, Transition};
use acktrail::lifecycle::{KAFKA, Lifecycles, MessageLimits};
use acktrail::protocol::operation::log::{
    Acks, Batch, LogOperation, Member, Partition, Patience, RequestId, Sequence, Topic,
};
use acktrail::protocol::operation::{Observed, Operation, SessionFacts};
use acktrail::stream::{ConnectionId, End, Facts, Flow};
use acktrail::time::Timestamp;

/// Counts what is allocated, and the most that was at once.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Relaxed) + layout.size();
        MOST.fetch_max(now, Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const PARTITIONS: i32 = 1000;
const GROUPS: u64 = 20;
/// Of a partition; with 25 to a batch.
const MESSAGES: i64 = 1000;
const BATCH: i64 = 25;

#[derive(Default)]
struct Sums {
    dispatched: u64,
    acknowledged: u64,
}

impl Observer for Sums {
    fn transition(&mut self, line: &Transition<'_>) {
        match line.state {
            State::Dispatched => self.dispatched += line.count,
            State::Acknowledged => self.acknowledged += line.count,
            _ => {}
        }
    }

    fn event(&mut self, _: &Event<'_>) {}
}

struct Machine {
    lifecycles: Lifecycles,
    sums: Sums,
    clock: u64,
}

impl Machine {
    fn connect(&mut self, connection: u64, pid: u32) {
        let end =
            |port: u16, owner| End { address: ([127, 0, 0, 1], port).into(), owner, local: true, reads_seen: true };
        let owner = Some(Owner { pid, executable: "app".into() });
        let facts = Facts { ends: [end(40_000, owner), end(9092, None)], roles_known: true, from_start: true };
        self.lifecycles.handle_facts(ConnectionId(connection), &facts);
        let session = SessionFacts { system: KAFKA, client_flow: Some(Flow::Forward), ..SessionFacts::default() };
        self.happens(connection, Operation::Session(Rc::new(session)));
    }

    fn happens(&mut self, connection: u64, operation: Operation) {
        self.clock += 1000;
        let mut observed = Observed { time: Timestamp(self.clock), connection: ConnectionId(connection), operation };
        self.lifecycles.handle(&mut observed, &mut self.sums);
    }
}

fn batch(first: i64) -> Batch {
    Batch {
        records: BATCH as u64,
        first,
        last: first + BATCH - 1,
        bytes: 1000,
        checksum: Some(first as u32),
        sequence: Some(Sequence { producer: 1, epoch: 0, first: first as i32 }),
        timestamp: None,
        transactional: false,
        traced: None,
        gaps: None,
    }
}

#[test]
fn a_million_messages_that_twenty_groups_have_in_their_hands() {
    let before = NOW.load(Relaxed);
    let lifecycles = Lifecycles::new(MessageLimits::default());
    let mut machine = Machine { lifecycles, sums: Sums::default(), clock: 0 };
    let partition = |number| Partition { topic: Topic::Name("orders".into()), number };
    machine.connect(0, 1);
    for group in 1..=GROUPS {
        machine.connect(group, 100 + group as u32);
        let member = Member { group: format!("group-{group}").as_str().into(), member: "m".into() };
        let partitions = (0..PARTITIONS).map(partition).collect();
        machine.happens(
            group,
            Operation::Log(LogOperation::Assigned { member, partitions, patience: Patience::default() }),
        );
    }
    let mut position = 0;
    for first in (0..MESSAGES).step_by(BATCH as usize) {
        let request = RequestId(first as u64);
        for number in 0..PARTITIONS {
            let (partition, batch, copies) = (partition(number), batch(first), Vec::new());
            let produced = LogOperation::Produced { request, partition, batch, acks: Acks::All, copies };
            machine.happens(0, Operation::Log(produced));
        }
        for number in 0..PARTITIONS {
            let (partition, offset) = (partition(number), Some(first));
            machine.happens(0, Operation::Log(LogOperation::ProduceAnswered { request, partition, offset, error: 0 }));
        }
        for group in 1..=GROUPS {
            let from = position;
            for number in 0..PARTITIONS {
                position += 1;
                let (partition, batches, flow) = (partition(number), vec![batch(first)], Flow::Backward);
                let fetched = LogOperation::Fetched {
                    partition,
                    batches,
                    from: Some(first),
                    aborted: false,
                    flow,
                    end: position,
                };
                machine.happens(group, Operation::Log(fetched));
            }
            machine.happens(group, Operation::Read { flow: Flow::Backward, from, position });
        }
    }
    let in_flight = GROUPS * PARTITIONS as u64 * MESSAGES as u64;
    assert_eq!(machine.sums.dispatched, in_flight);
    let held = MOST.load(Relaxed) - before;
    // Each group commits in many small steps, leaving some out, as parallel consumers do.
    for group in 1..=GROUPS {
        for number in 0..PARTITIONS {
            for offset in (50..MESSAGES).step_by(190) {
                let member = Member { group: format!("group-{group}").as_str().into(), member: "m".into() };
                let (partition, asked) = (partition(number), Timestamp(machine.clock));
                let committed =
                    LogOperation::Committed { member, partition, offset, error: 0, transaction: None, asked };
                machine.happens(group, Operation::Log(committed));
            }
        }
    }
    assert_eq!(machine.sums.acknowledged, GROUPS * PARTITIONS as u64 * 810);
    let lags = machine.lifecycles.lags(Timestamp(machine.clock));
    assert_eq!(lags.map(|lag| lag.lag).sum::<u64>(), GROUPS * PARTITIONS as u64 * 190);
    let most = MOST.load(Relaxed) - before;
    println!("{held} bytes with {in_flight} messages handed out, {most} with commits");
    // What an agent has beside it (programs, buffers, tables of other stages) takes some 20 MiB.
    assert!(most < 40 << 20, "{most} bytes");
}
