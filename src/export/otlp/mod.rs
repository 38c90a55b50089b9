//! Export to an OpenTelemetry Collector over OTLP/gRPC, from a thread of its own.
//!
//! The pipeline hands over spans and snapshots and goes on at once: queues are bounded, what finds no room or cannot be
//! delivered is counted, and a Collector that is slow, gone or hostile costs nothing but that.

mod encode;
mod queue;
mod retry;
mod wire;

use std::str::FromStr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsPartialSuccess, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use prost::bytes::Bytes;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use self::encode::Batch;
use self::queue::{METRICS, Shared, TRACES};
use self::wire::Service;
use super::metrics::Snapshot;
use super::spans::Span;

/// Where and how to export.
#[derive(Clone, Debug)]
pub struct Config {
    /// `http://host:port`; the Collector's usual port is 4317.
    pub endpoint: String,
    /// Compress requests.
    pub gzip: bool,
    /// Headers of every request.
    pub headers: Vec<(String, String)>,
    /// `host.name` of every Resource on this host.
    pub host: String,
    /// Spans that wait at most.
    pub most_spans: usize,
    /// How long one try may take.
    pub timeout: Duration,
    /// How long a batch is tried again before it is given up.
    pub patience: Duration,
}

impl Config {
    /// How often metrics should be handed over, unless configured otherwise.
    pub const METRICS_INTERVAL: Duration = Duration::from_secs(10);

    /// The defaults, for this endpoint.
    pub fn new(endpoint: &str) -> Config {
        Config {
            endpoint: endpoint.into(),
            gzip: false,
            headers: Vec::new(),
            host: std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().into(),
            most_spans: 16_384,
            timeout: Duration::from_secs(10),
            patience: Duration::from_secs(60),
        }
    }
}

/// The running exporter.
pub struct Otlp {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Otlp {
    /// How long [`Otlp::shutdown`] takes at most.
    pub const LAST_FLUSH: Duration = Duration::from_secs(3);

    /// Starts the exporting thread. The Collector need not be there yet.
    ///
    /// # Errors
    ///
    /// In words, if the endpoint is no `http://` URL, a header is no header, or the thread cannot be started.
    pub fn start(config: Config) -> Result<Otlp, String> {
        let url = &config.endpoint;
        if url.starts_with("https://") {
            return Err(format!("{url}: TLS is not built in; send to a Collector on this host over http://"));
        }
        if !url.starts_with("http://") {
            return Err(format!("{url}: not an http:// URL, such as http://127.0.0.1:4317"));
        }
        let endpoint = Endpoint::from_shared(config.endpoint.clone())
            .map_err(|error| format!("{url}: {error}"))?
            .timeout(config.timeout)
            .connect_timeout(config.timeout)
            .user_agent(concat!("acktrail/", env!("CARGO_PKG_VERSION")))
            .map_err(|error| format!("{url}: {error}"))?;
        let headers = headers(&config.headers)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .build()
            .map_err(|error| format!("cannot start the exporter: {error}"))?;
        let shared = Arc::new(Shared::new(config.most_spans.max(1)));
        let sender = Sender { shared: Arc::clone(&shared), config, headers };
        let thread = std::thread::Builder::new()
            .name("acktrail-otlp".into())
            .spawn(move || {
                let shared = Arc::clone(&sender.shared);
                runtime.block_on(sender.run(endpoint));
                shared.give_up("shutdown");
                // A name look-up may still be stuck; nobody waits for it.
                runtime.shutdown_background();
            })
            .map_err(|error| format!("cannot start the exporter: {error}"))?;
        Ok(Otlp { shared, thread: Some(thread) })
    }

    /// Hands over spans. Never waits; what finds no room is counted, ordinary spans before important ones.
    pub fn spans(&self, spans: impl IntoIterator<Item = Span>) {
        self.shared.offer_spans(spans);
    }

    /// Hands over a snapshot of all metrics. Never waits; a snapshot that still waits is replaced.
    pub fn metrics(&self, snapshot: Snapshot) {
        self.shared.offer_snapshot(snapshot);
    }

    /// What could not be exported so far: signal, reason, items (for [`super::metrics::Health::export_failed`]).
    pub fn failed(&self) -> Vec<(&'static str, &'static str, u64)> {
        self.shared.failed()
    }

    /// Spans and metric points that the Collector took.
    pub fn delivered(&self) -> (u64, u64) {
        (self.shared.delivered(TRACES), self.shared.delivered(METRICS))
    }

    /// Trouble with the Collector in words, once until something is delivered again.
    pub fn take_problem(&self) -> Option<String> {
        self.shared.take_problem()
    }

    /// Sends what waits, for at most [`Otlp::LAST_FLUSH`], and ends. The rest is counted; returns [`Otlp::failed`].
    pub fn shutdown(mut self) -> Vec<(&'static str, &'static str, u64)> {
        self.stop();
        self.failed()
    }

    fn stop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.shared.close(Instant::now() + Self::LAST_FLUSH);
            // A panic there has been printed; there is nothing to add.
            let _ = thread.join();
        }
    }
}

