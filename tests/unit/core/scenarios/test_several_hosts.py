"""What several hosts promise each other: names are unique, an endpoint is on one host, and dead hosts do not count."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace

from sandnet.core.cluster.shared_values import ALIVE
from sandnet.core.replication import follower
from sandnet.drivers.base import LoadBalancing
from sandnet.drivers.overlay.driver import OverlayDriver
from sandnet.errors import Error, Kind
from sandnet.kernel.vxlan.base import Underlay
from sandnet.model import Network
from sandnet.stores.base import Delete, Put
from sandnet.stores.memory_shared import WriteFault
from tests.support.conditions import until
from tests.support.hosts_in_process import HostInProcess, several_hosts

Hosts = list[HostInProcess]


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Hosts]:
    async with several_hosts(tmp_path) as hosts:
        yield hosts


async def test_network_is_seen_and_deleted_on_every_host(hosts: Hosts) -> None:
    one, two = hosts
    network = await one.network()
    await two.in_line()
    assert two.controller.networks.find("net").id == network
    await two.controller.removal.network("net")
    await one.in_line()
    assert not one.controller.networks.list(name="net")


@pytest.mark.parametrize(
    "options",
    [
        {"routed_ipv4": True},
        {"ipv6": True, "routed_ipv6": True},
        {"bridge_name": "mine0"},
        {"firewall": False},
        {"egress_ipv4": IPv4Address("192.0.2.1")},
        {"ipv6": True, "egress_ipv6": IPv6Address("2001:db8::1")},
    ],
    ids=str,
)
async def test_option_that_several_hosts_cannot_have_is_refused(hosts: Hosts, options: dict[str, Any]) -> None:
    one, two = hosts
    with pytest.raises(Error) as refused:
        await one.network(**options)
    assert refused.value.code == "overlay_option"
    await two.in_line()
    assert not [*one.controller.networks.list(name="net"), *two.controller.networks.list(name="net")]


async def test_endpoint_of_one_host_has_its_name_everywhere(hosts: Hosts) -> None:
    one, two = hosts
    await one.network()
    await one.endpoint("web")
    await two.in_line()
    assert two.names() == ["web"]
    with pytest.raises(Error) as refused:
        await two.endpoint("web")
    assert refused.value.kind is Kind.NAME_TAKEN


async def test_two_hosts_never_choose_the_same_address(hosts: Hosts) -> None:
    one, two = hosts
    await one.network()
    await two.in_line()
    for number in range(5):
        await one.endpoint(f"a{number}")
        await two.endpoint(f"b{number}")
    await one.in_line()
    await two.in_line()
    endpoints = one.controller.endpoints.list(one.controller.networks.find("net"))
    assert len({each.address for each in endpoints}) == len(endpoints) == 10


async def test_join_is_refused_while_another_host_has_the_endpoint(hosts: Hosts) -> None:
    one, two = hosts
    await one.network()
    endpoint = await one.endpoint("web")
    await two.in_line()
    await one.join("c1", "web")
    await two.in_line()
    assert two.elsewhere(endpoint) == [("h1", "c1")]
    with pytest.raises(Error, match="c1 on host h1"):
        await two.join("c2", "web")
    await one.leave("c1", "web")
    await two.join("c2", "web")
    await one.in_line()
    assert one.elsewhere(endpoint) == [("h2", "c2")]


async def outcomes(*attempts: Awaitable[object]) -> list[str]:
    """Return ``ok`` or the code of the error for each attempt, all made at once."""
    results = await asyncio.gather(*attempts, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, Error):
            raise result
    return sorted(result.code if isinstance(result, Error) else "ok" for result in results)


async def test_one_of_two_networks_of_one_name_is_created(hosts: Hosts) -> None:
    assert await outcomes(*(host.network() for host in hosts)) == ["name_taken", "ok"]
    await until(lambda: all(host.controller.networks.list(name="net") for host in hosts))
    assert len({host.controller.networks.find("net").id for host in hosts}) == 1


async def test_networks_of_one_instant_get_different_subnets(hosts: Hosts) -> None:
    one, two = hosts
    assert await outcomes(one.network("red"), two.network("blue")) == ["ok", "ok"]
    await one.in_line()
    nets = [one.controller.networks.find(name) for name in ("red", "blue")]
    assert len({net.vni for net in nets}) == len({net.ipv4 for net in nets}) == 2


async def test_endpoints_of_one_instant_get_different_addresses(hosts: Hosts) -> None:
    one, two = hosts
    await one.network()
    await two.in_line()
    attempts = [host.endpoint(f"{host.name}-{n}") for host in hosts for n in range(5)]
    assert await outcomes(*attempts) == ["ok"] * 10
    await one.in_line()
    endpoints = one.controller.endpoints.list(one.controller.networks.find("net"))
    assert len({each.address for each in endpoints}) == len(endpoints) == 10


async def test_one_of_two_joins_of_one_instant_is_refused(hosts: Hosts) -> None:
    one, two = hosts
    await one.network()
    endpoint = await one.endpoint("web")
    await two.in_line()
    assert await outcomes(one.join("c1", "web"), two.join("c2", "web")) == ["joined_elsewhere", "ok"]
    await one.in_line()
    await two.in_line()
    assert len([*one.elsewhere(endpoint), *two.elsewhere(endpoint)]) == 1


async def test_attachments_of_a_host_end_with_its_lease(hosts: Hosts) -> None:
    one, two = hosts
    await one.network()
    endpoint = await one.endpoint("web")
    await one.join("c1", "web")
    await two.in_line()
    one.shared.cut_off()
    one.end_lease()
    await two.in_line()
    assert two.elsewhere(endpoint) == []
    await two.join("c2", "web")
    one.shared.reconnect()
    await until(lambda: not one.controller.sandboxes.list())
    assert one.elsewhere(endpoint) == [("h2", "c2")]


async def test_host_that_comes_back_claims_its_attachments_again(hosts: Hosts) -> None:
    one, two = hosts
    await one.network()
    endpoint = await one.endpoint("web")
    await one.join("c1", "web")
    one.shared.cut_off()
    one.end_lease()
    await two.in_line()
    assert two.elsewhere(endpoint) == []
    one.shared.reconnect()
    await until(lambda: two.elsewhere(endpoint) == [("h1", "c1")])
    assert [each.container_id for each in one.controller.sandboxes.list()] == ["c1"]


async def test_owned_endpoint_is_back_with_its_host(hosts: Hosts) -> None:
    one, two = hosts
    await one.network()
    await one.endpoint("job", owner="cni/x/eth0")
    await one.join("c1", "job")
    await two.in_line()
    assert two.names() == ["job"]
    one.shared.cut_off()
    one.end_lease()
    await until(lambda: two.names() == [])
    one.shared.reconnect()
    await until(lambda: two.names() == ["job"])
    assert [each.container_id for each in one.controller.sandboxes.list()] == ["c1"]


async def test_host_claims_what_it_owns_before_it_sees_its_new_lease(hosts: Hosts) -> None:
    one, _ = hosts
    await one.network()
    await one.endpoint("job", owner="cni/x/eth0")
    await one.join("c1", "job")
    cluster = one.controller._context.cluster
    assert cluster
    cluster.view._drop(f"{ALIVE}h1")
    (attachment,) = one.attachments()
    await cluster.shared.attachments.claim(attachment, one.controller._context.records.sandbox("c1"))


async def test_network_is_deleted_with_what_hosts_that_are_away_own(hosts: Hosts) -> None:
    one, two = hosts
    await one.network()
    await one.endpoint("job", owner="cni/x/eth0")
    await one.join("c1", "job")
    await two.in_line()
    one.shared.cut_off()
    one.end_lease()
    await until(lambda: two.names() == [])
    await two.controller.removal.network("net")
    one.shared.reconnect()
    await until(lambda: not one.controller.sandboxes.list())


async def test_name_of_an_owned_endpoint_is_free_with_the_lease(hosts: Hosts) -> None:
    one, two = hosts
    await one.network()
    endpoint = await one.endpoint("job", owner="cni/x/eth0")
    address = one.controller.endpoints.get(endpoint).address
    await one.join("c1", "job")
    await two.in_line()
    await one.stop()
    one.end_lease()
    await two.in_line()
    assert two.names() == []
    again = await two.endpoint("job", address=address.ip if address else None)
    await one.start()
    net = one.controller.networks.find("net")
    await until(lambda: [each.id for each in one.controller.endpoints.list(net)] == [again])
    assert not one.controller.sandboxes.list()


async def test_down_ends_what_one_host_has_and_nothing_of_others(hosts: Hosts) -> None:
    one, two = hosts
    network = await one.network()
    endpoint = await one.endpoint("web")
    await one.join("c1", "web")
    await two.in_line()
    await one.stop()
    assert await one.take_down() == []
    await two.in_line()
    assert two.elsewhere(endpoint) == []
    assert two.controller.networks.find("net").id == network
    await two.join("c2", "web")
    assert not [link for link in one.kernel.links.list() if link.name.startswith("sn")]


async def test_daemons_of_one_name_do_not_replace_each_other_for_ever(hosts: Hosts, tmp_path: Path) -> None:
    one, two = hosts
    second = HostInProcess("h1", replace(one.config, state_dir=f"{tmp_path}/second"), one.cluster)
    await second.start()
    try:
        with pytest.raises(Error) as refused:
            await one.network()
        assert refused.value.code == "host_fenced"
        one.wake()
        await until(lambda: "is alive" in one.problem())
        await second.network()
        await two.in_line()
    finally:
        await second.stop()
        second.workers.close()


@pytest.mark.parametrize(
    "key", ["attached/x", "alive/h2", "host/h9", "fence/h1", "network/x", "endpoint/x", "holder/x"]
)
async def test_hosts_survive_what_another_program_writes(hosts: Hosts, key: str) -> None:
    one, two = hosts
    await one.network()
    kept = one.cluster.contents.get(key)
    await two.shared.commit(Put(key, b"\xff"))
    two.wake()
    await two.in_line()
    if kept:
        await two.shared.commit(Put(key, kept.value))
    else:
        await two.shared.commit(Delete(key))
    one.wake()
    await until(lambda: one.joined)
    await one.endpoint("web")
    await two.in_line()
    assert two.names() == ["web"]


async def test_restarted_daemon_keeps_its_attachments(hosts: Hosts) -> None:
    one, two = hosts
    await one.network()
    endpoint = await one.endpoint("web")
    await one.join("c1", "web")
    await one.stop()
    await two.in_line()
    assert two.elsewhere(endpoint) == [("h1", "c1")]
    await one.start()
    await one.in_line()
    await two.in_line()
    assert two.elsewhere(endpoint) == [("h1", "c1")]
    assert [each.container_id for each in one.controller.sandboxes.list()] == ["c1"]


async def test_host_that_lost_its_state_releases_what_it_had(hosts: Hosts) -> None:
    one, two = hosts
    await one.network()
    endpoint = await one.endpoint("web")
    await one.join("c1", "web")
    await one.stop()
    one.lose_state()
    await one.start()
    await until(lambda: not two.elsewhere(endpoint))
    assert one.names() == ["web"]
    await two.join("c2", "web")


async def test_reads_go_on_while_the_shared_store_is_away(hosts: Hosts) -> None:
    one, two = hosts
    await one.network()
    await one.endpoint("web")
    await one.join("c1", "web")
    await two.in_line()
    for host in hosts:
        host.shared.cut_off()
    assert await outcomes(one.endpoint("more"), two.network("other"), one.join("c2", "web")) == [
        "already_joined",
        "store_unavailable",
        "store_unavailable",
    ]
    assert two.names() == ["web"]
    await one.leave("c1", "web")
    for host in hosts:
        host.shared.reconnect()
    await one.controller._follower._claim_again()  # type: ignore[union-attr] # the audit, now
    await until(lambda: not two.elsewhere(one.controller.endpoints.list(one.controller.networks.find("net"))[0].id))
    await two.join("c2", "web")


async def test_daemon_starts_with_its_copies_while_the_store_is_away(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "FIRST_ANSWER", 0.05)
    one, two = hosts
    await one.network()
    await one.endpoint("web")
    await two.in_line()
    await two.stop()
    await two.start(connected=False)
    assert two.names() == ["web"]
    delete = two.controller.removal.endpoint("net", "web")
    assert await outcomes(two.endpoint("more"), delete) == ["store_unavailable"] * 2
    two.shared.reconnect()
    await until(lambda: two.controller._context.cluster.membership.joined)  # type: ignore[union-attr]
    await two.endpoint("more")


@pytest.mark.parametrize("fault", list(WriteFault))
async def test_creation_without_an_answer_is_wholly_there_or_not(hosts: Hosts, fault: WriteFault) -> None:
    one, two = hosts
    await one.network()
    one.shared.faults.append(fault)
    (answer,) = await outcomes(one.endpoint("web"))
    assert answer == ("ok" if fault is WriteFault.LOSE_ANSWER else "store_unavailable")
    one.cluster.deliver()
    await two.in_line()
    await one.in_line()
    assert one.names() == two.names() == (["web"] if answer == "ok" else [])


async def test_node_that_is_away_is_removed_with_what_it_had(hosts: Hosts) -> None:
    one, two = hosts
    await one.network()
    await one.endpoint("web")
    await one.endpoint("job", owner="cni/x/eth0")
    await one.join("c1", "web")
    await two.in_line()
    states = {each.host.name: each.alive for each in two.controller.nodes.list()}
    assert states == {"h1": True, "h2": True}
    with pytest.raises(Error, match="alive"):
        await two.controller.remove_node("h1")
    await one.stop()
    one.end_lease()
    await two.in_line()
    assert not two.controller.nodes.find("h1").alive
    await two.controller.remove_node("h1")
    left = [entry.key for entry in one.cluster.contents.list("") if "h1" in entry.key or "job" in entry.key]
    assert left == []
    await one.start()
    assert one.names() == ["web"]
    assert [each.container_id for each in one.controller.sandboxes.list()] == ["c1"]  # it had kept it, and claims it


async def test_service_has_backends_on_every_host(hosts: Hosts) -> None:
    one, two = hosts
    await one.network()
    endpoint = await one.endpoint("web")
    await two.in_line()
    await one.join("c1", "web", many=True)
    await two.in_line()
    assert await outcomes(*(host.join(f"c{host.name}", "web", many=True) for host in hosts)) == ["ok", "ok"]
    assert len({each.address for each in two.attachments()} | {each.address for each in one.attachments()}) == 3
    await one.leave("ch1", "web")
    await two.leave("ch2", "web")
    await two.join("c2", "web", many=True)
    for host in hosts:
        await host.in_line()
    for host, own, other in ((one, "c1", "c2"), (two, "c2", "c1")):
        found = host.controller.endpoints.get(endpoint)
        assert [each.container_id for each in host.controller.services.backends(found)] == [own]
        assert [each.container_id for each in host.controller.services.remote_backends(found)] == [other]
        assert {each.mac for each in host.controller.backends.everywhere(found)} == host.balanced_macs()


async def test_remote_backends_are_balanced_under_the_endpoints_lock(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A join in progress ends with the backends that it found when it began."""
    one, two = hosts
    driver = two.controller._context.drivers["overlay"]
    assert isinstance(driver, LoadBalancing)
    balance, locked = driver.balance, list[bool]()

    async def record(*args: Any) -> None:
        locked.append(two.locks(f"endpoint/{endpoint}"))
        await balance(*args)

    await one.network()
    endpoint = await one.endpoint("web")
    for container in ("c1", "c2"):
        await one.join(container, "web", many=True)
    await two.in_line()
    await two.join("c3", "web", many=True)
    await two.in_line()
    monkeypatch.setattr(driver, "balance", record)
    await one.leave("c2", "web")
    await two.in_line()
    assert locked == [True]


