"""What the broker knows: topics, logs, offsets and groups, without starting a JVM for each question (librdkafka)."""

import collections
import struct
import time

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, ElectionType, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import (AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic, OffsetSpec,
                                   ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion)

PATIENCE = 20
OFFSETS_TOPIC = "__consumer_offsets"

Stored = collections.namedtuple("Stored", "offset key value headers")
Commit = collections.namedtuple("Commit", "at_ms group topic partition offset")


class Admin:
    """Asks one broker. Slow answers are errors: nothing here takes seconds."""

    def __init__(self, bootstrap):
        self.bootstrap = bootstrap
        self._client = AdminClient({"bootstrap.servers": bootstrap, "client.id": "truth-admin", "log_level": 2})
        self._readers, self._read = {}, {}

    def close(self):
        """Ends its consumers."""
        for reader in self._readers.values():
            reader.close()
        self._readers = {}

    def ready(self, process, deadline):
        """Whether the broker answers before its process ends or time is up."""
        while process.poll() is None and time.monotonic() < deadline:
            try:
                if self._client.list_topics(timeout=2).brokers:
                    return True
            except KafkaException:
                pass
            time.sleep(0.05)
        return False

    # Topics

    def create(self, topic, partitions=1, configs=None, replicas=None):
        """Makes a topic and waits until its partitions have a leader. `replicas`: nodes that are to have all of it, the leader first."""
        where = {"replica_assignment": [replicas] * partitions} if replicas else {"replication_factor": 1}
        new = NewTopic(topic, partitions, config={name: str(value) for name, value in (configs or {}).items()}, **where)
        self._until(lambda: self._created(new), f"{topic} cannot be made")
        self.led(topic, partitions)

    def _created(self, new):
        try:
            _each(self._client.create_topics([new]))
            return True
        except KafkaException as failed:
            # ZooKeeper has the name of a deleted topic for a moment longer than the brokers.
            if failed.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                return False
            raise

    def topic_id(self, topic):
        """A topic's id as Kafka writes it."""
        (future,) = self._client.describe_topics(TopicCollection([topic])).values()
        return str(future.result(PATIENCE).topic_id)

    def more_partitions(self, topic, partitions):
        """Adds partitions to a topic."""
        _each(self._client.create_partitions([NewPartitions(topic, partitions)]))
        self.led(topic, partitions)

    def led(self, topic, partitions):
        """Waits until so many partitions of it have a leader."""
        self._until(lambda: self._leads(topic, partitions), f"{topic} has no leaders")

    def delete(self, topic):
        """Deletes a topic and waits until it is gone."""
        _each(self._client.delete_topics([topic]))
        self._until(lambda: not self._led(topic), f"{topic} is still there")

    def delete_records(self, before):
        """Truncates logs: (topic, partition) → first offset that stays."""
        _each(self._client.delete_records([TopicPartition(*where, offset) for where, offset in before.items()]))

    def configure(self, topic, **configs):
        """Changes a topic's configuration."""
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        for name, value in configs.items():
            entry = ConfigEntry(name.replace("_", "."), str(value), incremental_operation=AlterConfigOpType.SET)
            resource.add_incremental_config(entry)
        _each(self._client.incremental_alter_configs([resource]))

    def leaders(self, topic):
        """The nodes that lead its partitions."""
        return {part.leader for part in self._client.list_topics(topic, timeout=PATIENCE).topics[topic].partitions.values()}

    def lead(self, topic, partitions, node):
        """Waits until that node is in step with all of them and leads them, which it is preferred for."""
        parts = [TopicPartition(topic, partition) for partition in range(partitions)]

        def leads():
            self._client.elect_leaders(ElectionType.PREFERRED, parts).result(PATIENCE)
            return self.leaders(topic) == {node}

        self._until(leads, f"node {node} does not lead {topic}")

    def _leads(self, topic, partitions):
        """Whether the broker says that it leads them, and behaves so: it takes them over a moment later."""
        if self._led(topic) != partitions:
            return False
        try:
            return bool(self.ends([(topic, partition) for partition in range(partitions)]))
        except KafkaException:
            return False

    def _led(self, topic):
        # Asked by name, librdkafka would go on asking for a topic that is no more; so all are asked for.
        known = self._client.list_topics(timeout=PATIENCE).topics.get(topic)
        if known is None or known.error:
            return 0
        return sum(partition.leader >= 0 and not partition.error for partition in known.partitions.values())

    def _until(self, good, words):
        deadline = time.monotonic() + PATIENCE
        while not good():
            if time.monotonic() > deadline:
                raise RuntimeError(words)
            time.sleep(0.02)

    def scram(self, mechanism, user, password):
        """Lets a user log in by SCRAM."""
        info = ScramCredentialInfo(ScramMechanism[mechanism.replace("-", "_")], 4096)
        _each(self._client.alter_user_scram_credentials([UserScramCredentialUpsertion(user, info, password.encode())]))

    # Logs

    def ends(self, partitions):
        """Log start and log end of each (topic, partition)."""
        found = {}
        for name, spec in (("start", OffsetSpec.earliest()), ("end", OffsetSpec.latest())):
            asked = {TopicPartition(topic, partition): spec for topic, partition in partitions}
            for asked_of, future in self._client.list_offsets(asked, request_timeout=PATIENCE).items():
                found.setdefault((asked_of.topic, asked_of.partition), {})[name] = future.result(PATIENCE).offset
        return {where: (both["start"], both["end"]) for where, both in found.items()}

    def dump(self, starts, committed=False):
        """All records that the logs hold from given offsets on, (topic, partition) → list of `Stored`; with `committed` only
        those that a read_committed consumer is given, up to the last stable offset."""
        records, _ = self._read_all([TopicPartition(*where, start) for where, start in starts.items()], committed)
        return {where: [Stored(m.offset(), m.key(), m.value(), m.headers() or []) for m in messages]
                for where, messages in records.items()}

    def commits(self):
        """What was committed to groups since the last call, in the order of each group's log; aborted transactions left out."""
        known = self._client.list_topics(timeout=PATIENCE).topics.get(OFFSETS_TOPIC)
        if known is None:
            return []
        partitions = [TopicPartition(OFFSETS_TOPIC, partition, self._read.get(partition, 0))
                      for partition in sorted(known.partitions)]
        records, ends = self._read_all(partitions, committed=True)
        self._read.update({partition: end for (_, partition), end in ends.items()})
        found = [commit_of(message) for messages in records.values() for message in messages]
        return [commit for commit in found if commit]

    def _read_all(self, partitions, committed):
        """Everything from the given offsets to the end: records per partition, and where the end is."""
        # It must know the leaders when it begins, and be given numbers: what it has to ask for it asks again half a second later.
        reader = self._reader(committed)
        reader.list_topics(timeout=PATIENCE)
        records = {(p.topic, p.partition): [] for p in partitions}
        ends = {}
        reader.assign(partitions)
        deadline = time.monotonic() + PATIENCE
        while len(ends) < len(records):
            for message in reader.consume(1000, 0.01):
                where = message.topic(), message.partition()
                if message.error() is None:
                    records[where].append(message)
                elif message.error().code() == KafkaError._PARTITION_EOF:
                    ends[where] = message.offset()
                elif time.monotonic() > deadline:
                    raise KafkaException(message.error())
            if time.monotonic() > deadline:
                raise RuntimeError(f"the logs of {sorted(set(records) - set(ends))} have no end")
        reader.unassign()
        return records, ends

    def _reader(self, committed):
        if committed not in self._readers:
            self._readers[committed] = Consumer({
                "bootstrap.servers": self.bootstrap, "group.id": "truth-admin", "client.id": "truth-admin",
                "enable.auto.commit": False, "enable.partition.eof": True,
                "isolation.level": "read_committed" if committed else "read_uncommitted",
                "fetch.wait.max.ms": 1, "auto.offset.reset": "earliest", "log_level": 2})
        return self._readers[committed]

    # Groups

    def groups(self):
        """The names of all consumer groups."""
        return sorted(group.group_id for group in self._client.list_consumer_groups().result(PATIENCE).valid)

    def group_offsets(self, group):
        """What a group has committed: (topic, partition) → offset."""
        (future,) = self._client.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]).values()
        return {(p.topic, p.partition): p.offset for p in future.result(PATIENCE).topic_partitions if p.offset >= 0}

    def members(self, group):
        """How many members a group has."""
        (future,) = self._client.describe_consumer_groups([group]).values()
        return len(future.result(PATIENCE).members)

    def reset_offsets(self, group, offsets):
        """Sets a group's offsets, as the admin tool does: (topic, partition) → offset. The group must have no members."""
        asked = ConsumerGroupTopicPartitions(group, [TopicPartition(t, p, offset) for (t, p), offset in offsets.items()])
        (future,) = self._client.alter_consumer_group_offsets([asked]).values()
        for answer in future.result(PATIENCE).topic_partitions:
            if answer.error:
                raise KafkaException(answer.error)


def _each(futures):
    for future in futures.values():
        future.result(PATIENCE)


def commit_of(message):
    """A record of the offsets topic as a `Commit`; None if it is about a group's members."""
    key = message.key()
    if key is None or struct.unpack_from(">h", key)[0] not in (0, 1):
        return None
    at, names = 2, []
    for _ in range(2):
        (length,) = struct.unpack_from(">h", key, at)
        names.append(key[at + 2:at + 2 + length].decode())
        at += 2 + length
    (partition,) = struct.unpack_from(">i", key, at)
    # Every version of the value begins with its number and the offset. No value: the offset was forgotten.
    offset = struct.unpack_from(">q", message.value(), 2)[0] if message.value() else None
    return Commit(message.timestamp()[1], names[0], names[1], partition, offset)
