"""Holds acktrail's JSON lines about Kafka against the truth: every record, every state, for each group, within its bounds.

    python -m truth.kafka.check DIRECTORY LINES       DIRECTORY has the truth logs, LINES what acktrail wrote
"""

import argparse
import bisect
import collections
import dataclasses
import pathlib
import sys

from ..check import Seen, nanoseconds
from .expect import ANY, PUBLISH, SECOND, Expected
from .truth import Truth

ATTRIBUTES = {
    "system": "messaging.system", "topic": "messaging.destination.name", "partition": "messaging.destination.partition.id",
    "first": "messaging.kafka.offset", "last": "acktrail.kafka.offset.last", "group": "messaging.consumer.group.name",
    "client_id": "messaging.client.id", "destination": "acktrail.dead_letter.destination", "error": "error.type",
    "copy_partition": "acktrail.dead_letter.partition.id", "copy_offset": "acktrail.dead_letter.offset",
}
FIELDS = ("state", "previous", "reason", "evidence", "delivery", "corrects", "count", "kind", "event")
SHOWN = ("state", "topic", "partition", "first", "last", "count", "group", "reason", "delivery", "destination", "error",
         "corrects")
STATES = (*PUBLISH, "Dispatched", "Processing", "Acknowledged", "Rejected", "Failed", "Retrying", "DeadLettered", "Dropped")
# Two programs read the clock in their own ways.
TOLERANCE = SECOND // 50
HEADING = f"{'scenario':36} {'records':>8} {'expected':>9} {'lines':>6} {'states':>8} {'differences':>12}"


@dataclasses.dataclass
class Result:
    """What the comparison of one scenario gave."""

    prefix: str
    messages: int
    expected: int
    lines: int = 0
    states: int = 0
    differences: list = dataclasses.field(default_factory=list)
    told: list = dataclasses.field(default_factory=list)    # what the clients say of the first record that differs

    def row(self):
        """A line of the table."""
        return f"{self.prefix:36} {self.messages:8} {self.expected:9} {self.lines:6} {self.states:8} {len(self.differences):12}"


class Checker:
    """Compares one run. `live`: captured here, so that reads of applications are known."""

    def __init__(self, truths, seen, live=True):
        self.expected = {truth.prefix: Expected(truth) for truth in truths}
        self.seen, self.live, self.strangers = seen, live, []

    def run(self):
        """A `Result` for each scenario; `strangers` are lines that belong to none."""
        lines, events = collections.defaultdict(list), collections.defaultdict(list)
        for line in self.seen.transitions:
            self._sort(flatten(line), line, lines)
        for line in self.seen.events:
            flat = flatten(line)
            events[self._owner(flat)].append(flat)
        return [Scenario(expected, self.live).check(lines[prefix], events[prefix]) for prefix, expected in self.expected.items()]

    def _sort(self, flat, line, lines):
        owner = self._owner(flat)
        if owner is None:
            self.strangers.append(line)
        else:
            lines[owner].append(flat)

    def _owner(self, flat):
        """The scenario that a line belongs to: its topic and its group carry the name."""
        for name in (flat["topic"], flat["group"]):
            prefix = (name or "").split(".")[0]
            if prefix in self.expected:
                return prefix
        return None


