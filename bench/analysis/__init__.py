"""Reads a run: `results.Results` holds its records and every table that is made of them; no torch."""
