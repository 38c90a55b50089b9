"""Kinds of queues and of consumers."""

from ..stage import scenario
from .settling import filled


@scenario()
def single_active(s):
    """Single active consumer: the second takes over when the first is gone."""
    client, channel, queue = filled(s, 10, arguments={"x-single-active-consumer": True})
    first, second = s.client().channel(), s.client().channel()
    first.consume(queue, prefetch=4)
    first.client.wait(lambda: len(first.seen) == 4)
    second.consume(queue, second.ack, prefetch=4)
    second.client.wait(seconds=0.1)
    assert not second.seen
    first.ack(first.seen[0])
    first.client.wait(lambda: len(first.seen) == 5)
    first.client.close()
    second.client.wait(lambda: len(second.seen) == 9)
    second.client.wait(seconds=0.02)


@scenario()
def priorities(s):
    """A priority queue hands out the urgent ones first."""
    client = s.client()
    channel = client.channel()
    queue = channel.queue("work", {"drop": True}, arguments={"x-max-priority": 5})
    for n in range(12):
        channel.publish(n, queue, priority=n % 4)
    client.wait(seconds=0.05)
    consumer = s.client().channel()
    consumer.consume(queue, consumer.ack)
    consumer.client.wait(lambda: len(consumer.seen) == 12)
    consumer.client.wait(seconds=0.02)


@scenario()
def stream_queue(s):
    """A stream: each consumer reads it from where it likes; settling only returns credit."""
    client = s.client()
    channel = client.channel()
    channel.confirms()
    queue = channel.queue("work", {"stream": True}, durable=True, arguments={"x-queue-type": "stream"})
    for n in range(12):
        channel.publish(n, queue)
    channel.wait_confirms()
    for start, count in (("first", 12), (5, 7)):
        consumer = s.client().channel()
        consumer.consume(queue, consumer.ack, prefetch=20, arguments={"x-stream-offset": start})
        consumer.client.wait(lambda: len(consumer.seen) == count)
        consumer.client.wait(seconds=0.02)
        assert consumer.seen[0].headers["x-stream-offset"] == 12 - count


@scenario()
def server_named(s):
    """An exclusive queue whose name the broker chose, consumed by the empty name."""
    client = s.client()
    channel = client.channel()
    exchange = channel.exchange("fan", "fanout")
    consumer = s.client().channel()
    queue = consumer.queue("", {"drop": True}, name="", exclusive=True)
    consumer.bind(queue, exchange)
    consumer.consume(queue, consumer.ack)
    for n in range(6):
        channel.publish(n, exchange=exchange)
    consumer.client.wait(lambda: len(consumer.seen) == 6)
    consumer.client.wait(seconds=0.02)


@scenario()
def direct_reply_to(s):
    """RPC over amq.rabbitmq.reply-to: no queue at all carries the answers."""
    client = s.client()
    caller = client.channel()
    server = s.client().channel()
    queue = server.queue("rpc", {"drop": True})

    def answer(delivery):
        n = delivery.key.rsplit("/", 1)[1]
        server.publish(f"re{n}", delivery.properties.reply_to, correlation_id=delivery.properties.correlation_id)
        server.ack(delivery)

    server.consume(queue, answer)
    caller.consume("amq.rabbitmq.reply-to", auto=True)
    for n in range(5):
        caller.publish(n, queue, reply_to="amq.rabbitmq.reply-to", correlation_id=f"{s.prefix}-{n}")
        server.client.wait(lambda: len(server.seen) == n + 1)
        client.wait(lambda: len(caller.seen) == n + 1)


@scenario()
def purged(s):
    """queue.purge: what was in it is gone, and the broker says how many."""
    client, channel, queue = filled(s, 5)
    consumer = s.client().channel()
    consumer.consume(queue, prefetch=2)
    consumer.client.wait(lambda: len(consumer.seen) == 2)
    assert channel.pika.queue_purge(queue).method.message_count == 3
    s.log.add("purged", queue=queue)
    for delivery in consumer.seen[:2]:
        consumer.ack(delivery)
    consumer.client.wait(seconds=0.02)


@scenario(brokers=("3.10",))
def lazy_queue(s):
    """A lazy queue keeps its messages on disk."""
    client, channel, queue = filled(s, 10, durable=True, arguments={"x-queue-mode": "lazy"})
    consumer = s.client().channel()
    consumer.consume(queue, consumer.ack)
    consumer.client.wait(lambda: len(consumer.seen) == 10)
    consumer.client.wait(seconds=0.02)


@scenario()
def two_queues_one_channel(s):
    """Two consumers on one channel share its delivery tags."""
    client = s.client()
    channel = client.channel()
    one, two = channel.queue("one", {"drop": True}), channel.queue("two", {"drop": True})
    consumer = s.client().channel()
    consumer.consume(one)
    consumer.consume(two)
    for n in range(20):
        channel.publish(n, one if n % 3 else two)
    consumer.client.wait(lambda: len(consumer.seen) == 20)
    consumer.ack(consumer.seen[11], multiple=True)
    consumer.nack(consumer.seen[19], requeue=False, multiple=True)
