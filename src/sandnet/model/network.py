"""Records of networks."""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Network
from typing import Final

import msgspec

from sandnet.model.address import Address, Interface, Prefix
from sandnet.model.interfaces.dhcp_lease import DHCP
from sandnet.model.link_names import vxlan_name
from sandnet.model.ports import ExposedPort
from sandnet.model.supplied_link import StaticRoute


class Phase(StrEnum):
    """The phase of an object's life cycle. At start-up an object that is not ``READY`` is left over from a crash."""

    CREATING = "creating"
    READY = "ready"
    REMOVING = "removing"


OWN_DRIVERS: Final = ("null", "host", "bridge", "overlay", "macvlan")
"""The daemon's own drivers. Any other name is that of a network plugin."""
MAX_FLOWS: Final = 16_384
"""Default limit of the flows of a sandbox in the host's connection tracking."""
MOST_VNI: Final = (1 << 24) - 1
"""Highest VXLAN network identifier (RFC 7348, 5)."""
MOST_FLOWS: Final = 1 << 24
"""Highest limit of flows that can be requested."""


class NetworkOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The requested options of a network, normalised from libnetwork's labels and our plain keys.

    ``None`` means: not requested, the driver chooses.
    """

    subnet: IPv4Network | None = None
    gateway: IPv4Address | None = None
    """Next hop of the sandboxes, and the bridge's own address unless ``bridge_address`` is set."""
    bridge_address: IPv4Interface | None = None
    """``AddressIPv4``: the bridge's own address; implies ``subnet``."""
    ip_range: IPv4Network | None = None
    """Part of the subnet from which addresses are allocated."""
    reserved_addresses: dict[str, Address] = {}
    """Addresses of the subnets that no endpoint gets, by names for people: devices beside the sandboxes have them."""
    ipv6: bool = False
    subnet_ipv6: IPv6Network | None = None
    gateway_ipv6: IPv6Address | None = None
    allow_overlap: bool = False
    """Whether the requested subnets may overlap prefixes that the host uses (a route, an address, a nameserver)."""
    mtu: int | None = None
    """Bytes, 68 to 65535 (at least 1280 with IPv6)."""
    vni: int | None = None
    """VXLAN network identifier (RFC 7348) of a network of several hosts, 1 to 16777215."""
    encrypted: bool = False
    """Whether what crosses the wire to other hosts is encrypted."""
    internal: bool = False
    """Whether the network is isolated from other networks in both directions."""
    icc: bool = True
    """Inter-container communication: whether sandboxes of the network may reach each other."""
    anti_spoofing: bool = True
    """Whether a sandbox may send only from its own MAC and addresses."""
    host_access: bool | tuple[ExposedPort, ...] | None = None
    """Access of sandboxes to the host's own programs: all, none, or these ports. ``None``: none; but an adopted bridge
    keeps its state."""
    masquerade: bool = True
    """Whether traffic that leaves the host gets the host's source address."""
    routed_ipv4: bool = False
    """Whether nothing is translated in the family: other hosts route the subnet to this one, and reach published ports
    at the endpoints' own addresses."""
    routed_ipv6: bool = False
    egress_ipv4: IPv4Address | None = None
    """Source address of masqueraded traffic; ``None``: the address of the outgoing link, or of the route."""
    egress_ipv6: IPv6Address | None = None
    max_flows: int | None = None
    """Limit of tracked flows of one sandbox; without anti-spoofing, of the whole network. 0: no limit; ``None``: the
    daemon's limit."""
    firewall: bool = True
    """``EnableIPTables``: false leaves NAT, isolation and publishing to other programs."""
    bridge_name: str | None = None
    """Name of the bridge device, created or existing."""
    create_bridge: bool = True
    """``AllowNonDefaultBridge``: false requires that ``bridge_name`` exists already."""
    dns_search: tuple[str, ...] = ()
    """Search domains of its sandboxes' resolv.conf; empty: the host's."""
    dns_options: tuple[str, ...] = ()
    """Options of its sandboxes' resolv.conf, in addition to the host's."""
    gateway_dns: bool | None = None
    """Whether the resolver answers its sandboxes at the gateway's port 53, too. ``None``: virtual machines only."""
    binding_address: Address | None = None
    """``DefaultBindingIP``: default host address of published ports."""
    parent: str | None = None
    """Link of the host whose Ethernet segment a macvlan network is."""
    ipam_driver: str | None = None
    """``dhcp``: the server of the segment gives the addresses; ``None``: the daemon does."""
    macvlan_mode: str | None = None
    """``bridge``, ``private`` or ``vepa``; ``None``: ``bridge``."""
    routes: tuple[StaticRoute, ...] = ()
    """Static routes of its sandboxes, beside those of their joins."""
    ingress_rate: int = 0
    """Limits of each interface of its sandboxes, where the endpoint has none (:class:`Bandwidth`)."""
    ingress_burst: int = 0
    egress_rate: int = 0
    egress_burst: int = 0
    plugin_options: str = ""
    """The ``options`` of a network plugin, as a JSON object; empty: none."""


