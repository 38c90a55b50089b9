"""Do clients and broker tell the same story? What one of them must know if the other is right.

`Truth` finds what contradicts itself while it joins the logs: records that nobody sent, or that are not where they were
acknowledged, commits that the broker has not. Here is what can only be seen at the end.
"""

from .expect import Expected
from .truth import MILLISECOND


def contradictions(truth):
    """All of them, in words; with those that the joining found."""
    return [*truth.problems, *_offsets(truth), *_markers(truth), *_reading(truth), *_shared(truth)]


def _offsets(truth):
    """What a group has committed in the end is what was committed last."""
    for entry in truth.entries:
        if entry["op"] != "offsets":
            continue
        last = {}
        for partition, events in truth.groups[entry["group"]].events.items() if entry["group"] in truth.groups else ():
            commits = [fields["offset"] for _, what, fields in events if what == "commit"]
            if commits:
                last[partition[0], partition[2]] = commits[-1]
        said = {(topic, partition): offset for topic, partition, offset in entry["offsets"]}
        # With its topic a group's offset is forgotten.
        gone = {topic for topic, several in truth.topics.items() if len(several) > 1}
        for where in sorted({*said, *last}):
            if said.get(where) != last.get(where) and where[0] not in gone:
                yield f"{entry['group']} has committed {said.get(where)} of {where}, and the last commit was of {last.get(where)}"


def _markers(truth):
    """A log has as many offsets without a record as transactions have ended in it."""
    shrunk = {entry["topic"] for entry in truth.entries if entry["op"] == "truncated"
              or (entry["op"] == "topic" and entry["configs"].get("cleanup.policy") == "compact")}
    for partition, surveys in truth.surveys.items():
        last = surveys[-1]
        if partition[0] in shrunk:
            continue
        transactions = {record.send.transaction for place, record in truth.records.items()
                        if place[:3] == partition and record.send and record.send.transaction}
        gaps = last["end"] - last["start"] - len(last["records"])
        if gaps != len(transactions):
            yield f"{partition} has {gaps} offsets without a record, and {len(transactions)} transactions have ended in it"


def _reading(truth):
    """A reader is given one record after the other and none is left out, between one place that it begins at and the next."""
    for group in truth.groups.values():
        if group.kind == "share":
            continue
        for partition, events in group.events.items():
            readable = [offset for offset in truth.held(partition)
                        if not truth.isolated(group, truth.records[(*partition, offset)])]
            place = {}
            for at, what, fields in events:
                handle = fields.get("handle")
                if what in ("begin", "end", "seek"):
                    place[handle] = fields["offset"] if what == "seek" else None
                elif what == "handed":
                    here, offset = place.get(handle), fields["offset"]
                    left = here is not None and [o for o in readable if here <= o < offset and not _gone(truth, partition, o, at)]
                    if left or (here is not None and offset < here):
                        yield f"{handle} of group {group.name} was handed {offset} of {partition} when it was at {here}"
                    place[handle] = offset + 1


def _gone(truth, partition, offset, at):
    gone = truth.records[(*partition, offset)].gone
    # It went some time before it was missed.
    return gone is not None and gone - 30_000 * MILLISECOND < at


def _shared(truth):
    """What a share group still has to settle is what nobody has accepted or rejected, or given back too often."""
    expected = Expected(truth)
    for entry in truth.entries:
        if entry["op"] == "share" and entry["group"] in truth.groups:
            group = truth.groups[entry["group"]]
            for topic, number, _, lag in entry["offsets"]:
                partition = topic, truth.generation(topic, entry["t"]), number
                left = [offset for offset in truth.held(partition) if offset not in expected.settled[(group.name, *partition)]]
                if lag is not None and lag != len(left):
                    yield f"{group.name} has {lag} records of {partition} to settle, by the clients' logs {left}"
