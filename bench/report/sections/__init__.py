"""The content of a report: what is said, in which words and tables."""
