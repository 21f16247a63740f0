"""Published ports of endpoints of several hosts: each host with a container has them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from sandnet.drivers.base import LoadBalancing
from sandnet.errors import Error, Kind
from sandnet.model import Attachment, Endpoint, Network
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
    """The host ports that a host publishes, which it also holds; -1: these differ, as in the middle of a change."""
    bound = sorted(port for _, _, port in host.kernel.host.held)
    records = host.controller._context.records
    recorded = sorted(port.host_port for each in records.endpoints() for port in each.ports)
    return bound if bound == recorded else [-1]


async def test_port_is_published_where_a_container_is(hosts: Hosts) -> None:
    one, two = hosts
    service = await shared_service(hosts)
    assert (published(one), published(two)) == ([PORT], [])
    await two.join("c2", "web", many=True)
    await until(lambda: published(two) == [PORT])
    (endpoint,) = two.controller._context.records.endpoints()
    assert [(port.port, port.host_ip) for port in endpoint.ports] == [(80, ANY4)]
    await two.in_line()  # the ports of the bridge follow
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


async def test_nothing_is_kept_of_a_refused_port_after_its_endpoint(hosts: Hosts) -> None:
    one, two = hosts
    service = await shared_service(hosts)
    two.kernel.host.foreign.add((6, ANY4, PORT))
    await two.join("c2", "web", many=True)
    await until(lambda: any(f"{PORT}" in problem for problem in two.controller.health().problems))
    two.shared.cut_off()
    two.end_lease()
    await until(lambda: not one.elsewhere(service))
    await one.controller.removal.endpoint("net", "web")
    two.shared.reconnect()
    await until(lambda: not two.controller._context.records.endpoints())
    await two.in_line()
    follower = two.controller._follower
    assert follower
    assert not follower._ports._rebalances._endpoints


async def test_flows_follow_a_published_port_after_a_failure(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second attempt found the port published, and did nothing."""
    _, two = hosts
    driver = two.controller._context.drivers["overlay"]
    assert isinstance(driver, LoadBalancing)
    balance, attempts = driver.balance, list[int]()

    async def fail_once(net: Network, ep: Endpoint, backends: Sequence[Attachment]) -> None:
        attempts.append(len(ep.ports))
        if attempts == [1]:
            raise Error(Kind.INTERNAL, "the kernel refuses")
        await balance(net, ep, backends)

    await shared_service(hosts)
    monkeypatch.setattr(driver, "balance", fail_once)
    await two.join("c2", "web", many=True)
    await until(lambda: published(two) == [PORT] and attempts == [1, 1])
    await two.in_line()
    assert not await two.controller.reconcile.run(fix=False)


class TestWithdrawnWhileTheStoreIsAway:
    """Host 1 withdraws the port while it does not reach the store; host 2 publishes it for its container."""

    @pytest.fixture
    async def service(self, hosts: Hosts) -> str:
        one, two = hosts
        service = await shared_service(hosts)
        await two.join("c2", "web", many=True)
        await until(lambda: published(two) == [PORT])
        one.shared.cut_off()
        await one.controller.sandboxes.unpublish(service)
        assert published(one) == []
        return service

    async def back(self, one: HostInProcess) -> None:
        one.shared.reconnect()
        await until(lambda: one.joined)
        await one.audit()
        await one.in_line()

    async def test_it_is_withdrawn_on_all_hosts_afterwards(self, hosts: Hosts, service: str) -> None:
        one, two = hosts
        await self.back(one)
        await until(lambda: published(two) == [])
        assert published(one) == []
        assert not one.controller.health().problems

    async def test_it_stays_withdrawn_over_a_restart(self, hosts: Hosts, service: str) -> None:
        one, two = hosts
        await one.stop()
        one.kernel.host.held.clear()
        await one.start(connected=False)
        assert published(one) == []
        await self.back(one)
        await until(lambda: published(two) == [])
        assert published(one) == []

    async def test_another_program_has_it_meanwhile(self, hosts: Hosts, service: str) -> None:
        one, two = hosts
        one.kernel.host.foreign.add((6, ANY4, PORT))
        await self.back(one)
        await until(lambda: published(two) == [])
        assert not one.controller.health().problems

    async def test_its_endpoint_is_deleted_meanwhile(self, hosts: Hosts, service: str) -> None:
        one, two = hosts
        await two.leave("c2", "web")
        await two.controller.removal.endpoint("net", "web")
        await self.back(one)
        await until(lambda: one.names() == [])
        assert (published(one), published(two)) == ([], [])

    async def test_it_is_published_again_meanwhile(self, hosts: Hosts, service: str) -> None:
        """That is refused, leaves nothing, and does not undo the withdrawal; afterwards it is possible."""
        one, two = hosts
        with pytest.raises(Error) as refused:
            await one.controller.sandboxes.publish(service, [mapping(PORT + 1)])
        assert refused.value.code == "store_unavailable"
        assert published(one) == []
        await self.back(one)
        await until(lambda: published(two) == [])
        assert published(one) == []
        await one.controller.sandboxes.publish(service, [mapping(PORT + 1)])
        await until(lambda: published(two) == [PORT + 1])
        assert published(one) == [PORT + 1]

    async def test_host_loses_its_state_meanwhile(self, hosts: Hosts, service: str) -> None:
        """Nothing knows of the withdrawal any more: the store's record holds."""
        one, two = hosts
        await one.stop()
        one.lose_state()
        await one.start()
        await until(lambda: published(one) == [PORT])
        assert published(two) == [PORT]


async def test_port_of_a_lost_endpoint_is_free_while_the_store_is_away(hosts: Hosts) -> None:
    """It was deleted on the other host while this one was cut off, and another program waits for its port."""
    one, two = hosts
    await shared_service(hosts)
    one.shared.cut_off()
    await two.controller.removal.endpoint("net", "web")
    assert published(one) == [PORT]
    one.shared.reconnect()
    await until(lambda: published(one) == [])


async def test_port_taken_while_daemon_and_store_are_away_is_reported(hosts: Hosts) -> None:
    one, _ = hosts
    await shared_service(hosts)
    await one.stop()
    one.kernel.host.held.clear()
    one.kernel.host.foreign.add((6, ANY4, PORT))
    await one.start(connected=False)
    assert any(f"{PORT}" in problem for problem in one.controller.health().problems)
    one.shared.reconnect()
    await until(lambda: one.joined)
    one.kernel.host.foreign.clear()
    await until(lambda: not one.controller.health().problems)
    assert published(one) == [PORT]


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