class Scenario:
    """One scenario's lines, held against what must be."""

    def __init__(self, expected, live):
        self.expected, self.truth, self.live = expected, expected.truth, live
        self.result = Result(expected.prefix, expected.messages(), expected.total())
        self.seen = collections.defaultdict(list)         # chain → (flat line, its own reading of it)
        self.counts = collections.Counter()               # what lines say without offsets
        self.aliases, self._held = expected.aliases(), {}

    def check(self, lines, events):
        """All of it."""
        self.result.lines = len(lines)
        for flat in lines:
            self._read(flat)
        for key in dict.fromkeys([*self.expected.chains, *self.seen]):
            self._chain(key)
            if self.result.differences and not self.result.told:
                self.result.told = self._told(key)
        self._totals()
        for joint in self.expected.joints:
            self._joint(joint)
        self._events(events)
        return self.result

    def differ(self, words, flat=None):
        """One difference."""
        self.result.differences.append(words if flat is None else f"{words}: {show(flat)}")

    # Reading lines

    def _read(self, flat):
        if flat["system"] != "kafka":
            self.differ("messaging.system is not kafka", flat)
        if flat["state"] not in STATES:
            return self.differ("this is no state", flat)
        if not isinstance(flat["count"], int) or flat["count"] < 1:
            return self.differ("count must be at least 1", flat)
        if flat["first"] is None:
            return self._placeless(flat)
        return self._range(flat)

    def _placeless(self, flat):
        """What a producer sent has no offsets yet, and what failed never gets one."""
        if flat["state"] not in ("Created", "PublishFailed"):
            return self.differ(f"{flat['state']} without offsets", flat)
        error = None
        if flat["state"] == "PublishFailed":
            error = str(flat["error"]) if flat["error"] is not None else None
        where = flat["topic"], self._generation(flat)
        self.counts[(flat["state"], *where, error)] += flat["count"]
        if flat["corrects"]:
            self.counts[(flat["corrects"], *where, None)] -= flat["count"]
        sends = self.expected.sendings.get(where, ())
        if sends and flat["at"] < min(sends) - TOLERANCE:
            self.differ("before anything was sent", flat)
        self.result.states += flat["count"]
        return None

    def _range(self, flat):
        """Expands a line to the records that it speaks of; its count must say how many these are."""
        last = flat["first"] if flat["last"] is None else flat["last"]
        if last < flat["first"]:
            return self.differ("the last offset comes before the first", flat)
        if flat["partition"] is None or not str(flat["partition"]).isdigit():
            return self.differ("offsets without a partition", flat)
        group = self._group(flat)
        if group is False:
            return None
        partition = flat["topic"], self._generation(flat), int(flat["partition"])
        offsets = self._covered(self._views(partition, group, flat), flat, last)
        for offset in offsets:
            self.seen[(group, *partition, offset)].append(flat)
        if flat["corrects"] == "PublishFailed":
            self._taken_back(*partition[:2], flat["count"])
        self.result.states += len(offsets)
        return None

    def _taken_back(self, topic, generation, count):
        """It turned out that the broker has what was called failed, without offsets: with which error is not said again."""
        failed = [key for key in self.counts if key[:3] == ("PublishFailed", topic, generation)]
        for key in sorted(failed, key=lambda key: key[3] is not None):
            part = min(count, self.counts[key])
            self.counts[key] -= part
            count -= part
        if count:
            self.differ(f"{count} × PublishFailed in {topic} (topic {generation}) is taken back, and was never said")

    def _generation(self, flat):
        return self.truth.generation(flat["topic"], flat["at"])

    def _covered(self, views, flat, last):
        """The records of a line's range, as one of the views has them that agrees with it; else as the first one has."""
        ranges = [view[bisect.bisect_left(view, flat["first"]):bisect.bisect_right(view, last)] for view in views] or [[]]
        for offsets in ranges:
            if len(offsets) == flat["count"] and (offsets[0], offsets[-1]) == (flat["first"], last):
                return offsets
        offsets = ranges[0]
        if len(offsets) != flat["count"]:
            self.differ(f"count is {flat['count']}, and there are {len(offsets)} records in this range", flat)
        else:
            self.differ(f"the range begins or ends where no record is; they go from {offsets[0]} to {offsets[-1]}", flat)
        return offsets

    def _views(self, partition, group, flat):
        """Which records such a line can speak of, in each way that it can be meant."""
        return [self._offsets(partition, group, flat)]

    def _group(self, flat):
        if flat["state"] in PUBLISH:
            if flat["group"] is not None:
                self.differ("a publish with a group", flat)
            return self.expected.PUBLISHED
        if flat["group"] not in self.aliases:
            self.differ("no such group has read anything", flat)
            return False
        return self.aliases[flat["group"]]

    def _offsets(self, partition, group, flat):
        """The records that such a line can speak of: those that the log held, and of aborted ones only if it is about these."""
        publish = flat["state"] in PUBLISH
        aborted = None if publish else flat["state"] == "Dropped" and flat["reason"] == "aborted"
        key = partition, group, aborted, None if publish or not self.truth.shrinks(partition) else flat["at"]
        if key not in self._held:
            records = self.truth.records
            held = self.truth.held(partition, key[3])
            reader = None if publish else self.truth.groups[group]
            self._held[key] = [offset for offset in held
                               if publish or self.truth.isolated(reader, records[(*partition, offset)]) == aborted]
        return self._held[key]

    # Comparing

    def _chain(self, key):
        chain, lines = self.expected.chains[key], self.seen.get(key, [])
        counts = collections.Counter(flat["state"] for flat in lines)
        for flat in lines:
            if flat["corrects"] and flat["corrects"] != "PublishFailed":
                counts[flat["corrects"]] -= 1
        for state in dict.fromkeys([*chain.bounds, *counts]):
            least, most = chain.bounds.get(state, (0, 0))
            if state == "Processing" and not self.live:
                least = 0
            if not (counts[state] >= least and (most is ANY or counts[state] <= most)):
                self.differ(f"{name(key)}: {counts[state]} × {state}, must be {between(least, most)}; {story(lines)}")
        self._times(key, chain, lines)
        if key[0] != self.expected.PUBLISHED:
            self._order(key, chain, lines)

    def _times(self, key, chain, lines):
        for earlier, later in zip(lines, lines[1:]):
            if later["at"] < earlier["at"]:
                self.differ(f"{name(key)}: out of time's order; {story(lines)}")
        first = next((flat for flat in lines if flat["state"] in ("Dispatched", "Confirmed")), None)
        if first and first["at"] < chain.earliest - TOLERANCE:
            self.differ(f"{name(key)}: {first['state']} {(chain.earliest - first['at']) / 1e6:.1f} ms before it was sent")
        if first and chain.handed and first["at"] > chain.handed + TOLERANCE:
            self.differ(f"{name(key)}: {first['state']} {(first['at'] - chain.handed) / 1e6:.1f} ms after the client knew of it")
        done = [flat for flat in lines if flat["state"] == "Acknowledged"]
        if len(done) == len(chain.commits):
            for flat, (after, before) in zip(done, chain.commits):
                if not after - TOLERANCE <= flat["at"] <= before + TOLERANCE:
                    self.differ(f"{name(key)}: acknowledged at {flat['at']}, but the commit was made between {after} "
                                f"and {before}")

    def _order(self, key, chain, lines):
        state, delivery = None, 0
        for flat in lines:
            if flat["state"] == "Dispatched":
                delivery += 1
                if flat["delivery"] != delivery:
                    self.differ(f"{name(key)}: delivery {flat['delivery']}, not {delivery}; {story(lines)}")
            elif flat["delivery"] is not None and flat["delivery"] != delivery and flat["state"] != "Dropped":
                self.differ(f"{name(key)}: {flat['state']} of delivery {flat['delivery']}, not {delivery}; {story(lines)}")
            if flat["state"] in ("Processing", "Acknowledged") and not delivery:
                self.differ(f"{name(key)}: {flat['state']} before any delivery; {story(lines)}")
            if flat["previous"] not in (({"Created", "Confirmed", None} if state is None else {state, None})):
                self.differ(f"{name(key)}: {flat['state']} says that it came from {flat['previous']}, not {state}; "
                            f"{story(lines)}")
            state = flat["state"]
        if chain.final and lines and state not in chain.final:
            self.differ(f"{name(key)}: ends as {state}, not {' or '.join(sorted(chain.final))}; {story(lines)}")

    def _told(self, key):
        group, topic, generation, partition, offset = key
        known = self.truth.groups.get(group)
        events = known.events.get((topic, generation, partition), []) if known else []
        return [f"{at} {what} {fields}" for at, what, fields in events if fields.get("offset") in (None, offset)]

    def _totals(self):
        """What is said without offsets, by topic and error."""
        for (topic, generation), bounds in self.expected.created.items():
            self._total("Created", topic, generation, None, *bounds["Created"])
        for (topic, generation, code), bounds in self.expected.refused.items():
            self._total("PublishFailed", topic, generation, None if code is None else str(code), *bounds["PublishFailed"])
        for (state, topic, generation, error), count in self.counts.items():
            if count:
                self.differ(f"{count} × {state} in {topic} (topic {generation}, error {error}), which nobody sent")

    def _total(self, state, topic, generation, error, least, most):
        count = self.counts.pop((state, topic, generation, error), 0)
        if not (count >= least and (most is ANY or count <= most)):
            self.differ(f"{count} × {state} in {topic} (topic {generation}, error {error}), must be {between(least, most)}")

    def _joint(self, joint):
        lines = [flat for key in joint.chains for flat in self.seen.get(key, []) if flat["state"] in joint.states]
        if joint.destination:
            lines = [flat for flat in lines if flat["destination"] == joint.destination]
        # In a capture file nobody has a process: who made a plain copy is not known.
        least = joint.least if self.live or not joint.place else 0
        if not (len(lines) >= least and (joint.most is ANY or len(lines) <= joint.most)):
            self.differ(f"{joint.words}: {len(lines)} × {' or '.join(sorted(joint.states))} to {joint.destination}, "
                        f"must be {between(joint.least, joint.most)}")
        for flat in lines:
            if joint.place and flat["copy_offset"] is not None and flat["count"] == 1 and \
                    (str(flat["copy_partition"]), flat["copy_offset"]) != (str(joint.place[2]), joint.place[3]):
                self.differ(f"{joint.words}: the copy is elsewhere", flat)

    def _events(self, events):
        seen = collections.Counter((flat["event"], flat["group"], str(flat["error"])) for flat in events)
        wanted = collections.Counter((event, group, str(code)) for event, group, code in self.expected.events)
        loose = {(event, group) for event, group, code in wanted if code == "None"}
        for event, group, code in wanted:
            if not any(each[:2] == (event, group) and code in (each[2], "None") for each in seen):
                self.differ(f"no event {event} of group {group} with error {code}")
        for event, group, code in seen:
            if event == "settle_failed" and (event, group, code) not in wanted and (event, group) not in loose:
                self.differ(f"event {event} of group {group} with error {code}, though nothing was refused")


