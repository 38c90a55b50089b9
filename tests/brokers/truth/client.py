"""pika, with a log of everything that it does and sees."""

import collections
import ipaddress
import os
import time

import pika
import pika.exceptions

Delivery = collections.namedtuple("Delivery", "key chan tag queue redelivered headers body properties routing_key exchange")


class Timeout(Exception):
    """What a scenario waited for did not come."""


class Client:
    """One connection. Use as a context manager; `wait` runs it until something is true."""

    def __init__(self, stage, vhost="/", name=None, heartbeat=0, frame_max=None):
        self.stage, self.log = stage, stage.log
        parameters = pika.URLParameters(stage.url(vhost))
        parameters.heartbeat = heartbeat
        if frame_max:
            parameters.frame_max = frame_max
        parameters.client_properties = {"connection_name": name or f"{stage.prefix}.client"}
        self.vhost, self.severed = vhost, False
        with stage.broker.reach():
            self.connection = pika.BlockingConnection(parameters)
        self.socket = self.connection._impl._transport._sock
        self.port = self.socket.getsockname()[1]
        self.channels, self._incarnations = [], collections.Counter()
        self.log.add("note", text="connected", port=self.port, pid=os.getpid(), vhost=vhost,
                     client=plain(self.socket.getsockname()[0]), server=plain(self.socket.getpeername()[0]))

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.close()

    def channel(self, number=None):
        """Opens a channel."""
        opened = Channel(self, self.connection.channel(number))
        self.channels.append(opened)
        return opened

    def incarnation(self, number):
        """How often this channel number had been opened before."""
        self._incarnations[number] += 1
        return self._incarnations[number] - 1

    def wait(self, until=None, seconds=20.0):
        """Processes what arrives until `until()` is true, or just for some seconds without it."""
        deadline = time.monotonic() + seconds
        while not (until and until()):
            self.connection.process_data_events(time_limit=min(0.02, seconds))
            if time.monotonic() > deadline:
                if until and not until():
                    raise Timeout(f"{self.stage.prefix}: waited {seconds} s in vain")
                return

    def close(self, exclusive=()):
        """An orderly connection.close, unless it is over already: what is outstanding comes again. `exclusive`: queues that
        end with it."""
        if self.severed or not self.connection.is_open:
            return
        for channel in self.channels:
            channel.ended("channel_closed")
        self.deleted(exclusive)
        self.connection.close()

    def deleted(self, queues):
        """Writes down that queues are no more."""
        for queue in queues:
            self.log.add("deleted", queue=queue)

    def sever(self, exclusive=(), unused=()):
        """The socket is closed without a word; with unread data in it the kernel sends a reset. `exclusive`: queues that end
        with it; `unused`: those of which it has the last consumers."""
        self.deleted(exclusive)
        for channel in self.channels:
            channel.ended("connection_lost", unused)
        self.deleted(unused)
        self.log.add("event", name="connection_lost", chan=self.channels[0].chan)
        self.severed = True
        self.socket.close()


def plain(address):
    """An address as lines have it: IPv4 also where the socket is one of IPv6."""
    parsed = ipaddress.ip_address(address)
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


