"""From a truth log to facts: what became of each record, by the clients' own logs and the broker's admin interface.

`Truth` holds, for one scenario:

    records     (topic, generation, partition, offset) → `Record`: everything that ever had an offset
    failed      sends that never got one: `Send`
    groups      name (None: readers without a group) → `Group`: members' handles, and the events of each partition, in order
    problems    where the sources contradict each other; empty, or nothing can be checked

Nothing in it comes from the wire.
"""

import collections
import dataclasses

from .log import read

MILLISECOND = 1_000_000
# Until clients have found out who leads now.
SETTLING = 1000 * MILLISECOND


@dataclasses.dataclass
class Send:
    """One record that a producer sent. Times are in nanoseconds."""

    handle: str
    s: int
    label: str
    topic: str
    generation: int
    partition: int | None
    sent: int
    acks: str
    transaction: tuple | None
    copy: dict | None
    answered: int | None = None
    offset: int | None = None
    error: dict | None = None

    @property
    def confirmed(self):
        """Whether the broker said that it has it."""
        return self.answered is not None and self.error is None and self.acks != "0"


@dataclasses.dataclass
class Record:
    """One record of a log. `gone`: when it was first known to have left the log (compaction, deletion)."""

    place: tuple
    label: str
    send: Send | None = None
    aborted: bool = False
    gone: int | None = None


@dataclasses.dataclass
class Group:
    """A group, or the readers that have none. `events` of a partition: (time, what, fields) in order; what is handed, commit,
    begin (a handle reads from here on), end (a handle lost it, left or died), seek, pause, settled."""

    name: str | None
    kind: str
    handles: dict = dataclasses.field(default_factory=dict)
    events: dict = dataclasses.field(default_factory=lambda: collections.defaultdict(list))
    refused: list = dataclasses.field(default_factory=list)

    @property
    def isolation(self):
        """Of its members, which all have the same."""
        return next((options.get("isolation") or "read_uncommitted" for options in self.handles.values()), "read_uncommitted")

    def aliases(self):
        """What it may be called: librdkafka insists on a group for readers without one, and Java, if it is given where to begin,
        names its group only when it commits."""
        if self.name is None:
            return {None, *(f"{options['client_id']}.none" for options in self.handles.values())}
        late = any(options["client"] == "java" and options.get("given_offsets") for options in self.handles.values())
        return {self.name, None} if late else {self.name}


