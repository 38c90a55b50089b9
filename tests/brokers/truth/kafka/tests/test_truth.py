"""The facts: how logs are joined, and which contradictions are seen."""

import struct
import unittest

from ..admin import commit_of
from .story import GROUP, TOPIC, Story


class Facts(unittest.TestCase):
    """Truth logs made by hand."""

    def problem(self, words, truth):
        """The logs contradict each other so."""
        self.assertTrue(any(words in problem for problem in truth.problems), truth.problems)

    def test_without_acks_the_log_tells_the_offset(self):
        truth = Story().producer(acks="0").sent(10, 0, known=False).sent(11, 1, known=False).truth()
        self.assertEqual([record.send.s for _, record in sorted(truth.records.items())], [1, 2])
        self.assertFalse(truth.problems or truth.failed)

    def test_a_record_that_nobody_sent(self):
        story = Story().producer()
        story.stored.append([0, "strange", None, 9])
        self.problem("nobody sent it", story.truth())

    def test_a_record_that_is_not_where_it_was_acknowledged(self):
        story = Story().producer().sent(10, 0, stored=False)
        story.stored.append([0, "strange", None, 9])
        self.problem("where made/1 was acknowledged", story.truth())

    def test_a_record_that_vanished_unanswered(self):
        self.problem("nothing says why", Story().producer(acks="0").sent(10, 0, known=False, stored=False).truth())

    def test_aborted_and_committed_as_the_broker_sees_it(self):
        def story(committed):
            told = Story().producer().add(5, "begun", "p", x=1).sent(10, 0, x=1)
            return told.add(20, "ended", "p", x=1, commit=False).sent(30, 2).log(8000, committed=committed).truth()

        self.assertFalse(story([2]).problems)
        self.assertTrue(story([2]).records[TOPIC, 1, 0, 0].aborted)
        self.problem("given to readers of committed records", story([0, 2]))

    def test_an_aborted_record_that_was_handed_over(self):
        story = Story().producer().consumer(isolation="read_committed").add(5, "begun", "p", x=1).sent(10, 0, x=1)
        story.add(20, "ended", "p", x=1, commit=False).handed(100, 0).log(8000, committed=[])
        self.problem("which was aborted", story.truth())

    def test_a_commit_that_the_broker_does_not_know(self):
        story = Story().producer().consumer().sent(10, 0).handed(100, 0).commit(200, 1)
        self.assertFalse(story.truth().problems)
        story.entries = [entry for entry in story.entries if entry["op"] != "commit"]
        self.problem("which the offsets topic does not have", story.truth())

    def test_a_commit_that_no_client_told_of(self):
        story = Story().producer().consumer().sent(10, 0).handed(100, 0).commit(200, 1)
        story.entries = [entry for entry in story.entries if entry["op"] not in ("committing", "committed")]
        events = story.truth().groups[GROUP].events[TOPIC, 1, 0]
        self.assertEqual([what for _, what, _ in events], ["begin", "handed", "commit"])

    def test_commits_of_an_aborted_transaction_do_not_count(self):
        def story(commit):
            told = Story().producer().consumer().sent(10, 0).handed(100, 0).add(110, "begun", "p", x=1)
            told.add(120, "committing", "p", how="txn", x=1, group=GROUP, offsets=[[TOPIC, 0, 1]])
            return told.add(130, "ended", "p", x=1, commit=commit).truth()

        self.assertFalse(story(False).problems)
        self.problem("which the offsets topic does not have", story(True))

    def test_a_killed_process_ends_its_handles(self):
        story = Story().producer().consumer().sent(10, 0).handed(100, 0).add(200, "killed", pid=2)
        self.assertEqual([what for _, what, _ in story.truth().groups[GROUP].events[TOPIC, 1, 0]], ["begin", "handed", "end"])

    def test_the_offsets_topic(self):
        class Message:
            """A record of it."""

            def __init__(self, key, value):
                self.key, self.value, self.timestamp = (lambda: key), (lambda: value), (lambda: (0, 77))

        key = struct.pack(">hh1sh2si", 1, 1, b"g", 2, b"ab", 3)
        self.assertEqual(commit_of(Message(key, struct.pack(">hq", 3, 42) + b"rest")), (77, "g", "ab", 3, 42))
        self.assertIsNone(commit_of(Message(key, None)).offset)
        self.assertIsNone(commit_of(Message(struct.pack(">h", 2) + b"group", b"")))


if __name__ == "__main__":
    unittest.main()