impl Drop for Otlp {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Spans that are sent at once.
const BATCH: usize = 2048;
/// How long a first span waits for others.
const GATHER: Duration = Duration::from_secs(1);

struct Sender {
    shared: Arc<Shared>,
    config: Config,
    headers: MetadataMap,
}

impl Sender {
    async fn run(&self, endpoint: Endpoint) {
        let channel = endpoint.connect_lazy();
        let work = async { tokio::join!(self.send_spans(channel.clone()), self.send_metrics(channel)) };
        tokio::pin!(work);
        tokio::select! {
            _ = &mut work => return,
            () = self.closing() => {}
        }
        if let Some(deadline) = self.shared.deadline() {
            // What is left after it is counted by the caller.
            let _ = tokio::time::timeout_at(deadline.into(), work).await;
        }
    }

    /// Returns once the end has come.
    async fn closing(&self) {
        loop {
            let mut changed = std::pin::pin!(self.shared.closing_changed.notified());
            // Registered before the look, so that nothing is missed between the two.
            changed.as_mut().enable();
            if self.shared.deadline().is_some() {
                return;
            }
            changed.await;
        }
    }

    async fn send_spans(&self, channel: Channel) {
        let mut service = Service::<ExportTraceServiceResponse>::new(channel, wire::EXPORT_TRACES, self.config.gzip);
        loop {
            while self.shared.waiting_spans() == 0 {
                if self.shared.deadline().is_some() {
                    return;
                }
                self.shared.spans_changed.notified().await;
            }
            if self.shared.waiting_spans() < BATCH {
                self.rest(GATHER).await;
            }
            for batch in encode::trace_batches(self.shared.take_spans(BATCH), &self.config.host) {
                let call = async |request| {
                    let answer = service.export(request).await?.partial_success;
                    Ok(answer.map_or((0, String::new()), |partial| (partial.rejected_spans, partial.error_message)))
                };
                self.deliver(TRACES, batch, call).await;
            }
        }
    }

    async fn send_metrics(&self, channel: Channel) {
        let mut service = Service::<ExportMetricsServiceResponse>::new(channel, wire::EXPORT_METRICS, self.config.gzip);
        loop {
            let Some(snapshot) = self.shared.take_snapshot() else {
                if self.shared.deadline().is_some() {
                    return;
                }
                self.shared.metrics_changed.notified().await;
                continue;
            };
            let batches = encode::metric_batches(&snapshot, &self.config.host);
            self.shared.in_hand(METRICS, batches.iter().map(|batch| batch.items).sum());
            for batch in batches {
                let call = async |request| {
                    let answer = service.export(request).await?.partial_success;
                    let rejected =
                        |partial: ExportMetricsPartialSuccess| (partial.rejected_data_points, partial.error_message);
                    Ok(answer.map_or((0, String::new()), rejected))
                };
                self.deliver(METRICS, batch, call).await;
            }
        }
    }

    /// Sends a batch, again where that is of use, and accounts for it. `call` answers how many items were rejected, and why.
    async fn deliver<R: Message>(
        &self,
        signal: &'static str,
        batch: Batch<R>,
        mut call: impl AsyncFnMut(Request<Bytes>) -> Result<(i64, String), Status>,
    ) {
        let Batch { request, items } = batch;
        let encoded = Bytes::from(request.encode_to_vec());
        drop(request);
        let start = Instant::now();
        let mut tries = 0;
        loop {
            let mut request = Request::new(encoded.clone());
            *request.metadata_mut() = self.headers.clone();
            let status = match call(request).await {
                Ok((rejected, text)) => {
                    // Rejected items are never sent again (OTLP specification, "Partial Success").
                    let rejected = u64::try_from(rejected).unwrap_or(0);
                    self.shared.done(signal, items, rejected, "rejected");
                    if rejected > 0 {
                        self.shared.trouble(|| format!("{rejected} {signal} items rejected: {text}"));
                    } else {
                        self.shared.untroubled();
                    }
                    return;
                }
                Err(status) => status,
            };
            self.shared.trouble(|| format!("{}: {signal}: {}", self.config.endpoint, describe(&status)));
            let pause = retry::pause(&status, tries).filter(|pause| start.elapsed() + *pause < self.config.patience);
            let Some(pause) = pause else {
                self.shared.done(signal, items, items, retry::reason(&status));
                return;
            };
            tries += 1;
            self.rest(pause).await;
        }
    }

    /// Sleeps; not for long once the end has come.
    async fn rest(&self, pause: Duration) {
        let pause = if self.shared.deadline().is_some() { pause.min(GATHER / 4) } else { pause };
        let _ = tokio::time::timeout(pause, self.closing_soon()).await;
    }

    /// Returns when the end comes; never, if it has come already.
    async fn closing_soon(&self) {
        if self.shared.deadline().is_some() {
            std::future::pending::<()>().await;
        }
        self.closing().await;
    }
}

/// A status and what caused it: "transport error" alone helps nobody.
fn describe(status: &Status) -> String {
    let mut text = format!("{}: {}", status.code().description(), status.message());
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}

fn headers(pairs: &[(String, String)]) -> Result<MetadataMap, String> {
    let mut map = MetadataMap::new();
    for (key, value) in pairs {
        let key =
            AsciiMetadataKey::from_str(&key.to_ascii_lowercase()).map_err(|_| format!("header {key}: bad name"))?;
        let value = AsciiMetadataValue::from_str(value).map_err(|_| format!("header {key}: bad value"))?;
        map.insert(key, value);
    }
    Ok(map)
}
