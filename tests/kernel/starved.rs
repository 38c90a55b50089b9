//! A reader that the scheduler does not let run.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use acktrail::kernel::{Capture, Options};

use crate::support::{self, Pair, only, pattern, transfer};

const PIECE: usize = 64 << 10;
const PIECES: usize = 1_000;

/// Reads the ring as a thread that runs only when nobody else wants to, on a processor that others want all the time. How many
/// records were lost, and how often the guard lent its priority.
fn starve(port: u16, guarded: bool) -> (u64, u64) {
    let address: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
    let mut capture = Capture::attach(&Options { ring_bytes: 8 << 20, ..only(port) }).unwrap();
    let mut pair = Pair::with(&support::listen(address), address);
    let done = AtomicBool::new(false);
    let busy = || {
        on_the_first_processor();
        // SAFETY: takes numbers only; 0 is this thread.
        assert_eq!(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) }, 0);
        while !done.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    };
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            if guarded {
                capture.start_guard().unwrap();
            }
            on_the_first_processor();
            idle_only();
            while !done.load(Ordering::Relaxed) {
                capture.poll(Duration::from_millis(100), &mut |_| {}).unwrap();
            }
            (capture.counters().ring_full_records, capture.priority_lent())
        });
        for _ in 0..4 {
            scope.spawn(busy);
        }
        let piece = pattern(7, PIECE);
        for _ in 0..PIECES {
            transfer(&mut pair.client, &mut pair.server, &piece);
            // About what a busy broker sends.
            thread::sleep(Duration::from_millis(1));
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap()
    })
}

fn on_the_first_processor() {
    // SAFETY: a set of bits, all of them valid as zero.
    let mut processors: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: sets one bit of a set that is large enough for it.
    unsafe { libc::CPU_SET(0, &mut processors) };
    // SAFETY: the set is read during the call.
    assert_eq!(unsafe { libc::sched_setaffinity(0, size_of_val(&processors), &raw const processors) }, 0);
}

/// Not even a share of the processor: SCHED_IDLE (sched(7)).
fn idle_only() {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: one sched_param is read during the call.
    assert_eq!(unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) }, 0);
}

#[test]
#[ignore = "needs root"]
fn a_starved_reader_is_lent_a_priority() {
    let (lost, lent) = starve(21100, false);
    assert!(lost > 0 && lent == 0, "without a guard such a reader must lose records, or this test shows nothing");
    let (lost, lent) = starve(21101, true);
    assert!(lost == 0 && lent > 0, "{lost} records lost, lent {lent} times");
}
