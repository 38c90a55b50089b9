"""Runs the scenarios against real brokers and holds acktrail to what the clients saw.

    python -m truth.run                          every scenario, RabbitMQ 3.10 and 4, the agent live and over the capture file
    python -m truth.run --broker 4 --only ack    scenarios whose name has `ack`, one broker
    python -m truth.run --witness                without acktrail: clients, broker counters and tshark against each other
    python -m truth.run --list
"""

import argparse
import collections
import json
import pathlib
import re
import shutil
import signal
import sys
import time
import traceback

from . import scenarios  # noqa: F401  (registers them)
from .agent import Agent, Recorder, replay
from .broker import VERSIONS, Broker
from .check import Checker, Seen, judge, report
from .collector import Collector
from .log import read
from .mutate import prove
from .oracle import Capture, methods
from .places import WORK, alone
from .stage import SCENARIOS, Stage
from .tally import Tally
from .telemetry import check_telemetry
from .torn import WAYS, check_torn

POLICIES = [{"name": "unseen", "pattern": r"^policy\..*\.work$", "definition": {"dead-letter-exchange": "amq.topic"}}]
# For a scenario, on a machine of which others have taken nearly everything.
PATIENCE = 150


def perform(broker, directory, only, tally):
    """Runs the scenarios one after another; returns the paths of their truth logs."""
    logs = []
    for name, (function, brokers, ids) in SCENARIOS.items():
        if broker.version not in brokers or not re.search(only, name):
            continue
        for with_ids in ids:
            stage = Stage(broker, directory, name, with_ids)
            signal.signal(signal.SIGALRM, _too_long)
            signal.alarm(PATIENCE)
            try:
                function(stage)
                stage.close()
                logs.append(stage.path)
            except Exception:  # noqa: BLE001  (a scenario may fail in any way, and the others still run)
                tally.check(False, f"scenario {stage.prefix} itself:\n{traceback.format_exc(limit=-4)}")
            finally:
                signal.alarm(0)
    return logs


def _too_long(*_):
    raise TimeoutError(f"the scenario took more than {PATIENCE} s")


def truth_totals(logs):
    """The client's side of what a broker counts, by the broker's own rules, which all of its versions here share: a publish
    counts when it arrives, committed or not; a transaction is a kind of confirm; one that is refused for its exchange never
    comes to be confirmed; direct replies are no deliveries."""
    totals = collections.Counter()
    for path in logs:
        confirming = {}
        for entry in read(path):
            op = entry["op"]
            totals[op] += 1
            if op == "publish":
                confirming[entry["key"]] = entry["confirms"] or entry["tx"] is not None
                totals["publish_confirm"] += confirming[entry["key"]]
            elif op == "lost_publish":
                totals["publish_confirm"] -= confirming[entry["key"]]
            elif op == "deliver" and entry["queue"] != "amq.rabbitmq.reply-to":
                totals["delivered"] += 1
                totals["redelivered"] += entry["redelivered"]
    return totals


def check_counters(before, after, totals, tally):
    """The broker's own counters against the clients'."""
    grown = collections.Counter({name: after[name] - before.get(name, 0) for name in after})
    grown["messages_delivered"] = sum(grown[f"messages_delivered_{how}"] for how in
                                      ("consume_manual_ack", "consume_auto_ack", "get_manual_ack", "get_auto_ack"))
    for counter, expected in (
        ("messages_received", totals["publish"]),
        ("messages_received_confirm", totals["publish_confirm"]),
        ("messages_unroutable_returned", totals["returned"]),
        ("messages_delivered", totals["delivered"]),
        ("messages_redelivered", totals["redelivered"]),
    ):
        tally.check(grown[counter] == expected, f"the broker counted {grown[counter]} {counter}, the clients {expected}")


BASIC, PUBLISH, RETURN, DELIVER, GET_OK = 60, 40, 50, 60, 71


def check_oracle(counts, logs, tally):
    """tshark against the clients."""
    crossed = collections.Counter()
    for (_, _, cls, method, sender), count in counts.items():
        if cls == BASIC:
            crossed[sender, method] += count
    totals = collections.Counter()
    for path in logs:
        for entry in read(path):
            if entry["op"] == "publish":
                totals["client", PUBLISH] += 1
            elif entry["op"] == "deliver":
                totals["broker", GET_OK if entry["get"] else DELIVER] += 1
            elif entry["op"] == "returned":
                totals["broker", RETURN] += 1
    for (sender, method), count in sorted(totals.items()):
        tally.check(crossed[sender, method] == count,
                    f"tshark saw {crossed[sender, method]} methods 60.{method} of the {sender}s, the clients {count}")


