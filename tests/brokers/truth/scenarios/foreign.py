"""Clients of other languages, each with wire habits of its own: they write the same truth log."""

from ..stage import scenario

FLOWS = ("ack", "auto", "requeue", "dead", "multiple")


def register(program):
    """The core scenarios of one client program."""
    for flow in FLOWS:
        def run(s, flow=flow):
            s.foreign(program, flow)

        run.__name__ = f"{program}_{flow}"
        run.__doc__ = f"{program}: {flow}."
        scenario()(run)


for name in ("java", "go", "lapin"):
    register(name)
