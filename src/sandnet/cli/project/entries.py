"""The records of a project's file (docs/apply.md). A field that is absent has the daemon's default."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Annotated, Final

from msgspec import Meta, Struct

from sandnet.library.port_arguments import parse_exposed, parse_mapping, protocol
from sandnet.wire.bandwidth import Bandwidth
from sandnet.wire.interface_options import StaticRoute
from sandnet.wire.libnetwork import Affinity, Probe

PROJECT_LABEL: Final = "sandnet.project"
"""Label of all that ``apply`` made: the project's name."""
ProjectName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z")]


class AddressText(str):
    """An address of either family, in its usual form."""


class RangeText(str):
    """A part of an IPv4 subnet, without the bits of a host."""


class PortText(str):
    """A published port in the form ``HOSTIP:HOST:CONTAINER/PROTO``."""


class ExposedText(str):
    """A port of the form ``PORT/PROTO``."""


class NetworkEntry(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A network. Its fields are the plain options of networks, and two more."""

    driver: str = "bridge"
    labels: dict[str, str] = {}
    subnet: IPv4Network | None = None
    gateway: IPv4Address | None = None
    bridge_address: IPv4Interface | None = None
    ip_range: RangeText | None = None
    reserved_addresses: dict[str, AddressText] = {}
    ipv6: bool = False
    subnet_ipv6: IPv6Network | None = None
    gateway_ipv6: IPv6Address | None = None
    allow_overlap: bool = False
    mtu: int | None = None
    internal: bool = False
    icc: bool = True
    anti_spoofing: bool = True
    host_access: bool | list[ExposedText] | None = None
    masquerade: bool = True
    routed_ipv4: bool = False
    routed_ipv6: bool = False
    egress_ipv4: IPv4Address | None = None
    egress_ipv6: IPv6Address | None = None
    parent: str | None = None
    ipam_driver: str | None = None
    macvlan_mode: str | None = None
    routes: list[StaticRoute] = []
    max_flows: int | None = None
    ingress_rate: int = 0
    ingress_burst: int = 0
    egress_rate: int = 0
    egress_burst: int = 0
    vni: int | None = None
    encrypted: bool = False
    firewall: bool = True
    bridge_name: str | None = None
    create_bridge: bool = True
    dns_search: list[str] = []
    dns_options: list[str] = []
    gateway_dns: bool | None = None
    binding_address: AddressText | None = None
    plugin_options: dict[str, object] = {}
    """Options of a driver that is a network plugin; only it understands them."""


class ServiceEntry(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A service: an endpoint of a network."""

    name: str = ""
    """Empty: the entry's key. Services of one name on two networks need two keys."""
    network: str = ""
    """Empty: the daemon's default network."""
    address: IPv4Address | None = None
    address_ipv6: IPv6Address | None = None
    additional_addresses: list[AddressText] = []
    mac: str = ""
    ports: list[PortText] = []
    expose: list[ExposedText] = []
    aliases: list[str] = []
    affinity: Affinity = "flow"
    probe: Probe | None = None
    bandwidth: Bandwidth | None = None
    labels: dict[str, str] = {}


class Project(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A project's file."""

    name: ProjectName
    networks: dict[str, NetworkEntry] = {}
    services: dict[str, ServiceEntry] = {}


def decode_hook(kind: type, value: object) -> object:
    """Convert text to a field's own type, in one spelling.

    Raises:
        ValueError: it is not of the form; with the reason.
    """
    if not isinstance(value, str) and (isinstance(value, bool) or kind not in (PortText, ExposedText)):
        raise ValueError("text is expected")
    text = str(value)
    if kind is AddressText:
        return AddressText(ip_address(text))
    if kind is RangeText:
        return RangeText(IPv4Network(text, strict=False))
    if kind is PortText:
        return PortText(parse_mapping(text))
    if kind is ExposedText:
        proto, port = parse_exposed(text)
        return ExposedText(f"{port}/{protocol(proto)}")
    converted: object = kind(text)
    return converted
