"""Suites: TOML files that say what is asked, of which methods, on what; no code."""
