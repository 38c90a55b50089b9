"""How groups consume and commit."""

import time

from ..client import polled, until_assigned
from ..stage import KINDS, scenario


def filled(s, kind, count, part="work", partitions=1, **configs):
    """A topic with so many records in each partition."""
    topic = s.topic(part, partitions, **configs)
    producer = s.producer(kind, linger=5)
    for partition in range(partitions):
        producer.produce(topic, count, first=partition * count, partition=partition, size=60, flush=False)
    producer.flush()
    return topic


@scenario(kind=KINDS)
def two_groups(s, kind):
    """One group commits everything, the other only half of it, and stops."""
    topic = filled(s, kind, 20, partitions=2)
    whole = s.consumer(kind, "whole").subscribe(topic)
    half = s.consumer(kind, "half", which=1).subscribe(topic)
    both = [whole.start_poll(records=40), half.start_poll(records=40)]
    for each in both:
        polled(each)
    whole.commit()
    half.commit([(topic, 0, 10), (topic, 1, 10)])


@scenario(kind=KINDS)
def groupless(s, kind):
    """Partitions of one's own choice, without a group: nothing is ever acknowledged."""
    topic = filled(s, kind, 20, partitions=2)
    consumer = s.consumer(kind).assign((topic, 0), (topic, 1, 5))
    consumer.poll(records=35)


@scenario(start=("stored", "given"), kind=("java", "librdkafka", "python"))
def assigned(s, start, kind):
    """Partitions of one's own choice, and commits to a group that has no members. With offsets that are given from the first one
    on, Java does not speak of the group before it commits."""
    topic = filled(s, kind, 20, partitions=2)
    places = [(topic, 0), (topic, 1)] if start == "stored" else [(topic, 0, 0), (topic, 1, 5)]
    consumer = s.consumer(kind, "readers", given_offsets=start == "given").assign(*places)
    consumer.poll(records=40 if start == "stored" else 35)
    consumer.commit()


@scenario(kind=KINDS)
def automatic(s, kind):
    """Auto commit, now and then and at the end."""
    topic = filled(s, kind, 20, partitions=2)
    consumer = s.consumer(kind, "readers", auto_commit=100).subscribe(topic)
    consumer.poll(records=40)
    consumer.poll(idle=250)
    producer = s.producer(kind)
    producer.produce(topic, 10, first=100, partition=0)
    consumer.poll(records=10)
    consumer.close()


@scenario(kind=KINDS)
def commit_backwards(s, kind):
    """The group's offset is set back to where it was: all from there comes again to the next member."""
    topic = filled(s, kind, 20)
    consumer = s.consumer(kind, "readers").subscribe(topic)
    consumer.poll(records=20)
    consumer.commit()
    consumer.commit([(topic, 0, 8)])
    consumer.close()
    again = s.consumer(kind, "readers").subscribe(topic)
    assert again.poll(records=12)[0].offset == 8
    again.commit()


@scenario(kind=("java", "librdkafka", "python"))
def commit_refused(s, kind):
    """Somebody who is no member commits to a group that has one, and is refused; the member is not disturbed."""
    topic = filled(s, kind, 20)
    consumer = s.consumer(kind, "readers").subscribe(topic)
    consumer.poll(records=20)
    stranger = s.consumer(kind, "readers", which=1)
    assert stranger.commit([(topic, 0, 15)])
    stranger.close()
    consumer.commit()


@scenario(kind=KINDS)
def seek_back(s, kind):
    """Half is committed, then the consumer goes back, reads all of it again and commits."""
    topic = filled(s, kind, 20)
    consumer = s.consumer(kind, "readers").subscribe(topic)
    consumer.poll(records=20)
    consumer.commit([(topic, 0, 10)])
    consumer.seek(topic, 0, 5)
    assert consumer.poll(records=15)[0].offset == 5
    consumer.commit()


@scenario(kind=KINDS)
def retry_in_place(s, kind):
    """Records one by one; the fifth fails twice, and the consumer goes back to it each time."""
    topic = filled(s, kind, 12)
    consumer = s.consumer(kind, "readers", max_poll=1).subscribe(topic)
    failures = 0
    while True:
        (record,) = consumer.poll(records=1)
        if record.offset == 4 and failures < 2:
            failures += 1
            consumer.seek(topic, 0, 4)
            continue
        consumer.commit([(topic, 0, record.offset + 1)])
        if record.offset == 11:
            break


