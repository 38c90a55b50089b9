"""The checker: what passes, and what must not."""

import unittest

from ..check import Checker
from ..ideal import Lines
from ..truth import Truth
from .story import GROUP, TOPIC, Story, line

REFUSAL = {"kind": "event", "event": "settle_failed", "time": "2023-11-14T22:13:21Z",
           "attributes": {"messaging.consumer.group.name": GROUP, "error.type": "25"}}
COPY = {"acktrail.dead_letter.destination": f"{TOPIC}.dlq"}


def differences(truth, lines, live=True, events=()):
    """What the checker says."""
    assert isinstance(truth, Truth) and not truth.problems, truth.problems
    checker = Checker([truth], Lines(lines, events), live)
    (result,) = checker.run()
    return result.differences + [f"belongs to no scenario: {stranger}" for stranger in checker.strangers]


def plain():
    """Five records, read and committed by one group."""
    story = Story().producer().consumer()
    for offset in range(5):
        story.sent(10, offset)
    return story.handed(100, 0, 1, 2, 3, 4).commit(200, 5).add(300, "closed", "c").truth()


def told():
    """What must be said of them."""
    return [line(10, "Created", count=5), line(11, "Confirmed", 0, 4), *(line(50, state, 0, 4, group=GROUP) for state in
                                                                           ("Dispatched", "Processing")),
            line(201, "Acknowledged", 0, 4, group=GROUP)]


class Case(unittest.TestCase):
    """Expects a difference."""

    def differs(self, words, lines, truth=None, **options):
        """The checker finds exactly fault with this."""
        found = differences(truth or plain(), lines, **options)
        self.assertTrue(found, "nothing was found")
        self.assertTrue(any(words in each for each in found), found)


class Plain(Case):
    """Five records, produced, read and committed."""

    def test_perfect_lines_pass(self):
        self.assertEqual(differences(plain(), told()), [])

    def test_ranges_may_be_split(self):
        lines = told()
        lines[2:3] = [line(50, "Dispatched", 0, 1, group=GROUP), line(50, "Dispatched", 2, 4, group=GROUP)]
        self.assertEqual(differences(plain(), lines), [])

    def test_a_missing_line(self):
        for index, state in enumerate(("Created", "Confirmed", "Dispatched", "Processing", "Acknowledged")):
            lines = told()
            del lines[index]
            self.differs(f"0 × {state}", lines)

    def test_a_replay_knows_no_reads(self):
        lines = told()
        del lines[3]
        self.assertEqual(differences(plain(), lines, live=False), [])

    def test_a_line_twice(self):
        for index, state in enumerate(("Created", "Confirmed", "Dispatched", "Processing", "Acknowledged")):
            lines = told()
            self.differs(f"× {state}", [*lines[: index + 1], *lines[index:]])

    def test_a_range_that_is_one_short(self):
        lines = told()
        lines[4] = line(201, "Acknowledged", 0, 3, group=GROUP)
        self.differs("0 × Acknowledged, must be 1", lines)

    def test_a_count_that_is_not_the_number_of_records(self):
        lines = told()
        lines[1] = line(11, "Confirmed", 0, 4, count=4)
        self.differs("count is 4, and there are 5 records", lines)

    def test_a_range_beyond_the_log(self):
        lines = told()
        lines[1] = line(11, "Confirmed", 0, 5, count=5)
        self.differs("ends where no record is", lines)

    def test_another_group(self):
        self.differs("no such group", [*told(), line(60, "Dispatched", 0, 4, group="made.others")])

    def test_another_topic(self):
        self.differs("belongs to no scenario", [*told(), line(60, "Confirmed", 0, **{"messaging.destination.name": "elsewhere"})])

    def test_a_line_too_early_or_late(self):
        lines = told()
        lines[2] = line(150, "Dispatched", 0, 4, group=GROUP)
        lines[3] = line(151, "Processing", 0, 4, group=GROUP)
        self.differs("after the client knew of it", lines)
        lines = told()
        lines[4] = line(150, "Acknowledged", 0, 4, group=GROUP)
        self.differs("but the commit was made", lines)

    def test_delivery_numbers(self):
        lines = told()
        lines[2] = line(50, "Dispatched", 0, 4, group=GROUP, delivery=2)
        self.differs("delivery 2, not 1", lines)

    def test_previous_states(self):
        lines = told()
        lines[4]["previous"] = "Dispatched"
        self.differs("says that it came from Dispatched, not Processing", lines)
        lines[4]["previous"] = "Processing"
        self.assertEqual(differences(plain(), lines), [])

    def test_states_that_are_none(self):
        self.differs("this is no state", [*told(), line(60, "Lost", 0, group=GROUP)])

    def test_events_that_never_were(self):
        self.differs("though nothing was refused", told(), events=[REFUSAL])

    def test_a_refused_commit(self):
        for name, code in (("UNKNOWN_MEMBER_ID", 25), ("CommitFailedException", None)):
            story = Story().producer().consumer().sent(10, 0).handed(100, 0)
            story.add(200, "committing", "c", how="sync", offsets=[[TOPIC, 0, 1]])
            story.add(202, "committed", "c", how="sync", offsets=[[TOPIC, 0, 1]], error={"code": code, "name": name})
            lines = [line(10, "Created", count=1), line(11, "Confirmed", 0),
                     *(line(50, state, 0, group=GROUP) for state in ("Dispatched", "Processing"))]
            self.differs("no event settle_failed", lines, story.truth())
            self.assertEqual(differences(story.truth(), lines, events=[REFUSAL]), [])
            self.differs("× Acknowledged, must be 0", [*lines, line(201, "Acknowledged", 0, group=GROUP)], story.truth())


