"""Services with several backends as elements of nftables sets and maps: pure functions from records.

For clients on the bridge, the frame's destination MAC is rewritten (``service_rules``), and the packet is left
unchanged. Packets that pass through the host are translated to a backend's own address (``inet_rules``), and conntrack
keeps them there: only to backends of this host, since another host's would answer through that host. The rules never
change. All that belongs to one service is in elements, so the cost of a change is
that of the elements it moves, however many services there are.

Backends are spread over a fixed number of buckets by weighted rendezvous hashing (Thaler and Ravishankar 1998;
Schindelhauer and Schomaker 2005): each backend has a score for each bucket, and the highest score takes it. So an added
backend takes buckets from the others, and a removed one leaves its own to them; no other bucket moves.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from hashlib import sha256, shake_128
from ipaddress import IPv4Interface, IPv6Interface
from typing import Final, NamedTuple

from sandnet.firewall.ruleset.elements import Element, ElementMap, bridge_set, inet_set
from sandnet.firewall.ruleset.port_ranges import published_key, span_ends, spans
from sandnet.firewall.ruleset.published_sources import sources
from sandnet.kernel.nft_types import host_number, join_parts, mac_address, padded, port_number
from sandnet.kernel.types import Value
from sandnet.model import Address, Affinity, Attachment, Endpoint

BUCKETS: Final = 256
"""Number of buckets for clients on the bridge: the resolution of weights."""
SLOTS: Final = 64
"""Number of buckets for packets that pass through the host. Fewer, as each published port has its own."""


class BalancedService(NamedTuple):
    """An endpoint and its backends, in the form that is programmed."""

    endpoint: Endpoint
    backends: tuple[Attachment, ...]


@lru_cache(maxsize=4096)
def network_number(identity: str) -> int:
    """Return the number of a network in keys; never 0."""
    return int.from_bytes(sha256(identity.encode()).digest()[:4]) or 1


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


@lru_cache(maxsize=4096)
def spread(weights: tuple[tuple[str, int], ...], buckets: int) -> tuple[int, ...]:
    """Return the owner of each bucket, as an index into ``weights``.

    Args:
        weights: a unique name and a weight of at least 1 for each. Their order does not matter.
        buckets: number of buckets.
    """
    order = sorted(range(len(weights)), key=lambda index: weights[index][0])
    scores = [_scores(weights[index][0], buckets) for index in order]
    if len({weight for _, weight in weights}) > 1:
        scores = [tuple([weights[index][1] * base for base in own]) for index, own in zip(order, scores, strict=True)]
    return tuple([order[column.index(max(column))] for column in zip(*scores, strict=True)])


@lru_cache(maxsize=1024)
def _scores(name: str, buckets: int) -> tuple[float, ...]:
    """Return a name's score for each bucket at weight 1: -1/ln(u), u uniform between 0 and 1.

    The values of u are a shuffle of evenly spaced ones instead of independent draws: each name has its fair
    share of high ones. This makes shares about a third more even and keeps a small weight from getting nothing.
    """
    draws = struct.unpack(f"<{buckets}Q", shake_128(name.encode()).digest(8 * buckets))
    scores = [0.0] * buckets
    for bucket, score in zip(sorted(range(buckets), key=draws.__getitem__), _spaced(buckets), strict=True):
        scores[bucket] = score
    return tuple(scores)


@cache
def _spaced(buckets: int) -> tuple[float, ...]:
    """Return the scores of evenly spaced values of u, the lowest first."""
    return tuple([-1 / math.log((rank + 0.5) / buckets) for rank in range(buckets)])


def elements(service: BalancedService) -> ElementMap:
    """Return all elements of a service; none if nothing is balanced."""
    if not balanced(service):
        return {}
    candidates = eligible_backends(service.backends)
    buckets = spread(_weights(candidates), BUCKETS)
    local = eligible_backends([backend for backend in service.backends if backend.host_link])
    slots = spread(_weights(local), SLOTS)
    found: ElementMap = {}
    for family in _families(service):
        macs = [mac_address(taker.mac) for taker in candidates]
        _add_bridge_elements(found, family, service, [macs[index] for index in buckets])
        targets = [family.own[taker.mac] for taker in local]
        if targets:
            _add_host_elements(found, family, service.endpoint, [targets[index] for index in slots])
    return found


def _weights(backends: Sequence[Attachment]) -> tuple[tuple[str, int], ...]:
    return tuple([(backend.mac, backend.weight) for backend in backends])


def own_addresses(service: BalancedService) -> set[IPv4Interface | IPv6Interface]:
    """Return the backends' own addresses of both families."""
    found = (address for backend in service.backends for address in (backend.address, backend.address_ipv6))
    return {address for address in found if address}


