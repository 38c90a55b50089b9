"""A consumer that holds many deliveries unsettled: python -m truth.flight PORT QUEUE COUNT"""

import contextlib
import subprocess
import sys

import pika

from .places import REPOSITORY, spawn, stop


@contextlib.contextmanager
def hold(broker, queue, count):
    """While it lasts, so many deliveries of small messages with ids are in flight."""
    process = spawn([sys.executable, "-m", "truth.flight", str(broker.port), queue, str(count)],
                    cwd=REPOSITORY / "tests/brokers", stdout=subprocess.PIPE, text=True)
    try:
        if process.stdout.readline().strip() != "holding":
            raise RuntimeError("the consumer did not get them all")
        yield
    finally:
        stop(process)


def main():
    port, queue, count = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    connection = pika.BlockingConnection(pika.URLParameters(f"amqp://guest:guest@127.0.0.1:{port}/%2f?heartbeat=0"))
    producer, consumer = connection.channel(), connection.channel()
    producer.queue_declare(queue)
    seen = []
    consumer.basic_consume(queue, lambda _channel, method, _properties, _body: seen.append(method.delivery_tag))
    for n in range(count):
        producer.basic_publish("", queue, b"x" * 100, pika.BasicProperties(message_id=f"{queue}-{n}"))
        if n % 100 == 0:
            connection.process_data_events(time_limit=0)
    while len(seen) < count:
        connection.process_data_events(time_limit=1)
    print("holding", flush=True)
    while True:
        connection.process_data_events(time_limit=1)


if __name__ == "__main__":
    main()
