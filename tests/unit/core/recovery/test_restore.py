"""A restart makes the kernel equal to the records, whatever the crash left."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from msgspec.structs import replace

from sandnet.kernel.types import Bridge
from sandnet.model import ParentUpdate, Phase
from tests.support.core_in_process import CoreInProcess, mapping


async def _restarted(rig: CoreInProcess) -> None:
    """As after kill -9: the process's sockets are gone, the kernel and the store are as they were."""
    for held in list(rig.kernel.host.held):
        rig.kernel.host.held.discard(held)
    await rig.start()


async def test_restart_restores_everything_and_continues_addresses(rig: CoreInProcess) -> None:
    await rig.network(subnet=IPv4Network("10.9.0.0/24"))
    web = await rig.endpoint("web", port_mapping=(mapping(8080),))
    await rig.endpoint("db")
    await rig.controller.removal.endpoint("foo", "db")
    sandbox = await rig.join("c1", "web")
    veths = rig.veths()
    await _restarted(rig)
    found = rig.controller.endpoints.find(rig.controller.networks.find("foo"), "web")
    later = await rig.endpoint("later")
    assert found == web
    assert rig.controller.sandboxes.find("c1").inode == sandbox.inode
    assert rig.veths() == veths
    assert {port for _, _, port in rig.kernel.host.held} == {8080}
    assert str(later.address) == "10.9.0.4/24"  # not .3, which was freed last


async def test_restart_keeps_the_creation_order(rig: CoreInProcess) -> None:
    for name in ("zz", "aa", "mm"):
        await rig.network(name)
    before = [net.name for net in rig.controller.networks.list()]
    await _restarted(rig)
    assert [net.name for net in rig.controller.networks.list()] == before


async def test_interrupted_create_is_removed_with_its_resources(rig: CoreInProcess) -> None:
    net = await rig.network()
    endpoint = await rig.endpoint("web", port_mapping=(mapping(8080),))
    await rig.join("c1", "web")
    attachment = rig.controller.services.backends(endpoint)[0]
    await rig.controller._context.records.commit(
        put=[
            replace(net, phase=Phase.CREATING),
            replace(endpoint, phase=Phase.CREATING),
            replace(attachment, phase=Phase.CREATING),
        ]
    )
    await _restarted(rig)
    await rig.controller._context.link_reaper.wait()
    assert [n.name for n in rig.controller.networks.list()] == ["none", "host", "bridge"]
    assert rig.controller.sandboxes.list() == []
    assert rig.veths() == []
    assert rig.kernel.host.held == set()
    assert not list(await rig.store.list("claim/address/"))


async def test_reboot_releases_sandboxes_and_endpoints_keep_addresses(rig: CoreInProcess) -> None:
    await rig.network()
    web = await rig.endpoint("web")
    sandbox = await rig.join("c1", "web")
    rig.kernel.namespaces.release(sandbox.key)
    await _restarted(rig)
    assert rig.controller.sandboxes.list() == []
    assert rig.controller.services.find("web").address == web.address
    await rig.join("c1", "web")


async def test_other_namespace_at_the_key_after_a_reboot_is_left_alone(rig: CoreInProcess) -> None:
    await rig.network()
    await rig.endpoint("web")
    sandbox = await rig.join("c1", "web")
    rig.kernel.namespaces.release(sandbox.key)
    stranger = rig.kernel.namespaces.make(sandbox.key)
    await _restarted(rig)
    found = rig.kernel.namespaces.find(sandbox.key)
    assert found is not None
    assert found.inode == stranger.inode
    assert rig.controller.sandboxes.list() == []


async def test_foreign_namespace_with_the_same_inode_survives_a_reboot(rig: CoreInProcess) -> None:
    await rig.network()
    await rig.endpoint("web")
    sandbox = await rig.join("c1", "web")  # what is pinned there now, another program pinned after the boot
    rig.kernel.sysctl.values["kernel/random/boot_id"] = "another"
    await _restarted(rig)
    assert rig.controller.sandboxes.list() == []
    found = rig.kernel.namespaces.find(sandbox.key)
    assert found is not None
    assert found.inode == sandbox.inode
    assert rig.controller.services.find("web").orphaned


