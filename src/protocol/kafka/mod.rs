//! Kafka's wire protocol.
//!
//! `layouts.txt` is the table of requests and responses; `table`, `program` and `layout` make instructions of it, and `walk`
//! follows these through the bytes of one body. `batches` finds the batches of a `records` field and `batch` reads their headers;
//! `reader`, `records` and `legacy` read what is in those that somebody asks for, through `codec`. `provenance` knows which headers
//! tell of retries, `copies` the names of topics for them, and `originals` keeps what applications may publish again, which
//! `likeness` recognises; `traces` decides whose records are looked at for traces of their own. `session` knows where frames begin and which response answers which request; `scribe` and `collector`
//! say what happened, with what `memory` keeps between requests. `errors` has the names of the brokers' error codes.

mod batch;
mod batches;
mod codec;
mod collector;
mod copies;
mod cursor;
mod detect;
mod errors;
mod exchange;
mod field;
mod frames;
mod header;
mod hunt;
mod insides;
mod layout;
mod legacy;
mod likeness;
mod membership;
mod memory;
mod originals;
mod pieces;
mod program;
mod provenance;
mod reader;
mod records;
mod row;
mod scribe;
mod session;
mod side;
mod table;
mod traces;
mod visitor;
mod walk;

#[cfg(test)]
#[path = "../../../tests/support/kafka.rs"]
mod encode;
#[cfg(test)]
mod tests;

pub use copies::{CopySettings, DEAD_LETTER_TOPICS, HEADER_TOPICS, RETRY_TOPICS};
pub use errors::error_name;
pub use field::Field;
pub use layout::{Direction, Layout};
pub use table::{Kind, Message, Node, Table, Type, Versions, table};
pub use traces::{TraceSettings, TraceStatistics};
pub use visitor::{Outcome, Value, Visitor};
pub use walk::Walk;

pub(super) use memory::TopicNames;
pub(super) use originals::Originals;
pub(super) use session::Session;
pub(super) use traces::Traces;

/// Whether bytes that a packet begins with are those of a request, from a client of which nothing is known.
pub(super) fn is_request(bytes: &[u8]) -> bool {
    detect::is_request(bytes, None)
}
