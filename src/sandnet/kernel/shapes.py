"""Devices and routes as they should be: what the kernel's part of the program is given to make."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv6Interface
from typing import NamedTuple

from sandnet.model.address import Address, Interface, Prefix


class Bridge(NamedTuple):
    """A bridge device as it should be."""

    name: str
    mtu: int
    """0: the kernel's default."""
    addresses: tuple[Interface, ...]
    mark: str = ""
    """What it is to say of itself, at most 255 bytes; empty: nothing, or what it says stays."""
    parameters: tuple[tuple[str, str], ...] = ()
    """Kernel parameters, as paths below ``/proc/sys``, and their values. They are in force before it is up: IPv6 may be
    off for new links, and takes no address then."""


class BridgeRoute(NamedTuple):
    """What leads from the host to the sandboxes of a bridge."""

    prefix: Prefix
    link: str
    source: Address | None
    """The host's own address there."""


class RouteSource(NamedTuple):
    """Destinations that packets leave for by a link from a source that their route prefers."""

    link: str
    first: Address
    last: Address
    """Of the destinations, included."""
    source: Address


class Veth(NamedTuple):
    """A veth pair between a bridge and a sandbox as it should be."""

    host_link: str
    bridge: str
    interface: str
    """Name inside the sandbox."""
    mac: str
    mtu: int
    """0: the kernel's default."""
    address: IPv4Interface | None
    address_ipv6: IPv6Interface | None
    isolated: bool
    """The port may talk to the bridge itself but to no other isolated port (``icc`` off)."""
    hairpin: bool
    """Frames may leave by the port they came in (a container that calls its own published port)."""
    service: IPv4Interface | None = None
    service_ipv6: IPv6Interface | None = None
    """A further address, shared with other sandboxes; ``None``: none, or what there is stays."""
    holder: bool = False
    """Of those that share it this one answers for it: it is on the interface, not on ``lo`` where nobody asks."""
    mark: str = ""
    """What the host end is to say of itself, at most 255 bytes; empty: nothing, or what it says stays."""


class DefaultRoute(NamedTuple):
    """Where a sandbox sends what of one family it has no route for."""

    interface: str
    gateway: Address


class SourceRoute(NamedTuple):
    """How a sandbox with several interfaces answers on one of them, in one family."""

    interface: str
    address: Interface
    """The interface's own, with its subnet."""
    sources: tuple[Address, ...]
    """What is sent from one of these leaves by this interface: its own address, and its service's."""
    gateway: Address | None
    """``None``: this network leads nowhere else."""
    others: tuple[Prefix, ...]
    """Subnets of the sandbox's other networks."""
    default: bool
    """Whether what is sent from here to anywhere else goes by the gateway; else the main table says where."""
    udp_ports: tuple[tuple[int, int], ...] = ()
    """Published ports, the first and the last of each range. What a program sends from one of them to anywhere beyond
    the sandbox's networks leaves by this interface, even if the program bound no address."""
