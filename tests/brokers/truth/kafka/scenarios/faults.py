"""What goes wrong under way: processes that die, logs that shrink, topics that are made again."""

import time

from ..client import polled
from ..stage import KINDS, scenario
from .groups import filled

# A broker with ZooKeeper answers before its controller has told it who leads what: it knows no topic and no broker, not even
# itself. librdkafka then closes its last connection, and looks for another one only after five minutes, if it is not told otherwise.
REBOOTSTRAP = {"librdkafka": {"metadata.recovery.rebootstrap.trigger.ms": 1000}}


def drained_for(consumer, seconds, until):
    """Polls and commits until `until()`, at most so long."""
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, "what was produced does not come"
        if consumer.poll(idle=50, timeout=500, enough=False):
            consumer.commit()


@scenario(kind=("java", "librdkafka"))
def broker_killed(s, kind):
    """The broker dies under load and comes back: what was on its way is sent again, and every record has a fate."""
    topic = s.topic(partitions=2)
    consumer = s.consumer(kind, "readers", session=30_000, extra=REBOOTSTRAP.get(kind)).subscribe(topic)
    consumer.poll(assigned=2)
    producer = s.producer(kind, which=1, idempotent=True, acks="all", linger=2)
    producing = producer.ask("produce", topic=topic, stem=s.prefix, n=400, first=0, size=100, pause=10, headers=[])
    drained_for(consumer, 20, lambda: sum(s.committed("readers").values()) > 20)
    s.restart("killed")
    producing.result(60)
    producer.flush()
    drained_for(consumer, 40, lambda: sum(s.committed("readers").values()) == 400)


@scenario(kind=("librdkafka", "franz", "python"))
def producer_killed(s, kind):
    """A producer dies with records on their way: some are stored, and perhaps answered, some are nowhere."""
    topic = s.topic()
    producer = s.producer(kind, which=1, fresh=True, linger=20, batch=2000)
    producer.produce(topic, 20, size=100)
    producer.ask("produce", topic=topic, stem=s.prefix, n=5000, first=100, size=100, pause=1, headers=[])
    time.sleep(0.5)
    s.kill(producer)
    stored = s.broker.admin.ends([(topic, 0)])[topic, 0][1]
    consumer = s.consumer(kind, "readers").subscribe(topic)
    consumer.poll(records=stored)
    consumer.commit()


@scenario(kind=KINDS)
def out_of_range(s, kind):
    """What a consumer would read next is deleted: the broker refuses, and it goes on with the first that is left. A fetch that waits
    at the broker may still be answered before."""
    topic = filled(s, kind, 5)
    consumer = s.consumer(kind, "readers").subscribe(topic)
    consumer.poll(records=5)
    consumer.commit()
    if kind in ("librdkafka", "franz"):
        consumer.pause((topic, 0))
    producer = s.producer(kind, which=1, linger=5)
    producer.produce(topic, 15, first=100, size=60)
    s.truncate(topic, 0, 12)
    if kind in ("librdkafka", "franz"):
        consumer.resume((topic, 0))
    drained_for(consumer, 20, lambda: s.committed("readers") == {(topic, 0): 20})


@scenario(kind=("java", "librdkafka"))
def expired(s, kind):
    """The topic's retention deletes records before they are read."""
    topic = s.topic(segment_ms=200, retention_ms=300)
    producer = s.producer(kind, linger=2)
    producer.produce(topic, 10, size=60)
    s.survey([topic])
    time.sleep(0.4)
    # Only what is no longer the newest segment is deleted.
    producer.produce(topic, 1, first=100, size=60)
    s.shrunk(topic, 0, 10)
    s.broker.admin.configure(topic, retention_ms=600_000)
    producer.produce(topic, 5, first=200, size=60)
    consumer = s.consumer(kind, "readers").subscribe(topic)
    drained_for(consumer, 20, lambda: s.committed("readers") == {(topic, 0): 16})


# librdkafka and franz-go do not go on with the new topic.
@scenario(kind=("java",))
def remade_under_readers(s, kind):
    """A topic is deleted and made again while its readers stay: the same group goes on with the new one."""
    topic = filled(s, kind, 20)
    consumer = s.consumer(kind, "readers", extra={"metadata.max.age.ms": 500}).subscribe(topic)
    consumer.poll(records=20)
    consumer.commit()
    polling = consumer.start_poll(idle=1500, timeout=4000)
    s.remake(topic)
    polled(polling, enough=False)
    producer = s.producer(kind, which=1, linger=2)
    producer.produce(topic, 15, first=100)
    drained_for(consumer, 30, lambda: s.committed("readers") == {(topic, 0): 15})
