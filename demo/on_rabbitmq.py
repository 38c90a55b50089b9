"""The demonstration's shop on RabbitMQ: what there is to tell of it, and what must come out."""

from truth.broker import Broker


class RabbitShop:
    """Billing rejects, shipping retries, mail is slow, audit needs no acknowledgements."""

    name, title, program = "rabbitmq", "RabbitMQ", "rabbitmq_roles.py"
    roles = ("billing", "shipping", "mail", "audit", "shop")
    crashes = {}
    story = ("shop publishes; billing rejects some for good, gives some back; shipping retries through a queue with a TTL; "
             "mail is slow; audit needs no acknowledgements; orders to Atlantis are returned")
    states = ("Confirmed", "Returned", "Acknowledged", "Retrying", "DeadLettered")

    def broker(self, directory):
        """One that is not started yet."""
        return Broker("3.10", directory, counters=False)

    def prepare(self, broker):
        """The programs declare what they need."""

    def address(self, broker):
        """Where the programs find it."""
        return broker.url()

    def compare(self, did, totals):
        """Words, what the programs did, how that must stand to what acktrail says, and that."""
        shop, billing = did["shop"], did["billing"]
        yield "orders published", shop["published"], "=", totals.of("Created")
        yield "confirmed", shop["confirmed"], "=", totals.of("Confirmed")
        yield "returned: nobody ships to Atlantis", shop["returned"], "=", totals.of("Returned")
        for role in self.roles[:4]:
            yield f"acknowledged by {role}", did[role]["acknowledged"], "=", totals.of("Acknowledged", queue=role)
        yield "given back by billing", billing["requeued"], "=", totals.of("Failed", queue="billing")
        yield "rejected by billing", billing["rejected"], "=", totals.of("Rejected", queue="billing")
        yield "… and dead-lettered", billing["rejected"], "=", totals.of("DeadLettered", queue="billing")
        yield "rejected by shipping, to be tried again", did["shipping"]["rejected"], "=", totals.of("Retrying", queue="shipping")
