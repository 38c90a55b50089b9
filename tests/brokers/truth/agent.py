"""acktrail itself, started and stopped for a test."""

import json
import os
import signal
import subprocess
import time

from .places import REPOSITORY, spawn, stop


# Scenarios come faster than any traffic that the budget is meant for, and every trace is held against the truth.
ALL_TRACES = '[kafka]\ntrace_bytes = "1GiB"\n'


def binary():
    """The agent that is tested: ACKTRAIL, or the release build of this repository."""
    target = os.environ.get("CARGO_TARGET_DIR") or REPOSITORY / "target"
    return os.environ.get("ACKTRAIL") or f"{target}/release/acktrail"


class Agent:
    """`acktrail run` on one broker's port, by default with JSON lines. Use as a context manager; leaving it ends the agent and
    reads its summary."""

    def __init__(self, directory, port, *options, name="agent", writes_lines=True, environment=None):
        self.directory, self.port, self.options, self.writes_lines = directory, port, options, writes_lines
        self.environment = {**os.environ, **(environment or {})}
        self.lines, self.summary_path = directory / f"{name}.jsonl", directory / f"{name}.summary.json"
        self.errors = directory / f"{name}.stderr"
        self._ready = directory / f"{name}.ready"
        self.socket = directory / f"{name}.sock"
        self._config = directory / f"{name}.toml"
        self.process, self.summary, self.ready_at = None, None, None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def start(self):
        """Starts it and waits until it says that it is attached."""
        for path in (self._ready, self.summary_path, self.socket):
            path.unlink(missing_ok=True)
        # A configuration of this machine must not reach into a test.
        self._config.write_text(ALL_TRACES if self.writes_lines else "")
        command = self.command()
        with open(self.errors, "ab") as errors:
            self.process = spawn(command, stdout=errors, stderr=errors, env=self.environment)
        deadline = time.monotonic() + 30
        while not self._ready.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                stop(self.process)
                raise RuntimeError(f"{' '.join(command)}\ndid not become ready: {self.errors.read_text()[-2000:]}")
            time.sleep(0.01)
        self.ready_at = time.time_ns()
        return self

    def reload(self, text, answer):
        """Gives it another configuration; whether it says this of it."""
        said = len(self.errors.read_text())
        self._config.write_text(text)
        self.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if answer in self.errors.read_text()[said:]:
                return True
            time.sleep(0.05)
        return False

    def command(self):
        """What is started."""
        lines = ["--jsonl", str(self.lines)] if self.writes_lines else []
        return [binary(), "run", "--config", str(self._config), "--port", str(self.port), *lines,
                "--summary", str(self.summary_path), "--ready-file", str(self._ready), "--socket", str(self.socket),
                *self.options]

    def stop(self):
        """SIGTERM, and its last summary. Fails if it does not end by itself with status 0."""
        if self.process is None:
            return None
        status, self.process = stop(self.process, patience=20), None
        if status != 0:
            raise RuntimeError(f"acktrail run ended with status {status}: {self.errors.read_text()[-2000:]}")
        self.summary = json.loads(self.summary_path.read_text())
        return self.summary

    def kill(self):
        """SIGKILL: nothing is drained, nothing is said."""
        self.process.kill()
        self.process.wait()
        self.process = None

    def pause(self, seconds):
        """Stopped in the middle of whatever it does, for so long."""
        self.process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.process.send_signal(signal.SIGCONT)


class Recorder(Agent):
    """`acktrail record` instead: a recording of what the kernel delivers."""

    def __init__(self, directory, port, *options):
        super().__init__(directory, port, *options, name="record")
        self.file = directory / "recording.acktrail"

    def command(self):
        """What is started."""
        return [binary(), "record", str(self.file), "--config", str(self._config), "--port", str(self.port), "--ready-file",
                str(self._ready), *self.options]

    def stop(self):
        """SIGTERM."""
        if self.process is None:
            return
        status, self.process = stop(self.process, patience=20), None
        if status != 0:
            raise RuntimeError(f"acktrail record ended with status {status}: {self.errors.read_text()[-2000:]}")


def replay(capture, port, directory, *options, name="replay"):
    """`acktrail replay` of a capture file: the path of its lines, and its summary."""
    lines, summary = directory / f"{name}.jsonl", directory / f"{name}.summary.json"
    config = directory / f"{name}.toml"
    config.write_text(ALL_TRACES)
    done = subprocess.run([binary(), "replay", str(capture), "--config", str(config), "--port", str(port), "--jsonl",
                           str(lines), "--summary", str(summary), *options],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise RuntimeError(f"acktrail replay ended with status {done.returncode}: {done.stderr[-2000:]}")
    return lines, json.loads(summary.read_text()), done.stdout
