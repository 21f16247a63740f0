"""Warn when the host starts to use addresses of a network: a route of a VPN, an address, a nameserver.

A network's subnet is checked against the host's prefixes when the network is created. The daemon has no say in later
changes of the host, and the more specific route hides the other.
"""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from sandnet.core.state.records import Records
from sandnet.errors import Error
from sandnet.kernel.base import Host
from sandnet.kernel.workers import Workers
from sandnet.model import Network, Phase, Prefix

_log = logging.getLogger(__name__)


class SubnetConflict(NamedTuple):
    """A network and the host, which use the same addresses."""

    network: Network
    subnet: Prefix
    other: Prefix
    """The prefix that the host uses."""


class SubnetConflicts:
    """The known overlaps. Each is reported once, and again if it was absent in the meantime."""

    def __init__(self, records: Records, host: Host, workers: Workers) -> None:
        self._records = records
        self._host = host
        self._workers = workers
        self._reported: set[tuple[str, Prefix]] = set()

    async def check(self) -> None:
        """Compare all networks with the host, and report new overlaps; networks that allow an overlap are left out.

        Raises:
            Error: ``UNAVAILABLE`` the kernel does not return its state, or the store is away.
        """
        links = {net.link for net in self._records.networks() if net.link}
        occupied = await self._workers.run(self._host.occupied, links)
        # the segment of a parent is the host's as well
        nets = [net for net in self._records.networks() if net.phase is Phase.READY and not net.options.parent]
        found = {(each.network.id, each.other): each for each in subnet_conflicts(nets, occupied)}
        fresh = [each for key, each in found.items() if key not in self._reported]
        self._reported = set(found)
        if fresh:
            warnings = [(each.network, _message(each)) for each in fresh]
            for network, text in warnings:
                _log.warning("network %s: %s", network.name, text)
            try:
                await self._records.publish_warnings(warnings)
            except Error:
                self._reported -= {(each.network.id, each.other) for each in fresh}
                raise


def subnet_conflicts(nets: Iterable[Network], occupied: Iterable[Prefix]) -> Iterator[SubnetConflict]:
    """Yield the prefixes of the host that overlap a network which does not allow it.

    The subnets of networks are disjoint, so their order by first address is also the order by last address. So each
    prefix of a host that has thousands takes a few steps.
    """
    subnets = {version: _subnets(nets, version) for version in (4, 6)}
    for other in dict.fromkeys(occupied):
        first, last = int(other.network_address), int(other.broadcast_address)
        found = subnets[other.version]
        start = bisect_left(found, first, key=lambda each: each.last)
        end = bisect_right(found, last, key=lambda each: each.first)
        yield from (SubnetConflict(each.network, each.prefix, other) for each in found[start:end])


class _Subnet(NamedTuple):
    first: int
    last: int
    network: Network
    prefix: Prefix


def _subnets(nets: Iterable[Network], version: int) -> list[_Subnet]:
    checked = (net for net in nets if not net.options.allow_overlap)
    prefixes = ((net, subnet.prefix) for net in checked for subnet in (net.ipv4, net.ipv6) if subnet)
    found = (
        _Subnet(int(prefix.network_address), int(prefix.broadcast_address), net, prefix)
        for net, prefix in prefixes
        if prefix.version == version
    )
    return sorted(found, key=lambda each: each.first)


def _message(conflict: SubnetConflict) -> str:
    return f"the host now uses {conflict.other} (route, address or nameserver), which overlaps subnet {conflict.subnet}"
