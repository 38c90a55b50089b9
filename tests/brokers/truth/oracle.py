"""tshark as a second witness: the methods that crossed a broker's port, counted without a line of acktrail's code."""

import collections
import re
import subprocess
import time

from .places import spawn, stop

CLASSES = {10: "connection", 20: "channel", 30: "access", 40: "exchange", 50: "queue", 60: "basic", 85: "confirm", 90: "tx"}
BASIC = {10: "qos", 11: "qos-ok", 20: "consume", 21: "consume-ok", 30: "cancel", 31: "cancel-ok", 40: "publish",
         50: "return", 60: "deliver", 70: "get", 71: "get-ok", 72: "get-empty", 80: "ack", 90: "reject",
         100: "recover-async", 110: "recover", 111: "recover-ok", 120: "nack"}


class Capture:
    """Writes what crosses a port of the loopback interface into a pcapng file."""

    def __init__(self, port, path):
        self.port, self.path = port, path
        self.process = spawn(["dumpcap", "-q", "-i", "lo", "-B", "256", "-f", f"tcp port {port}", "-w", str(path)],
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 10
        while not (path.exists() and path.stat().st_size):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"dumpcap did not start: {self.process.stderr.read().decode()[-500:]}")
            time.sleep(0.02)
        time.sleep(0.2)

    def stop(self):
        """Ends the capture; returns how many packets it says it dropped."""
        import signal

        stop(self.process, how=signal.SIGINT)
        said = self.process.stderr.read().decode()
        dropped = re.search(r"received/dropped on interface.*: \d+/(\d+)", said)
        return int(dropped.group(1)) if dropped else None


def methods(path, port):
    """Counts of (client port, channel, sender, method): sender is `client` or `broker`."""
    fields = ["tcp.srcport", "tcp.dstport", "amqp.type", "amqp.channel", "amqp.method.class", "amqp.method.method"]
    command = ["tshark", "-r", str(path), "-d", f"tcp.port=={port},amqp", "-o", "tcp.desegment_tcp_streams:TRUE",
               "-Y", "amqp.method.class", "-T", "pdml"]
    del fields
    counts = collections.Counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    show = re.compile(r'name="(tcp\.srcport|tcp\.dstport|amqp\.channel|amqp\.method\.class|amqp\.method\.method|amqp\.method)".*?show="(\d+)"')
    source = target = channel = cls = None
    for line in process.stdout:
        found = show.search(line)
        if not found:
            continue
        name, value = found.group(1), int(found.group(2))
        if name == "tcp.srcport":
            source = value
        elif name == "tcp.dstport":
            target = value
        elif name == "amqp.channel":
            channel = value
        elif name == "amqp.method.class":
            cls = value
        else:
            client, sender = (target, "broker") if source == port else (source, "client")
            method = BASIC.get(value, value) if cls == 60 else value
            counts[(client, channel, sender, f"{CLASSES.get(cls, cls)}.{method}")] += 1
    if process.wait() != 0:
        raise RuntimeError(f"tshark could not read {path}")
    return counts
