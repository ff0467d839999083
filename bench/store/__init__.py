"""Run folders: records, sidecars, and the environment that both name."""
