"""Every scenario again, from a capture file of which a part is missing: what is said of the rest must be true.

`late` leaves out all before a random moment, as an agent sees that attaches then; `holes` leaves out packets here and there,
`bites` bytes inside of packets.
"""

import collections
import random
import struct

from .agent import replay
from .check import Checker, Seen, flatten, matches, show
from .disturbed import older
from .expect import ANY
from .log import read

SECTION, INTERFACE, PACKET = 0x0A0D0D0A, 1, 6
TSRESOL = 9
# Part of the packets that is left out, and the longest run of them.
HOLES, RUN = 0.01, 6
# Part of the packets that bytes are taken out of, and how many at most.
BITES, BITE = 0.02, 200
# Where a packet's bytes begin in a block of the file, and in it the Internet Protocol and TCP.
FRAME, ETHERNET = 28, 14


class Packets:
    """A pcapng file in memory, to be cut by time."""

    def __init__(self, path):
        self.data = path.read_bytes()
        self.head, self.times, self.places = b"", [], []
        at, resolution = 0, 10**-6
        while at < len(self.data):
            kind, length = struct.unpack_from("<II", self.data, at)
            if kind == PACKET:
                high, low = struct.unpack_from("<II", self.data, at + 12)
                self.times.append((high << 32 | low) * resolution)
                self.places.append((at, at + length))
            elif kind in (SECTION, INTERFACE):
                self.head += self.data[at:at + length]
                if kind == INTERFACE:
                    resolution = self._resolution(at + 16, at + length - 4)
            at += length

    def _resolution(self, at, end):
        while at + 4 <= end:
            option, length = struct.unpack_from("<HH", self.data, at)
            if option == TSRESOL:
                exponent = self.data[at + 4]
                return 2.0 ** -(exponent & 0x7F) if exponent & 0x80 else 10.0 ** -exponent
            if option == 0:
                break
            at += 4 + (length + 3) // 4 * 4
        return 10**-6

    def between(self, first, last):
        """Places of the packets in [first, last], in seconds."""
        return [place for time, place in zip(self.times, self.places) if first <= time <= last]

    def is_empty(self, place):
        """Whether a packet has no payload: it opens, acknowledges or ends."""
        at = place[0] + FRAME + ETHERNET
        internet = (self.data[at] & 15) * 4
        (length,) = struct.unpack_from(">H", self.data, at + 2)
        return length == internet + (self.data[at + internet + 12] >> 4) * 4

    def write(self, path, places):
        """A file of these packets: places in this one, or blocks."""
        blocks = (place if isinstance(place, bytes) else self.data[slice(*place)] for place in places)
        path.write_bytes(self.head + b"".join(blocks))

    def bitten(self, place, rng):
        """The blocks of a packet without some bytes of its payload: what comes before these, and what behind."""
        block = self.data[slice(*place)]
        (captured,) = struct.unpack_from("<I", block, 20)
        frame = block[FRAME:FRAME + captured]
        internet = (frame[ETHERNET] & 15) * 4
        (length,) = struct.unpack_from(">H", frame, ETHERNET + 2)
        tcp = ETHERNET + internet
        head = tcp + (frame[tcp + 12] >> 4) * 4
        payload = frame[head:ETHERNET + length]
        if len(payload) < 2:
            return [block]
        first = rng.randrange(len(payload))
        last = min(len(payload), first + rng.randint(1, BITE))
        return [_with_payload(block, frame[:head], tcp, begin, payload[begin:end])
                for begin, end in ((0, first), (last, len(payload))) if begin < end]


def late(rng, packets, first, last):
    """From a random moment on."""
    return packets.between(rng.uniform(first, last), last + 0.3)


def holes(rng, packets, first, last):
    """Without some runs of packets."""
    kept, skip = [], 0
    for place in packets.between(first - 0.3, last + 0.3):
        if skip == 0 and rng.random() < HOLES:
            skip = rng.randint(1, RUN)
        if skip:
            skip -= 1
        else:
            kept.append(place)
    return kept


def bites(rng, packets, first, last):
    """Without some bytes of some packets."""
    kept = []
    for place in packets.between(first - 0.3, last + 0.3):
        kept += packets.bitten(place, rng) if rng.random() < BITES else [place]
    return kept


def payload_holes(rng, packets, first, last):
    """Without the payload of some runs of packets. How connections end, the kernel tells apart from their bytes."""
    kept = set(holes(rng, packets, first, last))
    return [place for place in packets.between(first - 0.3, last + 0.3) if place in kept or packets.is_empty(place)]


