"""The annotations of an OCI container that choose its networks, names and published ports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from sandnet.cli.output import short
from sandnet.cli.requests import join_request, service_request
from sandnet.errors import Error, Kind, invalid
from sandnet.library.port_arguments import PortArgument, parse_mapping

if TYPE_CHECKING:
    from sandnet.wire.libnetwork import Join, ServicePublish
    from sandnet.wire.oci import ContainerState

PREFIX: Final = "sandnet."
NETWORK: Final = "sandnet.network"
KNOWN: Final = frozenset(
    PREFIX + name
    for name in ("network", "name", "hostname", "ports", "aliases", "ip", "ip6", "mac", "dns", "dns-search")
)
MAX_ITEMS: Final = 100
"""Limit of the items of one annotation."""
MAX_NETWORKS: Final = 16
ID_LABEL: Final = "oci.id"
BUNDLE_LABEL: Final = "oci.bundle"

T = TypeVar("T")


class OciAttachment(NamedTuple):
    """What a container's annotations request."""

    name: str
    """The name of its service on each network."""
    networks: tuple[str, ...]
    """Names or ids; the first one has the ports, the addresses and the MAC address."""
    services: tuple[ServicePublish, ...]
    """A service for each network."""
    join: Join
    labels: Mapping[str, str]
    """Labels of the services, by which the hook recognises its own ones."""


def requested(state: ContainerState) -> OciAttachment | None:
    """Return what the annotations of a container request; ``None``: it has none of ours.

    Raises:
        Error: ``INVALID``, an annotation is unknown or malformed.
    """
    ours = {key: value for key, value in (state.annotations or {}).items() if key.startswith(PREFIX)}
    if not ours:
        return None
    if unknown := sorted(ours.keys() - KNOWN):
        hint = f"there are: {', '.join(sorted(KNOWN))}"
        raise invalid(f"unknown annotation: {', '.join(unknown[:10])}", hint, "unknown_annotation")
    networks = _networks(ours)
    name = ours.get(PREFIX + "name") or short(state.id)
    labels = {ID_LABEL: state.id, BUNDLE_LABEL: state.bundle}
    values = _values(ours, state, labels)
    services = [service_request(name, networks[0], values)]
    further = {**values, "ports": (), "ip": (), "ip6": (), "mac": None}
    services += [service_request(name, network, further) for network in networks[1:]]
    join = join_request(
        state.id, {**values, "pid": state.pid, "hostname": ours.get(PREFIX + "hostname") or name, "aliases": ()}
    )
    return OciAttachment(name, networks, tuple(services), join, labels)


def _networks(ours: Mapping[str, str]) -> tuple[str, ...]:
    networks = _items(ours, NETWORK, str)
    if not networks:
        others = ", ".join(sorted(ours.keys() - {NETWORK}))
        what = f"{others} needs {NETWORK}" if others else f"{NETWORK} is empty"
        raise invalid(what, f"name at least one network in {NETWORK}", "no_network")
    if len(networks) > MAX_NETWORKS or len(set(networks)) < len(networks):
        raise invalid(f"{NETWORK}: name at most {MAX_NETWORKS} networks, each once", code="too_many_networks")
    return tuple(networks)


def _values(ours: Mapping[str, str], state: ContainerState, labels: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of the requests, by the names of the command line's options."""
    return {
        "ports": _items(ours, PREFIX + "ports", _port),
        "aliases": _items(ours, PREFIX + "aliases", str),
        "ip": _items(ours, PREFIX + "ip", str),
        "ip6": _items(ours, PREFIX + "ip6", str),
        "mac": ours.get(PREFIX + "mac") or None,
        "dns": _items(ours, PREFIX + "dns", str),
        "dns_search": _items(ours, PREFIX + "dns-search", str),
        "labels": labels,
        "watch_pid": state.pid,
    }


def _items(ours: Mapping[str, str], key: str, read: Callable[[str], T]) -> list[T]:
    """Return the items of a list that commas separate.

    Raises:
        Error: ``INVALID``, there are too many, or one cannot be read.
    """
    items = [item.strip() for item in ours.get(key, "").split(",")]
    if len(items) > MAX_ITEMS:
        raise invalid(f"{key}: {len(items)} items are too many", f"give at most {MAX_ITEMS}", "too_many")
    try:
        return [read(item) for item in items if item]
    except ValueError as error:
        raise Error(Kind.INVALID, f"{key}: {error}", code="invalid_annotation") from error


def _port(text: str) -> PortArgument:
    return parse_mapping(text)
