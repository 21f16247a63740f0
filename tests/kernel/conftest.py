"""Every kernel test has a host of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.network_host import Host, unavailable


@pytest.fixture
def host() -> Iterator[Host]:
    """An empty host; without root or namespaces the test is skipped (failed where ``CI`` is set)."""
    if reason := unavailable():
        pytest.skip(reason)
    with Host() as made:
        yield made
