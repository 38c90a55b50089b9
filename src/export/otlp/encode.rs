//! Spans and snapshots as OTLP requests, each below the size that servers take.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1 as metrics;
use opentelemetry_proto::tonic::resource::v1::Resource as ProtoResource;
use opentelemetry_proto::tonic::trace::v1 as traces;
use prost::Message;

use crate::export::metrics::{MetricPoints, Number, Point, Snapshot, Value};
use crate::export::registry::{Attribute, Instrument, SCHEMA_URL, attribute};
use crate::export::resource::Resource;
use crate::export::spans::{Kind, Span};

/// Encoded bytes of a request: servers usually refuse more than 4 MiB, counted before compression (OTLP specification).
pub const LARGEST: usize = 3 << 20;

/// A request and how many spans or points it holds.
pub struct Batch<R> {
    /// The request.
    pub request: R,
    /// Spans or points in it.
    pub items: u64,
}

/// Trace requests for these spans, one ResourceSpans per resource in each.
pub fn trace_batches(spans: Vec<Span>, host: &str) -> Vec<Batch<ExportTraceServiceRequest>> {
    let mut batches: Vec<Batch<ExportTraceServiceRequest>> = Vec::new();
    // Resources of the current request, in its order.
    let mut resources: Vec<Resource> = Vec::new();
    let mut size = usize::MAX;
    for span in spans {
        let resource = span.resource.clone();
        let proto = encode_span(span);
        let more = proto.encoded_len() + OVERHEAD;
        if size.saturating_add(more) > LARGEST {
            batches.push(Batch { request: ExportTraceServiceRequest::default(), items: 0 });
            resources.clear();
            size = 0;
        }
        let Some(batch) = batches.last_mut() else { continue };
        let index = resources.iter().position(|other| *other == resource).unwrap_or_else(|| {
            batch.request.resource_spans.push(traces::ResourceSpans {
                resource: Some(encode_resource(&resource, host)),
                scope_spans: vec![traces::ScopeSpans {
                    scope: Some(scope()),
                    spans: Vec::new(),
                    schema_url: SCHEMA_URL.into(),
                }],
                schema_url: SCHEMA_URL.into(),
            });
            size += RESOURCE_OVERHEAD;
            resources.push(resource);
            resources.len() - 1
        });
        let scope = batch.request.resource_spans.get_mut(index).and_then(|resource| resource.scope_spans.first_mut());
        if let Some(scope) = scope {
            scope.spans.push(proto);
            batch.items += 1;
            size += more;
        }
    }
    batches
}

/// Metric requests for a snapshot, one ResourceMetrics per resource in each.
pub fn metric_batches(snapshot: &Snapshot, host: &str) -> Vec<Batch<ExportMetricsServiceRequest>> {
    let mut batches: Vec<Batch<ExportMetricsServiceRequest>> = Vec::new();
    let mut size = usize::MAX;
    for resource in &snapshot.resources {
        let mut resource_is_new = true;
        for metric in &resource.metrics {
            let mut metric_is_new = true;
            for point in &metric.points {
                let data = encode_point(metric, point, snapshot.time.0);
                let more = data_size(&data) + OVERHEAD;
                if size.saturating_add(more) > LARGEST {
                    batches.push(Batch { request: ExportMetricsServiceRequest::default(), items: 0 });
                    (size, resource_is_new, metric_is_new) = (0, true, true);
                }
                let Some(batch) = batches.last_mut() else { continue };
                if std::mem::take(&mut resource_is_new) {
                    size += RESOURCE_OVERHEAD;
                    batch.request.resource_metrics.push(empty_resource(&resource.resource, host));
                }
                let last = batch.request.resource_metrics.last_mut();
                let Some(scope) = last.and_then(|last| last.scope_metrics.last_mut()) else { continue };
                if std::mem::take(&mut metric_is_new) {
                    size += OVERHEAD;
                    scope.metrics.push(empty_metric(metric));
                }
                if let Some(last) = scope.metrics.last_mut() {
                    append_point(last, data);
                    batch.items += 1;
                    size += more;
                }
            }
        }
    }
    batches
}

/// Room for the frames around an item, and around a resource with its attributes and schema URLs.
const OVERHEAD: usize = 256;
const RESOURCE_OVERHEAD: usize = 2048;

/// Flags of a span or link: the context's span may be in another process, and it is known whether it is
/// (`SpanFlags` of trace.proto); sampled by the W3C flag.
const REMOTE: u32 = 0x300 | 1;
const SAMPLED: u32 = 1;

