"""Lines about lives that were partly seen: what they leave out is nobody's fault, what they say must be so.

A line may name a topic by its id, and no group where it cannot know which; it may not name a wrong one, nor tell of a state more
often than it was entered.
"""

import collections

from .check import Scenario, between, flatten, name, story
from .expect import ANY, PUBLISH, Expected

# The group of a line that names none.
UNNAMED = "?"
# While groups move, brokers refuse commits with these (COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR), and
# the libraries ask the next broker without a word to the application.
TRIED_AGAIN = ("14", "15", "16")


class PartlySeen(Scenario):
    """One scenario, of which not everything was seen."""

    def check(self, lines, events):
        """Everything that is said."""
        self.result.lines = len(lines)
        for flat in lines:
            self._read(self.named(flat))
        for place in sorted({key[1:] for key in self.seen}):
            self._place(place)
        self._said_of_topics()
        self._refusals(events)
        return self.result

    def named(self, flat):
        """A line that has a topic's id for its name says which of several topics of that name it was."""
        topic, generation = self.truth.ids.get(flat["topic"], (flat["topic"], None))
        return {**flat, "topic": topic, "generation": generation}

    def _generation(self, flat):
        return flat["generation"] or super()._generation(flat)

    def _group(self, flat):
        if flat["group"] is None and flat["state"] not in PUBLISH:
            return UNNAMED
        return super()._group(flat)

    def _views(self, partition, group, flat):
        if group != UNNAMED:
            return super()._views(partition, group, flat)
        # Any reader's: which of them it is about is not said.
        return [view for reader in self.truth.groups for view in super(PartlySeen, self)._views(partition, reader, flat)]

    def _placeless(self, flat):
        # Of an answer whose offset is missing, no more is known.
        if flat["state"] != "Confirmed":
            return super()._placeless(flat)
        self.counts[("Confirmed", flat["topic"], self._generation(flat), None)] += flat["count"]
        return None

    def _place(self, place):
        """A record: no state more often than it was entered, in the group that a line names, and in all together."""
        most, counts = collections.Counter(), collections.Counter()
        groups = [self.expected.PUBLISHED, UNNAMED, *self.truth.groups]
        for group in groups:
            key = (group, *place)
            lines = self.seen.get(key, [])
            of_group = count(lines)
            bounds = self.expected.chains[key].bounds if group != UNNAMED else {}
            for state in {*of_group, *bounds}:
                allowed = bounds.get(state, (0, 0))[1]
                most[state] = ANY if ANY in (allowed, most[state]) else most[state] + allowed
                counts[state] += of_group[state]
                if group != UNNAMED and allowed is not ANY and of_group[state] > allowed:
                    self.differ(f"{name(key)}: {of_group[state]} × {state}, must be {between(0, allowed)}; {story(lines)}")
        for state, told in counts.items():
            if most[state] is not ANY and told > most[state]:
                lines = [flat for group in groups for flat in self.seen.get((group, *place), [])]
                self.differ(f"{name((UNNAMED, *place))}: {told} × {state}, must be {between(0, most[state])} in all groups; "
                            f"{story(lines)}")

    def _said_of_topics(self):
        """What is said without offsets: no more than was sent, failed or was confirmed."""
        most = collections.Counter()
        for (topic, generation), bounds in self.expected.created.items():
            most["Created", topic, generation, None] = bounds["Created"][1]
        for (topic, generation, code), bounds in self.expected.refused.items():
            most["PublishFailed", topic, generation, None if code is None else str(code)] = bounds["PublishFailed"][1]
        for (group, topic, generation, *_), chain in self.expected.chains.items():
            if group == self.expected.PUBLISHED:
                most["Confirmed", topic, generation, None] += chain.bounds.get("Confirmed", (0, 0))[1]
        for key, told in self.counts.items():
            if most[key] is not ANY and told > most[key]:
                state, topic, generation, error = key
                self.differ(f"{told} × {state} in {topic} (topic {generation}, error {error}), must be {between(0, most[key])}")

    def _refusals(self, events):
        wanted = {(event, group) for event, group, _ in self.expected.events}
        for flat in events:
            if flat["error"] in TRIED_AGAIN and self.truth.moves_at(flat["at"]):
                continue
            if flat["event"] == "settle_failed" and (flat["event"], flat["group"]) not in wanted:
                self.differ(f"event settle_failed of group {flat['group']} with error {flat['error']}, though nothing was refused")


def count(lines):
    """How often they say that a state was entered, less what they take back."""
    counts = collections.Counter(flat["state"] for flat in lines)
    for flat in lines:
        if flat["corrects"] and flat["corrects"] != "PublishFailed":
            counts[flat["corrects"]] -= 1
    return counts


def lines_of(truth, seen):
    """Lines and events that speak of a scenario, flat. Its topics may stand under their ids."""
    names = {*truth.topics, *truth.ids}
    events = [flat for flat in map(flatten, seen.events) if (flat["topic"] or flat["group"] or "").split(".")[0] == truth.prefix]
    return [flat for flat in map(flatten, seen.transitions) if flat["topic"] in names], events


def wrong_lines(truth, seen, live=False):
    """How many lines speak of a scenario, and what they say that is not so."""
    result = PartlySeen(Expected(truth), live).check(*lines_of(truth, seen))
    return result.lines, result.differences
