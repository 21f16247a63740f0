"""Comparison of a project's entries with what exists, field by field."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from sandnet.cli.project.entries import NetworkEntry, PortText, ServiceEntry
from sandnet.cli.project.existing import service_entry
from sandnet.cli.rates import RATES
from sandnet.library.port_arguments import parse_exposed, parse_mapping
from sandnet.wire.bandwidth import Bandwidth
from sandnet.wire.libnetwork import BoundPort, Probe, Service

_CHOSEN: Final = frozenset({"subnet", "gateway", "subnet_ipv6", "gateway_ipv6", "address", "address_ipv6", "mac"})
"""Fields that the daemon chooses where the file has none."""


LIVE: Final = frozenset(
    {"labels", "dns_search", "dns_options", "mtu", "ip_range", "ipv6", "subnet_ipv6", "gateway_ipv6", *RATES}
)
"""Fields of a network that can change while it is used (``PATCH /networks/{network}``)."""


class FieldDifference(NamedTuple):
    """A field whose value is another one than the file's."""

    field: str
    actual: object
    declared: object

    @property
    def is_live(self) -> bool:
        """Whether a network can get the declared value while it is used: IPv6 can be added, but not removed."""
        new = self.field.endswith("ipv6") and not self.actual
        return (
            self.field in LIVE
            and (self.field in RATES or self.declared not in (None, False))
            and (new or not self.field.endswith("ipv6"))
        )

    def __str__(self) -> str:
        return f"{self.field}: {_text(self.actual)} -> {_text(self.declared)}"


def of_network(declared: NetworkEntry, actual: NetworkEntry) -> list[FieldDifference]:
    """Return what is different about a network."""
    return list(_plain(implied(declared), actual, NetworkEntry.__struct_fields__))


def implied(entry: NetworkEntry) -> NetworkEntry:
    """Return the entry with what its fields imply, as the daemon understands them."""
    if entry.bridge_address and not entry.subnet:
        entry = msgspec.structs.replace(entry, subnet=entry.bridge_address.network)
    return msgspec.structs.replace(entry, ipv6=True) if entry.subnet_ipv6 else entry


def of_service(declared: ServiceEntry, found: Service, binding_address: str) -> list[FieldDifference]:
    """Return what is different about a service.

    Args:
        declared: the entry.
        found: the service.
        binding_address: the host's address for published ports of the network; empty: all.
    """
    actual = service_entry(found)
    compared = ("address", "address_ipv6", "additional_addresses", "mac", "aliases", "affinity", "probe", "bandwidth")
    differences = list(_plain(declared, actual, (*compared, "labels")))
    bound = list(found.port_mapping or ())
    direct = {(port.proto, port.port) for port in found.direct_ports or ()}
    if not _same_ports(declared.ports, bound, direct, binding_address):
        differences.append(FieldDifference("ports", actual.ports, declared.ports))
    published = {(port.proto, port.port) for port in bound} | direct
    if {parse_exposed(port) for port in declared.expose} - published != {parse_exposed(p) for p in actual.expose}:
        differences.append(FieldDifference("expose", actual.expose, declared.expose))
    return differences


def _plain(declared: Any, actual: Any, fields: tuple[str, ...]) -> Iterator[FieldDifference]:
    for field in fields:
        have, want = getattr(actual, field), getattr(declared, field)
        if field == "mac":
            want = want.lower().replace("-", ":")
        if want != have and not (field in _CHOSEN and not want):
            yield FieldDifference(field, have, want)


def _same_ports(
    declared: list[PortText], bound: list[BoundPort], direct: set[tuple[int, int]], binding_address: str
) -> bool:
    """Return whether each declared port is published, and no other one is."""
    left, unmatched = list(bound), set(direct)
    for port in declared:
        argument = parse_mapping(port)
        offsets = range((argument.port_end or argument.port) - argument.port + 1)
        for offset in offsets:
            places = {argument.host_ip or binding_address} - {""} or {"0.0.0.0", "::"}  # noqa: S104
            first = argument.host_port and argument.host_port + offset
            last = first if len(offsets) > 1 else argument.host_port_end or first
            found = [
                each
                for each in left
                if (each.proto, each.port) == (argument.proto, argument.port + offset)
                and each.host_ip in places
                and (not first or first <= each.host_port <= last)
            ]
            inside = (argument.proto, argument.port + offset)
            unmatched.discard(inside)
            if not found and inside not in direct:
                return False
            if not found:
                continue
            taken = [each for each in found if each.host_port == found[0].host_port]
            left = [each for each in left if each not in taken]
    return not left and not unmatched


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or value in ("", [], {}):
        return "none"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{name}={text}" for name, text in value.items())
    if isinstance(value, Probe | Bandwidth):
        return _text(msgspec.to_builtins(value))
    return str(value)