fn encode_span(span: Span) -> traces::Span {
    let kind = match span.kind {
        Kind::Producer => traces::span::SpanKind::Producer,
        Kind::Client => traces::span::SpanKind::Client,
        Kind::Consumer => traces::span::SpanKind::Consumer,
    };
    let links = span.links.into_iter().map(|link| traces::span::Link {
        trace_id: link.context.trace_id.to_vec(),
        span_id: link.context.span_id.to_vec(),
        flags: REMOTE,
        attributes: pairs(link.attributes),
        ..Default::default()
    });
    let events = span.events.iter().map(|(time, name)| traces::span::Event {
        time_unix_nano: time.0,
        name: (*name).into(),
        ..Default::default()
    });
    // Success leaves the status unset (semantic conventions, recording errors).
    let status =
        span.failed.then(|| traces::Status { message: String::new(), code: traces::status::StatusCode::Error as i32 });
    traces::Span {
        trace_id: span.context.trace_id.to_vec(),
        span_id: span.context.span_id.to_vec(),
        parent_span_id: span.parent.map(|parent| parent.to_vec()).unwrap_or_default(),
        flags: if span.parent.is_some() { REMOTE } else { SAMPLED },
        name: span.name,
        kind: kind as i32,
        start_time_unix_nano: span.start.0,
        end_time_unix_nano: span.end.0,
        attributes: pairs(span.attributes),
        events: events.collect(),
        links: links.collect(),
        dropped_links_count: span.dropped_links,
        status,
        ..Default::default()
    }
}

enum Data {
    Number(metrics::NumberDataPoint),
    Histogram(metrics::HistogramDataPoint),
}

fn data_size(data: &Data) -> usize {
    match data {
        Data::Number(point) => point.encoded_len(),
        Data::Histogram(point) => point.encoded_len(),
    }
}

fn encode_point(metric: &MetricPoints, point: &Point, time: u64) -> Data {
    let attributes = pairs(point.attributes.clone());
    match &point.number {
        Number::Count(count) => Data::Number(metrics::NumberDataPoint {
            attributes,
            start_time_unix_nano: point.start.0,
            time_unix_nano: time,
            value: Some(metrics::number_data_point::Value::AsInt(i64::try_from(*count).unwrap_or(i64::MAX))),
            ..Default::default()
        }),
        Number::Histogram(histogram) => {
            debug_assert_eq!(metric.metric.instrument, Instrument::Histogram);
            Data::Histogram(metrics::HistogramDataPoint {
                attributes,
                start_time_unix_nano: point.start.0,
                time_unix_nano: time,
                count: histogram.count(),
                sum: Some(histogram.sum()),
                bucket_counts: histogram.buckets().to_vec(),
                explicit_bounds: histogram.bounds().seconds.to_vec(),
                min: histogram.extremes().map(|(least, _)| least),
                max: histogram.extremes().map(|(_, most)| most),
                ..Default::default()
            })
        }
    }
}

fn empty_resource(resource: &Resource, host: &str) -> metrics::ResourceMetrics {
    metrics::ResourceMetrics {
        resource: Some(encode_resource(resource, host)),
        scope_metrics: vec![metrics::ScopeMetrics {
            scope: Some(scope()),
            metrics: Vec::new(),
            schema_url: SCHEMA_URL.into(),
        }],
        schema_url: SCHEMA_URL.into(),
    }
}

fn empty_metric(points: &MetricPoints) -> metrics::Metric {
    const CUMULATIVE: i32 = metrics::AggregationTemporality::Cumulative as i32;
    let sum = |is_monotonic| {
        metrics::metric::Data::Sum(metrics::Sum {
            data_points: Vec::new(),
            aggregation_temporality: CUMULATIVE,
            is_monotonic,
        })
    };
    let data = match points.metric.instrument {
        Instrument::Counter => sum(true),
        Instrument::UpDownCounter => sum(false),
        Instrument::Gauge => metrics::metric::Data::Gauge(metrics::Gauge { data_points: Vec::new() }),
        Instrument::Histogram => metrics::metric::Data::Histogram(metrics::Histogram {
            data_points: Vec::new(),
            aggregation_temporality: CUMULATIVE,
        }),
    };
    metrics::Metric {
        name: points.metric.name.into(),
        description: points.metric.says.into(),
        unit: points.metric.unit.into(),
        data: Some(data),
        ..Default::default()
    }
}

fn append_point(metric: &mut metrics::Metric, data: Data) {
    match (&mut metric.data, data) {
        (Some(metrics::metric::Data::Sum(sum)), Data::Number(point)) => sum.data_points.push(point),
        (Some(metrics::metric::Data::Gauge(gauge)), Data::Number(point)) => gauge.data_points.push(point),
        (Some(metrics::metric::Data::Histogram(histogram)), Data::Histogram(point)) => {
            histogram.data_points.push(point)
        }
        _ => debug_assert!(false, "a point of another kind than its metric"),
    }
}

