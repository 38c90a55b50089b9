"""A Kafka of one's own: free ports of 127.0.0.1, a directory of its own, nothing left behind.

    python -m truth.kafka.broker [--version 4|2.8] [--directory DIR]      runs one until interrupted
"""

import argparse
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

from ..places import WORK, alone, free_port, spawn, stop
from .admin import Admin

VERSIONS = ("4", "2.8")
CLUSTER_ID = "YWNrdHJhaWwtdHJ1dGgtMQ"
SECOND_NODE = 2
USER, PASSWORD = "alice", "alice-secret"
# What of a login must be nowhere: the password of PLAIN, what a client of SCRAM says first and last (RFC 5802).
SECRETS = (PASSWORD.encode(), b"n,,n=" + USER.encode(), b"c=biws,r=")
COMMON = {
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": 1,
    "offsets.topic.num.partitions": 4,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "transaction.state.log.num.partitions": 4,
    "group.initial.rebalance.delay.ms": 0,
    "group.min.session.timeout.ms": 1000,
    "log.cleaner.backoff.ms": 100,
    "log.cleaner.dedupe.buffer.size": 16 << 20,
    "log.retention.check.interval.ms": 500,
    "log.initial.task.delay.ms": 500,
    "num.network.threads": 2,
    "num.io.threads": 4,
    "background.threads": 2,
    "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
    # What its own connections speak is part of what passes the watched port.
    "inter.broker.listener.name": "PLAINTEXT",
}
KRAFT = {
    "process.roles": "broker,controller",
    "node.id": 1,
    "controller.listener.names": "CONTROLLER",
    # So long a broker that was killed is not let in again.
    "broker.session.timeout.ms": 3000,
    "broker.heartbeat.interval.ms": 500,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
    "share.coordinator.state.topic.num.partitions": 4,
    "group.consumer.min.session.timeout.ms": 1000,
    "group.consumer.session.timeout.ms": 6000,
    "group.consumer.min.heartbeat.interval.ms": 500,
    "group.consumer.heartbeat.interval.ms": 500,
    "group.share.record.lock.duration.ms": 5000,
    "group.share.min.record.lock.duration.ms": 1000,
    "group.share.min.heartbeat.interval.ms": 500,
    "group.share.heartbeat.interval.ms": 500,
}
ZOOKEEPER = {"broker.id": 1, "zookeeper.session.timeout.ms": 6000}


