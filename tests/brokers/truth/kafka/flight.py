"""Consumers of many groups that hold what they are given: python -m truth.kafka.flight BOOTSTRAP TOPIC GROUPS RECORDS"""

import contextlib
import subprocess
import sys

from confluent_kafka import Consumer, Producer

from ..places import REPOSITORY, spawn, stop

# Of all consumers' memory: their queues are filled up before anybody asks.
QUEUED_KILOBYTES = 4096


@contextlib.contextmanager
def hold(broker, topic, groups, records):
    """While it lasts, each of the groups has been given so many records, and has committed none."""
    process = spawn([sys.executable, "-m", "truth.kafka.flight", broker.bootstrap(), topic, str(groups), str(records)],
                    cwd=REPOSITORY / "tests/brokers", stdout=subprocess.PIPE, text=True)
    try:
        if process.stdout.readline().strip() != "holding":
            raise RuntimeError("the consumers did not get them all")
        yield
    finally:
        stop(process)


def main():
    bootstrap, topic, groups, records = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "client.id": "flight"})
    partitions = len(producer.list_topics(topic, timeout=20).topics[topic].partitions)
    for n in range(records):
        producer.produce(topic, b"x" * 100, partition=n % partitions)
        if n % 10_000 == 0:
            producer.flush()
    producer.flush()
    left = {}
    for n in range(groups):
        consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": f"{topic}-{n}", "client.id": f"flight-{n}",
                             "auto.offset.reset": "earliest", "enable.auto.commit": False,
                             "queued.max.messages.kbytes": QUEUED_KILOBYTES})
        consumer.subscribe([topic])
        left[consumer] = records
    while any(left.values()):
        for consumer in left:
            for message in consumer.consume(10_000, timeout=0.05):
                if message.error():
                    raise RuntimeError(message.error())
                left[consumer] -= 1
    print("holding", flush=True)
    while True:
        for consumer in left:
            consumer.poll(0.01)


if __name__ == "__main__":
    main()
