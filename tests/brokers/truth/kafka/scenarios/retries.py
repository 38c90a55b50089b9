"""Retry topics and dead-letter topics: records that a consumer publishes again."""

import time

from ..stage import KINDS, scenario
from .groups import filled


def number(value, size=0):
    """A big-endian number; of size 0 as short as Java's BigInteger writes it."""
    return {"hex": value.to_bytes(size or value.bit_length() // 8 + 1, "big", signed=True).hex()}


def plain_headers(*_):
    """None: only key, value and topic names tell."""
    return []


def spring_headers(record, group, attempt):
    """What Spring Kafka's DeadLetterPublishingRecoverer writes with retry topics; `attempt` 0 is a plain dead letter."""
    now = time.time_ns() // 1_000_000
    style = "kafka_" if attempt else "kafka_dlt-"
    headers = [(f"{style}original-topic", record.topic), (f"{style}original-partition", number(record.partition, 4)),
               (f"{style}original-offset", number(record.offset, 8)), (f"{style}original-timestamp", number(now, 8)),
               (f"{style}original-timestamp-type", "CreateTime"), ("kafka_dlt-original-consumer-group", group)]
    if not attempt:
        return [*headers, ("kafka_dlt-exception-fqcn", "java.lang.IllegalStateException"), ("kafka_dlt-exception-message", "no")]
    return [*headers, ("kafka_exception-fqcn", "java.lang.IllegalStateException"), ("kafka_exception-message", "no"),
            ("retry_topic-attempts", number(attempt + 1, 4)), ("retry_topic-original-timestamp", number(now)),
            ("retry_topic-backoff-timestamp", number(now + 1000))]


def connect_headers(record, *_):
    """What a sink connector writes into its dead-letter topic."""
    name = "__connect.errors."
    return [(f"{name}topic", record.topic), (f"{name}partition", str(record.partition)), (f"{name}offset", str(record.offset)),
            (f"{name}connector.name", "sink"), (f"{name}task.id", "0"), (f"{name}stage", "VALUE_CONVERTER"),
            (f"{name}exception.class.name", "org.apache.kafka.connect.errors.DataException")]


def streams_headers(record, *_):
    """What Kafka Streams' exception handlers write into their dead-letter topic."""
    name = "__streams.errors."
    return [(f"{name}exception", "java.lang.IllegalStateException"), (f"{name}message", "no"), (f"{name}topic", record.topic),
            (f"{name}partition", str(record.partition)), (f"{name}offset", str(record.offset))]


def smallrye_headers(record, _group, attempt):
    """What SmallRye Reactive Messaging writes on retries and, with `attempt` 0, on dead letters."""
    name = "delayed-retry-" if attempt else "dead-letter-"
    return [(f"{name}exception-class-name", "java.lang.IllegalStateException"), (f"{name}reason", "no"),
            (f"{name}topic", record.topic), (f"{name}partition", str(record.partition)), (f"{name}offset", str(record.offset))]


def binder_headers(record, *_):
    """What Spring Cloud Stream's binder writes: binary."""
    return [("x-original-topic", record.topic), ("x-original-partition", number(record.partition, 4)),
            ("x-original-offset", number(record.offset, 8)), ("x-exception-fqcn", "java.lang.IllegalStateException")]


def text_headers(record, group, _):
    """What applications write under names of their own: text."""
    return [("X-Original-Topic", record.topic), ("X-Original-Partition", str(record.partition)),
            ("X-Original-Offset", str(record.offset)), ("x-original-consumer-group", group)]


def karafka_headers(record, group, _):
    """What Karafka writes."""
    return [("source_topic", record.topic), ("source_partition", str(record.partition)), ("source_offset", str(record.offset)),
            ("source_consumer_group", group)]


# Style → the dead-letter topic behind the main topic's name, and the headers of a copy.
LETTERS = {
    "plain": (".dlq", plain_headers), "spring": (".DLT", spring_headers), "connect": ("-errors", connect_headers),
    "streams": ("-dlq", streams_headers), "smallrye": ("-dead-letter-topic", smallrye_headers),
    "binder": (".error.billing", binder_headers), "text": ("_failed", text_headers), "karafka": (".dead", karafka_headers),
}
# Style → names of the retry and the dead-letter topic behind the main topic's, and the headers of a copy.
STYLES = {
    "plain": (".retry.1", ".dlq", plain_headers),
    "spring": ("-retry-0", "-dlt", spring_headers),
    "smallrye": ("_retry_10000", ".dead-letter", smallrye_headers),
}


@scenario(style=tuple(STYLES), kind=KINDS)
def retry_topic(s, style, kind):
    """Every fourth record fails and goes to a retry topic; of these the second half fails again and becomes a dead letter."""
    retry_name, dead_name, headers = STYLES[style]
    topic = filled(s, kind, 16)
    part = topic.removeprefix(s.prefix + ".")
    retry, dead = s.topic(part + retry_name), s.topic(part + dead_name)
    group = f"{s.prefix}.billing"
    consumer = s.consumer(kind, "billing").subscribe(topic)
    producer = s.producer(kind)
    failed = [record for record in consumer.poll(records=16) if record.offset % 4 == 3]
    for record in failed:
        producer.copy(consumer, record, retry, "retry", headers(record, group, 1))
    consumer.commit()
    second = s.consumer(kind, "billing-retry").subscribe(retry)
    for record in second.poll(records=4)[2:]:
        origin = failed[record.offset]
        if style == "smallrye":
            # The latest headers are the first, and name the copy.
            again = [*headers(record, group, 2), *headers(origin, group, 1)]
        else:
            # A retry topic's headers name the first origin; only the attempt changes.
            again = headers(origin, group, 2)
        producer.copy(second, record, dead, "dead", again, inherit=False)
    second.commit()
    reader = s.consumer(kind, "letters").subscribe(dead)
    reader.poll(records=2)
    reader.commit()


@scenario(style=tuple(LETTERS), kind=("java", "librdkafka"))
def dead_letter(s, style, kind):
    """Every fifth record is a dead letter at once; half of the copies are made before the commit that covers them, half after."""
    name, headers = LETTERS[style]
    topic, dead = filled(s, kind, 20, partitions=2), s.topic("work" + name)
    group = f"{s.prefix}.billing"
    consumer = s.consumer(kind, "billing").subscribe(topic)
    producer = s.producer(kind)
    failed = [record for record in consumer.poll(records=40) if record.offset % 5 == 4]
    for record in failed[:4]:
        producer.copy(consumer, record, dead, "dead", headers(record, group, 0))
    consumer.commit()
    for record in failed[4:]:
        producer.copy(consumer, record, dead, "dead", headers(record, group, 0))


@scenario(codec=("gzip", "snappy", "lz4", "zstd"), kind=("java", "librdkafka"))
def compressed_letter(s, codec, kind):
    """What comes compressed goes into the dead-letter topic as it is, beside what is only forwarded."""
    topic, dead, other = s.topic("work"), s.topic("work.dlq"), s.topic("forwarded")
    s.producer(kind, codec=codec, linger=50).produce(topic, 40, keys=3, size=200)
    consumer = s.consumer(kind, "billing").subscribe(topic)
    producer = s.producer(kind)
    for record in consumer.poll(records=40):
        if record.offset % 10 == 0:
            producer.copy(consumer, record, dead, "dead")
        elif record.offset % 10 == 1:
            producer.copy(consumer, record, other, "plain")
    consumer.commit()


@scenario(kind=KINDS)
def forwarded(s, kind):
    """A stream processor: what it forwards unchanged into an ordinary topic is no dead letter, and no retry."""
    topic, other = filled(s, kind, 12), s.topic("orders.checked")
    consumer = s.consumer(kind, "checker").subscribe(topic)
    producer = s.producer(kind)
    for record in consumer.poll(records=12):
        producer.copy(consumer, record, other, "plain", flush=False)
    producer.flush()
    consumer.commit()


@scenario(kind=KINDS)
def two_groups_letters(s, kind):
    """Two groups have the same records; one of them gives up on some."""
    topic, dead = filled(s, kind, 12), s.topic("work_dlq")
    first = s.consumer(kind, "first").subscribe(topic)
    second = s.consumer(kind, "second", which=1).subscribe(topic)
    producer = s.producer(kind, which=1)
    first.poll(records=12)
    for record in second.poll(records=12)[3:5]:
        producer.copy(second, record, dead, "dead")
    first.commit()
    second.commit()


@scenario(kind=("java", "python"))
def twin_letters(s, kind):
    """Records that nothing tells apart: as many of them are dead as there are copies, the first ones first."""
    topic, dead = s.topic("work"), s.topic("work-dlq")
    producer = s.producer(kind)
    for _ in range(4):
        producer.produce(topic, 2, size=40)
    consumer = s.consumer(kind, "billing").subscribe(topic)
    for record in consumer.poll(records=8)[:3]:
        producer.copy(consumer, record, dead, "dead")
    consumer.commit()


@scenario(kind=("librdkafka", "python"))
def changed_letter(s, kind):
    """The copy's value is another one: its key and its trace tell."""
    topic, dead = s.topic("work"), s.topic("work.dead-letter")
    producer = s.producer(kind)
    trace = "00-4bf92f3577b34da6a3ce929d0e0e47{:02d}-00f067aa0ba902b7-01"
    for number in range(6):
        producer.produce(topic, first=number, keys=0, headers=[("traceparent", trace.format(number // 2))])
    consumer = s.consumer(kind, "billing").subscribe(topic)
    for record in consumer.poll(records=6)[1:3]:
        producer.copy(consumer, record, dead, "dead", append=" failed")
    consumer.commit()


@scenario(kind=("java", "franz"))
def late_producer(s, kind):
    """A process that has produced nothing before its first dead letter."""
    topic, dead = filled(s, kind, 8), s.topic("work.DLQ")
    consumer = s.consumer(kind, "billing", which=1, fresh=True).subscribe(topic)
    records = consumer.poll(records=8)
    producer = s.producer(kind, which=1)
    producer.copy(consumer, records[5], dead, "dead")
    consumer.commit()


@scenario(kind=("java", "librdkafka"))
def unanswered_letter(s, kind):
    """Without acks the copy's place is not told; the letter is."""
    topic, dead = filled(s, kind, 8), s.topic("work.dlq")
    consumer = s.consumer(kind, "billing").subscribe(topic)
    producer = s.producer(kind, acks="0", idempotent=False)
    for record in consumer.poll(records=8)[2:4]:
        producer.copy(consumer, record, dead, "dead")
    consumer.commit()
    reader = s.consumer(kind, "letters").subscribe(dead)
    reader.poll(records=2)
    reader.commit()
