"""make demo, make demo-kafka: a broker of its own, a small shop of producers and consumers, acktrail following every message,
and in the end what the programs did beside what acktrail says.

    python demo/demo.py rabbitmq|kafka [--seconds N]
"""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests/brokers"))

from truth.agent import Agent, binary  # noqa: E402
from truth.places import WORK, alone, spawn, stop  # noqa: E402


class Totals:
    """How many messages acktrail says entered a state."""

    def __init__(self, summary):
        self.rows, self.capture = summary["totals"], summary["capture"]

    def of(self, state, **where):
        """`where`: destination, queue, group."""
        return sum(row["count"] for row in self.rows
                   if row["state"] == state and all(row.get(name) == value for name, value in where.items()))

    def lost(self):
        """How much was lost, over all stages and reasons."""
        return sum(loss["count"] for reasons in self.capture["lost"].values() for loss in reasons.values())


def main():
    # Here, because a shop's module takes its tools from this one.
    from on_kafka import KafkaShop
    from on_rabbitmq import RabbitShop

    shops = {"rabbitmq": RabbitShop, "kafka": KafkaShop}
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("broker", choices=shops)
    options.add_argument("--seconds", type=float, default=20, help="how long the shop is open")
    chosen = options.parse_args()
    if os.geteuid() != 0:
        sys.exit("demo: acktrail attaches to the kernel: this needs root (sudo make demo)")
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda number, _: sys.exit(128 + number))
    try:
        demonstrate(shops[chosen.broker](), chosen.seconds)
    except KeyboardInterrupt:
        print("\n   interrupted; everything is stopped")
        sys.exit(130)
    except (RuntimeError, OSError, subprocess.SubprocessError) as problem:
        sys.exit(f"demo: {problem}")


def demonstrate(shop, seconds):
    """The whole of it; whatever happens, nothing goes on running when it ends."""
    directory = WORK / f"demo-{shop.name}"
    alone(directory.name)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        say(f"Starting a {shop.title} of our own (nothing of a {shop.title} that runs here already is touched)")
        broker = shop.broker(directory / "broker")
        stack.push(broker)
        stack.callback(undisturbed)
        broker.start()
        shop.prepare(broker)
        print(f"   it listens on 127.0.0.1:{broker.port} ({time.monotonic() - began:.1f} s)")
        say("Starting acktrail: it watches that port, and drops all privileges once it is attached")
        agent = Agent(directory, broker.port, environment=look())
        stack.callback(lambda: agent.process and agent.kill())
        stack.callback(undisturbed)
        agent.start()
        print(f"   {binary()} run --port {broker.port}")
        did = opened(shop, broker, agent, directory, seconds)
        say("Closing: what became of all of them")
        totals = Totals(agent.stop())
        sys.stdout.write(agent.errors.read_text())
    say("The programs have counted too. What they did, and what acktrail says:")
    wrong = compare(shop, did, totals)
    if wrong:
        raise RuntimeError(f"{', '.join(wrong)}: this should not be; see {agent.lines}")
    say(f"Everything is stopped and gone ({time.monotonic() - began:.0f} s in all). Every line as JSON:")
    print(f"   {agent.lines}")


def opened(shop, broker, agent, directory, seconds):
    """The shop, open for a while, and the live view. Returns what each program says that it did."""
    say(f"Opening the shop for {seconds:.0f} s. Every line below is a message, or some, entering a state, as the kernel saw it:")
    print(wrapped(shop.story, "   ") + "\n", flush=True)
    # As long as a person looks on, the live view may use the whole terminal; else it gets plain lines.
    view = spawn([binary(), "trace", "--config", str(directory / "agent.toml"), "--socket", str(agent.socket)])
    programs = {}
    try:
        for role in shop.roles:
            with open(directory / f"{role}.json", "w", encoding="utf-8") as tally:
                # What is published last has two seconds to arrive.
                ends = str(seconds + (0 if role == "shop" else 2))
                programs[role] = spawn([sys.executable, str(HERE / shop.program), role, shop.address(broker), ends], stdout=tally)
        for role, program in programs.items():
            status = program.wait(seconds + 30)
            if status != shop.crashes.get(role, 0):
                raise RuntimeError(f"{role}, a program of the shop, ended with status {status}")
        time.sleep(0.5)
    finally:
        for program in programs.values():
            stop(program, how=signal.SIGKILL)
        stop(view, how=signal.SIGINT)
    return {role: collections.Counter(json.loads((directory / f"{role}.json").read_text())) for role in programs}


def compare(shop, did, totals):
    """Prints what was done beside what was seen; returns what differs."""
    lost = ("lost by acktrail", 0, "=", totals.lost())
    wrong = []
    for words, done, sign, said in [*shop.compare(did, totals), lost]:
        right = done == said if sign == "=" else done <= said
        print(f"   {words:48} {done:6} {sign if right else '≠'} {said}")
        if not right:
            wrong.append(f"{words}: {done}, not {said}")
    seen = {row["state"] for row in totals.rows}
    wrong += [f"nothing became {state}" for state in shop.states if state not in seen]
    sys.stdout.flush()
    return wrong


def look():
    """For the agent, whose closing table goes to a file first and to this terminal then."""
    if not sys.stdout.isatty():
        return {}
    return {"COLUMNS": str(shutil.get_terminal_size().columns), "CLICOLOR_FORCE": "1"}


def undisturbed():
    """From here on a second Ctrl-C does not keep anything from being stopped."""
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.SIG_IGN)


def say(words):
    """One step, in plain words."""
    print("\n" + wrapped(words, "── "), flush=True)


def wrapped(words, begin):
    """In lines that fit, but not longer than one likes to read."""
    width = min(shutil.get_terminal_size().columns, 110)
    return textwrap.fill(words, width, initial_indent=begin, subsequent_indent="   ", break_on_hyphens=False)


if __name__ == "__main__":
    main()
