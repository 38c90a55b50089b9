"""From facts to bounds: how often each record must and may enter each state, for each group.

The rules are those of the product's promise (docs/events.md), told from the clients' side; nothing here is shared with the
agent's code. What the clients' logs cannot decide has a least and a most number: a record that was sent to a client but never
handed to the application may have been dispatched, one that was handed over must.

`script` is one way to satisfy the bounds, (time, state, reason, delivery) in order: what a perfect agent could write.
"""

import collections
import dataclasses

# A chain's `most` where nobody can know how often: the client may have thrown away what it fetched and fetched it again.
ANY = None
SECOND = 1_000_000_000
PUBLISH = ("Created", "Confirmed", "PublishFailed")
# What clients make of the broker's several refusals of a commit.
UNNUMBERED = ("CommitFailedException", "CommitFailedError")
# How often a share group delivers a record (the broker's group.share.delivery.count.limit).
LIMIT = 5


class Bounds(dict):
    """state → [least, most]; a state that is not in it must not be entered."""

    def must(self, state, times=1):
        """So many times more."""
        least, most = self.get(state, (0, 0))
        self[state] = [least + times, ANY if most is ANY else most + times]

    def may(self, state, times=1):
        """Perhaps so many times more; ANY: any number."""
        least, most = self.get(state, (0, 0))
        self[state] = [least, ANY if most is ANY or times is ANY else most + times]


@dataclasses.dataclass
class Chain:
    """What happens to a record in a group, or to its publish. `earliest` and `handed` bound the time of its first Dispatched, or
    Confirmed."""

    bounds: Bounds = dataclasses.field(default_factory=Bounds)
    script: list = dataclasses.field(default_factory=list)
    earliest: int = 0
    handed: int | None = None
    commits: list = dataclasses.field(default_factory=list)   # (after, before) of each acknowledgement that must be
    final: set | None = None


@dataclasses.dataclass
class Joint:
    """Of several chains together: so many lines of one of these states, to this destination if it names one."""

    words: str
    chains: list
    states: set
    destination: str | None = None
    place: tuple | None = None
    least: int = 1
    most: int | None = 1


