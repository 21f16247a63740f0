"""A restart makes the kernel equal to the records, whatever the crash left."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from msgspec.structs import replace

from sandnet.kernel.types import Bridge
from sandnet.model import ParentUpdate, Phase
from tests.unit.core.rig import Rig, mapping


async def _restarted(rig: Rig) -> None:
    """As after kill -9: the process's sockets are gone, the kernel and the store are as they were."""
    for held in list(rig.kernel.host.held):
        rig.kernel.host.held.discard(held)
    await rig.start()


async def test_given_a_restart_then_everything_is_as_before_and_addresses_go_on(rig: Rig) -> None:
    await rig.network(subnet=IPv4Network("10.9.0.0/24"))
    web = await rig.endpoint("web", port_mapping=(mapping(8080),))
    await rig.endpoint("db")
    await rig.controller.removal.endpoint("foo", "db")
    box = await rig.join("c1", "web")
    veths = rig.veths()
    await _restarted(rig)
    found = rig.controller.endpoints.find(rig.controller.networks.find("foo"), "web")
    later = await rig.endpoint("later")
    assert found == web
    assert rig.controller.sandboxes.find("c1").inode == box.inode
    assert rig.veths() == veths
    assert {port for _, _, port in rig.kernel.host.held} == {8080}
    assert str(later.address) == "10.9.0.4/24"  # not .3, which was freed last


async def test_given_a_restart_then_the_order_of_creation_is_kept(rig: Rig) -> None:
    for name in ("zz", "aa", "mm"):
        await rig.network(name)
    before = [net.name for net in rig.controller.networks.list()]
    await _restarted(rig)
    assert [net.name for net in rig.controller.networks.list()] == before


async def test_given_records_of_an_interrupted_create_then_they_and_what_they_name_are_gone(rig: Rig) -> None:
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


async def test_given_a_reboot_then_dead_sandboxes_are_let_go_and_endpoints_keep_their_addresses(rig: Rig) -> None:
    await rig.network()
    web = await rig.endpoint("web")
    box = await rig.join("c1", "web")
    rig.kernel.namespaces.release(box.key)
    await _restarted(rig)
    assert rig.controller.sandboxes.list() == []
    assert rig.controller.services.find("web").address == web.address
    await rig.join("c1", "web")


async def test_given_another_namespace_at_the_key_after_a_reboot_then_it_is_left_alone(rig: Rig) -> None:
    await rig.network()
    await rig.endpoint("web")
    box = await rig.join("c1", "web")
    rig.kernel.namespaces.release(box.key)
    stranger = rig.kernel.namespaces.make(box.key)
    await _restarted(rig)
    found = rig.kernel.namespaces.find(box.key)
    assert found is not None
    assert found.inode == stranger.inode
    assert rig.controller.sandboxes.list() == []


async def test_given_a_reboot_when_strangers_have_the_same_inode_at_the_same_path_then_they_stay(rig: Rig) -> None:
    await rig.network()
    await rig.endpoint("web")
    box = await rig.join("c1", "web")  # what is pinned there now, somebody else pinned after the boot
    rig.kernel.sysctl.values["kernel/random/boot_id"] = "another"
    await _restarted(rig)
    assert rig.controller.sandboxes.list() == []
    found = rig.kernel.namespaces.find(box.key)
    assert found is not None
    assert found.inode == box.inode
    assert rig.controller.services.find("web").orphaned


async def test_given_parameters_changed_before_a_reboot_when_taken_down_after_it_then_those_of_this_boot_are_put_back(
    rig: Rig,
) -> None:
    assert await rig.store.list("sysctl/")
    rig.kernel.sysctl.values |= {"kernel/random/boot_id": "another", "net/ipv4/ip_forward": "1"}
    await _restarted(rig)
    assert not await rig.store.list("sysctl/net/ipv4/ip_forward")
    await rig.take_down()
    assert rig.kernel.sysctl.get("net/ipv4/ip_forward") == "1"
    assert not await rig.store.list("boot")


async def test_given_parameters_changed_when_restarted_then_they_are_still_remembered(rig: Rig) -> None:
    await _restarted(rig)
    await rig.take_down()
    assert rig.kernel.sysctl.get("net/ipv4/ip_forward") == "0"


async def test_given_links_with_our_mark_and_no_record_then_they_are_swept_and_others_stay(rig: Rig) -> None:
    rig.kernel.links.ensure_bridge(Bridge("snbdeadbeef00", 0, ()))
    rig.kernel.links.ensure_bridge(Bridge("br-else", 0, ()))
    await _restarted(rig)
    names = {link.name for link in rig.kernel.links.list()}
    assert "snbdeadbeef00" not in names
    assert "br-else" in names


async def test_given_a_port_taken_while_we_were_away_then_the_daemon_starts_degraded_and_says_which(rig: Rig) -> None:
    await rig.network()
    await rig.endpoint("web", port_mapping=(mapping(8080),))
    taken = next(iter(rig.kernel.host.held))
    rig.kernel.host.foreign.add(taken)
    await _restarted(rig)
    health = rig.controller.health()
    assert health.status == "degraded"
    assert "8080" in " ".join(health.problems)


async def test_given_everything_is_taken_down_then_kernel_store_and_parameters_are_as_before(rig: Rig) -> None:
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


async def test_given_a_container_on_two_networks_when_a_reboot_then_it_is_let_go_and_nothing_is_wrong(rig: Rig) -> None:
    await rig.network()
    await rig.endpoint("one")
    await rig.join("c1", "one")
    await rig.join("c1", (await rig.endpoint("two")).id)
    (box,) = rig.controller.sandboxes.list()
    rig.kernel.namespaces.release(box.key)
    await _restarted(rig)
    assert rig.controller.health().problems == ()
    assert rig.controller.sandboxes.list() == []


async def test_given_a_name_owed_to_a_parent_when_restarted_then_it_is_told(rig: Rig) -> None:
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
