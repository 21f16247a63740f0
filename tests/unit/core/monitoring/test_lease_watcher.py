"""The daemon follows the leases of addresses that a server gives."""

from __future__ import annotations

import time
from ipaddress import IPv4Address, IPv4Interface

import pytest
from msgspec.structs import replace

from sandnet.core.monitoring import lease_watcher
from sandnet.errors import Error, Kind
from sandnet.kernel.dhcp.base import DhcpReport
from sandnet.kernel.types import Bridge
from sandnet.model import Endpoint, EndpointSpec, JoinSpec, NetworkOptions, NetworkSpec
from sandnet.model.interfaces.dhcp_lease import DhcpLease
from tests.support.conditions import until
from tests.support.core_in_process import CoreInProcess

ROUTER = IPv4Address("192.0.2.1")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look much more often than once a second."""
    monkeypatch.setattr(lease_watcher, "INTERVAL", 0.01)


def lease(address: str = "192.0.2.7/24", *, since: float = 0.0, seconds: int = 1000) -> DhcpLease:
    """Return a lease that was obtained some seconds ago."""
    obtained = time.time() - since
    return DhcpLease(address=IPv4Interface(address), router=ROUTER, server=ROUTER, seconds=seconds, obtained=obtained)


@pytest.fixture
async def web(core: CoreInProcess) -> Endpoint:
    """An endpoint with a container, on a segment whose server gives it an address."""
    core.kernel.links.ensure_bridge(Bridge("up0", 1500, (IPv4Interface("192.0.2.2/24"),)))
    options = NetworkOptions(parent="up0", ipam_driver="dhcp")
    await core.controller.networks.create(NetworkSpec(name="lan", driver="macvlan", options=options))
    core.kernel.dhcp_clients.offer = lease()
    made = await core.controller.endpoints.create("lan", EndpointSpec(name="web"))
    await core.join("c1", "web", "lan")
    return made


def found(core: CoreInProcess, endpoint: Endpoint) -> str:
    current = core.controller.endpoints.get(endpoint.id)
    return str(current.address) if current.address else ""


def inside(core: CoreInProcess) -> list[str]:
    key = core.controller.sandboxes.find("c1").key
    return [str(each) for each in core.kernel.namespaces.inside(key).links["eth0"].addresses]


def report(core: CoreInProcess, endpoint: Endpoint, given: DhcpLease | None, problem: str = "") -> None:
    at = given.obtained if given else time.time()
    core.kernel.dhcp_clients.reports[endpoint.id] = DhcpReport(at, given, problem)


async def test_join_has_the_address_of_the_server(core: CoreInProcess, web: Endpoint) -> None:
    assert found(core, web) == "192.0.2.7/24"
    assert inside(core) == ["192.0.2.7/24"]
    assert core.default_route(core.controller.sandboxes.find("c1")) == ("eth0", str(ROUTER))


async def test_renewal_is_recorded(core: CoreInProcess, web: Endpoint) -> None:
    renewed = lease()
    report(core, web, renewed)
    await until(lambda: core.controller.endpoints.get(web.id).lease == renewed)
    assert core.kernel.calls.count("supplied_links.place") == 2


async def test_other_address_replaces_the_former_one(core: CoreInProcess, web: Endpoint) -> None:
    report(core, web, lease("192.0.2.99/24"))
    await until(lambda: inside(core) == ["192.0.2.99/24"])
    assert found(core, web) == "192.0.2.99/24"


async def test_report_of_no_lease_takes_the_address_away(core: CoreInProcess, web: Endpoint) -> None:
    report(core, web, None)
    await until(lambda: inside(core) == [])
    assert found(core, web) == ""
    key = core.controller.sandboxes.find("c1").key
    await until(lambda: core.kernel.namespaces.inside(key).default_routes == {})
    await until(lambda: any("web on network lan has no address" in each for each in core.controller.health().problems))


async def test_lease_that_ended_takes_the_address_away(core: CoreInProcess, web: Endpoint) -> None:
    report(core, web, lease(seconds=1))
    await until(lambda: inside(core) == [], 5)
    report(core, web, lease())
    await until(lambda: inside(core) == ["192.0.2.7/24"])
    await until(lambda: not core.controller.health().problems)


async def test_lease_that_is_not_renewed_is_a_problem(core: CoreInProcess, web: Endpoint) -> None:
    del core.kernel.dhcp_clients.reports[web.id]
    reads = core.kernel.calls.count("dhcp_clients.states")
    await until(lambda: core.kernel.calls.count("dhcp_clients.states") > reads + 1)  # one may have been under way
    current = core.controller.endpoints.get(web.id)
    await core.controller._context.records.commit(put=[replace(current, lease=lease(since=900))])
    await until(lambda: any("is not renewed by 192.0.2.1" in each for each in core.controller.health().problems))
    assert found(core, web) == "192.0.2.7/24"


async def test_ended_client_is_started_again(core: CoreInProcess, web: Endpoint) -> None:
    del core.kernel.dhcp_clients.running[web.id]
    await until(lambda: web.id in core.kernel.dhcp_clients.running)
    assert core.kernel.dhcp_clients.running[web.id].wanted == IPv4Address("192.0.2.7")


async def test_client_that_cannot_start_is_a_problem(core: CoreInProcess, web: Endpoint) -> None:
    core.kernel.fail_on("dhcp_clients.start", Error(Kind.UNAVAILABLE, "no udhcpc"))
    del core.kernel.dhcp_clients.running[web.id]
    await until(lambda: any("no udhcpc" in each for each in core.controller.health().problems))


@pytest.mark.parametrize("address", ["192.0.2.8/24", "198.51.100.7/24"])
async def test_address_that_is_in_use_is_refused(core: CoreInProcess, web: Endpoint, address: str) -> None:
    await core.controller.endpoints.create("lan", EndpointSpec(name="db"))
    core.kernel.dhcp_clients.offer = lease("192.0.2.8/24")
    await core.join("c2", "db", "lan")
    core.kernel.dhcp_clients.offer = None
    await core.network("blue", subnet=IPv4Interface("198.51.100.0/24").network)
    await core.endpoint("also", "blue")
    await core.join("c1", "also", "blue")
    report(core, web, lease(address))
    await until(lambda: any("cannot be used" in each for each in core.controller.health().problems))
    assert (found(core, web), inside(core)) == ("", [])


async def test_join_with_an_unusable_offer_is_undone(core: CoreInProcess, web: Endpoint) -> None:
    await core.controller.endpoints.create("lan", EndpointSpec(name="db"))
    with pytest.raises(Error, match="is the address of endpoint web"):  # the server gives one address twice
        await core.controller.sandboxes.join("lan", "db", JoinSpec(container_id="c2"))
    assert [each.container_id for each in core.controller.sandboxes.list()] == ["c1"]
    assert list(core.kernel.dhcp_clients.running) == [web.id]


async def test_leave_returns_the_address(core: CoreInProcess, web: Endpoint) -> None:
    await core.controller.sandboxes.leave("lan", "web", "c1")
    assert core.kernel.dhcp_clients.released == [web.id]
    assert found(core, web) == ""


async def test_orphaned_client_is_ended_at_the_start(core: CoreInProcess, web: Endpoint) -> None:
    running = core.kernel.dhcp_clients.running
    running["f" * 64] = running[web.id]
    await core.start()
    assert list(running) == [web.id]


async def test_take_down_ends_all_clients(core: CoreInProcess, web: Endpoint) -> None:
    assert await core.take_down() == []
    assert core.kernel.dhcp_clients.endpoints() == []