class Expected:
    """All of one scenario. `chains[group, topic, generation, partition, offset]`; the publish's own chain has group "" """

    PUBLISHED = ""

    def __init__(self, truth):
        self.truth, self.prefix = truth, truth.prefix
        self.chains = collections.defaultdict(Chain)
        self.created = collections.defaultdict(Bounds)   # (topic, generation) → bounds of Created
        self.refused = collections.defaultdict(Bounds)   # (topic, generation, error code) → bounds of PublishFailed
        self.sendings = collections.defaultdict(list)    # (topic, generation) → times of sends
        self.settled = collections.defaultdict(set)      # (share group, topic, generation, partition) → offsets it has done with
        self.joints, self.events = [], []
        self._published()
        for group in truth.groups.values():
            rules = _Sharing if group.kind == "share" else _Consuming
            for partition, events in group.events.items():
                rules(self, group, partition).run(events)
            self.events += [("settle_failed", name, error["code"]) for name, error, _ in group.refused
                            if error["code"] or error["name"] in UNNUMBERED]
        self._copied()

    def messages(self):
        """How many records have a life."""
        return len(self.truth.records) + len(self.truth.failed)

    def total(self):
        """How many states must be entered at least."""
        return sum(least for chain in self.chains.values() for least, _ in chain.bounds.values()) \
            + sum(least for of in (self.created, self.refused) for bounds in of.values() for least, _ in bounds.values())

    def aliases(self):
        """Name of a group as a line may have it → the group's."""
        return {alias: group.name for group in self.truth.groups.values() for alias in group.aliases()}

    def _published(self):
        for place, record in self.truth.records.items():
            send = record.send
            if send is None:
                continue
            chain = self.chains[(self.PUBLISHED, *place)]
            chain.earliest = send.sent
            self._created(send)
            if send.confirmed:
                chain.bounds.must("Confirmed")
                chain.handed = send.answered
                chain.script.append((send.answered, "Confirmed", None, None))
            elif send.error:
                # The broker said no, or nothing in time, and has it all the same.
                chain.bounds.may("Confirmed")
                self.refused[*place[:2], send.error["code"]].may("PublishFailed")
        for send in self.truth.failed:
            where = send.topic, send.generation
            if send.error and send.error["code"] is not None:
                self._created(send)
                self.refused[*where, send.error["code"]].must("PublishFailed")
            else:
                # Whether it ever left the client, only the wire knows.
                self.created[where].may("Created")
                self.refused[*where, None].may("PublishFailed")

    def _created(self, send):
        where = send.topic, send.generation
        self.sendings[where].append(send.sent)
        # A copy is part of its original's life.
        (self.created[where].may if send.copy else self.created[where].must)("Created")

    # Copies

    def _copied(self):
        origin = {}
        for place, record in sorted(self.truth.records.items(), key=lambda item: item[1].send.sent if item[1].send else 0):
            copy = record.send.copy if record.send else None
            if copy is None or copy["as"] == "plain":
                continue
            topic, partition, offset = copy["of"]
            source = topic, self.truth.generation(topic, record.send.sent), partition, offset
            # Either what was read, or what it had been a copy of itself: the first.
            root = origin.get(source, ((copy["group"], *source)))
            origin[place] = root
            state = {"retry": "Retrying", "dead": "DeadLettered"}[copy["as"]]
            chains = list(dict.fromkeys([(copy["group"], *source), root]))
            self.joints.append(Joint(f"copy of {source} at {place}", chains, {state}, place[0], place))
            for number, key in enumerate(chains):
                chain = self.chains[key]
                chain.bounds.may(state)
                chain.bounds.may("Failed")
                acknowledged = chain.bounds.get("Acknowledged")
                if acknowledged:
                    # The commit that covers it may still be told, or not.
                    acknowledged[0] = 0
                chain.final = None
                if number == 0:
                    chain.script.append((record.send.sent, state, "retry_topic" if state == "Retrying" else None, place))


class _Rules:
    """The events of one group and partition, in order."""

    def __init__(self, expected, group, partition):
        self.expected, self.group, self.partition, self.truth = expected, group, partition, expected.truth
        self.records = {place[3]: record for place, record in self.truth.records.items() if place[:3] == partition}
        self.isolated = {offset for offset, record in self.records.items() if self.truth.isolated(group, record)}

    def chain(self, offset):
        """Of a record in this group."""
        chain = self.expected.chains[(self.group.name, *self.partition, offset)]
        record = self.records.get(offset)
        chain.earliest = record.send.sent if record and record.send else 0
        return chain

    def run(self, events):
        """Takes them one after the other."""
        for at, what, fields in events:
            handler = getattr(self, "on_" + what, None)
            if handler:
                handler(at, **fields)
        self.finish()

    def deliver(self, at, offset):
        """One more delivery that reached the application."""
        chain = self.chain(offset)
        number = sum(state == "Dispatched" for _, state, *_ in chain.script) + 1
        for state in ("Dispatched", "Processing"):
            chain.bounds.must(state)
            chain.script.append((at, state, None, number))
        chain.handed = chain.handed or at
        return chain