def run(version, options, tally):
    """One broker."""
    directory = (options.directory or WORK / "truth") / version
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    began = time.monotonic()
    with Broker(version, directory / "broker", policies=POLICIES) as broker:
        print(f"RabbitMQ {version} on port {broker.port} ({time.monotonic() - began:.1f} s)", flush=True)
        capture = Capture(directory / "capture.pcapng", broker.port)
        before = broker.counters()
        agents, collector = [], None
        if not options.witness:
            collector = Collector(directory)
            exports = ("--otlp", collector.url(), "--otlp-interval", "1s", "--trace-ratio", "1")
            agents = [Agent(directory, broker.port, *exports).start(), Recorder(directory, broker.port).start()]
        try:
            began = time.monotonic()
            logs = perform(broker, directory, options.only, tally)
            print(f"{len(logs)} scenarios ({time.monotonic() - began:.1f} s)", flush=True)
            time.sleep(0.3)
        finally:
            dropped = capture.stop()
            for agent in agents:
                agent.stop()
        check_counters(before, broker.counters(), truth_totals(logs), tally)
        tally.check(dropped == 0, f"dumpcap dropped {dropped} packets: tshark's counts say nothing")
        counts = methods(capture.path, broker.port)
        check_oracle(counts, logs, tally)
        prove(logs, 500, tally)
        if not options.witness:
            agent, recorder = agents
            checker = hold("live", logs, agent.lines, agent.summary, True, tally)
            check_telemetry(*collector.stop(), checker, tally)
            lines, summary, _ = replay(recorder.file, broker.port, directory, name="replay-recording")
            recorded = hold("recorded and replayed", logs, lines, summary, True, tally)
            lines, summary, _ = replay(capture.path, broker.port, directory)
            captured = hold("replayed from the capture file", logs, lines, summary, False, tally)
            check_identities({"recording": recorded, "capture file": captured}, checker, tally)
            check_methods(counts, capture.path, broker.port, directory, tally)
            check_torn(options.torn or ("late",), logs, capture.path, broker.port, directory, tally)


def hold(words, logs, lines, summary, live, tally):
    """acktrail's lines against the truth; returns the checker that compared them."""
    return judge(words, Checker(logs, Seen(lines), live=live), summary, report, tally)


def check_identities(others, live, tally):
    """The same bytes give the same identities, whoever reads them, and different messages different ones."""
    live = live.identities
    tally.check(len(set(live.values())) == len(live), f"{len(live)} messages have {len(set(live.values()))} identities")
    for name, checker in others.items():
        told = checker.identities
        differences = [(key, live.get(key), told.get(key)) for key in {*live, *told} if live.get(key) != told.get(key)]
        tally.check(not differences, f"the {name} gives {len(differences)} messages another identity: {differences[:3]}")


def check_methods(counts, capture, port, directory, tally):
    """The same capture, read by tshark and by `replay --method-counts`."""
    _, _, printed = replay(capture, port, directory, "--method-counts", name="methods")
    theirs = collections.Counter()
    for entry in json.loads(printed):
        theirs[entry["connection"], entry["channel"], entry["class"], entry["method"]] += entry["count"]
    ours = collections.Counter()
    for (connection, channel, cls, method, _), count in counts.items():
        ours[connection, channel, cls, method] += count
    differences = [(key, ours[key], theirs[key]) for key in {*ours, *theirs} if ours[key] != theirs[key]]
    tally.check(not differences, f"tshark and replay differ in {len(differences)} of {len(ours)} counts: "
                f"{sorted(differences)[:5]}")
    print(f"\n{sum(ours.values())} methods in {len(ours)} counts of {len({key[0] for key in ours})} connections, "
          "by tshark and by replay")


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--broker", choices=VERSIONS, action="append")
    options.add_argument("--only", default="", help="a regular expression on scenario names")
    options.add_argument("--directory", type=pathlib.Path, help="where logs and captures go")
    options.add_argument("--witness", action="store_true", help="without acktrail")
    options.add_argument("--torn", choices=WAYS, action="append", help="what is left out of the capture: late (the default), holes")
    options.add_argument("--list", action="store_true")
    chosen = options.parse_args()
    if chosen.list:
        for name, (function, brokers, ids) in SCENARIOS.items():
            print(f"{name:34} {'/'.join(brokers):8} {'ids, none' if len(ids) == 2 else 'ids' if ids[0] else 'none':10} "
                  f"{(function.__doc__ or '').strip()}")
        return
    tally = Tally()
    alone("truth")
    for version in chosen.broker or VERSIONS:
        run(version, chosen, tally)
    tally.close()


if __name__ == "__main__":
    main()
