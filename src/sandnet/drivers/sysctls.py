"""Kernel parameters of the host that sandnet changes, with their previous values, which ``down`` restores."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from sandnet.errors import Error
from sandnet.kernel.base import Sysctl
from sandnet.kernel.workers import Workers
from sandnet.stores.base import Conflict, Delete, Entry, Put, Store

_log = logging.getLogger(__name__)

PREFIX: Final = "sysctl/"
"""Of the keys of the store: the path of a parameter, with the value that it had before we changed it."""


class SysctlManager:
    """Setter of parameters, which stores what each was before its first change."""

    def __init__(self, sysctl: Sysctl, store: Store, workers: Workers) -> None:
        self._sysctl = sysctl
        self._store = store
        self._workers = workers
        self._set: dict[str, str] = {}
        self._lock = asyncio.Lock()
        """The lock of all writers.

        Two concurrent writes of ``ip_forward`` can leave it on for all and off for each link: the kernel restarts such
        a write when its lock is busy, and takes the other's value for the one to restore.
        """

    async def ensure(self, name: str, value: str) -> None:
        """Set the parameter to ``value``, once per run; a parameter that does not exist is skipped.

        Raises:
            Error: ``UNAVAILABLE`` when it cannot be written.
        """
        async with self._lock:
            if name not in self._set:
                await self._change(name, value)
                self._set[name] = value

    async def _change(self, name: str, value: str) -> None:
        before = await self._workers.run(self._sysctl.get, name)
        if before is None or before == value:
            return
        await self.remember(name, before)  # an earlier run may have stored it without restoring it
        await self._workers.run(self._sysctl.set, name, value)

    async def remember(self, name: str, value: str) -> None:
        """Store the value that a parameter is restored to in the end, unless another value of it is stored already."""
        with suppress(Conflict):
            await self._store.commit(Put(PREFIX + name, value.encode(), 0))

    async def remembered(self) -> dict[str, str]:
        """Return the values that parameters had before their first change."""
        return {entry.key.removeprefix(PREFIX): entry.value.decode() for entry in await self._store.list(PREFIX)}

    async def changed(self) -> list[str]:
        """Return the parameters that another program changed after sandnet set them."""
        return await self._workers.run(self._changed, dict(self._set))

    async def reapply(self) -> None:
        """Set again what was changed.

        Raises:
            Error: ``UNAVAILABLE`` when one cannot be written.
        """
        async with self._lock:
            for name in await self._workers.run(self._changed, dict(self._set)):
                await self._workers.run(self._sysctl.set, name, self._set[name])

    def _changed(self, desired: Mapping[str, str]) -> list[str]:
        found = {name: self._sysctl.get(name) for name in desired}
        return [name for name, value in desired.items() if found[name] not in (None, value)]

    async def restore(self, only: str = "") -> None:
        """Restore every changed parameter, or one, to its previous value; one that refuses is logged and forgotten."""
        async with self._lock:
            # the switch of a whole family first: it changes those of its links
            for entry in sorted(await self._store.list(PREFIX), key=_is_of_a_link):
                name = entry.key.removeprefix(PREFIX)
                if only in ("", name):
                    await self._restore_one(name, entry.value.decode())
                    await self._store.commit(Delete(entry.key))
            self._set = {name: value for name, value in self._set.items() if only not in ("", name)}

    async def _restore_one(self, name: str, value: str) -> None:
        try:
            await self._workers.run(self._sysctl.set, name, value)
        except Error as failure:
            _log.warning("could not put back %s: %s", name, failure)


def _is_of_a_link(entry: Entry) -> bool:
    return "/conf/" in entry.key and "/conf/all/" not in entry.key
