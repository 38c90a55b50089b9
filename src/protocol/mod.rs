//! From bytes to operations: one folder per protocol with the same files in each.
//!
//! A session sees both flows of one connection (pipelining, channels, correlation ids and negotiated sizes need that) and
//! says in broker-neutral words what happened ([`operation::Operation`]). Input is hostile: every count, depth and length is
//! checked before it is used, and nothing that arrives can make a session panic, grow without bound, or stay switched off.

pub mod amqp;
mod detect;
pub mod kafka;
pub mod operation;
mod output;
mod session;
mod sessions;
mod traceparent;

pub use sessions::{Limits, MethodCounts, Sessions};

/// What went wrong in reading a connection's bytes; each is counted under its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Trouble {
    /// A frame, method or header that breaks the protocol's rules.
    Malformed,
    /// A frame larger than was negotiated (or than the protocol's parser allows).
    FrameTooLarge,
    /// A method or version that is not known; skipped by its length.
    Unknown,
    /// A content that had no method, or a method that had no content where one was due.
    UnexpectedFrame,
    /// The connection does not speak this protocol.
    NotThisProtocol,
    /// A field table nested, or a list longer, than the parser follows.
    TooDeep,
    /// A table of the session was full.
    BudgetExhausted,
}

impl Trouble {
    /// All of them, for counters.
    pub const ALL: [Trouble; 7] = [
        Trouble::Malformed,
        Trouble::FrameTooLarge,
        Trouble::Unknown,
        Trouble::UnexpectedFrame,
        Trouble::NotThisProtocol,
        Trouble::TooDeep,
        Trouble::BudgetExhausted,
    ];

    /// The name under which it is counted.
    pub fn name(self) -> &'static str {
        match self {
            Trouble::Malformed => "malformed",
            Trouble::FrameTooLarge => "frame_too_large",
            Trouble::Unknown => "unknown",
            Trouble::UnexpectedFrame => "unexpected_frame",
            Trouble::NotThisProtocol => "not_this_protocol",
            Trouble::TooDeep => "too_deep",
            Trouble::BudgetExhausted => "budget_exhausted",
        }
    }
}
