"""What acktrail costs, measured with PerfTest at a RabbitMQ of its own. Root, a quiet machine, half an hour.

    python benches/bench.py                       everything, into docs/performance.md
    python benches/bench.py --only cost --quick   one part, short runs, printed only

Parts: cost (BPF time, CPU, memory and loss per mode), throughput and latency (interleaved pairs with and without the agent),
unwatched (busy connections that it ignores), idle, flight (memory with 100,000 deliveries in flight), replay. Only when asked
for: soak (memory over an hour of load).
"""

import argparse
import json
import os
import pathlib
import platform
import random
import re
import shutil
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests/brokers"))

from truth.agent import Agent, binary  # noqa: E402
from truth.broker import Broker  # noqa: E402
from truth.check import losses  # noqa: E402
from truth.disturbed import loaded, owned  # noqa: E402
from truth.perftest import perftest  # noqa: E402
from truth.places import REPOSITORY, WORK, alone, free_port, spawn, stop  # noqa: E402

MODES = {
    "auto-ack": ["-a"],
    "confirms and acks by ten": ["-c", "100", "-q", "100", "-A", "10"],
    "one message at a time": ["-c", "1", "-q", "1", "-A", "1"],
}
# The ceilings of the figures, per mode: BPF run time in microseconds per message.
CEILINGS = {"auto-ack": 0.5, "confirms and acks by ten": 1.0, "one message at a time": 4.0}
TICK = os.sysconf("SC_CLK_TCK")
STATS = pathlib.Path("/proc/sys/kernel/bpf_stats_enabled")