class Producing(Case):
    """What producers are told."""

    def test_without_acks_nothing_is_confirmed(self):
        truth = Story().producer(acks="0").sent(10, 0, known=False).truth()
        self.assertEqual(differences(truth, [line(10, "Created", count=1)]), [])
        self.differs("1 × Confirmed, must be 0", [line(10, "Created", count=1), line(11, "Confirmed", 0)], truth)

    def test_a_refused_record(self):
        truth = Story().producer().sent(10, 0).sent(20, None, error={"code": 87, "name": "INVALID_RECORD"}).truth()
        good = [line(10, "Created", count=2), line(11, "Confirmed", 0)]
        failed = line(21, "PublishFailed", count=1, **{"error.type": "87"})
        self.assertEqual(differences(truth, [*good, failed]), [])
        self.differs("0 × PublishFailed", good, truth)
        self.differs("0 × PublishFailed", [*good, line(21, "PublishFailed", count=1, **{"error.type": "3"})], truth)

    def test_a_record_that_timed_out_and_is_stored(self):
        story = Story().producer().sent(10, None, label="late", error={"code": 7, "name": "REQUEST_TIMED_OUT"})
        story.stored.append([0, "late", None, 9])
        truth = story.truth()
        created, failed = line(10, "Created", count=1), line(11, "PublishFailed", count=1, **{"error.type": "7"})
        self.assertEqual(differences(truth, [created, failed]), [])
        self.assertEqual(differences(truth, [created]), [])
        self.differs("2 × PublishFailed", [created, failed, failed], truth)


