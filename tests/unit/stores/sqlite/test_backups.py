"""When backups of the embedded store are written."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from sandnet.stores.sqlite import backups
from sandnet.stores.sqlite.backups import Backups
from tests.support.conditions import until


async def test_change_during_a_backup_gets_a_backup_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written, go_on = list[Path](), threading.Event()

    def write(path: Path) -> None:
        written.append(path)
        assert go_on.wait(30)

    monkeypatch.setattr(backups, "write_backup", write)
    made = Backups(tmp_path / "db", delay=0.0, interval=0.0)
    made.changed()
    await until(lambda: len(written) == 1)
    made.changed()
    go_on.set()
    await until(lambda: len(written) == 2)
    await made.close()
    assert len(written) == 2


async def test_close_writes_what_has_no_backup_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written, go_on = list[Path](), threading.Event()

    def write(path: Path) -> None:
        written.append(path)
        assert go_on.wait(30)

    monkeypatch.setattr(backups, "write_backup", write)
    made = Backups(tmp_path / "db", delay=0.0, interval=3600.0)
    made.changed()
    await until(lambda: len(written) == 1)
    made.changed()
    go_on.set()
    await made.close()
    assert len(written) == 2
