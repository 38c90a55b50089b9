"""acktrail disturbed: attached late, killed, stopped with a tiny ring. What it says must be right all the same.

    python -m truth.disturbed [--broker 3.10|4] [--only late|killed|stalled]
"""

import argparse
import json
import pathlib
import random
import shutil
import subprocess
import sys
import time

from .agent import Agent
from .broker import VERSIONS, Broker
from .check import Checker, Seen, explain, flatten, losses, matches, show  # noqa: F401
from .expect import expect
from .log import read
from .oracle import Capture
from .places import REPOSITORY, WORK, spawn
from .run import Tally

SECOND = 1_000_000_000


class Window:
    """Messages whose whole life lies in [`begin`, `end`) must be told exactly; about the others nothing wrong may be said."""

    def __init__(self, begin, end):
        self.begin, self.end = begin, end

    def holds(self, first, last):
        """For a message with this first and last entry in the truth log."""
        return self.begin <= first and last < self.end


def load(broker, directory, name, seconds, ids=True, size=300):
    """Starts the load; returns its process and its log."""
    prefix = f"{name}.{'id' if ids else 'anon'}"
    path = directory / f"{prefix}.truth.jsonl"
    path.unlink(missing_ok=True)
    process = spawn([sys.executable, "-m", "truth.load", prefix, str(path), str(broker.port), str(seconds), str(size)],
                    cwd=REPOSITORY / "tests/brokers", stdout=subprocess.PIPE, text=True)
    if process.stdout.readline().strip() != "running":
        raise RuntimeError("the load did not start")
    return process, path


def finish(process):
    """Waits for the load's end; returns how many messages it published."""
    published = process.stdout.readline().strip()
    if process.wait(60) != 0:
        raise RuntimeError("the load failed")
    return int(published)


def judge(words, log, lines, windows, tally, torn=False):
    """Holds lines against a load's truth log, inside and outside of the windows. Returns how many were exact."""
    prefix = log.name.removesuffix(".truth.jsonl")
    entries = read(log)
    lives = lives_of(entries)
    seen = Seen(lines)
    if torn and seen.broken:
        # The very last line of an agent that was killed may have been cut.
        seen.broken.pop()
    tally.check(not seen.broken, f"{words}: lines that are no JSON: {seen.broken[:3]}")
    expected = expect(entries, prefix)
    checker = Checker([log], seen)
    grouped = group(checker, expected, prefix)
    exact, wrong, loose = 0, [], 0
    for key, chains in expected.lines.items():
        certain = any(window.holds(*lives[key]) for window in windows)
        told = grouped.pop(key, {})
        exact += certain
        loose += not certain
        for chain in {*chains, *told}:
            want, have = chains.get(chain, []), told.get(chain, [])
            if certain:
                # Whether a consumer's settlements were announced, or a confirm's number counted, before the agent came is inferred.
                want = [{**line, "evidence": line["evidence"] if line["state"] != "Confirmed" else have_any(have)} for line in want]
                good = len(want) == len(have) and all(map(matches, want, have))
            else:
                good = not any(is_wrong(line, want) for line in have)
            if not good:
                wrong.append(explain(key, chain, want, have))
    tally.check(exact > 100, f"{words}: only {exact} messages lie in a window where they must be exact")
    tally.check(not wrong, f"{words}: {len(wrong)} chains are wrong:\n" + "\n".join(wrong[:4]))
    stray = [key for key in grouped if key is not None]
    tally.check(not stray, f"{words}: lines of messages that nobody published: {stray[:3]}")
    print(f"{words:32} {len(lives):8} messages {exact:8} exact {loose:8} partly seen {len(wrong):4} wrong", flush=True)
    return exact


def have_any(have):
    """The evidence of the Confirmed line, whatever it is."""
    return next((line["evidence"] for line in have if line["state"] == "Confirmed"), "observed")


def is_wrong(line, wanted):
    """A line about a message that was partly seen: it must be one of the true ones, as far as it says anything."""
    for want in wanted:
        said = {f: v for f, v in want.items() if f not in ("delivery", "evidence", "corrects") and line.get(f) is not None}
        if line["state"] == want["state"] and matches(said, line):
            return False
    return line["reason"] != "connection_lost" or line["evidence"] != "inferred"


def group(checker, expected, prefix):
    """Seen lines per key and chain, by message id."""
    grouped = {}
    ports = {}
    for port, at, name in expected.connections:
        ports.setdefault(port, []).append((at, prefix, name))
    for line in checker.seen.transitions:
        flat = flatten(line)
        if checker._owner(flat, ports) == prefix:
            grouped.setdefault(flat["id"], {}).setdefault(flat["queue"], []).append(flat)
    return grouped


def lives_of(entries):
    """First and last entry of each message."""
    lives, held = {}, {}
    for entry in entries:
        keys = [entry["key"]] if "key" in entry else []
        if entry["op"] == "deliver":
            held[entry["chan"], entry["tag"]] = entry["key"]
        elif entry["op"] == "settle":
            keys = [held[entry["chan"], tag] for tag in entry["tags"]]
        for key in keys:
            first, _ = lives.get(key, (entry["t"], 0))
            lives[key] = (first, entry["t"])
    return lives


