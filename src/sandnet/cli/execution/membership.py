"""A container's attachments to services while a command runs."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from sandnet.cli import output
from sandnet.cli.execution.child_process import FORWARDED
from sandnet.cli.session import waiting
from sandnet.errors import Error, Kind

if TYPE_CHECKING:
    from sandnet.client import Client
    from sandnet.wire.libnetwork import Join, ServicePublish

RESTART = 10.0
"""Seconds for which the cleanup waits for a daemon that is being restarted."""


class Membership:
    """Context manager that publishes services and attaches a container, and undoes that at its end in reverse order."""

    def __init__(self, client: Client, container: str, retry_seconds: float = RESTART) -> None:
        """Initialize without a request to the daemon.

        Args:
            client: of the daemon.
            container: the id of the container to attach.
            retry_seconds: how long the cleanup waits for a daemon that is unavailable.
        """
        self.container = container
        self._client = client
        self._retry_seconds = retry_seconds
        self._undo: list[Callable[[], None]] = []

    def publish(self, request: ServicePublish, join: Join) -> None:
        """Publish a service and attach the container to it."""
        with waiting(f"publishing {request.name}"):
            service = self._client.publish(request)
        self._undo.append(lambda: self._client.unpublish(service))
        self.attach(service, join)

    def attach(self, service: str, join: Join) -> None:
        """Attach the container to an existing service."""
        self._undo.append(lambda: self._client.detach(service, self.container))
        with waiting(f"attaching {self.container[: output.SHORT]}"):
            self._client.attach(service, join)

    def keep(self) -> None:
        """Keep what was published and attached: the end of the block undoes nothing."""
        self._undo.clear()

    def __enter__(self) -> Membership:
        """Return the context manager itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Undo each step; a failure is printed, and neither stops the next one nor changes the exit status."""
        deadline = time.monotonic() + self._retry_seconds
        for undo in reversed(self._undo):
            try:
                _retry(undo, deadline)
            except Error as failure:
                if failure.kind in (Kind.NOT_FOUND, Kind.INVALID):  # there was nothing to undo
                    continue
                if failure.kind is Kind.UNAVAILABLE and _is_asked_to_end():
                    return
                output.failure(f"left behind: {failure.message}", "the daemon tries again; see: sandnet service ls")


def _retry(undo: Callable[[], None], deadline: float) -> None:
    """Undo a step; retry while the daemon is unavailable, until the deadline (monotonic seconds)."""
    while True:
        try:
            return undo()
        except Error as error:
            if error.kind is not Kind.UNAVAILABLE or time.monotonic() > deadline or _is_asked_to_end():
                raise
        time.sleep(0.1)


def _is_asked_to_end() -> bool:
    """Return whether a further signal arrived after the command has ended, as ``sandnet down`` sends one."""
    return bool(signal.sigpending() & FORWARDED)
