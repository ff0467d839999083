"""What a person reads of a run: one content, rendered as page, Markdown and terminal text."""
