"""Services with several backends as elements of nftables sets and maps: pure functions from records.

For clients on the bridge, the frame's destination MAC is rewritten (``service_rules``), and the packet is left
unchanged. Packets that pass through the host are translated to a backend's own address (``inet_rules``), and conntrack
keeps them there. The rules never change. All that belongs to one service is in elements, so the cost of a change is
that of the elements it moves, however many services there are.

Backends are spread over a fixed number of buckets by weighted rendezvous hashing (Thaler and Ravishankar 1998;
Schindelhauer and Schomaker 2005): each backend has a score for each bucket, and the highest score takes it. So an added
backend takes buckets from the others, and a removed one leaves its own to them; no other bucket moves.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import sha256, shake_128
from ipaddress import IPv4Interface, IPv6Interface, ip_address
from typing import Final, NamedTuple

from sandnet.firewall.ruleset.elements import BRIDGE, INET, Element
from sandnet.firewall.ruleset.port_ranges import spans
from sandnet.firewall.ruleset.published_sources import sources
from sandnet.model import Affinity, Attachment, Endpoint

BUCKETS: Final = 256
"""Number of buckets for clients on the bridge: the resolution of weights."""
SLOTS: Final = 64
"""Number of buckets for packets that pass through the host. Fewer, as each published port has its own."""


class BalancedService(NamedTuple):
    """An endpoint and its backends, in the form that is programmed."""

    endpoint: Endpoint
    backends: tuple[Attachment, ...]


@lru_cache(maxsize=4096)
def network_number(identity: str) -> str:
    """Return the number of a network in keys, as nft writes a mark; never 0."""
    return f"0x{int.from_bytes(sha256(identity.encode()).digest()[:4]) or 1:08x}"


def balanced(service: BalancedService) -> bool:
    """Return whether anything is balanced: not if the endpoint's address is the only backend's own.

    A last backend that took the address over stays balanced, alone: frames of clients that still know the MAC
    of the former holder must reach it.
    """
    endpoint, backends = service
    own = [(backend.address, backend.address_ipv6) for backend in backends]
    return bool(own) and own != [(endpoint.address, endpoint.address_ipv6)]


def eligible_backends(backends: Sequence[Attachment]) -> Sequence[Attachment]:
    """Return the backends that take new flows: the best available, so that a service never has none."""
    undrained = [backend for backend in backends if not backend.drained]
    healthy = [backend for backend in backends if backend.healthy]
    return [backend for backend in undrained if backend.healthy] or healthy or undrained or backends


def spread(weights: Sequence[tuple[str, int]], buckets: int) -> list[int]:
    """Return the owner of each bucket, as an index into ``weights``.

    Args:
        weights: a unique name and a weight of at least 1 for each. Their order does not matter.
        buckets: number of buckets.
    """
    order = sorted(range(len(weights)), key=lambda index: weights[index][0])
    scores = [[weights[index][1] * base for base in _scores(weights[index][0], buckets)] for index in order]
    return [order[column.index(max(column))] for column in zip(*scores, strict=True)]


@lru_cache(maxsize=1024)
def _scores(name: str, buckets: int) -> tuple[float, ...]:
    """Return a name's score for each bucket at weight 1: -1/ln(u), u uniform between 0 and 1.

    The values of u are a shuffle of evenly spaced ones instead of independent draws: each name has its fair
    share of high ones. This makes shares about a third more even and keeps a small weight from getting nothing.
    """
    draws = struct.unpack(f"<{buckets}Q", shake_128(name.encode()).digest(8 * buckets))
    scores = [0.0] * buckets
    for rank, bucket in enumerate(sorted(range(buckets), key=draws.__getitem__)):
        scores[bucket] = -1 / math.log((rank + 0.5) / buckets)
    return tuple(scores)


def elements(service: BalancedService) -> dict[Element, str]:
    """Return all elements of a service and their values (empty in a set); none if nothing is balanced."""
    if not balanced(service):
        return {}
    endpoint, backends = service
    candidates = eligible_backends(backends)
    weights = [(taker.mac, taker.weight) for taker in candidates]
    buckets, slots = spread(weights, BUCKETS), spread(weights, SLOTS)
    found: dict[Element, str] = {}
    for family in _families(service):
        found.update(_on_the_bridge(family, service, [candidates[index].mac for index in buckets]))
        targets = [family.own[taker.mac] for taker in candidates]
        found.update(_through_the_host(family, endpoint, [targets[index] for index in slots]))
    return found


def own_addresses(service: BalancedService) -> set[IPv4Interface | IPv6Interface]:
    """Return the backends' own addresses of both families."""
    found = (address for backend in service.backends for address in (backend.address, backend.address_ipv6))
    return {address for address in found if address}


