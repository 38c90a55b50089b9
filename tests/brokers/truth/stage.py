"""What a scenario runs on: its names, its messages, its clients, and the registry of all scenarios."""

import hashlib
import json
import subprocess
import sys

from .client import Client, Timeout  # noqa: F401  (scenarios catch it)
from .log import Log
from .places import REPOSITORY, WORK, spawn

SCENARIOS = {}


def scenario(brokers=("3.10", "4"), ids=(True, False)):
    """Registers a function as a scenario: for these brokers, with and without message ids."""

    def register(function):
        name = function.__name__.replace("_", "-")
        SCENARIOS[name] = (function, brokers, ids)
        return function

    return register


class Stage:
    """One run of one scenario. All its names begin with its prefix, so that its traffic can be told from every other."""

    def __init__(self, broker, directory, name, ids, suffix=""):
        prefix = f"{name}{suffix}.{'id' if ids else 'anon'}"
        path = directory / f"{prefix}.truth.jsonl"
        path.unlink(missing_ok=True)
        self._attach(broker, prefix, path)

    @classmethod
    def joined(cls, broker, prefix, path):
        """The same scenario, in another process."""
        stage = cls.__new__(cls)
        stage._attach(broker, prefix, path)
        return stage

    def _attach(self, broker, prefix, path):
        self.broker, self.prefix, self.path = broker, prefix, path
        self.ids = prefix.endswith(".id")
        self.log = Log(path, prefix)
        self._bodies, self._traces, self._clients = {}, {}, []

    def url(self, vhost="/"):
        """Where the broker is."""
        return self.broker.url(vhost)

    def name(self, part):
        """A name of this scenario's own."""
        return f"{self.prefix}.{part}"

    def client(self, **options):
        """A connection; closed at the end of the scenario if it still is open."""
        client = Client(self, **options)
        self._clients.append(client)
        return client

    def message(self, n, size=None, body=None, headers=None):
        """Key, message id (or None) and body of the scenario's message `n`; the same `n` is the same message."""
        key = f"{self.prefix}/{n}"
        if body is None:
            text = f"{key}|".encode()
            if size is None:
                body = text + b"." * (7 * (hash_of(key) % 40))
            elif size < len(text):
                body = b"#" * size
            else:
                body = text + filler(key, size - len(text))
        self._bodies[body if len(body) < 200 else hashlib.sha256(body).digest()] = key
        if headers and "traceparent" in headers:
            self._traces[headers["traceparent"]] = key
        return key, (key if self.ids else None), body

    def key(self, properties, body):
        """The key of a message that arrived."""
        if properties.message_id and properties.message_id.startswith(self.prefix):
            return properties.message_id
        trace = (properties.headers or {}).get("traceparent")
        if trace in self._traces:
            return self._traces[trace]
        known = self._bodies.get(body if len(body) < 200 else hashlib.sha256(body).digest())
        return known or body.split(b"|", 1)[0].decode()

    def child(self, *words, **options):
        """Another Python process of this package that writes to the same truth log."""
        command = [sys.executable, "-m", "truth.child", self.prefix, str(self.path), str(self.broker.port), *words]
        return spawn(command, cwd=REPOSITORY / "tests/brokers", stdout=subprocess.PIPE, text=True, **options)

    def foreign(self, program, *words):
        """A client in another language: its lines go into the truth log, as it prints them. Fails if it fails."""
        # Without PerfTest's logging library, which writes to standard output.
        jars = [str(jar) for name in ("amqp-client", "slf4j-api") for jar in (WORK / "perftest").glob(f"{name}-*.jar")]
        commands = {
            "java": ["java", "-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp", ":".join([f"{WORK}/clients/java", *jars]),
                     "TruthClient"],
            "go": [str(WORK / "clients/truth-go")],
            "lapin": [str(WORK / "clients/truth-lapin")],
        }
        done = subprocess.run([*commands[program], self.url(), self.prefix, "ids" if self.ids else "anon", *words],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            raise RuntimeError(f"{program} client: {done.stderr.strip()[-1000:] or done.returncode}")
        for line in done.stdout.splitlines():
            fields = json.loads(line)
            self.log.add(fields.pop("op"), **fields)

    def close(self):
        """Ends the clients that are left, and the log."""
        for client in self._clients:
            client.close()
        self.log.close()


def hash_of(text):
    """A small number that is the same in every run."""
    return hashlib.sha256(text.encode()).digest()[0]


def filler(key, size):
    """Bytes that no other message has, among them many that look like the protocol's frame ends."""
    block = hashlib.sha512(key.encode()).digest() + b"\xce\x01\x00\x01\xce"
    return (block * (size // len(block) + 1))[:size]
