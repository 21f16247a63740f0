"""Services with several backends: addresses, succession, draining."""

from __future__ import annotations

import asyncio

import pytest

from sandnet.errors import Error, Kind
from sandnet.firewall.ruleset.elements import BRIDGE
from sandnet.kernel.nft_types import mac_address
from sandnet.model import Endpoint, JoinSpec
from tests.support.core_in_process import CoreInProcess


async def _service(core: CoreInProcess, backends: int) -> Endpoint:
    await core.network()
    service = await core.endpoint("web")
    for number in range(backends):
        await core.controller.services.attach("web", JoinSpec(container_id=f"c{number}"))
    return service


def _macs(core: CoreInProcess, service: Endpoint) -> set[bytes]:
    return {mac_address(backend.mac) for backend in core.controller.services.backends(service)}


def _served(core: CoreInProcess) -> set[bytes]:
    """Return the MACs to which the packet filter sends flows of services."""
    return {key[8:14] for key in core.kernel.firewall.tables[BRIDGE]["live4"]}


async def test_backends_have_addresses_and_one_holds_the_service_ip(core: CoreInProcess) -> None:
    service = await _service(core, 3)
    backends = core.controller.services.backends(service)
    assert [str(b.address) for b in backends] == ["172.16.1.2/24", "172.16.1.3/24", "172.16.1.4/24"]
    assert [b.holder for b in backends] == [True, False, False]
    assert backends[0].address == service.address


async def test_attaching_the_same_container_twice_is_refused(core: CoreInProcess) -> None:
    await _service(core, 1)
    with pytest.raises(Error) as caught:
        await core.controller.services.attach("web", JoinSpec(container_id="c0"))
    assert caught.value.code == "already_joined"


async def test_endpoint_url_refuses_a_second_container(core: CoreInProcess) -> None:
    await _service(core, 1)
    with pytest.raises(Error) as caught:
        await core.join("c9", "web")
    assert caught.value.kind is Kind.INVALID
    assert "service attach" in caught.value.hint


async def test_next_backend_takes_over_and_the_leased_address_returns(
    core: CoreInProcess,
) -> None:
    service = await _service(core, 3)
    await core.controller.services.detach("web", "c0")
    assert [(b.container_id, b.holder) for b in core.controller.services.backends(service)] == [
        ("c1", True),
        ("c2", False),
    ]
    for container in ("c1", "c2"):
        await core.controller.services.detach("web", container)
    await core.controller.services.unpublish("web")
    assert not list(await core.store.list("claim/address/"))


async def test_backends_keep_their_addresses_over_a_restart(core: CoreInProcess) -> None:
    service = await _service(core, 3)
    before = list(core.controller.services.backends(service))
    await core.start()
    later = await core.endpoint("later")
    assert list(core.controller.services.backends(service)) == before
    assert str(later.address) == "172.16.1.5/24"


async def test_drained_backend_is_shown_and_can_be_reactivated(core: CoreInProcess) -> None:
    service = await _service(core, 2)
    await core.controller.services.change_backend("web", "c0", drained=True, weight=7)
    assert [(b.drained, b.weight) for b in core.controller.services.backends(service)] == [(True, 7), (False, 1)]
    await core.controller.services.change_backend("web", "c0", drained=False)
    assert not core.controller.services.backends(service)[0].drained
    with pytest.raises(Error) as caught:
        await core.controller.services.change_backend("web", "nobody", drained=True)
    assert caught.value.kind is Kind.NOT_FOUND


async def test_concurrent_attach_and_detach_always_leave_one_holder(core: CoreInProcess) -> None:
    service = await _service(core, 1)
    specs = [JoinSpec(container_id=f"d{number}") for number in range(8)]
    await asyncio.gather(*(core.controller.services.attach("web", spec) for spec in specs))
    await asyncio.gather(*(core.controller.services.detach("web", f"d{number}") for number in range(0, 8, 2)))
    await core.controller.services.detach("web", "c0")
    backends = core.controller.services.backends(service)
    assert len({b.address for b in backends}) == len(backends) == 4
    assert [b.holder for b in backends].count(True) == 1


async def test_backend_of_an_exited_sandbox_is_replaced_at_start(core: CoreInProcess) -> None:
    service = await _service(core, 2)
    core.kernel.namespaces.release(core.controller.sandboxes.find("c0").key)
    await core.start()
    assert [(b.container_id, b.holder) for b in core.controller.services.backends(service)] == [("c1", True)]


async def test_backend_leaves_although_the_filter_refuses_to_rebalance(core: CoreInProcess) -> None:
    service = await _service(core, 3)
    core.kernel.fail_on("firewall.change", Error(Kind.UNAVAILABLE, "no memory"))
    await core.controller.services.detach("web", "c2")
    assert [each.container_id for each in core.controller.services.backends(service)] == ["c0", "c1"]
    assert len(_served(core)) == 3
    await core.controller.services.attach("web", JoinSpec(container_id="c9"))  # starts from what the kernel has
    assert _served(core) == _macs(core, service)


async def test_leave_with_lost_tables_writes_them_without_the_backend(core: CoreInProcess) -> None:
    service = await _service(core, 3)
    core.kernel.firewall.apply(f"delete table {BRIDGE}")
    await core.controller.services.detach("web", "c2")
    assert _served(core) == _macs(core, service)
    assert len(_served(core)) == 2


async def test_attach_with_lost_tables_writes_them_with_the_backend(core: CoreInProcess) -> None:
    service = await _service(core, 2)
    core.kernel.firewall.apply(f"delete table {BRIDGE}")
    await core.controller.services.attach("web", JoinSpec(container_id="c2"))
    assert _served(core) == _macs(core, service)
    assert len(_served(core)) == 3


async def test_refused_spread_rolls_the_attach_back(core: CoreInProcess) -> None:
    service = await _service(core, 2)
    core.kernel.fail_on(
        "firewall.change", Error(Kind.UNAVAILABLE, "no memory"), after=1
    )  # the change of the port succeeds
    with pytest.raises(Error, match="no memory"):
        await core.controller.services.attach("web", JoinSpec(container_id="c2"))
    assert [each.container_id for each in core.controller.services.backends(service)] == ["c0", "c1"]
    assert _served(core) == _macs(core, service)
    await core.controller.services.attach("web", JoinSpec(container_id="c2"))
    assert len(_served(core)) == 3
