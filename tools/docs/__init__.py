"""Writes the generated parts of README and of the pages under ``docs/`` into their marked places."""
