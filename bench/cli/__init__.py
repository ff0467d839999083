"""The command line: commands, options and progress on a terminal."""
