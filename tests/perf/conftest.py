"""Performance tests measure or fail: pytest-benchmark measures nothing under xdist or when it is switched off."""

import pytest


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    """Fail a session that collected performance tests and measured none."""
    benchmarks = getattr(session.config, "_benchmarksession", None)
    if exitstatus == 0 and session.testscollected and not (benchmarks and benchmarks.benchmarks):
        session.exitstatus = 1
        session.config.get_terminal_writer().line("no benchmark was measured: run with -n 0 and benchmarks enabled")
