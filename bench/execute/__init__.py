"""Carries out a plan: worker processes, and records stored as they arrive."""
