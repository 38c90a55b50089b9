//! AMQP 0-9-1 as RabbitMQ speaks it.
//!
//! `frame` cuts a flow into frames and `hunt` finds the next one where the place was lost; `method`, `header` and `table`
//! read what is in them; `session`, `connection` and `channel` know what it means.

mod channel;
mod confirm;
mod connection;
mod consumers;
mod content;
mod cursor;
mod frame;
mod header;
mod hunt;
mod identity;
mod login;
mod method;
mod requests;
mod session;
mod specification;
mod table;
mod topology;
mod transaction;

#[cfg(test)]
#[path = "../../../tests/support/amqp.rs"]
mod encode;
#[cfg(test)]
mod tests;

pub use specification::{Argument, Sender, Specification};

pub(super) use hunt::LONGEST_DOUBT;
pub(super) use session::Session;
