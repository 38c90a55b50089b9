"""Holds acktrail's JSON lines against the truth: every message, every state, every field, nothing more.

    python -m truth.check DIRECTORY LINES [--summary FILE]       DIRECTORY has the truth logs, LINES what acktrail wrote
"""

import argparse
import bisect
import collections
import json
import pathlib
import sys

from .expect import ANY, expect
from .log import read

ATTRIBUTES = {
    "id": "messaging.message.id", "exchange": "acktrail.rabbitmq.exchange", "rk": "messaging.rabbitmq.destination.routing_key",
    "queue": "acktrail.queue.name", "tag": "messaging.rabbitmq.message.delivery_tag", "ctag": "acktrail.rabbitmq.consumer_tag",
    "redelivered": "acktrail.message.redelivered", "settlement": "acktrail.settlement", "source": "acktrail.dead_letter.source",
    "destination": "acktrail.dead_letter.destination", "operation": "messaging.operation.name", "error": "error.type",
    "size": "messaging.message.body.size", "vhost": "acktrail.rabbitmq.vhost", "pid": "process.pid", "port": "client.port",
    "client": "client.address", "server": "server.address", "offset": "acktrail.rabbitmq.stream.offset",
}
FIELDS = ("state", "previous", "reason", "evidence", "delivery", "corrects", "count")
BOUNDS, TOLERANCE = ("after", "before"), 20_000_000
# Events that a run without loss must not have.
TROUBLE = ("resynchronised", "settled_unseen", "fate_unknown", "not_decoded", "evicted", "publish_failed")
# Events of which the truth logs have every one; of cancelled consumers, only those that were not cancelled with their channel.
TOLD = ("settle_failed", "channel_closed", "connection_lost", "consumer_cancelled", "blocked", "unblocked", "transaction")


class Seen:
    """acktrail's lines, read and attributed to connections."""

    def __init__(self, path):
        self.transitions, self.events, self.summaries, self.broken = [], [], [], []
        with open(path, "rb") as lines:
            for number, raw in enumerate(lines, 1):
                try:
                    line = json.loads(raw)
                except ValueError:
                    self.broken.append((number, raw[:200]))
                    continue
                kind = {"transition": self.transitions, "event": self.events, "summary": self.summaries}.get(line["kind"])
                if kind is not None:
                    kind.append(line)


class Result:
    """What the comparison of one scenario gave."""

    def __init__(self, expected):
        self.prefix, self.messages, self.expected = expected.prefix, expected.messages(), expected.total()
        self.seen, self.differences = 0, []

    def row(self):
        """A line of the table."""
        return f"{self.prefix:42} {self.messages:8} {self.expected:9} {self.seen:6} {len(self.differences):12}"


HEADING = f"{'scenario':42} {'messages':>8} {'expected':>9} {'seen':>6} {'differences':>12}"


def nanoseconds(text):
    """Of an RFC 3339 time: a comparable text is enough for order, a number for windows."""
    import datetime

    whole, _, fraction = text.rstrip("Z").partition(".")
    seconds = datetime.datetime.fromisoformat(whole).replace(tzinfo=datetime.timezone.utc).timestamp()
    return int(seconds) * 1_000_000_000 + int((fraction + "000000000")[:9])


