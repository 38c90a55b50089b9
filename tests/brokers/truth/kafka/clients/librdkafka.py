"""librdkafka, by confluent-kafka: python -m truth.kafka.clients.librdkafka"""

from confluent_kafka import OFFSET_BEGINNING, OFFSET_STORED, Consumer, KafkaError, KafkaException, Producer, TopicPartition

from . import base

PATIENCE = 20


def error_of(error):
    """The broker's error, or the library's own, which has negative numbers."""
    if error is None:
        return None
    return {"code": error.code() if error.code() >= 0 else None, "name": error.name()}


def shared(handle):
    """Settings that both kinds have."""
    settings = {"bootstrap.servers": handle.options["bootstrap"], "client.id": handle.options["client_id"], "log_level": 3}
    if handle.option("security") == "sasl":
        settings.update({"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN",
                         "sasl.username": handle.options["user"], "sasl.password": handle.options["password"]})
    return settings


class Producing(base.Producing):
    """A producer."""

    client = "librdkafka"

    def open(self):
        """Makes it, and its transactional id known."""
        settings = {**shared(self), "acks": self.option("acks", "all"), "linger.ms": self.option("linger", 0),
                    "batch.size": max(1000, self.option("batch", 16384)), "compression.type": self.option("codec", "none"),
                    "enable.idempotence": self.option("idempotent", False) or bool(self.option("transactional"))}
        if self.option("batch") == 1:
            settings["batch.num.messages"] = 1
        if self.option("transactional"):
            settings["transactional.id"] = self.option("transactional")
        self.opened("producer")
        self.impl = Producer({**settings, **self.option("extra", {})})
        if self.option("transactional"):
            self.impl.init_transactions(PATIENCE)

    def send(self, topic, partition, key, value, headers, done):
        """Hands it to the library; reports come in `poll` and `flush`."""
        def reported(error, message):
            offset = message.offset()
            stored = error is None and offset is not None and offset >= 0
            done(message.partition(), offset if stored else None, error_of(error))

        self.impl.produce(topic, value, key, -1 if partition is None else partition, on_delivery=reported, headers=headers)
        self.impl.poll(0)

    def on_flush(self, _command):
        """Waits for all answers."""
        left = self.impl.flush(PATIENCE)
        assert left == 0, f"{left} records without an answer"

    def begin(self):
        """Of a transaction."""
        self.impl.begin_transaction()

    def end(self, commit):
        """Of a transaction."""
        (self.impl.commit_transaction if commit else self.impl.abort_transaction)(PATIENCE)

    def send_offsets(self, consumer, offsets):
        """Offsets into the transaction."""
        metadata = consumer.impl.consumer_group_metadata()
        self.impl.send_offsets_to_transaction([TopicPartition(*place) for place in offsets], metadata, PATIENCE)

    def on_close(self, command):
        """Waits for what is on its way."""
        self.on_flush(command)
        del self.impl
        self.say("closed")


class Consuming(base.Consuming):
    """A consumer. The library insists on a group; without one it gets a name that nobody joins."""

    client = "librdkafka"

    def open(self):
        """Makes it."""
        settings = {**shared(self), "group.id": self.option("group") or f"{self.options['client_id']}.none",
                    "enable.auto.commit": self.option("auto_commit", 0) > 0,
                    "auto.commit.interval.ms": max(1, self.option("auto_commit", 0)),
                    "auto.offset.reset": self.option("reset", "earliest"),
                    "isolation.level": self.option("isolation", "read_uncommitted"), "fetch.wait.max.ms": 100,
                    "topic.metadata.refresh.interval.ms": 2000, "on_commit": self._on_commit}
        if self.option("protocol", "classic") == "consumer":
            settings["group.protocol"] = "consumer"
        else:
            assignors = {"range": "range", "cooperative": "cooperative-sticky"}
            settings.update({"session.timeout.ms": self.option("session", 6000), "heartbeat.interval.ms": 500,
                             "partition.assignment.strategy": assignors[self.option("assignor", "range")]})
        if self.option("instance"):
            settings["group.instance.id"] = self.option("instance")
        self.opened("consumer")
        self.impl = Consumer({**settings, **self.option("extra", {})})

    def on_subscribe(self, command):
        """Joins its group."""
        self.impl.subscribe(command["topics"], on_assign=lambda _, parts: self._moved("assigned", parts),
                            on_revoke=lambda _, parts: self._moved("revoked", parts),
                            on_lost=lambda _, parts: self._moved("lost", parts))

    def on_assign(self, command):
        """Reads partitions of its own choice."""
        start = OFFSET_STORED if self.option("group") else OFFSET_BEGINNING
        parts = [TopicPartition(topic, partition, *(offset or [start])) for topic, partition, *offset in command["partitions"]]
        self.impl.assign(parts)
        self._moved("assigned", parts)

    def _moved(self, op, parts):
        self.moved(op, [(part.topic, part.partition) for part in parts])

    def _on_commit(self, error, parts):
        self.noticed([[part.topic, part.partition, part.offset] for part in parts if part.offset >= 0], error_of(error))

    def take(self, most):
        """One poll."""
        taken = []
        for message in self.impl.consume(most, 0.05):
            if message.error() is None:
                taken.append((message.topic(), message.partition(), message.offset(), message.key(), message.value(),
                              message.headers() or []))
            elif message.error().code() not in PASSING:
                raise KafkaException(message.error())
        return taken

    def assignment(self):
        """What it reads."""
        return self.impl.assignment()

    def commit(self, offsets):
        """Waits for the answer, and gives its error and what was committed: without offsets, only what is new."""
        try:
            if offsets is None:
                answers = self.impl.commit(asynchronous=False)
            else:
                answers = self.impl.commit(offsets=[TopicPartition(*place) for place in offsets], asynchronous=False)
        except KafkaException as failed:
            return error_of(failed.args[0]), None
        done = [[answer.topic, answer.partition, answer.offset] for answer in answers if answer.offset >= 0 and not answer.error]
        return next((error_of(answer.error) for answer in answers if answer.error), None), done

    def seek(self, topic, partition, offset):
        """Throws away what was fetched."""
        self.impl.seek(TopicPartition(topic, partition, offset))

    def on_pause(self, command):
        """No more of these partitions."""
        self.moved("paused", command["partitions"])
        self.impl.pause([TopicPartition(*where) for where in command["partitions"]])

    def on_resume(self, command):
        """These partitions again."""
        self.moved("resumed", command["partitions"])
        self.impl.resume([TopicPartition(*where) for where in command["partitions"]])

    def on_positions(self, _command):
        """How far it has come, and how far the log went when it last heard of it."""
        told = []
        for part in self.impl.position(self.impl.assignment()):
            known = self.impl.get_watermark_offsets(part, cached=True)
            position = part.offset if part.offset >= 0 else self.next.get((part.topic, part.partition))
            told.append([part.topic, part.partition, position, known[1] if known and known[1] >= 0 else None])
        self.say("positions", partitions=told)

    def close(self, _leave):
        """Leaves the group, unless it is a static member."""
        self.impl.close()


# What a poll says and gets over by itself.
PASSING = (KafkaError._PARTITION_EOF, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE,
           KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION, KafkaError._MAX_POLL_EXCEEDED)

if __name__ == "__main__":
    base.Process({"producer": Producing, "consumer": Consuming}).run()
