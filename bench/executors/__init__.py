"""Who carries the jobs of a plan: each executor turns cells and probes into events; none decides what is run."""
