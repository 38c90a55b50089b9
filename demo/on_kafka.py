"""The demonstration's shop on Kafka: what there is to tell of it, and what must come out."""

import signal

from truth.kafka.broker import KafkaBroker

from kafka_roles import DEAD, ORDERS, RETRY


class KafkaShop:
    """Two groups read the orders; one of them has a retry topic and a dead-letter topic, of the other a member crashes."""

    name, title, program = "kafka", "Kafka", "kafka_roles.py"
    roles = ("billing", "billing-retry", "support", "shipping-1", "shipping-2", "shop")
    crashes = {"shipping-2": -signal.SIGKILL}
    story = ("shop produces; group billing sends every ninth order to a retry topic, from where every second one becomes a dead "
             "letter, which support reads; group shipping has two members, of which one crashes halfway: what it had not "
             "committed comes again to the other")
    states = ("Confirmed", "Processing", "Acknowledged", "Failed", "Retrying", "DeadLettered")

    def broker(self, directory):
        """One that is not started yet."""
        return KafkaBroker("4", directory, heap="256m")

    def prepare(self, broker):
        """The topics, over a port that the agent does not watch."""
        for topic, partitions in ((ORDERS, 3), (RETRY, 1), (DEAD, 1)):
            broker.admin.create(topic, partitions)

    def address(self, broker):
        """Where the programs find it."""
        return broker.bootstrap()

    def compare(self, did, totals):
        """Words, what the programs did, how that must stand to what acktrail says, and that."""
        billing, retry, crashed = did["billing"], did["billing-retry"], did["shipping-2"]
        shipping = did["shipping-1"] + crashed
        yield "orders produced", did["shop"]["produced"], "=", totals.of("Created", destination=ORDERS)
        yield "confirmed", did["shop"]["confirmed"], "=", totals.of("Confirmed", destination=ORDERS)
        # The copies' originals have another fate than what is committed around them.
        done = billing["committed"] - billing["copied"]
        yield "committed by billing, without what it copied", done, "=", totals.of("Acknowledged", group="billing")
        yield "copied to the retry topic", billing["copied"], "=", totals.of("Retrying", group="billing")
        yield "from there to the dead-letter topic", retry["copied"], "=", totals.of("DeadLettered", group="billing")
        yield "committed by support", did["support"]["committed"], "=", totals.of("Acknowledged", group="support")
        yield "committed by shipping", shipping["committed"], "=", totals.of("Acknowledged", group="shipping")
        # A client library fetches more than it hands to the program, so that more than this comes again.
        yield "in the hands of its member that crashed", crashed["held"], "≤", totals.of("Failed", group="shipping")
        yield "handed to shipping, some twice", shipping["handed"], "≤", totals.of("Dispatched", group="shipping")
