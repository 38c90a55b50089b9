//! OTLP over gRPC against receivers inside the test: good ones, slow ones, broken ones, and none.
#![cfg(feature = "otlp")]

mod export_support;
mod otlp_support;

use std::collections::{HashSet, VecDeque};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use acktrail::export::metrics::{Health, Metrics, Snapshot};
use acktrail::export::otlp::{Config, Otlp};
use acktrail::export::spans::{Sampling, Span, Spans};
use acktrail::lifecycle::transition::Observer;
use acktrail::time::Timestamp;
use export_support::Life;
use export_support::conventions::{check_point, check_span};
use export_support::scenario::{START, Scenario};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use otlp_support::{points_of, spans_of};
use tonic::codec::CompressionEncoding;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};

/// How a receiver answers; when the list is used up, with success.
#[derive(Clone, Copy)]
enum Answer {
    Fail(Code),
    Reject(i64),
}

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Inside>>);

#[derive(Default)]
struct Inside {
    answers: VecDeque<Answer>,
    calls: u32,
    headers: Vec<String>,
    traces: Vec<ExportTraceServiceRequest>,
    metrics: Vec<ExportMetricsServiceRequest>,
}

impl Sink {
    fn answering(answers: impl IntoIterator<Item = Answer>) -> Sink {
        let inside = Inside { answers: answers.into_iter().collect(), ..Inside::default() };
        Sink(Arc::new(Mutex::new(inside)))
    }

    /// Serves on a port of its own for the rest of the test process.
    fn serve(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let sink = self.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(listener).unwrap());
                let traces = TraceServiceServer::new(sink.clone())
                    .accept_compressed(CompressionEncoding::Gzip)
                    .send_compressed(CompressionEncoding::Gzip);
                let metrics = MetricsServiceServer::new(sink)
                    .accept_compressed(CompressionEncoding::Gzip)
                    .send_compressed(CompressionEncoding::Gzip);
                let server = Server::builder().add_service(traces).add_service(metrics);
                server.serve_with_incoming(incoming).await.unwrap();
            });
        });
        address
    }

    fn answer(&self, headers: &tonic::metadata::MetadataMap) -> Result<i64, Status> {
        let mut inside = self.0.lock().unwrap();
        inside.calls += 1;
        for name in ["grpc-encoding", "x-tenant", "user-agent"] {
            inside.headers.extend(headers.get(name).map(|value| format!("{name}: {}", value.to_str().unwrap())));
        }
        match inside.answers.pop_front() {
            Some(Answer::Fail(code)) => Err(Status::new(code, "as told")),
            Some(Answer::Reject(items)) => Ok(items),
            None => Ok(0),
        }
    }
}

#[tonic::async_trait]
impl TraceService for Sink {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let rejected = self.answer(request.metadata())?;
        self.0.lock().unwrap().traces.push(request.into_inner());
        let error_message = "as told".into();
        let partial_success = Some(ExportTracePartialSuccess { rejected_spans: rejected, error_message });
        Ok(Response::new(ExportTraceServiceResponse { partial_success }))
    }
}

#[tonic::async_trait]
impl MetricsService for Sink {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let rejected = self.answer(request.metadata())?;
        self.0.lock().unwrap().metrics.push(request.into_inner());
        let error_message = "as told".into();
        let partial_success = Some(ExportMetricsPartialSuccess { rejected_data_points: rejected, error_message });
        Ok(Response::new(ExportMetricsServiceResponse { partial_success }))
    }
}

fn config(address: SocketAddr) -> Config {
    Config { host: "testhost".into(), ..Config::new(&format!("http://{address}")) }
}

fn scenario() -> (Vec<Span>, Snapshot) {
    let mut spans = Spans::new(Sampling { ratio: 1.0, ..Sampling::default() });
    let mut metrics = Metrics::new(Timestamp(START));
    Scenario::new().tell(&mut |line| {
        spans.transition(line);
        metrics.transition(line);
    });
    spans.finish();
    (spans.take(), metrics.snapshot(Timestamp(START + 60_000_000_000), &Health::default()))
}

fn some_spans(count: usize) -> Vec<Span> {
    let (spans, _) = scenario();
    spans.iter().cloned().cycle().take(count).collect()
}

