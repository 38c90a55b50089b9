"""What really happened at a RabbitMQ, as its clients and the broker itself tell it: the truth acktrail is held to."""
