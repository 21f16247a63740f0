"""Transactions of the packet filter, and their recovery when another program removed what they depend on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from sandnet.errors import Error, Kind
from sandnet.firewall.ruleset.shared_lock import SharedLock
from sandnet.kernel.base import RULES_MISSING

ATTEMPTS: Final = 3
"""Attempts to rewrite all rules for a change: the program that removed them may remove them again."""
HINT: Final = "another program removes them again and again; nft monitor shows which process"


class RulesetTransaction:
    """A transaction for a change that is already in the records or in memory, so a rewrite includes it."""

    def __init__(self) -> None:
        self.lock = SharedLock()
        self.rewrite: Callable[[], Awaitable[None]] | None = None
        """Function that rewrites everything; called with the lock held alone."""
        self._rewritten = 0
        """Number of rewrites so far, each because a change found something missing."""

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[None]:
        """Run a change, concurrently with others.

        If the kernel lacks what it depends on, all rules are rewritten instead, with the change in them.

        Raises:
            Error: as the change itself; ``UNAVAILABLE`` with code ``RULES_MISSING`` they cannot be rewritten.
        """
        rewritten = self._rewritten
        try:
            async with self.lock.shared():
                rewritten = self._rewritten
                yield
        except Error as failure:
            if failure.code != RULES_MISSING or self.rewrite is None:
                raise
            await self._rebuild(rewritten, self.rewrite)

    async def _rebuild(self, seen: int, rewrite: Callable[[], Awaitable[None]]) -> None:
        """Rewrite, unless another change has done so since ``seen`` was read: that rewrite included this change."""
        for attempt in range(1, ATTEMPTS + 1):
            async with self.lock.exclusive():
                if self._rewritten != seen:
                    return
                try:
                    await rewrite()
                    self._rewritten += 1
                except Error as failure:
                    if attempt == ATTEMPTS:
                        message = f"rules that others removed cannot be put back: {failure}"
                        raise Error(Kind.UNAVAILABLE, message, HINT, RULES_MISSING) from failure
