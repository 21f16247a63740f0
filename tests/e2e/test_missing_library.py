"""A host without libnftables."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.daemon import SANDNET, RunningDaemon

NOWHERE = ("-H", "unix:///nowhere/sandnet.sock")


@pytest.mark.parametrize(
    "words",
    [
        ("daemon",),
        (*NOWHERE, "run", "--", "true"),
        (*NOWHERE, "run", "-d", "--", "true"),
        (*NOWHERE, "doctor"),
        (*NOWHERE, "network", "ls"),
    ],
    ids=" ".join,
)
def test_missing_libnftables_error_names_the_package(fresh_world: RunningDaemon, words: tuple[str, ...]) -> None:
    daemon = fresh_world
    (daemon.folder / "libnftables.so.1").touch()  # the loader finds no library in it
    environment = {"LD_LIBRARY_PATH": str(daemon.folder), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    command = [str(SANDNET), *words]
    ended = daemon.host.run(
        lambda: subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    )
    assert ended.returncode != 0
    assert "libnftables.so.1" in ended.stderr
    assert "apt-get install libnftables1" in ended.stderr
