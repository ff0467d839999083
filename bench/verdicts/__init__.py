"""Judges claims and gates a run against a reference."""
