"""Where messages go that nobody wants, and how they come back."""

from ..stage import scenario
from .settling import filled


def dead_letter_pair(s, channel, part="work", **arguments):
    """A work queue whose dead letters go through the default exchange to a queue of their own."""
    dead = channel.queue(f"{part}.dead", {"drop": True})
    options = {"durable": True} if arguments.get("x-queue-type") == "quorum" else {}
    fate = {"dead": dead}
    if "x-delivery-limit" in arguments:
        fate["limit"] = arguments["x-delivery-limit"]
    work = channel.queue(part, fate, **options, arguments={
        "x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead, **arguments})
    return work, dead


def drain(s, queue, count):
    """A consumer of its own that acknowledges so many."""
    consumer = s.client().channel()
    consumer.consume(queue, consumer.ack)
    consumer.client.wait(lambda: len(consumer.seen) == count)
    consumer.client.wait(seconds=0.02)
    return consumer


@scenario()
def reject_dropped(s):
    """basic.reject in a queue that has no dead-letter exchange."""
    client, channel, queue = filled(s, 10)
    consumer = s.client().channel()
    consumer.consume(queue, lambda d: consumer.reject(d, requeue=False))
    consumer.client.wait(lambda: len(consumer.seen) == 10)


@scenario()
def reject_consumed(s):
    """Rejected, dead-lettered, and taken from the dead-letter queue."""
    channel = s.client().channel()
    work, dead = dead_letter_pair(s, channel)
    for n in range(15):
        channel.publish(n, work)
    consumer = s.client().channel()
    consumer.consume(work, lambda d: consumer.reject(d, requeue=False))
    drain_late = drain(s, dead, 0)
    consumer.client.wait(lambda: len(consumer.seen) == 15)
    drain_late.client.wait(lambda: len(drain_late.seen) == 15)


@scenario()
def reject_unconsumed(s):
    """Dead letters that nobody looks at."""
    channel = s.client().channel()
    work, dead = dead_letter_pair(s, channel)
    for n in range(15):
        channel.publish(n, work)
    consumer = s.client().channel()
    consumer.consume(work, lambda d: consumer.nack(d, requeue=False))
    consumer.client.wait(lambda: len(consumer.seen) == 15)


@scenario()
def reject_by_exchange(s):
    """A dead-letter exchange with a binding, and no dead-letter routing key: the message keeps its own."""
    channel = s.client().channel()
    exchange = channel.exchange("dlx", "topic")
    dead = channel.queue("dead", {"drop": True})
    work = channel.queue("work", {"dead": dead}, arguments={"x-dead-letter-exchange": exchange})
    channel.bind(dead, exchange, "#")
    for n in range(5):
        channel.publish(n, work)
    consumer = s.client().channel()
    consumer.consume(work, lambda d: consumer.reject(d, requeue=False))
    consumer.client.wait(lambda: len(consumer.seen) == 5)
    drain(s, dead, 5)


@scenario()
def reject_mixed(s):
    """Some are acknowledged, some given back first, some rejected: one queue, one consumer."""
    channel = s.client().channel()
    work, dead = dead_letter_pair(s, channel)
    for n in range(30):
        channel.publish(n, work)
    consumer = s.client().channel()

    def on(delivery):
        n = int(delivery.key.rsplit("/", 1)[1])
        if n % 3 == 0:
            consumer.ack(delivery)
        elif n % 3 == 1 and not delivery.redelivered:
            consumer.nack(delivery, requeue=True)
        else:
            consumer.reject(delivery, requeue=False)

    consumer.consume(work, on, prefetch=7)
    consumer.client.wait(lambda: len(consumer.seen) == 40)
    drain(s, dead, 20)


def retry_loop(s, channel, ttl=60, part="work"):
    """Work → dead-letter exchange → a queue where messages only expire → work."""
    work_name, retry_name = s.name(part), s.name("retry")
    channel.queue("retry", {"retry": True}, arguments={
        "x-message-ttl": ttl, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": work_name})
    channel.queue(part, {"retry": True}, arguments={
        "x-dead-letter-exchange": "", "x-dead-letter-routing-key": retry_name})
    return work_name, retry_name


@scenario()
def retry_then_ack(s):
    """Three rounds through the retry queue, then success."""
    channel = s.client().channel()
    work, _ = retry_loop(s, channel)
    for n in range(4):
        channel.publish(n, work)
    consumer = s.client().channel()

    def on(delivery):
        rounds = sum(d["count"] for d in delivery.headers.get("x-death", []) if d["queue"] == work)
        if rounds < 3:
            consumer.reject(delivery, requeue=False)
        else:
            consumer.ack(delivery)

    consumer.consume(work, on)
    consumer.client.wait(lambda: len(consumer.seen) == 16)


@scenario()
def retry_then_park(s):
    """Two rounds through the retry queue, then published to a parking queue and acknowledged."""
    channel = s.client().channel()
    work, _ = retry_loop(s, channel)
    parking = channel.queue("parking", {"drop": True})
    for n in range(3):
        channel.publish(n, work)
    consumer = s.client().channel()

    def on(delivery):
        rounds = sum(d["count"] for d in delivery.headers.get("x-death", []) if d["queue"] == work)
        if rounds < 2:
            consumer.reject(delivery, requeue=False)
        else:
            republish(consumer, delivery, parking)
            consumer.ack(delivery)

    consumer.consume(work, on)
    consumer.client.wait(lambda: len(consumer.seen) == 9)
    drain(s, parking, 3)


def republish(channel, delivery, queue):
    """The message again, as an application would: same body and id, a header more."""
    n = delivery.key.rsplit("/", 1)[1]
    channel.publish(n, queue, body=delivery.body, republished=True, headers={"x-exception-message": "cannot do it"})


@scenario()
def parked(s):
    """Published to a parking queue by the consumer, which then acknowledges the original."""
    client, channel, queue = filled(s, 6)
    parking = channel.queue("parking", {"drop": True})
    consumer = s.client().channel()

    def on(delivery):
        republish(consumer, delivery, parking)
        consumer.ack(delivery)

    consumer.consume(queue, on)
    consumer.client.wait(lambda: len(consumer.seen) == 6)
    drain(s, parking, 6)


@scenario()
def retried_by_publishing(s):
    """The consumer publishes a copy to a queue where it only waits, and acknowledges the original: twice, then success."""
    channel = s.client().channel()
    work = channel.queue("work", {"drop": True})
    wait = channel.queue("wait", {"back": work}, arguments={
        "x-message-ttl": 60, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": work})
    for n in range(5):
        channel.publish(n, work)
    consumer = s.client().channel()

    def on(delivery):
        tries = delivery.headers.get("x-retries", 0)
        # The last one is given up at once.
        if tries < 2 and not delivery.key.endswith("/4"):
            n = delivery.key.rsplit("/", 1)[1]
            consumer.publish(n, wait, body=delivery.body, republished=True, headers={**delivery.headers, "x-retries": tries + 1})
        consumer.ack(delivery)

    consumer.consume(work, on)
    consumer.client.wait(lambda: len(consumer.seen) == 13)


@scenario()
def expired_by_queue(s):
    """The queue's TTL passes; the message is found in the dead-letter queue."""
    channel = s.client().channel()
    work, dead = dead_letter_pair(s, channel, **{"x-message-ttl": 50})
    for n in range(5):
        channel.publish(n, work)
    consumer = drain(s, dead, 5)
    assert all(d.headers["x-death"][0]["reason"] == "expired" for d in consumer.seen)


@scenario()
def expired_by_message(s):
    """The message's own expiration passes."""
    channel = s.client().channel()
    work, dead = dead_letter_pair(s, channel)
    for n in range(5):
        channel.publish(n, work, expiration="50")
    drain(s, dead, 5)


@scenario()
def overflow_dead_letters(s):
    """x-max-length 3: the oldest are dead-lettered."""
    channel = s.client().channel()
    work, dead = dead_letter_pair(s, channel, **{"x-max-length": 3})
    for n in range(8):
        channel.publish(n, work)
    drain(s, dead, 5)
    drain(s, work, 3)


@scenario()
def delivery_limit(s):
    """A quorum queue gives up after x-delivery-limit 2: three deliveries, then the dead-letter queue."""
    channel = s.client().channel()
    work, dead = dead_letter_pair(s, channel, **{"x-queue-type": "quorum", "x-delivery-limit": 2})
    for n in range(4):
        channel.publish(n, work)
    consumer = s.client().channel()
    consumer.consume(work, lambda d: consumer.reject(d, requeue=True), prefetch=4)
    consumer.client.wait(lambda: len(consumer.seen) == 12)
    consumer.client.wait(seconds=0.05)
    drain(s, dead, 4)


@scenario()
def quorum_reject(s):
    """A quorum queue, rejected at once."""
    channel = s.client().channel()
    work, dead = dead_letter_pair(s, channel, **{"x-queue-type": "quorum"})
    for n in range(6):
        channel.publish(n, work)
    consumer = s.client().channel()
    consumer.consume(work, lambda d: consumer.reject(d, requeue=False))
    consumer.client.wait(lambda: len(consumer.seen) == 6)
    drain(s, dead, 6)


@scenario()
def policy_dead_letters(s):
    """The dead-letter exchange comes from a policy, which no client ever sees: only the dead letters tell."""
    channel = s.client().channel()
    dead = channel.queue("dead", {"drop": True}, name=f"policy.{s.prefix}.dead")
    work = channel.queue("work", {"policy": dead}, name=f"policy.{s.prefix}.work")
    channel.pika.queue_bind(dead, "amq.topic", f"{work}")
    for n in range(4):
        channel.publish(n, work)
    consumer = s.client().channel()
    consumer.consume(work, lambda d: consumer.reject(d, requeue=False))
    consumer.client.wait(lambda: len(consumer.seen) == 4)
    drain(s, dead, 4)


@scenario()
def undeclared_queue(s):
    """Consumer and producer never declare the queue: the agent has only the messages to learn from."""
    with s.client() as setup:
        channel = setup.channel()
        work, dead = dead_letter_pair(s, channel)
    consumer, producer = s.client().channel(), s.client().channel()
    consumer.queue("work", passive=True)
    for n in range(4):
        producer.publish(n, work)
    consumer.consume(work, lambda d: consumer.reject(d, requeue=False))
    consumer.client.wait(lambda: len(consumer.seen) == 4)
    drain(s, dead, 4)
