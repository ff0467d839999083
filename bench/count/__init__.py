"""Exact costs: parameters, FLOPs and bytes of a step, counted on fake tensors."""
