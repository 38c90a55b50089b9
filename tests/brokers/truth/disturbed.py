"""acktrail disturbed: attached late, killed, stopped with a tiny ring. What it says must be right all the same.

    python -m truth.disturbed [--broker 3.10|4] [--only late|killed|stalled|unread|sampled|reloaded]
"""

import argparse
import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import threading
import time

from .agent import Agent
from .broker import VERSIONS, Broker
from .check import Checker, Seen, explain, flatten, losses, matches, nanoseconds
from .expect import ANY, expect
from .log import read
from .oracle import Capture
from .places import REPOSITORY, WORK, alone, inside, spawn
from .tally import Tally

SECOND = 1_000_000_000
# Enough for a batch of the load, far from enough for a second of it.
RING = "512KiB"
TTL_MS = 3000


class Window:
    """Messages whose whole life lies in [`begin`, `end`) must be told exactly; about the others nothing wrong may be said.

    `old`: the connections are older than the agent, or a part of them was lost: which publish a confirm speaks of is not
    known before the publisher was quiet for once.
    """

    def __init__(self, begin, end=2**63, old=False):
        self.begin, self.end, self.old = begin, end, old

    def holds(self, first, last):
        """For a message with this first and last entry in the truth log."""
        return self.begin <= first and last < self.end


