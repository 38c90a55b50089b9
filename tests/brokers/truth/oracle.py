"""tshark as a second witness: the methods that crossed a broker's port, counted without a line of acktrail's code."""

import collections
import re
import subprocess
import time

from .places import spawn, stop

class Capture:
    """Writes what crosses ports of the loopback interface into a pcapng file."""

    def __init__(self, path, *ports):
        self.path = path
        chosen = " or ".join(f"tcp port {port}" for port in ports)
        self.process = spawn(["dumpcap", "-q", "-i", "lo", "-B", "256", "-f", chosen, "-w", str(path)],
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
    """Counts of (connection, channel, class, method, sender): connections are numbered in the order in which they begin,
    the sender is `client` or `broker`."""
    # Two cores may hand packets of one direction to the capture in the wrong order, also on the loopback interface.
    command = ["tshark", "-r", str(path), "-d", f"tcp.port=={port},amqp", "-o", "tcp.reassemble_out_of_order:TRUE",
               "-Y", "amqp.method.class", "-T", "pdml"]
    counts = collections.Counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    show = re.compile(r'name="(tcp\.srcport|tcp\.stream|amqp\.channel|amqp\.method\.class|amqp\.method\.method)"'
                      r'.*?show="(\d+)"')
    at = {}
    for line in process.stdout:
        found = show.search(line)
        if not found:
            continue
        name, at[name] = found.group(1), int(found.group(2))
        if name == "amqp.method.method":
            sender = "broker" if at["tcp.srcport"] == port else "client"
            counts[at["tcp.stream"], at["amqp.channel"], at["amqp.method.class"], at[name], sender] += 1
    if process.wait() != 0:
        raise RuntimeError(f"tshark could not read {path}")
    return counts