fn points(snapshot: &Snapshot) -> u64 {
    let metrics = snapshot.resources.iter().flat_map(|resource| &resource.metrics);
    metrics.map(|metric| metric.points.len() as u64).sum()
}

/// Waits until `done`, for as long as a loaded machine may need.
fn wait_for(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what} never happened");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn everything_arrives_and_meets_the_conventions() {
    let sink = Sink::default();
    let config = Config { gzip: true, headers: vec![("X-Tenant".into(), "blue".into())], ..config(sink.serve()) };
    let otlp = Otlp::start(config).unwrap();
    let (spans, snapshot) = scenario();
    let (sent_spans, sent_points) = (spans.len(), points(&snapshot));
    otlp.spans(spans);
    otlp.metrics(snapshot);
    assert_eq!(otlp.shutdown(), []);

    let inside = sink.0.lock().unwrap();
    let spans: Vec<_> = inside.traces.iter().flat_map(spans_of).collect();
    assert_eq!(spans.len(), sent_spans);
    spans.iter().for_each(check_span);
    let services: HashSet<_> = spans.iter().map(|span| span.resource["service.name"].as_str().unwrap()).collect();
    assert_eq!(services, HashSet::from(["shop-api", "billing-worker", "unknown_service"]));
    // One ResourceSpans per resource, not per span.
    assert!(inside.traces.iter().all(|request| request.resource_spans.len() <= 3));
    let points: Vec<_> = inside.metrics.iter().flat_map(points_of).collect();
    assert_eq!(points.len() as u64, sent_points);
    points.iter().for_each(check_point);
    for header in ["grpc-encoding: gzip", "x-tenant: blue"] {
        assert!(inside.headers.iter().any(|seen| seen == header), "{header}");
    }
    assert!(inside.headers.iter().any(|seen| seen.starts_with("user-agent: acktrail/")));
}

#[test]
fn a_collector_that_stumbles_gets_everything_once() {
    let sink = Sink::answering([Answer::Fail(Code::Unavailable), Answer::Fail(Code::Aborted)]);
    let otlp = Otlp::start(config(sink.serve())).unwrap();
    otlp.spans(some_spans(10));
    wait_for("delivery", || otlp.delivered().0 == 10);
    assert!(otlp.take_problem().unwrap().contains("as told"));
    assert_eq!(otlp.shutdown(), []);
    assert_eq!(sink.0.lock().unwrap().calls, 3);
    assert_eq!(sink.0.lock().unwrap().traces.len(), 1);
}

#[test]
fn a_refusal_is_not_repeated_but_counted() {
    let sink = Sink::answering([Answer::Fail(Code::InvalidArgument)]);
    let otlp = Otlp::start(config(sink.serve())).unwrap();
    otlp.spans(some_spans(7));
    wait_for("refusal", || !otlp.failed().is_empty());
    otlp.spans(some_spans(3));
    assert_eq!(otlp.shutdown(), [("traces", "invalid_argument", 7)]);
    let inside = sink.0.lock().unwrap();
    assert_eq!((inside.calls, inside.traces.len()), (2, 1));
}

#[test]
fn items_rejected_one_by_one_are_counted() {
    let sink = Sink::answering([Answer::Reject(2)]);
    let otlp = Otlp::start(config(sink.serve())).unwrap();
    otlp.spans(some_spans(7));
    wait_for("delivery", || otlp.delivered().0 > 0);
    assert_eq!(otlp.delivered().0, 5);
    assert_eq!(otlp.shutdown(), [("traces", "rejected", 2)]);
}

#[test]
fn without_a_collector_nothing_blocks_grows_or_is_forgotten() {
    // A port that nobody listens on: bound, and let go.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let otlp = Otlp::start(Config { most_spans: 1000, ..config(address) }).unwrap();
    let mut offered = 0;
    let (_, snapshot) = scenario();
    for _ in 0..100 {
        let spans = some_spans(500);
        offered += spans.len() as u64;
        otlp.spans(spans);
    }
    otlp.metrics(snapshot.clone());
    wait_for("trouble", || otlp.take_problem().is_some_and(|text| text.contains("onnect")));
    otlp.metrics(snapshot.clone());
    assert_eq!(otlp.delivered(), (0, 0));
    let failed = otlp.shutdown();
    let of = |signal: &str| failed.iter().filter(|(other, ..)| *other == signal).map(|(.., count)| count).sum::<u64>();
    assert_eq!(of("traces"), offered);
    // The second snapshot, and the first if it was on its way already; else the second has replaced it.
    assert!([1, 2].map(|snapshots| snapshots * points(&snapshot)).contains(&of("metrics")));
    let full = failed.iter().find(|(signal, reason, _)| (*signal, *reason) == ("traces", "queue_full")).unwrap();
    assert!(full.2 >= offered - 1000 - 2048, "{full:?}");
}

