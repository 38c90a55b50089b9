"""One consumer gives back, or loses, what it holds, while another waits for it already: the broker hands it on at once, also
before it says a word to the first."""

import pika.exceptions

from ..stage import scenario
from .dead_letters import dead_letter_pair
from .settling import filled


def relay(s, **options):
    """A consumer that holds four messages of six, and another that has acknowledged the other two and waits."""
    client, channel, queue = filled(s, 6)
    consumer = s.client(**options).channel()
    consumer.consume(queue, prefetch=4)
    consumer.client.wait(lambda: len(consumer.seen) == 4)
    other = s.client().channel()
    other.consume(queue, other.ack)
    other.client.wait(lambda: len(other.seen) == 2)
    return consumer, other


def taken(other, count=6):
    """Waits until the other consumer has had all."""
    other.client.wait(lambda: len(other.seen) == count)
    other.client.wait(seconds=0.02)


@scenario()
def standby_channel_closed(s):
    """The channel is closed."""
    consumer, other = relay(s)
    consumer.leave()
    taken(other)


@scenario()
def standby_channel_refused(s):
    """The broker closes the channel: 406."""
    consumer, other = relay(s)
    consumer.blunder()
    taken(other)


@scenario()
def standby_connection_refused(s):
    """The broker closes the connection: 540."""
    consumer, other = relay(s)
    consumer.ended("connection_lost")
    try:
        consumer.pika.flow(False)
    except pika.exceptions.ConnectionClosedByBroker as closed:
        assert closed.reply_code == 540, closed
    taken(other)


@scenario()
def standby_connection_closed(s):
    """The connection is closed."""
    consumer, other = relay(s)
    consumer.client.close()
    taken(other)


@scenario()
def standby_severed(s):
    """The socket is closed without a word."""
    consumer, other = relay(s)
    consumer.client.sever()
    taken(other)


@scenario(ids=(True,))
def standby_closed_by_operator(s):
    """An operator closes the connection: 320."""
    consumer, other = relay(s)
    pids = [line.split("\t")[0] for line in s.broker.ctl("list_connections", "pid", "peer_port").splitlines()
            if line.endswith(f"\t{consumer.client.port}")]
    consumer.ended("connection_lost")
    s.broker.ctl("close_connection", pids[0], "maintenance")
    taken(other)
    try:
        consumer.client.wait(lambda: not consumer.client.connection.is_open)
    except pika.exceptions.AMQPConnectionError:
        pass


@scenario()
def standby_frozen(s):
    """The consumer hangs: it sends no heartbeats any more, and the broker gives its connection up."""
    consumer, other = relay(s, heartbeat=1)
    consumer.ended("connection_lost")
    s.log.add("event", name="connection_lost", chan=consumer.chan)
    consumer.client.severed = True
    taken(other)
    consumer.client.socket.close()


@scenario()
def standby_other_channel(s):
    """The other consumer is on another channel of the same connection."""
    client = s.client()
    holder, other = client.channel(), client.channel()
    queue = holder.queue("work", {"drop": True})
    for n in range(4):
        holder.publish(n, queue)
    holder.consume(queue, prefetch=4)
    client.wait(lambda: len(holder.seen) == 4)
    other.consume(queue, other.ack)
    holder.blunder()
    client.wait(lambda: len(other.seen) == 4)
    client.wait(seconds=0.02)


@scenario()
def standby_many(s):
    """A broken channel gives back hundreds at once; the other takes them a few at a time."""
    client, channel, queue = filled(s, 400)
    consumer = s.client().channel()
    consumer.consume(queue, prefetch=350)
    consumer.client.wait(lambda: len(consumer.seen) == 350)
    other = s.client().channel()
    other.consume(queue, other.ack, prefetch=20)
    other.client.wait(lambda: len(other.seen) == 50)
    consumer.blunder()
    taken(other, 400)


@scenario()
def standby_delivery_limit(s):
    """A quorum queue: what the first consumer loses the second has at once, what the second loses is a dead letter, and read
    at once as well."""
    channel = s.client().channel()
    work, dead = dead_letter_pair(s, channel, **{"x-queue-type": "quorum", "x-delivery-limit": 1})
    for n in range(4):
        channel.publish(n, work)
    consumers = [s.client().channel() for _ in range(2)]
    reader = s.client().channel()
    reader.consume(dead, reader.ack)
    for consumer in consumers:
        consumer.consume(work, prefetch=4)
        if consumer is consumers[0]:
            consumer.client.wait(lambda: len(consumer.seen) == 4)
    for consumer in consumers:
        consumer.client.wait(lambda: len(consumer.seen) == 4)
        consumer.blunder()
    taken(reader, 4)


@scenario()
def standby_dead_letters(s):
    """Rejected and expired messages are read from the dead-letter queue as they arrive there."""
    channel = s.client().channel()
    work, dead = dead_letter_pair(s, channel)
    slow = channel.queue("slow", {"dead": dead}, arguments={
        "x-message-ttl": 40, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead})
    reader = s.client().channel()
    reader.consume(dead, reader.ack)
    consumer = s.client().channel()
    consumer.consume(work, lambda delivery: consumer.reject(delivery, requeue=False))
    for n in range(12):
        channel.publish(n, work if n % 2 else slow)
    consumer.client.wait(lambda: len(consumer.seen) == 6)
    taken(reader, 12)