class Subnet(msgspec.Struct, frozen=True, kw_only=True):
    """The subnet of a network in one address family."""

    prefix: Prefix
    host_address: Interface | None = msgspec.field(default=None, name="bridge")
    """The host's own address on the network; stored as ``bridge``."""
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
    vni: int = 0
    """VXLAN network identifier; 0: none."""
    link: str = ""
    """Name of the bridge device on the host; empty for drivers without one."""
    link_adopted: bool = False
    """Whether the bridge was adopted, not created by us: only its addresses are configured, and it is never deleted."""
    added: tuple[Interface, ...] = ()
    """Addresses that we added to an adopted bridge, and remove again."""
    link_mtu: int = 0
    """The MTU that the driver chose, where none was requested; 0: none."""
    labels: dict[str, str] = {}
    predefined: bool = False
    """Whether it is one of ``none``, ``host``, ``bridge``, which cannot be deleted."""

    def is_routed(self, version: int) -> bool:
        """Return whether the family of that version of IP is routed, not translated."""
        return self.options.routed_ipv4 if version == 4 else self.options.routed_ipv6

    @property
    def leases_addresses(self) -> bool:
        """Whether a server on its Ethernet segment gives the IPv4 addresses."""
        return self.options.ipam_driver == DHCP

    @property
    def mtu(self) -> int:
        """The MTU in bytes; 0: the kernel's default (1500)."""
        return self.options.mtu or self.link_mtu

    @property
    def links(self) -> tuple[str, ...]:
        """The names of its own links on the host, the bridge first."""
        return tuple(name for name in (self.link, vxlan_name(self.id) if self.vni else "") if name)

    @property
    def prefixes(self) -> tuple[Prefix, ...]:
        """The prefixes of its subnets."""
        return tuple(subnet.prefix for subnet in (self.ipv4, self.ipv6) if subnet)


class NetworkSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A validated request to create a network."""

    name: str
    driver: str
    id: str = ""
    """64 hex digits; empty: the daemon chooses."""
    options: NetworkOptions = NetworkOptions()
    labels: dict[str, str] = {}


def dns_gateways(net: Network, *, is_machine: bool) -> tuple[Interface, ...]:
    """Return the gateway's addresses at which the resolver answers a sandbox of the network.

    A question is known to be a sandbox's by its address only. So no other sandbox may be able to forge that address.

    Args:
        net: the network.
        is_machine: whether it is a virtual machine, which cannot ask inside of itself.
    """
    is_wanted = is_machine if net.options.gateway_dns is None else net.options.gateway_dns
    is_guarded = net.options.anti_spoofing and net.options.firewall and not net.link_adopted
    if not (net.link and is_wanted and is_guarded):
        return ()
    return tuple(subnet.host_address for subnet in (net.ipv4, net.ipv6) if subnet and subnet.host_address)
