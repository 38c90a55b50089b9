"""Holds what a Collector got of Kafka against the truth and against the agent's lines, which equal the truth: every count of the
metrics, and every span, with its times, its counts and its links."""

import collections

from .check import flatten
from .expect import ANY

HELD = ("Dispatched", "Processing")
ENDED = ("Acknowledged", "Rejected", "Failed")
COPIED = ("Retrying", "DeadLettered")
TOPIC, GROUP = "messaging.destination.name", "messaging.consumer.group.name"
PARTITION, COUNT = "messaging.destination.partition.id", "messaging.batch.message_count"
STATE, REASON = "acktrail.message.state", "acktrail.message.reason"
# The span that scenarios' producers say that their records come from.
STRANGER = "00f067aa0ba902b7"


def check_telemetry(spans, points, checker, tally):
    """`checker` has compared the agent's lines of the same run with the truth."""
    lines = [(flatten(line), line["attributes"].get("process.pid")) for line in checker.seen.transitions]
    refused = [flatten(event) for event in checker.seen.events if event["event"] == "settle_failed"]
    story = _Story((flat for flat, _ in lines), checker)
    _metrics(points, lines, refused, story, checker, tally)
    _spans(spans, lines, refused, story, tally)
    _links(spans, checker, tally)
    kinds = collections.Counter(span["name"].split(" ")[0] for span in spans)
    print(f"\nCollector: {len(spans)} spans ({', '.join(f'{count} {kind}' for kind, count in sorted(kinds.items()))}), "
          f"{len(points)} series", flush=True)


class _Story:
    """What the lines say of each offset in turn."""

    def __init__(self, flats, checker):
        # What a line without a group is about, if its reader only names its group later.
        aliases = {prefix: expected.aliases() for prefix, expected in checker.expected.items()}
        self.timed, self.unread, self.in_flight = collections.Counter(), collections.Counter(), collections.Counter()
        held = {}
        for flat in flats:
            if flat["first"] is None or flat["state"] in ("Created", "Confirmed", "PublishFailed"):
                continue
            group = aliases.get(flat["topic"].split(".")[0], {}).get(flat["group"], flat["group"])
            place = group, flat["topic"], flat["partition"]
            read = held.get((*place, flat["first"]))
            if flat["state"] in ENDED and read and read[0] == "Processing" and read[1] == "observed":
                self.timed[flat["topic"], flat["group"]] += flat["count"]
            for offset in range(flat["first"], (flat["last"] or flat["first"]) + 1):
                held[(*place, offset)] = flat["state"], flat["evidence"]
            self._count(flat)
        self.in_flight = +self.in_flight

    def _count(self, flat):
        if flat["group"] is not None:
            self.in_flight[flat["group"],] += flat["count"] * ((flat["state"] in HELD) - (flat["previous"] in HELD))
        # Who comes to nothing but Dispatched has not read it, as far as anybody saw.
        self.unread[place_of(flat)] += flat["count"] * ((flat["state"] == "Dispatched") - (flat["previous"] == "Dispatched"))


def place_of(flat):
    """Topic, partition, group."""
    return flat["topic"], flat["partition"], flat["group"]


