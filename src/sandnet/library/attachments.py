"""A container's attachments to services, and how they are undone."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Final

from sandnet.errors import Error, Kind

if TYPE_CHECKING:
    from typing import Self

    from sandnet.client import Client
    from sandnet.wire.libnetwork import Join, ServicePublish

RESTART: Final = 10.0
"""Seconds for which the cleanup waits for a daemon that is being restarted."""


class Membership:
    """Context manager that publishes services and attaches a container, and undoes that at its end in reverse order.

    A failure of the cleanup does not stop its next step.
    """

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

    def publish(self, request: ServicePublish, join: Join) -> str:
        """Publish a service, attach the container to it, and return the service's id."""
        with self.in_progress(f"publishing {request.name}"):
            service = self._client.publish(request)
        self._undo.append(lambda: self._client.unpublish(service))
        self.attach(service, join)
        return service

    def attach(self, service: str, join: Join) -> None:
        """Attach the container to an existing service."""
        self._undo.append(lambda: self._client.detach(service, self.container))
        with self.in_progress(f"attaching {self.container}"):
            self._client.attach(service, join)

    def keep(self) -> None:
        """Keep what was published and attached: the end of the block undoes nothing."""
        self._undo.clear()

    def __enter__(self) -> Self:
        """Return the context manager itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Undo each step."""
        deadline = time.monotonic() + self._retry_seconds
        failures: list[Error] = []
        while self._undo:
            undo = self._undo.pop()
            try:
                self._retry(undo, deadline)
            except Error as failure:
                if failure.kind in (Kind.NOT_FOUND, Kind.INVALID):  # there was nothing to undo
                    continue
                failures.append(failure)
                if failure.kind is Kind.UNAVAILABLE and self.is_interrupted():
                    break
        self.report(failures, error)

    def _retry(self, undo: Callable[[], None], deadline: float) -> None:
        """Undo a step; retry while the daemon is unavailable, until the deadline (monotonic seconds)."""
        while True:
            try:
                return undo()
            except Error as error:
                if error.kind is not Kind.UNAVAILABLE or time.monotonic() > deadline or self.is_interrupted():
                    raise
            time.sleep(0.1)

    # What a program may do otherwise.

    def in_progress(self, what: str) -> AbstractContextManager[None]:
        """Return a context manager for the time in which the daemon does something."""
        return nullcontext()

    def is_interrupted(self) -> bool:
        """Return whether the cleanup must not wait for the daemon any longer."""
        return False

    def report(self, failures: list[Error], error: BaseException | None) -> None:
        """Report what could not be undone.

        Args:
            failures: in the order of the steps; the daemon tries again by itself when this process ends.
            error: the one that ends the block.

        Raises:
            Error: the first failure, unless another error ends the block.
        """
        if not failures:
            return
        if error is None:
            raise failures[0]
        for failure in failures:
            error.add_note(f"left behind: {failure.reason}")