class _Family(NamedTuple):
    """A service's addresses of one IP version, as text: converting an address takes microseconds."""

    version: int
    address: str
    own: dict[str, str]
    """The backends' own addresses, by MAC."""


def _families(service: BalancedService) -> Iterator[_Family]:
    """Yield the families that the endpoint has; its backends have them too."""
    endpoint, backends = service
    own = {backend.mac: backend.address for backend in backends}
    own_ipv6 = {backend.mac: backend.address_ipv6 for backend in backends}
    if endpoint.address:
        texts = {mac: str(address.ip) for mac, address in own.items() if address}
        yield _Family(4, str(endpoint.address.ip), texts)
    if endpoint.address_ipv6:
        texts = {mac: str(address.ip) for mac, address in own_ipv6.items() if address}
        yield _Family(6, str(endpoint.address_ipv6.ip), texts)


def _on_the_bridge(family: _Family, service: BalancedService, takers: Sequence[str]) -> Iterator[tuple[Element, str]]:
    version, address, backends = family.version, family.address, service.backends
    network = network_number(service.endpoint.network_id)
    key = f"{network} . {address}"
    holder = next((backend for backend in backends if backend.holder), backends[0])
    yield Element(BRIDGE, f"services{version}", key), ""
    yield Element(BRIDGE, f"holders{version}", key), holder.mac
    yield Element(BRIDGE, f"speakers{version}", f"{key} . {holder.mac}"), ""
    if service.endpoint.affinity is Affinity.CLIENT:
        yield Element(BRIDGE, f"clients{version}", key), ""
    for taker in {*takers}:
        yield Element(BRIDGE, f"takers{version}", f"{key} . {taker}"), ""
    for mac, own in family.own.items():
        yield Element(BRIDGE, f"live{version}", f"{key} . {mac}"), ""
        if own != address:
            yield Element(BRIDGE, f"secondaries{version}", f"{network} . {own}"), ""
            yield Element(BRIDGE, f"services_of{version}", f"{network} . {own}"), address
    yield from zip(_numbered(BRIDGE, f"buckets{version}", key, BUCKETS), takers, strict=True)


def _through_the_host(family: _Family, endpoint: Endpoint, targets: Sequence[str]) -> Iterator[tuple[Element, str]]:
    version, affinity = family.version, endpoint.affinity
    yield from zip(_numbered(INET, f"own{version}_{affinity}", family.address, SLOTS), targets, strict=True)
    runs, alone = spans([port for port in endpoint.ports if port.host_ip.version == version])
    for first, *_, last in runs:
        scope, host = ("span", "") if first.host_ip.is_unspecified else ("one_span", f"{first.host_ip} . ")
        name, key = f"{scope}{version}_{affinity}", f"{host}{first.proto} . {first.host_port}-{last.host_port}"
        yield from zip(_numbered(INET, name, key, SLOTS), targets, strict=True)
    for port in alone:
        scope, host = ("any", "") if port.host_ip.is_unspecified else ("one", f"{port.host_ip} . ")
        name, key = f"{scope}{version}_{affinity}", f"{host}{port.proto} . {port.host_port}"
        ports = [f"{target} . {port.port}" for target in targets]
        yield from zip(_numbered(INET, name, key, SLOTS), ports, strict=True)
    if endpoint.ports:
        for own in family.own.values():
            yield Element(INET, f"mates{version}", own), ""
    for own in {*family.own.values()} - {family.address}:  # those of the endpoint's own address are always there
        for source in sources(ip_address(own), alone):
            yield Element(INET, source.map, source.key), source.value


@lru_cache(maxsize=64)
def _numbered(table: str, name: str, key: str, count: int) -> tuple[Element, ...]:
    """Return the elements for ``key`` and each bucket or slot; cached, as each change needs them twice."""
    return tuple(Element(table, name, f"{key} . {number}") for number in range(count))
