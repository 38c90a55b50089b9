"""Clients that mean harm, or speak something else: raw bytes on the port of a broker that others use."""

import gzip
import random
import socket
import ssl
import struct
import threading

TOPIC = "hostile.work.dlq"


class Hostile:
    """Bad clients, one after the other, until `stop`."""

    def __init__(self, port, seed):
        self.port, self.rng, self.done = port, random.Random(seed), 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self):
        """Returns how many there were."""
        self._over.set()
        self._thread.join()
        return self.done

    def _run(self):
        while not self._over.is_set():
            for kind in (tls, http, noise, lies, wrong_checksum, bomb, truncated):
                try:
                    kind(self.port, self.rng)
                except (OSError, ssl.SSLError):
                    pass  # the broker hangs up
                self.done += 1
            self._over.wait(0.02)


def tls(port, _rng):
    """Begins a TLS session, which the broker does not understand."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), timeout=2) as plain, context.wrap_socket(plain) as secured:
        secured.send(b"never")


def http(port, _rng):
    """Asks for a page."""
    _say(port, b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n")


def noise(port, rng):
    """Says nothing that means anything, with and without a request before it."""
    _say(port, rng.randbytes(rng.randint(1, 3000)))
    _say(port, hello(), rng.randbytes(rng.randint(1, 3000)))


def lies(port, rng):
    """Requests whose lengths and counts are not what follows."""
    for size in (-1, 0, 3, 2**31 - 1, 2**30):
        _say(port, hello(), struct.pack(">i", size) + rng.randbytes(200))
    for count in (2**31 - 1, -7, 10**6):
        # Metadata of so many topics; Produce into so many.
        _say(port, hello(), request(3, 1, struct.pack(">i", count) + b"\0\x01t"))
        _say(port, hello(), request(0, 3, struct.pack(">hhii", -1, -1, 1000, count) + b"\0\x01t"))
    _say(port, hello(), request(8, 2, struct.pack(">h", 30_000) + b"group"))


def wrong_checksum(port, rng):
    """A batch that was damaged on its way."""
    _say(port, hello(), produce(batch(b"\x10\0\0\0\x01\x06abc\0" * 3, 3, crc=rng.randrange(2**32))))


def bomb(port, rng):
    """A batch of a few kilobytes that is megabytes when it is unpacked: to a topic whose records would be read."""
    records = gzip.compress(bytes(rng.randint(16, 64) << 20), 9)
    _say(port, hello(), produce(batch(records, 5, codec=1)))
    for codec in (2, 3, 4):
        # Their own lies about sizes.
        _say(port, hello(), produce(batch(b"\xff\xff\xff\xff\x7f" + rng.randbytes(300), 5, codec=codec)))


def truncated(port, rng):
    """A request that is never finished."""
    whole = produce(batch(b"\x10\0\0\0\x01\x06abc\0" * 50, 50))
    _say(port, hello(), whole[:rng.randrange(len(whole))])


def hello():
    """ApiVersions: a client that is one, so far."""
    return request(18, 0, b"")


def request(key, version, body):
    """With a header of the old kind."""
    head = struct.pack(">hhi", key, version, 7) + struct.pack(">h", 7) + b"hostile"
    return struct.pack(">i", len(head) + len(body)) + head + body


def produce(records):
    """Version 3, all replicas, to one partition."""
    topic = TOPIC.encode()
    body = struct.pack(">hhii", -1, -1, 1000, 1) + struct.pack(">h", len(topic)) + topic
    return request(0, 3, body + struct.pack(">iii", 1, 0, len(records)) + records)


def batch(records, count, codec=0, crc=0):
    """Of magic 2. The checksum is only right by chance: brokers look at it first, and that is the end of it for them."""
    rest = struct.pack(">hiqqqhii", codec, count - 1, 0, 0, -1, -1, -1, count) + records
    return struct.pack(">qiibI", 0, 9 + len(rest), -1, 2, crc) + rest


def _say(port, *words):
    """Each in a packet of its own, and the answers unread."""
    with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(0.2)
        for word in words:
            connection.sendall(word)
            try:
                connection.recv(65_536)
            except TimeoutError:
                pass
