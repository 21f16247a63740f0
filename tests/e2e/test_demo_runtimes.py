"""The demonstration with real programs (``make demo-runtimes``), which stops at the first broken promise."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.docker_engine import missing
from tests.support.privileges import TAPS_NEED

SCRIPTS = Path(__file__).parents[2] / "scripts"
NEEDS = missing() or TAPS_NEED
ASKERS = ("job", "web", "vm")
"""The process, the container and the virtual machine."""


@pytest.mark.attaches("command", "docker", "qemu")
@pytest.mark.timeout(300)
@pytest.mark.skipif(bool(NEEDS), reason=NEEDS)
def test_process_container_and_machine_find_each_other_by_name() -> None:
    """It runs on a private host of its own, as from the shell."""
    environment = {name: value for name, value in os.environ.items() if name != "SANDNET_PRIVATE_HOST"}
    done = subprocess.run(
        [sys.executable, SCRIPTS / "demo-runtimes"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    promises = [line for line in done.stdout.splitlines() if line.startswith("ok: ")]
    for asker, asked in itertools.permutations(ASKERS, 2):
        assert f"ok: {asker} reaches {asked} by its name" in promises
    assert promises[-1].endswith("are as they were")


def test_demonstration_names_what_it_needs(tmp_path: Path) -> None:
    """A search path without the programs stands for a machine without the packages."""
    done = subprocess.run(
        [sys.executable, SCRIPTS / "demo-runtimes"],
        capture_output=True,
        text=True,
        env={"PATH": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("demo-runtimes: ")
    assert "docker.io" in done.stderr or "root" in done.stderr
