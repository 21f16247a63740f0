"""The end of a daemon in which something hangs."""

from __future__ import annotations

import subprocess
import sys
import time

HANGING = """
import time
from concurrent.futures import ThreadPoolExecutor
from sandnet.daemon import end_within

ThreadPoolExecutor(1).submit(time.sleep, 60)
end_within(0.1)
"""


def test_given_a_worker_that_hangs_when_the_daemon_stops_then_it_ends_and_says_so() -> None:
    began = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=50)
    assert ended.returncode == 1
    assert "something has hung for 0.1 s" in ended.stderr
    assert time.monotonic() - began < 40
