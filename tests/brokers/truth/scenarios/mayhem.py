"""Clients that do whatever comes to their minds, several at once: a random walk through everything that the other scenarios do
one at a time. The walks are the same in every run; `TRUTH_SEED="4 5"` adds others, `TRUTH_STEPS` makes them longer."""

import os
import random
import time

from ..stage import scenario
from .dead_letters import dead_letter_pair, republish, retry_loop

SEEDS = [1, 2, 3]
STEPS = int(os.environ.get("TRUTH_STEPS", "90"))
MOST_CLIENTS = 5
# Long enough for what waits to be tried again.
QUIET = 0.03


class Walk:
    """One walk: its queues, its clients, and what is open."""

    def __init__(self, s, seed):
        self.s, self.rng, self.count = s, random.Random(seed), 0
        self.channels, self.consumers, self.parked = [], {}, set()
        self.publisher = s.client().channel()
        self.publisher.confirms()
        work, dead = dead_letter_pair(s, self.publisher)
        quorum, _ = dead_letter_pair(s, self.publisher, part="quorum", **{"x-queue-type": "quorum"})
        retried, _ = retry_loop(s, self.publisher, ttl=10, part="tried")
        self.parking = self.publisher.queue("parking", {"drop": True})
        plain = self.publisher.queue("plain", {"drop": True})
        self.fan = self.publisher.exchange("fan", "fanout")
        copies = [self.publisher.queue(f"copy{n}", {"drop": True}) for n in range(2)]
        for copy in copies:
            self.publisher.bind(copy, self.fan)
        self.targets = [plain, work, quorum, retried]
        self.queues = [*self.targets, *copies, dead, self.parking]
        self.open()
        self.actions = [getattr(self, name) for name in ACTIONS for _ in range(ACTIONS[name])]

    def quiet(self):
        """Until nothing is on its way any more: what a client has not read when it ends, nobody would know of."""
        still, known = time.monotonic() + QUIET, None
        while time.monotonic() < still:
            clients = {channel.client for channel in self.channels}
            for client in clients:
                client.connection.process_data_events(time_limit=0.002)
            seen = sum(len(channel.seen) for channel in self.channels)
            if seen != known:
                still, known = time.monotonic() + QUIET, seen

    def go(self):
        """All steps, and an orderly end."""
        for _ in range(STEPS):
            self.rng.choice(self.actions)()
            self.quiet()
        # One after another: what one gives back another may get.
        while self.channels:
            self.hang_up()
            self.quiet()

    # What a step can be

    def publish(self):
        for _ in range(self.rng.randint(1, 6)):
            self.count += 1
            if self.rng.random() < 0.2:
                self.publisher.publish(self.count, exchange=self.fan, key="any")
            else:
                self.publisher.publish(self.count, self.rng.choice(self.targets))
        self.publisher.wait_confirms()

    def publish_nowhere(self):
        self.count += 1
        self.publisher.publish(self.count, self.s.name("nowhere"), mandatory=True)
        self.publisher.wait_confirms()

    def open(self):
        clients = list({channel.client.port: channel.client for channel in self.channels}.values())
        fresh = not clients or (len(clients) < MOST_CLIENTS and self.rng.random() < 0.6)
        client = self.s.client() if fresh else self.rng.choice(clients)
        if len(client.channels) < 40:
            self.channels.append(client.channel())
            if self.rng.random() < 0.15:
                self.channels[-1].tx()

    def consume(self):
        if not self.channels or self.rng.random() < 0.2:
            self.open()
        channel = self.rng.choice(self.channels)
        auto = self.rng.random() < 0.15
        tag = channel.consume(self.rng.choice(self.queues), auto=auto, prefetch=self.rng.randint(1, 6))
        self.consumers[tag] = channel

    def cancel(self):
        if self.consumers:
            tag = self.rng.choice(list(self.consumers))
            self.consumers.pop(tag).cancel(tag)

    def get(self):
        if self.channels:
            self.rng.choice(self.channels).get(self.rng.choice(self.queues), auto=self.rng.random() < 0.3)

    def one(self):
        """A delivery in somebody's hands, with its channel."""
        held = [(channel, delivery) for channel in self.channels for delivery in channel.outstanding.values()
                if not channel.is_decided(delivery)]
        return self.rng.choice(held) if held else (None, None)

    def decide(self, channel):
        """Commits, where the channel has transactions. No rollback: who joins amid one cannot know that there will be one."""
        if channel and channel.transactional:
            channel.commit()

    def ack(self):
        channel, delivery = self.one()
        if channel:
            channel.ack(delivery, multiple=self.rng.random() < 0.3)
        self.decide(channel)

    def requeue(self):
        self.refuse(requeue=True)

    def refuse(self, requeue=False):
        channel, delivery = self.one()
        if channel and self.rng.random() < 0.5:
            channel.nack(delivery, requeue=requeue, multiple=self.rng.random() < 0.3)
        elif channel:
            channel.reject(delivery, requeue=requeue)
        self.decide(channel)

    def park(self):
        channel, delivery = self.one()
        # Copies of several deliveries of one message would be twins.
        if channel and not delivery.headers and delivery.key not in self.parked:
            self.parked.add(delivery.key)
            republish(channel, delivery, self.parking)
            channel.ack(delivery)
            self.decide(channel)

    def recover(self):
        if self.channels:
            self.rng.choice(self.channels).recover()

    def forget(self, gone):
        """These channels are no more."""
        self.channels = [channel for channel in self.channels if channel not in gone]
        self.consumers = {tag: channel for tag, channel in self.consumers.items() if channel not in gone}

    def leave(self):
        if self.channels:
            channel = self.rng.choice(self.channels)
            self.forget([channel])
            # Not by pika's own close, which gives back on its way what nobody has seen.
            channel.leave()

    def blunder(self):
        if self.channels:
            channel = self.rng.choice(self.channels)
            self.forget([channel])
            channel.blunder()

    def hang_up(self):
        if self.channels:
            client = self.rng.choice(self.channels).client
            mine = [channel for channel in self.channels if channel.client is client]
            self.forget(mine)
            # pika closes channel by channel: what the first gives back the next would get.
            self.rng.choice([client.close, client.sever] if len(mine) == 1 else [client.sever])()


ACTIONS = {"publish": 10, "publish_nowhere": 1, "open": 3, "consume": 5, "cancel": 1, "get": 2, "ack": 8, "requeue": 4,
           "refuse": 4, "park": 2, "recover": 1, "leave": 1, "blunder": 1, "hang_up": 1}


def walk(seed):
    """A scenario."""

    def mayhem(s):
        Walk(s, seed).go()

    mayhem.__name__ = f"mayhem_{seed}"
    return mayhem


for number in [*SEEDS, *map(int, os.environ.get("TRUTH_SEED", "").split())]:
    scenario(ids=(True,))(walk(number))
