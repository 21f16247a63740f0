"""Published ports of endpoints of several hosts: each host with a container has them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from sandnet.model.interfaces.bandwidth import Bandwidth
from sandnet.model.ports import ANY4
from tests.support.conditions import until
from tests.support.core_in_process import mapping
from tests.support.hosts_in_process import HostInProcess, several_hosts

Hosts = list[HostInProcess]
PORT = 8080


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Hosts]:
    async with several_hosts(tmp_path) as hosts:
        yield hosts


async def shared_service(hosts: Hosts, host_ip: IPv4Address | None = None) -> str:
    """A service of host 1 with a published port, known to host 2; its id."""
    one, two = hosts
    await one.network()
    service = await one.endpoint("web", port_mapping=(mapping(PORT, host_ip=host_ip),))
    await two.in_line()
    return service


def published(host: HostInProcess) -> list[int]:
    """The host ports that a host publishes, which it also holds."""
    bound = sorted(port for _, _, port in host.kernel.host.held)
    assert bound == sorted(
        port.host_port for each in host.controller._context.records.endpoints() for port in each.ports
    )
    return bound


async def test_port_is_published_where_a_container_is(hosts: Hosts) -> None:
    one, two = hosts
    service = await shared_service(hosts)
    assert (published(one), published(two)) == ([PORT], [])
    await two.join("c2", "web", many=True)
    await until(lambda: published(two) == [PORT])
    (endpoint,) = two.controller._context.records.endpoints()
    assert [(port.port, port.host_ip) for port in endpoint.ports] == [(80, ANY4)]
    (attachment,) = two.attachments()
    assert two.kernel.state_reader.host().links[attachment.host_link].hairpin
    assert not await two.controller.reconcile.run(fix=False)
    await two.leave("c2", "web")
    await until(lambda: published(two) == [])
    assert published(one) == [PORT]
    assert service == endpoint.id


async def test_flows_through_a_port_reach_the_containers_of_its_host(hosts: Hosts) -> None:
    _, two = hosts
    await shared_service(hosts)
    for host in hosts:
        await host.join(f"c-{host.name}", "web", many=True)
    await until(lambda: published(two) == [PORT])
    await two.in_line()
    assert not await two.controller.reconcile.run(fix=False)
    (attachment,) = two.attachments()
    assert attachment.address
    targets = two.kernel.firewall.tables["inet sandnet"]["any4_flow"]
    assert {value[:4] for value in targets.values()} == {attachment.address.ip.packed}


async def test_port_stays_published_over_a_restart(hosts: Hosts) -> None:
    _, two = hosts
    await shared_service(hosts)
    await two.join("c2", "web", many=True)
    await until(lambda: published(two) == [PORT])
    await two.stop()
    two.kernel.host.held.clear()
    await two.start(connected=False)
    assert published(two) == [PORT]


async def test_port_goes_with_its_endpoint(hosts: Hosts) -> None:
    one, two = hosts
    await shared_service(hosts)
    await two.join("c2", "web", many=True)
    await until(lambda: published(two) == [PORT])
    await two.leave("c2", "web")
    await until(lambda: published(two) == [])
    await one.in_line()
    await one.controller.removal.endpoint("net", "web")
    await two.in_line()
    assert (published(one), published(two)) == ([], [])


async def test_taken_port_is_reported_and_published_once_it_is_free(hosts: Hosts) -> None:
    _, two = hosts
    await shared_service(hosts)
    two.kernel.host.foreign.add((6, ANY4, PORT))
    await two.join("c2", "web", many=True)
    await until(lambda: any(f"{PORT}" in problem for problem in two.controller.health().problems))
    assert [each.container_id for each in two.attachments()] == ["c2"]
    two.kernel.host.foreign.clear()
    await two.audit()
    await until(lambda: published(two) == [PORT])
    await until(lambda: not any(f"{PORT}" in problem for problem in two.controller.health().problems))


async def test_port_is_withdrawn_while_the_store_is_away(hosts: Hosts) -> None:
    one, _ = hosts
    service = await shared_service(hosts)
    one.shared.cut_off()
    await one.controller.sandboxes.unpublish(service)
    assert published(one) == []


async def test_port_at_an_address_of_one_host_stays_there(hosts: Hosts) -> None:
    one, two = hosts
    await shared_service(hosts, host_ip=IPv4Address("127.0.0.1"))
    await two.join("c2", "web", many=True)
    await two.in_line()
    assert (published(one), published(two)) == ([PORT], [])


async def test_change_on_another_host_keeps_the_ports(hosts: Hosts) -> None:
    one, two = hosts
    await shared_service(hosts)
    (endpoint,) = two.controller._context.records.endpoints()
    await two.controller.endpoint_updates.limit(endpoint, Bandwidth(egress_rate=1_000_000))
    await one.in_line()
    await two.join("c2", "web", many=True)
    await until(lambda: published(two) == [PORT])
    assert published(one) == [PORT]


async def test_host_that_lost_its_state_publishes_its_ports_again(hosts: Hosts) -> None:
    one, two = hosts
    await shared_service(hosts)
    await one.stop()
    one.lose_state()
    await one.start()
    await until(lambda: published(one) == [PORT])
    await two.join("c2", "web", many=True)
    await until(lambda: published(two) == [PORT])
