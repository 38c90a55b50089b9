"""The same scenarios over IPv6, IPv4-mapped addresses and between network namespaces: the agent must not notice a difference.
And a broker that is killed and comes back, and one with a second node.

    python -m truth.networks [--broker 3.10|4]

The broker listens on all addresses of a namespace of its own; one veth leads to the host, another to a second namespace.
"""

import argparse
import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import time

from . import cluster, scenarios  # noqa: F401  (registers them)
from .agent import Agent
from .broker import VERSIONS, Broker
from .client import Timeout
from .disturbed import late
from .places import WORK, alone, inside
from .run import PATIENCE, check_counters, hold, truth_totals
from .stage import SCENARIOS, Stage
from .tally import Tally

# Reads, settlements, large bodies, failures, returns, ends of connections.
CHOSEN = ("ack-explicit", "reject-consumed", "nack-requeue", "huge", "returned-in-batch", "busy-consumer", "connection-severed",
          "channel-reopened", "fan-out")


class Route:
    """A broker as clients of one namespace reach it at one of its addresses."""

    def __init__(self, broker, address, netns):
        self.broker, self.address, self.netns = broker, address, netns
        self.version, self.port = broker.version, broker.port

    def url(self, vhost="/"):
        """For clients that want a URL."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"amqp://guest:guest@{host}:{self.port}/{vhost.replace('/', '%2f')}"

    def reach(self):
        """A context in which sockets reach it."""
        return inside(self.netns)


class Namespaces:
    """Two namespaces, a veth between them, and one from the first to the host. Use as a context manager."""

    def __init__(self):
        tag = os.getpid() % 100_000
        self.broker, self.client = f"akt{tag}b", f"akt{tag}c"
        self.link, self.uplink = f"akt{tag}l", f"akt{tag}h"
        # Addresses that are for documentation and private use; an uplink of its own for each run of this machine.
        third = tag % 250
        self.plan = {"link": (f"10.213.{third}", f"fd00:ac:{third:x}"), "uplink": (f"10.214.{third}", f"fd00:ad:{third:x}")}

    def __enter__(self):
        try:
            for name in (self.broker, self.client):
                ip("netns", "add", name)
                ip("-n", name, "link", "set", "lo", "up")
            self._veth("link", self.link, self.client)
            self._veth("uplink", self.uplink, None)
        except Exception:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for name in (self.broker, self.client):
            # The veths go with the namespaces.
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "del", name)

    def _veth(self, kind, name, other):
        """From the broker's namespace, where it has the addresses that end in 1, to another or the host, which has 2."""
        ip("link", "add", f"{name}1", "netns", self.broker, "type", "veth", "peer", "name", f"{name}2",
           *(["netns", other] if other else []))
        for end, where in ((1, ["-n", self.broker]), (2, ["-n", other] if other else [])):
            four, six = self.plan[kind]
            ip(*where, "addr", "add", f"{four}.{end}/30", "dev", f"{name}{end}")
            ip(*where, "addr", "add", f"{six}::{end}/64", "dev", f"{name}{end}", "nodad")
            ip(*where, "link", "set", f"{name}{end}", "up")

    def routes(self, broker):
        """Name → how the broker is reached."""
        (link4, link6), (up4, up6) = self.plan["link"], self.plan["uplink"]
        return {
            "v6": Route(broker, "::1", self.broker),
            "mapped": Route(broker, "::ffff:127.0.0.1", self.broker),
            "v4": Route(broker, "127.0.0.1", self.broker),
            "across4": Route(broker, f"{link4}.1", self.client),
            "across6": Route(broker, f"{link6}::1", self.client),
            "host4": Route(broker, f"{up4}.1", None),
            "host6": Route(broker, f"{up6}::1", None),
        }


