"""Differences between the records of networks and their bridges, addresses and parameters in the kernel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from sandnet.firewall.base import Fault
from sandnet.firewall.diff import _REASONS
from sandnet.ipam.subnet_plan import addresses
from sandnet.kernel.base import Sysctl
from sandnet.kernel.types import Link, NamespaceState, Port, packed_addresses_on, packed_interface, packed_prefix
from sandnet.model import Network
from sandnet.model.link_names import BRIDGE_LINK_LOCAL, link_mac

NO_NETWORK: Final = "its sandboxes reach neither each other nor anything else"
NO_GATEWAY: Final = "its sandboxes and the host do not reach each other, and nothing beyond"
_UNREPORTED: Final = ("route_localnet", "accept_ra", "disable_ipv6")
"""Parameters that change without a message of rtnetlink (``inet_netconf_notify_devconf`` sends the others).

IPv6 that is switched on for a bridge without IPv6 adds an address, which no check of lost ones notices."""


def network_faults(net: Network, host: NamespaceState, sysctl: Sysctl, *, ipv6: bool) -> Iterator[Fault]:
    """Yield the faults of a network's bridge, its addresses and its parameters.

    Args:
        net: the network.
        host: the state read from the host.
        sysctl: reads the bridge's parameters.
        ipv6: whether this kernel has IPv6.
    """
    for problem, reason in _bridge(net, host):
        yield Fault("network", net.id, problem, reason)
        if problem == f"bridge {net.link} is gone":
            return
    for name, value in parameters(net, ipv6=ipv6).items():
        found = sysctl.get(name)
        if found not in (None, value):
            yield Fault("network", net.id, f"{name} is {found}, not {value}", _REASONS[name.rpartition("/")[2]])


def changed(nets: Sequence[Network], sysctl: Sysctl, ipv6: bool) -> list[str]:
    """Return the ids of networks whose bridge has another value of a parameter that changes without a message."""
    return [
        net.id
        for net in nets
        for name, value in parameters(net, ipv6=ipv6).items()
        if name.endswith(_UNREPORTED) and sysctl.get(name) not in (None, value)
    ]


def foreign_ports(net: Network) -> Fault:
    """Return the fault that other programs added ports to a bridge, or removed some."""
    reason = "clients behind them reach services by one backend only"
    return Fault("network", net.id, f"bridge {net.link} has other ports than were known", reason)


def parameters(net: Network, *, ipv6: bool) -> dict[str, str]:
    """Return the desired kernel parameters of a network's bridge."""
    desired = {f"net/ipv4/conf/{net.link}/{name}": "1" for name in ("route_localnet", "forwarding")}
    if ipv6 and not net.link_adopted:
        # a sandbox must not configure the host by router advertisements, nor reach it by a link-local address
        # that none of our networks has
        desired[f"net/ipv6/conf/{net.link}/accept_ra"] = "0"
        desired[f"net/ipv6/conf/{net.link}/disable_ipv6"] = "0" if net.ipv6 else "1"
    return desired


def _bridge(net: Network, host: NamespaceState) -> Iterator[tuple[str, str]]:
    port = host.links.get(net.link)
    if port is None:
        yield f"bridge {net.link} is gone", NO_NETWORK
        return
    yield from _link(net, port.link)
    if port.link.kind == "bridge":
        yield from _addresses(net, host, port.link)


def _link(net: Network, link: Link) -> Iterator[tuple[str, str]]:
    if link.kind != "bridge":
        yield f"link {net.link} is no bridge", NO_NETWORK
        return
    if not link.up:
        yield f"bridge {net.link} is down", NO_NETWORK
    if not net.link_adopted and net.mtu not in (0, link.mtu):
        yield f"the MTU of bridge {net.link} is {link.mtu}, not {net.mtu}", "large packets are lost"
    if not net.link_adopted and link.mac != link_mac(net.link):
        yield f"the MAC of bridge {net.link} is {link.mac}, not {link_mac(net.link)}", NO_GATEWAY
    if not net.link_adopted and link.snooping:
        yield f"bridge {net.link} follows multicast queriers", "a sandbox can play one, and take IPv6 from the others"


def _addresses(net: Network, host: NamespaceState, link: Link) -> Iterator[tuple[str, str]]:
    """Yield the missing addresses of the bridge, with the one that routers are known by, and missing routes."""
    own = addresses(net)
    has_router = not net.link_adopted and any(address.version == 6 for address in own)
    if has_router and packed_interface(BRIDGE_LINK_LOCAL) not in packed_addresses_on(host, link.ifindex):
        yield f"address {BRIDGE_LINK_LOCAL} is not on bridge {net.link}", NO_GATEWAY
    for address in own:
        if packed_interface(address) not in packed_addresses_on(host, link.ifindex):
            yield f"address {address} is not on bridge {net.link}", NO_GATEWAY
        elif (
            link.up
            and not net.link_adopted
            and packed_prefix(address.network) not in host.connected.get(link.ifindex, ())
        ):
            yield f"there is no route to {address.network} through bridge {net.link}", NO_GATEWAY


def may_differ(net: Network, port: Port) -> bool:
    """Return whether a bridge may differ from its network's record, judged by a notification about its link."""
    return any(_link(net, port.link))
