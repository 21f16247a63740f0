"""Virtual machines: joins that make taps on the host."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest
from msgspec.structs import replace

from sandnet.dns.base import SetClient
from sandnet.errors import Error, Kind
from sandnet.model import Attachment, JoinSpec, Origin
from sandnet.model.name_server import gateway_socket
from sandnet.model.tap import TapOptions
from sandnet.stores.base import REBUILD, Put
from tests.support.core_in_process import CoreInProcess, MoodyStore, mapping

TAP = TapOptions(owner=1000, group=36, queues=2, vhost=True, offload=False)
INNER = replace(TAP, inside=True)


async def machine(core: CoreInProcess) -> str:
    """A virtual machine on a network; the name of its tap."""
    await core.network(subnet=IPv4Network("10.9.0.0/24"))
    endpoint = await core.endpoint("web", port_mapping=(mapping(8080),))
    sandbox = await core.join("vm", "web", tap=TAP)
    assert (sandbox.origin, sandbox.inode, sandbox.hosts_path) == (Origin.GUEST, 0, "")
    found = core.controller._context.records.attachment("vm", endpoint.id)
    assert found
    assert (found.interface, str(found.address), found.tap) == ("eth0", "10.9.0.2/24", TAP)
    return found.host_link


def tap_of(core: CoreInProcess, name: str) -> object:
    found = core.kernel.links.present.get(name)
    return found and (found.kind, found.up)


def refused(code: str) -> pytest.RaisesExc[Error]:
    return pytest.RaisesExc(Error, check=lambda error: (error.kind, error.code) == (Kind.INVALID, code))


async def test_a_tap_goes_with_the_last_leave(core: CoreInProcess) -> None:
    name = await machine(core)
    assert tap_of(core, name) == ("tun", True)
    assert "namespaces.make" not in core.kernel.calls
    await core.controller.sandboxes.leave("foo", "web", "vm")
    await core.controller._context.link_reaper.wait()
    assert tap_of(core, name) is None
    assert not await core.store.list("sandbox/")


async def test_a_machine_on_two_networks_has_two_taps(core: CoreInProcess) -> None:
    await machine(core)
    await core.network("bar")
    await core.endpoint("db", "bar")
    sandbox = await core.join("vm", "db", "bar", tap=TAP)
    attachments = core.controller.sandboxes.attachments(sandbox)
    assert [each.interface for each in attachments] == ["eth0", "eth1"]
    gateways = [[str(hop) for hop in core.controller.sandboxes.gateways(sandbox, each)] for each in attachments]
    assert gateways == [["10.9.0.1"], []]


async def test_a_restart_keeps_a_tap_and_makes_an_absent_one(core: CoreInProcess) -> None:
    name = await machine(core)
    await core.start()
    assert tap_of(core, name) == ("tun", True)
    core.kernel.links.drop(name)  # as a reboot does
    await core.start()
    assert tap_of(core, name) == ("tun", True)


async def test_a_deleted_tap_is_repaired(core: CoreInProcess) -> None:
    name = await machine(core)
    core.kernel.links.drop(name)
    assert [drift.done for drift in await core.controller.reconcile.run(fix=True)] == ["repaired"]
    assert tap_of(core, name) == ("tun", True)


async def test_a_changed_mac_of_a_tap_is_repaired(core: CoreInProcess) -> None:
    name = await machine(core)
    right = core.kernel.links.present[name]
    core.kernel.links.present[name] = right._replace(mac="02:42:0a:09:00:03")
    found = await core.controller.reconcile.run(fix=True)
    assert [drift.done for drift in found] == ["repaired"]
    assert "the MAC of tap" in found[0].problem
    assert core.kernel.links.present[name] == right


async def test_lost_records_of_a_tap_are_rebuilt(core: CoreInProcess) -> None:
    await machine(core)
    records = core.controller._context.records
    before, sandbox = records.attachments(), records.sandbox("vm")
    store = MoodyStore()
    await store.commit(Put(REBUILD, b"lost"))
    core.kernel.host.held.clear()
    core.store = store
    await core.start()
    records = core.controller._context.records
    assert [replace(each, sequence=0) for each in records.attachments()] == [
        replace(each, sequence=0) for each in before
    ]
    found = records.sandbox("vm")
    assert found
    assert sandbox
    assert (found.origin, found.key, found.has_files) == (Origin.GUEST, sandbox.key, False)


async def test_a_guest_queries_its_gateway(core: CoreInProcess) -> None:
    await machine(core)
    sandbox, net = core.controller.sandboxes.find("vm"), core.controller.networks.find("foo")
    resolver = core.controller._context.resolver_sync
    assert resolver.why_not_served(sandbox) == ""
    settings = next(each for each in resolver._clients(sandbox) if isinstance(each, SetClient))
    assert (str(settings.listen), [str(each) for each in settings.sources]) == (
        str(gateway_socket("vm", 4)),
        ["10.9.0.2"],
    )
    served = [str(each) for each in core.controller.sandboxes.name_servers(sandbox, net)]
    assert served == (["10.9.0.1"] if resolver.serves else [])


async def test_a_guest_without_anti_spoofing_has_no_names(core: CoreInProcess) -> None:
    await core.network("open", anti_spoofing=False)
    await core.endpoint("web", "open")
    sandbox = await core.join("vm", "web", "open", tap=TAP)
    resolver = core.controller._context.resolver_sync
    assert "gateways do not answer" in resolver.why_not_served(sandbox)
    assert not [*resolver._clients(sandbox)]
    assert not core.controller.sandboxes.name_servers(sandbox, core.controller.networks.find("open"))


async def test_a_failed_join_leaves_no_tap(core: CoreInProcess) -> None:
    await core.network()
    await core.endpoint("web")
    core.kernel.fail_on("links.plug_tap", Error(Kind.UNAVAILABLE, "broken"))
    with pytest.raises(Error):
        await core.join("vm", "web", tap=TAP)
    assert not core.veths()
    assert not await core.store.list("sandbox/")
    await core.join("vm", "web", tap=TAP)


async def test_a_machine_does_not_share_an_address(core: CoreInProcess) -> None:
    await core.network()
    await core.endpoint("web")
    await core.controller.services.attach("web", JoinSpec(container_id="c1"))
    with refused("address_shared"):
        await core.controller.services.attach("web", JoinSpec(container_id="vm", tap=TAP))
    with pytest.raises(Error) as caught:
        await core.join("vm", "web", tap=TAP)
    assert caught.value.code == "already_joined"
    assert "service attach" not in caught.value.hint


async def test_one_container_is_a_machine_on_all_networks_or_none(core: CoreInProcess) -> None:
    await machine(core)
    await core.network("bar")
    await core.endpoint("db", "bar")
    await core.endpoint("two")
    with refused("link_type"):
        await core.join("vm", "db", "bar")
    await core.join("c1", "db", "bar")
    with refused("link_type"):
        await core.join("c1", "two", tap=TAP)


@pytest.mark.parametrize("network", ["none", "host"])
async def test_networks_without_interfaces_have_no_taps(core: CoreInProcess, network: str) -> None:
    await core.endpoint("web", network)
    with refused("no_interface"):
        await core.join("vm", "web", network, tap=TAP)


async def test_auto_remove_of_a_machine_needs_its_process(core: CoreInProcess) -> None:
    await core.network()
    await core.endpoint("web")
    with refused("no_process"):
        await core.join("vm", "web", tap=TAP, auto_remove=True)


async def test_the_end_of_the_emulator_removes_the_machine(core: CoreInProcess) -> None:
    await core.network()
    await core.endpoint("web")
    core.kernel.processes.begin(4711)
    await core.join("vm", "web", tap=TAP, watch_pid=4711)
    core.kernel.processes.end(4711)
    await core.start()
    assert not await core.store.list("sandbox/")


async def inner_machine(core: CoreInProcess) -> Attachment:
    """A virtual machine whose tap is in its sandbox."""
    await core.network(subnet=IPv4Network("10.9.0.0/24"))
    endpoint = await core.endpoint("web")
    sandbox = await core.join("vm", "web", tap=INNER)
    assert sandbox.origin is Origin.MADE
    found = core.controller._context.records.attachment("vm", endpoint.id)
    assert found
    return found


def inner_taps(core: CoreInProcess) -> dict[str, str]:
    sandbox = core.controller.sandboxes.find("vm")
    return core.kernel.namespaces._spaces[sandbox.inode].taps


async def test_an_inner_tap_has_the_addresses_and_the_interface_none(core: CoreInProcess) -> None:
    attachment = await inner_machine(core)
    assert inner_taps(core) == {"tap0": "eth0"}
    link = core.kernel.links.options[attachment.host_link]
    assert (link.address, link.bridge_addresses, str(attachment.address)) == (None, (), "10.9.0.2/24")
    sandbox = core.controller.sandboxes.find("vm")
    assert [str(hop) for hop in core.controller.sandboxes.gateways(sandbox, attachment)] == ["10.9.0.1"]
    assert not core.kernel.namespaces._spaces[sandbox.inode].default_routes
    assert not await core.controller.reconcile.run(fix=False)


async def test_an_absent_inner_tap_is_repaired(core: CoreInProcess) -> None:
    await inner_machine(core)
    inner_taps(core).clear()
    found = await core.controller.reconcile.run(fix=True)
    assert [(drift.problem, drift.done) for drift in found] == [("there is no tap tap0", "repaired")]
    assert inner_taps(core) == {"tap0": "eth0"}


async def test_lost_records_of_an_inner_tap_are_rebuilt(core: CoreInProcess) -> None:
    before = await inner_machine(core)
    store = MoodyStore()
    await store.commit(Put(REBUILD, b"lost"))
    core.store = store
    await core.start()
    after = core.controller._context.records.attachments()
    assert [replace(each, sequence=0) for each in after] == [replace(before, sequence=0)]
    assert core.controller.sandboxes.find("vm").origin is Origin.MADE
