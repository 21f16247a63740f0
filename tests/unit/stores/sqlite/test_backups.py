"""When backups of the embedded store are written."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from sandnet.stores.sqlite import backups
from sandnet.stores.sqlite.backups import Backups
from tests.support.conditions import until

STORE = Path("/absent/db")


class SlowWriter:
    """Takes the place of what writes a backup: it waits until the test lets it finish."""

    def __init__(self) -> None:
        self.written: list[Path] = []
        self.may_finish = threading.Event()

    def write(self, path: Path) -> None:
        self.written.append(path)
        assert self.may_finish.wait(30)


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> SlowWriter:
    made = SlowWriter()
    monkeypatch.setattr(backups, "write_backup", made.write)
    return made


async def changed_during_a_backup(made: Backups, writer: SlowWriter) -> None:
    made.changed()
    await until(lambda: len(writer.written) == 1)
    made.changed()
    writer.may_finish.set()


async def test_change_during_a_backup_gets_a_backup_of_its_own(writer: SlowWriter) -> None:
    made = Backups(STORE, delay=0.0, interval=0.0)
    await changed_during_a_backup(made, writer)
    await until(lambda: len(writer.written) == 2)
    await made.close()
    assert len(writer.written) == 2


async def test_close_writes_what_has_no_backup_once(writer: SlowWriter) -> None:
    made = Backups(STORE, delay=0.0, interval=3600.0)
    await changed_during_a_backup(made, writer)
    await made.close()
    assert len(writer.written) == 2
