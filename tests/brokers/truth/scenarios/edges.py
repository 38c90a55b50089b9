"""The protocol's rarer methods and limits."""

import pika.exceptions
import pika.frame
import pika.spec

from ..stage import scenario
from .connections import holding
from .dead_letters import dead_letter_pair, drain
from .settling import filled


@scenario()
def small_frames(s):
    """The client negotiates frames of 4096 bytes, the least there is: bodies come in many pieces, both ways."""
    client = s.client(frame_max=4096)
    channel = client.channel()
    channel.confirms()
    queue = channel.queue("work", {"drop": True})
    sizes = [200, 4087, 4088, 4089, 8175, 8176, 8177, 100_000]
    for n, size in enumerate(sizes):
        channel.publish(n, queue, size=size)
    channel.wait_confirms()
    consumer = s.client(frame_max=4096).channel()
    consumer.consume(queue, consumer.ack)
    consumer.client.wait(lambda: len(consumer.seen) == len(sizes))
    consumer.client.wait(seconds=0.02)


@scenario()
def interleaved_frames(s):
    """Frames of four channels in turn: each channel's method, header and body pieces have the others' between them."""
    client = s.client(frame_max=4096)
    channels = [client.channel() for _ in range(4)]
    queue = channels[0].queue("work", {"drop": True})
    for start in (0, 4):
        trains = [frames_of(channel, start + i, queue, 3000 + 5000 * i) for i, channel in enumerate(channels)]
        turns = [train[turn] for turn in range(max(map(len, trains))) for train in trains if turn < len(train)]
        client.connection._impl._output_marshaled_frames(turns)
        client.connection._flush_output()
    drain(s, queue, 8)


def frames_of(channel, n, queue, size):
    """A publish as its single frames, written into the truth log."""
    key, identity, body = channel.stage.message(n, size=size)
    number, piece = channel.pika.channel_number, 2000
    channel.log.add("publish", key=key, id=identity, exchange="", rk=queue, mandatory=False, size=len(body), chan=channel.chan,
                    tx=None, confirms=False, republished=False)
    frames = [pika.frame.Method(number, pika.spec.Basic.Publish(exchange="", routing_key=queue)),
              pika.frame.Header(number, len(body), pika.BasicProperties(message_id=identity))]
    frames += [pika.frame.Body(number, body[at:at + piece]) for at in range(0, len(body), piece)]
    return [frame.marshal() for frame in frames]


@scenario()
def high_channels(s):
    """Channel numbers up to the highest that is negotiated."""
    client = s.client()
    first, last = client.channel(1), client.channel(2047)
    queue = first.queue("work", {"drop": True})
    last.confirms()
    for n in range(6):
        (last if n % 2 else first).publish(n, queue)
    last.wait_confirms()
    last.consume(queue, last.ack)
    client.wait(lambda: len(last.seen) == 6)
    client.wait(seconds=0.02)


@scenario(ids=(True,))
def heartbeats(s):
    """A connection on which for seconds nothing but heartbeats passes, between its messages."""
    client = s.client(heartbeat=1)
    channel = client.channel()
    queue = channel.queue("work", {"drop": True})
    channel.publish(0, queue)
    channel.consume(queue, channel.ack)
    client.wait(seconds=2.3)
    channel.publish(1, queue)
    client.wait(lambda: len(channel.seen) == 2)
    client.wait(seconds=0.02)


@scenario()
def flow(s):
    """channel.flow, the one way that the broker takes it, between deliveries."""
    client, channel, queue = filled(s, 4)
    consumer = s.client().channel()
    consumer.consume(queue, consumer.ack, prefetch=1)
    assert consumer.pika.flow(True)
    consumer.client.wait(lambda: len(consumer.seen) == 4)
    consumer.client.wait(seconds=0.02)


@scenario()
def flow_refused(s):
    """channel.flow the other way: 540, the connection is closed, and what was outstanding comes again."""
    client, channel, queue = filled(s, 4)
    consumer = holding(s, queue, 3)
    consumer.ended("connection_lost")
    try:
        consumer.pika.flow(False)
    except pika.exceptions.ConnectionClosedByBroker as closed:
        assert closed.reply_code == 540, closed
    drain(s, queue, 4)


@scenario(ids=(True,))
def blocked(s):
    """connection.blocked and unblocked: while an alarm lasts, the broker reads nothing from who publishes."""
    client = s.client()
    channel = client.channel()
    channel.confirms()
    queue = channel.queue("work", {"drop": True})
    channel.publish(0, queue)
    channel.wait_confirms()
    told = []
    for name in ("blocked", "unblocked"):
        listen = getattr(client.connection, f"add_on_connection_{name}_callback")
        listen(lambda *_, name=name: told.append(name))
    alarm = "{resource_limit,memory,node()}"
    s.broker.ctl("eval", f"rabbit_alarm:set_alarm({{{alarm},[]}}), "
                 f"spawn(fun() -> timer:sleep(1500), rabbit_alarm:clear_alarm({alarm}) end).")
    s.log.add("event", name="blocked", chan=channel.chan)
    s.log.add("event", name="unblocked", chan=channel.chan)
    for n in range(1, 4):
        channel.publish(n, queue)
        client.wait(seconds=0.05)
    assert told == ["blocked"] and len(channel.confirmed) == 1
    client.wait(lambda: told == ["blocked", "unblocked"])
    channel.wait_confirms()
    drain(s, queue, 4)


