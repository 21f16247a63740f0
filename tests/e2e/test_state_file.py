"""The state file's disk is full, read-only or shows something else: clear words, and a way on."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sandnet.core.recovery.garbage_collector import INTERVAL as COLLECTED
from sandnet.stores.sqlite.backups import INTERVAL
from tests.support.daemon import SANDNET, RefusedError, RunningDaemon, is_possible
from tests.support.privileges import needs_other_users
from tests.support.traffic import until

pytestmark = pytest.mark.timeout(120)
PAGE = 4096
ROUNDS = 18
"""Of changes while the disk is full; what they may take for their log is a part of the ballast."""


@pytest.fixture
def stopped(daemon: RunningDaemon) -> RunningDaemon:
    daemon.stop()
    return daemon


@pytest.fixture
def small(stopped: RunningDaemon) -> Iterator[RunningDaemon]:
    """A daemon whose state is on a file system of its own, of 1 MiB."""
    stopped.host.sh("mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "state", str(stopped.state))
    stopped.start()  # which finds the predefined network again, and reports so until the next start
    stopped.stop()
    stopped.start()
    yield stopped
    if stopped.is_running():
        stopped.stop()
    stopped.host.sh("umount", str(stopped.state))


def run(path: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return connection.execute(statement).fetchall()


def refused_start(daemon: RunningDaemon) -> str:
    """What a daemon that does not start reports, in a few lines."""
    command = [str(SANDNET), "daemon", *daemon.directories]
    result = daemon.host.run(lambda: subprocess.run(command, capture_output=True, text=True, timeout=30, check=False))
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert result.stderr.count("\n") == 2  # what is wrong, and what to do
    return result.stderr


def fill(daemon: RunningDaemon) -> Path:
    """Leave no byte free beside the store."""
    ballast = daemon.state / "ballast"

    def write() -> None:
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1024))

    daemon.host.run(write)
    return ballast


def refused(daemon: RunningDaemon, name: str) -> RefusedError | None:
    try:
        daemon.api.network(name)
    except RefusedError as refusal:
        return refusal
    return None


def fails_for_want_of_room(daemon: RunningDaemon) -> str:
    """Create networks until the disk has no room for one more; what is reported then."""
    refusal = next(filter(None, (refused(daemon, f"more-{number}") for number in range(200))))
    assert (refusal.status, refusal.body["code"]) == (503, "store_unavailable")
    return refusal.message


def test_full_disk_returns_503_on_create_and_reads_continue(
    small: RunningDaemon,
) -> None:
    small.api.network("before")
    ballast = fill(small)
    message = fails_for_want_of_room(small)
    assert "full" in message
    names = [net["name"] for net in small.api.get("/networks")]
    assert "before" in names
    health = small.api.get("/healthz")
    assert health["status"] == "degraded"
    assert "full" in str(health["problems"])

    small.host.run(ballast.unlink)
    small.api.network("after")
    until(lambda: small.api.get("/healthz")["status"] == "ok")  # a copy that failed is written later
    small.stop()
    small.start()
    reported = [net["name"] for net in small.api.get("/networks")]
    assert [*names, "after"] == reported


def shrink(ballast: Path, pages: int) -> None:
    """Free some pages: enough for the first commit of a change perhaps, and not for the last."""
    os.truncate(ballast, max(0, ballast.stat().st_size - pages * PAGE))


def phases(daemon: RunningDaemon) -> set[str]:
    """The phases of the records in the store."""
    statement = "select value from entries where key glob '[anes]*/*'"
    values = daemon.host.run(run, daemon.state / "sandnet.db", statement)
    records = (json.loads(value) for (value,) in values)
    return {record["phase"] for record in records if isinstance(record, dict) and "phase" in record}


def test_full_disk_leaves_nothing_when_it_has_room_again(small: RunningDaemon) -> None:
    api, refused, left = small.api, 0, set[str]()
    api.network("blue")
    ballast = fill(small)
    for number in range(ROUNDS):
        port = {"proto": 6, "port": 80, "host_port": 8000 + number}
        name, container = f"web{number}", f"c{number}"
        changes: list[Callable[[], object]] = [
            partial(api.endpoint, "blue", name, port),
            partial(api.join, "blue", name, container),
            partial(api.leave, "blue", name, container),
            partial(api.delete, f"/networks/blue/endpoints/{name}"),
        ]
        for change in changes:
            small.host.run(shrink, ballast, number % 6)
            refused += not is_possible(change)
            left |= phases(small)
    small.host.run(ballast.unlink)
    assert refused
    assert left > {"ready"}, "no change was left half-way"
    until(lambda: phases(small) == {"ready"}, 2 * COLLECTED + 10)
    api.clear()


def test_start_on_a_full_disk_reports_it(stopped: RunningDaemon) -> None:
    stopped.host.sh("mount", "-t", "tmpfs", "-o", "size=8k,mode=0700", "state", str(stopped.state))
    fill(stopped)
    try:
        assert "No space left on device" in refused_start(stopped) or "full" in refused_start(stopped)
    finally:
        stopped.host.sh("umount", str(stopped.state))


def test_start_on_a_read_only_disk_reports_it(stopped: RunningDaemon) -> None:
    stopped.host.sh("mount", "--bind", str(stopped.state), str(stopped.state))
    stopped.host.sh("mount", "-o", "remount,bind,ro", str(stopped.state))
    try:
        assert "Read-only file system" in refused_start(stopped)
    finally:
        stopped.host.sh("umount", str(stopped.state))


def test_start_with_a_directory_as_state_file_reports_it(stopped: RunningDaemon) -> None:
    path = stopped.state / "sandnet.db"
    path.rename(stopped.state / "kept")
    path.mkdir()
    try:
        assert "is a directory" in refused_start(stopped)
    finally:
        path.rmdir()
        (stopped.state / "kept").rename(path)


@needs_other_users
@pytest.mark.parametrize("what", ["state", "state/sandnet.db"])
def test_start_with_a_state_file_of_another_owner_reports_it(stopped: RunningDaemon, what: str) -> None:
    os.chown(stopped.folder / what, 12345, -1)
    try:
        printed = refused_start(stopped)
        assert "another user owns it" in printed or "belongs to user 12345" in printed
    finally:
        os.chown(stopped.folder / what, 0, -1)


def test_start_with_a_newer_schema_reports_it(stopped: RunningDaemon) -> None:
    path = stopped.state / "sandnet.db"
    before = path.read_bytes()
    run(path, "PRAGMA user_version = 99")
    try:
        assert "schema version 99" in refused_start(stopped)
    finally:
        path.write_bytes(before)


def test_state_copy_is_written_after_a_quiet_interval(daemon: RunningDaemon) -> None:
    network = daemon.api.network("copied")

    def holds() -> bool:
        copy = f"file:{daemon.state}/sandnet.db.backup?mode=ro"  # else sqlite makes one while the daemon renames them
        query = f"select value from entries where key = 'network/{network}'"
        with suppress(sqlite3.OperationalError), closing(sqlite3.connect(copy, uri=True)) as connection:
            found = connection.execute(query).fetchall()
            return bool(found) and json.loads(str(found[0][0], "utf-8"))["phase"] == "ready"
        return False

    until(holds, 2 * INTERVAL)  # the copy of what a start changes may have come before


def state(daemon: RunningDaemon, *words: str) -> subprocess.CompletedProcess[str]:
    """``sandnet state`` with the daemon's directories; the last word is the file."""
    command = [str(SANDNET), "state", words[0], *daemon.directories, *words[1:]]
    return daemon.host.run(lambda: subprocess.run(command, capture_output=True, text=True, timeout=30, check=False))


