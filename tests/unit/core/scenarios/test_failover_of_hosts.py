"""The address of a service moves to another backend, and the store or the kernel refuses that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandnet.core.lifecycle.backends import Backends
from sandnet.drivers.overlay.driver import OverlayDriver
from sandnet.errors import Error, Kind
from sandnet.model import Attachment, Endpoint, Network
from tests.support.conditions import until
from tests.support.hosts_in_process import HostInProcess, several_hosts

Hosts = list[HostInProcess]


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Hosts]:
    """Two hosts; ``c1`` of the first one has the address of ``web``, whose further backends ``c2`` and ``c3`` are."""
    async with several_hosts(tmp_path) as found:
        one, two = found
        await one.network()
        await one.endpoint("web")
        for container in ("c1", "c2", "c3"):
            await one.join(container, "web", many=True)
        await two.in_line()
        yield found


def holders(host: HostInProcess) -> list[str]:
    """The containers of a host that have the address, by its records."""
    return [each.container_id for each in host.attachments() if each.holder]


async def test_refused_claim_leaves_the_backend_as_it_was(hosts: Hosts) -> None:
    """The kernel had the address where the record had none, and had announced what another host may have."""
    one, _ = hosts
    one.shared.cut_off()
    await one.leave("c1", "web")
    assert holders(one) == []
    assert await one.controller.reconcile.run(fix=False) == []
    one.shared.reconnect()
    await until(lambda: holders(one))
    await one.in_line()
    assert await one.controller.reconcile.run(fix=False) == []


async def test_claimed_address_is_set_up_when_that_failed(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = hosts
    take_over, failed = Backends.take_over, False

    async def once_refused(self: Backends, network: Network, endpoint: Endpoint, successor: Attachment) -> None:
        nonlocal failed
        if not failed:
            failed = True
            raise Error(Kind.UNAVAILABLE, "the kernel is busy")
        await take_over(self, network, endpoint, successor)

    monkeypatch.setattr(Backends, "take_over", once_refused)
    one.shared.cut_off()
    await one.leave("c1", "web")
    one.shared.reconnect()
    await until(lambda: holders(one))
    assert failed
    await one.in_line()
    assert len(holders(one)) == 1
    assert await one.controller.reconcile.run(fix=False) == []


async def test_next_backend_gets_what_the_kernel_refuses_to_one(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = hosts
    join, refused = OverlayDriver.join, list[str]()

    async def refuse_first(self: OverlayDriver, net: Network, ep: Endpoint, att: Attachment, set_up: object) -> object:
        if not refused:
            refused.append(att.container_id)
            raise Error(Kind.UNAVAILABLE, "the kernel is busy")
        return await join(self, net, ep, att, set_up)  # type: ignore[arg-type]

    monkeypatch.setattr(OverlayDriver, "join", refuse_first)
    await one.leave("c1", "web")
    assert refused == ["c2"]
    assert holders(one) == ["c3"]
    assert await one.controller.reconcile.run(fix=False) == []
    await two.in_line()
    (endpoint,) = one.controller.endpoints.list(one.controller.networks.find("net"))
    found = two.controller._context.records.remote.of_endpoint(endpoint.id)
    assert [each.container_id for each in found if each.holder] == ["c3"]