def _metrics(points, lines, refused, story, checker, tally):
    def told(metric, *keys):
        """The values of a metric, summed by some of its attributes."""
        sums = collections.Counter()
        for point in points:
            if point["metric"] == metric:
                about = {**point["resource"], **point["attributes"]}
                sums[tuple(about.get(key) for key in keys)] += point["value"]
        return +sums

    def said(*fields, of):
        """The messages that lines speak of."""
        sums = collections.Counter()
        for flat, pid in lines:
            if flat["state"] in of:
                sums[tuple(pid if field == "pid" else flat[field] for field in fields)] += flat["count"]
        return sums

    def equal(name, seen, expected):
        differences = [(key, expected[key], seen[key]) for key in {*seen, *expected} if seen[key] != expected[key]]
        tally.check(not differences, f"metric {name}: {len(differences)} of {len(expected)} counts differ, such as (key, true, "
                    f"told) {sorted(differences, key=str)[:4]}")

    every = {flat["state"] for flat, _ in lines}
    equal("transitions", told("acktrail.message.transitions", STATE, REASON, TOPIC, GROUP),
          said("state", "reason", "topic", "group", of=every))
    sent = told("messaging.client.sent.messages", TOPIC, "process.pid")
    equal("sent.messages", sent, said("topic", "pid", of=("Created",)))
    _sent(sent, checker, tally)
    equal("consumed.messages", told("messaging.client.consumed.messages", TOPIC, GROUP, "process.pid"),
          said("topic", "group", "pid", of=("Processing",)))
    equal("client.operation.duration", told("messaging.client.operation.duration", TOPIC, "error.type"),
          said("topic", "reason", of=("Confirmed", "PublishFailed")))
    equal("process.duration", told("messaging.process.duration", TOPIC, GROUP), story.timed)
    equal("dead_letter.messages", told("acktrail.dead_letter.messages", GROUP, "acktrail.dead_letter.destination"),
          said("group", "destination", of=("DeadLettered",)))
    equal("in_flight", told("acktrail.message.in_flight", GROUP), story.in_flight)
    failures = collections.Counter()
    for flat in refused:
        failures[flat["group"], flat["error"]] += flat["count"] or 1
    equal("settle.failures", told("acktrail.settle.failures", GROUP, "error.type"), failures)
    for name in ("acktrail.capture.lost", "acktrail.export.failed", "acktrail.table.evictions", "acktrail.parser.errors"):
        equal(name, told(name), collections.Counter())
    operations = {(point["metric"], point["attributes"].get("messaging.operation.name")) for point in points
                  if point["metric"].startswith("messaging.")}
    tally.check(operations <= {("messaging.client.sent.messages", "send"), ("messaging.client.consumed.messages", "poll"),
                               ("messaging.client.operation.duration", "send"), ("messaging.process.duration", "process")},
                f"operations are called {operations}")


def _sent(sent, checker, tally):
    """The metric against the clients' own logs, without any line between."""
    by_topic, bounds = collections.Counter(), collections.defaultdict(lambda: [0, 0])
    for (topic, _), count in sent.items():
        by_topic[topic] += count
    for expected in checker.expected.values():
        for (topic, _), of in expected.created.items():
            least, most = of["Created"]
            bounds[topic] = [bounds[topic][0] + least, ANY if ANY in (most, bounds[topic][1]) else bounds[topic][1] + most]
    wrong = {topic: (by_topic[topic], bounds[topic]) for topic in {*by_topic, *bounds}
             if by_topic[topic] < bounds[topic][0] or (bounds[topic][1] is not ANY and by_topic[topic] > bounds[topic][1])}
    tally.check(not wrong, f"sent.messages: the clients tell otherwise of {len(wrong)} topics: {list(wrong.items())[:3]}")