# A channel takes them over when it is opened.
TIMES = ("application:set_env(rabbit, consumer_timeout, {timeout}), "
         "application:set_env(rabbit, channel_tick_interval, {tick}).")


@scenario(ids=(True,))
def ack_timeout(s):
    """A consumer that does not settle in the broker's time: 406, its channel is closed, and all that it held comes again."""
    client, channel, queue = filled(s, 3)
    s.broker.ctl("eval", TIMES.format(timeout=300, tick=200))
    try:
        consumer = s.client().channel()
        consumer.consume(queue, prefetch=2)
        consumer.client.wait(lambda: len(consumer.seen) == 2)
        consumer.ended("ack_timeout")
        consumer.closed_with(406)
    finally:
        s.broker.ctl("eval", TIMES.format(timeout=1_800_000, tick=60_000))
    drain(s, queue, 3)


@scenario()
def cancelled_by_both(s):
    """One consumer is cancelled by its client, another by the broker, on one channel; the channel goes on."""
    client = s.client()
    channel = client.channel()
    one, two = channel.queue("one", {"drop": True}), channel.queue("two", {"drop": True})
    consumer = s.client().channel()
    first = consumer.consume(one)
    consumer.consume(two)
    for n in range(6):
        channel.publish(n, one if n % 2 else two)
    consumer.client.wait(lambda: len(consumer.seen) == 6)
    for delivery in consumer.seen[:6]:
        consumer.ack(delivery)
    consumer.cancel(first)
    consumer.log.add("event", name="consumer_cancelled", chan=consumer.chan)
    channel.pika.queue_delete(two)
    for n in range(6, 8):
        channel.publish(n, one)
    consumer.client.wait(seconds=0.1)
    assert len(consumer.seen) == 6
    consumer.consume(one, consumer.ack)
    consumer.client.wait(lambda: len(consumer.seen) == 8)
    consumer.client.wait(seconds=0.02)


@scenario()
def consumer_priorities(s):
    """Two consumers of one queue; the one with the higher priority gets everything while it has room."""
    client = s.client()
    channel = client.channel()
    queue = channel.queue("work", {"drop": True})
    low, high = s.client().channel(), s.client().channel()
    low.consume(queue, low.ack, arguments={"x-priority": 1})
    high.consume(queue, arguments={"x-priority": 9}, prefetch=5)
    for n in range(8):
        channel.publish(n, queue)
    high.client.wait(lambda: len(high.seen) == 5)
    low.client.wait(lambda: len(low.seen) == 3)
    high.ack(high.seen[4], multiple=True)
    low.client.wait(seconds=0.02)


@scenario()
def window_of_channel(s):
    """A window for the whole channel (global qos), shared by two consumers."""
    client = s.client()
    channel = client.channel()
    queues = [channel.queue(part, {"drop": True}) for part in ("one", "two")]
    consumer = s.client().channel()
    consumer.pika.basic_qos(prefetch_count=3, global_qos=True)
    for queue in queues:
        consumer.consume(queue, consumer.ack)
    for n in range(12):
        channel.publish(n, queues[n % 2])
    consumer.client.wait(lambda: len(consumer.seen) == 12)
    consumer.client.wait(seconds=0.02)


@scenario()
def transaction_of_both(s):
    """One transaction takes from one queue and publishes to another; given up once, then committed; and one is left open."""
    client, channel, queue = filled(s, 2)
    done = channel.queue("done", {"drop": True})
    worker = s.client().channel()
    worker.tx()
    worker.consume(queue)
    worker.client.wait(lambda: len(worker.seen) == 2)
    worker.publish(10, done)
    worker.ack(worker.seen[0])
    worker.rollback()
    worker.publish(11, done)
    worker.ack(worker.seen[0])
    worker.commit()
    worker.publish(12, done)
    worker.ack(worker.seen[1])
    worker.close()
    drain(s, done, 1)
    drain(s, queue, 1)


