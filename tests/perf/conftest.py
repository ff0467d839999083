"""Performance tests measure and compare or fail: pytest-benchmark alone only warns where it did neither."""

import pytest


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    """Fail a session that measured nothing, or that was asked to compare and compared nothing."""
    if exitstatus == 0 and session.testscollected and (reason := _missing(session.config)):
        session.exitstatus = 1
        session.config.get_terminal_writer().line(reason)


def _missing(config):
    """What the session did not do although it should have; None where all is well."""
    session = getattr(config, "_benchmarksession", None)
    measured = {benchmark.fullname for benchmark in session.benchmarks if benchmark} if session else set()
    if not measured:
        return "no benchmark was measured: run with -n 0 and benchmarks enabled"
    if session.compare and not any(measured & saved.keys() for saved in session.compared_mapping.values()):
        return "nothing was compared: no saved run has a benchmark of this one; save one with --benchmark-save"
    return None


def pytest_terminal_summary(terminalreporter, config):
    """Print the measured ratios to peft, which pytest-benchmark keeps in its JSON alone."""
    for benchmark in getattr(getattr(config, "_benchmarksession", None), "benchmarks", []):
        for phase, found in benchmark.extra_info.get("ours_over_peft", {}).items():
            low, high = found["interval"]
            line = f"{benchmark.param:<16}{phase:<9} ours / peft  {found['ratio']:.3f} [{low:.3f}, {high:.3f}]"
            terminalreporter.write_line(line)
