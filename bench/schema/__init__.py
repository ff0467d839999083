"""Every file format and message of the harness: suites, jobs, records and their parts; plain data."""