class _Family(NamedTuple):
    """A service's addresses of one IP version."""

    version: int
    address: Address
    own: Mapping[str, Address]
    """The backends' own addresses, by MAC."""


def _families(service: BalancedService) -> Iterator[_Family]:
    """Yield the families that the endpoint has; its backends have them too."""
    endpoint, backends = service
    if endpoint.address:
        own = {backend.mac: backend.address.ip for backend in backends if backend.address}
        yield _Family(4, endpoint.address.ip, own)
    if endpoint.address_ipv6:
        own_ipv6 = {backend.mac: backend.address_ipv6.ip for backend in backends if backend.address_ipv6}
        yield _Family(6, endpoint.address_ipv6.ip, own_ipv6)


def _add_bridge_elements(found: ElementMap, family: _Family, service: BalancedService, takers: Sequence[bytes]) -> None:
    for (which, key), value in _on_the_bridge(family, service, {*takers}):
        found.setdefault(which, {})[key] = value
    key = _service_key(family, service.endpoint)
    found[bridge_set(f"buckets{family.version}")] = _numbered(key, BUCKETS, takers)


def _service_key(family: _Family, endpoint: Endpoint) -> bytes:
    return join_parts(host_number(network_number(endpoint.network_id)), family.address.packed)


def _on_the_bridge(family: _Family, service: BalancedService, takers: set[bytes]) -> Iterator[tuple[Element, Value]]:
    version, backends = family.version, service.backends
    network, key = host_number(network_number(service.endpoint.network_id)), _service_key(family, service.endpoint)
    holder = mac_address(next((backend for backend in backends if backend.holder), backends[0]).mac)
    yield Element(bridge_set(f"services{version}"), key), b""
    yield Element(bridge_set(f"holders{version}"), key), holder
    yield Element(bridge_set(f"speakers{version}"), key + padded(holder)), b""
    if service.endpoint.affinity is Affinity.CLIENT:
        yield Element(bridge_set(f"clients{version}"), key), b""
    for taker in takers:
        yield Element(bridge_set(f"takers{version}"), key + padded(taker)), b""
    for mac, own in family.own.items():
        yield Element(bridge_set(f"live{version}"), key + padded(mac_address(mac))), b""
        if own != family.address:
            yield Element(bridge_set(f"secondaries{version}"), network + own.packed), b""
            yield Element(bridge_set(f"services_of{version}"), network + own.packed), family.address.packed


def _add_host_elements(found: ElementMap, family: _Family, endpoint: Endpoint, targets: Sequence[Address]) -> None:
    version, affinity = family.version, endpoint.affinity
    packed = [target.packed for target in targets]
    found[inet_set(f"own{version}_{affinity}")] = _numbered(family.address.packed, SLOTS, packed)
    runs, alone = spans([port for port in endpoint.ports if port.host_ip.version == version])
    for first, *_, last in runs:
        which = inet_set(f"{'span' if first.host_ip.is_unspecified else 'one_span'}{version}_{affinity}", ranges=True)
        found.setdefault(which, {}).update(_numbered_ranges(span_ends(first, last), packed))
    for port in alone:
        which = inet_set(f"{'any' if port.host_ip.is_unspecified else 'one'}{version}_{affinity}")
        inside = padded(port_number(port.port))
        found.setdefault(which, {}).update(_numbered(published_key(port), SLOTS, [each + inside for each in packed]))
    if endpoint.ports:
        for own in family.own.values():
            found.setdefault(inet_set(f"mates{version}"), {})[own.packed] = b""
    for own in {*family.own.values()} - {family.address}:  # those of the endpoint's own address are always there
        for (which, key), value in sources(own, alone):
            found.setdefault(which, {})[key] = value


_NUMBERS: Final = tuple(host_number(number) for number in range(max(BUCKETS, SLOTS)))


def _numbered(key: bytes, count: int, values: Sequence[bytes]) -> dict[bytes, Value]:
    """Return the elements for ``key`` and each bucket or slot."""
    return dict(zip([key + number for number in _NUMBERS[:count]], values, strict=True))


def _numbered_ranges(ends: tuple[bytes, bytes], values: Sequence[bytes]) -> dict[bytes, Value]:
    """Return the same for a range of keys, with numbers in the order of sets of ranges (``nft_types``)."""
    first, last = ends
    numbers = (number.to_bytes(4, "big") for number in range(len(values)))
    keys = [first + number + last + number for number in numbers]
    return dict(zip(keys, values, strict=True))
