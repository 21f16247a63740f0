"""Choose the subnets of a bridge network: check the requested ones, or allocate the next free ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface

from sandnet.errors import Error, Kind, invalid
from sandnet.ipam.pools import DEFAULT_SIZE, Occupied, next_subnet, overlap, unique_local_prefix
from sandnet.ipam.usage import PoolUsage, some, usage
from sandnet.model import Interface, Network, Prefix, Subnet


class SubnetIndex:
    """The subnets of the existing networks in address order, kept from one plan to the next."""

    def __init__(self) -> None:
        self._known: dict[str, Network] = {}
        self._subnets = Occupied()

    def subnets_of(self, networks: Sequence[Network]) -> Occupied:
        """Return the subnets of these networks. Only those that changed since the last call are sorted in again."""
        current = {net.id: net for net in networks}
        for known in self._known.values():
            if current.get(known.id) is not known:
                for prefix in known.prefixes:
                    self._subnets.discard(prefix)
        for net in current.values():
            if self._known.get(net.id) is not net:
                for prefix in net.prefixes:
                    self._subnets.add(prefix)
        self._known = current
        return self._subnets


def plan_ipv4(
    net: Network,
    others: Sequence[Network],
    occupied: Sequence[Prefix],
    pools: Sequence[IPv4Network],
    index: SubnetIndex | None = None,
    *,
    highest: bool = False,
) -> Subnet:
    """Return the IPv4 subnet of a new network.

    Args:
        net: the network as requested.
        others: the existing networks.
        occupied: prefixes that the host uses.
        pools: the pools to allocate from when no subnet is requested.
        index: the one of the caller's earlier plans; ``None``: all subnets are sorted for this plan.
        highest: allocate the highest free subnet of a pool, not the lowest.

    Raises:
        Error: ``CONFLICT`` when the requested subnet overlaps, ``EXHAUSTED`` when no pool has a free one.
    """
    options = net.options
    prefix = options.bridge_address.network if options.bridge_address else options.subnet
    if prefix is None:
        prefix = next_subnet(
            pools, DEFAULT_SIZE, occupied, (index or SubnetIndex()).subnets_of(others), highest=highest
        )
        if prefix is None:
            raise _exhausted(pools, others, occupied)
    else:
        refuse_overlap(net, prefix, others, occupied)
    return subnet4(net, prefix, options.bridge_address)


def subnet4(net: Network, prefix: IPv4Network, bridge: IPv4Interface | None) -> Subnet:
    """Return the IPv4 subnet of a network whose prefix is known.

    Args:
        net: the network as requested.
        prefix: its prefix.
        bridge: the bridge's own address; ``None``: the requested gateway, else the first host of the prefix that is not
            reserved.

    Raises:
        Error: ``INVALID`` when the gateway or the range is outside the prefix.
    """
    options = net.options
    own = bridge or IPv4Interface((options.gateway or prefix[_first_host(net, prefix)], prefix.prefixlen))
    if options.gateway and options.gateway not in prefix:
        raise invalid(f"gateway {options.gateway} is outside subnet {prefix}", code="gateway_outside_subnet")
    if options.ip_range and not options.ip_range.subnet_of(prefix):
        raise invalid(f"ip_range {options.ip_range} is outside subnet {prefix}", code="range_outside_subnet")
    gateway: IPv4Address | None = options.gateway or own.ip
    return Subnet(
        prefix=prefix, host_address=own, gateway=None if options.internal else gateway, range=options.ip_range
    )


def plan_ipv6(net: Network, others: Sequence[Network], occupied: Sequence[Prefix]) -> Subnet | None:
    """Return the IPv6 subnet of a new network, or ``None`` when it has no IPv6.

    Raises:
        Error: ``CONFLICT`` when the requested subnet overlaps.
    """
    options = net.options
    if not options.ipv6:
        return None
    prefix = options.subnet_ipv6
    if prefix is None:
        prefix = unique_local_prefix(os.urandom)
        taken = [*occupied, *(prefix for net in others for prefix in net.prefixes)]
        while overlap(prefix, taken):
            prefix = unique_local_prefix(os.urandom)
    else:
        refuse_overlap(net, prefix, others, occupied)
    gateway = options.gateway_ipv6 or prefix[_first_host(net, prefix)]
    own = IPv6Interface((gateway, prefix.prefixlen))
    return Subnet(prefix=prefix, host_address=own, gateway=None if options.internal else gateway)


def _first_host(net: Network, prefix: Prefix) -> int:
    """Return the number in the prefix of its first host that is not reserved.

    Raises:
        Error: ``INVALID``: all hosts are reserved.
    """
    reserved = set(net.options.reserved_addresses.values())
    last = prefix.num_addresses - (2 if prefix.version == 4 else 1)
    for number in range(1, max(last, 1) + 1):
        if prefix[number] not in reserved:
            return number
    raise invalid(f"all addresses of {prefix} are reserved", "leave one for the gateway", "all_reserved")


def refuse_overlap(net: Network, prefix: Prefix, others: Sequence[Network], occupied: Sequence[Prefix]) -> None:
    """Refuse a prefix that another network uses, or that the host uses and ``net`` does not allow to overlap.

    Raises:
        Error: kind ``CONFLICT``; the message names the user of the prefix.
    """
    for other in others:
        if taken := overlap(prefix, other.prefixes):
            message = f"subnet {prefix} overlaps {taken} of network {other.name} ({other.id[:12]})"
            raise Error(Kind.CONFLICT, message, "choose another subnet, or leave it out", "subnet_taken")
    route = None if net.options.allow_overlap else overlap(prefix, occupied)
    if route:
        message = f"subnet {prefix} overlaps {route}, which the host uses (route, address or nameserver)"
        hint = "choose another subnet, or leave it out; allow_overlap takes it all the same"
        raise Error(Kind.CONFLICT, message, hint, "subnet_taken")


def addresses(net: Network) -> tuple[Interface, ...]:
    """Return the host's own addresses on the network's bridge."""
    return tuple(subnet.host_address for subnet in (net.ipv4, net.ipv6) if subnet and subnet.host_address)


def overlapping_prefix(one: Network, other: Network) -> Prefix | None:
    """Return a prefix of one network that shares an address with a prefix of the other one, or ``None``."""
    return next((prefix for prefix in one.prefixes if overlap(prefix, other.prefixes)), None)


def _exhausted(pools: Sequence[IPv4Network], others: Sequence[Network], occupied: Sequence[Prefix]) -> Error:
    """Return the error that lists, pool by pool, the users of its subnets."""
    networks = [(net.name, net.ipv4.prefix) for net in others if net.ipv4]
    details = "; ".join(_describe(usage(pool, DEFAULT_SIZE, networks, occupied)) for pool in pools)
    message = f"no free /{DEFAULT_SIZE} is left in the pools: {details}"
    return Error(Kind.EXHAUSTED, message, "delete a network, or name a subnet outside the pools", "pools_exhausted")


def _describe(pool: PoolUsage) -> str:
    if not pool.subnets:
        return f"{pool.pool} is smaller than that"
    words = []
    if pool.networks:
        words.append(f"{pool.by_networks} by networks ({some(pool.networks)})")
    if pool.host:
        words.append(f"{pool.subnets - pool.by_networks} by the host's routes, addresses and nameservers"
                     f" ({some(map(str, pool.host))})")  # fmt: skip
    return f"{pool.pool} has {pool.subnets}, used {' and '.join(words)}"
