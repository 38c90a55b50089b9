"""How records are produced."""

from ..broker import PASSWORD, USER
from ..stage import KINDS, scenario

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
TRACE = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")


def drained(s, kind, group, count, *topics, **options):
    """A consumer that reads so many records of these topics, commits and leaves."""
    consumer = s.consumer(kind, group, **options).subscribe(*topics)
    records = consumer.poll(records=count)
    assert consumer.commit() is None
    consumer.close()
    return records


@scenario(kind=KINDS)
def plain(s, kind):
    """Every codec: what codecs make smaller and what they do not, with and without headers, read and committed by one group."""
    topics = []
    for codec in CODECS:
        topics.append(s.topic(codec, partitions=2))
        producer = s.producer(kind, codec=codec, linger=5)
        producer.produce(topics[-1], 20, keys=0, size=200, headers=[TRACE], flush=False)
        producer.produce(topics[-1], 5, first=20, size=3000, noise=True)
        producer.close()
    drained(s, kind, "readers", 25 * len(CODECS), *topics)


@scenario(kind=KINDS)
def acks(s, kind):
    """Producers that wait for no answer, for the leader's, for all."""
    topics = []
    for wanted in ("0", "1", "all"):
        topics.append(s.topic(f"acks-{wanted}"))
        producer = s.producer(kind, acks=wanted, linger=2)
        producer.produce(topics[-1], 20, size=100)
        producer.close()
    drained(s, kind, "readers", 60, *topics)


@scenario(kind=KINDS)
def single(s, kind):
    """Batches of one record."""
    topic = s.topic(partitions=2)
    producer = s.producer(kind, linger=0, batch=1)
    producer.produce(topic, 60, size=100)
    drained(s, kind, "readers", 60, topic)


@scenario(kind=KINDS)
def large(s, kind):
    """Thousands of records in few batches, read in polls of 500, committed now and then."""
    topic = s.topic(partitions=2)
    producer = s.producer(kind, linger=20, batch=200_000, codec="lz4")
    producer.produce(topic, 3000, keys=0, size=100)
    consumer = s.consumer(kind, "readers").subscribe(topic)
    for _ in range(3):
        consumer.poll(records=1000)
        consumer.commit()
    consumer.poll(idle=100)
    consumer.commit()


@scenario(kind=KINDS)
def megabytes(s, kind):
    """Records of which few fit into a fetch."""
    topic = s.topic(max_message_bytes=3_000_000)
    extra = {"java": {"max.request.size": 3_000_000, "buffer.memory": 50_000_000}, "librdkafka": {"message.max.bytes": 3_000_000},
             "python": {"max_request_size": 3_000_000}}
    producer = s.producer(kind, acks="all", batch=900_000, extra=extra.get(kind))
    producer.produce(topic, 6, size=800_000, flush=False)
    producer.produce(topic, 3, first=6, size=10)
    drained(s, kind, "readers", 9, topic)


@scenario(kind=KINDS)
def idempotent(s, kind):
    """An idempotent producer."""
    topic = s.topic(partitions=2)
    producer = s.producer(kind, idempotent=True, acks="all", linger=2)
    for first in range(0, 60, 20):
        producer.produce(topic, 20, first=first, size=100)
    drained(s, kind, "readers", 60, topic)


@scenario(kind=KINDS)
def refused(s, kind):
    """A compacted topic takes no record without a key; what has one is stored."""
    topic = s.topic(cleanup_policy="compact")
    producer = s.producer(kind, linger=0)
    producer.produce(topic, 5, keys=0)
    producer.produce(topic, 3, first=5)
    producer.produce(topic, 5, first=8, keys=0)
    drained(s, kind, "readers", 10, topic)


@scenario(kind=KINDS)
def sasl(s, kind):
    """The same over a listener with SASL/PLAIN."""
    topic = s.topic()
    producer = s.producer(kind, security="sasl", linger=2)
    producer.produce(topic, 20, size=50)
    drained(s, kind, "readers", 20, topic, security="sasl")


# Of librdkafka it can be asked to behave as before brokers said what they understand.
@scenario(brokers=("2.8",), kind=("librdkafka",))
def sasl_raw(s, kind):
    """A login of the first kind: behind SaslHandshake 0 come the mechanism's own bytes, without any header."""
    old = {"api.version.request": False, "broker.version.fallback": "0.10.0"}
    topic = s.topic()
    producer = s.producer(kind, security="sasl", linger=2, extra=old)
    producer.produce(topic, 20, size=50)
    drained(s, kind, "readers", 20, topic, security="sasl", extra=old)


@scenario(mechanism=("SCRAM-SHA-256", "SCRAM-SHA-512"), kind=("java", "librdkafka"))
def sasl_scram(s, mechanism, kind):
    """A login by a challenge."""
    s.broker.admin.scram(mechanism, USER, PASSWORD)
    login = f'org.apache.kafka.common.security.scram.ScramLoginModule required username="{USER}" password="{PASSWORD}";'
    extra = {"sasl.mechanism": mechanism, **({"sasl.jaas.config": login} if kind == "java" else {})}
    topic = s.topic()
    producer = s.producer(kind, security="sasl", linger=2, extra=extra)
    producer.produce(topic, 20, size=50)
    drained(s, kind, "readers", 20, topic, security="sasl", extra=extra)
