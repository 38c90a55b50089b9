//! What leaves the agent: JSON lines, metrics, spans, the summary, and the pages that describe them. Exporting over the
//! network is tested in `otlp_sink` and `otlp_collector`.

#[path = "../export_support/mod.rs"]
mod export_support;

mod docs;
mod lifecycle;
mod lines;
mod metrics;
mod ranges;
mod spans;
mod summary;