class Channel:
    """One channel. Deliveries go to `seen`, and to the callback of their consumer if it has one."""

    def __init__(self, client, channel):
        self.client, self.log, self.stage = client, client.log, client.stage
        self.pika, self.impl = channel, channel._impl
        number = channel.channel_number
        self.chan = f"{client.port}/{number}/{client.incarnation(number)}"
        self.seen, self.outstanding = [], {}
        self.unconfirmed, self.confirmed, self.refused, self.returned = {}, [], [], []
        self.last_queue, self._tag, self._open, self._tx, self._settled = None, 0, True, None, []
        self.confirming = False

    # Topology

    def queue(self, part, fate=None, name=None, **options):
        """Declares a queue. `fate` says what becomes of what is rejected from it."""
        name = self.stage.name(part) if name is None else name
        passive = options.get("passive", False)
        got = self.pika.queue_declare(name, **options).method
        if not passive:
            self.log.add("queue", queue=got.queue, fate=fate)
        return got.queue

    def exchange(self, part, kind, **options):
        """Declares an exchange."""
        name = self.stage.name(part)
        self.pika.exchange_declare(name, kind, **options)
        return name

    def bind(self, queue, exchange, key="", arguments=None):
        """Binds a queue."""
        self.pika.queue_bind(queue, exchange, key, arguments)

    # Publishing

    def confirms(self):
        """Puts the channel into confirm mode; confirms are counted as they come."""
        self.confirming = True
        done = []
        self.impl.confirm_delivery(self._on_confirm, callback=done.append)
        self.client.wait(lambda: done)
        self.impl.add_on_return_callback(self._on_return)

    def returns(self):
        """Listens for returns on a channel without confirms."""
        self.impl.add_on_return_callback(self._on_return)

    def publish(self, n, queue=None, exchange="", key="", mandatory=False, size=None, flush=True, body=None,
                republished=False, **properties):
        """Publishes message `n` of the scenario, and returns its key."""
        label, identifier, payload = self.stage.message(n, size, body, properties.get("headers"))
        if "message_id" not in properties and identifier:
            properties["message_id"] = identifier
        rk = queue if queue is not None else key
        self._tag += 1
        if self.confirming:
            self.unconfirmed[self._tag] = label
        self.log.add("publish", key=label, id=properties.get("message_id"), exchange=exchange, rk=rk,
                     mandatory=mandatory, size=len(payload), chan=self.chan, tx=self._tx, confirms=self.confirming, republished=republished)
        self.impl.basic_publish(exchange, rk, payload, pika.BasicProperties(**properties), mandatory)
        if flush:
            self.flush()
        return label

    def flush(self):
        """Hands everything written so far to the socket."""
        self.client.connection._flush_output()

    def wait_confirms(self):
        """Waits until nothing is unconfirmed."""
        self.client.wait(lambda: not self.unconfirmed)

    def _on_confirm(self, frame):
        method = frame.method
        tags = [tag for tag in sorted(self.unconfirmed) if tag == method.delivery_tag or
                (method.multiple and tag < method.delivery_tag)]
        for tag in tags:
            key = self.unconfirmed.pop(tag)
            if method.NAME == "Basic.Ack":
                self.confirmed.append(key)
                self.log.add("confirm", key=key, multiple=method.multiple)
            else:
                self.refused.append(key)
                self.log.add("refuse", key=key, multiple=method.multiple)

    def _on_return(self, _channel, method, properties, body):
        key = self.stage.key(properties, body)
        self.returned.append(key)
        self.log.add("returned", key=key, code=method.reply_code)

    # Consuming

    def consume(self, queue, on=None, auto=False, prefetch=None, tag=None, **options):
        """Starts a consumer; `on(delivery)` is called for each delivery."""
        if prefetch is not None:
            self.pika.basic_qos(prefetch_count=prefetch)
        tag = tag or f"{self.stage.prefix}.ctag-{self.client.port}-{len(self.seen)}-{time.monotonic_ns() % 100000}"

        def arrived(_channel, method, properties, body):
            delivery = self._delivered(method, properties, body, queue, auto, ctag=method.consumer_tag)
            if on:
                on(delivery)

        return self.pika.basic_consume(queue, arrived, auto_ack=auto, consumer_tag=tag, **options)

    def get(self, queue, auto=False):
        """basic.get: a delivery, or None if the queue is empty."""
        method, properties, body = self.pika.basic_get(queue, auto_ack=auto)
        if method is None:
            return None
        return self._delivered(method, properties, body, queue, auto, get=True)

    def _delivered(self, method, properties, body, queue, auto, ctag=None, get=False):
        headers = properties.headers or {}
        key = self.stage.key(properties, body)
        delivery = Delivery(key, self.chan, method.delivery_tag, queue, method.redelivered, headers, body, properties,
                            method.routing_key, method.exchange)
        self.log.add("deliver", key=key, id=properties.message_id, queue=queue, chan=self.chan, tag=method.delivery_tag,
                     ctag=ctag, redelivered=method.redelivered, exchange=method.exchange, rk=method.routing_key,
                     auto=auto, get=get, read=True,
                     deaths=[[d["queue"], d["reason"], d["count"]] for d in headers.get("x-death", [])],
                     counts=headers.get("x-delivery-count"), offset=headers.get("x-stream-offset"))
        if not auto:
            self.outstanding[method.delivery_tag] = delivery
        self.seen.append(delivery)
        return delivery

    # Settling

    def ack(self, delivery, multiple=False):
        """basic.ack."""
        self._settle("ack", delivery, multiple=multiple)
        self.pika.basic_ack(getattr(delivery, "tag", delivery), multiple)

    def nack(self, delivery, requeue, multiple=False):
        """basic.nack."""
        self._settle("nack", delivery, requeue, multiple)
        self.pika.basic_nack(getattr(delivery, "tag", delivery), multiple, requeue)

    def reject(self, delivery, requeue):
        """basic.reject."""
        self._settle("reject", delivery, requeue)
        self.pika.basic_reject(delivery.tag, requeue)

    def _settle(self, how, delivery, requeue=None, multiple=False):
        tag = getattr(delivery, "tag", delivery)
        tags = [t for t in sorted(self.outstanding) if t == tag or (multiple and (t < tag or tag == 0))]
        tags = [t for t in tags if t not in self._settled]
        if not tags:
            return
        self.log.add("settle", chan=self.chan, tags=tags, how=how, requeue=requeue, multiple=multiple, tx=self._tx)
        if self._tx is None:
            for settled in tags:
                del self.outstanding[settled]
        else:
            self._settled += tags

    def recover(self):
        """basic.recover with requeue: everything outstanding comes again, but what a transaction has settled."""
        self.log.add("recover", chan=self.chan)
        self.outstanding = {tag: self.outstanding[tag] for tag in self._settled}
        self.pika.basic_recover(requeue=True)

    def cancel(self, tag):
        """basic.cancel."""
        self.log.add("event", name="consumer_cancelled", chan=self.chan)
        self.pika.basic_cancel(tag)

    # Transactions

    @property
    def transactional(self):
        """Whether nothing counts before a commit."""
        return self._tx is not None

    def is_decided(self, delivery):
        """Whether the transaction has settled a delivery, so that nothing may again before it ends."""
        return delivery.tag in self._settled

    def tx(self):
        """tx.select."""
        self._tx = 1
        self.pika.tx_select()

    def commit(self):
        """tx.commit."""
        self.log.add("commit", chan=self.chan, tx=self._tx)
        self._tx += 1
        for settled in self._settled:
            self.outstanding.pop(settled, None)
        self._settled = []
        self.pika.tx_commit()

    def rollback(self):
        """tx.rollback."""
        self.log.add("rollback", chan=self.chan, tx=self._tx)
        self._tx += 1
        self._settled = []
        self.pika.tx_rollback()

    # Ends

    def close(self):
        """channel.close by the client. pika cancels its consumers before."""
        self.ended("channel_closed")
        self.pika.close()

    def leave(self, unused=()):
        """channel.close by the client, which alone ends its consumers; `unused`: queues of which they are the last."""
        self.ended("channel_closed", unused)
        self.client.deleted(unused)
        self.impl.close()
        self.client.wait(lambda: self.impl.is_closed)

    def ended(self, reason, unused=()):
        """Writes down that the channel is over, once, before it is."""
        if self._open:
            self._open = False
            self.log.add("ended", chan=self.chan, reason=reason, unused=list(unused))

    def broken(self, code):
        """Waits until the broker has closed the channel with this code."""
        self.ended("channel_closed")
        self.closed_with(code)

    def blunder(self, tag=7777):
        """Acknowledges what never was: the broker closes the channel, and what is outstanding comes again."""
        self.log.add("event", name="settle_failed", code=406, chan=self.chan, tag=tag)
        self.pika.basic_ack(tag)
        self.broken(406)

    def closed_with(self, code):
        """The same, where something else than the close says why deliveries failed."""
        try:
            self.client.wait(lambda: not self.pika.is_open)
        except pika.exceptions.ChannelClosedByBroker as closed:
            assert closed.reply_code == code, closed
        self.log.add("event", name="channel_closed", code=code, chan=self.chan)
