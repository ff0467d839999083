"""Tasks: specifications, sources of data and metrics; trains nothing and never imports torch."""
