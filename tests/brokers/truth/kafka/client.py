"""Kafka clients as child processes, all of one language: JSON lines in, JSON lines out.

A command is `{"id": n, "do": what, …}`, the answer `{"id": n, "result": {…}}`, or `{"id": n, "fault": text}` if it could not
be carried out. `open` makes a producer or consumer, its *handle*, and each handle has a thread of its own; commands to
different handles do not wait for each other. A refusal by the broker that a scenario may want (of a commit, say) is a result,
not a fault.

    log         path: where the truth log is from now on
    open        handle, kind (producer, consumer, share, admin), options
                of all: bootstrap, client_id, security (plain, sasl), user, password, extra (the library's own settings)
                of producers: acks ("0", "1", "all"), linger (ms), batch (bytes; 1: a batch for each record), codec, idempotent,
                transactional (id)
                of consumers: group, auto_commit (ms; 0: none), reset (earliest, latest, none), isolation, protocol (classic,
                consumer), assignor (range, cooperative), instance (static member), session (ms), max_poll (records)
                of share consumers: group, mode (explicit, implicit), max_poll
    close       leave: false to stay in the group (a static member)

    producer    produce (topic, partition, stem, first, n, keys, size, noise, headers, pause), copy (topic, partition, consumer,
                record, as, inherit, headers, append), flush, begin, end (commit), send_offsets (consumer)
    consumer    subscribe (topics), assign (partitions), poll (records, assigned, idle, timeout), commit (offsets), seek (to),
                pause, resume (partitions), positions
    share       subscribe, poll, verdict (records: [topic, partition, offset, verdict]), commit
    admin       group_config (group, configs), share_offsets (group)
"""

import collections
import concurrent.futures
import json
import signal
import subprocess
import sys
import threading
import time

from ..places import REPOSITORY, WORK, spawn, stop

KINDS = ("java", "librdkafka", "franz", "python")
# Longer than any command waits for anything by itself.
PATIENCE = 60

Record = collections.namedtuple("Record", "topic partition offset label count", defaults=(None,))


class Timeout(Exception):
    """What a scenario waited for did not come."""


def command_of(kind):
    """How a client's process is started."""
    if kind == "java":
        return ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
                "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp",
                f"{WORK}/clients/kafka-java:{WORK}/kafka-4/*", "KafkaTruth"]
    if kind == "franz":
        return [str(WORK / "clients/truth-kafka-go")]
    return [sys.executable, "-m", f"truth.kafka.clients.{ {'librdkafka': 'librdkafka', 'python': 'purepython'}[kind] }"]


