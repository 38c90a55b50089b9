"""The truth log of a scenario: what its clients did and saw, one JSON object a line, and at its end what the broker knows.

All processes append to one file, each line in one write. An action is written before it is sent, an observation after it arrived;
`t` is CLOCK_REALTIME in nanoseconds. `handle` names one producer or consumer and is never used twice. A *place* is `[topic,
partition, offset]`. An `error` is null, or the broker's code and its name; what a client found wrong by itself has code null.

    op          fields, beside t, op and handle
    opened      kind (producer, consumer, share), client (java, librdkafka, franz, python), pid, client_id, group and all
                other options
    sending     s (the handle's own number), label, topic, partition (null: the client chooses), size, x (transaction or null),
                copy: {of: place, group, as: retry, dead or plain} where a consumer's record is published again
    produced    s, topic, partition, offset (null with acks=0, or with an error), error
    begun, ending, ended     x, and how the transaction ends: commit; of `ended` also error
    assigned, revoked, lost  partitions: the assignment grew or shrank by them
    handed      topic, partition, offset, label, count: given to the application; of a share consumer with the delivery count
    committing  how (sync, txn), offsets (places), of txn also x and the consumer's group
    committed   how (sync, auto), offsets, error
    seek        to (place)
    paused, resumed          partitions
    positions   partitions: [topic, partition, position, log end as last heard]; null where it is not known
    verdict     topic, partition, offset, verdict (accept, release, reject, renew)
    settled     topic, partition, offsets, error: what the broker said to verdicts
    closing     leave: whether it leaves its group; closed
    killed      pid: the process was ended without a word, with all its handles

Written by the scenario itself, from what the broker's admin interface says over the port that nobody watches:

    broker      version: as the tests name it
    topic       topic, id, partitions, generation (1 for the first topic of that name), configs
    gone        topic, generation
    truncated   topic, generation, partition, before: records before it are deleted
    reset       group, offsets (places), began: set by the admin tool
    restarted   how (stopped, killed)
    moving      partitions and groups go from node to node, until: moved
    log         topic, generation, partition, start, end, records: [offset, label, key, size] of all that a read_uncommitted
                consumer is given, committed: the offsets that a read_committed one is given
    commit      group, topic, partition, offset, at_ms: one record of the offsets topic, in its order; null offset: forgotten
    offsets     group, offsets (places): what the group has committed in the end
    share       group, offsets: [topic, partition, where the share group's log begins, records that it still has to settle]
"""

import json
import os
import threading
import time


class Log:
    """Appends to one file; other processes may, too."""

    def __init__(self, path):
        self.path = path
        self._lock = threading.Lock()
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def add(self, op, handle=None, **fields):
        """Writes one line."""
        line = json.dumps({"t": time.time_ns(), "op": op, "handle": handle, **fields}) + "\n"
        with self._lock:
            os.write(self._file, line.encode())

    def close(self):
        """Closes the file."""
        os.close(self._file)


def read(path):
    """The entries of a log, in the order of time."""
    with open(path, encoding="utf-8") as lines:
        return sorted((json.loads(line) for line in lines), key=lambda entry: entry["t"])
