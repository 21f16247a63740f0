"""Bridges and veth pairs in the real kernel."""

from __future__ import annotations

import json
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface, ip_interface
from typing import Any

import pytest

from sandnet.errors import Error, Kind
from sandnet.kernel.linux.links import MAX_PORTS, LinuxLinks
from sandnet.kernel.linux.namespaces import LinuxNamespaces
from sandnet.kernel.netlink.rtnetlink import link_header
from sandnet.kernel.types import PORTS, RETIRED, Bridge, Veth
from sandnet.model.link_names import link_mac
from tests.support.network_host import Host, eventually
from tests.support.traffic import DEADLINE

FOLDER = "/run/netns-test"
KEY = f"{FOLDER}/box"
BRIDGE = Bridge("snb0", 0, (IPv4Interface("10.9.0.1/24"), IPv6Interface("fd09::1/64")))
VETH = Veth(
    host_link="snv0",
    master="snb0",
    interface="eth0",
    mac="02:42:0a:09:00:02",
    mtu=0,
    address=IPv4Interface("10.9.0.2/24"),
    address_ipv6=IPv6Interface("fd09::2/64"),
    isolated=False,
    hairpin=False,
)
TWO_PORTS = "link add d{0} master snb0 type veth peer name e{0}\nlink set e{0} master snb0\n"
"""For ``ip -batch``: a pair of which both ends are ports."""
ONE_PORT = "link add odd0 master snb0 type veth peer name odd1\n"

links = LinuxLinks()
namespaces = LinuxNamespaces(FOLDER)


def second(veth: Veth = VETH) -> Veth:
    return veth._replace(
        host_link="snv1",
        mac="02:42:0a:09:00:03",
        address=IPv4Interface("10.9.0.3/24"),
        address_ipv6=IPv6Interface("fd09::3/64"),
    )


def shown(host: Host, name: str, namespace: str = "") -> dict[str, Any]:
    """What ``ip`` reports of a link, an independent witness."""
    found: list[dict[str, Any]] = json.loads(
        host.sh("ip", "-d", "-j", "address", "show", "dev", name, namespace=namespace)
    )
    return next(entry for entry in found if entry)


def addresses(entry: dict[str, Any]) -> set[str]:
    return {f"{info['local']}/{info['prefixlen']}" for info in entry["addr_info"] if info["scope"] != "link"}


@pytest.fixture
def plugged(host: Host) -> Host:
    """A host with a bridge and one sandbox on it."""
    host.run(links.ensure_bridge, BRIDGE)
    host.run(namespaces.make, KEY)
    host.run(links.plug, KEY, VETH)
    return host


def test_new_bridge_is_up_with_its_addresses_and_mac(host: Host) -> None:
    host.run(links.ensure_bridge, BRIDGE._replace(mtu=1400))
    bridge = shown(host, "snb0")
    assert bridge["linkinfo"]["info_kind"] == "bridge"
    assert "UP" in bridge["flags"]
    assert (bridge["mtu"], bridge["address"]) == (1400, link_mac("snb0"))
    assert addresses(bridge) == {"10.9.0.1/24", "fd09::1/64"}
    assert not any(info.get("tentative") for info in bridge["addr_info"] if info["local"] == "fd09::1")


def test_ensuring_a_bridge_again_keeps_extra_addresses(host: Host) -> None:
    host.run(links.ensure_bridge, BRIDGE)
    host.sh("ip", "address", "add", "192.0.2.1/24", "dev", "snb0")
    host.sh("ip", "address", "del", "10.9.0.1/24", "dev", "snb0")
    host.sh("ip", "link", "set", "snb0", "down", "mtu", "1300", "address", "02:00:00:00:00:01")
    host.run(links.ensure_bridge, BRIDGE._replace(mtu=1400))
    bridge = shown(host, "snb0")
    assert (bridge["mtu"], bridge["address"], "UP" in bridge["flags"]) == (1400, link_mac("snb0"), True)
    assert addresses(bridge) == {"10.9.0.1/24", "fd09::1/64", "192.0.2.1/24"}


def test_bridge_name_taken_by_another_link_kind_is_a_conflict(host: Host) -> None:
    host.sh("ip", "link", "add", "snb0", "type", "veth")
    with pytest.raises(Error, match="snb0 is not a bridge") as caught:
        host.run(links.ensure_bridge, BRIDGE)
    assert caught.value.kind == Kind.CONFLICT
    assert addresses(shown(host, "snb0")) == set()


