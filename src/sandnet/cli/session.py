"""What the commands share: the daemon they talk to, and the waiting line."""

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
"""Seconds without a word before a waiting person is told what is going on."""


class Session:
    """The daemon a command talks to. The client, and with it HTTP, is imported at first use."""

    def __init__(self, url: str | None, tls: tuple[str | None, str | None, str | None] = (None, None, None)) -> None:
        """Remember where.

        Args:
            url: the daemon's address; ``None``: the usual one.
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
    def impatient(self) -> Client:
        """A client for completion: an answer after a second is of no use at a prompt."""
        from sandnet.client import DEFAULT_URL, Client

        return Client(self._url or DEFAULT_URL, timeout=1.0, tls=self._tls())

    def _tls(self) -> Tls | None:
        from sandnet.transport import Tls

        return Tls.of(*self._tls_files)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Say on a terminal what is going on when it takes longer than a second, and wipe it out afterwards."""
    if not sys.stderr.isatty():
        yield
        return
    from threading import Timer

    told = Timer(PROGRESS_DELAY, output.progress, (f"{what} ...",))
    told.start()
    try:
        yield
    finally:
        told.cancel()
        told.join()
        output.wipe()


def each(names: Iterable[str], what: str, action: Callable[[str], object]) -> None:
    """Do the action to every name, past failures; exit with status 1 if any of them failed."""
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
