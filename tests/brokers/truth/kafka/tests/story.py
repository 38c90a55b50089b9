"""Truth logs and lines made by hand, in milliseconds."""

import json
import pathlib
import tempfile

from ..truth import Truth

MS = 1_000_000
START = 1_700_000_000 * 1_000 * MS
TOPIC, GROUP = "made.work", "made.readers"


class Story:
    """Writes a truth log, entry by entry; `truth()` reads it."""

    def __init__(self, partitions=1):
        self.entries, self.stored, self._s = [], [], 0
        self.add(0, "topic", topic=TOPIC, partitions=partitions, generation=1, configs={})

    def add(self, at, op, handle=None, **fields):
        """One entry, `at` milliseconds from the beginning."""
        self.entries.append({"t": START + at * MS, "op": op, "handle": handle, **fields})
        return self

    def producer(self, at=1, handle="p", **options):
        """Opens a producer."""
        return self.add(at, "opened", handle, kind="producer", client="java", pid=1, client_id="p", **options)

    def consumer(self, at=1, handle="c", group=GROUP, kind="consumer", **options):
        """Opens a consumer that reads partition 0."""
        self.add(at, "opened", handle, kind=kind, client="java", pid=2, client_id=handle, **{"group": group, **options})
        return self if kind == "share" else self.add(at, "assigned", handle, partitions=[[TOPIC, 0]])

    def sent(self, at, offset, label=None, handle="p", error=None, known=True, stored=True, **fields):
        """A record that is sent and answered a millisecond later; `known`: the answer has its offset."""
        self._s += 1
        label = label or f"made/{self._s}"
        self.add(at, "sending", handle, s=self._s, label=label, topic=TOPIC, partition=0, size=9, **{"x": None, **fields})
        told = offset if known and not error else None
        self.add(at + 1, "produced", handle, s=self._s, topic=TOPIC, partition=0, offset=told, error=error)
        if stored and not error:
            self.stored.append([offset, label, None, 9])
        return self

    def handed(self, at, *offsets, handle="c", count=None):
        """Records for the application."""
        labels = {offset: label for offset, label, *_ in self.stored}
        for offset in offsets:
            self.add(at, "handed", handle, topic=TOPIC, partition=0, offset=offset, label=labels[offset], count=count)
        return self

    def commit(self, at, offset, handle="c", group=GROUP):
        """A commit that takes two milliseconds."""
        self.add(at, "committing", handle, how="sync", offsets=[[TOPIC, 0, offset]])
        self.add(at + 2, "committed", handle, how="sync", offsets=[[TOPIC, 0, offset]], error=None)
        return self.add(9000 + at, "commit", group=group, topic=TOPIC, partition=0, offset=offset, at_ms=START // MS + at + 1)

    def log(self, at=8000, committed=None, without=()):
        """What the broker says of the log."""
        present = [record for record in sorted(self.stored) if record[0] not in without]
        offsets = [record[0] for record in present]
        end = max((record[0] for record in self.stored), default=-1) + 1
        return self.add(at, "log", topic=TOPIC, generation=1, partition=0, start=0, end=end,
                        records=present, committed=offsets if committed is None else committed)

    def truth(self):
        """The facts."""
        if not any(entry["op"] == "log" for entry in self.entries):
            self.log()
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory) / "made.truth.jsonl"
            path.write_text("".join(json.dumps(entry) + "\n" for entry in self.entries))
            return Truth(path)


def line(at, state, first=None, last=None, count=None, group=None, reason=None, delivery=None, corrects=None, **attributes):
    """A line as acktrail writes it. A delivery is the first, if nothing else is said."""
    named = {"messaging.system": "kafka", "messaging.destination.name": TOPIC, **{key.replace("__", "."): value for key, value in
                                                                                attributes.items()}}
    if first is not None:
        named.update({"messaging.destination.partition.id": "0", "messaging.kafka.offset": first,
                      "acktrail.kafka.offset.last": first if last is None else last})
        count = count or (first if last is None else last) - first + 1
    if group:
        named["messaging.consumer.group.name"] = group
        delivery = delivery or 1
    made = {"kind": "transition", "time": f"2023-11-14T22:13:{20 + at // 1000:02d}.{at % 1000:03d}000000Z", "state": state,
            "count": count, "attributes": named, "reason": reason, "delivery": delivery, "corrects": corrects}
    return {field: value for field, value in made.items() if value is not None}
