"""acktrail disturbed while Kafka clients work: attached late, killed, stopped with a tiny ring. What it says must be right all the same.

    python -m truth.kafka.disturbed [--broker 4|2.8] [--only late|killed|stalled|hostile] [--seed N] [--seconds N]
"""

import argparse
import pathlib
import random
import resource
import shutil
import time

from ..agent import Agent
from ..check import Seen, losses
from ..disturbed import RING, loss_times, payload_bytes
from ..oracle import Capture
from ..places import WORK, alone
from ..tally import Tally
from .broker import VERSIONS, KafkaBroker
from .check import Scenario
from .client import Pool
from .consistency import contradictions
from .expect import SECOND, Expected
from .hostile import Hostile
from .load import METADATA_MS, Load
from .partly import PartlySeen, lines_of
from .stage import Stage
from .truth import Truth

# After this everything is known again: who belongs to which group (by the next commit), what a fetch session is about.
KNOWN = 2 * SECOND


class Disturbed(PartlySeen):
    """Beside what `PartlySeen` wants: of records whose whole life lies in one of the windows, (begin, end), nothing is missing."""

    def __init__(self, expected, windows):
        super().__init__(expected, live=True)
        self.windows, self.exact = windows, 0

    def check(self, lines, events):
        """All of it."""
        result = super().check(lines, events)
        for key, chain in self.expected.chains.items():
            if any(self._lies_in(key, chain, *window) for window in self.windows):
                self.exact += 1
                Scenario._chain(self, key)
        return result

    def _lies_in(self, key, chain, begin, end):
        record = self.truth.records[key[1:]]
        last = max([record.send.sent, *(before for _, before in chain.commits), *(at for at, *_ in chain.script)], default=0)
        return begin <= record.send.sent and last < end


def loaded(broker, directory, name, seconds, size=200, **options):
    """A load that runs, and the stage that it runs on."""
    pool = Pool(directory)
    stage = Stage(broker, pool, directory, name)
    load = Load(stage, seconds, size, **options).start()
    return load, stage, pool


def finished(load, stage, pool, tally):
    """The truth of a load, once it is over."""
    load.finish()
    stage.close()
    pool.close()
    truth = Truth(stage.path)
    wrong = contradictions(truth)
    tally.check(not wrong, f"{truth.prefix}: clients and broker tell different stories, {len(wrong)} times: {wrong[:3]}")
    return truth


def judge(words, truth, lines, windows, tally, torn=False):
    """Holds lines against the truth, inside and outside of the windows."""
    seen = Seen(lines)
    if torn and seen.broken:
        # The very last line of an agent that was killed may have been cut.
        seen.broken.pop()
    tally.check(not seen.broken, f"{words}: lines that are no JSON: {seen.broken[:3]}")
    scenario = Disturbed(Expected(truth), windows)
    result = scenario.check(*lines_of(truth, seen))
    tally.check(not windows or scenario.exact > 1000, f"{words}: only {scenario.exact} lives lie in a window where they must be exact")
    tally.check(not result.differences, f"{words}: {len(result.differences)} differences:\n" + "\n".join(result.differences[:8]))
    print(f"{words:24} {len(truth.records):6} records, {result.expected} states: {result.lines} lines of {result.states}; "
          f"{scenario.exact} lives exact; {len(result.differences)} differences", flush=True)


def check_names(words, truth, seen, summary, since, tally):
    """What is only known by its id has its name once anybody is told of it, also in the totals."""
    ids = [line["time"] for line in seen.transitions if line["attributes"].get("messaging.destination.name") in truth.ids]
    first = [line for line in seen.transitions if line["attributes"].get("messaging.destination.name") in truth.topics]
    tally.check(first, f"{words}: no line has a topic's name")
    late = [at for at in ids if first and at > first[-1]["time"]]
    tally.check(not late, f"{words}: {len(late)} lines have a topic's id when names were known")
    unnamed = sorted({total["destination"] for total in summary["totals"] if total.get("destination") in truth.ids})
    tally.check(not unnamed, f"{words}: totals under ids: {unnamed}")
    print(f"{'':24} {len(ids)} lines under a topic's id, the totals under names", flush=True)


def late(broker, directory, rng, seconds, tally):
    """Attached at a random moment."""
    load, stage, pool = loaded(broker, directory, "late", seconds)
    time.sleep(rng.uniform(0.3, seconds / 3))
    with Agent(directory, broker.port, name="late") as agent:
        truth = finished(load, stage, pool, tally)
        time.sleep(0.3)
    judge("attached late", truth, agent.lines, [(agent.ready_at + KNOWN, 2**63)], tally)
    check_names("attached late", truth, Seen(agent.lines), agent.summary, agent.ready_at + 2 * METADATA_MS * 10**6, tally)
    lost = {what: count for what, count in losses(agent.summary).items() if not what.startswith("lifecycle.unmatched")}
    tally.check(not lost, f"attached late: lost {lost}")


