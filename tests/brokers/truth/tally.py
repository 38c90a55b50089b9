"""What passed and what failed."""

import sys


class Tally:
    """Counts checks; `close` says at the very end what failed, so that a log that was cut to its end still tells."""

    MOST_LINES, MOST_COLUMNS = 40, 400

    def __init__(self):
        self.passed, self.failures = 0, []

    def check(self, good, words=""):
        """One thing that must be."""
        if good:
            self.passed += 1
        else:
            self.failures.append(words)
            print(f"FAILED: {words}", flush=True)

    def close(self):
        """Says again what failed, counts, and ends the program."""
        if self.failures:
            each = max(1, self.MOST_LINES // len(self.failures))
            lines = [line[: self.MOST_COLUMNS] for words in self.failures for line in f"FAILED: {words}".splitlines()[:each]]
            print("\nfailed checks:", *lines[: self.MOST_LINES], sep="\n")
        print(f"\n{self.passed} passed, {len(self.failures)} failed", flush=True)
        sys.exit(1 if self.failures else 0)