WAYS = {"late": late, "holes": holes, "bites": bites}


def _with_payload(block, head, tcp, skipped, payload):
    """The block of a packet that has this payload instead, which begins so many bytes later."""
    head = bytearray(head)
    struct.pack_into(">H", head, ETHERNET + 2, len(head) - ETHERNET + len(payload))
    (sequence,) = struct.unpack_from(">I", head, tcp + 4)
    struct.pack_into(">I", head, tcp + 4, (sequence + skipped) % 2**32)
    frame = bytes(head) + payload
    length = FRAME + 4 + (len(frame) + 3) // 4 * 4
    fields = struct.pack("<II", PACKET, length) + block[8:20] + struct.pack("<II", len(frame), len(frame))
    return fields + frame.ljust(length - FRAME - 4, b"\0") + struct.pack("<I", length)


def check_torn(ways, logs, capture, port, directory, tally):
    """Every scenario with ids, torn in these ways; the captures of which something wrong was said are kept."""
    packets, seed = Packets(capture), random.randrange(10**6)
    for way in (WAYS[name] for name in ways):
        rng = random.Random(seed)
        told, wrong, unknown = 0, [], collections.Counter()
        for log in logs:
            prefix = log.name.removesuffix(".truth.jsonl")
            if not prefix.endswith(".id"):
                continue
            times = [entry["t"] / 1e9 for entry in read(log)]
            torn = directory / f"torn-{way.__name__}-{prefix}.pcapng"
            packets.write(torn, way(rng, packets, times[0], times[-1]))
            lines, summary, _ = replay(torn, port, directory, name="torn")
            seen, differences = _compare(log, prefix, Seen(lines))
            told += seen
            wrong += differences
            if not differences:
                torn.unlink()
            unknown.update({name: count for name, count in summary["events"].items() if name in ("fate_unknown",
                                                                                                 "settled_unseen")})
        tally.check(told > 5 * len(logs), f"{way.__name__}: only {told} lines were told of {len(logs)} scenarios")
        tally.check(not wrong, f"{way.__name__} (seed {seed}): {len(wrong)} of {told} lines are wrong:\n" + "\n".join(wrong[:8]))
        print(f"{way.__name__:6} {told} lines of torn captures, {len(wrong)} wrong, seed {seed}, {dict(unknown)}", flush=True)


def _compare(log, prefix, seen):
    """How many lines there are, and those that are not true."""
    checker = Checker([log], seen, live=False)
    expected = checker.expected[prefix]
    ports = {}
    for port, at, name in expected.connections:
        ports.setdefault(port, []).append((at, prefix, name))
    told, wrong, lines = 0, [], [flatten(line) for line in seen.transitions]
    taken_back = {(flat["id"], flat["queue"], flat["corrects"]) for flat in lines}
    for line, flat in zip(seen.transitions, lines):
        checker._owner(flat, ports)
        # Neighbours are in the capture as well; which of several alike a line speaks of is not to be told.
        if flat["id"] not in expected.lines or expected.copies[flat["id"]] > 1:
            continue
        told += 1
        if (flat["id"], flat["queue"], flat["state"]) in taken_back:
            continue  # an inference, which a later line corrects
        wanted = [want for chain in expected.lines[flat["id"]].values() for want in chain]
        if not any(_says(want, flat) for want in wanted):
            wrong.append(f"{flat['id']}: {show(flat)}, {line['time']}")
    return told, wrong


def _says(want, flat):
    """Whether a line is this one, as far as it says anything."""
    if want.get("reason") == "queue_deleted" and flat["state"] in ("Failed", "Retrying"):
        return True  # what another connection did to the queue was not seen
    if want.get("previous") == "Created" and flat["state"] in ("Expired", "DeadLettered") and flat["queue"] == want["destination"]:
        return True  # the delivery of which it is a copy was not seen, so it looks like any other that expired there
    if want["state"] != flat["state"]:
        return False
    want = older(want)
    scenario = flat["id"].rsplit("/", 1)[0]
    if flat["destination"] == f"{scenario}.dlx:{flat['queue']}":
        want["destination"] = ANY  # where the exchange's declaration or binding was not seen, no queue is named
    if want["state"] == "DeadLettered":
        want["port"] = ANY  # told by whom it reached: who had it before was not seen
    said = {field: value for field, value in want.items() if value is ANY or field == "after" or
            (field not in ("delivery", "evidence", "corrects", "before", "pid") and flat.get(field) is not None)}
    return matches(said, flat)
