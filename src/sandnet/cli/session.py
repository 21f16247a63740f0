"""The commands' shared session: the daemon's client, and the progress message of long requests."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from sandnet.cli import output
from sandnet.errors import Error

if TYPE_CHECKING:
    from sandnet.client import Client
    from sandnet.transport import Tls

PROGRESS_DELAY = 1.0
"""Seconds after which a person at a terminal sees what is in progress."""


class Session:
    """The connection of a command to its daemon. The client, and with it HTTP, is imported at first use."""

    def __init__(self, url: str | None, tls: tuple[str | None, str | None, str | None] = (None, None, None)) -> None:
        """Initialize without connecting.

        Args:
            url: the daemon's address; ``None``: the default.
            tls: paths of the CA's certificate, of the own one and of its key.
        """
        self._url = url
        self._tls_files = tls

    @property
    def client(self) -> Client:
        """A client of the chosen daemon.

        Raises:
            Error: ``INVALID``, the address is malformed, or a TLS file is missing.
        """
        from sandnet.client import DEFAULT_URL, Client

        return Client(self._url or DEFAULT_URL, tls=self._tls())

    @property
    def impatient_client(self) -> Client:
        """A client for completion with a timeout of one second: a later answer is of no use at a prompt."""
        return self.client_within(1.0)

    def client_within(self, timeout: float) -> Client:
        """Return a client each step of which may take ``timeout`` seconds.

        Raises:
            Error: as :attr:`client`.
        """
        from sandnet.client import DEFAULT_URL, Client

        return Client(self._url or DEFAULT_URL, timeout=timeout, tls=self._tls())

    def _tls(self) -> Tls | None:
        from sandnet.transport import Tls

        return Tls.of(*self._tls_files)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Print on a terminal what is in progress when it takes longer than a second, and erase it afterwards."""
    if not sys.stderr.isatty():
        yield
        return
    from threading import Timer

    timer = Timer(PROGRESS_DELAY, output.progress, (f"{what} ...",))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        output.erase_line()


def each(names: Iterable[str], what: str, action: Callable[[str], object]) -> None:
    """Run the action for every name, also after failures; exit with status 1 if any of them failed."""
    from sandnet.cli.lazy_group import Failure

    failed = False
    for name in names:
        try:
            with waiting(f"{what} {name}"):
                action(name)
        except Error as error:
            Failure(error).show()
            failed = True
    if failed:
        raise click.exceptions.Exit(1)
