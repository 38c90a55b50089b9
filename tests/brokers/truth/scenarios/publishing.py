"""What becomes of a publish before any queue has it."""

import pika.exceptions

from ..stage import scenario
from .dead_letters import drain
from .settling import filled


@scenario()
def confirms_batch(s):
    """A hundred publishes in one write; the broker confirms several at a time."""
    client = s.client()
    channel = client.channel()
    channel.confirms()
    queue = channel.queue("work", {"drop": True})
    for n in range(100):
        channel.publish(n, queue, flush=False)
    channel.flush()
    channel.wait_confirms()
    drain(s, queue, 100)


@scenario()
def confirms_one_by_one(s):
    """Each publish waits for its confirm, persistent messages in a durable queue."""
    client = s.client()
    channel = client.channel()
    channel.confirms()
    queue = channel.queue("work", {"drop": True}, durable=True)
    for n in range(15):
        channel.publish(n, queue, delivery_mode=2)
        channel.wait_confirms()
    drain(s, queue, 15)


@scenario()
def confirms_late(s):
    """Publishes before confirm.select are not numbered."""
    client = s.client()
    channel = client.channel()
    queue = channel.queue("work", {"drop": True})
    for n in range(3):
        channel.publish(n, queue)
    channel._tag = 0
    channel.confirms()
    for n in range(3, 8):
        channel.publish(n, queue)
    channel.wait_confirms()
    drain(s, queue, 8)


@scenario()
def quorum_confirms(s):
    """A quorum queue confirms when its log has it."""
    client = s.client()
    channel = client.channel()
    channel.confirms()
    queue = channel.queue("work", {"drop": True}, durable=True, arguments={"x-queue-type": "quorum"})
    for n in range(40):
        channel.publish(n, queue, flush=False)
    channel.flush()
    channel.wait_confirms()
    drain(s, queue, 40)


@scenario()
def fan_out(s):
    """One publish, three queues, three fates."""
    client = s.client()
    channel = client.channel()
    channel.confirms()
    exchange = channel.exchange("fan", "fanout")
    queues = [channel.queue(f"q{i}", {"drop": True}) for i in range(3)]
    for queue in queues:
        channel.bind(queue, exchange)
    for n in range(10):
        channel.publish(n, exchange=exchange, key="ignored")
    channel.wait_confirms()
    consumers = [s.client().channel() for _ in queues]
    consumers[0].consume(queues[0], consumers[0].ack)
    consumers[1].consume(queues[1], auto=True)
    consumers[2].consume(queues[2], lambda d: consumers[2].reject(d, requeue=False))
    for consumer in consumers:
        consumer.client.wait(lambda: len(consumer.seen) == 10)


@scenario()
def topics(s):
    """A topic exchange with overlapping patterns: one queue gets a message once, however many match."""
    client = s.client()
    channel = client.channel()
    exchange = channel.exchange("topics", "topic")
    everything, errors = channel.queue("all", {"drop": True}), channel.queue("errors", {"drop": True})
    channel.bind(everything, exchange, "#")
    channel.bind(everything, exchange, "log.*")
    channel.bind(errors, exchange, "*.error")
    for n, key in enumerate(["log.info", "log.error", "app.error", "app.info", "log.error"]):
        channel.publish(n, exchange=exchange, key=key)
    drain(s, everything, 5)
    drain(s, errors, 3)


@scenario()
def headers_exchange(s):
    """Routing by headers."""
    client = s.client()
    channel = client.channel()
    exchange = channel.exchange("headers", "headers")
    gold = channel.queue("gold", {"drop": True})
    channel.bind(gold, exchange, arguments={"x-match": "all", "grade": "gold", "region": 7})
    for n in range(6):
        grade = "gold" if n % 2 else "tin"
        channel.publish(n, exchange=exchange, headers={"grade": grade, "region": 7, "nested": {"deep": [1, "two", None]}})
    drain(s, gold, 3)


@scenario()
def alternate_exchange(s):
    """What the first exchange cannot route goes to its alternate."""
    client = s.client()
    channel = client.channel()
    channel.confirms()
    spare = channel.exchange("spare", "fanout")
    main = channel.exchange("main", "direct", arguments={"alternate-exchange": spare})
    known, rest = channel.queue("known", {"drop": True}), channel.queue("rest", {"drop": True})
    channel.bind(known, main, "known")
    channel.bind(rest, spare)
    for n in range(6):
        channel.publish(n, exchange=main, key="known" if n % 3 == 0 else "unknown", mandatory=True)
    channel.wait_confirms()
    assert not channel.returned
    drain(s, known, 2)
    drain(s, rest, 4)


@scenario()
def mandatory_unroutable(s):
    """Returned, then confirmed: only the return counts."""
    client = s.client()
    channel = client.channel()
    channel.confirms()
    for n in range(5):
        channel.publish(n, key=s.name("nowhere"), mandatory=True)
    channel.wait_confirms()
    assert len(channel.returned) == 5


