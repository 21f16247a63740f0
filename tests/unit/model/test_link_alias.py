"""Marks: what a link reports is read back as it was meant, and fits."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sandnet.core.recovery.link_records import (
    attachment_from_alias,
    endpoint_from_alias,
    sandbox_from_alias,
)
from sandnet.drivers.bridge.network_record import network_from_alias
from sandnet.kernel.types import Link
from sandnet.model import Attachment, Endpoint, Network, NetworkOptions, Origin, Phase, Sandbox, Subnet
from sandnet.model.address import mac_for
from sandnet.model.ids import CONTAINER_ID, ENDPOINT_NAME, NETWORK_NAME
from sandnet.model.interfaces.bandwidth import FIELDS
from sandnet.model.link_alias import (
    LIMIT,
    OPTIONS,
    AttachmentAlias,
    NetworkAlias,
    attachment_alias,
    bandwidth,
    network_alias,
    read_alias,
)
from sandnet.model.ports import ExposedPort

IDS = st.binary(min_size=32, max_size=32).map(bytes.hex)
V4 = st.integers(0x0B000002, 0xDF000000).map(lambda number: ip_address(number & ~0xFF | 7))
V6 = st.integers(2**125, 2**126 - 1).map(IPv6Address)


def link(name: str, kind: str = "bridge") -> Link:
    return Link(name, 5, kind, 0, True, 1500, "02:00:00:00:00:01", 0)


PORTS = st.builds(ExposedPort, proto=st.sampled_from([6, 17, 132]), port=st.integers(1, 65535))
ACCESS = st.none() | st.booleans() | st.sets(PORTS, min_size=1, max_size=100).map(
    lambda ports: tuple(sorted(ports, key=lambda each: (each.proto, each.port)))
)  # fmt: skip


@st.composite
def networks(draw: st.DrawFn) -> Network:
    own = IPv4Interface(f"{draw(V4)}/24")
    own6 = draw(st.none() | V6.map(lambda address: IPv6Interface((address, 64))))
    flags = {name: value for name, value in OPTIONS.values() if name != "ipv6" and draw(st.booleans())}
    inside = draw(st.none() | st.just(IPv4Network((int(own.network[128]), 25))))
    options = NetworkOptions(ipv6=own6 is not None, ip_range=inside, mtu=draw(st.none() | st.integers(1280, 65535)))
    options = replace(options, host_access=draw(ACCESS), max_flows=draw(st.none() | st.integers(0, 1 << 24)), **flags)
    options = replace(options, egress_ipv4=draw(st.none() | V4), egress_ipv6=draw(st.none() | V6))
    if draw(st.booleans()):
        options = replace(options, dns_search=("corp.example", "."), dns_options=("ndots:2", "use-vc"))
    gateway = draw(st.sampled_from([own.ip, own.network[9]]))
    gateway6 = own6.ip if own6 and not options.internal else None
    return Network(
        id=(number := draw(IDS)),
        name=draw(st.from_regex(NETWORK_NAME, fullmatch=True)),
        driver="bridge",
        phase=Phase.READY,
        sequence=1,
        created=1795000000.0,
        options=options,
        ipv4=Subnet(
            prefix=own.network, host_address=own, gateway=None if options.internal else gateway, range=options.ip_range
        ),
        ipv6=Subnet(prefix=own6.network, host_address=own6, gateway=gateway6) if own6 else None,
        link=f"snb{number[:10]}",
        predefined=draw(st.booleans()),
    )


@given(networks())
def test_network_alias_reads_back_as_the_network(net: Network) -> None:
    text = network_alias(net)
    mark = read_alias(text)
    assert len(text) <= LIMIT
    assert isinstance(mark, NetworkAlias)
    if mark.whole:
        assert network_from_alias("bridge", link(net.link), mark, 1) == net


@given(networks(), IDS, st.from_regex(ENDPOINT_NAME, fullmatch=True), st.from_regex(CONTAINER_ID, fullmatch=True),
       V4, st.none() | V4, st.booleans(), st.integers(1, 100), st.integers(-9, 9))  # fmt: skip
def test_attachment_alias_reads_back_with_both_its_ends(
    net: Network,
    number: str,
    name: str,
    container: str,
    own: object,
    other: object,
    joined: bool,
    weight: int,
    rank: int,
) -> None:
    own4 = IPv4Interface(f"{own}/24")
    shared = IPv4Interface(f"{other or own}/24")
    endpoint = Endpoint(
        id=number, name=name, network_id=net.id, phase=Phase.READY, sequence=2, created=1795000000.0,
        address=shared, mac=mac_for(shared.ip),
    )  # fmt: skip
    sandbox = Sandbox(
        container_id=container, key=f"/run/netns/{container[:12]}", phase=Phase.READY, sequence=3, created=0.0,
        origin=Origin.JOINED if joined else Origin.MADE, inode=9, loopback_was_up=joined,
        hosts_path="/f/hosts", resolv_conf_path="/f/resolv.conf",
    )  # fmt: skip
    attachment = Attachment(
        endpoint_id=number, network_id=net.id, container_id=container, phase=Phase.READY, sequence=4,
        interface="eth0", host_link="snv0123456789", address=own4, mac=mac_for(own4.ip),
        gateway_priority=rank, holder=shared == own4, leased=shared != own4, weight=weight,
    )  # fmt: skip
    text = attachment_alias(endpoint, sandbox, attachment)
    mark = read_alias(text)
    assert len(text) <= LIMIT
    assert isinstance(mark, AttachmentAlias)
    if mark.whole:
        assert net.ipv4 is not None
        found = endpoint_from_alias(mark, net, 2)
        assert found.address == IPv4Interface((shared.ip, net.ipv4.prefix.prefixlen))
        assert (found.id, found.name, found.mac) == (number, name, endpoint.mac)
        assert attachment_from_alias(link("snv0123456789", "veth"), mark, net, 4) == attachment
        made = sandbox_from_alias(mark, sandbox.key, 9, "/f", 3)
        assert (made.container_id, made.key, made.origin, made.loopback_was_up) == (
            container, sandbox.key, sandbox.origin, joined,
        )  # fmt: skip


@given(st.text() | st.text().map("sandnet1 net ".__add__) | st.text().map("sandnet1 end ".__add__))
def test_any_alias_text_is_no_alias_or_a_usable_one(text: str) -> None:
    mark = read_alias(text)
    if isinstance(mark, NetworkAlias):
        network_from_alias("bridge", link("snb0123456789"), mark, 1)


def test_every_network_option_is_in_its_alias() -> None:
    asked = NetworkOptions()
    usual = {name: getattr(asked, name) for name in NetworkOptions.__struct_fields__}
    answers = {name for name, value in usual.items() if isinstance(value, bool)}
    answers |= {"gateway_dns"}  # whose third answer is none
    assert {name for name, _ in OPTIONS.values()} == answers - {"create_bridge"}  # which matters once, at the start
    assert all(usual[name] is not value for name, value in OPTIONS.values())
    # what follows from addresses and names that the mark reports, and what has a value there
    reported = {"subnet", "gateway", "bridge_address", "subnet_ipv6", "gateway_ipv6", "bridge_name", "vni"}
    valued = {"ip_range", "mtu", "binding_address", "host_access", "dns_search", "dns_options"}
    valued |= {"egress_ipv4", "egress_ipv6", "max_flows", "reserved_addresses", *FIELDS}
    without_link = {"parent", "ipam_driver", "macvlan_mode", "routes", "plugin_options"}
    assert usual.keys() - answers == reported | valued | without_link


def net(**options: object) -> Network:
    own = IPv4Interface("10.9.0.1/24")
    return Network(
        id="0" * 64, name="foo", driver="bridge", phase=Phase.READY, sequence=1, created=1.0, link="snb0000000000",
        options=NetworkOptions(**options), ipv4=Subnet(prefix=own.network, host_address=own, gateway=own.ip),  # type: ignore[arg-type]
    )  # fmt: skip


def test_hundred_host_ports_make_a_closed_and_incomplete_alias() -> None:
    ports = tuple(ExposedPort(proto=6, port=10_000 + number) for number in range(100))
    mark = read_alias(network_alias(net(host_access=ports)))
    assert isinstance(mark, NetworkAlias)
    assert not mark.whole
    found = network_from_alias("bridge", link("snb0000000000"), mark, 1)
    assert found
    assert found.options.host_access is None


@pytest.mark.parametrize("printed", ["6", "6:", "6:0", "6:65536", "1:1", "6:1;", "6:1,", "tcp:1", "6:-1"])
def test_invalid_host_ports_in_an_alias_yield_no_network(printed: str) -> None:
    text = network_alias(net(host_access=(ExposedPort(proto=6, port=22),)))
    assert " o=6:22 " in text
    mark = read_alias(text.replace("o=6:22", f"o={printed}"))
    assert isinstance(mark, NetworkAlias)
    assert network_from_alias("bridge", link("snb0000000000"), mark, 1) is None


def test_alias_has_the_additional_addresses_that_fit() -> None:
    own = IPv4Interface("10.9.0.2/24")
    ends = {"endpoint_id": "0" * 64, "network_id": "0" * 64, "container_id": "c", "phase": Phase.READY, "sequence": 4}
    sandbox = Sandbox(
        container_id="c", key="/run/netns/c", phase=Phase.READY, sequence=3, created=0.0, origin=Origin.MADE, inode=9,
    )  # fmt: skip
    for count in (2, 16):
        further = tuple(IPv4Interface(f"10.9.0.{200 + number}/24") for number in range(count))
        attachment = Attachment(**ends, interface="eth0", address=own, additional_addresses=further)  # type: ignore[arg-type]
        endpoint = Endpoint(
            id="0" * 64, name="web", network_id="0" * 64, phase=Phase.READY, sequence=2, created=1.0, address=own,
            additional_addresses=further,
        )  # fmt: skip
        mark = read_alias(attachment_alias(endpoint, sandbox, attachment))
        assert isinstance(mark, AttachmentAlias)
        assert mark.whole == (count == 2)
        known = further if mark.whole else ()
        made = attachment_from_alias(link("snv0123456789", "veth"), mark, net(), 4)
        assert made
        assert (endpoint_from_alias(mark, net(), 2).additional_addresses, made.additional_addresses) == (known, known)


@pytest.mark.parametrize("printed", ["10.9.1.5", "10.9.0.5,x", "fd00::5", ","])
def test_invalid_additional_addresses_are_none(printed: str) -> None:
    mark = read_alias(f"sandnet1 end {'A' * 43} web c eth0 - 4=10.9.0.2 i={printed}")
    assert isinstance(mark, AttachmentAlias)
    assert endpoint_from_alias(mark, net(), 2).additional_addresses == ()


def test_limits_of_a_network_are_in_its_alias() -> None:
    mark = read_alias(network_alias(net(ingress_rate=10_000_000, egress_burst=0, egress_rate=8_000)))
    assert isinstance(mark, NetworkAlias)
    found = network_from_alias("bridge", link("snb0000000000"), mark, 1)
    assert found
    assert (found.options.ingress_rate, found.options.egress_rate) == (10_000_000, 8_000)


@pytest.mark.parametrize("text", [None, "", "1", "a:b:c:d", "1:0:0:0", "0:0:0:0:0", "-5:0:0:0"])
def test_invalid_limits_in_an_alias_are_none(text: str | None) -> None:
    assert bandwidth(text) is None
