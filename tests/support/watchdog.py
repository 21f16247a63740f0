"""Ends a process of tests that a time limit could not end.

pytest-timeout raises an exception in the main thread. A test that waits for a thread for ever, after the exception or
in code that holds the interpreter lock, goes on waiting. faulthandler's own thread needs no lock: it shows where each
thread is and ends the process. pytest-xdist then reports the test as failed and starts another process.
"""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Generator
from typing import Final

import pytest

GRACE: Final = 60.0
"""Seconds that a test has for its teardown after its time limit."""


class Watchdog:
    """A plugin of pytest; see the module.

    Args:
        grace: seconds after a test's time limit at which the process ends.
    """

    def __init__(self, grace: float = GRACE) -> None:
        self._grace = grace
        self._errors = os.dup(2)  # pytest puts a file in the place of this process's standard error later

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Guard a test with its fixtures."""
        limit = _time_limit(item)
        if not limit:
            return (yield)
        faulthandler.dump_traceback_later(limit + self._grace, exit=True, file=self._errors)
        try:
            return (yield)
        finally:
            faulthandler.cancel_dump_traceback_later()

    def pytest_unconfigure(self) -> None:
        """Close what is open."""
        os.close(self._errors)


def _time_limit(item: pytest.Item) -> float:
    """Return the limit that pytest-timeout has for the test, in seconds; 0 if there is none."""
    marker = item.get_closest_marker("timeout")
    if marker is None:
        return float(item.config.getoption("timeout") or item.config.getini("timeout") or 0)
    return float(marker.args[0] if marker.args else marker.kwargs["timeout"])
