"""From a truth log to the lines that acktrail must write: per message, per chain, in order.

A chain is what happens to a message in one queue (for a stream: for one consumer); `None` is the chain of its publish. The
rules are those of the product's promise (docs/events.md), told from the clients' side; nothing here is shared with the agent's code.

An expected line is a dict. A field that is not in it is not compared; a field that is None must be absent.
`after` and `before` bound its time by what caused it and by what it caused: a publish is not seen before the client writes
it, a delivery is not read after the client has it.
"""

import collections


class Expected:
    """All of one scenario: `lines[key][chain]` is a list of lines, `events` a list of (name, connection)."""

    def __init__(self, prefix):
        self.prefix = prefix
        self.lines = collections.defaultdict(lambda: collections.defaultdict(list))
        self.events = []
        self.publishes = collections.defaultdict(list)  # connection → keys in order of their publish
        # (connection, consumer tag or None, delivery tag) → keys: direct replies all have tag 1.
        self.handles = collections.defaultdict(list)
        self.sizes, self.ids, self.copies = {}, {}, collections.Counter()
        self.connections = []                            # (port, connected at, connection)

    def messages(self):
        """How many different messages."""
        return len(self.lines)

    def total(self):
        """How many lines."""
        return sum(len(chain) for chains in self.lines.values() for chain in chains.values())


def expect(log, prefix):
    """Reads a truth log (a list of dicts) into an `Expected`."""
    rules = _Rules(Expected(prefix))
    for entry in log:
        entry = {field: clean(value) if field in NAMES else value for field, value in entry.items()}
        getattr(rules, "on_" + entry["op"])(entry)
    return rules.out


NAMES = ("queue", "exchange", "rk", "ctag")


def clean(name):
    """A name as it is written: control characters would move a terminal's cursor."""
    return name and "".join(c if c.isprintable() else f"\\u{{{ord(c):x}}}" for c in name)


