"""The daemon's process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sandnet.config import Config
from sandnet.daemon import _remove_own_files

SPARED = """
import gc
from sandnet.daemon import YOUNG_OBJECTS, spare_garbage_collection

before = gc.get_freeze_count()
spare_garbage_collection()
assert gc.isenabled() and gc.get_threshold()[0] == YOUNG_OBJECTS
assert gc.get_freeze_count() > before + 10_000 > 10 * len(gc.get_objects())
"""


def test_objects_of_the_start_are_not_garbage_collected() -> None:
    subprocess.run([sys.executable, "-c", SPARED], check=True, timeout=60)


STATE_FILES = ("sandnet.db", "sandnet.db-wal", "sandnet.db.backup", "lock", "wireguard.json")
RUN_FILES = ("sandnet.sock", "sandnet.pid", "daemon.log", "dns.sock", "dns.log", "wireguard.log")


def files_of_a_daemon(folder: Path) -> Config:
    """The configuration of a daemon whose networks are removed, and whose own files are there."""
    state, run, namespaces = folder / "state", folder / "run", folder / "netns"
    for each in (state, run, run / "sandboxes", namespaces):
        each.mkdir()
    for path in (*(state / name for name in STATE_FILES), *(run / name for name in RUN_FILES)):
        path.touch()
    socket = f"unix://{run}/sandnet.sock"
    return Config(hosts=(socket,), state_dir=str(state), run_dir=str(run), sandbox_dir=str(namespaces))


def test_down_leaves_no_file_of_the_daemon(tmp_path: Path) -> None:
    _remove_own_files(files_of_a_daemon(tmp_path))
    assert not [*tmp_path.iterdir()]


def test_down_leaves_directories_with_files_of_others(tmp_path: Path) -> None:
    config = files_of_a_daemon(tmp_path)
    others = [Path(folder, "notes") for folder in (config.state_dir, config.run_dir)]
    for path in others:
        path.touch()
    _remove_own_files(config)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(others)
