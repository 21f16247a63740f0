"""Numbered packets through fifty sandboxes while the daemon is killed, or stopped, and started: none is lost.

The same with a thousand is a part of the benchmarks, and this borrows its sandboxes and its traffic.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench import restart
from bench.sandnet_daemon import Daemon

pytestmark = pytest.mark.timeout(120)
MANY = 50


@pytest.fixture(scope="module")
def scene() -> Iterator[tuple[Daemon, restart.Scene]]:
    with Daemon() as daemon:
        made = restart.Scene(daemon, MANY)
        yield daemon, made
        made.close()


@pytest.mark.parametrize("killed", [True, False], ids=["kill", "stop"])
def test_restart_with_fifty_sandboxes_loses_no_packet_or_lookup(
    scene: tuple[Daemon, restart.Scene], monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    daemon, traffic = scene
    monkeypatch.setattr(restart, "AROUND", 0.5)
    seen = traffic.during(lambda: daemon.restart(killed=killed))
    assert seen.packets > 4 * restart.PACKETS // 2
    assert (seen.lost, seen.unanswered) == (0, 0)
