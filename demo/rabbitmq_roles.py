"""The programs of the demonstration's shop: ordinary pika clients that know nothing of acktrail.

    python rabbitmq_roles.py ROLE URL SECONDS

Each prints what it did, in numbers, as one JSON object when it ends.
"""

import collections
import json
import random
import sys
import time

import pika


DID = collections.Counter()


def shop(channel, until):
    """Publishes eight orders a second, confirmed; every twelfth goes to a country that nobody ships to."""
    channel.confirm_delivery()
    n = 0
    while time.monotonic() < until:
        n += 1
        country = "atlantis" if n % 12 == 0 else random.choice(["de", "fr", "us"])
        try:
            channel.basic_publish("orders", country, f"order {n} to {country}".encode() + b"." * random.randrange(900),
                                  pika.BasicProperties(message_id=f"order-{n}"), mandatory=True)
            DID["confirmed"] += 1
        except pika.exceptions.UnroutableError:
            DID["returned"] += 1
        DID["published"] += 1
        channel.connection.sleep(0.125)


def billing(channel, method, properties, _body):
    """Acknowledges most; gives some back once; cannot make sense of every ninth."""
    n = number(properties)
    if n % 9 == 0:
        reject(channel, method)
    elif n % 5 == 0 and not method.redelivered:
        channel.basic_nack(method.delivery_tag, requeue=True)
        DID["requeued"] += 1
    else:
        acknowledge(channel, method)


def shipping(channel, method, properties, _body):
    """Every fourth parcel has to wait and try again, twice, by way of a queue where messages expire."""
    deaths = (properties.headers or {}).get("x-death", [])
    tries = sum(death["count"] for death in deaths if death["queue"] == "shipping")
    if number(properties) % 4 == 0 and tries < 2:
        reject(channel, method)
    else:
        acknowledge(channel, method)


def mail(channel, method, _properties, _body):
    """Slow: half a second for each."""
    channel.connection.sleep(0.5)
    acknowledge(channel, method)


def audit(*_):
    """Whatever comes is acknowledged by being sent."""
    DID["acknowledged"] += 1


def acknowledge(channel, method):
    """It is done."""
    channel.basic_ack(method.delivery_tag)
    DID["acknowledged"] += 1


def reject(channel, method):
    """It will never be done here."""
    channel.basic_reject(method.delivery_tag, requeue=False)
    DID["rejected"] += 1


def number(properties):
    """Of an order."""
    return int(properties.message_id.rsplit("-", 1)[1])


def declare(channel):
    """The shop's exchange and queues."""
    channel.exchange_declare("orders", "topic")
    channel.queue_declare("billing", arguments=dead_letters_to("billing.dead"))
    channel.queue_declare("billing.dead")
    channel.queue_declare("shipping", arguments=dead_letters_to("shipping.retry"))
    channel.queue_declare("shipping.retry", arguments={"x-message-ttl": 700, **dead_letters_to("shipping")})
    channel.queue_declare("mail")
    channel.queue_declare("audit")
    for country in ("de", "fr", "us"):
        for queue in ("billing", "shipping", "audit"):
            channel.queue_bind(queue, "orders", country)
    channel.queue_bind("mail", "orders", "fr")


def dead_letters_to(queue):
    """Arguments of a queue whose rejected and expired messages go to another."""
    return {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue}


def main():
    role, url, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    parameters = pika.URLParameters(url)
    parameters.client_properties = {"connection_name": role}
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    declare(channel)
    until = time.monotonic() + seconds
    if role == "shop":
        shop(channel, until)
    else:
        automatic = role == "audit"
        work = {"billing": billing, "shipping": shipping, "mail": mail, "audit": audit}[role]
        channel.basic_qos(prefetch_count=4)
        channel.basic_consume(role, work, auto_ack=automatic)
        while time.monotonic() < until:
            connection.process_data_events(time_limit=0.1)
    connection.close()
    print(json.dumps(DID))


if __name__ == "__main__":
    main()
