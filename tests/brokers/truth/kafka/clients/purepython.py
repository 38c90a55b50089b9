"""kafka-python: python -m truth.kafka.clients.purepython"""

import logging

from kafka import ConsumerRebalanceListener, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from . import base

PATIENCE = 20


def error_of(failed):
    """The broker's error, or the library's own, which has no number."""
    if failed is None:
        return None
    code = getattr(failed, "errno", None)
    return {"code": code if isinstance(code, int) and code >= 0 else None,
            "name": getattr(failed, "message", None) or type(failed).__name__}


def shared(handle):
    """Settings that both kinds have."""
    settings = {"bootstrap_servers": handle.options["bootstrap"], "client_id": handle.options["client_id"],
                "metadata_max_age_ms": 2000}
    if handle.option("security") == "sasl":
        settings.update(security_protocol="SASL_PLAINTEXT", sasl_mechanism="PLAIN", sasl_plain_username=handle.options["user"],
                        sasl_plain_password=handle.options["password"])
    return settings


class Producing(base.Producing):
    """A producer."""

    client = "python"

    def open(self):
        """Makes it, and its transactional id known."""
        acks = self.option("acks", "all")
        codec = self.option("codec", "none")
        settings = {**shared(self), "acks": acks if acks == "all" else int(acks), "linger_ms": self.option("linger", 0),
                    "batch_size": self.option("batch", 16384), "compression_type": None if codec == "none" else codec,
                    "enable_idempotence": self.option("idempotent", False)}
        if self.option("transactional"):
            settings.update(transactional_id=self.option("transactional"), enable_idempotence=True)
        self.opened("producer")
        self.impl = KafkaProducer(**settings, **self.option("extra", {}))
        if self.option("transactional"):
            self.impl.init_transactions()

    def send(self, topic, partition, key, value, headers, done):
        """Hands it to the library, whose own thread sends it."""
        future = self.impl.send(topic, value, key, headers, partition)
        future.add_callback(lambda at: done(at.partition, at.offset if at.offset >= 0 else None, None))
        future.add_errback(lambda failed: done(None, None, error_of(failed)))

    def on_flush(self, _command):
        """Waits for all answers."""
        self.impl.flush(PATIENCE)

    def begin(self):
        """Of a transaction."""
        self.impl.begin_transaction()

    def end(self, commit):
        """Of a transaction."""
        (self.impl.commit_transaction if commit else self.impl.abort_transaction)()

    def send_offsets(self, consumer, offsets):
        """Offsets into the transaction."""
        self.impl.send_offsets_to_transaction(places_to(offsets), consumer.impl.group_metadata())

    def on_close(self, _command):
        """Waits for what is on its way."""
        self.impl.close(PATIENCE)
        self.say("closed")


class Consuming(base.Consuming, ConsumerRebalanceListener):
    """A consumer."""

    client = "python"

    def open(self):
        """Makes it."""
        assert self.option("protocol", "classic") == "classic", "kafka-python knows classic groups only"
        self.opened("consumer")
        logging.getLogger("kafka").setLevel(logging.ERROR)
        self.impl = KafkaConsumer(
            **shared(self), group_id=self.option("group"), group_instance_id=self.option("instance"),
            enable_auto_commit=bool(self.option("group")) and self.option("auto_commit", 0) > 0,
            auto_commit_interval_ms=max(1, self.option("auto_commit", 0)), auto_offset_reset=self.option("reset", "earliest"),
            isolation_level=self.option("isolation", "read_uncommitted"), max_poll_records=self.option("max_poll", 500),
            session_timeout_ms=self.option("session", 6000), heartbeat_interval_ms=500, fetch_max_wait_ms=100,
            partition_assignment_strategy=[RangePartitionAssignor], default_offset_commit_callback=self._on_commit,
            **self.option("extra", {}))

    def on_subscribe(self, command):
        """Joins its group, with topics that it knows: else it joins twice, and at times not for good."""
        for topic in command["topics"]:
            self.impl.partitions_for_topic(topic)
        self.impl.subscribe(command["topics"], listener=self)

    def on_partitions_assigned(self, assigned):
        """A rebalance gave it these."""
        self.moved("assigned", assigned)

    def on_partitions_revoked(self, revoked):
        """A rebalance takes these away."""
        self.moved("revoked", revoked)

    def on_partitions_lost(self, lost):
        """A rebalance took these away."""
        self.moved("lost", lost)

    def on_assign(self, command):
        """Reads partitions of its own choice."""
        partitions = [TopicPartition(topic, partition) for topic, partition, *_ in command["partitions"]]
        self.impl.assign(partitions)
        self.moved("assigned", partitions)
        for partition, (_, _, *offset) in zip(partitions, command["partitions"]):
            if offset and offset[0] is not None:
                self.impl.seek(partition, offset[0])

    def _on_commit(self, offsets, answer):
        error = error_of(answer) if isinstance(answer, Exception) else None
        self.noticed([[part.topic, part.partition, place.offset] for part, place in offsets.items()], error)

    def take(self, most):
        """One poll."""
        return [(r.topic, r.partition, r.offset, r.key, r.value, r.headers)
                for records in self.impl.poll(50, most).values() for r in records]

    def assignment(self):
        """What it reads."""
        return self.impl.assignment()

    def commit(self, offsets):
        """Waits for the answer, and gives its error and what was committed: behind the marker of a transaction, too."""
        done = offsets
        if offsets is None:
            done = [[*part, self.impl.position(part)] for part in map(TopicPartition._make, self.next)]
        try:
            self.impl.commit(None if offsets is None else places_to(offsets))
        except KafkaError as failed:
            return error_of(failed), None
        return None, done

    def seek(self, topic, partition, offset):
        """Goes elsewhere."""
        self.impl.seek(TopicPartition(topic, partition), offset)

    def on_pause(self, command):
        """No more of these partitions."""
        self.moved("paused", command["partitions"])
        self.impl.pause(*(TopicPartition(*where) for where in command["partitions"]))

    def on_resume(self, command):
        """These partitions again."""
        self.moved("resumed", command["partitions"])
        self.impl.resume(*(TopicPartition(*where) for where in command["partitions"]))

    def on_positions(self, _command):
        """How far it has come, and how far the log went when it last heard of it."""
        told = [[part.topic, part.partition, self.next.get(part), self.impl.highwater(part)] for part in self.impl.assignment()]
        self.say("positions", partitions=told)

    def close(self, _leave):
        """Leaves the group, unless it is a static member."""
        self.impl.close()


def places_to(offsets):
    """Places as the library wants them."""
    return {TopicPartition(topic, partition): OffsetAndMetadata(offset, "", -1) for topic, partition, offset in offsets}


if __name__ == "__main__":
    base.Process({"producer": Producing, "consumer": Consuming}).run()
