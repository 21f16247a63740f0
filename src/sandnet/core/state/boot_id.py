"""Which boot of the machine the store was last used in: what it remembers of an earlier one's kernel holds no more."""

from __future__ import annotations

from typing import Final

from sandnet.kernel.base import Sysctl
from sandnet.kernel.workers import Workers
from sandnet.stores.base import Delete, Put, Store

BOOT_ID: Final = "kernel/random/boot_id"
"""Kernel parameter that is another one after each boot (random(4))."""
_KEY: Final = "boot"
_PARAMETERS: Final = "sysctl/"
"""Before the names of kernel parameters that were changed, with the values they had."""


class BootId:
    """Keeps one key of the store."""

    def __init__(self, store: Store, sysctl: Sysctl, workers: Workers) -> None:
        self._store = store
        self._sysctl = sysctl
        self._workers = workers

    async def has_rebooted(self) -> bool:
        """Whether the machine was booted since the store was last used. Of a store without the key nobody knows."""
        known = await self._store.get(_KEY)
        return known is not None and known.value != await self._current()

    async def record(self) -> None:
        """Remember this boot. The parameters of an earlier one are forgotten: they have values of their own again."""
        changes = [Put(_KEY, await self._current())]
        earlier = await self._store.list(_PARAMETERS) if await self.has_rebooted() else ()
        await self._store.commit(*changes, *(Delete(entry.key) for entry in earlier))

    async def forget(self) -> None:
        """Remember none: nothing of ours is left."""
        await self._store.commit(Delete(_KEY))

    async def _current(self) -> bytes:
        return (await self._workers.run(self._sysctl.get, BOOT_ID) or "").encode()