def _spans(spans, lines, refused, story, tally):
    def of(*operations, traced=False):
        """Spans of ranges; `traced`: those of single records that brought a context."""
        for span in spans:
            own = span["parent"] == STRANGER
            if span["attributes"]["messaging.operation.name"] in operations and own == traced:
                yield span, span["attributes"]

    def equal(name, seen, expected):
        missing, extra = expected - seen, seen - expected
        tally.check(not missing and not extra, f"{name}: {missing.total()} are missing, such as {list(missing.items())[:3]}, "
                    f"{extra.total()} are nobody's, such as {list(extra.items())[:3]}")

    def summed(*operations, by=(), traced=False, states=None):
        sums = collections.Counter()
        for _, about in of(*operations, traced=traced):
            if states and about.get(STATE) not in states:
                continue
            sums[about[TOPIC], about.get(PARTITION), about.get(GROUP), *(about.get(key) for key in by)] += about.get(COUNT, 1)
        return +sums

    def said(keep, *fields):
        sums = collections.Counter()
        for flat, _ in lines:
            if keep(flat):
                sums[(*place_of(flat), *(flat[field] for field in fields))] += flat["count"]
        return +sums

    confirmed = said(lambda flat: flat["state"] == "Confirmed")
    covered, ends, begins = collections.Counter(), set(), set()
    for flat, _ in lines:
        if flat["state"] == "Created":
            begins.add(flat["at"])
        else:
            ends.add((flat["state"], flat["topic"], flat["partition"], flat["at"]))
    for span, about in of("send"):
        where = about[TOPIC], about[PARTITION]
        if "messaging.kafka.offset" in about:
            covered[(*where, None)] += about.get(COUNT, 1)
            tally.check(("Confirmed", *where, span["end"]) in ends, f"a send of {where} ends when nobody confirmed it")
        tally.check(span["start"] in begins, f"a send of {where} begins when nothing was sent")
    equal("messages of send spans", covered, confirmed)
    refusals = collections.Counter()
    for span, about in of("send"):
        if span["failed"]:
            refusals[about[TOPIC], about[PARTITION], None, about[REASON]] += about.get(COUNT, 1)
    equal("messages of failed send spans", refusals, said(lambda flat: flat["state"] == "PublishFailed", "reason"))

    handed = said(lambda flat: flat["state"] == "Dispatched")
    aborted = said(lambda flat: flat["state"] == "Dropped" and flat["previous"] is None)
    # What is still unread has no span yet.
    equal("messages of poll spans", summed("poll"), handed + aborted - +story.unread)
    settled = said(lambda flat: (flat["state"] in COPIED and flat["previous"] != "Retrying") or
                   (flat["state"] in ENDED and flat["previous"] != "Acknowledged"), "state", "reason")
    # A copied record that brought a context has no span but its own; another one's is beside that of its range.
    work = summed("process", by=(STATE, REASON)) + summed("process", by=(STATE, REASON), traced=True, states=COPIED)
    equal("messages of process spans", work, settled)
    commits = said(lambda flat: flat["state"] == "Acknowledged")
    told = collections.Counter()
    for span, about in of("commit", "acknowledge"):
        if about.get(STATE) == "Acknowledged":
            told[about[TOPIC], about[PARTITION], about.get(GROUP)] += about.get(COUNT, 1)
            tally.check(span["start"] < span["end"], f"{span['name']} was answered when it was asked")
    equal("messages of commit spans", told, commits)
    failed = sum(span["failed"] for span, _ in of("commit", "acknowledge"))
    tally.check(failed == len(refused), f"{failed} spans of refused settlements, and {len(refused)} were refused")
    copies = collections.Counter(about["acktrail.dead_letter.destination"] for _, about in of("retry", "dead_letter"))
    equal("copies", copies, collections.Counter(flat["destination"] for flat, _ in lines if flat["state"] in COPIED))

def _links(spans, checker, tally):
    # What nobody answered for was sent without knowing where it would be.
    unplaced = {send.topic for expected in checker.expected.values() for send in expected.truth.sends.values()
                if send.acks == "0"}
    known = collections.Counter(span["context"] for span in spans)
    twice = [context for context, count in known.items() if count > 1]
    tally.check(not twice, f"{len(twice)} spans have the ids of others: {twice[:3]}")
    astray, unlinked = [], []
    for span in spans:
        astray += [(span["name"], link) for link in span["links"] if link not in known and link[1] != STRANGER
                   and span["attributes"][TOPIC] not in unplaced]
        if span["parent"] is not None and span["parent"] not in {link[1] for link in span["links"]}:
            astray.append((span["name"], span["parent"]))
        if not span["links"] and span["kind"] == "CONSUMER":
            unlinked.append((span["name"], span["attributes"]))
    tally.check(not astray, f"{len(astray)} links or parents lead nowhere: {astray[:3]}")
    tally.check(not unlinked, f"{len(unlinked)} process spans follow from nothing: {unlinked[:2]}")