def test_exported_state_can_be_imported_after_the_stop(
    daemon: RunningDaemon,
) -> None:
    daemon.api.network("kept")
    daemon.api.endpoint("kept", "web", labels={"tier": "front"})
    before = daemon.api.get("/services", verbose="true")
    document = daemon.folder / "state.json"
    assert state(daemon, "export", str(document)).returncode == 0
    assert document.stat().st_mode & 0o777 == 0o600
    assert json.loads(state(daemon, "export").stdout) == json.loads(document.read_text())
    daemon.api.delete("/networks/kept/endpoints/web")

    running = state(daemon, "import", "--replace", str(document))
    assert (running.returncode, "another" in running.stderr) == (1, True)
    daemon.stop()
    full = state(daemon, "import", str(document))
    assert (full.returncode, "--replace" in full.stderr) == (1, True)
    (daemon.folder / "nonsense.json").write_text("{}")
    assert state(daemon, "import", "--replace", str(daemon.folder / "nonsense.json")).returncode == 1
    replaced = state(daemon, "import", "--replace", str(document))
    assert (replaced.returncode, "sandnet.db.replaced-" in replaced.stderr) == (0, True)
    daemon.start()
    assert daemon.api.get("/services", verbose="true") == before
    until(lambda: daemon.api.get("/healthz")["status"] == "ok")
