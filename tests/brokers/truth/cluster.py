"""Two nodes of a cluster, of which only one is on the agent's host, as far as the agent can tell: it watches the ports of one.
What a node on another host gives to its clients is not seen, so that nothing may be concluded from not seeing it.
"""

import contextlib
import time

from .agent import Agent
from .broker import Broker
from .check import Seen
from .stage import Stage

TTL_MS = 400
# Longer than a time to live, and what the agent waits beyond it.
LATER = 2.5


@contextlib.contextmanager
def two_nodes(namespaces, version, directory):
    """Two brokers, of which the second can be made to join the first."""
    four = namespaces.plan["link"][0]
    with Broker(version, directory / "near", netns=namespaces.broker, listen="0.0.0.0", address=f"{four}.1") as near, \
            Broker(version, directory / "far", netns=namespaces.client, listen="0.0.0.0", address=f"{four}.2",
                   epmd_port=near.epmd_port) as far:
        yield near, far


def join(far, near):
    """Makes one cluster of the two."""
    for words in (["stop_app"], ["reset"], ["join_cluster", near.node], ["start_app"]):
        far.ctl(*words)


def states(agent, key):
    """What the agent told of a message, in its order."""
    return [line["state"] for line in Seen(agent.lines).transitions if line["attributes"].get("messaging.message.id") == key]


def given_out_there(near, far, directory, agent, name, tally):
    """Messages with a time to live, published at this node and taken by a consumer at the other one."""
    publisher, other = Stage(near, directory, name, True), Stage(far, directory, f"{name}-far", True)
    channel, consumer = publisher.client().channel(), other.client().channel()
    queue = channel.queue("short", {"drop": True}, arguments={"x-message-ttl": TTL_MS})
    taken = []
    consumer.pika.basic_consume(queue, lambda *delivery: taken.append(delivery), auto_ack=True)
    keys = [channel.publish(n, queue) for n in range(5)]
    consumer.client.wait(lambda: len(taken) == len(keys))
    time.sleep(LATER)
    agent.stop()
    for key in keys:
        tally.check(states(agent, key) == ["Created"], f"{name}: {key} was told as {states(agent, key)}, and was given out elsewhere")
    publisher.close()
    other.close()


def run(namespaces, version, directory, tally):
    """An agent that sees the second node join, and one that finds it there."""
    with two_nodes(namespaces, version, directory) as (near, far):
        before = Stage(near, directory, "cluster-before", True)
        early = Agent(directory, near.port, name="cluster-early").start()
        channel = before.client().channel()
        queue = channel.queue("short", {"drop": True}, arguments={"x-message-ttl": TTL_MS})
        alone = [channel.publish(n, queue) for n in range(5)]
        # What a tool asks the node from its own host makes no cluster.
        near.ctl("list_queues")
        time.sleep(LATER)
        before.close()
        join(far, near)
        given_out_there(near, far, directory, early, "cluster-early", tally)
        for key in alone:
            tally.check(states(early, key) == ["Created", "Expired"], f"alone: {key} was told as {states(early, key)}")
        late = Agent(directory, near.port, name="cluster-late").start()
        given_out_there(near, far, directory, late, "cluster-late", tally)
