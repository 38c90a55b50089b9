//! acktrail follows every message that crosses a Linux host through RabbitMQ, from the producer's socket to its
//! acknowledgement or its dead-letter queue, without touching the applications.
//!
//! Stages flow one way, and a stage knows only the output of the one before it:
//!
//! ```text
//! kernel ──► capture ──► stream ──► protocol ──► lifecycle ──► export
//!  (IO)      records     bytes at    frames →     one state     (IO)
//!                        positions   operations   machine
//! ```
//!
//! `capture`, `stream`, `protocol` and `lifecycle` are pure: no clock, no IO, no threads. Time and input are passed in,
//! so that a recording gives the same lines as the live kernel did. `ARCHITECTURE.md` says why.

pub mod agent_socket;
pub mod capture;
pub mod cli;
pub mod config;
pub mod export;
pub mod filter;
pub mod glob;
#[cfg(feature = "kernel")]
pub mod kernel;
pub mod lifecycle;
pub mod names;
pub mod pipeline;
pub mod protocol;
pub mod recorder;
pub mod row;
pub mod stream;
pub mod suggest;
pub mod time;
pub mod units;