class KafkaBroker:
    """Use as a context manager. Clients that the agent is to follow come to `port`, or with SASL/PLAIN to `sasl_port`; whoever
    only wants to know the truth comes to `admin_port`, which leads to the same broker and is watched by nobody."""

    def __init__(self, version="4", directory=None, heap="512m", settings=None, quick_start=True, beside=None):
        """`beside`: the first node of the cluster that this one belongs to; that one knows the metadata."""
        self.version, self.beside = version, beside
        # Where topics are put, the preferred leader first; `None`: where the broker wants.
        self.replicas = None
        self.directory = pathlib.Path(directory or WORK / f"kafka-broker-{version}-{os.getpid()}").resolve()
        self.library = WORK / f"kafka-{version}"
        self.port, self.sasl_port, self.admin_port, self.keeper_port = (free_port() for _ in range(4))
        if beside:
            self.keeper_port = beside.keeper_port
        self.heap, self.settings = heap, settings or {}
        # One that lives for a minute never earns back what the second compiler costs.
        self._compilers = ["-XX:TieredStopAtLevel=1"] if quick_start else []
        self.process = self.keeper = self._admin = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.close()

    def start(self):
        """Starts on an empty directory and waits until it answers."""
        self._prepare()
        self._run()
        return self

    def stop(self):
        """Ends it in order; its data stay."""
        self._forget_admin()
        stop(self.process, patience=30)

    def kill(self):
        """Ends it at once, without a word; its data stay."""
        self._forget_admin()
        stop(self.process, how=signal.SIGKILL)

    def restart(self):
        """Starts it again with what it has on disk, after `stop` or `kill`."""
        self._run()

    def close(self):
        """Ends all of it and removes its data; the logs stay."""
        self._forget_admin()
        for process in (self.process, self.keeper):
            if process:
                stop(process, how=signal.SIGKILL)
        self.process = self.keeper = None
        for part in ("data", "keeper", "tmp"):
            shutil.rmtree(self.directory / part, ignore_errors=True)

    @property
    def admin(self):
        """What the broker knows, asked over the port that nobody watches."""
        if self._admin is None:
            self._admin = Admin(f"127.0.0.1:{self.admin_port}")
        return self._admin

    def bootstrap(self, security="plain"):
        """Where clients begin."""
        return f"127.0.0.1:{self.sasl_port if security == 'sasl' else self.port}"

    def pid(self):
        """The process that owns the sockets."""
        return self.process.pid

    def _forget_admin(self):
        if self._admin:
            self._admin.close()
        self._admin = None

    def _java(self, heap, *words):
        # It is killed: what it unpacks (libraries of codecs), and what it tells of itself to others, would stay in /tmp.
        return ["java", f"-Xmx{heap}", "-XX:+UseSerialGC", *self._compilers, "-Xlog:disable", "-XX:-UsePerfData",
                f"-Djava.io.tmpdir={self.directory / 'tmp'}",
                "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dzookeeper.admin.enableServer=false", "-cp",
                f"{self.library}/*", *words]

    def _prepare(self):
        if not any(self.library.glob("kafka_2.13-*.jar")):
            raise RuntimeError(f"Kafka {self.version} is not installed: make deps")
        shutil.rmtree(self.directory, ignore_errors=True)
        (self.directory / "tmp").mkdir(parents=True)
        if self.version == "4":
            shutil.copytree(self._formatted(), self.directory / "data")
            if self.beside:
                self._write("data/meta.properties", {"version": 1, "cluster.id": CLUSTER_ID, "node.id": SECOND_NODE})
        else:
            (self.directory / "keeper").mkdir()
            self._write("zookeeper.properties", {
                "dataDir": self.directory / "keeper", "clientPort": self.keeper_port, "clientPortAddress": "127.0.0.1",
                "tickTime": 1000, "admin.enableServer": "false", "maxClientCnxns": 0})
        self._write("server.properties", self._settings())

    def _settings(self):
        names = {"PLAINTEXT": self.port, "SASL_PLAINTEXT": self.sasl_port, "ADMIN": self.admin_port}
        protocols = {"PLAINTEXT": "PLAINTEXT", "SASL_PLAINTEXT": "SASL_PLAINTEXT", "ADMIN": "PLAINTEXT"}
        advertised = ",".join(f"{name}://127.0.0.1:{port}" for name, port in names.items())
        if self.version == "4":
            own = {**KRAFT, "controller.quorum.voters": f"1@127.0.0.1:{self.keeper_port}"}
            listeners = f"{advertised},CONTROLLER://127.0.0.1:{self.keeper_port}"
            protocols = {**protocols, "CONTROLLER": "PLAINTEXT"}
        else:
            own = {**ZOOKEEPER, "zookeeper.connect": f"127.0.0.1:{self.keeper_port}"}
            listeners = advertised
        if self.beside:
            own |= {"process.roles": "broker", "node.id": SECOND_NODE} if self.version == "4" else {"broker.id": SECOND_NODE}
            listeners = advertised
        login = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
        return {**COMMON, **own, "listeners": listeners, "advertised.listeners": advertised, "log.dirs": self.directory / "data",
                "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
                "listener.name.sasl_plaintext.plain.sasl.jaas.config": login, **self._scram(), **self.settings}

    def _scram(self):
        module = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        return {f"listener.name.sasl_plaintext.scram-sha-{bits}.sasl.jaas.config": module for bits in (256, 512)}

    def _formatted(self):
        """An empty log directory as the format tool leaves it. It names no port, so it is made once and copied."""
        formatted = self.library / "formatted"
        if (formatted / "meta.properties").exists():
            return formatted
        alone(f"kafka-{self.version}")
        shutil.rmtree(formatted, ignore_errors=True)
        self._write("format.properties", {**self._settings(), "log.dirs": formatted})
        done = subprocess.run(self._java("128m", "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c",
                                         str(self.directory / "format.properties")),
                              stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"the log directory could not be formatted: {done.stdout[-1000:]}{done.stderr[-1000:]}")
        return formatted

    def _write(self, name, settings):
        (self.directory / name).write_text("".join(f"{key}={value}\n" for key, value in settings.items()))

    def _run(self):
        deadline = time.monotonic() + 60
        with open(self.directory / "out", "ab") as out:
            if self.version != "4" and self.keeper is None and not self.beside:
                self.keeper = spawn(self._java("128m", "org.apache.zookeeper.server.ZooKeeperServerMain",
                                               str(self.directory / "zookeeper.properties")), stdout=out, stderr=out)
                _await(self.keeper_port, self.keeper, deadline)
            while True:
                self.process = spawn(self._java(self.heap, "kafka.Kafka", str(self.directory / "server.properties")),
                                     stdout=out, stderr=out)
                if _await(self.admin_port, self.process, deadline) and self.admin.ready(self.process, deadline):
                    break
                # ZooKeeper keeps the name of a broker that was killed until its session is over.
                if time.monotonic() > deadline or self.version == "4":
                    tail = (self.directory / "out").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"Kafka {self.version} did not start: {tail}")
        for port in (self.port, self.sasl_port):
            _await(port, self.process, deadline)


def _await(port, process, deadline):
    """Whether the port is open, before the process ends or time is up."""
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(0.05)
    return False


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--version", choices=VERSIONS, default="4")
    options.add_argument("--directory", type=pathlib.Path)
    chosen = options.parse_args()
    began = time.monotonic()
    with KafkaBroker(chosen.version, chosen.directory) as broker:
        print(f"Kafka {chosen.version}: port {broker.port}, SASL/PLAIN {broker.sasl_port}, unwatched {broker.admin_port}, "
              f"in {broker.directory} ({time.monotonic() - began:.1f} s)", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
