"""What becomes of topics and their logs."""

import time

from ..stage import KINDS, scenario
from .groups import filled
from .publishing import drained


@scenario(kind=KINDS)
def compacted(s, kind):
    """A log from which compaction has taken most records: ranges with gaps."""
    topic = s.topic(cleanup_policy="compact", segment_ms=100, min_cleanable_dirty_ratio=0.01, min_compaction_lag_ms=0)
    producer = s.producer(kind, linger=2)
    # The same five keys again and again, and between them some that stay.
    for first in range(0, 60, 20):
        producer.produce(topic, 15, first=first, keys=5)
        producer.produce(topic, 5, first=first + 15, keys=0)
        time.sleep(0.12)
    # Only what is no longer the newest segment is compacted.
    producer.produce(topic, 1, first=1000, keys=0)
    left = s.compacted(topic, 21)
    drained(s, kind, "readers", left, topic)


@scenario(kind=KINDS)
def remade(s, kind):
    """A topic is deleted and made again: the same name, another id, offsets from zero."""
    topic = filled(s, kind, 20)
    drained(s, kind, "before", 20, topic)
    s.remake(topic)
    producer = s.producer(kind, linger=2)
    producer.produce(topic, 15, first=100)
    drained(s, kind, "after", 15, topic)


@scenario(kind=KINDS)
def grown(s, kind):
    """A partition is added while a group consumes."""
    topic = filled(s, kind, 10)
    consumer = s.consumer(kind, "readers").subscribe(topic)
    consumer.poll(records=10)
    consumer.commit()
    s.grow(topic, 2)
    producer = s.producer(kind, which=1)
    producer.produce(topic, 10, first=100, partition=1)
    consumer.poll(records=10)
    consumer.commit()


@scenario(kind=KINDS)
def truncated(s, kind):
    """Records are deleted before they were read; the consumer goes on with the first that is left."""
    topic = filled(s, kind, 20)
    consumer = s.consumer(kind, "readers", max_poll=5).subscribe(topic)
    consumer.poll(records=5)
    consumer.commit()
    consumer.close()
    s.truncate(topic, 0, 12)
    again = s.consumer(kind, "readers").subscribe(topic)
    assert again.poll(records=8)[0].offset == 12
    again.commit()


@scenario(kind=("java", "librdkafka"))
def restarted(s, kind):
    """The broker goes and comes back while a group reads; who stays connects again and goes on."""
    topic = filled(s, kind, 20)
    consumer = s.consumer(kind, "readers", session=30_000).subscribe(topic)
    consumer.poll(records=20)
    consumer.commit()
    producer = s.producer(kind, which=1, idempotent=True)
    producer.produce(topic, 5, first=100)
    s.restart("killed")
    producer.produce(topic, 10, first=200)
    consumer.poll(records=15)
    while s.committed("readers") != {(topic, 0): 35}:
        consumer.commit()
