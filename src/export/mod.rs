//! Where the agent's findings leave it: JSON lines, the summary, metrics and spans.
//!
//! Everything here listens to the lifecycle ([`crate::lifecycle::transition::Observer`]) and knows nothing of how its
//! findings were made. Names of fields, attributes, events and metrics stand in one table each ([`registry`]), which the
//! documentation is checked against.

pub mod destination;
pub mod histogram;
pub mod json;
pub mod lags;
pub mod lines;
pub mod metrics;
#[cfg(feature = "otlp")]
pub mod otlp;
pub mod registry;
pub mod resource;
pub mod routes;
pub mod spans;
pub mod summary;
pub mod write_behind;
