"""Channels and connections that end, in every way they can."""

import os
import signal

import pika.exceptions

from ..stage import scenario
from .dead_letters import drain
from .settling import filled


def holding(s, queue, count, prefetch=None):
    """A consumer that has seen so many messages and settled none."""
    consumer = s.client().channel()
    consumer.consume(queue, prefetch=prefetch or count)
    consumer.client.wait(lambda: len(consumer.seen) == count)
    return consumer


@scenario()
def channel_closed(s):
    """A channel is closed with deliveries unsettled; they come again."""
    client, channel, queue = filled(s, 10)
    consumer = holding(s, queue, 5)
    consumer.ack(consumer.seen[0])
    consumer.client.wait(lambda: len(consumer.seen) == 6)
    consumer.close()
    drain(s, queue, 9)


@scenario()
def channel_reopened(s):
    """The same channel number again: delivery tags start anew."""
    client, channel, queue = filled(s, 6)
    consumer = s.client()
    for _ in range(3):
        again = consumer.channel(5)
        again.consume(queue, prefetch=2)
        consumer.wait(lambda: len(again.seen) == 2)
        again.ack(again.seen[0])
        consumer.wait(lambda: len(again.seen) == 3)
        again.close()
    drain(s, queue, 3)


@scenario()
def connection_closed(s):
    """An orderly connection.close with deliveries unsettled."""
    client, channel, queue = filled(s, 6)
    consumer = holding(s, queue, 4)
    consumer.client.close()
    drain(s, queue, 6)


@scenario()
def connection_severed(s):
    """The socket is closed without a word."""
    client, channel, queue = filled(s, 6)
    consumer = holding(s, queue, 4)
    consumer.client.sever()
    drain(s, queue, 6)


@scenario()
def consumer_killed(s):
    """kill -9 of a consumer's process."""
    client, channel, queue = filled(s, 8)
    child = s.child("consume", queue, "5")
    chan = child.stdout.readline().strip()
    assert chan, "the child consumer did not come up"
    s.log.add("ended", chan=chan, reason="connection_lost")
    s.log.add("event", name="connection_lost", chan=chan)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    drain(s, queue, 8)


@scenario(ids=(True,))
def closed_by_broker(s):
    """An operator closes the consumer's connection: 320."""
    client, channel, queue = filled(s, 5)
    consumer = holding(s, queue, 3)
    pids = [line.split("\t")[0] for line in s.broker.ctl("list_connections", "pid", "peer_port").splitlines()
            if line.endswith(f"\t{consumer.client.port}")]
    consumer.ended("connection_lost")
    s.broker.ctl("close_connection", pids[0], "maintenance")
    try:
        consumer.client.wait(lambda: not consumer.client.connection.is_open)
    except pika.exceptions.AMQPConnectionError:
        pass
    drain(s, queue, 5)


@scenario()
def consumer_cancelled(s):
    """basic.cancel: what it holds it may still settle, the rest goes to another."""
    client, channel, queue = filled(s, 10)
    consumer = s.client().channel()
    tag = consumer.consume(queue, prefetch=4)
    consumer.client.wait(lambda: len(consumer.seen) == 4)
    consumer.cancel(tag)
    for delivery in consumer.seen[:4]:
        consumer.ack(delivery)
    drain(s, queue, 6)


@scenario()
def queue_deleted(s):
    """The queue is deleted under its consumer: the broker cancels it; what was in it is gone."""
    client, channel, queue = filled(s, 6)
    consumer = holding(s, queue, 3)
    consumer.log.add("event", name="consumer_cancelled", chan=consumer.chan)
    consumer.log.add("note", text="queue deleted")
    channel.pika.queue_delete(queue)
    consumer.client.wait(seconds=0.1)
    s.log.add("deleted", queue=queue)


@scenario()
def many_channels(s):
    """Eight channels of one connection publish and consume at once."""
    client = s.client()
    channels = [client.channel() for _ in range(8)]
    queues = [channel.queue(f"q{i}", {"drop": True}) for i, channel in enumerate(channels)]
    for i, channel in enumerate(channels):
        channel.consume(queues[i], channel.ack, prefetch=3)
    for n in range(80):
        channels[n % 8].publish(n, queues[(n * 3) % 8], flush=n % 9 == 0, size=80 + 700 * (n % 13))
    channels[0].flush()
    client.wait(lambda: sum(len(c.seen) for c in channels) == 80)
    client.wait(seconds=0.02)


@scenario()
def many_connections(s):
    """Twelve connections, each with its own consumer on one queue."""
    client, channel, queue = filled(s, 60)
    consumers = [s.client().channel() for _ in range(12)]
    for consumer in consumers:
        consumer.consume(queue, consumer.ack, prefetch=2)

    def done():
        for consumer in consumers:
            consumer.client.wait(seconds=0)
        return sum(len(c.seen) for c in consumers) == 60

    client.wait(done)


@scenario()
def other_vhost(s):
    """The same queue name in two virtual hosts."""
    for vhost in ("/", "orders"):
        client = s.client(vhost=vhost)
        channel = client.channel()
        queue = channel.queue("work", {"drop": True})
        for n in range(5):
            channel.publish(f"{vhost.strip('/')}{n}", queue)
        consumer = s.client(vhost=vhost).channel()
        consumer.consume(queue, consumer.ack)
        consumer.client.wait(lambda: len(consumer.seen) == 5)
        consumer.client.wait(seconds=0.02)
