"""The programs of the Kafka demonstration's shop: ordinary librdkafka clients that know nothing of acktrail.

    python kafka_roles.py ROLE BOOTSTRAP SECONDS

Each prints what it did, in numbers, as one JSON object when it ends.
"""

import collections
import json
import os
import random
import signal
import sys
import time

from confluent_kafka import Consumer, KafkaException, Producer

# A retry topic and its dead-letter topic, named as Spring Kafka names them.
ORDERS, RETRY, DEAD = "orders", "orders-retry-0", "orders-dlt"
PATIENCE = 10
DID = collections.Counter()


def shop(producer, until):
    """Every 0.7 s a dozen orders."""
    while time.monotonic() < until:
        for _ in range(random.randrange(8, 16)):
            DID["produced"] += 1
            n = DID["produced"]
            country = random.choice(["de", "fr", "us"])
            producer.produce(ORDERS, f"order {n} to {country}".encode(), f"order-{n}".encode(), on_delivery=confirmed)
        producer.poll(0)
        time.sleep(0.7)
    flush(producer)


def confirmed(error, _record):
    """The broker has answered."""
    if error is None:
        DID["confirmed"] += 1


def billing(records, producer):
    """Cannot make sense of every ninth order, and sends it to the retry topic."""
    for record in records:
        if number(record) % 9 == 0:
            copy(producer, record, RETRY, origin(record, "billing"), 1)


def billing_retry(records, producer):
    """Waits, and tries again. Every second of them will never do."""
    time.sleep(0.5)
    for record in records:
        if number(record) % 18 == 0:
            copy(producer, record, DEAD, [header for header in record.headers() if header[0] != ATTEMPTS], 2)


def support(_records, _producer):
    """Reads dead letters."""


def shipping(records, _producer):
    """A few milliseconds for each parcel."""
    time.sleep(0.004 * len(records))


WORK = {"billing": billing, "billing-retry": billing_retry, "support": support, "shipping-1": shipping, "shipping-2": shipping}
TOPIC = {"billing-retry": RETRY, "support": DEAD}


def origin(record, group):
    """What Spring Kafka writes into a copy for a retry topic: where the record comes from, and whose it was."""
    return [("kafka_original-topic", record.topic().encode()), ("kafka_original-partition", record.partition().to_bytes(4, "big")),
            ("kafka_original-offset", record.offset().to_bytes(8, "big")),
            ("kafka_original-timestamp", record.timestamp()[1].to_bytes(8, "big")),
            ("kafka_original-timestamp-type", b"CREATE_TIME"), ("kafka_dlt-original-consumer-group", group.encode()),
            ("kafka_exception-fqcn", b"java.lang.IllegalStateException"), ("kafka_exception-message", b"no such customer")]


ATTEMPTS = "retry_topic-attempts"


def copy(producer, record, topic, headers, attempt):
    """The record again, elsewhere."""
    producer.produce(topic, record.value(), record.key(), headers=[*headers, (ATTEMPTS, attempt.to_bytes(4, "big"))])
    DID["copied"] += 1


def number(record):
    """Of an order."""
    return int(record.key().decode().rsplit("-", 1)[1])


def consume(role, consumer, producer, until, crashes):
    """Takes what comes, does its work, and commits; or crashes before it does."""
    consumer.subscribe([TOPIC.get(role, ORDERS)])
    held = 0
    while time.monotonic() < until:
        records = [record for record in consumer.consume(100, 0.1) if record.error() is None]
        if not records:
            continue
        DID["handed"] += len(records)
        held += len(records)
        WORK[role](records, producer)
        flush(producer)
        if time.monotonic() > crashes:
            DID["held"] = held
            tell()
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            consumer.commit(asynchronous=False)
            DID["committed"] += held
            held = 0
        except KafkaException as refused:
            print(f"{role}: {refused}", file=sys.stderr)
    consumer.close()


def flush(producer):
    """Waits for the broker's answers."""
    if producer.flush(PATIENCE):
        raise RuntimeError("the broker does not answer")


def tell():
    """What was done."""
    print(json.dumps(DID), flush=True)


def main():
    role, bootstrap, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    client = {"bootstrap.servers": bootstrap, "client.id": role, "log_level": 3}
    producer = Producer({**client, "enable.idempotence": True, "linger.ms": 5})
    until = time.monotonic() + seconds
    if role == "shop":
        shop(producer, until)
    else:
        group = role if role == "billing-retry" else role.partition("-")[0]
        consumer = Consumer({**client, "group.id": group, "enable.auto.commit": False, "auto.offset.reset": "earliest",
                             "session.timeout.ms": 2000, "heartbeat.interval.ms": 500, "fetch.wait.max.ms": 100})
        consume(role, consumer, producer, until, until - seconds / 2 if role == "shipping-2" else until + seconds)
    tell()


if __name__ == "__main__":
    main()