fn encode_resource(resource: &Resource, host: &str) -> ProtoResource {
    let text = |text: &str| Value::Text(text.to_owned());
    let mut attributes = vec![(&attribute::SERVICE_NAME, text(resource.service_name()))];
    match resource {
        Resource::Agent => attributes.push((&attribute::SERVICE_VERSION, Value::Word(env!("CARGO_PKG_VERSION")))),
        Resource::Process { pid, executable } => {
            attributes.push((&attribute::PROCESS_PID, Value::Int(i64::from(*pid))));
            attributes.push((&attribute::PROCESS_EXECUTABLE, text(executable)));
        }
        // It may be on any host.
        Resource::Unknown => {}
    }
    if !matches!(resource, Resource::Unknown) {
        attributes.push((&attribute::HOST_NAME, text(host)));
    }
    attributes.retain(|(_, value)| !matches!(value, Value::Text(text) if text.is_empty()));
    ProtoResource { attributes: pairs(attributes), ..Default::default() }
}

fn scope() -> InstrumentationScope {
    InstrumentationScope { name: "acktrail".into(), version: env!("CARGO_PKG_VERSION").into(), ..Default::default() }
}

fn pairs(attributes: Vec<(&'static Attribute, Value)>) -> Vec<KeyValue> {
    let encode = |(key, value): (&'static Attribute, Value)| {
        let value = match value {
            Value::Text(text) => any_value::Value::StringValue(text),
            Value::Word(word) => any_value::Value::StringValue(word.into()),
            Value::Int(number) => any_value::Value::IntValue(number),
            Value::Bool(flag) => any_value::Value::BoolValue(flag),
        };
        KeyValue { key: key.key.into(), value: Some(AnyValue { value: Some(value) }), ..Default::default() }
    };
    attributes.into_iter().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::metrics::ResourcePoints;
    use crate::export::registry::metric;
    use crate::export::spans::SpanContext;
    use crate::time::Timestamp;

    fn long(length: usize) -> Value {
        Value::Text("x".repeat(length))
    }

    #[test]
    fn large_batches_are_split_below_the_limit_and_lose_nothing() {
        let span = |number: u64| Span {
            resource: Resource::Process { pid: (number % 700) as u32, executable: "p".repeat(400).into() },
            context: SpanContext { trace_id: [1; 16], span_id: number.to_be_bytes() },
            parent: None,
            kind: Kind::Consumer,
            name: "process".into(),
            start: Timestamp(1),
            end: Timestamp(2),
            attributes: vec![(&attribute::MESSAGE_ID, long(500)); 4],
            links: Vec::new(),
            dropped_links: 0,
            events: Vec::new(),
            failed: false,
            important: false,
        };
        let batches = trace_batches((0..5000).map(span).collect(), "host");
        assert!(batches.len() > 3);
        assert!(batches.iter().all(|batch| batch.request.encoded_len() < 4 << 20));
        let spans = batches.iter().flat_map(|batch| &batch.request.resource_spans).flat_map(|resource| {
            assert_eq!(resource.scope_spans.len(), 1);
            &resource.scope_spans[0].spans
        });
        let ids: std::collections::HashSet<_> = spans.map(|span| span.span_id.clone()).collect();
        assert_eq!(ids.len(), 5000);
        assert_eq!(batches.iter().map(|batch| batch.items).sum::<u64>(), 5000);
        assert!(trace_batches(Vec::new(), "host").is_empty());
    }

    #[test]
    fn large_snapshots_are_split_below_the_limit_and_lose_nothing() {
        let point = |number: u64| Point {
            start: Timestamp(1),
            attributes: vec![(&attribute::QUEUE, long(500)), (&attribute::DESTINATION_NAME, long(1500))],
            number: Number::Count(number),
        };
        let points = |metric| MetricPoints { metric, points: (0..1000).map(point).collect() };
        let resource = |pid| ResourcePoints {
            resource: Resource::Process { pid, executable: "p".into() },
            metrics: vec![points(&metric::SENT), points(&metric::IN_FLIGHT)],
        };
        let snapshot = Snapshot { time: Timestamp(2), resources: (1..4).map(resource).collect() };
        let batches = metric_batches(&snapshot, "host");
        assert!(batches.len() > 3);
        assert!(batches.iter().all(|batch| batch.request.encoded_len() < 4 << 20));
        let metrics = batches.iter().flat_map(|batch| &batch.request.resource_metrics).flat_map(|resource| {
            assert_eq!(resource.scope_metrics.len(), 1);
            &resource.scope_metrics[0].metrics
        });
        let counted: usize = metrics
            .map(|metric| match &metric.data {
                Some(metrics::metric::Data::Sum(sum)) => {
                    assert_eq!(sum.is_monotonic, metric.name == "messaging.client.sent.messages");
                    sum.data_points.len()
                }
                _ => 0,
            })
            .sum();
        assert_eq!(counted, 6000);
        assert_eq!(batches.iter().map(|batch| batch.items).sum::<u64>(), 6000);
    }
}
