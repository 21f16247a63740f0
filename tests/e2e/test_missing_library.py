"""A host without libnftables, and one without libseccomp."""

from __future__ import annotations

import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support.daemon import SANDNET, RunningDaemon
from tests.support.network_host import eventually

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
def test_missing_libnftables_error_names_the_package(fresh_daemon: RunningDaemon, words: tuple[str, ...]) -> None:
    daemon = fresh_daemon
    (daemon.folder / "libnftables.so.1").touch()  # the loader finds no library in it
    environment = {"LD_LIBRARY_PATH": str(daemon.folder), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    command = [str(SANDNET), *words]
    ended = daemon.host.run(
        lambda: subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    )
    assert ended.returncode != 0
    assert "libnftables.so.1" in ended.stderr
    assert "apt-get install libnftables1" in ended.stderr


def test_missing_libseccomp_is_reported_and_names_resolve(fresh_daemon: RunningDaemon) -> None:
    daemon, api = fresh_daemon, fresh_daemon.api
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # the resolver's user looks there
        Path(folder, "libseccomp.so.2").touch()
        daemon.start(through=["env", f"LD_LIBRARY_PATH={folder}"])
        eventually(lambda: api.get("/healthz")["problems"])
    (problem,) = api.get("/healthz")["problems"]
    assert problem.endswith("libseccomp.so.2 is missing: apt-get install libseccomp2")
    api.network("blue")
    web, other = daemon.sandbox("blue", "web"), daemon.sandbox("blue", "other")
    assert web.address in other.sh("dig", "+short", "@127.0.0.11", "web")
    api.clear()
    daemon.stop()
    daemon.down()
