"""Does the checker notice? Lines made from the expectations must pass, and every way of spoiling one of them must not.

Runs on the truth logs of a finished run, so it also proves that the logs of each scenario say enough to tell a wrong line.
"""

import copy
import datetime
import random

from .check import ATTRIBUTES, Checker, nanoseconds
from .expect import ANY, expect
from .log import read


SECOND = 1_000_000_000


class Lines:
    """Stands in for what acktrail wrote."""

    def __init__(self, transitions, events):
        self.transitions, self.events, self.summaries, self.broken = transitions, events, [], []


def render(log):
    """The lines that a perfect agent writes for one log, in an order that keeps every chain's."""
    expected = expect(read(log), log.name.removesuffix(".truth.jsonl"))
    ports = {name: (port, at) for port, at, name in expected.connections}
    transitions = []
    last = max((at for _, at, _ in expected.connections), default=0)
    for key, chains in expected.lines.items():
        for chain, lines in chains.items():
            previous, at = "Created", chains[None][0]["after"] if chains.get(None) else last
            for line in lines:
                at = max(at, line.get("after", 0), line.get("before", 0))
                rendered = _line(key, line, ports, at)
                rendered["previous"], previous = line.get("previous", previous), line["state"]
                if expected.copies[key] > 1:
                    rendered["twin"] = rendered["ambiguous"] = True
                transitions.append((at, rendered))
    transitions = [rendered for _, rendered in sorted(transitions, key=lambda each: each[0])]
    events = [{"kind": "event", "event": name, "time": _time(last), "attributes": {
        "error.type": "406", **({"client.port": ports[port][0]} if port else {})}} for name, port in expected.events]
    return transitions, events


def _line(key, line, ports, at):
    port = ports[line["port"]][0] if line.get("port") in ports else None
    attributes = {}
    for short, name in ATTRIBUTES.items():
        value = line.get(short)
        if short == "port":
            value = port
        if value is not None and value is not ANY and value != "":
            attributes[name] = value
    rendered = {"kind": "transition", "time": _time(at), "state": line["state"], "message": f"{_identity(key):032x}",
                "attributes": attributes, "count": 1}
    for field in ("reason", "evidence", "delivery", "corrects"):
        if line.get(field) not in (None, ANY):
            rendered[field] = line[field]
    return rendered


def _identity(key):
    import hashlib

    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "big")


def _time(nanoseconds):
    whole = datetime.datetime.fromtimestamp(nanoseconds // 10**9, datetime.timezone.utc)
    return whole.strftime("%Y-%m-%dT%H:%M:%S.") + f"{nanoseconds % 10**9:09d}Z"


def spoil(transitions, rng):
    """Changes one line in one of the ways that matter; says how."""
    index = rng.randrange(len(transitions))
    line = transitions[index]
    ways = ["lost", "doubled", "state", "no identity"]
    ways += ["previous"] if line["state"] == "Processing" and "twin" not in line else []
    ways += ["time"] if line["state"] in ("Created", "Dispatched", "Processing") else []
    # An identity is only wrong beside another one of the same message.
    several = sum(other["message"] == line["message"] for other in transitions) > 1
    ways += ["identity"] if several else []
    ways += ["reason"] if "reason" in line else []
    # Which of several twins was delivered how often is nobody's knowledge.
    ways += ["delivery"] if "delivery" in line and "twin" not in line else []
    ways += [name for name in ("messaging.message.id", "acktrail.queue.name", "messaging.rabbitmq.message.delivery_tag",
                               "acktrail.rabbitmq.exchange", "messaging.rabbitmq.destination.routing_key",
                               "acktrail.message.redelivered", "acktrail.settlement", "acktrail.dead_letter.destination",
                               "process.pid", "client.port", "server.address", "acktrail.rabbitmq.stream.offset") if name in line["attributes"]]
    way = rng.choice(ways)
    if way == "lost":
        del transitions[index]
    elif way == "doubled":
        transitions.insert(index, copy.deepcopy(line))
    elif way == "state":
        line["state"] = rng.choice([s for s in ("Acknowledged", "DeadLettered", "Created", "Failed") if s != line["state"]])
    elif way == "time":
        # Too early for a publish, too late for a delivery.
        shift = -SECOND if line["state"] == "Created" else SECOND
        line["time"] = _time(nanoseconds(line["time"]) + shift)
    elif way == "no identity":
        del line["message"]
    elif way == "identity":
        line["message"] = "f" * 32
    elif way in line:
        line[way] = {"delivery": 77, "previous": "Failed", "reason": "purged" if line[way] != "purged" else "expired"}[way]
    else:
        value = line["attributes"][way]
        line["attributes"][way] = (not value) if isinstance(value, bool) else value + 1 if isinstance(value, int) else value + "x"
    return f"{way} of {line['state']}"


def prove(logs, rounds, tally, seed=7):
    """A clean pass, then `rounds` spoiled ones."""
    clean = {log: render(log) for log in logs}
    results = Checker(logs, Lines([t for ts, _ in clean.values() for t in ts], [e for _, es in clean.values() for e in es])).run()
    wrong = [f"{r.prefix}: {r.differences[0]}" for r in results if r.differences]
    tally.check(not wrong, "the checker finds fault with perfect lines:\n" + "\n".join(wrong[:5]))
    rng = random.Random(seed)
    unnoticed = []
    for _ in range(rounds):
        log = rng.choice(logs)
        transitions, events = copy.deepcopy(clean[log])
        if not transitions:
            continue
        words = spoil(transitions, rng)
        checker = Checker([log], Lines(transitions, events))
        if not any(result.differences for result in checker.run()) and not checker.strangers:
            unnoticed.append(f"{log.name}: {words}")
    tally.check(not unnoticed, f"{len(unnoticed)} of {rounds} spoiled lines were not noticed: {unnoticed[:6]}")
    print(f"checker: {rounds} spoiled lines, {len(unnoticed)} not noticed", flush=True)
