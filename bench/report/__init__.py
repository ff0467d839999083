"""What a person reads of a run: terminal, report.html, report.md, plots; measures nothing and decides no verdict."""
