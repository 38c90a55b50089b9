"""A steady load with a truth log, as a process of its own: python -m truth.load PREFIX LOG PORT SECONDS SIZE [TTL]

Batches of confirmed publishes to three queues: one consumer acknowledges, one gives every fifth back once, one rejects every
seventh into a dead-letter queue that is consumed as well. It ends when everything that it published has been settled. TTL: a
time to live in milliseconds, of what the first two queues hold; no message stays as long.
"""

import pathlib
import sys
import time

from .child import Port
from .client import Client
from .stage import Stage

BATCH = 20
# Seconds from the start at which the publisher rests, and for how long.
QUIET = (3.6, 9.0)
REST = 1.4


class Load:
    """Publisher and consumers on four connections."""

    def __init__(self, stage, size, ttl):
        self.stage, self.size, self.published, self.settled = stage, size, 0, 0
        self.publisher = Client(stage).channel()
        self.publisher.confirms()
        dead = self.publisher.queue("dead", {"drop": True})
        lives = {"arguments": {"x-message-ttl": ttl}} if ttl else {}
        self.queues = [self.publisher.queue("plain", {"drop": True}, **lives), self.publisher.queue("again", {"drop": True}, **lives),
                       self.publisher.queue("reject", {"dead": dead}, arguments={
                           "x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead})]
        self.consumers = []
        for queue, habit in zip([*self.queues, dead], (self.plain, self.again, self.reject, self.plain)):
            consumer = Client(stage).channel()
            consumer.consume(queue, lambda d, c=consumer, h=habit: h(c, d), prefetch=50)
            self.consumers.append(consumer)

    def plain(self, consumer, delivery):
        """Acknowledges."""
        consumer.ack(delivery)
        self.settled += 1

    def again(self, consumer, delivery):
        """Gives every fifth back once."""
        if number(delivery) % 5 == 0 and not delivery.redelivered:
            consumer.nack(delivery, requeue=True)
        else:
            self.plain(consumer, delivery)

    def reject(self, consumer, delivery):
        """Rejects every seventh; the dead-letter queue's consumer settles it for good."""
        if number(delivery) % 7 == 0:
            consumer.reject(delivery, requeue=False)
        else:
            self.plain(consumer, delivery)

    def run(self, until):
        """Batch after batch."""
        began = time.monotonic()
        pauses = [began + after for after in QUIET]
        while time.monotonic() < until:
            if pauses and time.monotonic() > pauses[0]:
                pauses.pop(0)
                self.rest()
            for _ in range(BATCH):
                n = self.published
                self.publisher.publish(n, self.queues[n % 3], flush=False, size=self.size + n % 700)
                self.published += 1
            self.publisher.flush()
            self.publisher.wait_confirms()
            self.turn()
        deadline = time.monotonic() + 30
        while self.settled < self.published:
            assert time.monotonic() < deadline, f"{self.published - self.settled} messages were not settled"
            self.turn()
        self.publisher.client.wait(seconds=0.05)

    def rest(self):
        """Publishes nothing for a while, and says when that was over."""
        over = time.monotonic() + REST
        while time.monotonic() < over:
            self.turn()
            time.sleep(0.02)
        self.stage.log.add("note", text="quiet")

    def turn(self):
        """Consumers work off what has come."""
        for consumer in self.consumers:
            consumer.client.connection.process_data_events(time_limit=0)


def number(delivery):
    """Of a message."""
    return int(delivery.key.rsplit("/", 1)[1])


def main():
    prefix, log, port, seconds, size, *ttl = sys.argv[1:]
    stage = Stage.joined(Port(int(port)), prefix, pathlib.Path(log))
    load = Load(stage, int(size), int(*ttl))
    print("running", flush=True)
    load.run(time.monotonic() + float(seconds))
    for channel in [load.publisher, *load.consumers]:
        channel.client.close()
    print(load.published, flush=True)


if __name__ == "__main__":
    main()
