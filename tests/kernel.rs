//! The capture on the running kernel. Needs root: `cargo test --test kernel -- --ignored`.
#![cfg(feature = "kernel")]

#[path = "kernel/processes.rs"]
mod processes;
#[path = "kernel/sockets.rs"]
mod sockets;
#[path = "kernel/support.rs"]
mod support;

#[path = "kernel/batches.rs"]
mod batches;
#[path = "kernel/connections.rs"]
mod connections;
#[path = "kernel/harm.rs"]
mod harm;
#[path = "kernel/rules.rs"]
mod rules;
#[path = "kernel/skip.rs"]
mod skip;
#[path = "kernel/starved.rs"]
mod starved;
