//! OTLP as a receiver sees it, in the form that the conventions' checker judges.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1 as metrics;
use serde_json::Value;

use crate::export_support::conventions::{SeenPoint, SeenSpan};

pub fn spans_of(request: &ExportTraceServiceRequest) -> Vec<SeenSpan> {
    let mut seen = Vec::new();
    for resource in &request.resource_spans {
        assert_eq!(resource.schema_url, "https://opentelemetry.io/schemas/1.44.0");
        let attributes = pairs(&resource.resource.as_ref().unwrap().attributes);
        for span in resource.scope_spans.iter().flat_map(|scope| &scope.spans) {
            seen.push(SeenSpan {
                resource: attributes.clone(),
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: Some(hex(&span.parent_span_id)).filter(|parent| !parent.is_empty()),
                kind: match span.kind {
                    3 => "CLIENT",
                    4 => "PRODUCER",
                    5 => "CONSUMER",
                    other => panic!("span kind {other}"),
                },
                name: span.name.clone(),
                start: span.start_time_unix_nano,
                end: span.end_time_unix_nano,
                attributes: pairs(&span.attributes),
                links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
                events: span.events.iter().map(|event| (event.time_unix_nano, event.name.clone())).collect(),
                error: span.status.as_ref().is_some_and(|status| status.code == 2),
            });
        }
    }
    seen
}

pub fn points_of(request: &ExportMetricsServiceRequest) -> Vec<SeenPoint> {
    let mut seen = Vec::new();
    for resource in &request.resource_metrics {
        let resource_attributes = pairs(&resource.resource.as_ref().unwrap().attributes);
        for metric in resource.scope_metrics.iter().flat_map(|scope| &scope.metrics) {
            let point = |kind, cumulative, attributes: &[KeyValue], start, time| SeenPoint {
                resource: resource_attributes.clone(),
                metric: metric.name.clone(),
                unit: metric.unit.clone(),
                kind,
                cumulative,
                attributes: pairs(attributes),
                start,
                time,
                count: 0,
                bounds: Vec::new(),
                buckets: Vec::new(),
                sum: 0.0,
            };
            match metric.data.as_ref().unwrap() {
                metrics::metric::Data::Sum(sum) => {
                    let kind = if sum.is_monotonic { "monotonic sum" } else { "sum" };
                    for number in &sum.data_points {
                        let Some(metrics::number_data_point::Value::AsInt(value)) = number.value else { panic!() };
                        let (start, time) = (number.start_time_unix_nano, number.time_unix_nano);
                        let point = point(kind, sum.aggregation_temporality == 2, &number.attributes, start, time);
                        seen.push(SeenPoint { count: value as u64, ..point });
                    }
                }
                metrics::metric::Data::Histogram(histogram) => {
                    let cumulative = histogram.aggregation_temporality == 2;
                    for data in &histogram.data_points {
                        let (start, time) = (data.start_time_unix_nano, data.time_unix_nano);
                        seen.push(SeenPoint {
                            count: data.count,
                            bounds: data.explicit_bounds.clone(),
                            buckets: data.bucket_counts.clone(),
                            sum: data.sum.unwrap(),
                            ..point("histogram", cumulative, &data.attributes, start, time)
                        });
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }
    seen
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn pairs(attributes: &[KeyValue]) -> BTreeMap<String, Value> {
    let mut map = BTreeMap::new();
    for pair in attributes {
        let value = match pair.value.as_ref().unwrap().value.as_ref().unwrap() {
            any_value::Value::StringValue(text) => Value::from(text.as_str()),
            any_value::Value::IntValue(number) => Value::from(*number),
            any_value::Value::BoolValue(flag) => Value::from(*flag),
            other => panic!("{}: {other:?}", pair.key),
        };
        assert!(map.insert(pair.key.clone(), value).is_none(), "{} twice", pair.key);
    }
    map
}
