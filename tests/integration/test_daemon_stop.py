"""The end of a daemon in which something hangs."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from sandnet import daemon
from sandnet.config import Config
from sandnet.stores.sqlite.recovery import generations, open_or_salvage

HANGING = """
import time
from concurrent.futures import ThreadPoolExecutor
from sandnet.daemon import end_within

ThreadPoolExecutor(1).submit(time.sleep, 60)
end_within(0.1)
"""


def test_hanging_worker_lets_the_daemon_exit_with_a_message() -> None:
    began = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=50)
    assert ended.returncode == 1
    assert "something has hung for 0.1 s" in ended.stderr
    assert time.monotonic() - began < 40


def test_killed_removal_leaves_no_copy_treated_as_lost_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class KilledError(BaseException):
        """In place of a signal."""

    config = Config(state_dir=str(tmp_path / "state"), run_dir=str(tmp_path / "run"), sandbox_dir=str(tmp_path / "ns"))
    store = Path(config.state_dir, "sandnet.db")
    unlink = Path.unlink
    for room in count():
        open_or_salvage(store).connection.close()
        for copy in generations(store):
            copy.write_bytes(store.read_bytes())
        left = iter(range(room))

        def one_less(path: Path, *, missing_ok: bool = False, left: object = left) -> None:
            if path.parent == store.parent and next(left, None) is None:  # type: ignore[call-overload]
                raise KilledError
            unlink(path, missing_ok=missing_ok)

        with monkeypatch.context() as patched, suppress(KilledError):
            patched.setattr(Path, "unlink", one_less)
            daemon._remove_own_files(config)
            break
        opened = open_or_salvage(store)
        opened.connection.close()
        assert not opened.problems
    assert room > 2
