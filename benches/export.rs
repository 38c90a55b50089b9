//! What the exports cost: `cargo bench --no-default-features --bench export`.

#[path = "../tests/export_support/mod.rs"]
mod export_support;

use std::hint::black_box;
use std::time::Instant;

use acktrail::export::json::transition_line;
use acktrail::export::metrics::{Health, Metrics};
use acktrail::export::spans::{Sampling, Spans};
use acktrail::export::summary::Totals;
use acktrail::lifecycle::transition::Observer;
use acktrail::time::Timestamp;
use export_support::Life;

const MESSAGES: u64 = 400_000;

fn measure(what: &str, mut observe: impl FnMut(&Life)) {
    // One alone, for a profiler: FIGURE=metrics valgrind --tool=callgrind …
    if std::env::var("FIGURE").is_ok_and(|figure| figure != what) {
        return;
    }
    let life = Life::new(20);
    let start = Instant::now();
    observe(&life);
    let per_message = start.elapsed().as_nanos() as f64 / MESSAGES as f64;
    println!("{what}: {per_message:.0} ns per message of five transitions, {:.1} each", per_message / 5.0);
}

fn main() {
    for _ in 0..3 {
        measure("feeding alone", |life| {
            life.feed(MESSAGES, &mut |transition| {
                black_box(transition);
            })
        });
        measure("JSON lines", |life| {
            let mut out = Vec::new();
            life.feed(MESSAGES, &mut |transition| {
                out.clear();
                transition_line(transition, &mut out);
                black_box(&out);
            });
        });
        measure("totals", |life| {
            let mut totals = Totals::new();
            life.feed(MESSAGES, &mut |transition| totals.transition(transition));
            black_box(totals.rows());
        });
        measure("spans", |life| {
            let mut spans = Spans::new(Sampling::default());
            life.feed(MESSAGES, &mut |transition| {
                spans.transition(transition);
                black_box(spans.take());
            });
        });
        measure("metrics", |life| {
            let mut metrics = Metrics::new(Timestamp(0));
            life.feed(MESSAGES, &mut |transition| metrics.transition(transition));
            black_box(metrics.snapshot(Timestamp(0), &Health::default()));
        });
    }
}
