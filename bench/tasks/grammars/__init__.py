"""Grammars of the synthetic tasks, one per file; they write single rows, ``bench.tasks.synthetic`` the splits."""
