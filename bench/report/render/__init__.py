"""Writes a report as HTML, Markdown, terminal text or data files."""
