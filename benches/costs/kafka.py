"""What acktrail costs on Kafka, measured with ProducerPerformance and ConsumerPerformance."""

import contextlib
import statistics
import subprocess
import time

from . import SPREAD, SPREAD_RULE, Told, middle, resident
from . import Bench as Shared
from truth.check import losses
from truth.kafka.broker import KafkaBroker
from truth.kafka.flight import hold
from truth.places import WORK, spawn, stop

MODES = {
    "default batching": [],
    "a batch for each record": ["--command-property", "linger.ms=0", "batch.size=0"],
}
# The least that is left of each mode's throughput.
FLOORS = {"default batching": 0.98, "a batch for each record": 0.95}
# Single records of 100 bytes: 4,000 requests and as many answers are a megabyte.
PER_MEGABYTE = {"default batching": " (≤ 150)", "a batch for each record": ""}
TITLE = "ProducerPerformance and ConsumerPerformance at once, 100-byte records, one partition"
PARTS = ("cost", "throughput", "flight", "replay")
WHEN_ASKED = ()
PARTITIONS, GROUPS, IN_FLIGHT = 1000, 20, 1_000_000


def broker(version, directory):
    """A Kafka of this bench's own, compiled as in production, with as much memory as both cores can fill."""
    return KafkaBroker(version or "4", directory / "broker", heap="1g", quick_start=False)


class Pair:
    """A producer and a consumer as fast as they can be: records a second that the consumer was given.

    The first third is left out: until then Java compiles what it runs most.
    """

    def __init__(self, broker, seconds, words):
        with load(broker, words) as (producer, consumer):
            time.sleep(seconds)
            for tool in (producer, consumer):
                tool.terminate()
            rates = [rate for rate in map(given, consumer.communicate()[0].splitlines()) if rate is not None]
            producer.communicate()
        rates = rates[len(rates) // 3:]
        if not rates:
            raise RuntimeError("the consumer did not say what it received")
        self.given = statistics.mean(rates)


@contextlib.contextmanager
def load(broker, words):
    """A producer and a consumer of a topic of their own, of which the broker keeps a gigabyte."""
    topic = f"bench.{time.monotonic_ns()}"
    broker.admin.create(topic, configs={"retention.bytes": 1 << 30, "segment.bytes": 128 << 20})
    with contextlib.ExitStack() as running:
        consumer = running.enter_context(tool(
            "ConsumerPerformance", broker, topic, "--group", topic, "--num-records", "1000000000", "--timeout", "60000",
            "--reporting-interval", "1000", "--show-detailed-stats", "--hide-header", stdout=subprocess.PIPE))
        producer = running.enter_context(tool(
            "ProducerPerformance", broker, topic, "--num-records", "1000000000", "--record-size", "100", "--throughput", "-1",
            *words, stdout=subprocess.DEVNULL))
        yield producer, consumer
    broker.admin.delete(topic)


@contextlib.contextmanager
def tool(name, broker, topic, *words, stdout):
    """One of Kafka's own."""
    running = spawn(["java", "-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{WORK}/kafka-4/*",
                     f"org.apache.kafka.tools.{name}", "--bootstrap-server", broker.bootstrap(), "--topic", topic, *words],
                    stdout=stdout, text=True)
    try:
        yield running
    finally:
        stop(running)


def given(line):
    """Records a second, if the consumer says so in this line."""
    fields = line.split(",")
    return float(fields[5]) if len(fields) == 10 else None


class Bench(Shared):
    """The parts; each gives the rows of a table."""

    def cost(self):
        """BPF time, CPU, memory, loss."""
        rows = []
        for mode, words in MODES.items():
            of = middle([self._cost(words) for _ in range(self.runs)])
            rows.append(f"| {mode} | {of['rate']:.0f}/s | {of['bpf']:.0f} µs{PER_MEGABYTE[mode]} | {of['cpu']:.3f} µs (≤ 3) | "
                        f"{of['rss']:.0f} MiB | {of['lost']:.0f} (0) |")
        return ["| mode | records | BPF run time a megabyte | agent's CPU a record | resident | lost |",
                "| --- | --- | --- | --- | --- | --- |", *rows]

    def _cost(self, words):
        """BPF time in a run of its own."""
        bpf, seen = self.programs(lambda: self._pair(words))
        figures = self.usage(lambda: self._pair(words).given, lambda summary: records(summary, "Created"))
        return {"bpf": bpf.nanoseconds / 1000 / (seen["capture"]["bytes"] / 1e6), **figures}

    def throughput(self):
        """A saturated producer and consumer, with ÷ without, interleaved."""
        rows = []
        for mode, words in MODES.items():
            rates = self.in_turns(self._going_on(words))
            rows.append(f"| {mode} | {rates.plain:.0f}/s | {rates.row(f'≥ {FLOORS[mode]}')}")
        return [f"| mode | without | with ÷ without, median | {SPREAD} |", f"| --- | --- | --- {SPREAD_RULE}", *rows]

    def flight(self):
        """A million records given to twenty groups, and committed by none."""
        topic = f"bench.{time.monotonic_ns()}"
        self.broker.admin.create(topic, PARTITIONS)
        with self.agent() as agent:
            start = resident(agent.process.pid)
            with hold(self.broker, topic, GROUPS, IN_FLIGHT // GROUPS):
                time.sleep(1)
                full = resident(agent.process.pid)
        self.broker.admin.delete(topic)
        return [f"| {IN_FLIGHT:,} records in flight, {PARTITIONS:,} partitions, {GROUPS} groups | |", "| --- | --- |",
                f"| dispatched | {records(agent.summary, 'Dispatched')} |", f"| resident before | {start:.0f} MiB |",
                f"| resident then | {full:.0f} MiB (≤ 64) |", f"| lost | {sum(losses(agent.summary).values())} |"]

    def replay(self):
        """A recording of both tools at full speed, replayed on one core."""
        file = self.recorded(lambda: self._pair(MODES["default batching"]))
        speeds = []
        for _ in range(self.runs):
            took, summary = self.replayed(file)
            speeds.append(records(summary, "Created") / took)
        return ["| replay of a recording | |", "| --- | --- |", f"| records produced | {records(summary, 'Created')} |",
                f"| records consumed | {records(summary, 'Dispatched')} |",
                f"| recording | {file.stat().st_size / 2**20:.1f} MiB |",
                f"| records a second, one core, each produced and consumed | {statistics.median(speeds):.0f} (≥ 5,000,000) |"]

    def _pair(self, words):
        return Pair(self.broker, self.seconds, words)

    @contextlib.contextmanager
    def _going_on(self, words):
        with load(self.broker, words) as (_, consumer):
            yield Told(consumer.stdout, given)


def records(summary, state):
    """Records that entered a state, of all topics."""
    return sum(total["count"] for total in summary["totals"] if total["state"] == state)
