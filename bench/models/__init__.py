"""Backbones, the task head that stands on them, tokenizers and positions."""
