"""Transactions: committed, aborted, with offsets."""

from ..stage import KINDS, scenario
from .groups import filled


@scenario(kind=KINDS)
def transactional(s, kind):
    """Two transactions are committed and the one between them aborted; one group is given all, one only what was committed."""
    topic = s.topic(partitions=2)
    producer = s.producer(kind, transactional=f"{s.prefix}.tx", linger=2)
    for number, good in enumerate((True, False, True)):
        producer.begin()
        for partition in (0, 1):
            producer.produce(topic, 10, first=20 * number + 10 * partition, partition=partition, flush=False)
        producer.flush()
        (producer.commit if good else producer.abort)()
    for isolation, count in (("read_committed", 40), ("read_uncommitted", 60)):
        consumer = s.consumer(kind, isolation, isolation=isolation).subscribe(topic)
        assert len(consumer.poll(records=count, idle=150)) == count
        consumer.commit()
        consumer.close()


@scenario(kind=KINDS)
def open_transaction(s, kind):
    """What is in an open transaction is kept back from a reader of committed records, and given to the other."""
    topic = s.topic()
    producer = s.producer(kind, transactional=f"{s.prefix}.tx", linger=2)
    other = s.producer(kind)
    producer.begin()
    producer.produce(topic, 5)
    other.produce(topic, 5, first=100)
    waiting = s.consumer(kind, "committed", isolation="read_committed").subscribe(topic)
    assert not waiting.poll(assigned=1, idle=200)
    eager = s.consumer(kind, "uncommitted", which=1).subscribe(topic)
    eager.poll(records=10)
    eager.commit()
    producer.commit()
    waiting.poll(records=10)
    waiting.commit()


@scenario(kind=("java", "librdkafka", "python"))
def transform(s, kind):
    """Consume, transform, produce: offsets go with the transaction. The second is aborted, and what it had read comes again."""
    source, sink = filled(s, kind, 20, "source"), s.topic("sink")
    producer = s.producer(kind, transactional=f"{s.prefix}.tx", linger=2)
    reader = {"max_poll": 10, "isolation": "read_committed"}
    consumer = s.consumer(kind, "movers", **reader).subscribe(source)
    for good in (True, False):
        records = consumer.poll(records=10)
        producer.begin()
        for record in records:
            producer.copy(consumer, record, sink, "plain", flush=False)
        producer.flush()
        producer.send_offsets(consumer)
        (producer.commit if good else producer.abort)()
    consumer.close()
    again = s.consumer(kind, "movers", **reader).subscribe(source)
    records = again.poll(records=10)
    assert records[0].offset == 10
    producer.begin()
    for record in records:
        producer.copy(again, record, sink, "plain", flush=False)
    producer.flush()
    producer.send_offsets(again)
    producer.commit()
    again.close()
    last = s.consumer(kind, "readers", isolation="read_committed").subscribe(sink)
    assert len(last.poll(records=20, idle=150)) == 20
    last.commit()
