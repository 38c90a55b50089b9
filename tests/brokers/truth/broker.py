"""A RabbitMQ of one's own: free ports of 127.0.0.1, a directory of its own, nothing left behind.

    python -m truth.broker [--version 3.10|4] [--directory DIR]      runs one until interrupted
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time
import urllib.request

from .places import WORK, free_port, inside, spawn, stop

VERSIONS = ("3.10", "4")
DEBIAN = pathlib.Path("/usr/lib/rabbitmq")
VHOSTS = ("/", "orders")


class Broker:
    """Use as a context manager. `port` is where AMQP is spoken; `counters()` is what the broker itself has counted.
    `netns` and `listen`: in a network namespace of its own it may listen on more than 127.0.0.1. `address`: and there other
    nodes find it, if it can be one of a cluster; all of them use the first one's `epmd_port`."""

    def __init__(self, version="3.10", directory=None, counters=True, policies=(), netns=None, listen="127.0.0.1", address=None,
                 epmd_port=None):
        assert netns or (listen, address) == ("127.0.0.1", None), "nobody but this machine may reach a test's broker"
        self.version, self.netns, self.listen = version, netns, listen
        self.directory = pathlib.Path(directory or WORK / f"broker-{version}-{os.getpid()}").resolve()
        self.port, self.epmd_port, self.address = free_port(), epmd_port or free_port(), address
        self.dist_port = self.port + 20_000 if address else free_port()
        self.metrics_port = free_port() if counters else None
        self.policies = list(policies)
        self.node = f"acktrail{self.port}@{address or 'localhost'}"
        self.chroot = (WORK / "rabbitmq4").resolve() if version == "4" else None
        self.process = self.epmd = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def start(self):
        """Starts and waits until the port answers."""
        self._prepare()
        self._run()
        return self

    def _run(self):
        with open(self.directory / "out", "ab") as out, self.reach():
            if self.epmd is None:
                self.epmd = spawn(self._chrooted(["epmd", "-port", str(self.epmd_port), "-address", self.address or "127.0.0.1"]),
                                  env=self._environment(), stdout=out, stderr=out)
            self.process = spawn(self._chrooted([self._sbin("rabbitmq-server")]), env=self._environment(),
                                 stdout=out, stderr=out)
            for port in filter(None, (self.port, self.metrics_port)):
                self._await(port)

    def restart(self):
        """Ends at once, without a word, and starts again with what it had on disk."""
        stop(self.process, how=signal.SIGKILL)
        self._run()

    def reach(self):
        """A context in which sockets reach it."""
        return inside(self.netns)

    def _data(self):
        """Its directory as it sees it."""
        return pathlib.Path("/data") if self.chroot else self.directory

    def stop(self):
        """Ends the broker and its epmd, and removes its data (the logs stay)."""
        for process in (self.process, self.epmd):
            if process:
                # The broker has nothing worth saving, and its orderly stop takes seconds.
                stop(process, how=signal.SIGKILL)
        self.process = self.epmd = None
        for part in ("mnesia", "home"):
            shutil.rmtree(self.directory / part, ignore_errors=True)

    def url(self, vhost="/"):
        """For clients that want a URL."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{vhost.replace('/', '%2f')}"

    def ctl(self, *words):
        """Runs rabbitmqctl on this broker and returns what it said (takes seconds: it is an Erlang node of its own)."""
        with self.reach():
            done = subprocess.run(self._chrooted([self._sbin("rabbitmqctl"), "-q", "-n", self.node, *words]),
                                  env=self._environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"rabbitmqctl {' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def counters(self):
        """The broker's global counters for AMQP 0-9-1, name → value; those per queue type are summed."""
        with self.reach(), urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        totals = {}
        for line in text.splitlines():
            if line.startswith("rabbitmq_global_"):
                name, value = line.rsplit(" ", 1)
                name = name.partition("{")[0].removeprefix("rabbitmq_global_").removesuffix("_total")
                totals[name] = totals.get(name, 0) + int(float(value))
        return totals

    def pid(self):
        """The process id of the Erlang node, the one that owns the sockets."""
        return self.process.pid

    def _prepare(self):
        if self.version == "3.10" and not (DEBIAN / "bin/rabbitmq-server").exists():
            raise RuntimeError("RabbitMQ is not installed: make deps")
        if self.chroot and not (self.chroot / "usr/sbin/rabbitmq-server").exists():
            raise RuntimeError("the chroot of RabbitMQ 4 is missing: make deps")
        if self.chroot and os.geteuid() != 0:
            raise RuntimeError("RabbitMQ 4 runs in a chroot: this needs root")
        shutil.rmtree(self.directory, ignore_errors=True)
        for part in ("mnesia", "log", "home"):
            (self.directory / part).mkdir(parents=True)
        if self.chroot:
            (self.chroot / "data").mkdir(exist_ok=True)
        cookie = self.directory / "home" / ".erlang.cookie"
        cookie.write_text("acktrail's tests")
        cookie.chmod(0o400)
        (self.directory / "plugins").write_text("[rabbitmq_prometheus].\n" if self.metrics_port else "[].\n")
        lines = [f"load_definitions = {self._data()}/definitions.json", "log.file.level = warning"]
        if self.netns:
            # Else guest may come from loopback addresses only.
            lines += ["loopback_users = none"]
        if self.metrics_port:
            lines += ["prometheus.tcp.ip = 127.0.0.1", f"prometheus.tcp.port = {self.metrics_port}"]
        (self.directory / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (self.directory / "definitions.json").write_text(json.dumps({
            "users": [{"name": "guest", "password": "guest", "tags": "administrator"}],
            "vhosts": [{"name": name} for name in VHOSTS],
            "permissions": [{"user": "guest", "vhost": name, "configure": ".*", "write": ".*", "read": ".*"}
                            for name in VHOSTS],
            "policies": [{"vhost": "/", "apply-to": "queues", "priority": 0, **policy} for policy in self.policies],
        }))

    def _environment(self):
        inside = self._data()
        return {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": f"{inside}/home", "LANG": "C.UTF-8",
            "RABBITMQ_NODENAME": self.node, "RABBITMQ_NODE_IP_ADDRESS": self.listen,
            "RABBITMQ_NODE_PORT": str(self.port), "RABBITMQ_DIST_PORT": str(self.dist_port),
            "ERL_EPMD_PORT": str(self.epmd_port), "ERL_EPMD_ADDRESS": self.address or "127.0.0.1",
            "RABBITMQ_USE_LONGNAME": "true" if self.address else "false",
            "ERL_CRASH_DUMP": f"{inside}/erl_crash.dump",
            "RABBITMQ_MNESIA_BASE": f"{inside}/mnesia", "RABBITMQ_LOG_BASE": f"{inside}/log",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{inside}/plugins", "RABBITMQ_CONFIG_FILE": f"{inside}/rabbitmq.conf",
            # The start script then becomes the Erlang node instead of watching it: one process, which ends with this one.
            "RUNNING_UNDER_SYSTEMD": "true",
            # Without it the distribution port listens on every address.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS":
                f"-kernel inet_dist_use_interface {{{(self.address or '127.0.0.1').replace('.', ',')}}}",
        }

    def _sbin(self, name):
        if not self.chroot:
            return str(DEBIAN / "bin" / name)
        tree = next((self.chroot / "usr/lib/rabbitmq/lib").glob("rabbitmq_server-*"))
        return f"/usr/lib/rabbitmq/lib/{tree.name}/sbin/{name}"

    def _chrooted(self, command):
        """The command as it is, or in the chroot: in a mount namespace of its own, so that nothing stays mounted."""
        if not self.chroot:
            return command
        script = 'mount -t proc proc "$1/proc" && mount --bind "$2" "$1/data" && root=$1 && shift 2 && exec chroot "$root" "$@"'
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh",
                str(self.chroot), str(self.directory), *command]

    def _await(self, port, patience=180):
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.05)
        said = (self.directory / "out").read_text(errors="replace")[-2000:]
        self.stop()
        raise RuntimeError(f"RabbitMQ {self.version} did not come up on port {port}:\n{said}")


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--version", choices=VERSIONS, default="3.10")
    options.add_argument("--directory")
    chosen = options.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    began = time.monotonic()
    with Broker(chosen.version, chosen.directory) as broker:
        print(f"RabbitMQ {chosen.version}: AMQP {broker.url()}, counters http://127.0.0.1:{broker.metrics_port}/metrics "
              f"({time.monotonic() - began:.1f} s)", flush=True)
        try:
            broker.process.wait()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