def load(broker, directory, name, seconds, ids=True, size=300, ttl=0):
    """Starts the load; returns its process and its log. `ttl`: a time to live in milliseconds."""
    prefix = f"{name}.{'id' if ids else 'anon'}"
    path = directory / f"{prefix}.truth.jsonl"
    path.unlink(missing_ok=True)
    process = spawn([sys.executable, "-m", "truth.load", prefix, str(path), str(broker.port), str(seconds), str(size), str(ttl)],
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
    """Holds lines against a load's truth log, inside and outside of the windows."""
    prefix = log.name.removesuffix(".truth.jsonl")
    entries = read(log)
    lives = lives_of(entries)
    seen = Seen(lines)
    if torn and seen.broken:
        # The very last line of an agent that was killed may have been cut.
        seen.broken.pop()
    tally.check(not seen.broken, f"{words}: lines that are no JSON: {seen.broken[:3]}")
    expected = expect(entries, prefix)
    grouped = group(Checker([log], seen), expected, prefix)
    quiets = [entry["t"] for entry in entries if entry.get("text") == "quiet"]
    exact, confirmed, wrong, loose = 0, 0, [], 0
    for key, chains in expected.lines.items():
        window = next((window for window in windows if window.holds(*lives[key])), None)
        certain = window is not None
        told = grouped.pop(key, {})
        exact += certain
        loose += not certain
        for chain in {*chains, *told}:
            want, have = chains.get(chain, []), told.get(chain, [])
            if not certain:
                good = not any(is_wrong(line, want) for line in have)
            else:
                if window.old:
                    want = [older(line) for line in want]
                    counted = any(window.begin < quiet < lives[key][0] for quiet in quiets)
                    if not counted and not any(line["state"] == "Confirmed" for line in have):
                        # Which publish an ack speaks of is not known before the publisher was quiet for once.
                        want = [line for line in want if line["state"] != "Confirmed"]
                confirmed += any(line["state"] == "Confirmed" for line in want)
                good = len(want) == len(have) and all(map(matches, want, have))
            if not good:
                wrong.append(explain(key, chain, want, have))
    if windows:
        tally.check(exact > 100, f"{words}: only {exact} messages lie in a window where they must be exact")
        tally.check(confirmed > 100, f"{words}: only {confirmed} messages must have a confirm")
    tally.check(not wrong, f"{words}: {len(wrong)} chains are wrong:\n" + "\n".join(wrong[:4]))
    stray = [key for key in grouped if key is not None]
    tally.check(not stray, f"{words}: lines of messages that nobody published: {stray[:3]}")
    print(f"{words:24} {len(lives):6} messages: {exact} exact, {confirmed} of them with their confirm, {loose} partly seen; "
          f"{len(wrong)} wrong", flush=True)


def older(line):
    """A line of a connection that is older than the agent: its virtual host, and its queues' declarations, were not seen."""
    line = {**line, "vhost": ANY}
    if line["state"] == "Confirmed":
        # Told once the count is certain again: then for all before it at once.
        line.update(evidence=ANY, settlement=ANY)
    elif line["state"] == "DeadLettered":
        # Known only from where it arrives.
        line.update(evidence=ANY, tag=ANY, ctag=ANY, redelivered=ANY, after=ANY)
    return line


def is_wrong(line, wanted):
    """A line about a message that was partly seen: it must be one of the true ones, as far as it says anything."""
    for want in wanted:
        # A read that was lost is known from the next one, which comes later: `before` does not bind here.
        said = {f: v for f, v in older(want).items() if f == "after" or
                (f not in ("delivery", "evidence", "corrects", "before") and line.get(f) is not None)}
        if line["state"] == want["state"] and matches(said, line):
            return False
    return True


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


def late(broker, directory, tally, netns=None):
    """Attached at a random moment of a running load, which may be in another network namespace."""
    with inside(netns):
        process, log = load(broker, directory, "late", 8)
    time.sleep(random.uniform(0.5, 2.0))
    with Agent(directory, broker.port, name="late") as agent:
        finish(process)
        time.sleep(0.3)
    judge("attached late", log, agent.lines, [Window(agent.ready_at + SECOND, old=True)], tally)
    lost = {what: count for what, count in losses(agent.summary).items() if not what.startswith("lifecycle.unmatched")}
    tally.check(not lost, f"attached late: lost {lost}")


def killed(broker, directory, tally):
    """kill -9 in the middle of a load: nothing of it stays in the kernel, and a new one takes over."""
    process, log = load(broker, directory, "killed", 14)
    first = Agent(directory, broker.port, name="killed-1").start()
    time.sleep(random.uniform(5.5, 6.5))
    programs = owned(first.process.pid)
    tally.check(len(programs) > 2, f"the running agent holds {len(programs)} programs")
    dead_at = time.time_ns()
    first.kill()
    tally.check(gone(programs), "programs of a killed agent stay in the kernel")
    with Agent(directory, broker.port, name="killed-2") as second:
        finish(process)
        time.sleep(0.3)
    # The last tenth of a second may have waited in a buffer of the killed one.
    window = Window(first.ready_at + SECOND, dead_at - SECOND // 2, old=True)
    judge("until it was killed", log, first.lines, [window], tally, torn=True)
    judge("started again", log, second.lines, [Window(second.ready_at + SECOND, old=True)], tally)


def stalled(broker, directory, tally):
    """A tiny ring, and its reader stopped for a second: what is lost is counted to the byte, and nothing wrong is said."""
    capture = Capture(directory / "stalled.pcapng", broker.port)
    with Agent(directory, broker.port, "--ring-size", RING, "--summary-interval", "100ms", name="stalled") as agent:
        # A time to live that passes while the agent is there: what nobody saw being delivered is not Expired for that.
        process, log = load(broker, directory, "stalled", 8, size=2000, ttl=TTL_MS)
        time.sleep(0.8)
        agent.pause(1.0)
        finish(process)
        time.sleep(0.3)
    tally.check(capture.stop() == 0, "dumpcap dropped packets: its count of bytes says nothing")
    before, after = loss_times(agent.lines)
    judge("stalled with a tiny ring", log, agent.lines, [Window(0, before), Window(after + SECOND, old=True)], tally)
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


def unread(broker, directory, tally):
    """JSON lines that nobody takes, with a tiny ring: they wait, and nothing is lost; or they are counted at the end."""
    agent = Agent(directory, broker.port, "--ring-size", RING, name="unread")
    with pipe(agent.lines) as reader:
        agent.start()
        process, log = load(broker, directory, "unread", 2)
        finish(process)
        time.sleep(0.3)
        stopping = threading.Thread(target=agent.stop)
        stopping.start()
        lines = directory / "unread.read.jsonl"
        lines.write_bytes(drain(reader, stopping.is_alive))
        stopping.join()
    judge("lines read at the end", log, lines, [Window(0)], tally)
    tally.check(not losses(agent.summary), f"lines read at the end: lost {losses(agent.summary)}")

    agent = Agent(directory, broker.port, name="never-read")
    with pipe(agent.lines) as reader:
        agent.start()
        process, _ = load(broker, directory, "never-read", 8)
        finish(process)
        time.sleep(0.3)
        agent.stop()
        text = drain(reader, lambda: False)
    lost = losses(agent.summary)
    told = sum(total["count"] for total in agent.summary["totals"])
    read_lines, unwritten = text.count(b"\n"), lost.pop("export.lines_unwritten", 0)
    print(f"{'lines never read':24} {told:6} transitions: {read_lines} lines fit into the pipe, {unwritten} counted as unwritten",
          flush=True)
    tally.check(not lost, f"lines never read: lost {lost}")
    # Besides transitions there are a few events and the summary.
    tally.check(told <= read_lines + unwritten <= told + told // 20, f"lines never read: {told} transitions, {read_lines} lines in "
                f"the pipe, {unwritten} counted as unwritten")


def sampled(broker, directory, tally):
    """Half of the connections: what was left out is counted, and nothing wrong is said of messages that were partly on them."""
    logs = []
    with Agent(directory, broker.port, "--sample-connections", "0.5", name="sampled") as agent:
        # Of 20 connections, that all or none are watched happens once in half a million runs.
        for turn in range(4):
            process, log = load(broker, directory, f"sampled-{turn}", 1, ttl=TTL_MS)
            finish(process)
            logs.append(log)
        # Until the last message's time to live has passed as well.
        time.sleep(TTL_MS / 1000 + 2)
    for log in logs:
        judge(f"half of the connections {log.name[8]}", log, agent.lines, [], tally)
    told, left_out = len(Seen(agent.lines).transitions), losses(agent.summary).get("kernel.sampled_out", 0)
    print(f"{'':24} {told:6} transitions, {left_out} packets left out", flush=True)
    tally.check(told > 100, f"half of the connections: only {told} transitions")
    tally.check(left_out > 100, f"half of the connections: only {left_out} packets were left out")


def reloaded(broker, directory, tally):
    """Its configuration changes while it runs: what can take effect does, the rest is named, a wrong one changes nothing."""
    with Agent(directory, broker.port, "--summary-interval", "100ms", name="reloaded") as agent:
        process, log = load(broker, directory, "reloaded-skipping", 2, size=9000)
        finish(process)
        tally.check(agent.reload('[capture]\nskip_bodies_from = "never"\n[limits]\nmessages = 6000\n',
                                 "limits.messages has changed, which takes effect at the next start"), "not told: limits.messages")
        time.sleep(1.5)
        before = Seen(agent.lines).summaries[-1]["capture"]
        process, again = load(broker, directory, "reloaded-copying", 2, size=9000)
        finish(process)
        time.sleep(1.5)
        after = Seen(agent.lines).summaries[-1]["capture"]
        tally.check(before["skipped_bytes"] > 1_000_000, f"nothing was skipped at first: {before}")
        tally.check(after["skipped_bytes"] == before["skipped_bytes"], f"still skipped: {before}, then {after}")
        tally.check(after["captured_bytes"] > before["captured_bytes"] + 1_000_000, f"not copied: {before}, then {after}")
        tally.check(agent.reload("[limits]\nmessages = 1\n", "the configuration stays as it was"), "a wrong configuration was taken")
    for one in (log, again):
        judge(one.name.removesuffix(".id.truth.jsonl"), one, agent.lines, [Window(0)], tally)


@contextlib.contextmanager
def pipe(path):
    """A named pipe instead of a file, opened for reading: its file descriptor."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield reader
    finally:
        os.close(reader)


def drain(reader, goes_on):
    """What is in a pipe, and what comes while `goes_on` says so."""
    text = b""
    while True:
        going = goes_on()
        try:
            piece = os.read(reader, 1 << 20)
        except BlockingIOError:
            piece = b""
        text += piece
        if not piece:
            if not going:
                return text
            time.sleep(0.01)


def loss_times(lines):
    """From the summaries in between: when nothing was lost yet, and when nothing more was lost."""
    before, after, known = 0, 0, 0
    for summary in Seen(lines).summaries:
        lost = sum(count for what, count in losses(summary).items() if what.startswith("kernel."))
        at = nanoseconds(summary["time"])
        if lost == 0:
            before = at
        elif lost != known:
            known, after = lost, at
    # What is lost is noticed only by the next record that found room.
    return before - SECOND // 5, after


def payload_bytes(path):
    """TCP payload in a capture file of the loopback interface, where nothing is sent twice."""
    done = subprocess.run(["tshark", "-r", str(path), "-Y", "tcp.len > 0", "-T", "fields",
                           "-e", "tcp.len"], capture_output=True, text=True, check=True)
    return sum(map(int, done.stdout.split()))


def owned(pid):
    """Ids of the BPF programs that a process holds, by themselves or by a link."""
    held = set()
    for entry in pathlib.Path(f"/proc/{pid}/fdinfo").iterdir():
        found = re.search(r"^prog_id:\s*(\d+)", entry.read_text(), re.MULTILINE)
        if found:
            held.add(int(found.group(1)))
    return held


def loaded():
    """All BPF programs of this kernel, as bpftool tells them."""
    done = subprocess.run(["bpftool", "-j", "prog", "show"], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def gone(programs, patience=5):
    """None of these programs exists any more; the kernel frees them a moment after their last holder."""
    deadline = time.monotonic() + patience
    while True:
        if not programs & {program["id"] for program in loaded()}:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)


PARTS = {"late": late, "killed": killed, "stalled": stalled, "unread": unread, "sampled": sampled, "reloaded": reloaded}


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--broker", choices=VERSIONS, action="append")
    options.add_argument("--only", choices=PARTS, action="append")
    options.add_argument("--directory", type=pathlib.Path)
    chosen = options.parse_args()
    tally = Tally()
    alone("truth")
    for version in chosen.broker or VERSIONS:
        directory = (chosen.directory or WORK / "truth") / f"disturbed-{version}"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        with Broker(version, directory / "broker", counters=False) as broker:
            print(f"RabbitMQ {version} on port {broker.port}", flush=True)
            for name in chosen.only or PARTS:
                PARTS[name](broker, directory, tally)
    tally.close()


if __name__ == "__main__":
    main()
