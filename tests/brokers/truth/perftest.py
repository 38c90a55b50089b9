"""PerfTest, the broker's own load generator, at full speed: every message counted, none lost.

    python -m truth.perftest [--broker 3.10|4]

How many messages it sends is given, so PerfTest, the broker's counters and the agent must come to the same numbers.
"""

import argparse
import collections
import contextlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

from .agent import Agent
from .broker import VERSIONS, Broker
from .check import losses
from .places import WORK, alone, spawn, stop
from .tally import Tally

STARVED = "starved-large-two-by-two"
# Name → messages, producers and consumers, what else PerfTest is told, whether publishes are confirmed and deliveries
# acknowledged.
MODES = {
    "auto-ack": (100_000, 1, ["-a"], False, False),
    "confirms-and-acks-by-ten": (60_000, 1, ["-c", "100", "-q", "100", "-A", "10"], True, True),
    "one-at-a-time": (3_000, 1, ["-c", "1", "-q", "1"], True, True),
    # Thousands are acknowledged before the broker confirms them.
    "confirms-far-behind": (30_000, 1, ["-c", "20000", "-q", "500", "-A", "50"], True, True),
    "large-two-by-two": (20_000, 2, ["-c", "200", "-q", "50", "-s", "20000"], True, True),
    # The same while others want twice as many processors as there are.
    STARVED: (20_000, 2, ["-c", "200", "-q", "50", "-s", "20000"], True, True),
}
# Beyond this no run takes; PerfTest itself waits for ever for a message that does not come.
PATIENCE = 120


def command(broker, *words):
    """What is started. Messages are of 100 bytes unless `words` say otherwise."""
    size = [] if "-s" in words else ["-s", "100"]
    return ["java", "-Xmx512m", "-cp", f"{WORK}/perftest/*", "com.rabbitmq.perf.PerfTest", "-h", broker.url(), *size, *words]


def perftest(broker, *words, patience=PATIENCE):
    """One run, to its end: what it printed."""
    process = spawn(command(broker, *words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        text, _ = process.communicate(timeout=patience)
    finally:
        stop(process)
    if process.returncode != 0:
        raise RuntimeError(f"PerfTest ended with status {process.returncode}:\n{text[-2000:]}")
    return text


def counted(broker, queue, messages, pairs, words):
    """A given number of messages, each producer and consumer on a queue of their own. Returns the rate that PerfTest tells."""
    text = perftest(broker, "-x", str(pairs), "-y", str(pairs), "--queue-pattern", f"{queue}.%d", "--queue-pattern-from", "1",
                    "--queue-pattern-to", str(pairs), "-C", str(messages // pairs), "-D", str(messages // pairs), *words)
    rate = re.findall(r"receiving rate avg: (\d+) msg/s", text)
    return int(rate[-1]) if rate else 0


@contextlib.contextmanager
def starvation():
    """Processes that never rest, two for each processor."""
    busy = [spawn([sys.executable, "-c", "while True: pass"]) for _ in range(2 * os.cpu_count())]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def run(broker, directory, mode, tally):
    """One mode, with an agent of its own."""
    messages, pairs, words, confirmed, settled = MODES[mode]
    before = broker.counters()
    with starvation() if mode == STARVED else contextlib.nullcontext(), \
            Agent(directory, broker.port, name=mode, writes_lines=False) as agent:
        began = time.monotonic()
        rate = counted(broker, f"perftest.{mode}", messages, pairs, words)
        took = time.monotonic() - began
        time.sleep(0.5)
    after = broker.counters()
    grown = collections.Counter({name: after[name] - before.get(name, 0) for name in after})
    told = collections.Counter()
    for total in agent.summary["totals"]:
        told[total["state"]] += total["count"]
    delivered = grown["messages_delivered_consume_manual_ack"] + grown["messages_delivered_consume_auto_ack"]
    for state, count, counter in (
        ("Created", messages, grown["messages_received"]),
        ("Confirmed", messages if confirmed else 0, grown["messages_confirmed"]),
        ("Dispatched", messages, delivered),
        ("Processing", messages, delivered),
        # The broker counts what is acknowledged, not what needs no acknowledgement.
        ("Acknowledged", messages, grown["messages_acknowledged"] if settled else messages),
    ):
        tally.check(told[state] == counter == count, f"{mode}: PerfTest {count}, the broker {counter}, the agent {told[state]} "
                    f"{state}")
    others = {state: count for state, count in told.items() if count and state not in
              ("Created", "Confirmed", "Dispatched", "Processing", "Acknowledged")}
    tally.check(not others, f"{mode}: the agent also tells of {others}")
    tally.check(not losses(agent.summary), f"{mode}: lost {losses(agent.summary)}")
    capture = agent.summary["capture"]
    tally.check(capture["captured_bytes"] + capture["skipped_bytes"] == capture["bytes"], f"{mode}: bytes {capture}")
    print(f"{mode:26} {messages:7} messages in {took:4.1f} s, {rate} a second; Java's start included", flush=True)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--broker", choices=VERSIONS, default="3.10")
    options.add_argument("--only", choices=MODES, action="append")
    options.add_argument("--directory", type=pathlib.Path)
    chosen = options.parse_args()
    tally = Tally()
    alone("perftest")
    directory = chosen.directory or WORK / "truth-perftest"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    with Broker(chosen.broker, directory / "broker") as broker:
        print(f"RabbitMQ {chosen.broker} on port {broker.port}", flush=True)
        for mode in chosen.only or MODES:
            run(broker, directory, mode, tally)
    tally.close()


if __name__ == "__main__":
    main()