class Truth:
    """The facts of one scenario."""

    def __init__(self, path):
        self.prefix = path.name.removesuffix(".truth.jsonl")
        self.entries = read(path)
        self.records, self.failed, self.groups, self.problems = {}, [], {}, []
        self.topics = collections.defaultdict(list)      # topic → (from when, generation)
        self.ids = {}                                    # id of a topic → (topic, generation)
        self.surveys = collections.defaultdict(list)     # (topic, generation, partition) → log entries, in time's order
        self.handles, self.sends, self.restarts, self.moves = {}, {}, 0, []
        self.broker = None                               # its version
        self._ends = {}                                  # (handle, transaction) → committed?
        self._killed = set()                             # pids
        self._partitions, self._shrinking = None, {}
        for entry in self.entries:
            handler = getattr(self, "_on_" + entry["op"], None)
            if handler:
                handler(entry)
        self._place()
        self._membership()
        self._history()
        for group in self.groups.values():
            for events in group.events.values():
                events.sort(key=lambda event: event[0])

    def generation(self, topic, at):
        """Which topic of that name it was at a time."""
        return next((number for since, number in reversed(self.topics[topic]) if since <= at + 50 * MILLISECOND), 1)

    def held(self, partition, at=None):
        """The offsets of the records that a log held at a time, or ever: partition is (topic, generation, partition)."""
        records = self._logs().get(partition, ())
        return [offset for offset, gone in records if at is None or gone is None or gone > at]

    def shrinks(self, partition):
        """Whether records have left the log."""
        if partition not in self._shrinking:
            self._shrinking[partition] = any(gone is not None for _, gone in self._logs().get(partition, ()))
        return self._shrinking[partition]

    def _logs(self):
        """Of each partition its records' offsets in order, and when each left the log."""
        if self._partitions is None:
            self._partitions = collections.defaultdict(list)
            for place, record in sorted(self.records.items()):
                self._partitions[place[:3]].append((place[3], record.gone))
        return self._partitions

    def isolated(self, group, record):
        """Whether this group is not given the record, because its transaction was aborted."""
        return record.aborted and group.isolation == "read_committed"

    def discards(self, group):
        """Whether clients of the group may throw away an answer, once for a record, and ask again.

        librdkafka does with an answer of an old broker whose last record is where it believes the log's end to be.
        """
        return self.broker == "2.8" and any(options["client"] == "librdkafka" for options in group.handles.values())

    def _on_broker(self, entry):
        self.broker = entry["version"]

    # Producers

    def _on_opened(self, entry):
        self.handles[entry["handle"]] = entry

    def _on_topic(self, entry):
        if entry.get("id"):
            self.ids[entry["id"]] = entry["topic"], entry["generation"]
        if all(number != entry["generation"] for _, number in self.topics[entry["topic"]]):
            self.topics[entry["topic"]].append((entry["t"], entry["generation"]))

    def _on_sending(self, entry):
        options = self.handles[entry["handle"]]
        x = entry.get("x")
        self.sends[entry["handle"], entry["s"]] = Send(
            entry["handle"], entry["s"], entry["label"], entry["topic"], self.generation(entry["topic"], entry["t"]),
            entry["partition"], entry["t"], str(options.get("acks") or "all"),
            None if x is None else (entry["handle"], x), entry.get("copy"))

    def _on_produced(self, entry):
        send = self.sends[entry["handle"], entry["s"]]
        if send.answered is not None:
            self.problems.append(f"{send.label} of {send.handle} was answered twice")
        send.answered, send.offset, send.error = entry["t"], entry["offset"], entry["error"]
        send.partition = entry["partition"] if entry["partition"] is not None else send.partition

    def _on_killed(self, entry):
        # What it had said before, somebody may read only now.
        self._killed.add(entry["pid"])

    def _on_ended(self, entry):
        self._ends[entry["handle"], entry["x"]] = entry["commit"]

    def _on_log(self, entry):
        self.surveys[entry["topic"], entry["generation"], entry["partition"]].append(entry)

    def _on_restarted(self, _entry):
        self.restarts += 1

    def moves_at(self, at):
        """Whether partitions and groups go from node to node then; clients need a moment more to find them."""
        return any(begin <= at <= end + SETTLING for begin, end in self.moves)

    def _on_moving(self, entry):
        self.moves.append((entry["t"], 2**63))

    def _on_moved(self, entry):
        self.moves[-1] = (self.moves[-1][0], entry["t"])

    def _place(self):
        """Every send gets its offset: as it was acknowledged, or, without an acknowledgement, where the log has its label."""
        # What was on its way when its producer was killed may be stored, and answered, or not.
        for send in self.sends.values():
            if send.answered is None and self.handles[send.handle]["pid"] in self._killed:
                send.error = {"code": None, "name": "killed"}
        for send in self.sends.values():
            if send.offset is not None:
                place = send.topic, send.generation, send.partition, send.offset
                if place in self.records:
                    self.problems.append(f"{place} was acknowledged twice, for {self.records[place].label} and for {send.label}")
                self.records[place] = Record(place, send.label, send)
        loose = collections.defaultdict(list)
        for send in sorted(self.sends.values(), key=lambda send: send.sent):
            if send.offset is None:
                loose[send.topic, send.generation, send.label].append(send)
        for partition, surveys in self.surveys.items():
            for survey in surveys:
                self._found(partition, survey, loose)
        self.failed = [send for several in loose.values() for send in several]
        for send in self.failed:
            if send.error is None:
                self.problems.append(f"{send.label} of {send.handle} is in no log, and nothing says why")
        for place, record in self.records.items():
            self._decided(place, record)

    def _found(self, partition, survey, loose):
        present = {offset: label for offset, label, *_ in survey["records"]}
        for offset, label in present.items():
            record = self.records.get((*partition, offset))
            if record is None:
                waiting = loose[(*partition[:2], label)]
                send = next((send for send in waiting if send.partition in (None, partition[2])), None)
                if send:
                    waiting.remove(send)
                    send.partition = partition[2]
                else:
                    self.problems.append(f"{partition} has {label} at {offset}, and nobody sent it")
                record = self.records[(*partition, offset)] = Record((*partition, offset), label, send)
            if record.label != label:
                self.problems.append(f"{partition} has {label} at {offset}, where {record.label} was acknowledged")
        for place, record in self.records.items():
            if place[:3] == partition and place[3] < survey["end"] and place[3] not in present and record.gone is None \
                    and (record.send is None or record.send.sent < survey["t"]):
                record.gone = survey["t"]

    def _decided(self, place, record):
        transaction = record.send.transaction if record.send else None
        if transaction is None:
            return
        record.aborted = self._ends.get(transaction) is False
        last = self.surveys[place[:3]][-1] if self.surveys[place[:3]] else None
        if last and record.gone is None and (place[3] in last["committed"]) is not (self._ends.get(transaction) is True):
            self.problems.append(f"{place}: {'not ' * (place[3] not in last['committed'])}given to readers of committed records")

    # Consumers

    def group(self, name, kind):
        """A group, made when it is first heard of."""
        return self.groups.setdefault(name, Group(name, kind))

    def _membership(self):
        state = _Members(self)
        for entry in self.entries:
            handler = getattr(state, "on_" + entry["op"], None)
            if handler:
                handler(entry)

    def _history(self):
        """Commits: the offsets topic has all of them in order, the clients' logs when each was made."""
        made = _Made(self.entries, self.handles, self._ends)
        for entry in self.entries:
            if entry["op"] == "commit" and entry["offset"] is not None:
                group = self.groups[entry["group"]]
                known = made.take(entry["group"], entry["topic"], entry["partition"], entry["offset"])
                # The broker's clock has milliseconds.
                after, before = known or (entry["at_ms"] * MILLISECOND, (entry["at_ms"] + 1) * MILLISECOND)
                partition = entry["topic"], self.generation(entry["topic"], before), entry["partition"]
                group.events[partition].append((before, "commit", {"offset": entry["offset"], "after": after}))
        for name, topic, partition, offset in made.left():
            self.problems.append(f"{name} says it committed {offset} of {topic}/{partition}, which the offsets topic does not "
                                 "have")
        for name, group in self.groups.items():
            group.refused = [failed for failed in made.refused if failed[0] == name]