async def test_teardown_after_reboot_restores_parameters_of_this_boot(
    rig: CoreInProcess,
) -> None:
    assert await rig.store.list("sysctl/")
    rig.kernel.sysctl.values |= {"kernel/random/boot_id": "another", "net/ipv4/ip_forward": "1"}
    await _restarted(rig)
    assert not await rig.store.list("sysctl/net/ipv4/ip_forward")
    await rig.take_down()
    assert rig.kernel.sysctl.get("net/ipv4/ip_forward") == "1"
    assert not await rig.store.list("boot")


async def test_original_parameters_are_remembered_over_a_restart(rig: CoreInProcess) -> None:
    await _restarted(rig)
    await rig.take_down()
    assert rig.kernel.sysctl.get("net/ipv4/ip_forward") == "0"


async def test_unrecorded_links_of_ours_are_removed_and_others_kept(rig: CoreInProcess) -> None:
    rig.kernel.links.ensure_bridge(Bridge("snbdeadbeef00", 0, ()))
    rig.kernel.links.ensure_bridge(Bridge("br-else", 0, ()))
    await _restarted(rig)
    names = {link.name for link in rig.kernel.links.list()}
    assert "snbdeadbeef00" not in names
    assert "br-else" in names


async def test_port_taken_during_downtime_degrades_start_and_is_named(rig: CoreInProcess) -> None:
    await rig.network()
    await rig.endpoint("web", port_mapping=(mapping(8080),))
    taken = next(iter(rig.kernel.host.held))
    rig.kernel.host.foreign.add(taken)
    await _restarted(rig)
    health = rig.controller.health()
    assert health.status == "degraded"
    assert "8080" in " ".join(health.problems)


async def test_teardown_restores_kernel_store_and_parameters(rig: CoreInProcess) -> None:
    await rig.network(ipv6=True)
    await rig.endpoint("web", port_mapping=(mapping(8080),))
    await rig.join("c1", "web")
    await rig.join("c1", (await rig.endpoint("two")).id)
    assert rig.kernel.sysctl.get("net/ipv4/ip_forward") == "1"
    await _restarted(rig)
    problems = await rig.take_down()
    assert problems == []
    assert [link.name for link in rig.kernel.links.list()] == ["lo"]
    assert rig.kernel.sysctl.get("net/ipv4/ip_forward") == "0"
    assert [entry.key for entry in await rig.store.list("")] == ["event/last"]


async def test_reboot_cleanly_releases_a_container_on_two_networks(rig: CoreInProcess) -> None:
    await rig.network()
    await rig.endpoint("one")
    await rig.join("c1", "one")
    await rig.join("c1", (await rig.endpoint("two")).id)
    (sandbox,) = rig.controller.sandboxes.list()
    rig.kernel.namespaces.release(sandbox.key)
    await _restarted(rig)
    assert rig.controller.health().problems == ()
    assert rig.controller.sandboxes.list() == []


async def test_pending_parent_update_is_delivered_after_a_restart(rig: CoreInProcess) -> None:
    await rig.network()
    first = await rig.endpoint("first")
    await rig.join("c1", "first")
    await rig.endpoint("second")
    update = ParentUpdate(endpoint_id=first.id, name="www", address=IPv4Address("10.0.0.1"))
    held = rig.controller._context.locks
    held._deadline = 0.05
    async with held.hold("sandbox/c1"):
        await rig.join("c2", "second", parent_updates=(update,))
    assert rig.controller.sandboxes.find("c1").parent_hosts == ()
    await _restarted(rig)
    assert [entry.name for entry in rig.controller.sandboxes.find("c1").parent_hosts] == ["www"]
    assert rig.controller.sandboxes.find("c2").parent_updates == ()
