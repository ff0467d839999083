"""Grammars of the synthetic tasks, one per file; each writes single rows."""