# kafka-python 3.0.12 gets nothing more of a partition that it has resumed.
@scenario(kind=("java", "librdkafka", "franz"))
def paused(s, kind):
    """A partition is held back for a while."""
    topic = filled(s, kind, 10, partitions=2)
    consumer = s.consumer(kind, "readers").subscribe(topic)
    consumer.poll(records=20)
    consumer.pause((topic, 1))
    producer = s.producer(kind)
    for partition in (0, 1):
        producer.produce(topic, 10, first=100 + 10 * partition, partition=partition)
    assert {record.partition for record in consumer.poll(records=10, idle=200)} == {0}
    consumer.resume((topic, 1))
    consumer.poll(records=10)
    consumer.commit()


@scenario(kind=KINDS)
def prefetched(s, kind):
    """A consumer takes three records of what was sent to it, commits them and leaves; the next gets the others."""
    topic = filled(s, kind, 50)
    consumer = s.consumer(kind, "readers", max_poll=3).subscribe(topic)
    consumer.poll(records=3)
    consumer.commit()
    consumer.close()
    again = s.consumer(kind, "readers").subscribe(topic)
    assert again.poll(records=47)[0].offset == 3
    again.commit()


def rebalanced(s, kind, **options):
    """A second member joins while the first has something uncommitted, takes some of it over, commits nothing and leaves."""
    topic = filled(s, kind, 10, partitions=4)
    first = s.consumer(kind, "readers", **options).subscribe(topic)
    first.poll(records=40)
    first.commit([(topic, partition, 4) for partition in range(4)])
    second = s.consumer(kind, "readers", which=1, **options).subscribe(topic)
    until_assigned({first: 2, second: 2})
    second.poll(idle=200)
    second.close()
    until_assigned({first: 4})
    while set(s.committed("readers").values()) != {10}:
        first.poll(idle=200)
        first.commit()


@scenario(kind=KINDS)
def rebalance(s, kind):
    """A member joins and leaves: the classic protocol, everything is given up at every rebalance."""
    rebalanced(s, kind)


@scenario(kind=("java", "librdkafka", "franz"))
def rebalance_cooperative(s, kind):
    """A member joins and leaves: the classic protocol, only what moves is given up."""
    rebalanced(s, kind, assignor="cooperative")


@scenario(brokers=("4",), kind=("java", "librdkafka", "franz"))
def rebalance_kip848(s, kind):
    """A member joins and leaves: the broker assigns."""
    rebalanced(s, kind, protocol="consumer")


@scenario(brokers=("4",), kind=("java", "librdkafka", "franz"))
def group_kip848(s, kind):
    """A group that the broker assigns: read, committed, left and joined again."""
    topic = filled(s, kind, 20, partitions=2)
    consumer = s.consumer(kind, "readers", protocol="consumer").subscribe(topic)
    consumer.poll(records=40)
    consumer.commit([(topic, 0, 20), (topic, 1, 15)])
    consumer.close()
    again = s.consumer(kind, "readers", protocol="consumer").subscribe(topic)
    assert len(again.poll(records=5)) == 5
    again.commit()


@scenario(kind=("java", "librdkafka", "franz"))
def static_member(s, kind):
    """A static member goes without leaving and comes back: no rebalance, but what it had not committed comes again."""
    topic = filled(s, kind, 20)
    consumer = s.consumer(kind, "readers", instance=f"{s.prefix}.one").subscribe(topic)
    consumer.poll(records=20)
    consumer.commit([(topic, 0, 12)])
    consumer.close(leave=False)
    again = s.consumer(kind, "readers", instance=f"{s.prefix}.one").subscribe(topic)
    assert again.poll(records=8)[0].offset == 12
    again.commit()


@scenario(kind=("librdkafka", "franz", "python"))
def killed_consumer(s, kind):
    """A consumer dies with what it had not committed; its session ends, and another gets it."""
    topic = filled(s, kind, 20)
    consumer = s.consumer(kind, "readers", which=1, fresh=True, session=1500).subscribe(topic)
    consumer.poll(records=20)
    consumer.commit([(topic, 0, 12)])
    s.kill(consumer)
    again = s.consumer(kind, "readers", session=1500).subscribe(topic)
    assert again.poll(records=8)[0].offset == 12
    again.commit()


def taken_over(s, kind, end, **options):
    """Two members, of which one ends with what it has not committed; the other takes that over, reads and commits all."""
    topic = filled(s, kind, 20, partitions=2)
    first = s.consumer(kind, "readers", which=1, fresh=True, **options).subscribe(topic)
    first.poll(records=40)
    second = s.consumer(kind, "readers", **options).subscribe(topic)
    until_assigned({first: 1, second: 1})
    end(first)
    until_assigned({second: 2})
    while set(s.committed("readers").values()) != {20}:
        second.poll(idle=200)
        second.commit()
    return first


