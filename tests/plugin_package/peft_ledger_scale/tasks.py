"""A task of a third party: short messages about two topics, in a file beside this module."""

TOPICS = {
    "kind": "classes", "train": "topics.csv", "test_share": 0.3, "text": "message", "label": "topic",
    "origin": "written for a test",
}  # fmt: skip
