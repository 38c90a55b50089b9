"""How deliveries are settled."""

from ..stage import scenario


def filled(s, count, part="work", fate=None, **options):
    """A client, a channel, a queue and that many messages in it."""
    client = s.client()
    channel = client.channel()
    queue = channel.queue(part, fate or {"drop": True}, **options)
    for n in range(count):
        channel.publish(n, queue)
    return client, channel, queue


@scenario()
def ack_explicit(s):
    """Confirmed publishes; each delivery acknowledged by itself."""
    client = s.client()
    channel = client.channel()
    channel.confirms()
    queue = channel.queue("work", {"drop": True})
    for n in range(50):
        channel.publish(n, queue)
    channel.wait_confirms()
    consumer = s.client().channel()
    consumer.consume(queue, consumer.ack)
    consumer.client.wait(lambda: len(consumer.seen) == 50)


@scenario()
def ack_multiple(s):
    """Every tenth delivery acknowledges all before it; the last with tag 0: all that is outstanding."""
    client, channel, queue = filled(s, 95)
    consumer = s.client().channel()

    def on(delivery):
        if len(consumer.seen) % 10 == 0:
            consumer.ack(delivery, multiple=True)

    consumer.consume(queue, on)
    consumer.client.wait(lambda: len(consumer.seen) == 95)
    consumer.ack(0, multiple=True)


@scenario()
def ack_out_of_order(s):
    """The latest first, each by itself."""
    client, channel, queue = filled(s, 12)
    consumer = s.client().channel()
    consumer.consume(queue)
    consumer.client.wait(lambda: len(consumer.seen) == 12)
    for delivery in reversed(consumer.seen):
        consumer.ack(delivery)


@scenario()
def auto_ack(s):
    """No acknowledgements at all."""
    client, channel, queue = filled(s, 60)
    consumer = s.client().channel()
    consumer.consume(queue, auto=True)
    consumer.client.wait(lambda: len(consumer.seen) == 60)


@scenario()
def get_and_ack(s):
    """basic.get, acknowledged; the last one finds the queue empty."""
    client, channel, queue = filled(s, 8)
    while delivery := channel.get(queue):
        channel.ack(delivery)
    assert len(channel.seen) == 8


@scenario()
def get_auto(s):
    """basic.get that needs no acknowledgement."""
    client, channel, queue = filled(s, 8)
    while channel.get(queue, auto=True):
        pass
    assert len(channel.seen) == 8


@scenario()
def get_and_requeue(s):
    """basic.get, given back twice, then taken."""
    client, channel, queue = filled(s, 1)
    for _ in range(2):
        channel.nack(channel.get(queue), requeue=True)
    channel.ack(channel.get(queue))


def second_time_lucky(give_back):
    """A consumer's callback that gives each message back once."""

    def make(consumer):
        def on(delivery):
            if delivery.redelivered:
                consumer.ack(delivery)
            else:
                give_back(consumer, delivery)

        return on

    return make


@scenario()
def nack_requeue(s):
    """Each message is given back once by basic.nack, then acknowledged."""
    client, channel, queue = filled(s, 20)
    consumer = s.client().channel()
    consumer.consume(queue, second_time_lucky(lambda c, d: c.nack(d, requeue=True))(consumer), prefetch=5)
    consumer.client.wait(lambda: len(consumer.seen) == 40)


@scenario()
def reject_requeue(s):
    """Each message is given back once by basic.reject, then acknowledged."""
    client, channel, queue = filled(s, 20)
    consumer = s.client().channel()
    consumer.consume(queue, second_time_lucky(lambda c, d: c.reject(d, requeue=True))(consumer), prefetch=1)
    consumer.client.wait(lambda: len(consumer.seen) == 40)


@scenario()
def nack_multiple(s):
    """Ten at once are given back, ten at once are acknowledged."""
    client, channel, queue = filled(s, 10)
    consumer = s.client().channel()
    consumer.consume(queue, prefetch=10)
    consumer.client.wait(lambda: len(consumer.seen) == 10)
    consumer.nack(consumer.seen[9], requeue=True, multiple=True)
    consumer.client.wait(lambda: len(consumer.seen) == 20)
    consumer.ack(consumer.seen[19], multiple=True)


@scenario()
def nack_all(s):
    """basic.nack of tag 0 and multiple: everything outstanding, for good."""
    client, channel, queue = filled(s, 7)
    consumer = s.client().channel()
    consumer.consume(queue)
    consumer.client.wait(lambda: len(consumer.seen) == 7)
    consumer.nack(0, requeue=False, multiple=True)


@scenario()
def requeued_many_times(s):
    """One message, nine deliveries."""
    client, channel, queue = filled(s, 1)
    consumer = s.client().channel()

    def on(delivery):
        if len(consumer.seen) < 9:
            consumer.nack(delivery, requeue=True)
        else:
            consumer.ack(delivery)

    consumer.consume(queue, on)
    consumer.client.wait(lambda: len(consumer.seen) == 9)


