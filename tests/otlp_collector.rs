//! Export to a real OpenTelemetry Collector: what it writes down is what the lifecycle said.
//!
//! The Collector is built from tests/collector the first time, which takes about a minute and needs Go.
#![cfg(feature = "otlp")]

mod export_support;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use acktrail::export::metrics::{Health, Metrics};
use acktrail::export::otlp::{Config, Otlp};
use acktrail::export::spans::{Sampling, Spans};
use acktrail::export::summary::Loss;
use acktrail::lifecycle::transition::{Observer, State};
use acktrail::time::Timestamp;
use export_support::Life;
use export_support::conventions::{SeenPoint, SeenSpan, check_point, check_span};
use export_support::scenario::{MS, START, Scenario, hex, message};
use serde_json::Value;

/// The Collector's program, built if it is not there yet.
fn collector() -> PathBuf {
    let work =
        std::env::var_os("ACKTRAIL_WORK").map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let program = work.join("otelcol-0.155.0");
    if !program.exists() {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/collector/build.sh");
        let output = Command::new(script).arg(&program).output().expect("tests/collector/build.sh");
        assert!(output.status.success(), "no Collector: {}", String::from_utf8_lossy(&output.stderr));
    }
    program
}

/// A running Collector, in a directory and on a port of its own.
struct Running {
    child: Child,
    directory: tempfile::TempDir,
    address: SocketAddr,
}

