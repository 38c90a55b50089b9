"""What acktrail costs on RabbitMQ, measured with PerfTest."""

import contextlib
import re
import statistics
import subprocess
import time

from . import SPREAD, SPREAD_RULE, BpfTime, Told, cpu, middle, resident
from . import Bench as Shared
from truth.broker import Broker
from truth.check import losses
from truth.flight import hold
from truth.perftest import command, perftest
from truth.places import free_port, spawn, stop

MODES = {
    "auto-ack": ["-a"],
    "confirms and acks by ten": ["-c", "100", "-q", "100", "-A", "10"],
    "one message at a time": ["-c", "1", "-q", "1", "-A", "1"],
}
# The ceilings of the figures, per mode: BPF run time in microseconds per message.
CEILINGS = {"auto-ack": 0.5, "confirms and acks by ten": 1.0, "one message at a time": 4.0}
# What PerfTest says of each second: messages, and the microseconds that 99 % of them stay below from publish to consume.
RECEIVED, LATENESS = r"received: (\d+) msg/s", r"consumer latency: (?:\d+/)+(\d+) µs"
TITLE = "PerfTest 1 → 1 with 100-byte bodies"
PARTS = ("cost", "throughput", "latency", "unwatched", "idle", "flight", "replay")
WHEN_ASKED = ("soak",)


def broker(version, directory):
    """A RabbitMQ of this bench's own."""
    return Broker(version or "3.10", directory / "broker", counters=False)


def rate(text):
    """Messages a second in a run of PerfTest, without its first third: Java compiles what it runs most then."""
    told = re.findall(RECEIVED, text)
    if not told:
        raise RuntimeError(f"PerfTest did not say what it received:\n{text[-2000:]}")
    return statistics.mean(map(int, told[len(told) // 3:]))


class Bench(Shared):
    """The parts; each gives the rows of a table."""

    def cost(self):
        """BPF time, CPU, memory, loss."""
        rows = []
        for mode, words in MODES.items():
            of = middle([self._cost(words) for _ in range(self.runs)])
            rows.append(f"| {mode} | {of['rate']:.0f}/s | {of['bpf']:.2f} µs (≤ {CEILINGS[mode]}) | {of['runs']:.2f} | "
                        f"{of['cpu']:.2f} µs (≤ 2) | {of['rss']:.0f} MiB | {of['lost']:.0f} |")
        return ["| mode | messages | BPF run time a message | programs run a message | agent's CPU a message | resident | lost |",
                "| --- | --- | --- | --- | --- | --- | --- |", *rows]

    def _cost(self, words):
        """BPF time in a run of its own."""
        bpf, seen = self.programs(lambda: self._perftest(words))
        figures = self.usage(lambda: self._perftest(words), messages)
        return {"bpf": bpf.nanoseconds / messages(seen) / 1000, "runs": bpf.runs / messages(seen), **figures}

    def throughput(self):
        """Saturated PerfTest, with ÷ without, interleaved."""
        rows = []
        for mode, words in MODES.items():
            rates = self.in_turns(self._going_on(words, RECEIVED))
            rows.append(f"| {mode} | {rates.plain:.0f}/s | {rates.row('≥ 0.95')}")
        return [f"| mode | without | with ÷ without, median | {SPREAD} |", f"| --- | --- | --- {SPREAD_RULE}", *rows]

    def latency(self):
        """p99 from publish to consume at half of the ceiling, with ÷ without, interleaved."""
        words = MODES["confirms and acks by ten"]
        half = int(self._perftest(words)) // 2
        late = self.in_turns(self._going_on(["-r", str(half), *words], LATENESS))
        return [f"| rate | p99 without | with ÷ without, median | {SPREAD} |", f"| --- | --- | --- {SPREAD_RULE}",
                f"| {half}/s | {late.plain / 1000:.2f} ms | {late.row('≤ 1.05')}"]

    def unwatched(self):
        """The agent watches another port."""
        with self.agent(port=free_port()) as agent, BpfTime(agent) as bpf:
            self._perftest(MODES["one message at a time"])
        return ["| busy connections that it does not watch | |", "| --- | --- |",
                f"| a program's run | {bpf.nanoseconds / max(1, bpf.runs) / 1000:.3f} µs (< 0.1) |", f"| runs | {bpf.runs} |"]

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
                perftest(self.broker, "-z", "60", "-u", queue(), "-r", "4000", *MODES["confirms and acks by ten"], patience=120)
                resident_then.append(resident(agent.process.pid))
        count, lost = messages(agent.summary), sum(losses(agent.summary).values())
        tenth = max(1, minutes // 10)
        early, late = (statistics.median(part) for part in (resident_then[tenth:2 * tenth], resident_then[-tenth:]))
        return [f"| {minutes} minutes at 4,000/s | |", "| --- | --- |", f"| messages | {count} |", f"| lost | {lost} |",
                f"| resident after {tenth} to {2 * tenth} minutes | {early:.1f} MiB |",
                f"| resident in the last {tenth} minutes | {late:.1f} MiB |", f"| largest | {max(resident_then):.1f} MiB |"]

    def replay(self):
        """A recording of PerfTest at full speed, replayed on one core."""
        file = self.recorded(lambda: self._perftest(MODES["auto-ack"]))
        speeds = []
        for _ in range(self.runs):
            took, summary = self.replayed(file)
            speeds.append(messages(summary) / took)
        return ["| replay of a recording | |", "| --- | --- |", f"| messages | {messages(summary)} |",
                f"| recording | {file.stat().st_size / 2**20:.1f} MiB |",
                f"| messages a second, one core | {statistics.median(speeds):.0f} (≥ 500,000) |"]

    @contextlib.contextmanager
    def _going_on(self, words, figure):
        running = spawn(command(self.broker, "-u", queue(), *words), stdout=subprocess.PIPE, text=True)
        try:
            yield Told(running.stdout, lambda line: next(map(int, re.findall(figure, line)), None))
        finally:
            stop(running)

    def _perftest(self, words):
        return rate(perftest(self.broker, "-z", str(self.seconds), "-u", queue(), *words, patience=self.seconds + 60))


def queue():
    """A name that no run had before."""
    return f"bench.{time.monotonic_ns()}"


def messages(summary):
    """Messages whose life was followed to its end."""
    return sum(total["count"] for total in summary["totals"] if total["state"] == "Acknowledged")
