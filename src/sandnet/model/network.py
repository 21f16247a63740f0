"""Networks as records."""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Network
from typing import Final

import msgspec

from sandnet.model.address import Address, Interface, Prefix
from sandnet.model.ports import ExposedPort


class Phase(StrEnum):
    """Where an object is in its life. Anything not ``READY`` at start-up is debris of a crash."""

    CREATING = "creating"
    READY = "ready"
    REMOVING = "removing"


MAX_FLOWS: Final = 16_384
"""Flows of a sandbox that the host tracks where nobody says anything else."""
MOST_FLOWS: Final = 1 << 24
"""The most that anybody can say."""


class NetworkOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the caller asked of a network, in one vocabulary (libnetwork's labels and our plain keys).

    ``None`` means: not asked, the driver chooses.
    """

    subnet: IPv4Network | None = None
    gateway: IPv4Address | None = None
    """The bridge's own address unless ``bridge_address`` says otherwise, and the sandboxes' next hop."""
    bridge_address: IPv4Interface | None = None
    """``AddressIPv4``: the bridge's own address; implies ``subnet``."""
    ip_range: IPv4Network | None = None
    """Addresses are handed out of this part of the subnet only."""
    ipv6: bool = False
    subnet_ipv6: IPv6Network | None = None
    gateway_ipv6: IPv6Address | None = None
    allow_overlap: bool = False
    """The subnets asked for may overlap what the host uses (a route, an address, a nameserver)."""
    mtu: int | None = None
    """Bytes, 68 to 65535 (1280 and up with IPv6)."""
    internal: bool = False
    """No way out of the network and none in."""
    icc: bool = True
    """Sandboxes of the network may reach each other."""
    anti_spoofing: bool = True
    """A sandbox sends from its own MAC and addresses only."""
    host_access: bool | tuple[ExposedPort, ...] | None = None
    """What sandboxes reach of the host's own programs: all, none, or what listens at these ports. ``None``: none,
    but on a bridge that was there before us, which stays as it is."""
    masquerade: bool = True
    """Traffic that leaves the host bears the host's address."""
    egress_ipv4: IPv4Address | None = None
    """The host's address that masqueraded traffic bears; ``None``: that of the link it leaves by, or of its route."""
    egress_ipv6: IPv6Address | None = None
    max_flows: int | None = None
    """Flows of one sandbox that the host tracks, of the whole network without anti-spoofing. 0: no limit; ``None``:
    the daemon's."""
    firewall: bool = True
    """``EnableIPTables``: false leaves NAT, isolation and publishing to somebody else."""
    bridge_name: str | None = None
    """Name of the bridge device, made or existing."""
    create_bridge: bool = True
    """``AllowNonDefaultBridge``: false demands that ``bridge_name`` exists already."""
    dns_search: tuple[str, ...] = ()
    """Search domains of its sandboxes' resolv.conf; empty: the host's."""
    dns_options: tuple[str, ...] = ()
    """Options of its sandboxes' resolv.conf, beside the host's."""
    binding_address: Address | None = None
    """``DefaultBindingIP``: host address of published ports that name none."""


class Subnet(msgspec.Struct, frozen=True, kw_only=True):
    """One family's addresses of a network."""

    prefix: Prefix
    bridge: Interface | None = None
    """The host's own address on the network's bridge."""
    gateway: Address | None = None
    """Next hop of the sandboxes' default route."""
    range: Prefix | None = None
    """Part of the prefix that automatic allocation uses; ``None``: all of it."""


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """A network: a domain in which endpoints reach each other."""

    id: str
    name: str
    driver: str
    phase: Phase
    sequence: int
    """Position in creation order, unique over all records of the store."""
    created: float
    """Seconds since the epoch."""
    options: NetworkOptions = NetworkOptions()
    ipv4: Subnet | None = None
    ipv6: Subnet | None = None
    link: str = ""
    """Name of the bridge device on the host; empty for drivers without one."""
    link_adopted: bool = False
    """The bridge was there before us: never configured beyond its address, never deleted."""
    added: tuple[Interface, ...] = ()
    """Addresses that an adopted bridge has from us, so we take them away again."""
    labels: dict[str, str] = {}
    predefined: bool = False
    """One of ``none``, ``host``, ``bridge``: cannot be deleted."""

    @property
    def mtu(self) -> int:
        """Bytes; 0 where the kernel's default (1500) is left alone."""
        return self.options.mtu or 0


class NetworkSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A validated wish to create a network."""

    name: str
    driver: str
    options: NetworkOptions = NetworkOptions()
    labels: dict[str, str] = {}
