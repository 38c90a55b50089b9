"""A steady load on several topics by all client libraries, with several groups: producers that pause between records, consumers
that commit what each poll gave them, until everything that was produced is committed everywhere."""

import threading
import time

from .client import KINDS

# Milliseconds between two records of a producer.
PAUSE = 4
# Somebody asks for metadata this often; all others only when they begin, as in production.
METADATA_MS = 1000


class Load:
    """Runs on a stage until `seconds` have passed. `size`: of a record's value; `producers`: their libraries."""

    def __init__(self, stage, seconds, size, producers=KINDS):
        self.stage, self.seconds, self.size, self.producers = stage, seconds, size, producers
        self.wide, self.narrow = stage.topic("wide", partitions=3), stage.topic("narrow")
        self._threads, self._failed, self._over = [], [], threading.Event()

    def start(self):
        """Consumers first; returns once all of them have partitions."""
        consumers = [
            self.stage.consumer("java", "one", max_poll=50).subscribe(self.wide, self.narrow),
            self.stage.consumer("librdkafka", "two").subscribe(self.wide),
            self.stage.consumer("librdkafka", "two", which=1).subscribe(self.wide),
            self.stage.consumer("franz", "three").subscribe(self.wide),
            self.stage.consumer("python", "four").subscribe(self.narrow),
        ]
        if self.stage.broker.version == "4":
            consumers.append(self.stage.consumer("java", "five", which=1, protocol="consumer").subscribe(self.narrow))
        self._until_assigned(consumers)
        for consumer in consumers:
            self._begin(self._consume, consumer)
        for number, kind in enumerate(self.producers):
            self._begin(self._produce, kind, number)
        return self

    def finish(self):
        """Waits for the end of all of it."""
        for thread in self._threads:
            thread.join()
        if self._failed:
            raise self._failed[0]

    def _until_assigned(self, consumers):
        deadline = time.monotonic() + 30
        while True:
            polls = [consumer.start_poll(idle=50, timeout=500) for consumer in consumers]
            if all([poll.result(60)["assigned"] for poll in polls]):
                return
            assert time.monotonic() < deadline, "the groups do not come to rest"

    def _begin(self, work, *words):
        def run():
            try:
                work(*words)
            except Exception as failed:  # noqa: BLE001  (told by `finish`)
                self._failed.append(failed)
                self._over.set()

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()

    def _produce(self, kind, number):
        extra = {"topic.metadata.refresh.interval.ms": METADATA_MS} if kind == "librdkafka" else None
        producer = self.stage.producer(kind, which=2, linger=2, codec=("lz4", "none", "zstd", "gzip")[number],
                                       idempotent=kind != "python" or None, acks="all", extra=extra)
        count = self.seconds * 1000 // PAUSE
        # Records of different producers have different numbers.
        first = number * 10**6
        while count > 0 and not self._over.is_set():
            part = min(count, 50)
            producer.produce(self.wide if number % 2 else self.narrow, part, first=first, size=self.size, noise=True, pause=PAUSE)
            first, count = first + part, count - part

    def _consume(self, consumer):
        quiet = 0
        # Until the producers are done and nothing more comes.
        while quiet < 3 and not self._failed:
            records = consumer.poll(idle=100, timeout=300, enough=False)
            if records:
                assert consumer.commit() is None
            quiet = 0 if records or self._producing() else quiet + 1

    def _producing(self):
        return any(thread.is_alive() for thread in self._threads[-len(self.producers):])
