"""Fixtures of pytest: networks and sandboxes for the tests of other programs (docs/python.md).

pytest loads this module wherever sandnet is installed, so nothing else is imported before a fixture is used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from sandnet.library.connection import DaemonConnection, Network, Sandbox


@pytest.fixture(scope="session")
def sandnet_connection() -> Iterator[DaemonConnection]:
    """Return a connection to the daemon of ``SANDNET_HOST``, else of the default socket."""
    import sandnet

    with sandnet.connect() as connection:
        yield connection


@pytest.fixture
def sandnet_network(sandnet_connection: DaemonConnection) -> Iterator[Network]:
    """Return a new network of the test's own; it is deleted after the test."""
    with sandnet_connection.network(f"test-{os.urandom(6).hex()}") as network:
        yield network


@pytest.fixture
def sandnet_sandbox(sandnet_network: Network) -> Iterator[Callable[..., Sandbox]]:
    """Return a function that makes a sandbox on the test's network; its arguments are those of ``Network.sandbox``."""
    with ExitStack() as stack:

        def make(name: str, **options: Any) -> Sandbox:
            return stack.enter_context(sandnet_network.sandbox(name, **options))

        yield make
