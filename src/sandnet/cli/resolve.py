"""Resolution of the user's references to containers, services and endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandnet.cli.output import SHORT, short
from sandnet.cli.parameters import Reference
from sandnet.errors import Error, invalid, not_found

if TYPE_CHECKING:
    from sandnet.client import Client
    from sandnet.wire.libnetwork import Endpoint, Service


def find_container(client: Client, reference: str) -> str:
    """Return the id of the container to attach: the existing one, if the reference is a shortened id from a table.

    Any other reference may be the id of a new container. So only the short form that a table shows of an id that a
    machine has chosen (12 of 64 hex digits) can mean another id.

    Raises:
        Error: ``INVALID``, several containers match.
    """
    if len(reference) != SHORT or reference.strip("0123456789abcdef"):
        return reference
    known = [sandbox.id for sandbox in client.sandboxes()]
    found = [each for each in known if each.startswith(reference) and short(each) == reference]
    if reference in known or not found:
        return reference
    if len(found) > 1:
        raise invalid(f"{reference} means more than one container: {', '.join(found)}", "use the full id", "ambiguous")
    return found[0]


def find_service(client: Client, reference: Reference, noun: str = "service") -> Endpoint | Service:
    """Return the service (or endpoint) of a reference; errors call it by the noun.

    Without a network, a name that one service has is that service. If several have it, the one on the default network
    is meant, as in 2015. A name that no service has is an id or a unique prefix of one.

    Raises:
        Error: ``NOT_FOUND``, or ``INVALID`` when several match.
    """
    try:
        return _find(client, reference)
    except Error as error:
        other = "endpoint" if noun == "service" else "service"
        if error.code not in ("endpoint_not_found", "service_not_found", "ambiguous"):
            raise
        message = error.message.replace(f"such {other}:", f"such {noun}:").replace(f"one {other}:", f"one {noun}:")
        raise Error(error.kind, message, error.hint, error.code) from error


def _find(client: Client, reference: Reference) -> Endpoint | Service:
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
    """Return the name if a path can contain it: repeated slashes are one slash there, so ``/web`` would be ``web``."""
    if name.startswith("/"):
        raise not_found("service", name)
    return name
