"""Does the checker notice? Lines that a perfect agent could write must pass, and every way of spoiling one of them must not.

Runs on the facts of a finished run, so it also proves that the logs of each scenario say enough to tell a wrong line.
"""

import copy
import datetime
import random

from ..check import nanoseconds
from .check import ATTRIBUTES, Checker
from .expect import ANY, PUBLISH, SECOND, Expected

# Lines of one range, although the clients' logs have a moment between its records.
TOGETHER = SECOND // 100


class Lines:
    """Stands in for what acktrail wrote."""

    def __init__(self, transitions, events=()):
        self.transitions, self.events, self.summaries, self.broken = transitions, list(events), [], []


def render(truth):
    """The lines and events that a perfect agent could write for one scenario."""
    expected = Expected(truth)
    lines = _published(expected)
    ranges = {}
    for key, chain in expected.chains.items():
        # A stable order of what the logs have at one time: as it was written down.
        floor = 0
        for at, state, reason, more in sorted(chain.script, key=lambda entry: entry[0]):
            ranges.setdefault((key[0], key[1:4], state, reason, more), []).append((key[4], at, floor))
            floor = at
    for (group, partition, state, reason, more), places in ranges.items():
        lines += _ranges(expected, group, partition, state, reason, more, sorted(places))
    lines.sort(key=lambda line: line["time"])
    _previous(lines)
    events = [_event(event, group, code, lines) for event, group, code in expected.events]
    return lines, events


def _published(expected):
    lines = []
    for (topic, generation), bounds in expected.created.items():
        if bounds["Created"][0]:
            at = min(expected.sendings[topic, generation])
            lines.append(_line(at, "Created", bounds["Created"][0], topic=topic))
    for (topic, generation, code), bounds in expected.refused.items():
        if bounds["PublishFailed"][0]:
            at = max(expected.sendings[topic, generation])
            lines.append(_line(at, "PublishFailed", bounds["PublishFailed"][0], topic=topic, error=str(code)))
    return lines


def _ranges(expected, group, partition, state, reason, more, places):
    """Records beside each other in one line, where it may speak of all of them and they come at one time: the first one's, which
    must not be before the *floor* of any, what happened to it last."""
    truth, reader = expected.truth, expected.truth.groups.get(group)
    publish = state in PUBLISH
    lines, run = [], []

    def between(first, last):
        aborted = state == "Dropped" and reason == "aborted"
        return [offset for offset in truth.held(partition, None if publish else run[0][1]) if first < offset < last
                and (publish or truth.isolated(reader, truth.records[(*partition, offset)]) == aborted)]

    for offset, at, floor in places:
        apart = run and not (0 <= at - run[0][1] <= TOGETHER and floor <= run[0][1])
        if run and (apart or between(run[-1][0], offset) or isinstance(more, tuple)):
            lines.append(_of_run(group, partition, state, reason, more, run))
            run = []
        run.append((offset, at))
    if run:
        lines.append(_of_run(group, partition, state, reason, more, run))
    return lines


def _of_run(group, partition, state, reason, more, run):
    copied = more if isinstance(more, tuple) else None
    line = _line(run[0][1], state, len(run), reason=reason, topic=partition[0], partition=str(partition[2]), first=run[0][0],
                 last=run[-1][0], group=group or None, delivery=None if copied else more, destination=copied and copied[0],
                 copy_partition=copied and str(copied[2]), copy_offset=copied and copied[3])
    line["chains"] = [(group, *partition, offset) for offset, _ in run]
    return line


def _line(at, state, count, reason=None, delivery=None, **attributes):
    line = {"kind": "transition", "time": _time(at), "state": state, "count": count, "attributes": {
        "messaging.system": "kafka", **{ATTRIBUTES[short]: value for short, value in attributes.items() if value is not None}}}
    if reason:
        line["reason"] = reason
    if delivery is not None:
        line["delivery"] = delivery
    return line


def _previous(lines):
    """Each line of a group says what its records were before, if they all were the same."""
    states = {}
    for line in lines:
        chains = line.pop("chains", ())
        before = {states.get(chain) for chain in chains}
        if line["state"] not in PUBLISH and len(before) == 1 and None not in before:
            (line["previous"],) = before
        states.update(dict.fromkeys(chains, line["state"]))


def _event(event, group, code, lines):
    return {"kind": "event", "event": event, "time": lines[-1]["time"], "attributes": {
        ATTRIBUTES["group"]: group, "error.type": str(code or 25), "messaging.system": "kafka"}}


