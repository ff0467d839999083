"""Answers to the first questions of the field, each a page in English and Chinese written from a published run."""
