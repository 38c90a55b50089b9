"""Holds the lags of acktrail's last summary against what the broker's admin interface said when each scenario had ended.

`kafka-consumer-groups --describe` shows the end of the log less the committed offset, from the same two answers (OffsetFetch and
ListOffsets) that the truth logs hold. What the agent was not shown it cannot know: ends of transactions, and records that were
sent without acknowledgements or that nobody was answered for, count once somebody is told the log's end. So an end may be lower than the
broker's by such offsets, and only by such.
"""


def wrong_lags(truth, summary):
    """The differences of one scenario, in words."""
    said = _said(truth, summary)
    found = []
    for where, offset in _offsets(truth).items():
        row = said.pop(where, None)
        group, topic, partition = where
        survey = _last_survey(truth, topic, partition)
        if survey is None:
            continue
        if row is None:
            found.append(f"no lag of {group} in {topic}/{partition}, which has committed {offset} of {survey['end']}")
            continue
        unseen = [place for place in range(row["end"], survey["end"]) if _was_told(truth, topic, survey["generation"], partition, place)]
        if row["committed"] != offset:
            found.append(f"{group} in {topic}/{partition} has committed {offset}, not {row['committed']}")
        if row["end"] > survey["end"] or unseen:
            found.append(f"{topic}/{partition} ends at {survey['end']}, not {row['end']}")
        if row["lag"] != max(row["end"] - row["committed"], 0):
            found.append(f"the lag of {group} in {topic}/{partition} is {row['lag']}, with the end {row['end']} and {row['committed']} committed")
        if row.get("stable", 0) > survey["end"]:
            found.append(f"{topic}/{partition} is stable until {row['stable']}, behind its end {survey['end']}")
    return found + [f"{where} has a lag, but has committed nothing" for where in said]


def exact(truth, summary):
    """How many lags are the broker's own to the message."""
    said = _said(truth, summary)
    surveys = {where: _last_survey(truth, *where[1:]) for where in said}
    offsets = _offsets(truth)
    return sum(surveys[where] is not None and where in offsets and row["lag"] == max(surveys[where]["end"] - offsets[where], 0)
               for where, row in said.items())


def _said(truth, summary):
    rows = summary.get("lags", [])
    return {(row["group"], row["destination"], row["partition"]): row for row in rows
            if row["group"].split(".")[0] == truth.prefix}


def _offsets(truth):
    """(group, topic, partition) → what the group had committed in the end."""
    return {(entry["group"], topic, partition): offset for entry in truth.entries if entry["op"] == "offsets"
            for topic, partition, offset in entry["offsets"]}


def _last_survey(truth, topic, partition):
    """What the log held in the end; None if the topic was gone."""
    generation = truth.topics[topic][-1][1] if truth.topics.get(topic) else None
    surveys = truth.surveys.get((topic, generation, partition), [])
    return surveys[-1] if surveys else None


def _was_told(truth, topic, generation, partition, offset):
    """Whether a producer was told that its record has this offset."""
    record = truth.records.get((topic, generation, partition, offset))
    return record is not None and record.send is not None and record.send.offset == offset and record.send.confirmed
