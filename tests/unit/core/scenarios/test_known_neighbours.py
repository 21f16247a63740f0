"""New bridges on which no port can claim another address: what neighbours remember there is known."""

from __future__ import annotations

from typing import Any

import pytest

from sandnet.kernel.types import Bridge
from tests.support.core_in_process import CoreInProcess


@pytest.fixture
def ensured(core: CoreInProcess, monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Whether each bridge that the driver ensures is new, by name."""
    found: dict[str, bool] = {}
    ensure = core.kernel.links.ensure_bridge

    def record(bridge: Bridge) -> None:
        found[bridge.name] = bridge.new
        ensure(bridge)

    monkeypatch.setattr(core.kernel.links, "ensure_bridge", record)
    return found


@pytest.mark.parametrize(
    ("options", "known"), [({}, True), ({"anti_spoofing": False}, False), ({"firewall": False}, False)], ids=str
)
async def test_guarded_new_network_has_known_neighbours(
    core: CoreInProcess, ensured: dict[str, bool], options: dict[str, Any], known: bool
) -> None:
    network = await core.network(**options)
    assert ensured == {network.link: known}


async def test_network_of_an_earlier_daemon_has_unknown_neighbours(
    core: CoreInProcess, ensured: dict[str, bool]
) -> None:
    network = await core.network()
    await core.controller._context.drivers["bridge"].create_network(network)  # as a restart does
    assert ensured == {network.link: False}
