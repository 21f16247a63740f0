"""What must be true of the entries of a shared store, whatever has happened, once all hosts have come to rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TypeVar

from sandnet.core.cluster.shared_values import (
    ATTACHED,
    HOLDERS,
    SharedAttachment,
    SharedEndpoint,
    SharedNetwork,
    attachment_claims,
    decode,
    endpoint_claims,
    network_claims,
)
from sandnet.core.state.schema import CLAIMS, ENDPOINTS, NETWORKS
from sandnet.stores.base import Entry

V = TypeVar("V", SharedNetwork, SharedEndpoint, SharedAttachment)


def _values(entries: Iterable[Entry], prefix: str, kind: type[V]) -> Iterator[tuple[str, V]]:
    return ((entry.key, decode(entry.value, kind)) for entry in entries if entry.key.startswith(prefix))


def claim_faults(entries: Iterable[Entry]) -> list[str]:
    """Claims without their record, and records without their claims."""
    entries = [*entries]
    wanted: dict[str, str] = {}
    for _, network in _values(entries, NETWORKS, SharedNetwork):
        wanted |= dict.fromkeys(network_claims(network.network), network.network.id)
    for key, endpoint in _values(entries, ENDPOINTS, SharedEndpoint):
        wanted |= dict.fromkeys(endpoint_claims(endpoint.endpoint), key)
    for key, attachment in _values(entries, ATTACHED, SharedAttachment):
        wanted |= dict.fromkeys(attachment_claims(attachment), key)
    held = {entry.key: entry.value.decode() for entry in entries if entry.key.startswith(CLAIMS)}
    differing = sorted(key for key in wanted.keys() | held.keys() if wanted.get(key) != held.get(key))
    return [f"claim {key}: {held.get(key)}, should be {wanted.get(key)}" for key in differing]


def duplicates(entries: Iterable[Entry]) -> list[str]:
    """Addresses that two attachments have, and endpoints without the holder that they need."""
    entries, found = [*entries], []
    attached = dict(_values(entries, ATTACHED, SharedAttachment))
    addresses = Counter((each.network_id, each.address) for each in attached.values())
    found += [f"{each} is given out twice" for each, count in addresses.items() if count > 1]
    holders = {e.key.removeprefix(HOLDERS): e.value.decode() for e in entries if e.key.startswith(HOLDERS)}
    keys = {key.removeprefix(ATTACHED) for key in attached}
    found += [f"the holder of {each} is {holder}" for each, holder in holders.items() if holder not in keys]
    without = {each.endpoint_id for each in attached.values()} - holders.keys()
    return [*found, *(f"endpoint {each} has no holder" for each in without)]
