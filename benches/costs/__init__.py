"""What the benches of all brokers share: a Collector, the costs of a process and of its programs, and how sure a median is."""

import json
import os
import pathlib
import platform
import random
import re
import statistics
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tests/brokers"))

from truth.agent import Agent, Recorder, binary  # noqa: E402
from truth.check import losses  # noqa: E402
from truth.disturbed import loaded, owned  # noqa: E402
from truth.places import REPOSITORY, WORK, free_port, spawn, stop  # noqa: E402

TICK = os.sysconf("SC_CLK_TCK")
STATS = pathlib.Path("/proc/sys/kernel/bpf_stats_enabled")
# Seconds: until Java has compiled what it runs most; until a change of what runs beside the load shows.
WARM_UP, SETTLE = 20, 1.5
SPREAD = "95 % interval of the median | range | pairs"
SPREAD_RULE = "| --- | --- | --- |"


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
        self.seconds, self.window, self.pairs = (4, 3, 2) if quick else (12, 5, 12)
        self.runs = 1 if quick else 3

    def agent(self, *options, port=None, name="bench"):
        """An agent as it would run for real: no JSON lines, metrics and sampled traces to a Collector."""
        return Agent(self.directory, port or self.broker.port, "--otlp", self.collector.url, *options, name=name, writes_lines=False)

    def recorded(self, load):
        """The file that `acktrail record` makes of a load."""
        with Recorder(self.directory, self.broker.port) as recorder:
            load()
        return recorder.file

    def replayed(self, file):
        """Seconds that one core needs for a recording, and the summary."""
        config, summary = self.directory / "empty.toml", self.directory / "replay.summary.json"
        config.write_text("")
        began = time.monotonic()
        subprocess.run(["taskset", "-c", "0", binary(), "replay", str(file), "--config", str(config), "--port",
                        str(self.broker.port), "--summary", str(summary)], check=True, stdout=subprocess.DEVNULL)
        return time.monotonic() - began, json.loads(summary.read_text())

    def programs(self, load):
        """The agent's programs under a load: their time and runs, and the summary of what they saw."""
        with self.agent() as agent, BpfTime(agent) as bpf:
            load()
        return bpf, agent.summary

    def usage(self, load, count):
        """What the agent uses for a load, which gives its own rate; `count` says how many messages a summary tells of."""
        with self.agent() as agent:
            busy = cpu(agent.process.pid)
            rate = load()
            time.sleep(0.5)
            busy = cpu(agent.process.pid) - busy
            rss = resident(agent.process.pid)
        return {"rate": rate, "cpu": busy / count(agent.summary) * 1e6, "rss": rss, "lost": sum(losses(agent.summary).values())}

    def run(self, watched, load):
        """A load, perhaps with the agent."""
        if not watched:
            return load()
        with self.agent():
            return load()

    def in_turns(self, load):
        """What one load that goes on tells of itself, without the agent and with it in turns.

        Two runs of the same load differ by more than what is to be measured: by what Java compiles when, by how a saturated
        broker and its clients fall into step. The same processes a few seconds later differ by less. An agent that comes late
        follows what is open, so nothing has to be started anew.
        """
        pairs = []
        with load as told:
            time.sleep(WARM_UP)
            for pair in range(self.pairs):
                measured = {}
                for watched in ((True, False) if pair % 2 else (False, True)):
                    measured[watched] = self.run(watched, lambda: told.mean(SETTLE, self.window))
                pairs.append((measured[False], measured[True]))
        return Pairs(pairs)


class Pairs:
    """A figure without the agent and with it, several times."""

    def __init__(self, pairs):
        self._ratios = [watched / plain for plain, watched in pairs]
        self.plain = statistics.median(plain for plain, _ in pairs)

    def row(self, limit):
        """With ÷ without: the median, what it should be, and how sure it is."""
        return f"**{statistics.median(self._ratios):.3f}** ({limit}) | {spread(self._ratios)} |"


class Told:
    """What a load generator says about each second, as it says it."""

    def __init__(self, lines, figure):
        self._told = []
        self._reader = threading.Thread(target=self._read, args=(lines, figure), daemon=True)
        self._reader.start()

    def _read(self, lines, figure):
        for line in lines:
            found = figure(line)
            if found is not None:
                self._told.append((time.monotonic(), found))

    def mean(self, settle, window):
        """The mean of the seconds that are told of in a window, which begins when things have settled."""
        time.sleep(settle)
        began = time.monotonic()
        time.sleep(window)
        # What is told first began before the window.
        told = [figure for at, figure in list(self._told) if at > began][1:]
        if not told:
            raise RuntimeError("the load generator says nothing any more")
        return statistics.mean(told)


class BpfTime:
    """Nanoseconds and runs of an agent's programs within a `with`: counting costs time itself, so it is on only there."""

    def __init__(self, agent):
        self._pid = agent.process.pid
        self.nanoseconds = self.runs = 0

    def __enter__(self):
        STATS.write_text("1")
        self._before = self._read()
        return self

    def __exit__(self, *_):
        try:
            self.nanoseconds, self.runs = (after - before for after, before in zip(self._read(), self._before))
        finally:
            STATS.write_text("0")

    def _read(self):
        ours = owned(self._pid)
        programs = [program for program in loaded() if program["id"] in ours]
        return sum(p.get("run_time_ns", 0) for p in programs), sum(p.get("run_cnt", 0) for p in programs)


def spread(ratios):
    """How sure their median is, by 10,000 samples of as many of them (bootstrap)."""
    chance = random.Random(1)
    medians = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(10_000))
    return f"{medians[250]:.3f} – {medians[-251]:.3f} | {min(ratios):.3f} – {max(ratios):.3f} | {len(ratios)}"


def middle(measured):
    """The medians of several runs' figures, each by its name."""
    return {name: statistics.median(run[name] for run in measured) for name in measured[0]}


def cpu(pid):
    """Seconds of user and system time of a process so far."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def resident(pid):
    """MiB."""
    return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text()).group(1)) / 1024


def machine():
    """Where these figures come from."""
    model = re.search(r"model name\s*:\s*(.*)", pathlib.Path("/proc/cpuinfo").read_text())
    commit = subprocess.run(["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"], capture_output=True, text=True).stdout
    return (f"{os.cpu_count()} cores ({model.group(1) if model else platform.machine()}), Linux {platform.release()}, "
            f"commit {commit.strip()}, {time.strftime('%Y-%m-%d')}, load average at the start {os.getloadavg()[0]:.1f}")