class _Consuming(_Rules):
    """Classic groups, groups that the broker assigns, and readers without a group."""

    def __init__(self, *words):
        super().__init__(*words)
        self.holder = {}                    # offset → handle that has it and has not committed it
        self.lost, self.again = set(), set()
        self.acknowledged, self.times = set(), collections.Counter()
        self.committed, self.passes, self.open = None, [], {}
        self.restless = bool(self.truth.restarts)
        self.moved = set()                  # what was handed out while leaders moved

    def on_begin(self, at, handle):
        """A handle reads from where the group is."""
        self.open[handle] = {"start": None, "from": at, "to": ANY, "committed": self.committed}
        self.passes.append(self.open[handle])

    def on_end(self, at, handle):
        """What it had and did not commit comes again, if anybody comes."""
        if handle in self.open:
            self.open.pop(handle)["to"] = at
        for offset in [offset for offset, holder in self.holder.items() if holder == handle]:
            del self.holder[offset]
            self.lost.add(offset)
            self.chain(offset).bounds.may("Failed")

    def on_handed(self, at, handle, offset, count):
        """To the application."""
        chain = self.chain(offset)
        if offset in self.lost:
            self.lost.discard(offset)
            chain.bounds.must("Failed")
            chain.bounds["Failed"][1] -= 1  # it was allowed when it was lost
            chain.script.append((at, "Failed", "rebalanced", self.times[offset]))
        elif offset in self.acknowledged and self.times[offset]:
            # Read again although it was committed: it may be covered again.
            chain.bounds.may("Acknowledged")
            self.again.add(offset)
        self.deliver(at, offset)
        self.times[offset] += 1
        self.holder[offset] = handle
        if self.truth.moves_at(at):
            self.moved.add(offset)
        if handle in self.open and self.open[handle]["start"] is None:
            self.open[handle]["start"] = self._start(offset, at)

    def _start(self, offset, at):
        """Where a reader began whose first record this is: behind the last one before it that it would have been given."""
        before = [o for o, record in self.records.items()
                  if o < offset and o not in self.isolated and (record.gone is None or record.gone > at)]
        return max(before, default=-1) + 1

    def on_seek(self, at, handle, offset):
        """Back to what it had: it comes again. Whether that is a failure, the wire does not say."""
        if handle in self.open:
            self.open[handle]["to"] = at
            self.open[handle] = {"start": offset, "from": at, "to": ANY, "committed": None}
            self.passes.append(self.open[handle])
        self.restless = True
        for held in [held for held, holder in self.holder.items() if holder == handle and held >= offset]:
            self.chain(held).bounds.may("Failed")

    def on_pause(self, _at, handle):
        """Some clients throw away what they have of it."""
        self.restless = True

    def on_commit(self, before, offset, after):
        """All before it are done; what was done and is not before it any more is not."""
        for covered in sorted(o for o in self.records if o < offset and o not in self.isolated):
            if covered in self.holder and covered not in self.acknowledged:
                self._acknowledge(covered, after, before)
            elif covered not in self.acknowledged:
                # It may have been sent to somebody who never got to it.
                self.chain(covered).bounds.may("Acknowledged")
        if self.committed is not None and offset < self.committed:
            for back in sorted(o for o in self.acknowledged if offset <= o < self.committed):
                self._set_back(back, before)
        self.committed = offset

    def _acknowledge(self, offset, after, before):
        chain = self.chain(offset)
        chain.bounds.must("Acknowledged")
        chain.script.append((before, "Acknowledged", None, self.times[offset]))
        chain.commits.append((after, before))
        self.acknowledged.add(offset)
        self.holder.pop(offset)
        self.lost.discard(offset)

    def _set_back(self, offset, at):
        chain = self.chain(offset)
        chain.bounds.must("Failed")
        chain.script.append((at, "Failed", "offset_reset", self.times[offset]))
        # A later commit may cover it before anybody is given it again.
        chain.bounds.may("Acknowledged")
        self.acknowledged.discard(offset)

    def finish(self):
        """What may have been sent without reaching an application, and what was kept from it."""
        events = self.group.events[self.partition]
        reached = max((fields["offset"] for _, what, fields in events if what in ("handed", "position")), default=-1)
        for offset, record in self.records.items():
            passes = self._passes(offset, record)
            if not passes and not self.times[offset]:
                continue
            chain = self.chain(offset)
            if offset in self.isolated:
                if offset < reached:
                    chain.bounds.must("Dropped")
                    chain.script.append((self._last(), "Dropped", "aborted", None))
                chain.bounds.may("Dropped", ANY)
                continue
            # What an old leader sent last, some clients throw away and ask the new one for.
            again = ANY if self.restless or offset in self.moved else max(0, passes - self.times[offset])
            unread = ANY if again is ANY else again + self.truth.discards(self.group)
            chain.bounds.may("Dispatched", unread)
            chain.bounds.may("Processing", unread)
            chain.bounds.may("Failed", unread)
            if again and offset not in self.acknowledged and self.committed is not None and offset < self.committed:
                chain.bounds.may("Acknowledged", again)
            if offset in self.acknowledged and offset not in self.again and not again:
                chain.final = {"Acknowledged"}

    def _last(self):
        return max((event[0] for event in self.group.events[self.partition]), default=0)

    def _passes(self, offset, record):
        """How often somebody's reading went over this record."""
        return sum((each["start"] is None or each["start"] <= offset)
                   and (each["committed"] is None or each["committed"] <= offset)
                   and (each["to"] is ANY or record.send is None or record.send.sent < each["to"])
                   and (record.gone is None or each["from"] < record.gone) for each in self.passes)