@scenario()
def recover(s):
    """basic.recover brings back what is outstanding."""
    client, channel, queue = filled(s, 6)
    consumer = s.client().channel()
    consumer.consume(queue)
    consumer.client.wait(lambda: len(consumer.seen) == 6)
    consumer.ack(consumer.seen[0])
    consumer.recover()
    consumer.client.wait(lambda: len(consumer.seen) == 11)
    for delivery in consumer.seen[6:]:
        consumer.ack(delivery)


@scenario()
def unknown_tag(s):
    """A settlement of a tag that never was: 406, and everything outstanding comes again."""
    client, channel, queue = filled(s, 3)
    consumer = s.client().channel()
    consumer.consume(queue)
    consumer.client.wait(lambda: len(consumer.seen) == 3)
    consumer.blunder()
    again = s.client().channel()
    again.consume(queue, again.ack)
    again.client.wait(lambda: len(again.seen) == 3)


@scenario()
def double_ack(s):
    """The same tag acknowledged twice: 406 for the second."""
    client, channel, queue = filled(s, 2)
    consumer = s.client().channel()
    consumer.consume(queue)
    consumer.client.wait(lambda: len(consumer.seen) == 2)
    consumer.ack(consumer.seen[0])
    consumer.log.add("event", name="settle_failed", code=406, chan=consumer.chan, tag=1)
    consumer.pika.basic_ack(1)
    consumer.broken(406)
    again = s.client().channel()
    again.consume(queue, again.ack)
    again.client.wait(lambda: len(again.seen) == 1)


@scenario()
def transactions(s):
    """Publishes and settlements count when they are committed, and not when they are rolled back."""
    client = s.client()
    channel = client.channel()
    queue = channel.queue("work", {"drop": True})
    channel.tx()
    for n in range(4):
        channel.publish(n, queue)
    channel.commit()
    for n in range(4, 6):
        channel.publish(n, queue)
    channel.rollback()
    consumer = s.client().channel()
    consumer.tx()
    consumer.consume(queue)
    consumer.client.wait(lambda: len(consumer.seen) == 4)
    consumer.ack(consumer.seen[0])
    consumer.ack(consumer.seen[1])
    consumer.commit()
    consumer.ack(consumer.seen[2])
    consumer.rollback()
    consumer.ack(consumer.seen[2])
    consumer.reject(consumer.seen[3], requeue=False)
    consumer.commit()


@scenario()
def prefetch_windows(s):
    """Three consumers of one queue with windows of 1, 10 and 100."""
    client, channel, queue = filled(s, 150)
    consumers = [s.client().channel() for _ in range(3)]
    for consumer, window in zip(consumers, (1, 10, 100)):
        consumer.consume(queue, consumer.ack, prefetch=window)

    def all_done():
        for consumer in consumers:
            consumer.client.wait(seconds=0)
        return sum(len(c.seen) for c in consumers) == 150

    client.wait(all_done)


@scenario()
def slow_consumer(s):
    """Processing that takes a known time, with the next messages waiting behind it in the client."""
    client, channel, queue = filled(s, 4)
    consumer = s.client().channel()

    def on(delivery):
        import time

        time.sleep(0.15)
        consumer.ack(delivery)

    consumer.consume(queue, on, prefetch=2)
    consumer.client.wait(lambda: len(consumer.seen) == 4)


@scenario()
def busy_consumer(s):
    """A consumer that does not read its socket for a while: the messages wait in its receive buffer."""
    import time

    client = s.client()
    channel = client.channel()
    queue = channel.queue("work", {"drop": True})
    consumer = s.client().channel()
    consumer.consume(queue, consumer.ack)
    for n in range(5):
        channel.publish(n, queue)
    client.wait(seconds=0.1)
    consumer.log.add("note", text="not reading", chan=consumer.chan)
    time.sleep(0.4)
    consumer.log.add("note", text="reading", chan=consumer.chan)
    consumer.client.wait(lambda: len(consumer.seen) == 5)


@scenario()
def recover_in_transaction(s):
    """basic.recover is in no transaction, and spares what the open one has settled."""
    client, channel, queue = filled(s, 5)
    consumer = s.client().channel()
    consumer.tx()
    consumer.consume(queue)
    consumer.client.wait(lambda: len(consumer.seen) == 5)
    consumer.ack(consumer.seen[1], multiple=True)
    consumer.reject(consumer.seen[3], requeue=False)
    consumer.recover()
    consumer.client.wait(lambda: len(consumer.seen) == 7)
    consumer.commit()
    for delivery in consumer.seen[5:]:
        consumer.ack(delivery)
    consumer.commit()
    consumer.client.wait(seconds=0.02)
