"""What acktrail costs, measured with the brokers' own load generators. Root, a quiet machine, most of an hour.

    python benches/bench.py                                   everything, into docs/performance.md
    python benches/bench.py rabbitmq                          one system, into its part of docs/performance.md
    python benches/bench.py kafka --only cost --quick         one part, short runs, printed only

Each system's parts are the methods of its `Bench`; those in WHEN_ASKED run only if they are named.
"""

import argparse
import pathlib
import shutil

import costs
from costs import kafka, rabbitmq
from truth.places import REPOSITORY, WORK, alone, own_network

SYSTEMS = {"rabbitmq": rabbitmq, "kafka": kafka}
# Smallest, first and largest receive buffer of a connection, in bytes. The kernel's first one, 128 KiB, opens a window smaller than
# a segment of the loopback's; a saturated consumer that is late once may then get 64 KiB every 200 ms for the rest of a run, with or
# without an agent (docs/performance.md).
RECEIVE_BUFFER = "4096 1048576 6291456"


def write(name, text):
    """Replaces the measured part of one system in docs/performance.md."""
    page = REPOSITORY / "docs/performance.md"
    begin, end = f"<!-- begin bench {name} -->\n", f"<!-- end bench {name} -->\n"
    head, found, rest = page.read_text().partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise RuntimeError(f"docs/performance.md has no place for what is measured of {name}")
    page.write_text(f"{head}{begin}\n{text}\n{end}{tail}")


def measured(name, chosen, directory):
    """Everything that is to be measured of one system, as text."""
    system = SYSTEMS[name]
    where = costs.machine()
    with system.broker(chosen.broker, directory) as broker, costs.Collector(directory) as collector:
        bench = system.Bench(broker, collector, directory, chosen.quick)
        text = (f"Measured by `make bench`: {where}, {name} {broker.version}, {system.TITLE}, {bench.seconds} s a run; the agent "
                "with metrics and sampled traces to a Collector, without JSON lines. Figures to reach in parentheses.\n")
        for part in chosen.only or system.PARTS:
            rows = "\n".join(getattr(bench, part)())
            print(rows, flush=True)
            text += f"\n{rows}\n"
    return text


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("system", nargs="?", choices=SYSTEMS)
    options.add_argument("--only", action="append", metavar="PART", help="of one system; may be given several times")
    options.add_argument("--quick", action="store_true", help="short runs, printed only")
    options.add_argument("--broker", help="its version, as the truth tests name it")
    chosen = options.parse_args()
    if (chosen.only or chosen.broker) and not chosen.system:
        options.error("--only and --broker need a system")
    for part in chosen.only or []:
        if part not in (known := (*SYSTEMS[chosen.system].PARTS, *SYSTEMS[chosen.system].WHEN_ASKED)):
            options.error(f"{chosen.system} has no part {part}: {', '.join(known)}")
    directory = WORK / "bench"
    alone("bench")
    own_network()
    pathlib.Path("/proc/sys/net/ipv4/tcp_rmem").write_text(RECEIVE_BUFFER)
    for name in [chosen.system] if chosen.system else SYSTEMS:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        text = measured(name, chosen, directory)
        if not (chosen.quick or chosen.only):
            write(name, text)


if __name__ == "__main__":
    main()
