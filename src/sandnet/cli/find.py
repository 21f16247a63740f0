"""From what the user calls a thing to the thing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandnet.cli.values import Reference
from sandnet.errors import invalid, not_found

if TYPE_CHECKING:
    from sandnet.client import Client
    from sandnet.wire.libnetwork import Endpoint, Service


def find_service(client: Client, reference: Reference) -> Endpoint | Service:
    """The service (or endpoint) a reference means.

    Without a network, a name borne once is that service, and of several the default network's one is
    meant, as in 2015; what is nobody's name is an id or a unique prefix of one.

    Raises:
        Error: ``NOT_FOUND``, or ``INVALID`` when several are meant.
    """
    if reference.network:
        return _on_network(client, reference)
    named = client.services(name=reference.name)
    if not named:
        return client.service(_searchable(reference.name))
    return named[0] if len(named) == 1 else _on_default_network(client, named)


def _on_network(client: Client, reference: Reference) -> Endpoint | Service:
    named = client.endpoints(reference.network, name=reference.name)
    return named[0] if named else client.endpoint(reference.network, _searchable(reference.name))


def _on_default_network(client: Client, named: list[Service]) -> Service:
    default = {network.name for network in client.networks(name="")}
    for service in named:
        if service.network in default:
            return service
    candidates = ", ".join(f"{service.name}.{service.network}" for service in named)
    raise invalid(f"several services are called {named[0].name}", f"say which one: {candidates}", "ambiguous")


def _searchable(name: str) -> str:
    """The name, where it can stand in a path: repeated slashes are one slash there, so ``/web`` would be ``web``."""
    if name.startswith("/"):
        raise not_found("service", name)
    return name
