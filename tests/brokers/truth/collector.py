"""A real OpenTelemetry Collector that writes down what it gets."""

import json
import signal
import socket
import subprocess
import time

from .places import WORK, free_port, spawn, stop

PROGRAM = "otelcol-0.155.0"
CONFIGURATION = """\
receivers: {{otlp: {{protocols: {{grpc: {{endpoint: '127.0.0.1:{port}'}}}}}}}}
exporters: {{file: {{path: '{out}', flush_interval: 50ms}}}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines:
    traces: {{receivers: [otlp], exporters: [file]}}
    metrics: {{receivers: [otlp], exporters: [file]}}
"""


class Collector:
    """Started at once; `stop` returns its spans and the last points of its metric series."""

    def __init__(self, directory):
        self.port, self.out, self.log = free_port(), directory / "collector.jsonl", directory / "collector.log"
        configuration = directory / "collector.yaml"
        configuration.write_text(CONFIGURATION.format(port=self.port, out=self.out))
        with open(self.log, "wb") as log:
            self.process = spawn([str(WORK / PROGRAM), "--config", str(configuration)], stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while self.process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        stop(self.process, how=signal.SIGKILL)
        raise RuntimeError(f"the Collector did not start: {self.log.read_text()[-1000:]}")

    def url(self):
        """For `--otlp`."""
        return f"http://127.0.0.1:{self.port}"

    def stop(self):
        """Ends it in order. Returns (spans, points)."""
        if stop(self.process) != 0:
            raise RuntimeError(f"the Collector failed: {self.log.read_text()[-1000:]}")
        spans, points = [], {}
        with open(self.out, encoding="utf-8") as lines:
            for line in lines:
                request = json.loads(line)
                for resource in request.get("resourceSpans", ()):
                    about = _pairs(resource["resource"])
                    for scope in resource["scopeSpans"]:
                        spans += [_span(span, about) for span in scope["spans"]]
                for resource in request.get("resourceMetrics", ()):
                    about = _pairs(resource["resource"])
                    for scope in resource["scopeMetrics"]:
                        for metric in scope["metrics"]:
                            _take(points, metric, about)
        return spans, list(points.values())


def _span(span, about):
    return {
        "resource": about, "context": (span["traceId"], span["spanId"]), "parent": span.get("parentSpanId") or None,
        "kind": {3: "CLIENT", 4: "PRODUCER", 5: "CONSUMER"}[span["kind"]], "name": span["name"],
        "start": int(span["startTimeUnixNano"]), "end": int(span["endTimeUnixNano"]), "attributes": _pairs(span),
        "links": [(link["traceId"], link["spanId"]) for link in span.get("links", ())],
        "failed": span.get("status", {}).get("code") == 2,
    }


def _take(points, metric, about):
    """Temporality is cumulative: a series' last point says all, and one that began anew is another series."""
    # Gauges say how it is at a moment, which no log of a client does.
    data = metric.get("sum") or metric.get("histogram") or {}
    for point in data.get("dataPoints") or ():
        attributes = _pairs(point)
        value = int(point["asInt"] if "asInt" in point else point["count"])
        key = metric["name"], _frozen(about), _frozen(attributes), point["startTimeUnixNano"]
        points[key] = {"metric": metric["name"], "resource": about, "attributes": attributes, "value": value}


def _frozen(attributes):
    return tuple(sorted(attributes.items()))


def _pairs(holder):
    pairs = {}
    for attribute in holder.get("attributes", ()):
        (kind, value), = attribute["value"].items()
        pairs[attribute["key"]] = int(value) if kind == "intValue" else value
    return pairs