class Process:
    """A client's process, with as many producers and consumers as are opened in it."""

    def __init__(self, kind, name, errors):
        self.kind, self.name = kind, name
        with open(errors, "ab") as out:
            self.process = spawn(command_of(kind), cwd=REPOSITORY / "tests/brokers", stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, stderr=out, text=True, bufsize=1)
        self._waiting, self._asked, self._opened = {}, 0, 0
        self._lock = threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def pid(self):
        """Its process id."""
        return self.process.pid

    def alive(self):
        """Whether it still runs."""
        return self.process.poll() is None

    def ask(self, do, **fields):
        """Sends a command; the future has its result."""
        answer = concurrent.futures.Future()
        with self._lock:
            self._asked += 1
            self._waiting[self._asked] = answer
            self.process.stdin.write(json.dumps({"id": self._asked, "do": do, **fields}) + "\n")
            self.process.stdin.flush()
        return answer

    def tell(self, do, **fields):
        """Sends a command and waits for its result."""
        return self.ask(do, **fields).result(PATIENCE)

    def name_handle(self):
        """A name that no handle had before."""
        self._opened += 1
        return f"{self.name}.{self._opened}"

    def kill(self):
        """Without a word."""
        stop(self.process, how=signal.SIGKILL)

    def freeze(self):
        """It is not run any more, until it is thawed."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        """It goes on."""
        self.process.send_signal(signal.SIGCONT)

    def end(self):
        """Ends it by the end of its input."""
        try:
            self.process.stdin.close()
            self.process.wait(10)
        except (OSError, subprocess.TimeoutExpired):
            pass
        stop(self.process, how=signal.SIGKILL)

    def _listen(self):
        for line in self.process.stdout:
            answer = json.loads(line)
            waiting = self._waiting.pop(answer["id"], None)
            if waiting is None:
                continue
            if "fault" in answer:
                waiting.set_exception(RuntimeError(f"{self.name}: {answer['fault']}"))
            else:
                waiting.set_result(answer["result"])
        for waiting in list(self._waiting.values()):
            waiting.set_exception(RuntimeError(f"{self.name} has ended"))


class Handle:
    """One producer or consumer of a process."""

    kind = None

    def __init__(self, stage, process, options):
        self.stage, self.process, self.options = stage, process, options
        self.name, self.open = process.name_handle(), True
        process.tell("open", handle=self.name, kind=self.kind, options=options)

    def ask(self, do, **fields):
        """Sends it a command without waiting."""
        return self.process.ask(do, handle=self.name, **{name: value for name, value in fields.items() if value is not None})

    def tell(self, do, **fields):
        """Sends it a command and waits."""
        return self.ask(do, **fields).result(PATIENCE)

    def close(self, leave=True):
        """In order; a consumer leaves its group, unless `leave` is false and it is a static member."""
        if self.open and self.process.alive():
            self.tell("close", leave=leave)
        self.open = False


class Producer(Handle):
    """A producer."""

    kind = "producer"

    def produce(self, topic, n=1, first=0, partition=None, keys=None, size=0, noise=False, headers=(), pause=0, flush=True):
        """Sends records `first`, `first` + 1, …; the same number is the same record. `keys`: None for none, 0 for one of its
        own each, k for k different ones."""
        self.tell("produce", topic=topic, stem=self.stage.prefix, n=n, first=first, partition=partition, keys=keys, size=size,
                  noise=noise, headers=[list(header) for header in headers], pause=pause)
        if flush:
            self.flush()

    def copy(self, consumer, record, topic, how, headers=(), inherit=True, partition=None, flush=True, append=None):
        """Publishes again what `consumer` was handed: `how` is retry, dead or plain (neither). `append` changes the value (Python's
        clients only)."""
        self.tell("copy", topic=topic, partition=partition, consumer=consumer.name, record=list(record[:3]), inherit=inherit,
                  headers=[list(header) for header in headers], append=append, **{"as": how})
        if flush:
            self.flush()

    def flush(self):
        """Waits until all is answered."""
        self.tell("flush")

    def begin(self):
        """Begins a transaction."""
        self.tell("begin")

    def commit(self):
        """Commits it."""
        self.tell("end", commit=True)

    def abort(self):
        """Aborts it."""
        self.tell("end", commit=False)

    def send_offsets(self, consumer):
        """What `consumer` was handed is committed with the transaction."""
        self.tell("send_offsets", consumer=consumer.name)


class Polling(Handle):
    """What consumers of both kinds do."""

    def subscribe(self, *topics):
        """Joins its group."""
        self.tell("subscribe", topics=list(topics))
        return self

    def start_poll(self, **conditions):
        """Polls until the conditions hold, see `poll`, without waiting for it."""
        return self.ask("poll", **conditions)

    def poll(self, records=None, assigned=None, idle=None, timeout=20_000, enough=True):
        """Polls until it has so many records and partitions, and so many milliseconds of silence. `enough`: fails if that does
        not come."""
        return polled(self.start_poll(records=records, assigned=assigned, idle=idle, timeout=timeout), enough)


def polled(future, enough=True):
    """The records of a `start_poll`."""
    result = future.result(PATIENCE)
    if enough and not result["complete"]:
        raise Timeout(f"polled in vain; only {len(result['records'])} records came")
    return [Record(*record) for record in result["records"]]


def until_assigned(wanted):
    """Lets consumers poll beside each other until each has so many partitions: consumer → number. A rebalance needs them all."""
    deadline = time.monotonic() + PATIENCE / 2
    while True:
        polls = {consumer: consumer.start_poll(idle=100, timeout=1000) for consumer in wanted}
        if all([poll.result(PATIENCE)["assigned"] == wanted[consumer] for consumer, poll in polls.items()]):
            return
        if time.monotonic() > deadline:
            raise Timeout("the group does not come to rest")


class Consumer(Polling):
    """A consumer, of a group or without."""

    kind = "consumer"

    def assign(self, *partitions):
        """Reads (topic, partition) or (topic, partition, offset), of its own choice."""
        self.tell("assign", partitions=[list(partition) for partition in partitions])
        return self

    def commit(self, offsets=None):
        """Commits what it was handed, or given (topic, partition, offset)s; returns the error or None."""
        return self.tell("commit", offsets=None if offsets is None else [list(place) for place in offsets])["error"]

    def seek(self, topic, partition, offset):
        """Goes on elsewhere."""
        self.tell("seek", to=[topic, partition, offset])

    def pause(self, *partitions):
        """Wants no more of them for now."""
        self.tell("pause", partitions=[list(partition) for partition in partitions])

    def resume(self, *partitions):
        """Wants them again."""
        self.tell("resume", partitions=[list(partition) for partition in partitions])


class Share(Polling):
    """A share consumer (Java)."""

    kind = "share"

    def verdicts(self, records, verdict):
        """accept, release, reject or renew; sent with the next poll or commit."""
        self.tell("verdict", records=[[*record[:3], verdict] for record in records])

    def commit(self):
        """Sends verdicts and waits for the answer: [topic, partition, error or None] of each partition."""
        return self.tell("commit")["answers"]


class Asking(Handle):
    """The Java client's admin."""

    kind = "admin"

    def group_config(self, group, **configs):
        """Sets a group's configuration."""
        self.tell("group_config", group=group, configs={name.replace("_", "."): str(value) for name, value in configs.items()})

    def share_offsets(self, group):
        """Where the share group's log begins: places."""
        return self.tell("share_offsets", group=group)["offsets"]


class Pool:
    """Processes that one scenario after the other uses: a JVM takes a second to start."""

    def __init__(self, directory):
        self.directory, self._free, self._all = directory, collections.defaultdict(list), []

    def take(self, kind, fresh=False):
        """A process that no handle of another scenario is in."""
        free = [] if fresh else self._free[kind]
        while free:
            process = free.pop()
            if process.alive():
                return process
        process = Process(kind, f"{kind}-{len(self._all)}", self.directory / f"{kind}.stderr")
        self._all.append(process)
        return process

    def give(self, process):
        """Back, with all of its handles closed."""
        if process.alive():
            self._free[process.kind].append(process)

    def close(self):
        """Ends all."""
        for process in self._all:
            process.end()
