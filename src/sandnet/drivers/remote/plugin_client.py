"""A network plugin as the event loop sees it: activated when it is first needed, asked on threads of its own.

A plugin that does not answer is not asked again for some seconds. So a thousand networks of a silent plugin cost one
timeout, and users of other networks wait for none.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final, NamedTuple, TypeVar

import msgspec

from sandnet.drivers.base import PLUGIN_AWAY, PLUGIN_REFUSED
from sandnet.drivers.remote.discovery import PluginAddress, locate
from sandnet.drivers.remote.plugin_exchange import PluginAnswer, exchange
from sandnet.errors import Error, Kind
from sandnet.escaping import printable
from sandnet.threads import JobThreads
from sandnet.wire.plugin_answers import Activated, Failed

T = TypeVar("T")

NETWORK_DRIVER: Final = "NetworkDriver"
_LONGEST_REASON: Final = 1000
_THREADS: Final = 4
_log = logging.getLogger(__name__)


class Limits(NamedTuple):
    """Seconds."""

    answer: float = 10.0
    """How long a request may take, with its wait for a thread."""
    hurried: float = 1.0
    """The same while the daemon starts, which waits for it."""
    pause: float = 5.0
    """How long a plugin is not asked that did not answer."""


LIMITS: Final = Limits()


class _Activation(NamedTuple):
    address: PluginAddress
    legacy: bool
    """It speaks the protocol of 2015: it has no capabilities, and addresses are its own choice."""


class PluginClient:
    """One plugin. Its calls raise :class:`Error` only, with the plugin's own words.

    Args:
        name: its name.
        directories: where it is found.
        limits: of time.
    """

    def __init__(self, name: str, directories: Sequence[str], limits: Limits = LIMITS) -> None:
        self.name = name
        self._directories = directories
        self._limits = limits
        self._threads = JobThreads(_THREADS, f"plugin-{name}"[:15])
        self._slots = asyncio.Semaphore(_THREADS)
        self._activating = asyncio.Lock()
        self._active: _Activation | None = None
        self._silent_until = 0.0
        self._hurried = False

    def problem(self) -> str:
        """Return why the plugin cannot be asked, judged by its file; empty: it can."""
        try:
            locate(self.name, self._directories)
        except Error as failure:
            return failure.message
        return ""

    @contextmanager
    def hurried(self) -> Iterator[None]:
        """Wait for answers within the block no longer than the start of the daemon may be delayed."""
        self._hurried = True
        try:
            yield
        finally:
            self._hurried = False

    async def is_legacy(self) -> bool:
        """Return whether the plugin speaks the protocol of 2015.

        Raises:
            Error: as :meth:`ask`.
        """
        return (await self._activated()).legacy

    async def ask(self, verb: str, message: object, kind: type[T]) -> T:
        """Call a verb of the network driver and return its answer.

        Raises:
            Error: ``UNAVAILABLE`` with code ``PLUGIN_AWAY`` or ``PLUGIN_REFUSED``.
        """
        active = await self._activated()
        answer = await self._exchange(active.address, f"{NETWORK_DRIVER}.{verb}", msgspec.json.encode(message))
        return self._decoded(verb, answer, kind)

    async def _activated(self) -> _Activation:
        """Return the plugin's address and generation; one that was started again is activated again."""
        address = await self._on_thread(partial(locate, self.name, self._directories), self._limit)
        async with self._activating:
            if self._active is None or self._active.address != address:
                answer = self._decoded("Activate", await self._exchange(address, "Plugin.Activate", b""), Activated)
                if NETWORK_DRIVER not in (answer.implements or ()):
                    raise self.refusal("Activate", f"it implements {', '.join(answer.implements or ()) or 'nothing'}")
                capabilities = await self._exchange(address, f"{NETWORK_DRIVER}.GetCapabilities", b"{}")
                self._active = _Activation(address, legacy=capabilities.status != 200)
            return self._active

    async def _exchange(self, address: PluginAddress, verb: str, payload: bytes) -> PluginAnswer:
        """Send a request from a thread. It ends at its deadline, so a thread is never occupied for longer."""
        if time.monotonic() < self._silent_until:
            raise self._away(verb, f"it did not answer within the last {self._limits.pause:g} s")
        limit = self._limit
        job = partial(exchange, address, verb, payload, time.monotonic() + limit)
        try:
            return await self._on_thread(job, limit)
        except TimeoutError:
            self._silent_until = time.monotonic() + self._limits.pause
            raise self._away(verb, f"it did not answer within {limit:g} s") from None
        except (OSError, ValueError) as failure:
            raise self._away(verb, getattr(failure, "strerror", None) or str(failure)) from failure

    @property
    def _limit(self) -> float:
        return self._limits.hurried if self._hurried else self._limits.answer

    async def _on_thread(self, job: Callable[[], T], limit: float) -> T:
        """Run a job on a thread of the plugin's; its slot is free again when the job has ended."""
        try:
            async with asyncio.timeout(limit):
                await self._slots.acquire()
        except TimeoutError:
            raise self._away("", f"it has not answered earlier requests for {limit:g} s") from None
        try:
            running = self._threads.submit(job, self._slots.release)
        except BaseException:
            self._slots.release()
            raise
        return await running

    def _decoded(self, verb: str, answer: PluginAnswer, kind: type[T]) -> T:
        """Return the decoded answer; ``null`` and nothing stand for an answer without fields."""
        body = answer.body.strip()
        body = b"{}" if body in (b"", b"null") else body
        reason = _reason(body)
        if answer.status != 200 or reason:
            text = body.decode("utf-8", "replace") if body != b"{}" else f"status {answer.status}"
            raise self.refusal(verb, reason or text)
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.DecodeError as failure:
            raise self.refusal(verb, f"its answer cannot be read: {failure}") from failure

    def refusal(self, verb: str, reason: str) -> Error:
        """Return the error for a refusal of the plugin's, or for an answer of it that cannot be carried out."""
        message = f"network plugin {self.name} ({verb}): {printable(reason[:_LONGEST_REASON])}"
        return Error(Kind.UNAVAILABLE, message, code=PLUGIN_REFUSED)

    def _away(self, verb: str, reason: str) -> Error:
        what = f" ({verb.rpartition('.')[2]})" if verb else ""
        message = f"network plugin {self.name}{what}: {reason}"
        return Error(Kind.UNAVAILABLE, message, "see whether it runs", PLUGIN_AWAY)


def _reason(body: bytes) -> str:
    try:
        failed = msgspec.json.decode(body, type=Failed)
    except msgspec.DecodeError:
        return ""
    return failed.error or failed.ipam_error or ""
