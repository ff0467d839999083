"""Two versions of the methods' code, timed against each other."""
