"""peft-ledger: what each way of fine-tuning a transformer costs, and what it buys."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.count.count import account
    from bench.plan.load import load_suite
    from bench.store.store import read_records as load_records
    from bench.training.adapted import load_adapted
    from bench.verdicts.claims import load_results

__all__ = ["account", "load_adapted", "load_records", "load_results", "load_suite"]

_PLACES = {
    "account": "bench.count.count:account",
    "load_adapted": "bench.training.adapted:load_adapted",
    "load_records": "bench.store.store:read_records",
    "load_results": "bench.verdicts.claims:load_results",
    "load_suite": "bench.plan.load:load_suite",
}


def __getattr__(name: str) -> Any:
    """Import on first use: the command line's help must not wait for torch or the readers."""
    if name not in _PLACES:
        raise AttributeError(f"module 'bench' has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
