"""What the Python clients share: commands in, answers out, a thread for each producer or consumer, the truth log."""

import json
import os
import queue
import sys
import threading
import time
import traceback

from ..log import Log


class Process:
    """Reads commands from standard input until it ends. `kinds` leads from a handle's kind to its class."""

    def __init__(self, kinds):
        self.kinds, self.handles, self.log = kinds, {}, None
        self._answers, self._lock = os.fdopen(os.dup(1), "w", encoding="utf-8"), threading.Lock()
        # Libraries print where they like; answers are alone on standard output.
        os.dup2(2, 1)

    def run(self):
        """Until the end of input."""
        for line in sys.stdin:
            command = json.loads(line)
            try:
                self._take(command)
            except Exception:  # noqa: BLE001  (whatever it is, the scenario wants to hear of it)
                self.answer(command, fault=traceback.format_exc(limit=-3))
        os._exit(0)

    def _take(self, command):
        if command["do"] == "log":
            if self.log:
                self.log.close()
            self.log = Log(command["path"])
            self.answer(command, {})
        elif command["do"] == "open":
            handle = self.kinds[command["kind"]](self, command["handle"], command["options"])
            self.handles[command["handle"]] = handle
            threading.Thread(target=handle.work, args=(command,), daemon=True).start()
        else:
            self.handles[command["handle"]].commands.put(command)

    def answer(self, command, result=None, fault=None):
        """One line back."""
        line = {"id": command["id"], "fault": fault} if fault else {"id": command["id"], "result": result}
        with self._lock:
            self._answers.write(json.dumps(line) + "\n")
            self._answers.flush()


class Handle:
    """One producer or consumer. A subclass has `open()`, and a method `on_X(command)` for each command X."""

    client = None

    def __init__(self, process, name, options):
        self.process, self.name, self.options = process, name, options
        self.commands = queue.Queue()

    def work(self, opening):
        """Its thread: carries out its commands in order."""
        if not self._answer(opening, self.open):
            return
        while True:
            command = self.commands.get()
            self._answer(command, lambda: getattr(self, "on_" + command["do"])(command))
            if command["do"] == "close":
                self.process.handles.pop(self.name, None)
                return

    def _answer(self, command, work):
        try:
            self.process.answer(command, work() or {})
            return True
        except Exception:  # noqa: BLE001
            self.process.answer(command, fault=traceback.format_exc(limit=-3))
            return False

    def say(self, op, **fields):
        """A line of the truth log."""
        self.process.log.add(op, self.name, **fields)

    def opened(self, kind):
        """The first line of every handle."""
        options = {name: value for name, value in self.options.items() if name != "password"}
        self.say("opened", kind=kind, client=self.client, pid=os.getpid(), **options)

    def option(self, name, otherwise=None):
        """What the scenario asked for."""
        value = self.options.get(name)
        return otherwise if value is None else value


class Producing(Handle):
    """A subclass has `send(topic, partition, key, value, headers, done)`, which calls `done(partition, offset, error)`."""

    def __init__(self, *words):
        super().__init__(*words)
        self._sent, self._transactions, self.x = 0, 0, None

    def on_produce(self, command):
        """Records `first` and following, `n` of them."""
        for n in range(command.get("first", 0), command.get("first", 0) + command.get("n", 1)):
            label = f"{command['stem']}/{n}"
            keys = command.get("keys")
            key = None if keys is None else label.encode() if keys == 0 else f"k{n % keys}".encode()
            self._send(command, key, value_of(label, command.get("size", 0), command.get("noise", False)),
                       headers_of(command.get("headers", ())), None)
            if command.get("pause"):
                time.sleep(command["pause"] / 1000)

    def on_copy(self, command):
        """A record that a consumer of this process was handed, published again."""
        consumer = self.process.handles[command["consumer"]]
        topic, partition, offset = command["record"][:3]
        key, value, inherited = consumer.held[topic, partition, offset]
        headers = [*(inherited if command.get("inherit", True) else ()), *headers_of(command.get("headers", ()))]
        value += (command.get("append") or "").encode()
        copied = {"of": [topic, partition, offset], "group": consumer.option("group"), "as": command["as"]}
        self._send(command, key, value, headers, copied)

    def _send(self, command, key, value, headers, copied):
        self._sent += 1
        s, topic, partition = self._sent, command["topic"], command.get("partition")
        self.say("sending", s=s, label=label_of(value), topic=topic, partition=partition, size=len(value), x=self.x,
                 **({"copy": copied} if copied else {}))

        def done(placed, offset, error):
            self.say("produced", s=s, topic=topic, partition=partition if placed is None else placed, offset=offset, error=error)

        self.send(topic, partition, key, value, headers, done)

    def on_begin(self, _command):
        """Begins a transaction."""
        self._transactions += 1
        self.x = self._transactions
        self.say("begun", x=self.x)
        self.begin()

    def on_end(self, command):
        """Commits or aborts it."""
        self.say("ending", x=self.x, commit=command["commit"])
        self.end(command["commit"])
        self.say("ended", x=self._transactions, commit=command["commit"])
        self.x = None

    def on_send_offsets(self, command):
        """What a consumer of this process was handed becomes part of the transaction."""
        consumer = self.process.handles[command["consumer"]]
        offsets = [[topic, partition, offset] for (topic, partition), offset in consumer.next.items()]
        self.say("committing", how="txn", x=self.x, group=consumer.option("group"), offsets=offsets)
        self.send_offsets(consumer, offsets)