class Checker:
    """Compares one run. `live`: captured here, so that reads and processes are known. After it `identities` has key → identity."""

    def __init__(self, logs, seen, live=True):
        self.expected = {path.name.removesuffix(".truth.jsonl"): expect(read(path), path.name.removesuffix(".truth.jsonl"))
                         for path in logs}
        self.seen, self.live = seen, live
        self.strangers, self.identities = [], {}

    def run(self):
        """Returns a `Result` per scenario, and the lines that belong to none."""
        ports = collections.defaultdict(list)
        for prefix, expected in self.expected.items():
            for port, at, name in expected.connections:
                ports[port].append((at, prefix, name))
        for known in ports.values():
            known.sort()
        lines = collections.defaultdict(list)
        self._faces = {}
        pending = []
        for line in self.seen.transitions:
            flat = flatten(line)
            owner = self._owner(flat, ports)
            flat["scenario"] = owner
            if owner is None and flat["message"] is None:
                self.strangers.append(line)
            elif owner is None:
                pending.append((flat, line))
            else:
                if flat["message"]:
                    self._faces.setdefault(flat["message"], owner)
                lines[owner].append(flat)
        for flat, line in pending:
            owner = self._faces.get(flat["message"])
            if owner is None:
                self.strangers.append(line)
            else:
                lines[owner].append(flat)
        events = collections.defaultdict(list)
        for event in self.seen.events:
            flat = flatten(event)
            # Of channels that end, only those that end with an error.
            if event["event"] != "channel_closed" or flat["error"]:
                events[self._owner(flat, ports)].append((event["event"], flat["port"]))
        return [self._scenario(expected, lines[prefix], events[prefix]) for prefix, expected in self.expected.items()]

    def _owner(self, flat, ports):
        """The scenario of a line: by its connection, else by a name that it carries. Names the connection, too."""
        known = ports.get(flat["port"])
        if known:
            index = bisect.bisect_right(known, (flat["at"] + 2_000_000_000, "", "")) - 1
            # The port was connected a moment before the note about it was written.
            candidates = [entry for entry in known[: index + 1]]
            if candidates:
                at, prefix, name = candidates[-1]
                named = self._named(flat)
                for entry in reversed(candidates):
                    if named in (None, entry[1]):
                        at, prefix, name = entry
                        break
                flat["port"] = name
                return prefix
        return self._named(flat)

    def _named(self, flat):
        for field in ("id", "queue", "rk", "exchange"):
            text = flat[field]
            if text:
                text = text.removeprefix("policy.")
                parts = text.split(".")
                if len(parts) >= 2 and ".".join(parts[:2]).split("/")[0] in self.expected:
                    return ".".join(parts[:2]).split("/")[0]
        return None

    def _scenario(self, expected, lines, events):
        result = Result(expected)
        result.seen = len(lines)
        groups = self._group(expected, lines, result)
        for key, chains in expected.lines.items():
            seen = groups.pop(key, {})
            loose = expected.copies[key] > 1
            if loose and not any(line["ambiguous"] for chain in seen.values() for line in chain):
                result.differences.append(f"{key}: there are several of it, and no line says that it is ambiguous")
            for chain in dict.fromkeys([*chains, *seen]):
                self._chain(result, key, chain, chains.get(chain, []), seen.get(chain, []), loose)
        for key, chains in groups.items():
            for chain, extra in chains.items():
                self._chain(result, key, chain, [], extra, False)
        self._order(result, lines)
        self._events(result, expected, events)
        return result

    def _group(self, expected, lines, result):
        """Seen lines per key and chain. The identity joins the lines of a message; which message it is, is found by its id,
        and without one by the order of publishes and by deliveries, which must agree."""
        keys, taken = {}, collections.Counter()
        for flat in lines:
            face, key = flat["message"], None
            if flat["id"] in expected.lines:
                key = flat["id"]
            elif flat["state"] == "Created":
                order = expected.publishes.get(flat["port"], [])
                if taken[flat["port"]] < len(order):
                    key = order[taken[flat["port"]]]
            elif flat["tag"] is not None and flat["state"] == "Dispatched":
                handle = flat["port"], flat["ctag"], flat["tag"]
                several = expected.handles.get(handle, [])
                if several:
                    key = several[min(taken[handle], len(several) - 1)]
                    taken[handle] += 1
            if flat["state"] == "Created":
                taken[flat["port"]] += 1
            flat["key"] = key
            if not face:
                result.differences.append(f"a line without an identity: {show(flat)}")
            elif key:
                if keys.setdefault(face, key) != key:
                    result.differences.append(f"{face} is both {keys[face]} and {key}: {show(flat)}")
        groups = collections.defaultdict(lambda: collections.defaultdict(list))
        faces = collections.defaultdict(set)
        for flat in lines:
            key = flat["key"] or keys.get(flat["message"]) or f"unknown message {flat['message']}"
            faces[key].add(flat["message"])
            chain = flat["queue"]
            if chain is not None and any(isinstance(c, tuple) and c[0] == chain for c in expected.lines[key]) \
                    if key in expected.lines else False:
                chain = (chain, flat["ctag"])
            groups[key][chain].append(flat)
        for key, several in faces.items():
            if len(several) > 1:
                result.differences.append(f"{key} has {len(several)} identities: {sorted(map(str, several))}")
            else:
                self.identities[key] = next(iter(several))
        return groups

    def _chain(self, result, key, chain, wanted, seen, loose):
        wanted = wanted if self.live else unread(wanted)
        if loose:
            wrong = unmatched(wanted, seen)
        else:
            wrong = None if len(wanted) == len(seen) and all(matches(w, s) for w, s in zip(wanted, seen)) else (wanted, seen)
        if wrong and (wrong[0] or wrong[1]):
            result.differences.append(explain(key, chain, *wrong))
        if any(bool(line["ambiguous"]) and not loose for line in seen):
            result.differences.append(f"{key}: called ambiguous, but there is only one of it")
        for earlier, line in zip(seen, seen[1:]):
            # A copy that an application sent round goes on from its own publish.
            sent_round = line["state"] == "Retrying" and line["previous"] == "Created"
            if chain is not None and not loose and line["previous"] != earlier["state"] and not sent_round:
                result.differences.append(f"{key}: {show(line)} after {earlier['state']} says that it came from {line['previous']}")

    def _order(self, result, lines):
        last = {}
        for flat in lines:
            if flat["message"] and flat["at"] < last.get(flat["message"], 0):
                result.differences.append(f"out of time's order: {show(flat)}")
            last[flat["message"]] = flat["at"]

    def _events(self, result, expected, events):
        wanted = collections.Counter(expected.events)
        seen = collections.Counter((name, port) for name, port in events if name in TOLD)
        for name, port in (wanted - seen).elements():
            result.differences.append(f"no event {name} of connection {port}")
        for name, port in (seen - wanted).elements():
            if name != "consumer_cancelled":
                result.differences.append(f"event {name} of connection {port}, though nothing like it happened")
        refused = {port for name, port in expected.events if name == "settle_failed"}
        for name, port in ((name, port) for name, port in events if name in TROUBLE):
            if name == "settled_unseen" and port in refused:
                continue  # a settlement of what never was: said when it is sent, and again when the broker refuses it
            result.differences.append(f"event {name} of connection {port}")


