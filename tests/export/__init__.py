"""Tests of exported deltas."""