def killed(broker, directory, rng, seconds, tally):
    """kill -9 in the middle of it, and another one begins."""
    load, stage, pool = loaded(broker, directory, "killed", 2 * seconds)
    first = Agent(directory, broker.port, name="killed-1").start()
    time.sleep(rng.uniform(0.8, 1.0) * seconds)
    dead_at = time.time_ns()
    first.kill()
    with Agent(directory, broker.port, name="killed-2") as second:
        truth = finished(load, stage, pool, tally)
        time.sleep(0.3)
    # The last tenth of a second may have waited in a buffer of the killed one.
    judge("until it was killed", truth, first.lines, [(first.ready_at + KNOWN, dead_at - SECOND // 2)], tally, torn=True)
    judge("started again", truth, second.lines, [(second.ready_at + KNOWN, 2**63)], tally)


def stalled(broker, directory, rng, seconds, tally):
    """A tiny ring, and its reader stopped for a second: what is lost is counted to the byte, and nothing wrong is said."""
    capture = Capture(directory / "stalled.pcapng", broker.port)
    with Agent(directory, broker.port, "--ring-size", RING, "--summary-interval", "100ms", name="stalled") as agent:
        load, stage, pool = loaded(broker, directory, "stalled", seconds + 2, size=3000)
        time.sleep(rng.uniform(1.5, 2.5))
        agent.pause(1.0)
        truth = finished(load, stage, pool, tally)
        time.sleep(0.3)
    tally.check(capture.stop() == 0, "dumpcap dropped packets: its count of bytes says nothing")
    before, after = loss_times(agent.lines)
    judge("stalled with a tiny ring", truth, agent.lines, [(0, before), (after + KNOWN, 2**63)], tally)
    tally.check(losses(agent.summary), "a stalled reader of a tiny ring lost nothing: the test tests nothing")
    check_account(truth, Seen(agent.lines), agent.summary, payload_bytes(capture.path), tally)


def check_account(truth, seen, summary, sent, tally):
    """Seen and lost together are what was sent: in bytes, and in records as far as the batches' headers were seen."""
    told, lost = summary["capture"], summary["capture"]["lost"].get("kernel", {})
    bytes_lost = sum(entry["count"] for entry in lost.values() if entry["unit"] in ("byte", "By"))
    created = sum(line["count"] for line in seen.transitions if line["state"] == "Created")
    print(f"{'':24} sent {sent} bytes, seen {told['bytes']}, copied {told['captured_bytes']}, skipped {told['skipped_bytes']}, lost "
          f"{bytes_lost}; {len(truth.sends)} records, {created} seen", flush=True)
    tally.check(sent == told["bytes"], f"{sent} bytes crossed the port, the agent counted {told['bytes']}")
    together = told["captured_bytes"] + told["skipped_bytes"] + bytes_lost
    tally.check(together == told["bytes"], f"copied, skipped and lost are {together} bytes, seen were {told['bytes']}")
    tally.check(created < len(truth.sends), "no record was lost: the test tests nothing")


def hostile(broker, directory, rng, seconds, tally):
    """Bad clients on the same port: they are counted, the memory stays what it was, and nobody else is harmed."""
    with Agent(directory, broker.port, name="hostile") as agent:
        load, stage, pool = loaded(broker, directory, "hostile", seconds)
        before = resident(agent.process.pid)
        bad = Hostile(broker.port, rng.randrange(10**6))
        load.finish()
        count = bad.stop()
        grown = resident(agent.process.pid) - before
        truth = finished(load, stage, pool, tally)
        time.sleep(0.3)
    judge("beside hostile clients", truth, agent.lines, [(0, 2**63)], tally)
    lost, told = losses(agent.summary), agent.summary["events"]
    print(f"{'':24} {count} hostile clients, {grown >> 20} MiB more, {lost}, {told}", flush=True)
    tally.check(count > 20, f"only {count} hostile clients")
    tally.check(grown < 64 << 20, f"the agent took {grown >> 20} MiB more")
    tally.check(lost.get("protocol.malformed") and told.get("parse_trouble"), f"nothing was malformed: {lost}, {told}")
    tally.check(told.get("not_decoded"), f"nothing was said of TLS: {told}")
    others = {what: count for what, count in lost.items() if what.split(".")[0] not in ("protocol", "lifecycle")}
    tally.check(not others, f"lost {others}")


def resident(pid):
    """Memory of a process in bytes."""
    pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


PARTS = {"late": late, "killed": killed, "stalled": stalled, "hostile": hostile}


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--broker", choices=VERSIONS, action="append")
    options.add_argument("--only", choices=PARTS, action="append")
    options.add_argument("--seed", type=int, default=random.randrange(10**6))
    options.add_argument("--seconds", type=int, default=7, help="how long a load lasts, at least")
    options.add_argument("--directory", type=pathlib.Path)
    chosen = options.parse_args()
    tally, rng = Tally(), random.Random(chosen.seed)
    print(f"seed {chosen.seed}", flush=True)
    alone("truth-kafka")
    for version in chosen.broker or VERSIONS:
        directory = (chosen.directory or WORK / "truth") / f"kafka-disturbed-{version}"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        with KafkaBroker(version, directory / "broker") as broker:
            print(f"Kafka {version} on port {broker.port}", flush=True)
            for name in chosen.only or PARTS:
                PARTS[name](broker, directory, rng, chosen.seconds, tally)
    tally.close()


if __name__ == "__main__":
    main()
