"""Where things are: the repository, the work directory, free ports, child processes that cannot outlive their parent."""

import contextlib
import ctypes
import fcntl
import os
import pathlib
import random
import signal
import socket
import subprocess

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
WORK = pathlib.Path(os.environ.get("ACKTRAIL_WORK") or REPOSITORY / ".work")

PR_SET_PDEATHSIG = 1
CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_given = set()
_locks = []


def free_port():
    """A port of 127.0.0.1 on which nobody listens, and that was not given out before, outside the range that the kernel hands to clients.

    ACKTRAIL_PORTS=FIRST-LAST narrows the choice.
    """
    first, last = (int(p) for p in os.environ.get("ACKTRAIL_PORTS", "20000-29999").split("-"))
    for _ in range(1000):
        port = random.randint(first, last)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                _given.add(port)
                return port
            except OSError:
                continue
    raise RuntimeError(f"no free port in {first}-{last}")


def alone(name):
    """Waits until no other run of this machine uses the same part of the work directory; holds it until the process ends."""
    WORK.mkdir(parents=True, exist_ok=True)
    lock = open(WORK / f"{name}.lock", "w", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"another run uses {WORK}/{name}; waiting for its end", flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)
    _locks.append(lock)


@contextlib.contextmanager
def inside(netns):
    """In a network namespace of `ip netns`, or, for None, where one is: sockets opened and children started stay there."""
    if netns is None:
        yield
        return
    with open("/proc/thread-self/ns/net", "rb") as home, open(f"/run/netns/{netns}", "rb") as there:
        _enter(there)
        try:
            yield
        finally:
            _enter(home)


def own_network():
    """From here on, this thread and its children have a network of their own, with a loopback and nothing else."""
    if _libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def _enter(namespace):
    if _libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def spawn(command, **options):
    """Starts a child in a session of its own that the kernel kills when the calling *thread* ends."""
    parent = os.getpid()

    def prepare():
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return subprocess.Popen(command, start_new_session=True, preexec_fn=prepare, **{"stdin": subprocess.DEVNULL, **options})


def stop(process, patience=10, how=signal.SIGTERM):
    """Ends a child of `spawn`: politely, then by force. Returns its exit status."""
    if process.poll() is None:
        process.send_signal(how)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    return process.wait()
