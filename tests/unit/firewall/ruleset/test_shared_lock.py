"""Changes of the firewall side by side, and whoever must be alone with it."""

from __future__ import annotations

import asyncio

import pytest

from sandnet.firewall.ruleset.shared_lock import SharedLock


class Stage:
    """Tasks that go on stage and stay there until they are sent off; no clock decides anything."""

    def __init__(self) -> None:
        self.turns = SharedLock()
        self.on: set[str] = set()
        self._off: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def call(self, name: str, *, alone: bool = False) -> None:
        """Another program wants to go on; when this returns everybody is as far as they can be."""
        self._off[name] = asyncio.Event()
        self._tasks[name] = asyncio.create_task(self._act(name, alone=alone))
        await self._settled()

    async def send_off(self, name: str) -> None:
        self._off[name].set()
        await self._tasks[name]
        await self._settled()

    async def cancel(self, name: str) -> None:
        self._tasks[name].cancel()
        with pytest.raises(asyncio.CancelledError):
            await self._tasks[name]
        await self._settled()

    async def _act(self, name: str, *, alone: bool) -> None:
        async with self.turns.exclusive() if alone else self.turns.shared():
            self.on.add(name)
            try:
                await self._off[name].wait()
            finally:
                self.on.remove(name)

    @staticmethod
    async def _settled() -> None:
        for _ in range(20):  # more rounds of the loop than any of this needs
            await asyncio.sleep(0)


async def test_shared_changes_run_concurrently() -> None:
    stage = Stage()
    for name in "abc":
        await stage.call(name)
    assert stage.on == {"a", "b", "c"}


async def test_exclusive_change_waits_for_running_and_blocks_new_ones() -> None:
    stage = Stage()
    await stage.call("a")
    await stage.call("b")
    await stage.call("repair", alone=True)
    await stage.call("late")
    assert stage.on == {"a", "b"}
    await stage.send_off("a")
    assert stage.on == {"b"}
    await stage.send_off("b")
    assert stage.on == {"repair"}
    await stage.send_off("repair")
    assert stage.on == {"late"}


async def test_two_exclusive_changes_run_one_after_the_other() -> None:
    stage = Stage()
    await stage.call("first", alone=True)
    await stage.call("second", alone=True)
    assert stage.on == {"first"}
    await stage.send_off("first")
    assert stage.on == {"second"}


@pytest.mark.parametrize("alone", [False, True])
async def test_cancelled_running_change_releases_its_slot(*, alone: bool) -> None:
    stage = Stage()
    await stage.call("victim", alone=alone)
    await stage.cancel("victim")
    await stage.call("repair", alone=True)
    assert stage.on == {"repair"}
    await stage.send_off("repair")
    await stage.call("a")
    assert stage.on == {"a"}


async def test_cancelled_waiting_exclusive_change_blocks_no_others() -> None:
    stage = Stage()
    await stage.call("a")
    await stage.call("repair", alone=True)
    await stage.call("late")
    await stage.cancel("repair")
    assert stage.on == {"a", "late"}


async def test_cancelled_waiter_does_not_delay_the_next_repair() -> None:
    stage = Stage()
    await stage.call("repair", alone=True)
    await stage.call("victim")
    await stage.cancel("victim")
    await stage.send_off("repair")
    await stage.call("again", alone=True)
    assert stage.on == {"again"}