class Reading(Case):
    """What groups do."""

    def test_gaps_of_compaction(self):
        story = Story().producer().consumer(400)
        for offset in range(5):
            story.sent(10, offset)
        truth = story.log(300, without=(1, 2)).handed(500, 0, 3, 4).commit(600, 5).log(8000, without=(1, 2)).truth()
        lines = [line(10, "Created", count=5), line(11, "Confirmed", 0, 4), line(450, "Dispatched", 0, 4, count=3, group=GROUP),
                 line(460, "Processing", 0, 4, count=3, group=GROUP), line(601, "Acknowledged", 0, 4, count=3, group=GROUP)]
        self.assertEqual(differences(truth, lines), [])
        lines[2] = line(450, "Dispatched", 0, 4, group=GROUP)
        self.differs("count is 5, and there are 3 records", lines, truth)

    def test_what_was_fetched_and_not_handed_over(self):
        story = Story().producer().consumer()
        for offset in range(5):
            story.sent(10, offset)
        truth = story.handed(100, 0, 1).commit(200, 2).truth()
        lines = [line(10, "Created", count=5), line(11, "Confirmed", 0, 4), line(50, "Dispatched", 0, 4, group=GROUP),
                 line(50, "Processing", 0, 4, group=GROUP), line(201, "Acknowledged", 0, 1, group=GROUP)]
        self.assertEqual(differences(truth, lines), [])
        short = [*lines[:2], *(line(50, state, 0, 1, group=GROUP) for state in ("Dispatched", "Processing")), lines[4]]
        self.assertEqual(differences(truth, short), [])
        self.differs("× Acknowledged, must be 0", [*lines[:4], line(201, "Acknowledged", 0, 4, group=GROUP)], truth)

    def test_a_commit_backwards(self):
        story = Story().producer().consumer()
        for offset in range(4):
            story.sent(10, offset)
        truth = story.handed(100, 0, 1, 2, 3).commit(200, 4).commit(300, 2).truth()
        lines = [line(10, "Created", count=4), line(11, "Confirmed", 0, 3), line(50, "Dispatched", 0, 3, group=GROUP),
                 line(50, "Processing", 0, 3, group=GROUP), line(201, "Acknowledged", 0, 3, group=GROUP)]
        self.differs("0 × Failed, must be 1", lines, truth)
        self.assertEqual(differences(truth, [*lines, line(301, "Failed", 2, 3, group=GROUP, reason="offset_reset")]), [])

    def test_a_rebalance(self):
        story = Story().producer().consumer()
        for offset in range(4):
            story.sent(10, offset)
        story.handed(100, 0, 1, 2, 3).commit(200, 2).add(250, "closed", "c")
        story.consumer(300, handle="d").handed(400, 2, 3, handle="d")
        truth = story.commit(500, 4, handle="d").truth()
        lines = [line(10, "Created", count=4), line(11, "Confirmed", 0, 3), line(50, "Dispatched", 0, 3, group=GROUP),
                 line(50, "Processing", 0, 3, group=GROUP), line(201, "Acknowledged", 0, 1, group=GROUP),
                 line(251, "Failed", 2, 3, group=GROUP, reason="rebalanced"),
                 line(350, "Dispatched", 2, 3, group=GROUP, delivery=2),
                 line(350, "Processing", 2, 3, group=GROUP, delivery=2), line(501, "Acknowledged", 2, 3, group=GROUP, delivery=2)]
        self.assertEqual(differences(truth, lines), [])
        self.differs("0 × Failed, must be 1", [*lines[:5], *lines[6:]], truth)
        # What came before the place that it begins at was not delivered again.
        lines[6] = line(350, "Dispatched", 1, 3, group=GROUP, delivery=2)
        self.differs("2 × Dispatched, must be 1", lines, truth)

    def test_readers_without_a_group(self):
        truth = Story().producer().consumer(group=None).sent(10, 0).handed(100, 0).truth()
        lines = [line(10, "Created", count=1), line(11, "Confirmed", 0),
                 *(line(50, state, 0, delivery=1) for state in ("Dispatched", "Processing"))]
        self.assertEqual(differences(truth, lines), [])
        self.differs("1 × Acknowledged, must be 0", [*lines, line(60, "Acknowledged", 0, delivery=1)], truth)

    def test_aborted_records(self):
        story = Story().producer().consumer(isolation="read_committed").add(5, "begun", "p", x=1).sent(10, 0, x=1)
        story.add(20, "ending", "p", x=1, commit=False).add(21, "ended", "p", x=1, commit=False).sent(30, 2)
        truth = story.handed(100, 2).commit(200, 3).log(8000, committed=[2]).truth()
        lines = [line(10, "Created", count=2), line(11, "Confirmed", 0), line(31, "Confirmed", 2),
                 line(60, "Dropped", 0, group=GROUP, reason="aborted"), line(60, "Dispatched", 2, group=GROUP),
                 line(60, "Processing", 2, group=GROUP), line(201, "Acknowledged", 2, group=GROUP)]
        self.assertEqual(differences(truth, lines), [])
        self.differs("0 × Dropped, must be 1 or more", [*lines[:3], *lines[4:]], truth)
        self.differs("count is 1, and there are 0 records", [*lines, line(61, "Dispatched", 0, group=GROUP)], truth)

    def test_a_topic_made_again(self):
        story = Story().producer().sent(10, 0).log(500).add(510, "gone", topic=TOPIC, generation=1)
        story.add(600, "topic", topic=TOPIC, partitions=1, generation=2, configs={}).sent(700, 0, label="again", stored=False)
        story.add(8000, "log", topic=TOPIC, generation=2, partition=0, start=0, end=1, records=[[0, "again", None, 9]],
                  committed=[0])
        lines = [line(10, "Created", count=1), line(11, "Confirmed", 0), line(700, "Created", count=1), line(701, "Confirmed", 0)]
        self.assertEqual(differences(story.truth(), lines), [])
        self.differs("2 × Confirmed, must be 1", [*lines, line(702, "Confirmed", 0)], story.truth())