def test_bridges_have_distinct_local_unicast_macs() -> None:
    one, other = link_mac("snb0"), link_mac("snb1")
    assert one != other
    assert int(one[:2], 16) & 0b11 == 0b10


def test_bridge_mac_is_unchanged_by_added_ports(plugged: Host) -> None:
    assert shown(plugged, "snb0")["address"] == link_mac("snb0")


def test_adopted_foreign_bridge_gets_only_what_it_lacks(host: Host) -> None:
    host.sh("ip", "link", "add", "br0", "type", "bridge")
    host.sh("ip", "link", "set", "br0", "address", "02:00:00:00:00:01")
    bridge = BRIDGE._replace(name="br0")
    host.run(links.adopt_bridge, bridge)
    host.run(links.adopt_bridge, bridge)
    found = shown(host, "br0")
    assert (found["address"], "UP" in found["flags"]) == ("02:00:00:00:00:01", True)
    assert addresses(found) == {"10.9.0.1/24", "fd09::1/64"}


def test_adopting_a_missing_bridge_is_not_found(host: Host) -> None:
    with pytest.raises(Error) as caught:
        host.run(links.adopt_bridge, BRIDGE)
    assert caught.value.kind == Kind.NOT_FOUND


def test_removing_an_address_keeps_others_of_its_subnet(host: Host) -> None:
    host.run(links.ensure_bridge, BRIDGE)
    host.sh("ip", "address", "add", "10.9.0.7/24", "dev", "snb0")
    host.run(links.remove_addresses, "snb0", [IPv4Interface("10.9.0.1/24"), IPv4Interface("10.9.0.99/24")])
    assert addresses(shown(host, "snb0")) == {"10.9.0.7/24", "fd09::1/64"}


def test_removing_or_listing_addresses_of_no_link_succeeds(host: Host) -> None:
    host.run(links.remove_addresses, "nothing", [IPv4Interface("10.9.0.1/24")])
    assert host.run(links.addresses, "nothing") == []


def test_addresses_of_both_families_are_listed_for_one_link(host: Host) -> None:
    host.run(links.ensure_bridge, BRIDGE)
    host.run(links.ensure_bridge, Bridge("snb1", 0, (IPv4Interface("10.8.0.1/24"),)))
    found = {address for address in host.run(links.addresses, "snb0") if not address.is_link_local}
    assert found == {ip_interface("10.9.0.1/24"), ip_interface("fd09::1/64")}


def test_plugged_interface_has_the_requested_settings(plugged: Host) -> None:
    inner = shown(plugged, "eth0", KEY)
    assert (inner["address"], inner["mtu"], "UP" in inner["flags"]) == (VETH.mac, 1500, True)
    assert addresses(inner) == {"10.9.0.2/24", "fd09::2/64"}
    outer = plugged.run(links.find, "snv0")
    assert outer is not None
    assert (outer.kind, outer.up, outer.group) == ("veth", True, PORTS)
    assert outer.master == shown(plugged, "snb0")["ifindex"]


def test_plugged_sandboxes_reach_each_other_and_the_host(plugged: Host) -> None:
    plugged.run(namespaces.make, f"{FOLDER}/other")
    plugged.run(links.plug, f"{FOLDER}/other", second())
    for address in ("10.9.0.3", "fd09::3", "10.9.0.1", "fd09::1"):
        assert plugged.reaches(address, namespace=KEY), address
    assert plugged.reaches("10.9.0.2")


