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


# Style → names of the retry and the dead-letter topic behind the main topic's, and the headers of a copy.
STYLES = {
    "plain": (".retry.1", ".dlq", plain_headers),
    "spring": ("-retry-0", "-dlt", spring_headers),
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
        # A retry topic's headers name the first origin; only the attempt changes.
        producer.copy(second, record, dead, "dead", headers(origin, group, 2), inherit=False)
    second.commit()
    reader = s.consumer(kind, "letters").subscribe(dead)
    reader.poll(records=2)
    reader.commit()


@scenario(style=("plain", "spring", "connect"), kind=("java", "librdkafka"))
def dead_letter(s, style, kind):
    """Every fifth record is a dead letter at once; half of the copies are made before the commit that covers them, half after."""
    headers = {"plain": plain_headers, "spring": spring_headers, "connect": connect_headers}[style]
    topic = filled(s, kind, 20, partitions=2)
    dead = s.topic("work" + {"plain": ".dlq", "spring": ".DLT", "connect": "-errors"}[style])
    group = f"{s.prefix}.billing"
    consumer = s.consumer(kind, "billing").subscribe(topic)
    producer = s.producer(kind)
    failed = [record for record in consumer.poll(records=40) if record.offset % 5 == 4]
    for record in failed[:4]:
        producer.copy(consumer, record, dead, "dead", headers(record, group, 0))
    consumer.commit()
    # Without headers nobody could tell these from anything else that is published.
    for record in failed[4:] if style != "plain" else ():
        producer.copy(consumer, record, dead, "dead", headers(record, group, 0))