@scenario(kind=KINDS)
def killed_taken_over(s, kind):
    """A member dies without a word; when its session has ended, the other member gets what it had."""
    taken_over(s, kind, s.kill, session=1500)


@scenario(brokers=("4",), kind=("java", "librdkafka", "franz"))
def killed_taken_over_kip848(s, kind):
    """A member dies without a word, in a group that the broker assigns."""
    s.session("readers", 1500)
    taken_over(s, kind, s.kill, protocol="consumer")


@scenario(kind=KINDS)
def frozen(s, kind):
    """A member is stopped for longer than its session, while its connections stay open; the other gets what it had. It wakes up
    when all is done."""
    first = taken_over(s, kind, s.freeze, session=1500)
    s.thaw(first)
    first.close()


@scenario(brokers=("4",), kind=("java", "librdkafka", "franz"))
def frozen_kip848(s, kind):
    """A member is stopped for longer than its session, in a group that the broker assigns."""
    s.session("readers", 1500)
    first = taken_over(s, kind, s.freeze, protocol="consumer")
    s.thaw(first)
    first.close()


@scenario(kind=("java", "librdkafka", "franz"))
def static_killed(s, kind):
    """A static member dies and is there again before its session has ended: no rebalance, and what it had comes again."""
    topic = filled(s, kind, 20)
    consumer = s.consumer(kind, "readers", which=1, fresh=True, instance=f"{s.prefix}.one").subscribe(topic)
    consumer.poll(records=20)
    consumer.commit([(topic, 0, 12)])
    s.kill(consumer)
    again = s.consumer(kind, "readers", instance=f"{s.prefix}.one").subscribe(topic)
    assert again.poll(records=8)[0].offset == 12
    again.commit()


@scenario(brokers=("4",), kind=("java", "librdkafka", "franz"))
def static_kip848(s, kind):
    """A static member of a group that the broker assigns goes for a while and comes back."""
    topic = filled(s, kind, 20)
    options = {"instance": f"{s.prefix}.one", "protocol": "consumer"}
    consumer = s.consumer(kind, "readers", **options).subscribe(topic)
    consumer.poll(records=20)
    consumer.commit([(topic, 0, 12)])
    consumer.close(leave=False)
    again = s.consumer(kind, "readers", **options).subscribe(topic)
    assert again.poll(records=8)[0].offset == 12
    again.commit()


@scenario(kind=KINDS)
def lagging(s, kind):
    """A group that stops half way, and records that come when it is gone; another one that has done everything."""
    topic = filled(s, kind, 20, partitions=2)
    slow = s.consumer(kind, "slow").subscribe(topic)
    slow.poll(records=40)
    slow.commit([(topic, 0, 5), (topic, 1, 20)])
    slow.close()
    s.producer(kind).produce(topic, 10, first=100, partition=0)
    level = s.consumer(kind, "level").subscribe(topic)
    level.poll(records=50)
    level.commit()
    level.close()
    s.producer(kind).produce(topic, 7, first=200, partition=1)


@scenario(kind=("librdkafka",))
def offsets_reset(s, kind):
    """The admin tool sets a group's offset back, and forward over what nobody has read."""
    topic = filled(s, kind, 20)
    consumer = s.consumer(kind, "readers").subscribe(topic)
    consumer.poll(records=20)
    consumer.commit()
    consumer.close()
    s.reset("readers", {(topic, 0): 15})
    again = s.consumer(kind, "readers").subscribe(topic)
    assert again.poll(records=5)[0].offset == 15
    again.commit()
    again.close()
    s.producer(kind).produce(topic, 10, first=100)
    s.reset("readers", {(topic, 0): 25})
    last = s.consumer(kind, "readers").subscribe(topic)
    assert last.poll(records=5)[0].offset == 25
    last.commit()


@scenario(kind=("java", "librdkafka"))
def slow_start(s, kind):
    """The consumer is there before the records, which come one by one."""
    topic = s.topic()
    consumer = s.consumer(kind, "readers").subscribe(topic)
    consumer.poll(assigned=1)
    producer = s.producer(kind, which=1)
    polling = consumer.start_poll(records=10)
    for n in range(10):
        producer.produce(topic, 1, first=n)
        time.sleep(0.02)
    polled(polling)
    consumer.commit()