@scenario()
def replies_beside_work(s):
    """Direct replies all have tag 1, on a channel whose own tag 1 is still held, with confirms outstanding in between."""
    client = s.client()
    caller = client.channel()
    caller.confirms()
    server = s.client().channel()
    queue, work = server.queue("rpc", {"drop": True}), server.queue("work", {"drop": True})

    def answer(delivery):
        server.publish(f"re{delivery.key.rsplit('/', 1)[1]}", delivery.properties.reply_to)
        server.ack(delivery)

    server.consume(queue, answer)
    for n in range(3):
        server.publish(f"work{n}", work)
    caller.consume(work)
    client.wait(lambda: len(caller.seen) == 3)
    caller.consume("amq.rabbitmq.reply-to", auto=True)
    for n in range(3):
        caller.publish(n, queue, reply_to="amq.rabbitmq.reply-to")
        server.client.wait(lambda: len(server.seen) == n + 1)
        client.wait(lambda: len(caller.seen) == n + 4)
        caller.ack(caller.seen[n])
    caller.wait_confirms()
    client.wait(seconds=0.02)


@scenario()
def expired_twice(s):
    """Through two queues with a time to live, one after the other."""
    channel = s.client().channel()
    dead = channel.queue("dead", {"drop": True})
    middle = channel.queue("middle", {"dead": dead}, arguments={
        "x-message-ttl": 60, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead})
    first = channel.queue("first", {"dead": middle}, arguments={
        "x-message-ttl": 40, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": middle})
    for n in range(3):
        channel.publish(n, first)
    drain(s, dead, 3)


@scenario()
def expired_unnoticed(s):
    """The time to live passes and nobody is told: no dead-letter exchange."""
    client = s.client()
    channel = client.channel()
    queue = channel.queue("work", {"drop": True}, arguments={"x-message-ttl": 50})
    for n in range(3):
        channel.publish(n, queue)
    other = channel.queue("other", {"drop": True})
    channel.publish(3, other, expiration="50")
    for n in range(4):
        s.log.add("expired", key=f"{s.prefix}/{n}", queue=queue if n < 3 else other)
    client.wait(seconds=1.3)
    assert channel.get(queue) is None and channel.get(other) is None


@scenario()
def overflow_drops(s):
    """x-max-length 3 without a dead-letter exchange: the oldest go, and nothing on the wire says so."""
    channel = s.client().channel()
    work = channel.queue("work", {"drop": True}, arguments={"x-max-length": 3})
    for n in range(8):
        channel.publish(n, work)
    drain(s, work, 3)


@scenario()
def quorum_limit_by_loss(s):
    """A quorum queue counts lost consumers against its delivery limit as well."""
    channel = s.client().channel()
    work, dead = dead_letter_pair(s, channel, **{"x-queue-type": "quorum", "x-delivery-limit": 1})
    for n in range(2):
        channel.publish(n, work)
    for _ in range(2):
        consumer = holding(s, work, 2)
        consumer.client.sever()
    drain(s, dead, 2)


@scenario()
def at_least_once(s):
    """Quorum queues dead-letter at least once, with confirms of their own, if asked to."""
    channel = s.client().channel()
    work, dead = dead_letter_pair(s, channel, **{"x-queue-type": "quorum", "x-dead-letter-strategy": "at-least-once",
                                                 "x-overflow": "reject-publish"})
    for n in range(5):
        channel.publish(n, work)
    consumer = s.client().channel()
    consumer.consume(work, lambda d: consumer.reject(d, requeue=False))
    consumer.client.wait(lambda: len(consumer.seen) == 5)
    drain(s, dead, 5)


@scenario()
def stream_from_its_end(s):
    """Two consumers of a stream join in the middle: one from the next message on, one at the last chunk."""
    client = s.client()
    channel = client.channel()
    channel.confirms()
    queue = channel.queue("work", {"stream": True}, durable=True, arguments={"x-queue-type": "stream"})
    for n in range(5):
        channel.publish(n, queue)
        channel.wait_confirms()
    consumers = []
    for start in ("next", "last"):
        consumer = s.client().channel()
        consumer.consume(queue, consumer.ack, prefetch=20, arguments={"x-stream-offset": start})
        consumers.append(consumer)
    consumers[1].client.wait(lambda: len(consumers[1].seen) == 1)
    consumers[0].client.wait(seconds=0.1)
    for n in range(5, 8):
        channel.publish(n, queue)
    channel.wait_confirms()
    consumers[0].client.wait(lambda: len(consumers[0].seen) == 3)
    consumers[1].client.wait(lambda: len(consumers[1].seen) == 4)
    assert [d.headers["x-stream-offset"] for d in consumers[0].seen] == [5, 6, 7]
    for consumer in consumers:
        consumer.client.wait(seconds=0.02)


@scenario(ids=(True,))
def producer_killed(s):
    """kill -9 of a process that publishes: what it had written is there."""
    client = s.client()
    channel = client.channel()
    queue = channel.queue("work", {"drop": True})
    child = s.child("publish", queue, "7")
    chan = child.stdout.readline().strip()
    assert chan, "the child producer did not come up"
    s.log.add("event", name="connection_lost", chan=chan)
    child.kill()
    child.wait()
    child.stdout.close()
    drain(s, queue, 7)