class _Sharing(_Rules):
    """Share groups: each record on its own."""

    def __init__(self, *words):
        super().__init__(*words)
        self.counts, self.verdicts, self.ended = {}, collections.defaultdict(list), {}

    def on_handed(self, at, handle, offset, count):
        """The broker counts deliveries; those between were of somebody who did not get to it."""
        before = self.counts.get(offset, 0)
        chain = self.chain(offset)
        if count == before:
            return  # a lock that was renewed: the same delivery, given out once more
        if before:
            chain.script.append((at, "Failed", "released", before))
        for missed in range(before + 1, count):
            chain.bounds.must("Dispatched")
            chain.bounds.may("Processing")
            chain.script += [(at, "Dispatched", None, missed), (at, "Failed", "released", missed)]
        self.deliver(at, offset)
        self.counts[offset] = count

    def on_verdict(self, _at, handle, offset, verdict):
        """Sent with the next poll, commit or close."""
        self.verdicts[handle, offset].append(verdict)

    def on_settled(self, at, handle, offset, error):
        """The oldest verdict without an answer; a client that accepts by polling says none."""
        waiting = self.verdicts[handle, offset]
        verdict = waiting.pop(0) if waiting else "accept"
        if error:
            if error["code"]:
                self.expected.events.append(("settle_failed", self.group.name, error["code"]))
        elif verdict in ("accept", "reject") and offset not in self.ended:
            # A record ends once: to another verdict on it the broker says nothing else, and does nothing.
            self.ended[offset] = verdict
            chain = self.chain(offset)
            if verdict == "accept":
                chain.bounds.must("Acknowledged")
                chain.script.append((at, "Acknowledged", None, self.counts[offset]))
                chain.final = {"Acknowledged"}
            else:
                for state in ("Rejected", "Dropped"):
                    chain.bounds.may(state)
                self._joint(offset, {"Rejected", "Dropped"}, "rejected", most=2)
                chain.script += [(at, state, "rejected", self.counts[offset]) for state in ("Rejected", "Dropped")]

    def _joint(self, offset, states, words, most):
        chains = [(self.group.name, *self.partition, offset)]
        self.expected.joints.append(Joint(f"{words}: {offset} of {self.partition}", chains, states, most=most))

    def finish(self):
        """Every delivery but the last has failed; at the limit the last one has, too."""
        for offset in self.records:
            chain, count = self.chain(offset), self.counts.get(offset, 0)
            archived = offset not in self.ended and count >= LIMIT
            if offset in self.ended or archived:
                self.expected.settled[(self.group.name, *self.partition)].add(offset)
            if offset in self.ended:
                chain.bounds.must("Failed", count - 1)
            else:
                # Acquired, and perhaps never seen by an application.
                chain.bounds.must("Failed", max(0, count - 1))
                chain.bounds.may("Failed", ANY)
                chain.bounds.may("Dispatched", ANY)
                chain.bounds.may("Processing", ANY)
                if archived:
                    for state in ("Dropped", "DeadLettered"):
                        chain.bounds.may(state)
                    self._joint(offset, {"Dropped", "DeadLettered"}, "archived", most=1)
                    at = max(entry[0] for entry in chain.script)
                    chain.script += [(at, "Failed", "released", count), (at, "Dropped", "delivery_limit", count)]
