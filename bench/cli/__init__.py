"""The command line: verbs, options, progress on a terminal."""
