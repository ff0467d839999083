"""Carries a plan out: worker processes, and records stored as they come."""