class _Members:
    """Who reads what, and from where, as the log goes on."""

    def __init__(self, truth):
        self.truth, self.reading, self.pids = truth, collections.defaultdict(set), {}

    def _group(self, handle):
        options = self.truth.handles[handle]
        return self.truth.group(options.get("group"), options["kind"])

    def _partition(self, topic, partition, at):
        return topic, self.truth.generation(topic, at), partition

    def _add(self, entry, where, what, **fields):
        self._group(entry["handle"]).events[where].append((entry["t"], what, {"handle": entry["handle"], **fields}))

    def on_opened(self, entry):
        """A consumer of either kind belongs to its group from now on."""
        if entry["kind"] in ("consumer", "share"):
            self._group(entry["handle"]).handles[entry["handle"]] = entry
            self.pids[entry["handle"]] = entry["pid"]

    def on_assigned(self, entry):
        """It reads these, too."""
        for topic, partition in entry["partitions"]:
            where = self._partition(topic, partition, entry["t"])
            self.reading[entry["handle"]].add(where)
            self._add(entry, where, "begin")

    def on_revoked(self, entry):
        """It reads these no longer."""
        for topic, partition in entry["partitions"]:
            self._end(entry, self._partition(topic, partition, entry["t"]))

    on_lost = on_revoked

    def _end(self, entry, where, handle=None):
        handle = handle or entry["handle"]
        if where in self.reading[handle]:
            self.reading[handle].discard(where)
            self._add({**entry, "handle": handle}, where, "end")

    def on_closed(self, entry):
        """It reads nothing more."""
        if entry["handle"] in self.pids:
            for where in sorted(self.reading[entry["handle"]]):
                self._end(entry, where)
            self.pids.pop(entry["handle"])

    def on_killed(self, entry):
        """Its process has ended."""
        for handle in [handle for handle, pid in self.pids.items() if pid == entry["pid"]]:
            self.on_closed({**entry, "handle": handle})

    def on_frozen(self, entry):
        """Its process does nothing: its session ends before it goes on."""
        for handle in [handle for handle, pid in self.pids.items() if pid == entry["pid"]]:
            for where in sorted(self.reading[handle]):
                self._end(entry, where, handle)

    def on_handed(self, entry):
        """A record for the application. Share consumers learn of no assignment."""
        where = self._partition(entry["topic"], entry["partition"], entry["t"])
        options = self.truth.handles[entry["handle"]]
        if where not in self.reading[entry["handle"]] and options["kind"] == "share":
            self.reading[entry["handle"]].add(where)
            self._add(entry, where, "begin")
        self._add(entry, where, "handed", offset=entry["offset"], count=entry.get("count"))
        record = self.truth.records.get((*where, entry["offset"]))
        if record is None:
            self.truth.problems.append(f"{entry['handle']} was handed {entry['label']} at {where}, {entry['offset']}, which "
                                       "never was")
        elif record.label != entry["label"]:
            self.truth.problems.append(f"{entry['handle']} was handed {entry['label']} at {record.place}, which is "
                                       f"{record.label}")
        elif self.truth.isolated(self._group(entry["handle"]), record):
            self.truth.problems.append(f"{entry['handle']} was handed {record.place}, which was aborted")

    def on_seek(self, entry):
        """It goes elsewhere."""
        topic, partition, offset = entry["to"]
        self._add(entry, self._partition(topic, partition, entry["t"]), "seek", offset=offset)

    def on_paused(self, entry):
        """It wants no more for now."""
        for topic, partition in entry["partitions"]:
            self._add(entry, self._partition(topic, partition, entry["t"]), "pause")

    def on_positions(self, entry):
        """How far it has come."""
        for topic, partition, position, end in entry["partitions"]:
            if position is not None:
                self._add(entry, self._partition(topic, partition, entry["t"]), "position", offset=position, end=end)

    def on_verdict(self, entry):
        """Of a share consumer on a record."""
        self._add(entry, self._partition(entry["topic"], entry["partition"], entry["t"]), "verdict", offset=entry["offset"],
                  verdict=entry["verdict"])

    def on_settled(self, entry):
        """What the broker said to verdicts."""
        where = self._partition(entry["topic"], entry["partition"], entry["t"])
        for offset in entry["offsets"]:
            self._add(entry, where, "settled", offset=offset, error=entry["error"])


