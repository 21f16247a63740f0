"""Run pytest; run tests that failed again, by themselves.

``python -m tests.support.flaky ARGUMENTS`` is ``python -m pytest ARGUMENTS`` for continuous integration, whose machines
are slow now and then, or stand still for seconds. A test that fails beside others and passes alone, several times, is
named at the end as unstable. It is a fault to mend, in the test or in sandnet, but no reason to refuse what was tested.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

MOST: Final = 10
"""Tests that may be unstable in one run. Where more fail, something is wrong with all of them."""
TIMES: Final = 3
"""How often in a row an unstable test passes by itself."""


def main(arguments: Sequence[str]) -> int:
    """Run pytest with these arguments; return its exit status, or 0 if all that failed passes by itself."""
    with tempfile.TemporaryDirectory() as cache:
        status = _pytest(["-o", f"cache_dir={cache}", *arguments])
        failed = _failed(Path(cache))
    if status != pytest.ExitCode.TESTS_FAILED or not 0 < len(failed) <= MOST:
        return status
    for turn in range(1, TIMES + 1):
        print(f"\nBy themselves, {turn} of {TIMES}: {', '.join(failed)}", flush=True)
        if again := _pytest(["-p", "no:cacheprovider", *failed]):
            return again
    print("".join(f"UNSTABLE {each} - failed beside other tests, passed {TIMES} times by itself\n" for each in failed))
    return pytest.ExitCode.OK


def _pytest(arguments: Sequence[str]) -> int:
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], check=False).returncode


def _failed(cache: Path) -> list[str]:
    """Return the tests that failed in the run that had this directory for its cache."""
    found = cache / "v/cache/lastfailed"
    return sorted(json.loads(found.read_text())) if found.exists() else []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