def _time(nanoseconds_):
    whole = datetime.datetime.fromtimestamp(nanoseconds_ // 10**9, datetime.timezone.utc)
    return whole.strftime("%Y-%m-%dT%H:%M:%S.") + f"{nanoseconds_ % 10**9:09d}Z"


def spoil(transitions, expected, rng):
    """Changes one line in one of the ways that matter; says how, or None if this line bears it."""
    index = rng.randrange(len(transitions))
    line = transitions[index]
    attributes, state = line["attributes"], line["state"]
    ways = ["state", "topic", "count", "system"]
    ways += [*(["lost"] if _needed(expected, line) else []), *(["doubled"] if _bounded(expected, line) else [])]
    ways += ["group"] if "messaging.consumer.group.name" in attributes else []
    ways += ["partition", "first"] if "messaging.kafka.offset" in attributes else []
    ways += ["delivery"] if state == "Dispatched" else []
    ways += ["previous"] if "previous" in line else []
    ways += ["error"] if state == "PublishFailed" else []
    ways += ["destination"] if "acktrail.dead_letter.destination" in attributes else []
    ways += ["late"] if state in ("Dispatched", "Confirmed") else []
    ways += ["early"] if state in ("Created", "Dispatched", "Confirmed") else []
    way = rng.choice(ways)
    if way == "lost":
        del transitions[index]
    elif way == "doubled":
        transitions.insert(index, copy.deepcopy(line))
    elif way == "state":
        line["state"] = {"Confirmed": "Acknowledged", "Created": "Confirmed"}.get(state, "Confirmed")
    elif way in ("count", "delivery"):
        line[way] = line.get(way, 0) + 1
    elif way == "previous":
        line["previous"] = "Rejected" if line["previous"] != "Rejected" else "Acknowledged"
    elif way in ("late", "early"):
        line["time"] = _time(nanoseconds(line["time"]) + (5 if way == "late" else -60) * SECOND)
    else:
        value = attributes[ATTRIBUTES[way]]
        attributes[ATTRIBUTES[way]] = value - 1000 if isinstance(value, int) else value + "1"
    return f"{way} of {state} {attributes}"


def _keys(expected, line):
    attributes = line["attributes"]
    if ATTRIBUTES["first"] not in attributes:
        return []
    topic = attributes[ATTRIBUTES["topic"]]
    partition = topic, expected.truth.generation(topic, nanoseconds(line["time"])), int(attributes[ATTRIBUTES["partition"]])
    group = expected.PUBLISHED if line["state"] in PUBLISH else attributes.get(ATTRIBUTES["group"])
    offsets = range(attributes[ATTRIBUTES["first"]], attributes[ATTRIBUTES["last"]] + 1)
    return [key for offset in offsets if (key := (group, *partition, offset)) in expected.chains]


def _needed(expected, line):
    """Whether something must miss this line."""
    keys = _keys(expected, line)
    state = line["state"]
    if not keys or any(expected.chains[key].bounds[state][0] == _times(expected, key, state) for key in keys):
        return True
    return any(joint.states == {state} and set(joint.chains) & set(keys) for joint in expected.joints)


def _bounded(expected, line):
    """Whether it may not come twice."""
    keys = _keys(expected, line)
    if not keys:
        topic = line["attributes"][ATTRIBUTES["topic"]]
        of = expected.created if line["state"] == "Created" else expected.refused
        return all(bounds[line["state"]][1] < bounds[line["state"]][0] + line["count"]
                   for key, bounds in of.items() if key[0] == topic)
    return any(expected.chains[key].bounds[line["state"]][1] is not ANY
               and expected.chains[key].bounds[line["state"]][1] == _times(expected, key, line["state"]) for key in keys)


def _times(expected, key, state):
    return sum(told == state for _, told, *_ in expected.chains[key].script)


def prove(truths, rounds, tally, seed=7):
    """A clean pass, then `rounds` spoiled ones."""
    clean = {truth.prefix: render(truth) for truth in truths}
    results = Checker(truths, Lines([line for lines, _ in clean.values() for line in lines],
                                    [event for _, events in clean.values() for event in events])).run()
    wrong = [f"{r.prefix}: {r.differences[0]}" for r in results if r.differences]
    tally.check(not wrong, f"the checker finds fault with perfect lines of {len(wrong)} scenarios:\n" + "\n".join(wrong[:8]))
    rng, unnoticed = random.Random(seed), []
    # Large scenarios say nothing that small ones do not, and take long.
    small = [truth for truth in truths if len(truth.records) < 500 and clean[truth.prefix][0]]
    expected = {truth.prefix: Expected(truth) for truth in small}
    for _ in range(rounds if small else 0):
        truth = rng.choice(small)
        transitions, events = copy.deepcopy(clean[truth.prefix])
        words = spoil(transitions, expected[truth.prefix], rng)
        checker = Checker([truth], Lines(transitions, events))
        if not any(result.differences for result in checker.run()) and not checker.strangers:
            unnoticed.append(f"{truth.prefix}: {words}")
    tally.check(not unnoticed, f"{len(unnoticed)} of {rounds} spoiled lines were not noticed: {unnoticed[:6]}")
    perfect = sum(len(lines) for lines, _ in clean.values())
    print(f"checker: {perfect} perfect lines, {rounds} spoiled ones, {len(unnoticed)} not noticed", flush=True)
