"""Feeds the command line what nobody should write, and looks for more than a sentence: ``python -m tools.fuzz OUT``."""
