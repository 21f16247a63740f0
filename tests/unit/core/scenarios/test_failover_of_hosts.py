"""The address of a service moves to another backend, and the store or the kernel refuses that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandnet.core.lifecycle.backends import Backends
from sandnet.core.replication import attachment_replicas
from sandnet.drivers.overlay.driver import OverlayDriver
from sandnet.errors import Error, Kind
from sandnet.model import Attachment, Endpoint, Network
from tests.support.conditions import until
from tests.support.hosts_in_process import HostInProcess, several_hosts

Hosts = list[HostInProcess]
BUSY = Error(Kind.UNAVAILABLE, "the kernel is busy")


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


def refuse(monkeypatch: pytest.MonkeyPatch, *containers: str) -> list[str]:
    """Let the kernel set up no address for some containers; return those that it was asked for, as they come."""
    join, asked = OverlayDriver.join, list[str]()

    async def refused(self: OverlayDriver, net: Network, ep: Endpoint, att: Attachment, set_up: object) -> object:
        asked.append(att.container_id)
        if att.container_id in containers:
            raise BUSY
        return await join(self, net, ep, att, set_up)  # type: ignore[arg-type]

    monkeypatch.setattr(OverlayDriver, "join", refused)
    return asked


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
            raise BUSY
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
    asked = refuse(monkeypatch, "c2")
    await one.leave("c1", "web")
    assert asked == ["c2", "c3"]
    assert holders(one) == ["c3"]
    assert await one.controller.reconcile.run(fix=False) == []
    await two.in_line()
    (endpoint,) = one.controller.endpoints.list(one.controller.networks.find("net"))
    found = two.controller._context.records.remote.of_endpoint(endpoint.id)
    assert [each.container_id for each in found if each.holder] == ["c3"]


async def test_other_host_gets_what_this_kernel_refuses(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its store named a holder that had no address, and that no other host could replace."""
    one, two = hosts
    await two.join("c9", "web", many=True)
    await one.in_line()
    refuse(monkeypatch, "c2", "c3")
    await one.leave("c1", "web")
    await until(lambda: holders(two) == ["c9"])
    await one.in_line()
    assert holders(one) == []
    for host in hosts:
        assert await host.controller.reconcile.run(fix=False) == []
        await host.in_line()
        assert host.controller.health().status == "ok"


async def test_takeover_goes_on_past_a_refused_backend(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = hosts
    one.shared.cut_off()
    await one.leave("c1", "web")
    asked = refuse(monkeypatch, "c2")
    one.shared.reconnect()
    await until(lambda: holders(one))
    await one.in_line()
    assert (asked, holders(one)) == (["c2", "c3"], ["c3"])
    assert await one.controller.reconcile.run(fix=False) == []


async def test_refused_takeover_is_not_repeated_at_once(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """What each attempt writes led to the next: thousands of changes of the shared store in a second."""
    one, two = hosts
    with monkeypatch.context() as patch:
        patch.setattr(attachment_replicas, "FIRST_PAUSE", 600.0)
        asked = refuse(patch, "c2", "c3")
        await one.leave("c1", "web")
        for host in (one, two) * 20:
            await host.in_line()
        assert asked == ["c2", "c3"] * 2
    follower = one.controller._follower
    assert follower
    assert [text for text in follower.problems if str(BUSY) in text]
    follower._attachments._failed.clear()
    await until(lambda: len(holders(one)) == 1)
    await one.in_line()
    assert await one.controller.reconcile.run(fix=False) == []
