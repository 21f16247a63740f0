"""A restart makes the kernel equal to the records, whatever the crash left."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from msgspec.structs import replace

from sandnet.kernel.types import Bridge
from sandnet.model import ParentUpdate, Phase
from tests.support.core_in_process import CoreInProcess, mapping


async def _restarted(core: CoreInProcess) -> None:
    """As after kill -9: the process's sockets are gone, the kernel and the store are as they were."""
    for held in list(core.kernel.host.held):
        core.kernel.host.held.discard(held)
    await core.start()


async def test_restart_restores_everything_and_continues_addresses(core: CoreInProcess) -> None:
    await core.network(subnet=IPv4Network("10.9.0.0/24"))
    web = await core.endpoint("web", port_mapping=(mapping(8080),))
    await core.endpoint("db")
    await core.controller.removal.endpoint("foo", "db")
    sandbox = await core.join("c1", "web")
    veths = core.veths()
    await _restarted(core)
    found = core.controller.endpoints.find(core.controller.networks.find("foo"), "web")
    later = await core.endpoint("later")
    assert found == web
    assert core.controller.sandboxes.find("c1").inode == sandbox.inode
    assert core.veths() == veths
    assert {port for _, _, port in core.kernel.host.held} == {8080}
    assert str(later.address) == "10.9.0.4/24"  # not .3, which was freed last


async def test_restart_keeps_the_creation_order(core: CoreInProcess) -> None:
    for name in ("zz", "aa", "mm"):
        await core.network(name)
    before = [net.name for net in core.controller.networks.list()]
    await _restarted(core)
    assert [net.name for net in core.controller.networks.list()] == before


async def test_interrupted_create_is_removed_with_its_resources(core: CoreInProcess) -> None:
    net = await core.network()
    endpoint = await core.endpoint("web", port_mapping=(mapping(8080),))
    await core.join("c1", "web")
    attachment = core.controller.services.backends(endpoint)[0]
    await core.controller._context.records.commit(
        put=[
            replace(net, phase=Phase.CREATING),
            replace(endpoint, phase=Phase.CREATING),
            replace(attachment, phase=Phase.CREATING),
        ]
    )
    await _restarted(core)
    await core.controller._context.link_reaper.wait()
    assert [n.name for n in core.controller.networks.list()] == ["none", "host", "bridge"]
    assert core.controller.sandboxes.list() == []
    assert core.veths() == []
    assert core.kernel.host.held == set()
    assert not list(await core.store.list("claim/address/"))


async def test_reboot_releases_sandboxes_and_endpoints_keep_addresses(core: CoreInProcess) -> None:
    await core.network()
    web = await core.endpoint("web")
    sandbox = await core.join("c1", "web")
    core.kernel.namespaces.release(sandbox.key)
    await _restarted(core)
    assert core.controller.sandboxes.list() == []
    assert core.controller.services.find("web").address == web.address
    await core.join("c1", "web")


async def test_other_namespace_at_the_key_after_a_reboot_is_left_alone(core: CoreInProcess) -> None:
    await core.network()
    await core.endpoint("web")
    sandbox = await core.join("c1", "web")
    core.kernel.namespaces.release(sandbox.key)
    stranger = core.kernel.namespaces.make(sandbox.key)
    await _restarted(core)
    found = core.kernel.namespaces.find(sandbox.key)
    assert found is not None
    assert found.inode == stranger.inode
    assert core.controller.sandboxes.list() == []


async def test_foreign_namespace_with_the_same_inode_survives_a_reboot(core: CoreInProcess) -> None:
    await core.network()
    await core.endpoint("web")
    sandbox = await core.join("c1", "web")  # what is pinned there now, another program pinned after the boot
    core.kernel.sysctl.values["kernel/random/boot_id"] = "another"
    await _restarted(core)
    assert core.controller.sandboxes.list() == []
    found = core.kernel.namespaces.find(sandbox.key)
    assert found is not None
    assert found.inode == sandbox.inode
    assert core.controller.services.find("web").orphaned


async def test_teardown_after_reboot_restores_parameters_of_this_boot(
    core: CoreInProcess,
) -> None:
    assert await core.store.list("sysctl/")
    core.kernel.sysctl.values |= {"kernel/random/boot_id": "another", "net/ipv4/ip_forward": "1"}
    await _restarted(core)
    assert not await core.store.list("sysctl/net/ipv4/ip_forward")
    await core.take_down()
    assert core.kernel.sysctl.get("net/ipv4/ip_forward") == "1"
    assert not await core.store.list("boot")


async def test_original_parameters_are_remembered_over_a_restart(core: CoreInProcess) -> None:
    await _restarted(core)
    await core.take_down()
    assert core.kernel.sysctl.get("net/ipv4/ip_forward") == "0"


async def test_unrecorded_links_of_ours_are_removed_and_others_kept(core: CoreInProcess) -> None:
    core.kernel.links.ensure_bridge(Bridge("snbdeadbeef00", 0, ()))
    core.kernel.links.ensure_bridge(Bridge("br-else", 0, ()))
    await _restarted(core)
    names = {link.name for link in core.kernel.links.list()}
    assert "snbdeadbeef00" not in names
    assert "br-else" in names


async def test_port_taken_during_downtime_degrades_start_and_is_named(core: CoreInProcess) -> None:
    await core.network()
    await core.endpoint("web", port_mapping=(mapping(8080),))
    taken = next(iter(core.kernel.host.held))
    core.kernel.host.foreign.add(taken)
    await _restarted(core)
    health = core.controller.health()
    assert health.status == "degraded"
    assert "8080" in " ".join(health.problems)


async def test_teardown_restores_kernel_store_and_parameters(core: CoreInProcess) -> None:
    await core.network(ipv6=True)
    await core.endpoint("web", port_mapping=(mapping(8080),))
    await core.join("c1", "web")
    await core.join("c1", (await core.endpoint("two")).id)
    assert core.kernel.sysctl.get("net/ipv4/ip_forward") == "1"
    await _restarted(core)
    problems = await core.take_down()
    assert problems == []
    assert [link.name for link in core.kernel.links.list()] == ["lo"]
    assert core.kernel.sysctl.get("net/ipv4/ip_forward") == "0"
    assert [entry.key for entry in await core.store.list("")] == ["event/last"]


async def test_reboot_cleanly_releases_a_container_on_two_networks(core: CoreInProcess) -> None:
    await core.network()
    await core.endpoint("one")
    await core.join("c1", "one")
    await core.join("c1", (await core.endpoint("two")).id)
    (sandbox,) = core.controller.sandboxes.list()
    core.kernel.namespaces.release(sandbox.key)
    await _restarted(core)
    assert core.controller.health().problems == ()
    assert core.controller.sandboxes.list() == []


async def test_pending_parent_update_is_delivered_after_a_restart(core: CoreInProcess) -> None:
    await core.network()
    first = await core.endpoint("first")
    await core.join("c1", "first")
    await core.endpoint("second")
    update = ParentUpdate(endpoint_id=first.id, name="www", address=IPv4Address("10.0.0.1"))
    held = core.controller._context.locks
    held._deadline = 0.05
    async with held.hold("sandbox/c1"):
        await core.join("c2", "second", parent_updates=(update,))
    assert core.controller.sandboxes.find("c1").parent_hosts == ()
    await _restarted(core)
    assert [entry.name for entry in core.controller.sandboxes.find("c1").parent_hosts] == ["www"]
    assert core.controller.sandboxes.find("c2").parent_updates == ()