def flatten(line):
    """A line with short names, in one level."""
    attributes = line.get("attributes", {})
    flat = {short: attributes.get(full) for short, full in ATTRIBUTES.items()}
    flat.update({field: line.get(field) for field in FIELDS})
    flat["at"] = nanoseconds(line["time"])
    return flat


def between(least, most):
    """Bounds in words."""
    return f"{least}" if least == most else f"{least} or more" if most is ANY else f"{least} to {most}"


def name(key):
    """A chain in words."""
    group, topic, generation, partition, offset = key
    whose = "its publish" if group == Expected.PUBLISHED else f"group {group}"
    return f"{topic}{'' if generation == 1 else f' (topic {generation})'}/{partition} {offset}, {whose}"


def story(lines):
    """A chain's lines in short."""
    steps = [flat["state"] if flat["reason"] is None else f"{flat['state']} ({flat['reason']})" for flat in lines]
    return "it went " + (" → ".join(steps) or "nowhere")


def show(flat):
    """A line in short."""
    return " ".join(f"{field}={flat[field]}" for field in SHOWN if flat.get(field) is not None)


def report(results, strangers, limit=3, out=print):
    """Prints the table and the first differences. Returns how many scenarios differ."""
    out(HEADING)
    for result in results:
        out(result.row())
    for result in results:
        for difference in result.differences[:limit]:
            out(f"\n{result.prefix}: {difference}")
        for entry in result.told:
            out(f"    a client: {entry}")
        if len(result.differences) > limit:
            out(f"{result.prefix}: … and {len(result.differences) - limit} more")
    for line in strangers[:limit]:
        out(f"\nbelongs to no scenario: {line}")
    return sum(bool(result.differences) for result in results)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("directory", type=pathlib.Path)
    options.add_argument("lines", type=pathlib.Path)
    options.add_argument("--replayed", action="store_true", help="the lines come from a capture file")
    chosen = options.parse_args()
    seen = Seen(chosen.lines)
    checker = Checker([Truth(log) for log in sorted(chosen.directory.glob("*.truth.jsonl"))], seen, live=not chosen.replayed)
    failed = report(checker.run(), checker.strangers)
    sys.exit(1 if failed or checker.strangers or seen.broken else 0)


if __name__ == "__main__":
    main()