class Copying(Case):
    """Dead letters."""

    def truth(self):
        """A record that is a dead letter before it is committed."""
        story = Story().add(0, "topic", topic=f"{TOPIC}.dlq", partitions=1, generation=1, configs={})
        story.producer().consumer().sent(10, 0)
        story.handed(100, 0).add(150, "sending", "p", s=99, label="made/1", topic=f"{TOPIC}.dlq", partition=0, size=9, x=None,
                                 copy={"of": [TOPIC, 0, 0], "group": GROUP, "as": "dead"})
        story.add(151, "produced", "p", s=99, topic=f"{TOPIC}.dlq", partition=0, offset=0, error=None).commit(200, 1)
        story.add(8000, "log", topic=f"{TOPIC}.dlq", generation=1, partition=0, start=0, end=1, records=[[0, "made/1", None, 9]],
                  committed=[0])
        return story.truth()

    def test_it_is_told_once(self):
        lines = [line(10, "Created", count=1), line(11, "Confirmed", 0), line(50, "Dispatched", 0, group=GROUP),
                 line(50, "Processing", 0, group=GROUP),
                 line(151, "Confirmed", 0, **{"messaging.destination.name": f"{TOPIC}.dlq"})]
        dead = line(151, "DeadLettered", 0, group=GROUP, **COPY)
        self.assertEqual(differences(self.truth(), [*lines, dead]), [])
        self.assertEqual(differences(self.truth(), [*lines, dead, line(201, "Acknowledged", 0, group=GROUP)]), [])
        self.differs("0 × DeadLettered", lines, self.truth())
        self.differs("2 × DeadLettered", [*lines, dead, dead], self.truth())
        elsewhere = line(151, "DeadLettered", 0, group=GROUP, **{"acktrail.dead_letter.destination": "made.other"})
        self.differs("0 × DeadLettered", [*lines, elsewhere], self.truth())


class Sharing(Case):
    """Share groups."""

    def test_verdicts_record_by_record(self):
        story = Story().producer().consumer(kind="share").sent(10, 0).sent(10, 1)
        for at, offset, count, verdict in ((100, 0, 1, "accept"), (105, 0, 1, "accept"), (110, 1, 1, "release"),
                                           (200, 1, 2, "reject")):
            story.handed(at, offset, count=count)
            story.add(at + 1, "verdict", "c", topic=TOPIC, partition=0, offset=offset, verdict=verdict)
            story.add(at + 2, "settled", "c", topic=TOPIC, partition=0, offsets=[offset], error=None)
        lines = [line(10, "Created", count=2), line(11, "Confirmed", 0, 1), line(50, "Dispatched", 0, 1, group=GROUP),
                 line(50, "Processing", 0, 1, group=GROUP), line(102, "Acknowledged", 0, group=GROUP),
                 line(112, "Failed", 1, group=GROUP, reason="released"), line(150, "Dispatched", 1, group=GROUP, delivery=2),
                 line(150, "Processing", 1, group=GROUP, delivery=2), line(202, "Rejected", 1, group=GROUP, delivery=2)]
        truth = story.truth()
        self.assertEqual(differences(truth, lines), [])
        self.differs("0 × Failed, must be 1", [*lines[:5], *lines[6:]], truth)
        self.differs("0 × Dropped or Rejected", lines[:-1], truth)


if __name__ == "__main__":
    unittest.main()