class _Rules:
    def __init__(self, out):
        self.out = out
        self.fates, self.names, self.restarted = {}, {}, False
        self.ends = {}                                   # connection → what its lines say of both ends
        self.published = collections.defaultdict(list)   # key → publishes that the broker has not answered; the last stays
        self.open = {}                                   # (chan, tag) → delivery entry
        self.rounds = collections.Counter()              # (key, chain) → deliveries so far
        self.expired_ways = set()                        # (key, queue, reason) already accounted for
        self.pending = collections.defaultdict(list)     # (chan, tx) → entries of an open transaction
        self.requeued = collections.Counter()
        self.returned = set()
        self.acted = {}                                  # (chan, tag) → when the client settled it
        self.reading = {}                                # chan → when its client began to read again
        self.waiting = collections.defaultdict(dict)     # queue → keys that were published to it by name
        self.back = collections.defaultdict(dict)        # queue → keys that are in it again
        self.deleted = set()                             # queues that are no more

    # Connections and names

    def connection(self, chan):
        """The connection that a channel belongs to, never used again even if its port is."""
        return self.names[int(chan.split("/")[0])]

    def on_note(self, entry):
        if entry.get("text") == "connected":
            port = entry["port"]
            name = f"{port}@{len(self.out.connections)}"
            self.names[port] = name
            self.ends[name] = {field: entry[field] for field in ("pid", "vhost", "client", "server") if field in entry}
            self.out.connections.append((port, entry["t"], name))
        elif entry.get("text") == "broker restarted":
            self.restarted = True
        elif entry.get("text") == "reading":
            self.reading[entry["chan"]] = entry["t"]

    def on_queue(self, entry):
        self.fates[entry["queue"]] = entry["fate"] or {}
        self.deleted.discard(entry["queue"])

    def on_event(self, entry):
        chan = entry.get("chan")
        self.out.events.append((entry["name"], self.connection(chan) if chan else None))

    # The publish's own chain

    def on_publish(self, entry):
        if entry["tx"] is not None:
            self.pending[entry["chan"], entry["tx"]].append(entry)
            return
        key, connection = entry["key"], self.connection(entry["chan"])
        self.published[key].append(entry)
        self.out.sizes[key], self.out.ids[key] = entry["size"], entry["id"]
        self.out.copies[key] += not entry.get("republished")
        self.out.publishes[connection].append(key)
        if entry["exchange"] == "":
            self.waiting[entry["rk"]][key] = True
        self._publish_line(entry, "Created", operation="publish", size=entry["size"],
                           reason="republished" if entry.get("republished") else None)

    def _publish_line(self, entry, state, **more):
        connection = self.connection(entry["chan"])
        self.out.lines[entry["key"]][None].append({
            "state": state, "id": entry["id"], "exchange": entry["exchange"], "rk": entry["rk"], "queue": None, "tag": None,
            "delivery": None, "redelivered": None, "reason": None, "corrects": None, "port": connection,
            "settlement": None, "evidence": "observed", "count": 1, "after": entry["t"], **self.ends[connection], **more})

    def on_confirm(self, entry):
        if entry["key"] not in self.returned:
            self._publish_line(self._answered(entry, "confirms"), "Confirmed", settlement=COVERED[entry["multiple"]])

    def on_refuse(self, entry):
        self._publish_line(self._answered(entry, "confirms"), "PublishFailed", reason="refused", settlement=ANY)

    def on_returned(self, entry):
        self.returned.add(entry["key"])
        self._publish_line(self._answered(entry, "mandatory"), "Returned", reason="unroutable", error=str(entry["code"]))

    def on_lost_publish(self, entry):
        error = entry["code"] and str(entry["code"])
        evidence = "inferred" if entry["reason"] == "connection_lost" else "observed"
        self._publish_line(self._answered(entry, "key"), "PublishFailed", reason=entry["reason"], error=error,
                           evidence=evidence)

    def _answered(self, entry, kind):
        """The publish that an answer is of: of twins the oldest that can have one."""
        entries = self.published[entry["key"]]
        index = next((index for index, publish in enumerate(entries) if publish[kind]), 0)
        return entries.pop(index) if len(entries) > 1 else entries[0]

    # Deliveries

    def chain(self, entry):
        """A message's chain in a queue; every consumer of a stream has one of its own."""
        stream = self.fates.get(entry["queue"], {}).get("stream")
        return (entry["queue"], entry["ctag"]) if stream else entry["queue"]

    def on_deliver(self, entry):
        key, connection, chain = entry["key"], self.connection(entry["chan"]), self.chain(entry)
        self._arrived(entry)
        self.waiting[entry["queue"]].pop(key, None)
        self.back[entry["queue"]].pop(key, None)
        self.rounds[key, chain] += 1
        # Of what it finds on its disk a broker says that it was delivered before, whether it was or not: nobody can count.
        found = self.restarted and entry["redelivered"] and self.rounds[key, chain] == 1
        entry = {**entry, "delivery": None if found else self.rounds[key, chain]}
        self.out.handles[connection, entry["ctag"], entry["tag"]].append(key)
        self.out.ids.setdefault(key, entry["id"])
        self._line(entry, "Dispatched", operation="get" if entry["get"] else "deliver", before=entry["t"])
        self._line(entry, "Processing", before=entry["t"], after=self.reading.get(entry["chan"], 0))
        if entry["auto"]:
            self._line(entry, "Acknowledged", settlement="automatic")
        else:
            self.open[entry["chan"], entry["tag"]] = entry

    def _line(self, entry, state, **more):
        connection = self.connection(entry["chan"])
        self.out.lines[entry["key"]][self.chain(entry)].append({
            "state": state, "id": entry["id"], "exchange": entry["exchange"], "rk": entry["rk"], "queue": entry["queue"],
            "tag": entry["tag"], "ctag": entry["ctag"], "delivery": entry["delivery"], "redelivered": entry["redelivered"],
            "reason": None, "corrects": None, "port": connection, "settlement": None, "evidence": "observed", "count": 1,
            "offset": entry.get("offset"), "after": self.acted.get((entry["chan"], entry["tag"]), 0),
            **self.ends[connection], **more})

    def _arrived(self, entry):
        """What a delivery proves of the queues that the message died in before, most recent first in `deaths`."""
        key = entry["key"]
        if any(death[0] == entry["queue"] for death in entry["deaths"]):
            return  # back where it was: a retry, and said so when it was rejected
        home = entry["queue"]
        if entry["deaths"] and self.fates.get(entry["deaths"][0][0], {}).get("back") == home and self.rounds[key, home]:
            # It was here before, and the application sent it round: a retry, told once it is back.
            self.out.lines[key][home].append({
                "state": "Retrying", "previous": "Created", "reason": "retry_topic", "queue": home, "source": home,
                "destination": entry["deaths"][0][0], "delivery": self.rounds[key, home], "evidence": "observed",
                "id": entry["id"], "corrects": None, "tag": None})
            return
        # The latest death comes first; each led into the queue of the one after it.
        ways = [death[0] for death in entry["deaths"]]
        for index in reversed(range(len(ways))):
            self._died(entry, *entry["deaths"][index], destination=ways[index - 1] if index else entry["queue"])

    def _died(self, entry, queue, reason, count, destination):
        key = entry["key"]
        if (key, queue, reason, count) in self.expired_ways:
            return
        self.expired_ways.add((key, queue, reason, count))
        fate, told = self.fates.get(queue, {}), self.out.lines[key][queue]
        base = {"queue": queue, "source": queue, "destination": destination, "evidence": "observed", "id": entry["id"]}
        self.waiting[queue].pop(key, None)
        if reason == "expired":
            told.append({**base, "state": "Expired", "reason": "expired", "source": None, "destination": None})
            told.append({**base, "state": "DeadLettered", "reason": "expired", "corrects": None})
        elif reason == "maxlen":
            told.append({**base, "state": "DeadLettered", "reason": "maxlen", "corrects": None})
        elif reason == "rejected" and "dead" not in fate:
            # A policy made it so, or nobody saw the declaration.
            told.append({**base, "state": "DeadLettered", "reason": "rejected",
                         "corrects": "Dropped" if "policy" in fate else None})

    def on_expired(self, entry):
        """Nobody is told, so it is inferred from what the queue or the message declared."""
        self.waiting[entry["queue"]].pop(entry["key"], None)
        self.out.lines[entry["key"]][entry["queue"]].append({
            "state": "Expired", "reason": "expired", "queue": entry["queue"], "evidence": "inferred", "tag": None,
            "corrects": None, "after": entry["t"]})

    # Settlements

    def on_settle(self, entry):
        if entry["tx"] is not None:
            self.pending[entry["chan"], entry["tx"]].append(entry)
            return
        for tag in entry["tags"]:
            self.acted[entry["chan"], tag] = entry["t"]
            self._settled(self.open.pop((entry["chan"], tag)), entry)

    def _settled(self, delivery, entry):
        more = {"settlement": "multiple" if entry["multiple"] else "explicit", "operation": entry["how"]}
        queue = delivery["queue"]
        fate = self.fates.get(queue, {})
        if entry["how"] == "ack":
            self._line(delivery, "Acknowledged", **more)
        elif entry["requeue"]:
            self._again(delivery, "requeued", **more)
        else:
            self._line(delivery, "Rejected", reason="rejected", **more)
            inferred = {"evidence": "inferred", "operation": ANY, "settlement": ANY}
            if "dead" in fate:
                self._line(delivery, "DeadLettered", reason="rejected", source=queue, destination=fate["dead"], **inferred)
            elif "retry" in fate:
                self._line(delivery, "Retrying", reason="retry_topic", **inferred)
            elif "drop" in fate or "policy" in fate:
                self._line(delivery, "Dropped", reason="rejected", **inferred)

    def _again(self, delivery, reason, sure=True, unused=(), **more):
        """A delivery that ended without success: it comes again, unless a quorum queue has had enough of it, or its queue is
        gone with its last consumer."""
        key, queue = delivery["key"], delivery["queue"]
        self._line(delivery, "Failed", reason=reason, **more)
        limit = self.fates.get(queue, {}).get("limit")
        self.requeued[key, queue] += 1
        after = {"operation": ANY, "settlement": ANY}
        if limit is not None and self.requeued[key, queue] > limit:
            self._line(delivery, "DeadLettered", reason="delivery_limit", evidence="inferred", source=queue,
                       destination=self.fates[queue]["dead"], **after)
        elif queue in unused:
            self._dropped(delivery)
        else:
            self._line(delivery, "Retrying", reason=reason, evidence="observed" if sure else "inferred", **after)
            self.back[queue][key] = True

    def _dropped(self, delivery):
        """A delivery that has no queue any more to go back to."""
        self._line(delivery, "Dropped", reason="queue_deleted", evidence="inferred", settlement=ANY, operation=ANY)

    def on_recover(self, entry):
        decided = {tag for (chan, _), parts in self.pending.items() if chan == entry["chan"]
                   for part in parts if part["op"] == "settle" for tag in part["tags"]}
        for tag in self._held(entry["chan"]):
            if tag in decided:
                continue
            self._again(self.open.pop((entry["chan"], tag)), "recovered", settlement="multiple", operation=ANY)

    def on_ended(self, entry):
        for tag in self._held(entry["chan"]):
            delivery = self.open.pop((entry["chan"], tag))
            if delivery["queue"] in self.deleted:
                self._dropped(delivery)
            else:
                self._again(delivery, entry["reason"], sure=False, unused=entry.get("unused", ()), operation=ANY)

    def _held(self, chan):
        return sorted(tag for held, tag in self.open if held == chan)

    # Transactions

    def on_commit(self, entry):
        self.out.events.append(("transaction", self.connection(entry["chan"])))
        for part in self.pending.pop((entry["chan"], entry["tx"]), []):
            getattr(self, "on_" + part["op"])({**part, "tx": None})

    def on_rollback(self, entry):
        self.out.events.append(("transaction", self.connection(entry["chan"])))
        self.pending.pop((entry["chan"], entry["tx"]), None)

    # Queues that go

    def on_waits(self, entry):
        """What was published to an exchange that leads to this queue alone."""
        self.waiting[entry["queue"]][entry["key"]] = True

    def on_purged(self, entry):
        self._gone(entry["queue"], "purged")

    def on_deleted(self, entry):
        self._gone(entry["queue"], "queue_deleted")
        self.deleted.add(entry["queue"])

    def _gone(self, queue, reason):
        for key in [*self.waiting.pop(queue, {}), *self.back.pop(queue, {})]:
            self.out.lines[key][queue].append({"state": "Dropped", "reason": reason, "queue": queue, "evidence": "inferred"})


class _Any:
    """Equal to whatever is there."""

    def __repr__(self):
        return "anything"


ANY = _Any()
# Some clients do not tell whether one confirm spoke of several publishes.
COVERED = {True: "multiple", False: "explicit", None: ANY}
