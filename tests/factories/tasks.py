"""Shipped tasks for tests, and where their rows are."""

from bench.tasks.catalogue import shipped
from bench.tasks.sources import locate

GLUE = {name: spec for name, spec in shipped().items() if spec.hub == "nyu-mll/glue"}
"""The nine tasks of GLUE by name."""
HUB_ID, HUB_REVISION = "nyu-mll/glue", GLUE["sst2"].revision


def source_of(data, names):
    """Source of the first of the tasks ``names`` that a run with ``--data data`` would have."""
    located = locate(data, [GLUE[name] for name in names])
    return located.sources[names[0]]
