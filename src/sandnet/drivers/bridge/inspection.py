"""What is wrong with bridges and rules: records on one side, what was found in the kernel on the other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Final

from sandnet.drivers.base import Fault
from sandnet.drivers.bridge.subnets import addresses
from sandnet.kernel.base import Sysctl
from sandnet.kernel.facts import Link, Listing, Space, held, held_on, route_to
from sandnet.kernel.links import BRIDGE_LINK_LOCAL, bridge_mac
from sandnet.model import Network

NO_NETWORK: Final = "its sandboxes reach neither each other nor anything else"
NO_GATEWAY: Final = "its sandboxes and the host do not reach each other, and nothing beyond"
NO_LOOPBACK: Final = "ports published on 127.0.0.1 are not reached, or what must not be reached is"
NO_RULES: Final = "addresses are not translated, ports not published, networks not kept apart"
NO_ELEMENT: Final = "what it stands for (a network, a published port, a backend) is not served, or served wrongly"
ONE_TOO_MANY: Final = "it belongs to no record: packets may go where nobody is"
_REASONS: Final = {
    "route_localnet": NO_LOOPBACK,
    "forwarding": "its sandboxes reach nothing beyond their own network, and nobody reaches their published ports",
    "accept_ra": "a sandbox may configure the host by router advertisements",
    "disable_ipv6": "its IPv6 addresses are gone, or the host is reached by one that no network has",
}
"""By parameter: why it matters."""
_UNREPORTED: Final = ("route_localnet", "accept_ra")
"""Those of them that change without a message of rtnetlink (``inet_netconf_notify_devconf`` sends the others)."""
TOLD: Final = 20
"""Elements of one set that are told one by one."""

_ADDING: Final = re.compile(r"add element (\S+ \S+) (\S+) \{ (.*) \}")


def network_faults(net: Network, host: Space, sysctl: Sysctl, *, ipv6: bool) -> Iterator[Fault]:
    """What is wrong with a network's bridge, its addresses and parameters.

    Args:
        net: the network.
        host: what was found.
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


def other_ports(net: Network) -> Fault:
    """Ports of a bridge that others made came or went."""
    reason = "clients behind them reach services by one backend only"
    return Fault("network", net.id, f"bridge {net.link} has other ports than were known", reason)


def parameters(net: Network, *, ipv6: bool) -> dict[str, str]:
    """The kernel parameters of a network's bridge."""
    wanted = {f"net/ipv4/conf/{net.link}/{name}": "1" for name in ("route_localnet", "forwarding")}
    if ipv6 and not net.link_adopted:
        # a sandbox must not configure the host by router advertisements, nor reach it by a link-local address
        # that no network of ours has
        wanted[f"net/ipv6/conf/{net.link}/accept_ra"] = "0"
        wanted[f"net/ipv6/conf/{net.link}/disable_ipv6"] = "0" if net.ipv6 else "1"
    return wanted


def _bridge(net: Network, host: Space) -> Iterator[tuple[str, str]]:
    port = host.links.get(net.link)
    if port is None:
        yield f"bridge {net.link} is gone", NO_NETWORK
        return
    link = port.link
    if link.kind != "bridge":
        yield f"link {net.link} is no bridge", NO_NETWORK
        return
    if not link.up:
        yield f"bridge {net.link} is down", NO_NETWORK
    if not net.link_adopted and net.mtu not in (0, link.mtu):
        yield f"the MTU of bridge {net.link} is {link.mtu}, not {net.mtu}", "large packets are lost"
    if not net.link_adopted and link.mac != bridge_mac(net.link):
        yield f"the MAC of bridge {net.link} is {link.mac}, not {bridge_mac(net.link)}", NO_GATEWAY
    if not net.link_adopted and link.snooping:
        yield f"bridge {net.link} follows multicast queriers", "a sandbox can play one, and take IPv6 from the others"
    yield from _addresses(net, host, link)


def _addresses(net: Network, host: Space, link: Link) -> Iterator[tuple[str, str]]:
    """The bridge's addresses, the one that routers are known by included, and the routes that come with them."""
    own = addresses(net)
    has_router = not net.link_adopted and any(address.version == 6 for address in own)
    if has_router and held(BRIDGE_LINK_LOCAL) not in held_on(host, link.ifindex):
        yield f"address {BRIDGE_LINK_LOCAL} is not on bridge {net.link}", NO_GATEWAY
    for address in own:
        if held(address) not in held_on(host, link.ifindex):
            yield f"address {address} is not on bridge {net.link}", NO_GATEWAY
        elif link.up and not net.link_adopted and route_to(address.network) not in host.connected.get(link.ifindex, ()):
            yield f"there is no route to {address.network} through bridge {net.link}", NO_GATEWAY


def elements(script: str) -> dict[str, dict[str, set[str]]]:
    """The elements that a script adds, by table and set, as they are spelled there."""
    found: dict[str, dict[str, set[str]]] = {}
    for table, name, listed in _ADDING.findall(script):
        found.setdefault(table, {}).setdefault(name, set()).update(listed.split(", "))
    return found


def table_faults(
    table: str, found: Listing | None, frame: str, needed: Mapping[str, set[str]], allowed: Mapping[str, set[str]]
) -> Iterator[Fault]:
    """What is wrong with a table.

    Args:
        table: its name.
        found: what there is.
        frame: what its frame was when we had just made it.
        needed: elements that must be there.
        allowed: those that may: what is coming and going included.
    """
    if found is None:
        yield Fault("rules", table, f"table {table} is gone", NO_RULES)
        return
    if found.frame != frame:
        yield Fault("rules", table, f"chains, rules or sets of table {table} have been changed", NO_RULES)
    for name in sorted(found.elements.keys() | needed.keys()):
        there = found.elements.get(name, frozenset())
        missing = sorted(needed.get(name, set()) - there)
        strange = sorted(there - allowed.get(name, set()))
        yield from _elements(table, f"is missing in {name}", NO_ELEMENT, missing)
        yield from _elements(table, f"is in {name} and should not be", ONE_TOO_MANY, strange)


def _elements(table: str, what: str, reason: str, found: Sequence[str]) -> Iterator[Fault]:
    for element in islice(found, TOLD):
        yield Fault("rules", table, f"element {element} {what}", reason)
    if len(found) > TOLD:
        yield Fault("rules", table, f"and {len(found) - TOLD} more of which each {what}", reason)
