"""Two nodes, each the other's replica: leaders that move while clients work, and replication, which is no consumer.

    python -m truth.kafka.cluster [--broker 4|2.8] [--seconds N]
"""

import argparse
import pathlib
import shutil
import time

from ..agent import Agent
from ..check import losses
from ..places import WORK, alone
from ..tally import Tally
from .broker import SECOND_NODE, VERSIONS, KafkaBroker
from .disturbed import finished, judge, loaded

# What the brokers themselves keep is on both nodes, too.
EVERYWHERE = {"offsets.topic.replication.factor": 2}
FIRST_NODE = 1
# What others send again while leaders move may be in the log twice, and only the broker would know which is which.
IDEMPOTENT = ("java", "librdkafka", "franz")


def moved(near, far, directory, seconds, tally):
    """The second node leads; it is stopped in order, so that the first one takes over; it comes back and leads again."""
    near.replicas = [SECOND_NODE, FIRST_NODE]
    with Agent(directory, near.port, "--port", str(far.port), name="moved") as agent:
        load, stage, pool = loaded(near, directory, "moved", seconds, producers=IDEMPOTENT)
        topics = {load.wide: 3, load.narrow: 1}
        led = [near.admin.leaders(topic) for topic in topics]
        time.sleep(seconds / 3)
        with stage.moving():
            far.stop()
        led += [near.admin.leaders(topic) for topic in topics]
        time.sleep(seconds / 3)
        with stage.moving():
            far.restart()
            for topic, partitions in topics.items():
                near.admin.lead(topic, partitions, SECOND_NODE)
        truth = finished(load, stage, pool, tally)
        time.sleep(0.3)
    wanted = [{SECOND_NODE}] * 2 + [{FIRST_NODE}] * 2
    tally.check(led == wanted, f"the leaders were {led}, not {wanted}: the test tests nothing")
    judge("leaders that move", truth, agent.lines, [(0, 2**63)], tally)
    lost = losses(agent.summary)
    tally.check(not lost, f"leaders that move: lost {lost}")
    strangers = {total.get("group") for total in agent.summary["totals"]} - {None, *truth.groups}
    tally.check(not strangers, f"groups that nobody is in: {strangers}")


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--broker", choices=VERSIONS, action="append")
    options.add_argument("--seconds", type=int, default=9, help="how long the load lasts, at least")
    options.add_argument("--directory", type=pathlib.Path)
    chosen = options.parse_args()
    tally = Tally()
    alone("truth-kafka-cluster")
    for version in chosen.broker or VERSIONS:
        directory = (chosen.directory or WORK / "truth") / f"kafka-cluster-{version}"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        with KafkaBroker(version, directory / "near", settings=EVERYWHERE) as near, \
                KafkaBroker(version, directory / "far", settings=EVERYWHERE, beside=near) as far:
            print(f"Kafka {version} on ports {near.port} and {far.port}", flush=True)
            moved(near, far, directory, chosen.seconds, tally)
    tally.close()


if __name__ == "__main__":
    main()
