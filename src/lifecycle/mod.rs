//! One state machine for every message: operations in, transitions out.

pub mod transition;
