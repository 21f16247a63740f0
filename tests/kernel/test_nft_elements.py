"""Elements written and read without libnftables are those that it writes and reads."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

import pytest
from msgspec.structs import replace

from sandnet.errors import Error
from sandnet.firewall import antispoofing_rules, inet_table, overlay_rules
from sandnet.firewall.balancing import hash_seeds
from sandnet.firewall.balancing.service_elements import BalancedService, elements
from sandnet.firewall.balancing.service_rules import bridge_ruleset, router
from sandnet.firewall.base import NetworkState
from sandnet.firewall.inet_table import HostState
from sandnet.firewall.masquerade_sources import element
from sandnet.firewall.ruleset.elements import BRIDGE, INET, ElementMap, by_set, merge
from sandnet.kernel.linux import nftables
from sandnet.kernel.linux.nftables import Nftables
from sandnet.kernel.nftables import script_compiler
from sandnet.kernel.types import Elements, RouteSource
from sandnet.model import Address, Affinity, BoundPort, ExposedPort, Network, Peer, Subnet
from sandnet.model.network import NetworkOptions
from sandnet.model.ports import DirectPort
from sandnet.model.tap import TapOptions
from tests.support.network_host import Host
from tests.unit.firewall.balancing.test_service_elements import ENDPOINT, attachment
from tests.unit.firewall.test_antispoofing_rules import NET

NET4 = Subnet(
    prefix=IPv4Network("10.9.0.0/24"), host_address=IPv4Interface("10.9.0.1/24"), gateway=IPv4Address("10.9.0.1")
)
NET6 = Subnet(prefix=IPv6Network("fd09::/64"), host_address=IPv6Interface("fd09::1/64"), gateway=IPv6Address("fd09::1"))
SECRET = hash_seeds.new_secret()
HOST = HostState(max_flows=1000)
UNFILLED = {"closed_families", "open_links"}
"""Sets that the drivers fill; their keys are of the same parts as others."""
ANY: tuple[Address, ...] = (IPv4Address(0), IPv6Address(0), IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1"))


def ports() -> tuple[BoundPort, ...]:
    """Each kind of published port: alone and in runs, with and without an address of the host, moved and not."""
    alone = (BoundPort(proto=6, port=80 + number, host_ip=ip, host_port=8080) for number, ip in enumerate(ANY))
    runs = (BoundPort(proto=17, port=at, host_ip=ip, host_port=at) for ip in ANY for at in range(5000, 5010))
    return (*alone, *runs)


def networks() -> tuple[Network, ...]:
    options = NetworkOptions(
        egress_ipv4=IPv4Address("192.0.2.1"),
        egress_ipv6=IPv6Address("2001:db8::1"),
        host_access=(ExposedPort(proto=6, port=53),),
    )
    net = replace(NET, link="br0", ipv4=NET4, ipv6=NET6, options=options)
    adopted = replace(net, id="a", link="br1", link_adopted=True, options=NetworkOptions(anti_spoofing=False))
    internal = replace(net, id="i", link="br2", options=NetworkOptions(internal=True, anti_spoofing=False))
    routed = replace(net, id="r", link="br3", options=NetworkOptions(routed_ipv4=True, routed_ipv6=True))
    return net, adopted, internal, routed


TABLE = inet_table.table([NetworkState(net, []) for net in networks()], HOST)
SCRIPT = hash_seeds.insert_seeds(f"{bridge_ruleset()}{TABLE}{antispoofing_rules.ruleset()}", SECRET)


def everything() -> ElementMap:
    """Elements for every set and map that has some, except for those that only rules fill."""
    direct = tuple(DirectPort(version=version, proto=6, port=80) for version in (4, 6))
    endpoint = replace(ENDPOINT, ports=ports(), direct_ports=direct)
    backends = tuple(replace(attachment(number), host_link=f"snv012345678{number}") for number in (1, 2, 3))
    guest = replace(attachment(4), host_link="snv0123456784", tap=TapOptions())
    found = by_set([hash_seeds.element(SECRET), *inet_table.endpoint_elements(endpoint)])
    for each in networks():
        merge(found, by_set([*inet_table.network_elements(each, 1000), *router(each)]))
        for backend in (*backends, guest):
            merge(found, by_set(antispoofing_rules.elements(each, endpoint, backend).items()))
    for affinity in Affinity:
        merge(found, elements(BalancedService(replace(endpoint, affinity=affinity), backends)))
    spans = (("10.0.0.0", "10.255.255.255"), ("11.0.0.1", "11.0.0.9"), ("2001:db8::", "2001:db8::ff"))
    for first, last in spans:
        version = IPv6Address if ":" in first else IPv4Address
        merge(found, by_set([element(RouteSource("up0", version(first), version(last), version(last)))]))
    for underlay in (IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1")):
        peer = Peer("02:42:0a:09:00:09", underlay, (IPv4Address("10.9.0.9"), IPv6Address("fd09::9")))
        overlay = replace(networks()[0], vni=0x123456)
        merge(found, by_set([*overlay_rules.network_elements(overlay), *overlay_rules.peer_elements(overlay, peer)]))
        merge(found, by_set(overlay_rules.host_elements(underlay, 4789)))
    return found


@pytest.fixture
def firewall(host: Host) -> Iterator[Nftables]:
    made = Nftables()
    yield made
    made.close()


def read_elements(host: Host, firewall: Nftables) -> Elements:
    """Elements of both tables, by sets as those that are written."""
    kinds = {(which.table, which.name): which for which in everything()}
    listings = {table: host.run(firewall.listing, table) for table in (BRIDGE, INET)}
    return {
        kinds[table, name]: found
        for table, listing in listings.items()
        for name, found in (listing.elements if listing else {}).items()
        if found
    }


def listed(host: Host) -> list[str]:
    """Lines of what nft lists, of which sets have no order."""
    text = host.sh("nft", "-s", "list", "ruleset")
    return sorted(part.strip() for line in text.splitlines() for part in line.replace(" }", "").split(", "))


def test_elements_match_those_of_libnftables(host: Host, firewall: Nftables) -> None:
    found = everything()
    host.run(firewall.run, SCRIPT, found)
    theirs = listed(host)
    assert read_elements(host, firewall) == found
    host.run(firewall.run, SCRIPT)
    assert listed(host) != theirs
    host.run(firewall.change, {}, found)
    host.run(firewall.change, {}, found)
    assert listed(host) == theirs
    assert read_elements(host, firewall) == found
    host.run(firewall.change, found, {}, absent=True)
    host.run(firewall.change, found, {}, absent=True)
    assert read_elements(host, firewall) == {}


def test_every_set_with_elements_is_compared(host: Host, firewall: Nftables) -> None:
    """A set that no case of ``everything`` fills would be untested."""
    host.run(firewall.run, SCRIPT)
    filled = {(which.table, which.name) for which in everything()}
    for table in (BRIDGE, INET):
        listing = host.run(firewall.listing, table)
        assert listing
        assert {name for name in listing.elements if (table, name) not in filled} == UNFILLED & listing.elements.keys()


def test_compiled_script_makes_the_rules_that_the_library_makes(
    host: Host, firewall: Nftables, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):  # a map that is made again is the last one
        host.run(firewall.run, SCRIPT, everything())
    host.run(firewall.acknowledge, host.run(firewall.foreign_generation))
    theirs, rules = listed(host), host.sh("nft", "-s", "-t", "list", "ruleset")
    monkeypatch.setattr(nftables, "MANY", 1)
    monkeypatch.setattr(nftables, "spelled_elements", None)  # the library would be given them by this
    for _ in range(3):  # the second and the third time with the messages of the first
        host.run(firewall.run, SCRIPT, everything())
        assert host.run(firewall.foreign_generation) == 0
        assert host.sh("nft", "-s", "-t", "list", "ruleset") == rules
        assert listed(host) == theirs


@pytest.mark.parametrize("output", [b"", b"nothing that is known here\n", b"|  0000000099  |\t| message length |\n"])
def test_unknown_output_leaves_the_script_to_the_library(
    host: Host, firewall: Nftables, monkeypatch: pytest.MonkeyPatch, output: bytes
) -> None:
    monkeypatch.setattr(nftables, "MANY", 1)
    read = script_compiler._of_batch
    monkeypatch.setattr(script_compiler, "_of_batch", lambda _: read(output))
    host.run(firewall.run, SCRIPT, everything())
    assert read_elements(host, firewall) == everything()


def test_refused_messages_leave_the_script_to_the_library(
    host: Host, firewall: Nftables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nftables, "MANY", 1)
    read = script_compiler._of_batch
    monkeypatch.setattr(script_compiler, "_of_batch", lambda printed: [*read(printed)][1:])  # without the table
    host.run(firewall.run, SCRIPT, everything())
    assert read_elements(host, firewall) == everything()


def test_missing_set_is_reported_by_the_library(
    host: Host, firewall: Nftables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nftables, "MANY", 1)
    with pytest.raises(Error, match="No such file or directory"):
        host.run(firewall.run, SCRIPT + "flush set inet sandnet absent\n", everything())


def test_rejected_declaration_changes_nothing(host: Host, firewall: Nftables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nftables, "MANY", 1)
    host.sh("nft", "add table bridge sandnet; add set bridge sandnet services4 { type ether_addr; }")
    before = host.sh("nft", "list", "ruleset")
    with pytest.raises(Error):
        host.run(firewall.run, SCRIPT, everything())
    assert host.sh("nft", "list", "ruleset") == before