def ip(*words):
    """Runs iproute2's ip."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def perform(route, suffix, ids, directory, tally):
    """The chosen scenarios over one route."""
    logs = []
    for name in CHOSEN:
        stage = Stage(route, directory, name, ids, suffix=f"-{suffix}")
        signal.alarm(PATIENCE)
        try:
            SCENARIOS[name][0](stage)
            stage.close()
            logs.append(stage.path)
        except Exception as failure:  # noqa: BLE001  (a scenario may fail in any way, and the others still run)
            tally.check(False, f"scenario {stage.prefix} itself: {failure!r}")
        finally:
            signal.alarm(0)
    return logs


def stopped(pid):
    """Stops a process, and returns when none of its threads runs any more."""
    os.kill(pid, signal.SIGSTOP)
    until = time.monotonic() + 10
    # The state is behind the name, which is in parentheses (proc_pid_stat(5)).
    while any(task.read_text().rpartition(")")[2].split()[0] != "T" for task in pathlib.Path(f"/proc/{pid}/task").glob("*/stat")):
        if time.monotonic() > until:
            raise Timeout(f"process {pid} does not stop")
        time.sleep(0.001)


def restarted(broker, directory, tally):
    """kill -9 of the broker, with deliveries held and publishes unconfirmed, and its return with what it had on disk."""
    stage = Stage(broker, directory, "restarted", True)
    with Agent(directory, broker.port, name="restarted") as agent:
        producer, consumer = stage.client().channel(), stage.client().channel()
        producer.confirms()
        queue = producer.queue("work", {"drop": True}, durable=True)
        for n in range(10):
            producer.publish(n, queue, delivery_mode=2)
        producer.wait_confirms()
        consumer.consume(queue, prefetch=4)
        consumer.client.wait(lambda: len(consumer.seen) == 4)
        # What was declared is written to the disk some time later, and a killed broker would not know its queue.
        broker.ctl("eval", "mnesia:sync_log().")
        # Stopped, it takes three more into its receive buffer and never reads them.
        stopped(broker.pid())
        lost = [producer.publish(n, queue, delivery_mode=2) for n in range(10, 13)]
        for channel in (producer, consumer):
            channel.ended("connection_lost")
            stage.log.add("event", name="connection_lost", chan=channel.chan)
            channel.client.severed = True
        for key in lost:
            stage.log.add("lost_publish", key=key, reason="connection_lost", code=None)
        broker.restart()
        stage.log.add("note", text="broker restarted")
        again = stage.client().channel()
        again.consume(queue, again.ack)
        try:
            again.client.wait(lambda: len(again.seen) >= 10)
            again.client.wait(seconds=0.05)
        finally:
            keys = sorted(int(delivery.key.rpartition("/")[2]) for delivery in again.seen)
            tally.check(keys == list(range(10)), f"restarted: the broker has the ten that it confirmed, it has {keys}")
        stage.close()
    hold("a broker killed and started again", [stage.path], agent.lines, agent.summary, True, tally)


def run(version, directory, tally):
    """One broker, all routes, one agent on the host."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    with Namespaces() as namespaces, \
            Broker(version, directory / "broker", netns=namespaces.broker, listen="::") as broker:
        print(f"RabbitMQ {version} in namespace {namespaces.broker}", flush=True)
        before, logs = broker.counters(), []
        with Agent(directory, broker.port, name="networks") as agent:
            for index, (suffix, route) in enumerate(namespaces.routes(broker).items()):
                logs += perform(route, suffix, index % 2 == 0, directory, tally)
            time.sleep(0.3)
        check_counters(before, broker.counters(), truth_totals(logs), tally)
        hold("over IPv6, mapped addresses and between namespaces", logs, agent.lines, agent.summary, True, tally)
        # Connections of a namespace that the agent is not in, all older than the agent.
        late(broker, directory, tally, netns=namespaces.broker)
        restarted(broker, directory, tally)
        cluster.run(namespaces, version, directory, tally)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--broker", choices=VERSIONS, default="3.10")
    options.add_argument("--directory", type=pathlib.Path)
    chosen = options.parse_args()
    tally = Tally()
    alone("networks")
    run(chosen.broker, (chosen.directory or WORK / "networks"), tally)
    tally.close()


if __name__ == "__main__":
    main()
