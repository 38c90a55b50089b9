//! The running agent's socket: where `acktrail trace` asks it.
//!
//! A client connects to the unix socket, sends one line and gets lines:
//!
//! | request | answer |
//! | --- | --- |
//! | `{"trace":"queue=orders*"}` | transitions and events that pass the filter, as the JSON lines of the contract |
//! | `{"trace":"","format":"rows","version":"0.1.0"}` | the same as [`Row`]s, between equal versions only |
//! | `{"summary":true}` | one summary line |
//!
//! What is wrong with a request is answered with `{"error":"…"}`. A client that reads too slowly never holds the agent up:
//! what does not fit its buffer is dropped, counted, and told to it in an event line, `trace_dropped`.

mod client;
mod server;

use serde::{Deserialize, Serialize};

use crate::row::Row;

pub use client::{Client, ClientError};
pub use server::{BindError, Server};

/// A request's first and only line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    /// Transitions and events that pass this filter.
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<String>,
    /// A summary.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    summary: bool,
    #[serde(default)]
    format: Format,
    /// Of the client; asked for where the format is ours alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
}

/// How transitions are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The JSON lines of the contract.
    #[default]
    Json,
    /// What the live view shows.
    Rows,
}

/// An answer to a request that cannot be served.
#[derive(Debug, Serialize, Deserialize)]
struct Refusal {
    error: String,
}

/// The longest request, in bytes.
const MAX_REQUEST: usize = 16 << 10;
/// The longest line, in bytes.
const MAX_LINE: usize = 1 << 20;

/// Told to a client whose buffer was full: how many lines it did not get.
fn dropped_row(time: u64, count: u64) -> Row {
    let detail = Some("this terminal reads too slowly".to_owned());
    Row { time, what: "trace_dropped".to_owned(), event: true, count: Some(count), detail, ..Row::default() }
}
