"""Sizes and likenesses of messages."""

from ..stage import scenario
from .dead_letters import drain


@scenario()
def sizes(s):
    """Empty, one byte, around the frame limit, several frames."""
    client = s.client()
    channel = client.channel()
    channel.confirms()
    queue = channel.queue("work", {"drop": True})
    limits = [0, 1, 2, 4095, 4096, 65535, 65536, 131063, 131064, 131065, 131072, 262128, 262129, 1_000_000]
    for n, size in enumerate(limits):
        channel.publish(n, queue, size=size)
    channel.wait_confirms()
    drain(s, queue, len(limits))


@scenario()
def huge(s):
    """5 MiB, twice, with small ones between."""
    client = s.client()
    channel = client.channel()
    channel.confirms()
    queue = channel.queue("work", {"drop": True})
    for n in range(6):
        channel.publish(n, queue, size=5 * 1024 * 1024 if n % 3 == 1 else None)
    channel.wait_confirms()
    drain(s, queue, 6)


@scenario(ids=(False,))
def twins(s):
    """Nine messages that nothing tells apart; some are given back, some rejected."""
    client = s.client()
    channel = client.channel()
    queue = channel.queue("work", {"drop": True})
    for _ in range(9):
        channel.publish("twin", queue)
    consumer = s.client().channel()
    consumer.consume(queue)
    consumer.client.wait(lambda: len(consumer.seen) == 9)
    for i, delivery in enumerate(consumer.seen[:9]):
        if i % 3 == 2:
            consumer.reject(delivery, requeue=False)
        else:
            consumer.ack(delivery)


@scenario(ids=(True,))
def same_id_twice(s):
    """A producer that sends each message twice under one id."""
    client = s.client()
    channel = client.channel()
    channel.confirms()
    queue = channel.queue("work", {"drop": True})
    for n in range(5):
        channel.publish(n, queue)
        channel.publish(n, queue)
    channel.wait_confirms()
    drain(s, queue, 10)


@scenario()
def all_properties(s):
    """Every property, and headers of every type that pika can write."""
    import datetime
    import decimal

    client = s.client()
    channel = client.channel()
    queue = channel.queue("work", {"drop": True})
    for n in range(3):
        channel.publish(
            n, queue, content_type="application/json", content_encoding="utf-8", delivery_mode=1, priority=3,
            correlation_id=f"{s.prefix}-{n}", reply_to="nobody", expiration="600000", timestamp=1_700_000_000 + n,
            type="order", user_id="guest", app_id="shop", cluster_id="c",
            headers={"text": "ä€𝄞", "int": -5, "big": 2**40, "bool": True, "none": None, "list": [1, [2, [3]]],
                     "table": {"a": {"b": {"c": 1}}}, "bytes": b"\x00\xce\xff",
                     "decimal": decimal.Decimal("1.25"),
                     "when": datetime.datetime(2024, 1, 1), "traceparent":
                     "00-" + f"{n + 1:032x}" + "-00f067aa0ba902b7-01"})
    drain(s, queue, 3)


@scenario(ids=(False,))
def trace_contexts(s):
    """Equal bodies under different trace contexts are different messages."""
    client = s.client()
    channel = client.channel()
    queue = channel.queue("work", {"drop": True})
    for n in range(4):
        channel.publish(n, queue, body=b"the same", headers={"traceparent": f"00-{0xabc00 + n:032x}-00f067aa0ba902b7-01"})
    drain(s, queue, 4)


@scenario()
def odd_names(s):
    """Queue names with spaces, umlauts, quotes, and of 255 bytes."""
    client = s.client()
    channel = client.channel()
    parts = ["with space", "grün ☂", 'quote"and\\slash', "tab\tin it"]
    queues = [channel.queue(part, {"drop": True}) for part in parts]
    queues.append(channel.queue("x" * (255 - len(s.prefix) - 1), {"drop": True}))
    for n, queue in enumerate(queues):
        channel.publish(n, queue)
    for queue in queues:
        drain(s, queue, 1)