@scenario()
def mandatory_without_confirms(s):
    """Returned on a channel without confirms, between others that arrive."""
    client = s.client()
    channel = client.channel()
    channel.returns()
    queue = channel.queue("work", {"drop": True})
    for n in range(6):
        channel.publish(n, queue if n % 2 else s.name("nowhere"), mandatory=True)
    client.wait(lambda: len(channel.returned) == 3)
    drain(s, queue, 3)


@scenario()
def returned_in_batch(s):
    """Routable and not, mixed in one write, with confirms of several at a time."""
    client = s.client()
    channel = client.channel()
    channel.confirms()
    queue = channel.queue("work", {"drop": True})
    for n in range(40):
        channel.publish(n, s.name("nowhere") if n % 5 == 2 else queue, mandatory=True, flush=False)
    channel.flush()
    channel.wait_confirms()
    assert len(channel.returned) == 8
    drain(s, queue, 32)


@scenario()
def unroutable_unnoticed(s):
    """Not mandatory: the broker confirms what it drops."""
    client = s.client()
    channel = client.channel()
    channel.confirms()
    for n in range(5):
        channel.publish(n, key=s.name("nowhere"))
    channel.wait_confirms()
    assert len(channel.confirmed) == 5


@scenario()
def reject_publish(s):
    """x-overflow reject-publish: the broker refuses what the full queue cannot take."""
    client = s.client()
    channel = client.channel()
    channel.confirms()
    queue = channel.queue("work", {"drop": True}, arguments={"x-max-length": 2, "x-overflow": "reject-publish"})
    for n in range(6):
        channel.publish(n, queue)
        channel.wait_confirms()
    assert len(channel.refused) >= 3
    drain(s, queue, len(channel.confirmed))


@scenario()
def missing_exchange(s):
    """404 for a publish to an exchange that is not there: the channel closes, the message is lost."""
    client = s.client()
    channel = client.channel()
    key = channel.publish(0, exchange=s.name("missing"), key="any")
    s.log.add("lost_publish", key=key, reason="exchange_refused", code=404)
    channel.broken(404)


@scenario()
def missing_exchange_with_confirms(s):
    """The same, with confirms outstanding: they never come."""
    client = s.client()
    channel = client.channel()
    channel.confirms()
    queue = channel.queue("work", {"drop": True})
    for n in range(3):
        channel.publish(n, queue)
    channel.wait_confirms()
    key = channel.publish(3, exchange=s.name("missing"), key="any")
    s.log.add("lost_publish", key=key, reason="exchange_refused", code=404)
    channel.broken(404)
    drain(s, queue, 3)


@scenario()
def refused_by_type(s):
    """A CC header that is no array: 406 for the publish."""
    client = s.client()
    channel = client.channel()
    queue = channel.queue("work", {"drop": True})
    key = channel.publish(0, queue, headers={"CC": "not an array"})
    s.log.add("lost_publish", key=key, reason="channel_closed", code=406)
    try:
        channel.broken(406)
    except pika.exceptions.AMQPError:
        pass


@scenario()
def carbon_copies(s):
    """CC and BCC: two more queues for one publish."""
    client = s.client()
    channel = client.channel()
    to, copy, blind = (channel.queue(part, {"drop": True}) for part in ("to", "cc", "bcc"))
    for n in range(4):
        channel.publish(n, to, headers={"CC": [copy], "BCC": [blind]})
    for queue in (to, copy, blind):
        drain(s, queue, 4)


@scenario()
def binding_added_later(s):
    """The second half of the messages has one queue more."""
    client = s.client()
    channel = client.channel()
    exchange = channel.exchange("direct", "direct")
    first, second = channel.queue("first", {"drop": True}), channel.queue("second", {"drop": True})
    channel.bind(first, exchange, "k")
    for n in range(4):
        channel.publish(n, exchange=exchange, key="k")
    channel.bind(second, exchange, "k")
    for n in range(4, 8):
        channel.publish(n, exchange=exchange, key="k")
    channel.pika.queue_unbind(first, exchange, "k")
    for n in range(8, 10):
        channel.publish(n, exchange=exchange, key="k")
    drain(s, first, 8)
    drain(s, second, 6)


@scenario()
def exchange_to_exchange(s):
    """Two exchanges in a row."""
    client = s.client()
    channel = client.channel()
    outer, inner = channel.exchange("outer", "topic"), channel.exchange("inner", "fanout")
    channel.pika.exchange_bind(inner, outer, "a.#")
    queue = channel.queue("work", {"drop": True})
    channel.bind(queue, inner)
    for n in range(4):
        channel.publish(n, exchange=outer, key="a.b.c" if n % 2 else "z")
    drain(s, queue, 2)


@scenario()
def publish_and_vanish(s):
    """The producer closes at once after its last publish; the messages arrive all the same."""
    client, channel, queue = filled(s, 20)
    client.close()
    drain(s, queue, 20)