class PerfTest:
    """One run of PerfTest: messages a second, and the latency that 99 % of them stay below, in microseconds.

    The first third is left out: until Java has compiled what it runs most, it falls behind, and what it then has to make up
    for would be most of the slowest one percent. The latency is the median of what each second says, so that one pause of
    the whole machine does not decide; what the agent does comes several times in every second.
    """

    def __init__(self, broker, seconds, *words):
        text = perftest(broker, "-z", str(seconds), *words, patience=seconds + 60)
        told = [line for line in text.splitlines() if re.search(r"time \d+\.\d+ s, ", line)]
        told = told[len(told) // 3:]
        received = self._each(told, r"received: (\d+) msg/s")
        slowest = self._each(told, r"consumer latency: (?:\d+/)+(\d+) µs")
        if not received or not slowest:
            raise RuntimeError(f"PerfTest did not say what it received, and how late:\n{text[-2000:]}")
        self.received, self.p99 = statistics.mean(received), statistics.median(slowest)

    @staticmethod
    def _each(lines, pattern):
        return [int(number) for line in lines for number in re.findall(pattern, line)]


class Collector:
    """An OpenTelemetry Collector that takes everything and keeps nothing."""

    def __init__(self, directory):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        configuration = directory / "collector.yaml"
        configuration.write_text(f"""
receivers: {{otlp: {{protocols: {{grpc: {{endpoint: "127.0.0.1:{port}"}}}}}}}}
exporters: {{debug: {{verbosity: basic}}}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines:
    traces: {{receivers: [otlp], exporters: [debug]}}
    metrics: {{receivers: [otlp], exporters: [debug]}}
""")
        with open(directory / "collector.log", "wb") as log:
            self.process = spawn([str(WORK / "otelcol-0.155.0"), "--config", str(configuration)], stdout=log, stderr=log)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        stop(self.process)


class Bench:
    """Broker, directory and lengths of all parts."""

    def __init__(self, broker, collector, directory, quick):
        self.broker, self.collector, self.directory = broker, collector, directory
        self.seconds, self.pairs = (4, 2) if quick else (12, 12)
        self.runs = 1 if quick else 3

    def agent(self, *options, port=None, name="bench"):
        """An agent as it would run for real: no JSON lines, metrics and sampled traces to a Collector."""
        return Agent(self.directory, port or self.broker.port, "--otlp", self.collector.url, *options, name=name, writes_lines=False)

    def cost(self):
        """BPF time, CPU, memory, loss."""
        rows = []
        for mode, words in MODES.items():
            measured = [self._cost(words) for _ in range(self.runs)]
            middle = {name: statistics.median(run[name] for run in measured) for name in measured[0]}
            rows.append(f"| {mode} | {middle['rate']:.0f}/s | {middle['bpf']:.2f} µs (≤ {CEILINGS[mode]}) | "
                        f"{middle['runs']:.2f} | {middle['cpu']:.2f} µs (≤ 2) | {middle['rss']:.0f} MiB | {middle['lost']:.0f} |")
        return ["| mode | messages | BPF run time a message | programs run a message | agent's CPU a message | resident | lost |",
                "| --- | --- | --- | --- | --- | --- | --- |", *rows]

    def _cost(self, words):
        """BPF time in a run of its own: counting it costs time itself."""
        with self.agent() as agent:
            STATS.write_text("1")
            try:
                before = bpf_time(agent.process.pid)
                PerfTest(self.broker, self.seconds, "-u", queue(), *words)
                after = bpf_time(agent.process.pid)
            finally:
                STATS.write_text("0")
        counted = messages(agent.summary)
        figures = {"bpf": (after[0] - before[0]) / counted / 1000, "runs": (after[1] - before[1]) / counted}
        with self.agent() as agent:
            busy = cpu(agent.process.pid)
            run = PerfTest(self.broker, self.seconds, "-u", queue(), *words)
            time.sleep(0.5)
            busy = cpu(agent.process.pid) - busy
            figures["rss"] = resident(agent.process.pid)
        figures["cpu"] = busy / messages(agent.summary) * 1e6
        figures["lost"] = sum(losses(agent.summary).values())
        figures["rate"] = run.received
        return figures

    def throughput(self):
        """Saturated PerfTest, with ÷ without, interleaved."""
        rows = []
        for mode, words in MODES.items():
            ratios, rates = [], []
            for pair in range(self.pairs):
                rate = {}
                for watched in ((True, False) if pair % 2 else (False, True)):
                    rate[watched] = self._run(watched, "-u", queue(), *words).received
                ratios.append(rate[True] / rate[False])
                rates.append(rate[False])
            rows.append(f"| {mode} | {statistics.median(rates):.0f}/s | **{statistics.median(ratios):.3f}** (≥ 0.95) | {spread(ratios)} |")
        return [f"| mode | without | with ÷ without, median | {SPREAD} |", "| --- | --- | --- | --- | --- | --- |", *rows]

    def latency(self):
        """p99 from publish to consume at half of the ceiling, with ÷ without, interleaved."""
        words = MODES["confirms and acks by ten"]
        ceiling = int(self._run(False, "-u", queue(), *words).received)
        ratios, plain = [], []
        for pair in range(self.pairs):
            p99 = {}
            for watched in ((True, False) if pair % 2 else (False, True)):
                p99[watched] = self._run(watched, "-u", queue(), "-r", str(ceiling // 2), *words).p99
            ratios.append(p99[True] / p99[False])
            plain.append(p99[False])
        return [f"| rate | p99 without | with ÷ without, median | {SPREAD} |", "| --- | --- | --- | --- | --- | --- |",
                f"| {ceiling // 2}/s | {statistics.median(plain) / 1000:.2f} ms | **{statistics.median(ratios):.3f}** (≤ 1.05) | "
                f"{spread(ratios)} |"]

    def _run(self, watched, *words):
        if not watched:
            return PerfTest(self.broker, self.seconds, *words)
        with self.agent():
            return PerfTest(self.broker, self.seconds, *words)

    def unwatched(self):
        """The agent watches another port."""
        with self.agent(port=free_port()) as agent:
            STATS.write_text("1")
            try:
                before = bpf_time(agent.process.pid)
                PerfTest(self.broker, self.seconds, "-u", queue(), *MODES["one message at a time"])
                after = bpf_time(agent.process.pid)
            finally:
                STATS.write_text("0")
        each = (after[0] - before[0]) / max(1, after[1] - before[1])
        return ["| busy connections that it does not watch | |", "| --- | --- |",
                f"| a program's run | {each / 1000:.3f} µs (< 0.1) |", f"| runs | {after[1] - before[1]} |"]

    def idle(self):
        """Nothing passes."""
        with self.agent() as agent:
            time.sleep(2)
            busy, began = cpu(agent.process.pid), time.monotonic()
            time.sleep(10 * self.runs)
            share = (cpu(agent.process.pid) - busy) / (time.monotonic() - began)
        return ["| idle agent | |", "| --- | --- |", f"| of a core | {share * 100:.2f} % (≤ 0.3) |"]

    def flight(self):
        """100,000 deliveries in flight at once."""
        from truth.flight import hold

        with self.agent() as agent:
            start = resident(agent.process.pid)
            with hold(self.broker, queue(), 100_000):
                time.sleep(1)
                full = resident(agent.process.pid)
        return ["| 100,000 messages in flight | |", "| --- | --- |", f"| resident before | {start:.0f} MiB |",
                f"| resident then | {full:.0f} MiB (≤ 64) |", f"| lost | {sum(losses(agent.summary).values())} |"]

    def soak(self):
        """Memory over an hour: each minute new connections, a new queue, and confirmed messages acknowledged by ten."""
        minutes = 2 if self.seconds < 12 else 60
        resident_then = []
        with self.agent() as agent:
            for _ in range(minutes):
                PerfTest(self.broker, 60, "-u", queue(), "-r", "4000", *MODES["confirms and acks by ten"])
                resident_then.append(resident(agent.process.pid))
        count, lost = messages(agent.summary), sum(losses(agent.summary).values())
        tenth = max(1, minutes // 10)
        early, late = (statistics.median(part) for part in (resident_then[tenth:2 * tenth], resident_then[-tenth:]))
        return [f"| {minutes} minutes at 4,000/s | |", "| --- | --- |", f"| messages | {count} |", f"| lost | {lost} |",
                f"| resident after {tenth} to {2 * tenth} minutes | {early:.1f} MiB |",
                f"| resident in the last {tenth} minutes | {late:.1f} MiB |", f"| largest | {max(resident_then):.1f} MiB |"]

    def replay(self):
        """A recording of PerfTest at full speed, replayed on one core."""
        file = self.directory / "bench.acktrail"
        file.unlink(missing_ok=True)
        recorder = spawn([binary(), "record", str(file), "--config", str(empty(self.directory)), "--port", str(self.broker.port),
                          "--ready-file", str(self.directory / "record.ready")], stdout=subprocess.DEVNULL)
        while not (self.directory / "record.ready").exists():
            if recorder.poll() is not None:
                raise RuntimeError("acktrail record ended")
            time.sleep(0.01)
        PerfTest(self.broker, self.seconds, "-u", queue(), *MODES["auto-ack"])
        stop(recorder)
        (self.directory / "record.ready").unlink(missing_ok=True)
        speeds = []
        for _ in range(self.runs):
            summary = self.directory / "replay.summary.json"
            began = time.monotonic()
            subprocess.run(["taskset", "-c", "0", binary(), "replay", str(file), "--config", str(empty(self.directory)),
                            "--port", str(self.broker.port), "--summary", str(summary)], check=True, stdout=subprocess.DEVNULL)
            took = time.monotonic() - began
            speeds.append(messages(json.loads(summary.read_text())) / took)
        return ["| replay of a recording | |", "| --- | --- |", f"| messages | {messages(json.loads(summary.read_text()))} |",
                f"| recording | {file.stat().st_size / 2**20:.1f} MiB |",
                f"| messages a second, one core | {statistics.median(speeds):.0f} (≥ 500,000) |"]


SPREAD = "95 % interval of the median | range | pairs"


def spread(ratios):
    """How sure their median is, by 10,000 samples of as many of them (bootstrap)."""
    chance = random.Random(1)
    medians = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(10_000))
    return f"{medians[250]:.3f} – {medians[-251]:.3f} | {min(ratios):.3f} – {max(ratios):.3f} | {len(ratios)}"


def queue():
    """A name that no run had before."""
    return f"bench.{time.monotonic_ns()}"


def messages(summary):
    """Messages whose life was followed to its end."""
    return sum(total["count"] for total in summary["totals"] if total["state"] == "Acknowledged")


def bpf_time(pid):
    """Nanoseconds and runs of the programs that a process holds, since counting was switched on."""
    ours = owned(pid)
    programs = [program for program in loaded() if program["id"] in ours]
    return sum(p.get("run_time_ns", 0) for p in programs), sum(p.get("run_cnt", 0) for p in programs)


def cpu(pid):
    """Seconds of user and system time of a process so far."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def resident(pid):
    """MiB."""
    return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text()).group(1)) / 1024


def empty(directory):
    """A configuration file that says nothing."""
    path = directory / "empty.toml"
    path.write_text("")
    return path


def machine():
    """Where these figures come from."""
    model = re.search(r"model name\s*:\s*(.*)", pathlib.Path("/proc/cpuinfo").read_text())
    commit = subprocess.run(["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"], capture_output=True, text=True).stdout
    return (f"{os.cpu_count()} cores ({model.group(1) if model else platform.machine()}), Linux {platform.release()}, "
            f"commit {commit.strip()}, {time.strftime('%Y-%m-%d')}, load average at the start {os.getloadavg()[0]:.1f}")


PARTS = ("cost", "throughput", "latency", "unwatched", "idle", "flight", "replay")
BEGIN, END = "<!-- begin bench -->\n", "<!-- end bench -->\n"


def write(text):
    """Replaces the measured part of docs/performance.md."""
    page = REPOSITORY / "docs/performance.md"
    old = page.read_text() if page.exists() else f"# Performance\n\n{BEGIN}{END}"
    head, _, rest = old.partition(BEGIN)
    _, _, tail = rest.partition(END)
    page.write_text(f"{head}{BEGIN}{text}{END}{tail}")


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", choices=(*PARTS, "soak"), action="append")
    options.add_argument("--quick", action="store_true", help="short runs, printed only")
    options.add_argument("--broker", default="3.10")
    chosen = options.parse_args()
    directory = WORK / "bench"
    alone("bench")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    text = f"Measured by `make bench`: {machine()}, RabbitMQ {chosen.broker}, PerfTest 1 → 1 with 100-byte bodies, "
    with Broker(chosen.broker, directory / "broker", counters=False) as broker, Collector(directory) as collector:
        bench = Bench(broker, collector, directory, chosen.quick)
        text += f"{bench.seconds} s a run; the agent with metrics and sampled traces to a Collector, without JSON lines. Figures to reach in parentheses.\n"
        for part in chosen.only or PARTS:
            rows = getattr(bench, part)()
            print("\n".join(rows), flush=True)
            text += "\n" + "\n".join(rows) + "\n"
    if not (chosen.quick or chosen.only):
        write("\n" + text + "\n")


if __name__ == "__main__":
    main()