def test_port_that_cannot_be_isolated_stays_down(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel carries out a batch past what it refuses: the port came up all the same."""
    for module in ("pairs.new_pair", "links"):
        monkeypatch.setattr(f"sandnet.kernel.linux.{module}.port_options", lambda *_, **__: link_header(1 << 30))
    host.run(links.ensure_bridge, BRIDGE)
    host.run(namespaces.make, KEY)
    with pytest.raises(Error):
        host.run(links.plug, KEY, VETH._replace(isolated=True))
    assert "UP" not in shown(host, "snv0")["flags"]


def test_isolated_ports_reach_only_the_bridge(host: Host) -> None:
    host.run(links.ensure_bridge, BRIDGE)
    for key, veth in ((KEY, VETH), (f"{FOLDER}/other", second())):
        host.run(namespaces.make, key)
        host.run(links.plug, key, veth._replace(isolated=True))
    assert host.reaches("10.9.0.1", namespace=KEY)
    assert not host.reaches("10.9.0.3", namespace=KEY, seconds=0.5)


def test_port_options_are_set_on_the_bridge(plugged: Host) -> None:
    for wanted in ((True, False), (False, True), (False, False)):
        plugged.run(links.plug, KEY, VETH._replace(isolated=wanted[0], hairpin=wanted[1]))
        port = shown(plugged, "snv0")["linkinfo"]["info_slave_data"]
        assert (port["isolated"], port["hairpin"]) == wanted


def test_host_end_gets_no_automatic_address(
    plugged: Host,
) -> None:
    assert plugged.reaches("fd09::2")
    assert shown(plugged, "snv0")["addr_info"] == []


def test_mtu_is_set_on_both_ends(host: Host) -> None:
    host.run(links.ensure_bridge, BRIDGE)
    host.run(namespaces.make, KEY)
    host.run(links.plug, KEY, VETH._replace(mtu=1400))
    assert shown(host, "snv0")["mtu"] == shown(host, "eth0", KEY)["mtu"] == 1400


def test_plugging_again_converges_the_same_pair(plugged: Host) -> None:
    before = shown(plugged, "snv0")["ifindex"]
    plugged.sh("ip", "link", "set", "snv0", "nomaster", "down")
    plugged.sh("ip", "address", "flush", "dev", "eth0", namespace=KEY)
    plugged.sh("ip", "link", "set", "eth0", "down", "address", "02:00:00:00:00:09", namespace=KEY)
    plugged.run(links.plug, KEY, VETH._replace(mtu=1400))
    assert shown(plugged, "snv0")["ifindex"] == before
    inner = shown(plugged, "eth0", KEY)
    assert (inner["address"], inner["mtu"]) == (VETH.mac, 1400)
    assert addresses(inner) == {"10.9.0.2/24", "fd09::2/64"}
    assert plugged.reaches("10.9.0.2")


def test_pair_leading_elsewhere_is_replaced(plugged: Host) -> None:
    other = f"{FOLDER}/other"
    plugged.run(namespaces.make, other)
    plugged.run(links.plug, other, VETH)
    assert plugged.run(namespaces.interfaces, KEY) == ["lo"]
    assert plugged.run(namespaces.interfaces, other) == ["lo", "eth0"]
    assert plugged.reaches("10.9.0.2")


def test_foreign_interface_with_the_peer_index_is_not_the_peer(
    plugged: Host,
) -> None:
    other = f"{FOLDER}/other"
    plugged.run(namespaces.make, other)
    plugged.sh("ip", "link", "add", "eth0", "type", "bridge", namespace=other)
    assert shown(plugged, "eth0", other)["ifindex"] == shown(plugged, "eth0", KEY)["ifindex"]
    with pytest.raises(Error, match="eth0 is taken"):
        plugged.run(links.plug, other, VETH)
    assert addresses(shown(plugged, "eth0", other)) == set()


def test_retired_pair_is_replaced_by_a_working_one(plugged: Host) -> None:
    plugged.run(links.retire, ["snv0"])
    plugged.run(links.plug, KEY, VETH)
    link = plugged.run(links.find, "snv0")
    assert link is not None
    assert (link.up, link.group) == (True, PORTS)
    assert plugged.reaches("10.9.0.2")


def test_retired_interface_yields_its_name_to_a_new_one(plugged: Host) -> None:
    plugged.run(links.retire, ["snv0"])
    plugged.run(links.plug, KEY, second())
    assert plugged.run(links.find, "snv0") is None
    assert plugged.reaches("10.9.0.3")


def test_taken_interface_name_conflicts_and_leaves_nothing(host: Host) -> None:
    host.run(links.ensure_bridge, BRIDGE)
    host.run(namespaces.make, KEY)
    host.sh("ip", "link", "add", "eth0", "type", "bridge", namespace=KEY)
    with pytest.raises(Error, match="eth0 is taken") as caught:
        host.run(links.plug, KEY, VETH)
    assert caught.value.kind == Kind.CONFLICT
    assert host.run(links.find, "snv0") is None


def test_taken_host_end_name_conflicts_and_keeps_foreign_link(host: Host) -> None:
    host.run(links.ensure_bridge, BRIDGE)
    host.run(namespaces.make, KEY)
    host.sh("ip", "link", "add", "snv0", "type", "bridge")
    with pytest.raises(Error) as caught:
        host.run(links.plug, KEY, VETH)
    assert caught.value.kind == Kind.CONFLICT
    assert host.run(links.find, "snv0") is not None


@pytest.mark.parametrize("gone", ["bridge", "namespace"])
def test_plugging_without_bridge_or_namespace_is_not_found(host: Host, gone: str) -> None:
    if gone == "bridge":
        host.run(namespaces.make, KEY)
    else:
        host.run(links.ensure_bridge, BRIDGE)
    with pytest.raises(Error, match=gone if gone == "bridge" else KEY) as caught:
        host.run(links.plug, KEY, VETH)
    assert caught.value.kind == Kind.NOT_FOUND


def test_plugging_into_a_non_namespace_file_is_not_found(host: Host) -> None:
    host.run(links.ensure_bridge, BRIDGE)
    with pytest.raises(Error) as caught:
        host.run(links.plug, "/etc/hostname", VETH)
    assert caught.value.kind == Kind.NOT_FOUND


def test_full_bridge_raises_exhausted_naming_the_limit(host: Host) -> None:
    host.run(links.ensure_bridge, BRIDGE)
    host.run(namespaces.make, KEY)
    host.run(run_batch, "".join(TWO_PORTS.format(i) for i in range(MAX_PORTS // 2)) + ONE_PORT)
    assert ports(host, "snb0") == MAX_PORTS
    with pytest.raises(Error, match=str(MAX_PORTS)) as caught:
        host.run(links.plug, KEY, VETH)
    assert (caught.value.kind, caught.value.code) == (Kind.EXHAUSTED, "network_full")
    assert host.run(links.find, "snv0") is None
    host.run(links.retire, ["d0"])
    host.run(links.plug, KEY, VETH)


def ports(host: Host, bridge: str) -> int:
    found = host.run(links.find, bridge)
    return sum(link.master == found.ifindex for link in host.run(links.list)) if found else 0


def run_batch(script: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input=script, text=True, check=True)


def test_retired_links_are_silent_at_once_and_reaped_together(plugged: Host) -> None:
    plugged.run(namespaces.make, f"{FOLDER}/other")
    plugged.run(links.plug, f"{FOLDER}/other", second())
    plugged.run(links.retire, ["snv0", "absent", "snv1"])
    link = plugged.run(links.find, "snv0")
    assert link is not None
    assert (link.up, link.group) == (False, RETIRED)
    assert not plugged.reaches("10.9.0.1", namespace=KEY, seconds=0.2)
    plugged.run(links.reap)
    plugged.run(links.reap)
    assert plugged.run(namespaces.interfaces, KEY) == ["lo"]
    assert ports(plugged, "snb0") == 0


def test_bulk_delete_removes_only_the_named_links(plugged: Host) -> None:
    plugged.run(links.ensure_bridge, Bridge("snb1", 0, ()))
    plugged.run(links.ensure_bridge, Bridge("snb2", 0, ()))
    plugged.run(links.delete, ["snb1", "absent", "snv0"])
    assert {link.name for link in plugged.run(links.list)} == {"lo", "snb0", "snb2"}
    plugged.run(links.delete, ["snb1"])


def test_bulk_delete_with_an_undeletable_link_deletes_none(plugged: Host) -> None:
    with pytest.raises(Error) as caught:
        plugged.run(links.delete, ["snb0", "lo"])
    assert caught.value.kind == Kind.CONFLICT
    assert {link.name for link in plugged.run(links.list)} == {"lo", "snb0", "snv0"}


def test_links_are_listed_as_they_are(plugged: Host) -> None:
    found = {link.name: link for link in plugged.run(links.list)}
    assert set(found) == {"lo", "snb0", "snv0"}
    assert (found["lo"].kind, found["lo"].up, found["snb0"].kind) == ("", True, "bridge")
    assert found["snb0"] == plugged.run(links.find, "snb0")
    assert found["snv0"].mac == shown(plugged, "snv0")["address"]


def test_replugging_after_namespace_release_makes_a_fresh_pair(plugged: Host) -> None:
    plugged.run(namespaces.release, KEY)
    eventually(lambda: plugged.run(links.find, "snv0") is None)
    plugged.run(namespaces.make, KEY)
    plugged.run(links.plug, KEY, VETH)
    assert plugged.reaches("10.9.0.2")


def test_concurrent_plug_retire_and_reap_all_succeed(host: Host) -> None:
    host.run(links.ensure_bridge, BRIDGE)

    def life(number: int) -> None:
        key = f"{FOLDER}/{number}"
        veth = VETH._replace(
            host_link=f"snv{number}", address=IPv4Interface(f"10.9.0.{number + 2}/24"), address_ipv6=None
        )
        for _ in range(3):
            namespaces.make(key)
            links.plug(key, veth)
            links.plug(key, veth)
            links.retire([veth.host_link])
            namespaces.release(key)
            links.reap()

    with ThreadPoolExecutor(4, initializer=host.enter) as pool:
        list(pool.map(life, range(8)))
    eventually(lambda: [link.name for link in host.run(links.list)] == ["lo", "snb0"])


def test_ipv6_is_switched_on_for_a_new_interface(host: Host) -> None:
    """The kernel refuses a part of the first batch, so each step is repeated by itself."""
    host.run(links.ensure_bridge, BRIDGE)
    host.run(namespaces.make, KEY)
    host.sh("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1", namespace=KEY)
    host.run(links.plug, KEY, VETH)
    assert addresses(shown(host, "eth0", KEY)) == {"10.9.0.2/24", "fd09::2/64"}
    assert shown(host, "snv0")["linkinfo"]["info_slave_kind"] == "bridge"
    assert f"{VETH.mac} dev snv0 master snb0 static" in host.sh("bridge", "fdb", "show", "br", "snb0")


def test_sandbox_without_ipv6_has_no_link_local_and_no_multicast(host: Host) -> None:
    host.run(links.ensure_bridge, BRIDGE._replace(addresses=BRIDGE.addresses[:1]))
    host.run(namespaces.make, KEY)
    host.run(links.plug, KEY, VETH._replace(address_ipv6=None))
    assert host.reaches("10.9.0.2")
    inside = host.sh("nsenter", f"--net={KEY}", "ip", "-6", "-o", "address", "show", "dev", VETH.interface)
    assert inside == ""


def test_first_datagram_to_a_plugged_interface_arrives(host: Host) -> None:
    """Each time on a new bridge. The kernel activates links by a work queue, so what is sent too early may be lost."""
    host.run(namespaces.make, KEY)
    for number in range(30):
        veth = VETH._replace(host_link=f"snv{number}", master=f"snb{number}", address_ipv6=None)
        host.run(links.ensure_bridge, BRIDGE._replace(name=veth.master))
        listener = host.inside(KEY, _listener)
        with listener:
            host.run(_plug_and_send, veth)
            assert listener.recv(9) == b"first"
        host.run(links.delete, [veth.host_link, veth.master])


def test_neighbours_that_a_user_made_permanent_are_kept(plugged: Host) -> None:
    theirs, other = IPv4Address("10.9.0.3"), IPv4Address("10.9.0.4")
    permanent = ("lladdr", "02:00:00:00:00:77", "nud", "permanent", "dev", "eth0")
    plugged.sh("ip", "neigh", "add", str(theirs), *permanent, namespace=KEY)
    plugged.run(links.change_neighbours, KEY, "eth0", {theirs: VETH.mac, other: VETH.mac}, ())
    plugged.run(links.change_neighbours, KEY, "eth0", {}, (theirs, other))
    entries = json.loads(plugged.sh("ip", "-j", "-4", "neigh", "show", "dev", "eth0", namespace=KEY))
    found = {each["dst"]: (each["lladdr"], each["state"]) for each in entries if "lladdr" in each}
    assert found == {str(theirs): ("02:00:00:00:00:77", ["PERMANENT"])}


def _listener() -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind(("0.0.0.0", 9))
    listener.settimeout(DEADLINE)
    return listener


def _plug_and_send(veth: Veth) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        links.plug(KEY, veth)
        sender.sendto(b"first", ("10.9.0.2", 9))