class _Made:
    """Commits as the clients' logs have them: (group, topic, partition, offset) → (after, before) of each."""

    def __init__(self, entries, handles, ends):
        self.made, self.refused = collections.defaultdict(list), []
        asked = {}
        for entry in entries:
            op = entry["op"]
            if op == "committing":
                asked[entry["handle"]] = entry["t"]
            elif op == "committed" and entry["error"]:
                self.refused.append((handles[entry["handle"]]["group"], entry["error"], entry["t"]))
            elif op == "committed":
                after = asked.pop(entry["handle"], 0) if entry["how"] == "sync" else 0
                self._add(handles[entry["handle"]]["group"], entry["offsets"], after, entry["t"], entry["how"] == "sync")
            elif op == "reset":
                self._add(entry["group"], entry["offsets"], entry["began"], entry["t"], True)
        ended = {(entry["handle"], entry["x"]): entry["t"] for entry in entries if entry["op"] == "ended"}
        for entry in entries:
            transaction = entry["handle"], entry.get("x")
            if entry["op"] == "committing" and entry["how"] == "txn" and ends.get(transaction):
                self._add(entry["group"], entry["offsets"], entry["t"], ended[transaction], True)

    def _add(self, group, offsets, after, before, sure):
        for topic, partition, offset in offsets:
            self.made[group, topic, partition, offset].append((after, before, sure))

    def take(self, *key):
        """The time of the next commit of this offset, if a client noticed it."""
        if self.made[key]:
            after, before, _ = self.made[key].pop(0)
            return (after or before - 1000 * MILLISECOND), before
        return None

    def left(self):
        """Commits that the broker does not know of. What a client says of commits it made by itself may come twice."""
        return [key for key, several in self.made.items() for _, _, sure in several if sure]