def unread(wanted):
    """What a capture file can say: no processes, and Processing only as far as a settlement tells of it."""
    settled = {_delivery(line) for line in wanted if line["state"] in ("Acknowledged", "Rejected")
               or line["reason"] in ("requeued", "recovered")}
    told = []
    for line in wanted:
        line = {field: value for field, value in line.items() if field != "pid"}
        if line["state"] == "Processing":
            if _delivery(line) not in settled:
                continue
            # At the latest from the settlement, which comes after the client had it.
            line["evidence"], line["before"] = "inferred", ANY
        told.append(line)
    return told


def _delivery(line):
    return line.get("port"), line.get("ctag"), line.get("tag")


def flatten(line):
    """A line with short names, in one level."""
    attributes = line.get("attributes", {})
    flat = {short: attributes.get(name) for short, name in ATTRIBUTES.items()}
    flat.update({field: line.get(field) for field in FIELDS})
    flat["message"], flat["at"], flat["ambiguous"] = line.get("message"), nanoseconds(line["time"]), line.get("ambiguous")
    return flat


def matches(wanted, seen):
    """Every expected field is as expected."""
    return all(value is ANY or (within(field, value, seen["at"]) if field in BOUNDS else same(value, seen.get(field)))
               for field, value in wanted.items())


def within(field, bound, at):
    """The time is on the right side of what the client did. Two programs read the clock in their own ways."""
    return at >= bound - TOLERANCE if field == "after" else at <= bound + TOLERANCE


def same(wanted, seen):
    """An empty name (the default exchange, a routing key that is not used) is absent from a line."""
    return wanted == seen or (wanted == "" and seen is None)


def unmatched(wanted, seen):
    """What is left of both when everything that matches is paired: for twins, whose order says nothing."""
    seen, missing = list(seen), []
    for line in wanted:
        line = {k: v for k, v in line.items() if k != "delivery"}
        for index, candidate in enumerate(seen):
            if matches(line, candidate):
                del seen[index]
                break
        else:
            missing.append(line)
    return missing, seen