#[test]
fn a_collector_that_never_answers_does_not_hold_up_the_end() {
    // Connections are taken by the kernel and never answered.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let otlp = Otlp::start(config(listener.local_addr().unwrap())).unwrap();
    let (spans, snapshot) = scenario();
    let (sent_spans, sent_points) = (spans.len() as u64, points(&snapshot));
    otlp.spans(spans);
    otlp.metrics(snapshot);
    let failed = otlp.shutdown();
    assert_eq!(failed, [("metrics", "shutdown", sent_points), ("traces", "shutdown", sent_spans)]);
}

#[test]
fn something_else_on_the_port_is_trouble_not_harm() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            use std::io::Write;
            let _ = stream.and_then(|mut stream| stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n\0\xff\xff"));
        }
    });
    let otlp = Otlp::start(config(address)).unwrap();
    otlp.spans(some_spans(5));
    wait_for("trouble", || otlp.take_problem().is_some());
    let lost: u64 = otlp.shutdown().iter().map(|(.., count)| count).sum();
    assert_eq!(lost, 5);
}

#[test]
fn messages_that_matter_outlive_the_others_in_a_full_queue() {
    let sink = Sink::answering([Answer::Fail(Code::Unavailable); 3]);
    let otlp = Otlp::start(Config { most_spans: 100, ..config(sink.serve()) }).unwrap();
    let mut important = some_spans(60);
    important.iter_mut().for_each(|span| span.important = true);
    let mut ordinary = some_spans(500);
    ordinary.iter_mut().for_each(|span| span.important = false);
    // All at once, so that nothing is sent in between.
    otlp.spans(important.into_iter().chain(ordinary));
    wait_for("delivery", || otlp.delivered().0 == 100);
    assert_eq!(otlp.shutdown(), [("traces", "queue_full", 460)]);
    let inside = sink.0.lock().unwrap();
    let (spans, _) = scenario();
    let mattering: Vec<_> = spans.iter().cycle().take(60).map(|span| span.context.span_id.to_vec()).collect();
    let arrived: Vec<_> =
        inside.traces[0].resource_spans.iter().flat_map(|resource| &resource.scope_spans[0].spans).collect();
    let arrived: HashSet<_> = arrived.iter().map(|span| span.span_id.clone()).collect();
    assert!(mattering.iter().all(|id| arrived.contains(id)));
}

#[test]
fn metrics_of_many_snapshots_end_at_the_truth() {
    let sink = Sink::default();
    let otlp = Otlp::start(config(sink.serve())).unwrap();
    let mut metrics = Metrics::new(Timestamp(START));
    for round in 0..5 {
        Life::new(3).feed(100, &mut |line| metrics.transition(line));
        otlp.metrics(metrics.snapshot(Timestamp(START + round), &Health::default()));
        wait_for("delivery", || sink.0.lock().unwrap().metrics.len() as u64 == round + 1);
    }
    assert_eq!(otlp.shutdown(), []);
    let inside = sink.0.lock().unwrap();
    let last = points_of(inside.metrics.last().unwrap());
    let sent: u64 =
        last.iter().filter(|point| point.metric == "messaging.client.sent.messages").map(|point| point.count).sum();
    assert_eq!(sent, 500);
}

#[test]
fn a_wrong_endpoint_is_an_error_that_says_what_is_wrong() {
    for (endpoint, word) in [("https://collector:4317", "TLS"), ("collector:4317", "http://"), ("http://a b", "a b")] {
        let error = Otlp::start(Config::new(endpoint)).err().expect(endpoint);
        assert!(error.contains(word), "{error}");
    }
    let config = Config { headers: vec![("bad header".into(), "x".into())], ..Config::new("http://127.0.0.1:1") };
    assert!(Otlp::start(config).is_err());
}
