"""A consumer or producer as a process of its own, to be killed: python -m truth.child PREFIX LOG PORT consume|publish QUEUE COUNT

Prints a line when it has seen, or published, COUNT messages, and then only waits.
"""

import contextlib
import pathlib
import sys

from .client import Client
from .stage import Stage


class Port:
    """As much of a broker as a client needs."""

    def __init__(self, port):
        self.port = port

    def url(self, vhost="/"):
        """Where it is."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{vhost.replace('/', '%2f')}"

    def reach(self):
        """From where one is."""
        return contextlib.nullcontext()


def main():
    prefix, log, port, verb, queue, count = sys.argv[1:]
    stage = Stage.joined(Port(int(port)), prefix, pathlib.Path(log))
    client = Client(stage, name=f"{prefix}.child")
    channel = client.channel()
    if verb == "publish":
        for n in range(int(count)):
            channel.publish(n, queue)
        # The broker has read all of it when it answers.
        channel.queue("probe", passive=True, name=queue)
        print(channel.chan, flush=True)
        client.wait(seconds=600)
    channel.consume(queue, prefetch=int(count))
    client.wait(lambda: len(channel.seen) == int(count))
    print(channel.chan, flush=True)
    client.wait(seconds=600)


if __name__ == "__main__":
    main()
