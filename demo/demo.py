"""make demo: a RabbitMQ of its own, a small shop of producers and consumers, and acktrail following every message.

    python demo/demo.py [--seconds N]
"""

import argparse
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests/brokers"))

from truth.agent import Agent, binary  # noqa: E402
from truth.broker import Broker  # noqa: E402
from truth.places import WORK, alone, spawn, stop  # noqa: E402

ROLES = ("billing", "shipping", "mail", "audit", "shop")


def say(words):
    """One step, in plain words."""
    print(f"\n── {words}", flush=True)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=20, help="how long the shop is open")
    seconds = options.parse_args().seconds
    if os.geteuid() != 0:
        sys.exit("demo: acktrail attaches to the kernel: this needs root (sudo make demo)")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    directory = WORK / "demo"
    alone("demo")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    began = time.monotonic()
    say("Starting a RabbitMQ of our own (nothing of a RabbitMQ that runs here already is touched)")
    try:
        with Broker("3.10", directory / "broker", counters=False) as broker:
            print(f"   it listens on 127.0.0.1:{broker.port} ({time.monotonic() - began:.1f} s)")
            show(broker, directory, seconds)
    except KeyboardInterrupt:
        print("\n   interrupted; everything is stopped")
        sys.exit(130)
    say(f"Everything is stopped and gone ({time.monotonic() - began:.0f} s in all). Every line as JSON: {directory}/agent.jsonl")


def show(broker, directory, seconds):
    """Agent, shop, live view; then the closing table."""
    say("Starting acktrail: it watches that port, and drops all privileges once it is attached")
    agent = Agent(directory, broker.port).start()
    print(f"   {binary()} run --port {broker.port}")
    say(f"Opening the shop for {seconds:.0f} s. Every line below is a message that enters a state, as the kernel saw it:")
    print("   shop publishes; billing rejects some for good, gives some back; shipping retries through a queue with a TTL;\n"
          "   mail is slow; audit needs no acknowledgements; orders to Atlantis are returned\n", flush=True)
    # As long as a person looks on, the live view may use the whole terminal; else it gets plain lines.
    view = spawn([binary(), "trace", "--config", str(directory / "agent.toml"), "--socket", str(agent.socket)])
    shop = [spawn([sys.executable, str(HERE / "roles.py"), role, broker.url(), str(seconds + (2 if role != "shop" else 0))])
            for role in ROLES]
    try:
        for process in shop:
            status = process.wait(seconds + 30)
            if status != 0:
                raise RuntimeError(f"a program of the shop ended with status {status}")
        time.sleep(0.5)
    finally:
        for process in shop:
            stop(process)
        stop(view, how=signal.SIGINT)
    say("Closing: what became of all of them")
    summary = agent.stop()
    sys.stdout.write(agent.errors.read_text())
    sys.stdout.flush()
    seen = {total["state"] for total in summary["totals"]}
    missing = {"Confirmed", "Returned", "Acknowledged", "Retrying", "DeadLettered"} - seen
    if missing:
        raise RuntimeError(f"nothing became {', '.join(sorted(missing))}: this should not be; see {agent.lines}")


if __name__ == "__main__":
    try:
        main()
    except (RuntimeError, OSError, subprocess.SubprocessError) as problem:
        sys.exit(f"demo: {problem}")
