"""What a scenario runs on: its names, its clients, what the broker says in the end, and the registry of all scenarios."""

import contextlib
import itertools
import time

from .admin import Admin
from .broker import PASSWORD, USER
from .client import KINDS, Asking, Consumer, Pool, Producer, Share, Timeout  # noqa: F401  (scenarios take KINDS from here)
from .log import Log

SCENARIOS = {}


def scenario(brokers=("4", "2.8"), **variants):
    """Registers a function as a scenario: for these brokers, once for each combination of the variants, its arguments."""

    def register(function):
        for values in itertools.product(*variants.values()):
            given = dict(zip(variants, values))
            name = "-".join([function.__name__.replace("_", "-"), *map(str, values)])
            SCENARIOS[name] = (function, brokers, given)
        return function

    return register


class Stage:
    """One run of one scenario. All its names begin with its prefix, so that its traffic can be told from every other."""

    def __init__(self, broker, pool, directory, name):
        self.broker, self.pool, self.prefix = broker, pool, name
        self.path = directory / f"{name}.truth.jsonl"
        self.path.unlink(missing_ok=True)
        self.log = Log(self.path)
        self.log.add("broker", version=broker.version)
        self._processes, self._handles, self._names = {}, [], itertools.count(1)
        self._topics, self._generations, self._groups, self._shares = {}, {}, {}, {}

    # Topics

    def topic(self, part="work", partitions=1, **configs):
        """Makes a topic, named `prefix.part`."""
        return self._make(f"{self.prefix}.{part}", partitions, {name.replace("_", "."): value for name, value in configs.items()})

    def _make(self, topic, partitions, configs):
        self.broker.admin.create(topic, partitions, configs, self.broker.replicas)
        self._generations[topic] = self._generations.get(topic, 0) + 1
        self._topics[topic] = partitions, configs
        self._tell(topic)
        return topic

    def grow(self, topic, partitions):
        """Adds partitions."""
        self.broker.admin.more_partitions(topic, partitions)
        self._topics[topic] = partitions, self._topics[topic][1]
        self._tell(topic)

    def _tell(self, topic):
        partitions, configs = self._topics[topic]
        self.log.add("topic", topic=topic, id=self.broker.admin.topic_id(topic), partitions=partitions,
                     generation=self._generations[topic], configs=configs)

    def remake(self, topic):
        """Deletes a topic with all that is in it and makes it again, with the same name and another id."""
        self.survey([topic])
        partitions, configs = self._topics.pop(topic)
        self.broker.admin.delete(topic)
        self.log.add("gone", topic=topic, generation=self._generations[topic])
        return self._make(topic, partitions, configs)

    def truncate(self, topic, partition, before):
        """Deletes the records before an offset."""
        self.broker.admin.delete_records({(topic, partition): before})
        self.log.add("truncated", topic=topic, generation=self._generations[topic], partition=partition, before=before)

    def shrunk(self, topic, partition, start):
        """Waits until the broker has deleted all before an offset by itself."""
        # Old brokers look for what is old half a minute after their start for the first time.
        deadline = time.monotonic() + 45
        while self.broker.admin.ends([(topic, partition)])[topic, partition][0] < start:
            if time.monotonic() > deadline:
                raise Timeout(f"{topic}/{partition} still begins before {start}")
            time.sleep(0.05)
        self.log.add("truncated", topic=topic, generation=self._generations[topic], partition=partition, before=start)

    def compacted(self, topic, left):
        """Waits until compaction has left so many records, and returns that number."""
        deadline = time.monotonic() + 20
        where = {(topic, partition): 0 for partition in range(self._topics[topic][0])}
        while (found := sum(map(len, self.broker.admin.dump(where).values()))) != left:
            if time.monotonic() > deadline:
                raise Timeout(f"compaction left {found} records, not {left}")
            time.sleep(0.1)
        self.survey([topic])
        return left

    def restart(self, how):
        """The broker is `stopped` or `killed`, and started again with what it had on disk."""
        self.log.add("restarted", how=how)
        (self.broker.stop if how == "stopped" else self.broker.kill)()
        self.broker.restart()
        for topic, (partitions, _) in self._topics.items():
            self.broker.admin.led(topic, partitions)

    @contextlib.contextmanager
    def moving(self):
        """Partitions and groups go from node to node meanwhile."""
        self.log.add("moving")
        yield
        self.log.add("moved")

    def reset(self, group, offsets):
        """Sets a group's offsets as the admin tool does, over the watched port: (topic, partition) → offset."""
        admin = Admin(self.broker.bootstrap())
        named = f"{self.prefix}.{group}"
        began = time.time_ns()
        admin.reset_offsets(named, offsets)
        self.log.add("reset", group=named, offsets=[[*where, offset] for where, offset in offsets.items()], began=began)
        admin.close()

    # Clients

    def process(self, kind, which=0, fresh=False):
        """A process of this scenario's own; the same for the same `which`."""
        if (kind, which) not in self._processes:
            process = self.pool.take(kind, fresh)
            process.tell("log", path=str(self.path))
            self._processes[kind, which] = process
        return self._processes[kind, which]

    def _client(self, make, kind, which, fresh, client_id=None, **options):
        process = self.process(kind, which, fresh)
        options["bootstrap"] = self.broker.bootstrap(options.get("security", "plain"))
        if options.get("security") == "sasl":
            options.update(user=USER, password=PASSWORD)
        options["client_id"] = client_id or f"{self.prefix}.{make.kind}-{next(self._names)}"
        handle = make(self, process, {name: value for name, value in options.items() if value is not None})
        self._handles.append(handle)
        return handle

    def producer(self, kind, which=0, fresh=False, **options):
        """A producer of that library, in process `which` of it."""
        return self._client(Producer, kind, which, fresh, **options)

    def consumer(self, kind, group=None, which=0, fresh=False, **options):
        """A consumer. `group` is the part of the group's name behind the prefix; without one it belongs to none."""
        named = None if group is None else f"{self.prefix}.{group}"
        if named:
            self._groups[named] = True
        return self._client(Consumer, kind, which, fresh, group=named, **options)

    def share(self, group, which=0, kind="java", earliest=True, lock_ms=None, **options):
        """A share consumer; its group begins with the first record."""
        named = f"{self.prefix}.{group}"
        if named not in self._shares:
            self._shares[named] = True
            configs = {"share_auto_offset_reset": "earliest" if earliest else "latest"}
            if lock_ms:
                configs["share_record_lock_duration_ms"] = lock_ms
            self._ask().group_config(named, **configs)
        return self._client(Share, kind, which, False, group=named, **options)

    def _ask(self):
        """Java's admin, over the port that nobody watches."""
        process = self.process("java")
        return Asking(self, process, {"bootstrap": f"127.0.0.1:{self.broker.admin_port}", "client_id": "truth-admin"})

    def kill(self, handle):
        """Ends a handle's process without a word, and with it all that is in it."""
        self.log.add("killed", pid=handle.process.pid)
        handle.process.kill()
        for other in self._handles:
            if other.process is handle.process:
                other.open = False

    def freeze(self, handle):
        """Stops a handle's process: it says nothing any more, and its connections stay open. Until it is thawed."""
        handle.process.freeze()
        self.log.add("frozen", pid=handle.process.pid)

    def thaw(self, handle):
        """Lets it go on, as if nothing had happened."""
        self.log.add("thawed", pid=handle.process.pid)
        handle.process.thaw()

    def session(self, group, milliseconds):
        """How long members of a group that the broker assigns may say nothing."""
        self._ask().group_config(f"{self.prefix}.{group}", consumer_session_timeout_ms=milliseconds)

    # What the broker knows

    def survey(self, topics=None):
        """Writes down what the logs hold now."""
        where = [(topic, partition) for topic in (self._topics if topics is None else topics)
                 for partition in range(self._topics[topic][0])]
        if not where:
            return
        admin = self.broker.admin
        ends = admin.ends(where)
        starts = {each: start for each, (start, _) in ends.items()}
        every, committed = admin.dump(starts), admin.dump(starts, committed=True)
        for topic, partition in where:
            start, end = ends[topic, partition]
            records = [[r.offset, label(r.value), r.key.decode(errors="replace") if r.key else None, len(r.value or b"")]
                       for r in every[topic, partition]]
            self.log.add("log", topic=topic, generation=self._generations[topic], partition=partition, start=start, end=end,
                         records=records, committed=[r.offset for r in committed[topic, partition]])

    def committed(self, group):
        """What a group has committed, by the part of its name."""
        return self.broker.admin.group_offsets(f"{self.prefix}.{group}")

    def close(self):
        """Closes what is open, in the order in which it was opened, and asks the broker for its side."""
        for handle in self._handles:
            handle.close()
        self.survey()
        for commit in self.broker.admin.commits():
            if commit.group in self._groups:
                self.log.add("commit", **commit._asdict())
        for group in self._groups:
            offsets = self.broker.admin.group_offsets(group)
            self.log.add("offsets", group=group, offsets=[[*where, offset] for where, offset in sorted(offsets.items())])
        if self._shares:
            asking = self._ask()
            for group in self._shares:
                self.log.add("share", group=group, offsets=sorted(asking.share_offsets(group)))
            asking.close()
        self.abandon(good=True)

    def abandon(self, good=False):
        """Gives the processes back; those of a scenario that failed are in an unknown state and end."""
        for process in self._processes.values():
            if good:
                self.pool.give(process)
            else:
                process.kill()
        self._processes = {}
        self.log.close()


def label(value):
    """The label of a record."""
    return None if value is None else value.split(b"|", 1)[0].decode(errors="replace")
