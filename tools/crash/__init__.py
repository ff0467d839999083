"""Kills runs at random moments, resumes them, and looks for what was lost: ``python -m tools.crash OUT``."""
