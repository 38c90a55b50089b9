"""Runs the Kafka scenarios against real brokers and holds acktrail to what the clients saw and the broker knows.

    python -m truth.kafka.run                                every scenario, Kafka 4 and 2.8, with the agent
    python -m truth.kafka.run --broker 4 --only 'share|plain'
    python -m truth.kafka.run --no-agent                     without acktrail: clients and broker against each other, and
                                                             the checker against lines made from the truth
    python -m truth.kafka.run --list
"""

import argparse
import io
import pathlib
import re
import shutil
import signal
import time
import traceback
import unittest

from . import scenarios  # noqa: F401  (registers them)
from ..agent import Agent, Recorder, replay
from ..check import judge
from ..collector import Collector
from ..oracle import Capture
from ..places import REPOSITORY, WORK, alone
from ..recording import holds
from ..tally import Tally
from .broker import SECRETS, VERSIONS, KafkaBroker
from .check import Checker, Seen, report
from .client import Pool
from .consistency import contradictions
from .ideal import prove
from .lags import exact, wrong_lags
from .stage import SCENARIOS, Stage
from .telemetry import check_telemetry
from .torn import WAYS, check_torn
from .truth import Truth

# For a scenario, on a machine of which others have taken nearly everything.
PATIENCE = 120


def perform(broker, directory, only, tally):
    """Runs the scenarios one after another; returns the paths of their truth logs."""
    logs, pool = [], Pool(directory)
    for name, (function, brokers, given) in SCENARIOS.items():
        if broker.version not in brokers or not re.search(only, name):
            continue
        stage, began = Stage(broker, pool, directory, name), time.monotonic()
        signal.signal(signal.SIGALRM, _too_long)
        signal.alarm(PATIENCE)
        try:
            function(stage, **given)
            stage.close()
            logs.append(stage.path)
            print(f"{name:36} {time.monotonic() - began:6.2f} s", flush=True)
        except Exception:  # noqa: BLE001  (a scenario may fail in any way, and the others still run)
            tally.check(False, f"scenario {name} itself:\n{traceback.format_exc(limit=-4)}")
            stage.abandon()
        finally:
            signal.alarm(0)
    pool.close()
    return logs


def _too_long(*_):
    raise TimeoutError(f"the scenario took more than {PATIENCE} s")


def run(version, options, tally):
    """One broker."""
    directory = (options.directory or WORK / "truth") / f"kafka-{version}"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    began = time.monotonic()
    with KafkaBroker(version, directory / "broker") as broker:
        print(f"Kafka {version} on port {broker.port} ({time.monotonic() - began:.1f} s)", flush=True)
        capture = Capture(directory / "capture.pcapng", broker.port, broker.sasl_port)
        agents, collector, ports = [], None, ("--port", str(broker.sasl_port))
        if not options.no_agent:
            collector = Collector(directory)
            exports = ("--otlp", collector.url(), "--otlp-interval", "1s", "--trace-ratio", "1")
            agents = [Agent(directory, broker.port, *ports, *exports).start(), Recorder(directory, broker.port, *ports).start()]
        began = time.monotonic()
        try:
            logs = perform(broker, directory, options.only, tally)
            print(f"{len(logs)} scenarios ({time.monotonic() - began:.1f} s)", flush=True)
            time.sleep(0.3)
        finally:
            dropped = capture.stop()
            for agent in agents:
                agent.stop()
    tally.check(dropped == 0, f"dumpcap dropped {dropped} packets: what is replayed is not what was sent")
    truths = [Truth(log) for log in logs]
    for truth in truths:
        wrong = contradictions(truth)
        tally.check(not wrong, f"{truth.prefix}: clients and broker tell different stories, {len(wrong)} times: {wrong[:3]}")
    prove(truths, 300, tally)
    if agents and truths:
        compare(truths, agents, collector, capture.path, options.torn or ("late",), tally)


def compare(truths, agents, collector, capture, ways, tally):
    """What the agent said, and what it makes of the recording and of the capture file, whole and torn."""
    agent, recorder = agents
    checker = hold("live", truths, agent.lines, agent.summary, True, tally)
    check_telemetry(*collector.stop(), checker, tally)
    found = holds(recorder.file, *SECRETS)
    tally.check(not found, f"in the recording are {found}")
    ports, directory = (agent.port, *recorder.options), agent.directory
    lines, summary, _ = replay(recorder.file, ports[0], directory, *ports[1:], name="replay-recording")
    hold("recorded and replayed", truths, lines, summary, True, tally)
    lines, summary, _ = replay(capture, ports[0], directory, *ports[1:])
    hold("replayed from the capture file", truths, lines, summary, False, tally)
    check_torn(ways, truths, capture, ports, directory, tally)


def units(tally):
    """What judges is judged first, with stories and lines made by hand."""
    top = REPOSITORY / "tests/brokers"
    suite = unittest.TestLoader().discover(str(top / "truth/kafka/tests"), top_level_dir=str(top))
    result = unittest.TextTestRunner(stream=io.StringIO()).run(suite)
    tally.passed += result.testsRun - len(result.failures) - len(result.errors)
    for test, words in [*result.failures, *result.errors]:
        tally.check(False, f"{test}: {words}")
    print(f"{result.testsRun} unit tests of the checker", flush=True)


def hold(words, truths, lines, summary, live, tally):
    """acktrail's lines against the truth."""
    check_lags(words, truths, summary, tally)
    return judge(words, Checker(truths, Seen(lines), live), summary, report, tally)


def check_lags(words, truths, summary, tally):
    """How far groups were behind in the end."""
    for truth in truths:
        wrong = wrong_lags(truth, summary)
        tally.check(not wrong, f"{words}: {truth.prefix}: lag, {len(wrong)} differences: {wrong[:3]}")
    behind, known = sum(exact(truth, summary) for truth in truths), len(summary.get("lags", []))
    print(f"{behind} of {known} lags are the broker's own; the others lack what nobody was told of")


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--broker", choices=VERSIONS, action="append")
    options.add_argument("--only", default="", help="a regular expression on scenario names")
    options.add_argument("--directory", type=pathlib.Path, help="where logs go")
    options.add_argument("--torn", choices=WAYS, action="append", help="what is left out of the capture: late (the default), …")
    options.add_argument("--no-agent", action="store_true", help="without acktrail")
    options.add_argument("--list", action="store_true")
    chosen = options.parse_args()
    if chosen.list:
        for name, (function, brokers, _) in SCENARIOS.items():
            print(f"{name:36} {'/'.join(brokers):6} {(function.__doc__ or '').strip()}")
        return
    tally = Tally()
    units(tally)
    alone("truth-kafka")
    for version in chosen.broker or VERSIONS:
        run(version, chosen, tally)
    tally.close()


if __name__ == "__main__":
    main()
