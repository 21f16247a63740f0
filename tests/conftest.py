"""In continuous integration (``CI`` is set) a kernel or end-to-end test that cannot run has failed.

The exceptions are a feature that the kernel was built without, and a right that root does not have on the machine. Such
a skip is listed by name (``-ra``) and counted.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.daemon_pair import daemon, daemons, directories, fresh_daemon, nameless_daemons
from tests.support.watchdog import Watchdog

__all__ = ["daemon", "daemons", "directories", "fresh_daemon", "nameless_daemons"]

TESTS = Path(__file__).parent
UNAVOIDABLE = ("this kernel has no", "this machine does not let")
"""How the reason of a skip begins that no installation avoids: a kernel without a feature, root without a right."""
MUST_RUN = tuple(TESTS / name for name in ("kernel", "e2e", "contract", "crash", "stress"))

# How long an example or its generation takes depends on the machine. Where CI is set, examples are always the same.
# The profile "quick" is for `make unit`.
settings.register_profile(
    "patient",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
    print_blob=True,
)
settings.register_profile("quick", parent=settings.get_profile("patient"), max_examples=20, stateful_step_count=20)
settings.load_profile("patient")


def pytest_configure(config: pytest.Config) -> None:
    """Limit how long tests may hang, heed interrupts and hang-ups, and let what the tests start heed them.

    A shell ignores SIGINT for what it puts in the background, and nohup ignores SIGHUP; children inherit that.
    """
    config.pluginmanager.register(Watchdog())
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Let the garbage collector leave out what exists before the first test: modules, and thousands of tests."""
    gc.collect()
    gc.freeze()


@contextmanager
def _without_collection() -> Iterator[None]:
    """Keep the garbage collector from running. Destructors that it runs while source is parsed, as the report of a
    failure does, may end the whole run by a SystemError of ``ast`` in Python before 3.11.8 (its issue 106905)."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _refuse(report: pytest.TestReport | pytest.CollectReport, path: Path) -> None:
    if os.environ.get("CI") and report.skipped and any(path.is_relative_to(folder) for folder in MUST_RUN):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        if any(words in str(reason) for words in UNAVOIDABLE):
            return
        report.outcome = "failed"
        report.longrepr = f"must not be skipped where CI is set: {reason}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that skipped itself; one that is expected to fail may go on doing so."""
    with _without_collection():
        report = yield
    if not hasattr(report, "wasxfail"):
        _refuse(report, item.path)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A module that skipped itself as a whole."""
    report = yield
    _refuse(report, collector.path)
    return report
