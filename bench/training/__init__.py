"""One cell: trains an adapted backbone, scores it and keeps what was seen on the way."""
