"""The truth log: what each client did and saw, one JSON object a line, in an order that respects cause and effect.

An action is written before it is sent, an observation after it arrived. Channels are named `port/number/incarnation`, so
that a delivery tag means one delivery only. `expect.py` reads the log; nothing in it comes from the wire.

    op        fields
    queue     queue, fate: what its declaration makes of a rejected message: {"dead": destination}, {"retry": true},
              {"drop": true}; {"back": queue} where messages only wait before they go there; or null where no declaration is seen on the wire (a policy, an undeclared queue)
    publish   key, id, exchange, rk, mandatory, size, chan, tx
    confirm, refuse, returned, lost_publish   key (and reason)
    deliver   key, queue, chan, tag, ctag, redelivered, exchange, rk, auto, get, read, deaths, counts
    settle    chan, tags, how (ack, reject, nack), requeue, multiple, tx
    commit, rollback   chan
    recover   chan
    waits     key, queue: published to an exchange, and in this queue alone
    purged, deleted   queue: what waits in it is gone; of a deleted one also what is outstanding, unless it is settled
    ended     chan, reason (channel_closed, connection_lost): everything outstanding on it comes again, but what is of `unused`
              queues, which end with it
    event     name, and what else is known of it
    note      anything that only people read
"""

import json
import os
import threading
import time


class Log:
    """Appends to one file; safe to share between threads and, by O_APPEND, between processes."""

    def __init__(self, path, scenario):
        self.path, self.scenario = path, scenario
        self._lock = threading.Lock()
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def add(self, op, **fields):
        """Writes one line."""
        line = json.dumps({"t": time.time_ns(), "scenario": self.scenario, "op": op, **fields}) + "\n"
        with self._lock:
            os.write(self._file, line.encode())

    def close(self):
        """Closes the file."""
        os.close(self._file)


def read(path):
    """The lines of a log."""
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