def explain(key, chain, wanted, seen):
    """A difference in full: both sequences, and which fields of which line differ."""
    words = [f"{key}, {'publish' if chain is None else f'queue {chain}'}:"]
    for index in range(max(len(wanted), len(seen))):
        want = wanted[index] if index < len(wanted) else None
        have = seen[index] if index < len(seen) else None
        if want is None:
            words.append(f"    + {show(have)}")
        elif have is None:
            words.append(f"    - {show(want)}")
        elif matches(want, have):
            words.append(f"      {show(have)}")
        else:
            fields = {f: (v, have["at"] if f in BOUNDS else have.get(f)) for f, v in want.items() if not matches({f: v}, have)}
            words.append(f"    ! {show(have)}: " + ", ".join(f"{f} {h!r}, not {w!r}" for f, (w, h) in fields.items()))
    return "\n".join(words)


def show(flat):
    """A line in short."""
    parts = [str(flat.get("state"))]
    parts += [f"{f}={flat[f]}" for f in ("reason", "queue", "delivery", "tag", "port", "evidence", "corrects") if flat.get(f)
              is not None]
    return " ".join(parts)


def check_summary(summary, seen):
    """Differences between the closing summary's totals and the lines."""
    counted = collections.Counter()
    for line in seen.transitions:
        counted[line["state"]] += line.get("count", 1)
        if "corrects" in line:
            counted[line["corrects"]] -= line.get("count", 1)
    told = collections.Counter()
    for total in summary["totals"]:
        told[total["state"]] += total["count"]
    return [f"summary says {told[s]} {s}, the lines say {counted[s]}" for s in sorted({*told, *counted})
            if told[s] != counted[s]]


def losses(summary):
    """What a summary says was lost, without the entries that are zero."""
    return {f"{stage}.{reason}": entry["count"] for stage, reasons in summary["capture"]["lost"].items()
            for reason, entry in reasons.items() if entry["count"]}


def judge(words, checker, summary, report_, tally):
    """The lines of a whole run, and its closing summary, against the truth. `checker` is either protocol's, `report_` its table."""
    print(f"\n== {words}")
    seen, results = checker.seen, checker.run()
    report_(results, checker.strangers)
    for result in results:
        tally.check(not result.differences, f"{result.prefix} ({words}): {(result.differences or ['equal'])[0]}")
    tally.check(not checker.strangers, f"{len(checker.strangers)} lines belong to no scenario ({words}): {checker.strangers[:1]}")
    tally.check(not seen.broken, f"lines that are no JSON: {seen.broken[:3]}")
    wrong = check_summary(summary, seen)
    tally.check(not wrong, f"{words}: {'; '.join(wrong)}")
    tally.check(not losses(summary), f"{words}: lost {losses(summary)}")
    return checker


def report(results, strangers, limit=2, out=print):
    """Prints the table and the first differences in full. Returns how many scenarios differ."""
    out(HEADING)
    for result in results:
        out(result.row())
    for result in results:
        for difference in result.differences[:limit]:
            out(f"\n{result.prefix}: {difference}")
        if len(result.differences) > limit:
            out(f"{result.prefix}: … and {len(result.differences) - limit} more")
    for line in strangers[:limit]:
        out(f"\nbelongs to no scenario: {json.dumps(line)}")
    return sum(bool(result.differences) for result in results)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("directory", type=pathlib.Path)
    options.add_argument("lines", type=pathlib.Path)
    options.add_argument("--summary", type=pathlib.Path)
    options.add_argument("--replayed", action="store_true", help="the lines come from a capture file")
    chosen = options.parse_args()
    seen = Seen(chosen.lines)
    checker = Checker(sorted(chosen.directory.glob("*.truth.jsonl")), seen, live=not chosen.replayed)
    results = checker.run()
    failed = report(results, checker.strangers)
    if chosen.summary:
        for difference in check_summary(json.loads(chosen.summary.read_text()), seen):
            print(difference)
            failed += 1
    sys.exit(1 if failed or checker.strangers or seen.broken else 0)


if __name__ == "__main__":
    main()
