"""peft-ledger: what each way of fine-tuning a transformer costs, and what it buys."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.count.account import account
    from bench.plan.load import load_suite
    from bench.store.store import read_records as load_records

__all__ = ["account", "load_records", "load_suite"]


def __getattr__(name: str) -> Any:
    """Import on first use: the command line's help must not wait for torch or the readers."""
    if name == "account":
        from bench.count.account import account

        return account
    if name == "load_suite":
        from bench.plan.load import load_suite

        return load_suite
    if name == "load_records":
        from bench.store.store import read_records

        return read_records
    raise AttributeError(f"module 'bench' has no attribute {name!r}")