impl Running {
    fn start() -> Running {
        let program = collector();
        let directory = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let configuration = format!(
            "receivers: {{otlp: {{protocols: {{grpc: {{endpoint: '{address}'}}}}}}}}\n\
             exporters: {{file: {{path: out.jsonl, flush_interval: 50ms}}}}\n\
             service:\n  telemetry: {{metrics: {{level: none}}}}\n  pipelines:\n    \
             traces: {{receivers: [otlp], exporters: [file]}}\n    \
             metrics: {{receivers: [otlp], exporters: [file]}}\n"
        );
        std::fs::write(directory.path().join("otel.yaml"), configuration).unwrap();
        let log = std::fs::File::create(directory.path().join("otelcol.log")).unwrap();
        let child = Command::new(program)
            .args(["--config", "otel.yaml"])
            .current_dir(directory.path())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut running = Running { child, directory, address };
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            let ended = running.child.try_wait().unwrap();
            assert!(ended.is_none() && start.elapsed() < Duration::from_secs(60), "no Collector: {}", running.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        running
    }

    /// Ends it in order and reads what it wrote.
    fn finish(mut self) -> Vec<Value> {
        let killed = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(killed.success());
        let status = self.child.wait().unwrap();
        assert!(status.success(), "the Collector failed: {}", self.log());
        let text = std::fs::read_to_string(self.directory.path().join("out.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("otelcol.log")).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended, or the test has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_collector_writes_down_what_the_lifecycle_said() {
    let running = Running::start();
    let config = Config { gzip: true, ..Config::new(&format!("http://{}", running.address)) };
    let otlp = Otlp::start(config).unwrap();
    let mut spans = Spans::new(Sampling { ratio: 1.0, ..Sampling::default() });
    let mut metrics = Metrics::new(Timestamp(START));
    let mut truth: BTreeMap<State, u64> = BTreeMap::new();
    let mut observe = |line: &acktrail::lifecycle::transition::Transition<'_>| {
        spans.transition(line);
        metrics.transition(line);
        *truth.entry(line.state).or_default() += line.count;
    };
    Scenario::new().tell(&mut observe);
    Life::new(20).feed(2000, &mut observe);
    spans.finish();
    let health = Health {
        lost: vec![Loss { stage: "kernel", reason: "ring_full", count: 0, unit: "record" }],
        ..Health::default()
    };
    let sent = spans.take();
    let sent_spans = sent.len();
    otlp.spans(sent);
    otlp.metrics(metrics.snapshot(Timestamp(START + 60_000 * MS), &health));
    assert_eq!(otlp.shutdown(), []);

    let requests = running.finish();
    let spans: Vec<SeenSpan> = requests.iter().flat_map(spans_of).collect();
    assert_eq!(spans.len(), sent_spans);
    spans.iter().for_each(check_span);
    check_scenario(&spans);
    let points: Vec<SeenPoint> = requests.iter().flat_map(points_of).collect();
    points.iter().for_each(check_point);
    check_metrics(&points, &truth);
}

fn check_scenario(spans: &[SeenSpan]) {
    let known: HashMap<_, _> = spans.iter().map(|span| (span.context(), span)).collect();
    assert_eq!(known.len(), spans.len(), "a span twice");
    let own = ("4b".repeat(16), "0f".repeat(8));
    for link in spans.iter().flat_map(|span| &span.links) {
        assert!(known.contains_key(link) || *link == own, "{link:?} leads nowhere");
    }
    let of = |message, name: &str| -> Vec<&SeenSpan> {
        let fits = |span: &&SeenSpan| span.text("acktrail.message") == hex(message) && span.name.starts_with(name);
        spans.iter().filter(fits).collect()
    };
    for dead in [message::DEAD, message::EXPIRED] {
        let letter = of(dead, "dead_letter billing.dlq")[0];
        let producer = letter.links.iter().find_map(|link| known.get(link).filter(|span| span.kind == "PRODUCER"));
        assert_eq!(producer.unwrap().context(), of(dead, "publish shop:order.new")[0].context());
    }
    let publish = of(message::ACKNOWLEDGED, "publish")[0];
    assert_eq!((publish.start, publish.end), (START, START + MS));
    assert_eq!(publish.resource["service.name"], "shop-api");
    assert_eq!(publish.resource["process.pid"], 1001);
    let process = of(message::ACKNOWLEDGED, "process")[0];
    assert_eq!((process.start, process.end), (START + 3 * MS, START + 4 * MS));
    assert_eq!(process.resource["service.name"], "billing-worker");
    assert!(process.links.contains(&publish.context()));
    assert_eq!(of(message::RETRIED, "process").iter().filter(|span| span.error).count(), 1);
    let services: HashSet<_> = spans.iter().map(|span| span.resource["service.name"].as_str().unwrap()).collect();
    assert_eq!(services, HashSet::from(["shop-api", "billing-worker", "unknown_service"]));
}

fn check_metrics(points: &[SeenPoint], truth: &BTreeMap<State, u64>) {
    let sum = |metric: &str, key: &str, value: &str| -> u64 {
        let fits = |point: &&SeenPoint| {
            point.metric == metric
                && (key.is_empty() || point.attributes.get(key).and_then(Value::as_str) == Some(value))
        };
        points.iter().filter(fits).map(|point| point.count).sum()
    };
    for state in State::ALL {
        let expected = truth.get(&state).copied().unwrap_or(0);
        assert_eq!(sum("acktrail.message.transitions", "acktrail.message.state", state.name()), expected, "{state:?}");
    }
    assert_eq!(sum("messaging.client.sent.messages", "", ""), truth[&State::Created]);
    // Two deliveries of the scenario were settled by their consumers without their reading having been seen.
    assert_eq!(sum("messaging.client.consumed.messages", "", ""), truth[&State::Processing] + 2);
    assert_eq!(sum("acktrail.dead_letter.messages", "", ""), truth[&State::DeadLettered]);
    assert_eq!(sum("acktrail.message.in_flight", "", ""), 0);
    assert_eq!(sum("acktrail.capture.lost", "acktrail.loss.stage", "kernel"), 0);
    assert!(points.iter().any(|point| point.metric == "acktrail.capture.lost"));
    // 2000 messages of one millisecond each, and those of the scenario.
    let confirmed: Vec<_> =
        points.iter().filter(|point| point.metric == "messaging.client.operation.duration").collect();
    let measured: f64 = confirmed.iter().map(|point| point.sum).sum();
    let count: u64 = confirmed.iter().map(|point| point.count).sum();
    assert!((measured - count as f64 * 0.001).abs() < 1e-6, "{measured} s for {count}");
}

// OTLP's JSON form: numbers of 64 bits are strings, ids hexadecimal, enums numbers.

fn spans_of(request: &Value) -> Vec<SeenSpan> {
    let mut seen = Vec::new();
    for resource in list(&request["resourceSpans"]) {
        assert_eq!(resource["schemaUrl"], "https://opentelemetry.io/schemas/1.44.0");
        for span in list(&resource["scopeSpans"]).iter().flat_map(|scope| list(&scope["spans"])) {
            let link = |link: &Value| (text(&link["traceId"]), text(&link["spanId"]));
            let event = |event: &Value| (whole(&event["timeUnixNano"]), text(&event["name"]));
            seen.push(SeenSpan {
                resource: pairs(&resource["resource"]["attributes"]),
                trace: text(&span["traceId"]),
                id: text(&span["spanId"]),
                parent: Some(text(&span["parentSpanId"])).filter(|parent| !parent.is_empty()),
                kind: match span["kind"].as_u64() {
                    Some(3) => "CLIENT",
                    Some(4) => "PRODUCER",
                    Some(5) => "CONSUMER",
                    other => panic!("span kind {other:?}"),
                },
                name: text(&span["name"]),
                start: whole(&span["startTimeUnixNano"]),
                end: whole(&span["endTimeUnixNano"]),
                attributes: pairs(&span["attributes"]),
                links: list(&span["links"]).iter().map(link).collect(),
                events: list(&span["events"]).iter().map(event).collect(),
                error: span["status"]["code"] == 2,
            });
        }
    }
    seen
}

fn points_of(request: &Value) -> Vec<SeenPoint> {
    let mut seen = Vec::new();
    for resource in list(&request["resourceMetrics"]) {
        for metric in list(&resource["scopeMetrics"]).iter().flat_map(|scope| list(&scope["metrics"])) {
            let (kind, data) = match (metric.get("sum"), metric.get("histogram")) {
                (Some(sum), _) if sum["isMonotonic"] == true => ("monotonic sum", sum),
                (Some(sum), _) => ("sum", sum),
                (None, Some(histogram)) => ("histogram", histogram),
                (None, None) => panic!("{metric}"),
            };
            for point in list(&data["dataPoints"]) {
                seen.push(SeenPoint {
                    resource: pairs(&resource["resource"]["attributes"]),
                    metric: text(&metric["name"]),
                    unit: text(&metric["unit"]),
                    kind,
                    cumulative: data["aggregationTemporality"] == 2,
                    attributes: pairs(&point["attributes"]),
                    start: whole(&point["startTimeUnixNano"]),
                    time: whole(&point["timeUnixNano"]),
                    count: whole(point.get("asInt").unwrap_or(&point["count"])),
                    bounds: list(&point["explicitBounds"]).iter().filter_map(Value::as_f64).collect(),
                    buckets: list(&point["bucketCounts"]).iter().map(whole).collect(),
                    sum: point["sum"].as_f64().unwrap_or(0.0),
                });
            }
        }
    }
    seen
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn whole(value: &Value) -> u64 {
    match value {
        Value::String(digits) => digits.parse().unwrap(),
        Value::Null => 0,
        number => number.as_u64().unwrap(),
    }
}

fn pairs(attributes: &Value) -> BTreeMap<String, Value> {
    let value = |value: &Value| {
        if let Some(text) = value.get("stringValue") {
            return text.clone();
        }
        if let Some(flag) = value.get("boolValue") {
            return flag.clone();
        }
        whole(&value["intValue"]).into()
    };
    list(attributes).iter().map(|pair| (text(&pair["key"]), value(&pair["value"]))).collect()
}
