"""Refusals of what another host has changed or taken first, from what the store shows of a refused transaction."""

from __future__ import annotations

from collections.abc import Sequence

from sandnet.core.cluster.shared_values import claimed_subnet, endpoint_claims, network_claims
from sandnet.core.cluster.view import Held
from sandnet.core.state.schema import CLAIMS, endpoint_key, name_claim, network_key
from sandnet.core.state.shared_writer import CHANGED_ELSEWHERE, CLAIMED_ELSEWHERE
from sandnet.errors import Error, Kind
from sandnet.ipam.pools import overlap
from sandnet.model import Endpoint, Network
from sandnet.stores.shared import ConditionFailed


def changed_elsewhere() -> Error:
    """Return the refusal of a change to a record that another host has changed since it was read."""
    message = "another host changed the same at this instant"
    return Error(Kind.UNAVAILABLE, message, "repeat the request", CHANGED_ELSEWHERE)


def network_taken(network: Network, refused: ConditionFailed) -> Error:
    """Return the refusal of a network of which something was taken: its name, a subnet, a VNI."""
    if refused.at(name_claim(network)):
        message = f"network with name {network.name} already exists, created on another host"
        return Error(Kind.NAME_TAKEN, message, "choose another name, or delete that network first")
    taken = next((key for key in (*network_claims(network), network_key(network.id)) if refused.at(key)), "")
    what = taken.removeprefix(CLAIMS).replace("/", " ", 1)
    claimed = [prefix for entry in refused.found if (prefix := claimed_subnet(entry.key))]
    overlapping = next((prefix for prefix in claimed if overlap(prefix, network.prefixes)), None)
    if not taken and overlapping:
        what = f"subnet {overlapping}, which network {network.name} overlaps,"
    message = f"{what or 'a subnet'} was given to another network at the same time"
    return Error(Kind.CONFLICT, message, "repeat the request", CLAIMED_ELSEWHERE)


def network_in_use(network: Network, endpoints: Sequence[str]) -> Error:
    """Return the refusal to delete a network that has endpoints, which are given by name."""
    message = f"network {network.name} has active endpoints: {', '.join(endpoints) or 'of another host'}"
    return Error(Kind.IN_USE, message, "delete its endpoints first", "network_in_use")


def endpoint_in_use(endpoint: Endpoint, containers: Sequence[Held]) -> Error:
    """Return the refusal to delete an endpoint that has these containers on other hosts."""
    users = [f"{held.key.container_id} on host {held.key.host}" for held in containers]
    message = f"endpoint {endpoint.name} has active containers: {', '.join(users) or 'on another host'}"
    return Error(Kind.IN_USE, message, "detach them there first", "endpoint_in_use")


def endpoint_taken(endpoint: Endpoint, refused: ConditionFailed) -> Error:
    """Return the refusal of an endpoint whose network is gone, or whose name or address was taken."""
    if refused.at(network_key(endpoint.network_id)) is None:
        return Error(Kind.NOT_FOUND, f"network {endpoint.network_id} was deleted by another host")
    for claim in endpoint_claims(endpoint):
        found = refused.at(claim)
        if found is None or found.value.decode() == endpoint_key(endpoint):
            continue
        if claim == name_claim(endpoint):
            message = f"endpoint with name {endpoint.name} already exists on its network"
            return Error(Kind.NAME_TAKEN, message, "choose another name, or delete that endpoint first")
        what = claim.split("/", 3)[-1]
        message = f"{what} was given to another endpoint at the same time"
        return Error(Kind.CONFLICT, message, "repeat the request", CLAIMED_ELSEWHERE)
    message = "another host has just changed what this endpoint needs"
    return Error(Kind.CONFLICT, message, "repeat the request", CLAIMED_ELSEWHERE)