class Consuming(Handle):
    """A subclass has `take(most)`, which gives (topic, partition, offset, key, value, headers) of what its poll returned, and
    `assignment()`."""

    def __init__(self, *words):
        super().__init__(*words)
        self.held, self.next, self.committing, self.changed = {}, {}, False, 0

    def on_poll(self, command):
        """Polls until the command's conditions hold: so many records, partitions assigned, milliseconds of silence."""
        deadline = time.monotonic() + command.get("timeout", 20_000) / 1000
        records, complete, quiet = [], False, time.monotonic()
        wanted = command.get("records")
        while not complete and time.monotonic() < deadline:
            most = self.option("max_poll", 500)
            some = self.take(most if wanted is None else max(1, min(most, wanted - len(records))))
            for topic, partition, offset, key, value, headers in some:
                label = label_of(value)
                self.say("handed", topic=topic, partition=partition, offset=offset, label=label)
                self.held[topic, partition, offset] = key, value, headers
                self.next[topic, partition] = offset + 1
                records.append([topic, partition, offset, label])
            quiet = time.monotonic() if some else quiet
            silence = (time.monotonic() - max(quiet, self.changed)) * 1000
            complete = ((wanted is None or len(records) >= wanted)
                        and (command.get("assigned") is None or len(self.assignment()) == command["assigned"])
                        and (command.get("idle") is None or silence >= command["idle"]))
        return {"records": records, "complete": complete, "assigned": len(self.assignment())}

    def on_seek(self, command):
        """Goes elsewhere in the log."""
        topic, partition, offset = command["to"]
        self.say("seek", to=command["to"])
        self.seek(topic, partition, offset)
        self.next[topic, partition] = offset

    def on_commit(self, command):
        """Commits given offsets, or what was handed over. `commit` gives the error, and the offsets if the library says them."""
        offsets = command.get("offsets")
        told = offsets if offsets is not None else [[*where, offset] for where, offset in self.next.items()]
        self.say("committing", how="sync", offsets=told)
        self.committing = True
        error, done = self.commit(offsets)
        self.committing = False
        self.say("committed", how="sync", offsets=told if done is None else done, error=error)
        return {"error": error}

    def noticed(self, offsets, error):
        """A commit that nobody asked for."""
        if offsets and not self.committing:
            self.say("committed", how="auto", offsets=offsets, error=error)

    def moved(self, op, partitions):
        """The assignment changed, or partitions are held back."""
        partitions, self.changed = [list(where) for where in partitions], time.monotonic()
        self.say(op, partitions=partitions)
        if op in ("revoked", "lost"):
            for topic, partition in partitions:
                self.next.pop((topic, partition), None)

    def on_close(self, command):
        """Ends it, in order."""
        self.on_positions(command)
        self.say("closing", leave=command.get("leave", True))
        self.close(command.get("leave", True))
        self.say("closed")


def label_of(value):
    """A record's label: its value up to the bar."""
    return None if value is None else value.split(b"|", 1)[0].decode(errors="replace")


def value_of(label, size, noise):
    """A value of so many bytes that begins with the label: the label again and again, or bytes that no codec makes smaller."""
    head = f"{label}|".encode()
    if size <= len(head):
        return head
    if not noise:
        return (head * (size // len(head) + 1))[:size]
    state, filler = sum(head), bytearray()
    for _ in range(size - len(head)):
        state = (state * 1_103_515_245 + 12_345) & 0xFFFFFFFF
        filler.append(state >> 16 & 0xFF)
    return head + bytes(filler)


def headers_of(given):
    """Headers as commands have them: text, or {"hex": bytes}."""
    return [(name, bytes.fromhex(value["hex"]) if isinstance(value, dict) else value.encode()) for name, value in given]
