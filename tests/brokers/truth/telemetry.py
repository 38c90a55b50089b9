"""Holds what a Collector got against the truth: every count of the metrics, every span, its times and its links."""

import collections

from .check import flatten

SETTLED = ("Acknowledged", "Rejected", "Failed", "Dropped")
ENDED = ("Confirmed", "Returned", "PublishFailed")


def check_telemetry(spans, points, checker, tally):
    """`checker` has compared the agent's lines of the same run with the truth, and found no difference."""
    wanted = [line for expected in checker.expected.values() for chains in expected.lines.values()
              for chain in chains.values() for line in chain]
    _metrics(points, wanted, checker, tally)
    _spans(spans, checker, tally)
    kinds = collections.Counter(span["name"].split(" ")[0] for span in spans)
    print(f"\nCollector: {len(spans)} spans ({', '.join(f'{count} {kind}' for kind, count in sorted(kinds.items()))}), "
          f"{len(points)} series", flush=True)


def _metrics(points, wanted, checker, tally):
    def told(metric, *keys, of=None):
        """The values of a metric, summed by some of its attributes."""
        sums = collections.Counter()
        for point in points:
            if point["metric"] == metric and (of is None or of(point["attributes"])):
                about = {**point["resource"], **point["attributes"]}
                sums[tuple(about.get(key) for key in keys)] += point["value"]
        return +sums

    def true(*fields, of=lambda line: True):
        """The lines that there must be, counted by some of their fields."""
        return collections.Counter(tuple(folded(line.get(field)) for field in fields) for line in wanted if of(line))

    def equal(name, seen, expected):
        differences = [(key, expected[key], seen[key]) for key in {*seen, *expected} if seen[key] != expected[key]]
        tally.check(not differences, f"metric {name}: {len(differences)} of {len(expected)} counts differ, such as (key, true, "
                    f"told) {sorted(differences, key=str)[:4]}")

    def entered(*states):
        return lambda line: line["state"] in states

    transitions = "acktrail.message.transitions"
    state, reason, queue = "acktrail.message.state", "acktrail.message.reason", "acktrail.queue.name"
    equal(transitions, told(transitions, state, reason, queue), true("state", "reason", "queue"))
    by_process = told(transitions, state, "process.pid", of=lambda about: about[state] in (*ENDED, "Created", "Dispatched"))
    equal(f"{transitions} by process", by_process, true("state", "pid", of=entered(*ENDED, "Created", "Dispatched")))
    equal("sent.messages", told("messaging.client.sent.messages", "process.pid"), true("pid", of=entered("Created")))
    equal("consumed.messages", told("messaging.client.consumed.messages", queue, "process.pid"),
          true("queue", "pid", of=entered("Processing")))
    equal("dead_letter.messages", told("acktrail.dead_letter.messages", reason, "acktrail.dead_letter.source",
                                       "acktrail.dead_letter.destination"),
          true("reason", "source", "destination", of=entered("DeadLettered")))
    equal("client.operation.duration", told("messaging.client.operation.duration", "error.type"),
          true("reason", of=entered("Confirmed", "PublishFailed")))
    explicit = true("queue", of=lambda line: line["state"] in ("Acknowledged", "Rejected", "Failed")
                    and line.get("settlement") != "automatic")
    equal("process.duration", told("messaging.process.duration", queue), explicit)
    equal("receive_buffer.duration", told("acktrail.receive_buffer.duration", queue), true("queue", of=entered("Processing")))
    # Each queue gives a message out for a first time once, each consumer of a stream reads it for itself, and every twin
    # counts, though which of them came again is nobody's knowledge.
    twins = {id(line) for expected in checker.expected.values() for key, count in expected.copies.items() if count > 1
             for chain in expected.lines[key].values() for line in chain}
    firsts = true("queue", of=lambda line: line["state"] == "Dispatched"
                  and (not line["redelivered"] if id(line) in twins else line["delivery"] == 1))
    equal("broker.duration", told("acktrail.broker.duration", queue), firsts)
    refused = sum(name == "settle_failed" for expected in checker.expected.values() for name, _ in expected.events)
    equal("settle.failures", told("acktrail.settle.failures"), collections.Counter({(): refused}))
    for name in ("acktrail.capture.lost", "acktrail.export.failed", "acktrail.table.evictions", "acktrail.parser.errors",
                 "acktrail.message.in_flight"):
        equal(name, told(name), collections.Counter())
    tally.check(any(point["metric"] == "acktrail.capture.lost" for point in points), "acktrail.capture.lost is absent")