def late(broker, directory, tally):
    """Attached at a random moment of a running load."""
    process, log = load(broker, directory, "late", 6)
    time.sleep(random.uniform(0.5, 2.0))
    with Agent(directory, broker.port, name="late") as agent:
        finish(process)
        time.sleep(0.3)
    judge("attached late", log, agent.lines, [Window(agent.ready_at + SECOND, 2**63)], tally)
    tally.check(not losses(agent.summary), f"attached late: lost {losses(agent.summary)}")


def killed(broker, directory, tally):
    """kill -9 in the middle of a load: nothing of it stays in the kernel, and a new one takes over."""
    process, log = load(broker, directory, "killed", 9)
    first = Agent(directory, broker.port, name="killed-1").start()
    time.sleep(random.uniform(2.5, 3.5))
    programs = owned(first.process.pid)
    tally.check(len(programs) > 2, f"bpftool names {len(programs)} programs of the running agent")
    dead_at = time.time_ns()
    first.kill()
    tally.check(gone(programs), "programs of a killed agent stay in the kernel")
    with Agent(directory, broker.port, name="killed-2") as second:
        finish(process)
        time.sleep(0.3)
    # The last tenth of a second may have waited in a buffer of the killed one.
    window = Window(first.ready_at + SECOND, dead_at - SECOND // 2)
    judge("until it was killed", log, first.lines, [window], tally, torn=True)
    judge("started again", log, second.lines, [Window(second.ready_at + SECOND, 2**63)], tally)


def stalled(broker, directory, tally):
    """A tiny ring, and its reader stopped for a second: what is lost is counted to the byte, and nothing wrong is said."""
    capture = Capture(broker.port, directory / "stalled.pcapng")
    with Agent(directory, broker.port, "--ring-size", "64KiB", name="stalled") as agent:
        process, log = load(broker, directory, "stalled", 8, size=2000)
        time.sleep(2.5)
        stopped_at = time.time_ns()
        agent.pause(1.0)
        resumed_at = time.time_ns()
        finish(process)
        time.sleep(0.3)
    capture.stop()
    windows = [Window(0, stopped_at), Window(resumed_at + SECOND, 2**63)]
    judge("stalled with a tiny ring", log, agent.lines, windows, tally)
    lost = agent.summary["capture"]["lost"]
    tally.check(losses(agent.summary), "a stalled reader of a tiny ring lost nothing: the test tests nothing")
    sent = payload_bytes(capture.path)
    told = agent.summary["capture"]
    bytes_lost = sum(entry["count"] for entry in lost.get("kernel", {}).values() if entry["unit"] in ("byte", "By"))
    print(f"{'':32} sent {sent}, seen {told['bytes']}, copied {told['captured_bytes']}, skipped {told['skipped_bytes']}, "
          f"lost {bytes_lost}", flush=True)
    tally.check(sent == told["bytes"], f"{sent} bytes crossed the port, the agent counted {told['bytes']}")
    together = told["captured_bytes"] + told["skipped_bytes"] + bytes_lost
    tally.check(together == told["bytes"], f"copied, skipped and lost are {together} bytes, seen were {told['bytes']}")


def payload_bytes(path):
    """TCP payload in a capture file, each byte once."""
    done = subprocess.run(["tshark", "-r", str(path), "-Y", "tcp.len > 0 && !tcp.analysis.retransmission", "-T", "fields",
                           "-e", "tcp.len"], capture_output=True, text=True, check=True)
    return sum(map(int, done.stdout.split()))


def owned(pid):
    """Ids of the BPF programs that a process holds, as bpftool tells them."""
    done = subprocess.run(["bpftool", "-j", "prog", "show"], capture_output=True, text=True, check=True)
    return {program["id"] for program in json.loads(done.stdout)
            if any(holder["pid"] == pid for holder in program.get("pids", []))}


def gone(programs, patience=5):
    """None of these programs exists any more; the kernel frees them a moment after their last holder."""
    deadline = time.monotonic() + patience
    while True:
        done = subprocess.run(["bpftool", "-j", "prog", "show"], capture_output=True, text=True, check=True)
        if not programs & {program["id"] for program in json.loads(done.stdout)}:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)


PARTS = {"late": late, "killed": killed, "stalled": stalled}


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--broker", choices=VERSIONS, action="append")
    options.add_argument("--only", choices=PARTS, action="append")
    options.add_argument("--directory", type=pathlib.Path)
    chosen = options.parse_args()
    tally = Tally()
    for version in chosen.broker or VERSIONS:
        directory = (chosen.directory or WORK / "truth") / f"disturbed-{version}"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        with Broker(version, counters=False) as broker:
            print(f"RabbitMQ {version} on port {broker.port}", flush=True)
            for name in chosen.only or PARTS:
                PARTS[name](broker, directory, tally)
    print(f"\n{tally.passed} passed, {tally.failed} failed")
    sys.exit(1 if tally.failed else 0)


if __name__ == "__main__":
    main()
