//! What the export tests share: transitions to feed.
#![allow(dead_code, reason = "each test file uses a part of it")]

use acktrail::lifecycle::transition::{Attributes, Evidence, State, Timings, Transition};
use acktrail::time::Timestamp;

/// A transition of one message with nothing optional but the system.
pub fn transition(state: State, time: u64) -> Transition<'static> {
    Transition {
        time: Timestamp(time),
        state,
        previous: None,
        evidence: Evidence::Observed,
        ambiguous: false,
        corrects: None,
        reason: None,
        count: 1,
        message: None,
        delivery: None,
        attributes: Attributes { system: "rabbitmq", ..Attributes::default() },
        timings: Timings::default(),
    }
}
