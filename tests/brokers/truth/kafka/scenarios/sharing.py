"""Share groups: each record on its own."""

import time

from ..stage import scenario
from .groups import filled

NEW = ("4",)


@scenario(brokers=NEW)
def share_accept(s):
    """Everything is accepted."""
    topic = filled(s, "java", 20, partitions=2)
    consumer = s.share("workers").subscribe(topic)
    accepted = 0
    while accepted < 40:
        records = consumer.poll(records=1)
        consumer.verdicts(records, "accept")
        consumer.commit()
        accepted += len(records)


@scenario(brokers=NEW)
def share_implicit(s):
    """The next poll accepts what the one before gave."""
    topic = filled(s, "java", 20)
    consumer = s.share("workers", mode="implicit", max_poll=5).subscribe(topic)
    taken = 0
    while taken < 20:
        taken += len(consumer.poll(records=1))
    consumer.commit()


@scenario(brokers=NEW)
def share_verdicts(s):
    """Accepted, given back and rejected in turn; what was given back comes again and is accepted."""
    topic = filled(s, "java", 12)
    consumer = s.share("workers").subscribe(topic)
    left = 12
    while left:
        for record in (records := consumer.poll(records=1)):
            verdict = ("accept", "release", "reject")[record.offset % 3] if record.count == 1 else "accept"
            consumer.verdicts([record], verdict)
            left -= verdict != "release"
        assert records
        consumer.commit()


@scenario(brokers=NEW)
def share_limit(s):
    """Given back until the broker has had enough of it: five deliveries, then it is archived."""
    topic = filled(s, "java", 2)
    consumer = s.share("workers").subscribe(topic)
    for _ in range(5):
        records = consumer.poll(records=2)
        consumer.verdicts([record for record in records if record.offset == 0], "release")
        consumer.verdicts([record for record in records if record.offset == 1], "accept")
        consumer.commit()
    assert not consumer.poll(idle=300, timeout=2000, enough=False)


@scenario(brokers=NEW)
def share_lock(s):
    """The lock of a record that is neither accepted nor given back runs out: it comes again."""
    topic = filled(s, "java", 6)
    slow = s.share("workers", lock_ms=1000).subscribe(topic)
    slow.verdicts(slow.poll(records=6)[:3], "accept")
    slow.commit()
    quick = s.share("workers", which=1).subscribe(topic)
    records = quick.poll(records=3)
    assert {record.count for record in records} == {2}, records
    quick.verdicts(records, "accept")
    quick.commit()


@scenario(brokers=NEW)
def share_late(s):
    """Accepted after the lock has run out: the broker refuses, and all of it comes again."""
    topic = filled(s, "java", 4)
    consumer = s.share("workers", lock_ms=1000).subscribe(topic)
    records = consumer.poll(records=4)
    time.sleep(1.6)
    consumer.verdicts(records, "accept")
    consumer.commit()
    done = 0
    while done < 4:
        records = consumer.poll(records=1)
        consumer.verdicts(records, "accept")
        consumer.commit()
        done += len(records)


@scenario(brokers=NEW)
def share_fetched_again(s):
    """Accepted after the lock has run out, when a fetch that waits has been given all of it anew: that is what is accepted."""
    topic = filled(s, "java", 4)
    consumer = s.share("workers", lock_ms=1000, extra={"fetch.max.wait.ms": 5000}).subscribe(topic)
    records = consumer.poll(records=4)
    time.sleep(1.6)
    for _ in range(2):
        consumer.verdicts(records, "accept")
        consumer.commit()
        records = consumer.poll(records=1, timeout=2000, enough=False)


@scenario(brokers=NEW)
def share_renew(s):
    """A lock is renewed until the record is accepted after longer than it lasts."""
    topic = filled(s, "java", 3)
    consumer = s.share("workers", lock_ms=1000).subscribe(topic)
    records = consumer.poll(records=3)
    for _ in range(3):
        time.sleep(0.6)
        consumer.verdicts(records, "renew")
        consumer.commit()
        # Renewed ones are given out once more before anything new is.
        records = consumer.poll(records=3)
        assert {record.count for record in records} == {1}
    consumer.verdicts(records, "accept")
    consumer.commit()


@scenario(brokers=NEW)
def share_left(s):
    """A member leaves without a verdict; another gets what it had at once."""
    topic = filled(s, "java", 6)
    first = s.share("workers").subscribe(topic)
    first.verdicts(first.poll(records=6)[:2], "accept")
    first.commit()
    first.close()
    second = s.share("workers", which=1).subscribe(topic)
    records = second.poll(records=4)
    assert {record.count for record in records} == {2}, records
    second.verdicts(records, "accept")
    second.commit()
