"""Remember the boot in which the store was last used: the kernel state of an earlier boot no longer exists."""

from __future__ import annotations

from typing import Final

from sandnet.core.state import schema
from sandnet.drivers.sysctls import PREFIX as SYSCTLS
from sandnet.kernel.base import Sysctl
from sandnet.kernel.workers import Workers
from sandnet.stores.base import Delete, Put, Store

BOOT_ID: Final = "kernel/random/boot_id"
"""The kernel parameter that has another value after each boot (random(4))."""


class BootId:
    """The boot id that the store was last used with; it is kept under one key of the store."""

    def __init__(self, store: Store, sysctl: Sysctl, workers: Workers) -> None:
        self._store = store
        self._sysctl = sysctl
        self._workers = workers

    async def has_rebooted(self) -> bool:
        """Return whether the machine was booted since the store was last used; false for a store without a boot id."""
        known = await self._store.get(schema.BOOT)
        return known is not None and known.value != await self._current()

    async def record(self) -> None:
        """Record the current boot.

        After a reboot, forget the original values of kernel parameters: the kernel has reset them.
        """
        changes = [Put(schema.BOOT, await self._current())]
        earlier = await self._store.list(SYSCTLS) if await self.has_rebooted() else ()
        await self._store.commit(*changes, *(Delete(entry.key) for entry in earlier))

    async def forget(self) -> None:
        """Delete the record: nothing that the daemon made is left."""
        await self._store.commit(Delete(schema.BOOT))

    async def _current(self) -> bytes:
        return (await self._workers.run(self._sysctl.get, BOOT_ID) or "").encode()
