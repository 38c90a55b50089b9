"""Queues that end by themselves, and take along what waits in them."""

from ..stage import scenario
from .dead_letters import drain


def noticed(s):
    """Time for the broker to notice that a connection is gone."""
    s.client().wait(seconds=0.1)


def owned(s, count, part="own", **options):
    """A publisher's channel, and another connection's with an exclusive queue of its own that has so many messages."""
    publisher, owner = s.client().channel(), s.client().channel()
    queue = owner.queue(part, {"drop": True}, exclusive=True, **options)
    return filled(publisher, queue, count), owner, queue


def filled(publisher, queue, count):
    """Publishes so many, and returns when the broker has them."""
    publisher.confirms()
    for n in range(count):
        publisher.publish(n, queue)
    publisher.wait_confirms()
    return publisher


@scenario()
def exclusive_closed(s):
    """An exclusive queue ends with its connection: what waits, and what its consumer had not settled."""
    _, owner, queue = owned(s, 6)
    owner.consume(queue, prefetch=2)
    owner.client.wait(lambda: len(owner.seen) == 2)
    owner.ack(owner.seen[0])
    owner.client.wait(lambda: len(owner.seen) == 3)
    owner.client.close(exclusive=[queue])


@scenario()
def exclusive_severed(s):
    """The same without a word, after one message was given back."""
    _, owner, queue = owned(s, 5)
    owner.nack(owner.get(queue), requeue=True)
    owner.get(queue)
    owner.client.sever(exclusive=[queue])
    noticed(s)


@scenario()
def exclusive_unconsumed(s):
    """An exclusive queue that nobody ever consumes. What was published before it was bound never was in it."""
    publisher, owner = s.client().channel(), s.client().channel()
    exchange = publisher.exchange("news", "topic")
    publisher.publish(0, exchange=exchange, key="a.b")
    publisher.client.wait(seconds=0.05)
    queue = owner.queue("", {"drop": True}, name="", exclusive=True, auto_delete=True)
    owner.bind(queue, exchange, "a.*")
    for n in range(1, 4):
        s.log.add("waits", key=publisher.publish(n, exchange=exchange, key="a.b"), queue=queue)
    publisher.publish(4, exchange=exchange, key="b.b")
    publisher.client.wait(seconds=0.05)
    owner.client.close(exclusive=[queue])
    publisher.publish(5, queue)


@scenario()
def exclusive_again(s):
    """Two connections in turn have an exclusive queue of the same name."""
    publisher, owner, queue = owned(s, 3)
    owner.client.close(exclusive=[queue])
    second = s.client().channel()
    second.queue("own", {"drop": True}, exclusive=True)
    for n in range(3, 6):
        publisher.publish(n, queue)
    publisher.wait_confirms()
    second.consume(queue, second.ack)
    second.client.wait(lambda: len(second.seen) == 3)
    second.client.wait(seconds=0.02)


def shared(s, count, **options):
    """A publisher's channel, and an auto-delete queue that has so many messages."""
    publisher = s.client().channel()
    queue = publisher.queue("work", {"drop": True}, auto_delete=True, **options)
    return filled(publisher, queue, count), queue


@scenario()
def auto_delete_cancelled(s):
    """An auto-delete queue ends when the last of its consumers is cancelled; what they hold they may still settle."""
    publisher, queue = shared(s, 6)
    first, second = s.client().channel(), s.client().channel()
    tags = []
    for consumer in (first, second):
        tags.append(consumer.consume(queue, prefetch=2))
        consumer.client.wait(lambda: len(consumer.seen) == 2)
    first.cancel(tags[0])
    first.ack(first.seen[0])
    first.client.wait(seconds=0.05)
    s.log.add("deleted", queue=queue)
    second.cancel(tags[1])
    first.ack(first.seen[1])
    second.ack(second.seen[0])
    second.client.wait(seconds=0.05)


@scenario()
def auto_delete_left(s):
    """The last consumer's channel is closed: what it holds goes with the queue, what another channel holds stays with that."""
    publisher, queue = shared(s, 5)
    other, consumer = s.client().channel(), s.client().channel()
    held = other.get(queue)
    consumer.consume(queue, prefetch=2)
    consumer.client.wait(lambda: len(consumer.seen) == 2)
    consumer.leave(unused=[queue])
    other.ack(held)
    other.client.wait(seconds=0.02)


@scenario()
def auto_delete_severed(s):
    """The last consumer's connection is lost; one that was closed before had given back what it held."""
    publisher, queue = shared(s, 5)
    first, last = s.client().channel(), s.client().channel()
    first.consume(queue, prefetch=1)
    first.client.wait(lambda: len(first.seen) == 1)
    last.consume(queue, prefetch=2)
    last.client.wait(lambda: len(last.seen) == 2)
    first.leave()
    last.client.sever(unused=[queue])
    noticed(s)


@scenario()
def auto_delete_kept(s):
    """basic.get makes nobody a consumer, and a queue that has had none stays."""
    publisher, queue = shared(s, 4)
    taker = s.client().channel()
    taker.ack(taker.get(queue))
    taker.get(queue)
    taker.client.close()
    noticed(s)
    drain(s, queue, 3)


@scenario()
def auto_delete_again(s):
    """After its end the queue is declared again: what was in it is not in the new one."""
    publisher, queue = shared(s, 4)
    consumer = s.client().channel()
    consumer.consume(queue, prefetch=1)
    consumer.client.wait(lambda: len(consumer.seen) == 1)
    consumer.ack(consumer.seen[0])
    consumer.client.wait(lambda: len(consumer.seen) == 2)
    consumer.leave(unused=[queue])
    publisher.queue("work", {"drop": True}, auto_delete=True)
    for n in range(4, 7):
        publisher.publish(n, queue)
    publisher.wait_confirms()
    drain(s, queue, 3)
