//! Arbitrary bytes, and valid ones with damage, neither panic nor take more memory than was granted. What is held is
//! measured at the allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use acktrail::{protocol, stream};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::conversation::conversation;
use crate::follower::{Follower, config, draws, noise, shuffled};

/// Counts what each thread holds. What is measured starts no threads and hands nothing to another, so that the count of a
/// test's thread is the test's own, whatever runs beside it.
struct Counting;

thread_local! {
    /// Below zero where a thread frees what was another's, as at its start.
    static HELD: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    HELD.with(|held| held.set(held.get() + bytes));
}

// SAFETY: every call is handed on to the system's allocator unchanged; counting touches no memory of the caller's, and
// allocates none: the count is constant at first and needs no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller keeps `dealloc`'s contract, and the pointer came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: the caller keeps `realloc`'s contract, and the pointer came from `System`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const NONSENSE: u32 = 1500;
const WAITING: usize = 64 << 10;
const SESSIONS: usize = 96 << 10;
/// Buffers grow by doubling, so that they may hold twice what is in them.
const BUDGET: usize = 2 * (WAITING + SESSIONS) + (32 << 10);

proptest! {
    #![proptest_config(config(NONSENSE))]

    /// Arbitrary bytes, and valid ones with damage, neither panic nor take more than the budget.
    #[test]
    fn nonsense_is_survived_within_the_budget(
        draws in draws(80),
        from_start: bool,
        damage in vec((any::<u16>(), any::<u8>(), 0u8..4), 0..40),
        garbage in vec(any::<u8>(), 0..2000),
        seed: u64,
    ) {
        let streams = stream::Limits { waiting_bytes: WAITING, waiting_bytes_per_connection: WAITING, ..Default::default() };
        let sessions = protocol::Limits { bytes: SESSIONS, bytes_per_connection: SESSIONS, ..Default::default() };
        let mut noise = noise(seed);
        let mut pieces = shuffled(&conversation(&draws, false), &mut noise);
        for (place, byte, kind) in &damage {
            let count = pieces.len();
            if count == 0 {
                break;
            }
            let piece = &mut pieces[usize::from(*place) % count];
            if piece.bytes.is_empty() {
                continue;
            }
            let at = noise() as usize % piece.bytes.len().max(1);
            match kind {
                0 => piece.bytes[at] = *byte,
                1 => piece.bytes[at] ^= 1 << (byte % 8),
                2 => piece.offset = piece.offset.wrapping_add(noise() % 5000),
                _ => piece.bytes.clone_from(&garbage),
            }
        }
        pieces.retain(|piece| !piece.bytes.is_empty());
        let before = HELD.get();
        let mut follower = Follower::within([u32::MAX - 50, 77], from_start, streams, sessions);
        for piece in &pieces {
            follower.piece(piece);
            follower.operations = Vec::new();
            let held = HELD.get() - before;
            prop_assert!(held <= BUDGET as isize, "{held} bytes held, {} accounted for", follower.sessions.cost());
        }
        follower.close();
        prop_assert_eq!(follower.sessions.cost(), 0);
    }
}