def folded(value):
    """Names that a broker made up are one in metrics."""
    return "amq.gen-*" if isinstance(value, str) and value.startswith(("amq.gen-", "amq.rabbitmq.reply-to")) else value


def _spans(spans, checker, tally):
    keys = {identity: key for key, identity in checker.identities.items()}
    known = {span["context"] for span in spans}
    strange = [span["name"] for span in spans if span["attributes"].get("acktrail.message") not in keys]
    tally.check(not strange, f"{len(strange)} spans are of no message: {strange[:3]}")
    true_publishes, true_deliveries, twins = _true_spans(checker)
    publishes, deliveries, contexts = collections.Counter(), collections.Counter(), collections.defaultdict(set)
    for span in spans:
        identity = span["attributes"].get("acktrail.message")
        about = span["attributes"]
        if span["name"].startswith("publish "):
            publishes[identity, span["start"], None if identity in twins else span["end"]] += 1
            contexts[identity].add(span["context"])
        elif span["name"].startswith("process "):
            deliveries[identity, about["acktrail.queue.name"], about["messaging.rabbitmq.message.delivery_tag"],
                       about["acktrail.message.state"], span["resource"].get("process.pid"), span["start"], span["end"]] += 1
    for name, seen, expected in (("publish", publishes, true_publishes), ("process", deliveries, true_deliveries)):
        missing, extra = expected - seen, seen - expected
        tally.check(not missing and not extra, f"{name} spans: {missing.total()} are missing, such as {list(missing)[:2]}, "
                    f"{extra.total()} are nobody's, such as {list(extra)[:2]}")
    unlinked, astray = [], []
    for span in spans:
        identity = span["attributes"].get("acktrail.message")
        if not span["name"].startswith("publish ") and contexts[identity] and not contexts[identity] & set(span["links"]):
            unlinked.append(span["name"])
        # A message that brought a trace context of its own leads to a span that somebody else sends.
        astray += [(span["name"], link) for link in span["links"] if link not in known and link[1] != "00f067aa0ba902b7"]
        if span["parent"] is not None and span["parent"] not in {link[1] for link in span["links"]}:
            astray.append((span["name"], span["parent"]))
    tally.check(not unlinked, f"{len(unlinked)} spans have no link to their publish: {unlinked[:3]}")
    tally.check(not astray, f"{len(astray)} links or parents lead nowhere: {astray[:3]}")


def _true_spans(checker):
    """From the agent's lines, which equal the truth: when each publish and each delivery began and ended; and the identities
    of twins, which share their spans' ids, so that an end cannot be told from another."""
    publishes, deliveries, open_publishes, held = collections.Counter(), collections.Counter(), {}, {}
    twins = {line["message"] for line in checker.seen.transitions if line.get("ambiguous")}
    for line in checker.seen.transitions:
        flat = flatten(line)
        identity, handle = flat["message"], (flat["message"], flat["port"], flat["ctag"], flat["tag"], flat["queue"])
        if flat["state"] == "Created":
            open_publishes.setdefault((identity, flat["port"]), []).append(flat["at"])
        elif flat["state"] in ENDED and identity not in twins and open_publishes.get((identity, flat["port"])):
            publishes[identity, open_publishes[identity, flat["port"]].pop(0), flat["at"]] += 1
        elif flat["state"] == "Processing" or (flat["state"] == "Dispatched" and handle not in held):
            held[handle] = flat["at"]
        elif flat["state"] in SETTLED and handle in held:
            deliveries[identity, flat["queue"], flat["tag"], flat["state"], flat["pid"], held.pop(handle), flat["at"]] += 1
    for (identity, _), times in open_publishes.items():
        for at in times:
            publishes[identity, at, None if identity in twins else at] += 1
    return publishes, deliveries, twins
