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
from ..agent import Agent
from ..check import check_summary, losses
from ..collector import Collector
from ..places import REPOSITORY, WORK, alone
from ..tally import Tally
from .broker import VERSIONS, KafkaBroker
from .check import Checker, Seen, report
from .client import Pool
from .consistency import contradictions
from .ideal import prove
from .stage import SCENARIOS, Stage
from .telemetry import check_telemetry
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
        agent, collector = None, None
        if not options.no_agent:
            collector = Collector(directory)
            exports = ("--otlp", collector.url(), "--otlp-interval", "1s", "--trace-ratio", "1")
            agent = Agent(directory, broker.port, "--port", str(broker.sasl_port), *exports).start()
        began = time.monotonic()
        try:
            logs = perform(broker, directory, options.only, tally)
            print(f"{len(logs)} scenarios ({time.monotonic() - began:.1f} s)", flush=True)
            time.sleep(0.3)
        finally:
            if agent:
                agent.stop()
    truths = [Truth(log) for log in logs]
    for truth in truths:
        wrong = contradictions(truth)
        tally.check(not wrong, f"{truth.prefix}: clients and broker tell different stories, {len(wrong)} times: {wrong[:3]}")
    prove(truths, 300, tally)
    if agent:
        checker = judge(truths, agent.lines, agent.summary, tally)
        check_telemetry(*collector.stop(), checker, tally)


def units(tally):
    """What judges is judged first, with stories and lines made by hand."""
    top = REPOSITORY / "tests/brokers"
    suite = unittest.TestLoader().discover(str(top / "truth/kafka/tests"), top_level_dir=str(top))
    result = unittest.TextTestRunner(stream=io.StringIO()).run(suite)
    tally.passed += result.testsRun - len(result.failures) - len(result.errors)
    for test, words in [*result.failures, *result.errors]:
        tally.check(False, f"{test}: {words}")
    print(f"{result.testsRun} unit tests of the checker", flush=True)


def judge(truths, lines, summary, tally):
    """acktrail's lines against the truth."""
    seen = Seen(lines)
    checker = Checker(truths, seen)
    results = checker.run()
    report(results, checker.strangers)
    for result in results:
        tally.check(not result.differences, f"{result.prefix}: {(result.differences or ['equal'])[0]}")
    tally.check(not checker.strangers, f"{len(checker.strangers)} lines belong to no scenario: {checker.strangers[:1]}")
    tally.check(not seen.broken, f"lines that are no JSON: {seen.broken[:3]}")
    wrong = check_summary(summary, seen)
    tally.check(not wrong, "; ".join(wrong))
    tally.check(not losses(summary), f"lost: {losses(summary)}")
    return checker


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--broker", choices=VERSIONS, action="append")
    options.add_argument("--only", default="", help="a regular expression on scenario names")
    options.add_argument("--directory", type=pathlib.Path, help="where logs go")
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