async def test_remote_backends_are_balanced_after_a_failure(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second attempt found the attachments as it had left them, and did nothing."""
    one, two = hosts
    driver = two.controller._context.drivers["overlay"]
    assert isinstance(driver, LoadBalancing)
    balance, failures = driver.balance, 1

    async def fail_once(*args: Any) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise Error(Kind.INTERNAL, "the kernel refuses")
        await balance(*args)

    await one.network()
    endpoint = await one.endpoint("web")
    for number in range(2):
        await one.join(f"c{number}", "web", many=True)
    await two.in_line()
    await two.join("c2", "web", many=True)
    await two.in_line()
    monkeypatch.setattr(driver, "balance", fail_once)
    await one.leave("c1", "web")
    await two.in_line()
    found = two.controller.endpoints.get(endpoint)
    await until(lambda: {each.mac for each in two.controller.backends.everywhere(found)} == two.balanced_macs())
    assert failures == 0


async def test_address_of_a_service_moves_to_another_host(hosts: Hosts) -> None:
    one, two = hosts
    await one.network()
    endpoint = await one.endpoint("web")
    await two.in_line()
    await one.join("c1", "web", many=True)
    await two.in_line()
    await two.join("c2", "web", many=True)
    await one.leave("c1", "web")
    await until(lambda: two.holds("c2", endpoint))
    await one.in_line()
    assert one.controller.services.remote_backends(one.controller.endpoints.get(endpoint))[0].holder


async def test_creation_does_not_remove_the_copy_that_is_being_made(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It found the copy half-made, waited for it, and took it for what an interrupted creation had left."""
    one, two = hosts
    arrived, go_on = asyncio.Event(), asyncio.Event()
    driver = two.controller._context.drivers["overlay"]
    create = driver.create_network

    async def slow(net: Network) -> Network:
        arrived.set()
        await go_on.wait()
        return await create(net)

    monkeypatch.setattr(driver, "create_network", slow)
    network = await one.network()
    await arrived.wait()
    attempt = asyncio.create_task(two.network())
    await until(lambda: two.waits_for(f"network/{network}"))
    go_on.set()
    with pytest.raises(Error) as refused:
        await attempt
    assert refused.value.kind is Kind.NAME_TAKEN
    for host in hosts:
        assert host.controller.networks.find("net").id == network


async def test_name_that_comes_while_a_network_is_planned_is_taken(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name was checked before the plan, and this host's own store refused the record as changed by others."""
    one, two = hosts
    arrived, go_on = asyncio.Event(), asyncio.Event()
    driver = two.controller._context.drivers["overlay"]
    plan = driver.plan

    async def slow(net: Network, others: Sequence[Network]) -> Network:
        planned = await plan(net, others)
        arrived.set()
        await go_on.wait()
        return planned

    monkeypatch.setattr(driver, "plan", slow)
    attempt = asyncio.create_task(two.network())
    await arrived.wait()
    await one.network()
    await two.in_line()
    go_on.set()
    with pytest.raises(Error) as refused:
        await attempt
    assert refused.value.kind is Kind.NAME_TAKEN


async def test_vni_that_another_host_has_taken_first_is_chosen_again(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = hosts
    driver, cluster = two.controller._context.drivers["overlay"], two.controller._context.cluster
    create, first = driver.create_network, True
    assert cluster

    async def late(net: Network) -> Network:
        nonlocal first
        if first:
            first = False
            await one.network("red")
            await until(lambda: len(cluster.view.network_ids()) == 1)
        return await create(net)

    monkeypatch.setattr(driver, "create_network", late)
    await two.network("blue")
    await one.in_line()
    found = [one.controller.networks.find(name) for name in ("red", "blue")]
    assert len({net.vni for net in found}) == len({net.ipv4 for net in found}) == 2


async def test_network_planned_beside_a_new_copy_leaves_its_vni(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan did not know the other network. Its VNI was refused later, and went from the packet filter for both."""
    one, two = hosts
    driver = cast(OverlayDriver, two.controller._context.drivers["overlay"])
    underlay, first = driver.underlay, True

    async def late() -> Underlay:
        nonlocal first
        if first:
            first = False
            await one.network("red")
            await until(lambda: (made := two.controller.networks.list()) and made[-1].name == "red")
        return await underlay()

    monkeypatch.setattr(driver, "underlay", late)
    await two.network("blue")
    await two.in_line()
    found = [two.controller.networks.find(name) for name in ("red", "blue")]
    assert len({net.vni for net in found}) == len({net.ipv4 for net in found}) == 2
    assert await two.controller.reconcile.run(fix=False) == []
