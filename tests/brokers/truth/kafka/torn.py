"""Every scenario again, from a capture file of which a part is missing: what is said of the rest must be true."""

import random

from ..agent import replay
from ..check import Seen
from ..torn import Packets, bites, late, payload_holes
from .partly import wrong_lines

WAYS = {"late": late, "holes": payload_holes, "bites": bites}


def check_torn(ways, truths, capture, ports, directory, tally, seed=None):
    """Every scenario, torn in these ways; the captures of which something wrong was said are kept."""
    packets, seed = Packets(capture), random.randrange(10**6) if seed is None else seed
    for way in ways:
        told, wrong = 0, []
        for truth in truths:
            times = [entry["t"] / 1e9 for entry in truth.entries]
            torn = directory / f"torn-{way}-{truth.prefix}.pcapng"
            # The same holes, whichever other scenarios have run.
            rng = random.Random(f"{seed} {truth.prefix}")
            packets.write(torn, WAYS[way](rng, packets, times[0], times[-1]))
            lines, summary, _ = replay(torn, ports[0], directory, *ports[1:], name="torn")
            said, differences = wrong_lines(truth, Seen(lines))
            told += said
            wrong += [f"{truth.prefix}: {words}" for words in differences]
            if not differences:
                torn.unlink()
        tally.check(told > 2 * len(truths), f"{way}: only {told} lines were told of {len(truths)} scenarios")
        tally.check(not wrong, f"{way} (seed {seed}): {len(wrong)} of {told} lines are wrong:\n" + "\n".join(wrong[:8]))
        print(f"{way:6} {told} lines of torn captures, {len(wrong)} wrong, seed {seed}", flush=True)
