"""The embedded store's own promises: durability, group commit, schema, and a file that is ours alone."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import threading
from itertools import count
from pathlib import Path

import pytest

from sandnet.errors import Error, Kind
from sandnet.stores.base import Changed, Conflict, Entry, Put
from sandnet.stores.sqlite import file, recovery
from sandnet.stores.sqlite import store as store_module
from sandnet.stores.sqlite.store import SqliteStore

DEADLINE = 20.0

WRITER_SCRIPT = """
import asyncio, sys
from pathlib import Path
from sandnet.stores.base import Put
from sandnet.stores.sqlite.store import SqliteStore

async def write(store, worker):
    for n in range(100_000):
        await store.commit(Put(f"a/{worker}/{n}", b"x" * 500, expect=0), Put(f"b/{worker}/{n}", b"y", expect=0))
        sys.stdout.write(f"{worker}/{n}\\n")
        sys.stdout.flush()

async def main():
    store = SqliteStore(Path(sys.argv[1]))
    await store.open()
    await asyncio.gather(*(write(store, worker) for worker in range(5)))

asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "sandnet.db"


async def opened(path: Path) -> SqliteStore:
    store = SqliteStore(path)
    await store.open()
    return store


class Disk:
    """Counts the transactions that the writer makes durable, and can hold them up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.commits = 0
        self.reached = threading.Event()
        self.free = threading.Event()
        self.free.set()
        real = file.open_file

        def open_file(path: Path, before: object = None) -> sqlite3.Connection:
            connection = real(path)
            connection.set_trace_callback(self._statement)
            return connection

        monkeypatch.setattr(recovery, "open_file", open_file)

    def _statement(self, statement: str) -> None:
        if statement == "COMMIT":
            self.commits += 1
            self.reached.set()
            self.free.wait(DEADLINE)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


async def test_reopened_store_continues_entries_and_revisions(path: Path) -> None:
    first = await opened(path)
    await first.commit(Put("a", b"1"))
    await first.commit(Put("b", b"2"))
    await first.close()

    second = await opened(path)
    assert await second.list("") == [Entry("a", b"1", 1), Entry("b", b"2", 2)]
    assert await second.commit(Put("c", b"3")) == 3
    await second.close()


async def test_store_used_before_opening_is_unavailable(path: Path) -> None:
    with pytest.raises(Error) as caught:
        await SqliteStore(path).get("a")
    assert caught.value.kind is Kind.UNAVAILABLE


def acknowledged_before_kill(path: Path) -> list[str]:
    with subprocess.Popen([sys.executable, "-c", WRITER_SCRIPT, str(path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(300)]
        child.send_signal(signal.SIGKILL)
        lines += child.stdout
    return [line.strip() for line in lines if line.endswith("\n")]


async def test_every_acknowledged_commit_survives_a_killed_writer(
    path: Path,
) -> None:
    acknowledged = acknowledged_before_kill(path)

    store = await opened(path)
    first = {entry.key.removeprefix("a/"): entry.revision for entry in await store.list("a/")}
    second = {entry.key.removeprefix("b/"): entry.revision for entry in await store.list("b/")}
    await store.close()
    assert len(acknowledged) >= 300
    assert set(acknowledged) <= set(first)
    assert first == second


async def test_waiting_commits_share_a_transaction_on_slow_storage(path: Path, disk: Disk) -> None:
    store = await opened(path)
    disk.free.clear()
    first = asyncio.create_task(store.commit(Put("first", b"")))
    assert await asyncio.to_thread(disk.reached.wait, DEADLINE)
    rest = [asyncio.create_task(store.commit(Put(f"k/{n}", b"", expect=0))) for n in range(50)]
    spoiled = asyncio.create_task(store.commit(Put("first", b"", expect=0)))
    await asyncio.sleep(0)
    disk.free.set()

    assert await first == 1
    assert await asyncio.gather(*rest) == list(range(2, 52))
    with pytest.raises(Conflict):
        await spoiled
    assert disk.commits == 2
    await store.close()


async def test_reads_during_a_stuck_commit_return_old_state_at_once(path: Path, disk: Disk) -> None:
    store = await opened(path)
    await store.commit(Put("a", b"old"))
    disk.reached.clear()
    disk.free.clear()
    stuck = asyncio.create_task(store.commit(Put("a", b"new")))
    assert await asyncio.to_thread(disk.reached.wait, DEADLINE)

    async with asyncio.timeout(DEADLINE / 2):
        assert await store.get("a") == Entry("a", b"old", 1)
        assert await store.list("") == [Entry("a", b"old", 1)]
    assert not stuck.done()

    disk.free.set()
    await stuck
    assert await store.get("a") == Entry("a", b"new", 2)
    await store.close()


async def test_cancelled_commit_completes_before_the_cancellation(path: Path, disk: Disk) -> None:
    store = await opened(path)
    disk.free.clear()
    commit = asyncio.create_task(store.commit(Put("a", b"")))
    assert await asyncio.to_thread(disk.reached.wait, DEADLINE)
    commit.cancel()
    for _ in range(5):  # rounds of the event loop: one is enough for a cancellation that nothing holds back
        await asyncio.sleep(0)
    assert not commit.done()

    disk.free.set()
    with pytest.raises(asyncio.CancelledError):
        await commit
    assert await store.get("a") is not None
    await store.close()


@pytest.mark.parametrize(
    "trouble",
    [
        "PRAGMA max_page_count = 10",  # a full disk: SQLite rolls back by itself
        "CREATE TEMP TRIGGER fail BEFORE INSERT ON entries WHEN new.key = 'big' BEGIN SELECT RAISE(ABORT, 'x'); END",
    ],
)
async def test_failed_transaction_is_unavailable_and_writes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    real = file.open_file

    def open_file(path: Path, before: object = None) -> sqlite3.Connection:
        connection = real(path)
        connection.execute(trouble)
        return connection

    monkeypatch.setattr(recovery, "open_file", open_file)
    store = await opened(path)
    await store.commit(Put("small", b""))

    with pytest.raises(Error) as caught:
        await store.commit(Put("a", b""), Put("big", bytes(100_000)))
    assert caught.value.kind is Kind.UNAVAILABLE

    assert [entry.key for entry in await store.list("")] == ["small"]
    assert await store.commit(Put("next", b"")) == 2
    await store.close()


def key_in_file(path: Path, key: str) -> bool:
    """Whether the file itself has it, whatever is in its log."""
    return key.encode() in path.read_bytes()


async def until_in_file(path: Path, key: str) -> None:
    async with asyncio.timeout(DEADLINE):
        while not key_in_file(path, key):  # noqa: ASYNC110 - nothing reports a checkpoint
            await asyncio.sleep(0.01)


async def test_commit_reaches_the_file_soon_and_does_not_wait_for_that(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "CHECKPOINT", 0.05)
    store = await opened(path)
    for number in range(2):
        await store.commit(Put(f"intent{number}", b"1"), durable=False)
        assert not key_in_file(path, f"intent{number}")
        await until_in_file(path, f"intent{number}")
    assert store.problems() == []
    await store.close()


async def test_commits_without_a_pause_do_not_prevent_a_checkpoint(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "CHECKPOINT", 0.05)
    store = await opened(path)
    await store.commit(Put("first", b"1"), durable=False)

    async def write(worker: int) -> None:
        for number in count():
            await store.commit(Put(f"{worker}", str(number).encode()), durable=False)

    writing = [asyncio.create_task(write(worker)) for worker in range(3)]
    await until_in_file(path, "first")
    for task in writing:
        task.cancel()
    await asyncio.wait(writing)
    await store.close()


async def test_closing_during_a_pending_checkpoint_ends(path: Path) -> None:
    store = await opened(path)
    await store.commit(Put("a", b"1"), durable=False)
    await store.close()
    assert key_in_file(path, "a")


async def test_commit_cancelled_as_it_ends_does_not_hang() -> None:
    pending = store_module._PendingCommit((Put("a", b""),), durable=True)
    waiting = asyncio.create_task(pending.wait())
    await asyncio.wait([waiting], timeout=0)
    waiting.cancel()
    pending.finish(Changed((), (), 1))
    await asyncio.wait([waiting], timeout=DEADLINE)
    assert waiting.cancelled()
