"""Tasks: specifications, sources of data, metrics. Never imports torch."""
