"""Measured costs: steps and inference of all methods on one shape, interleaved."""
