"""What exists, as the entries of a project's file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from sandnet.cli.project.entries import PROJECT_LABEL, NetworkEntry, PortText, ServiceEntry, decode_hook
from sandnet.library.port_arguments import PortArgument, protocol
from sandnet.wire.libnetwork import BoundPort, Network, Service

PREDEFINED: Final = ("none", "host", "bridge")
"""Networks that the daemon makes by itself."""
UNSPECIFIED: Final = ("0.0.0.0", "::")  # noqa: S104  # compared, not bound


def network_entry(net: Network) -> NetworkEntry:
    """Return a network as an entry, with the subnets that it has."""
    requested = dict(net.options or {})
    for subnet in net.subnets or ():
        requested.setdefault("subnet_ipv6" if ":" in subnet else "subnet", subnet)
    access = requested.get("host_access")
    if isinstance(access, list):
        requested["host_access"] = [f"{port['port']}/{protocol(port['proto'])}" for port in access]
    if plugin := requested.get("plugin_options"):
        requested["plugin_options"] = msgspec.json.decode(plugin)
    requested |= {"driver": net.type, "labels": own_labels(net.labels)}
    known = {name: value for name, value in requested.items() if name in NetworkEntry.__struct_fields__}
    return msgspec.convert(known, NetworkEntry, dec_hook=decode_hook)


def service_entry(service: Service) -> ServiceEntry:
    """Return a service as an entry, with the addresses and host ports that it has."""
    published = {(port.proto, port.port) for port in service.port_mapping or ()}
    direct = {(port.proto, port.port): None for port in service.direct_ports or ()}
    unbound = [
        PortText(PortArgument(proto, port, "", port)) for proto, port in direct if (proto, port) not in published
    ]
    ports = [*ports_of(service.port_mapping or ()), *unbound]
    published |= direct.keys()
    exposed = [port for port in service.exposed_ports or () if (port.proto, port.port) not in published]
    values = {
        "network": service.network,
        "address": None if service.lease else _bare(service.address),
        "address_ipv6": _bare(service.address_ipv6),
        "additional_addresses": [_bare(each) for each in service.additional_addresses or ()],
        "mac": service.mac or "",
        "ports": ports,
        "expose": [f"{port.port}/{protocol(port.proto)}" for port in exposed],
        "aliases": list(service.aliases or ()),
        "affinity": service.affinity or "flow",
        "labels": own_labels(service.labels),
    }
    entry = msgspec.convert(values, ServiceEntry, dec_hook=decode_hook)
    return msgspec.structs.replace(entry, probe=service.probe or None, bandwidth=service.bandwidth or None)


def ports_of(bound: Iterable[BoundPort]) -> list[PortText]:
    """Return published ports as a file has them; one that is published at all addresses of the host, without one."""
    named = (
        PortArgument(port.proto, port.port, "" if port.host_ip in UNSPECIFIED else port.host_ip, port.host_port)
        for port in bound
    )
    return [PortText(each) for each in dict.fromkeys(named)]


def own_labels(labels: dict[str, str] | msgspec.UnsetType) -> dict[str, str]:
    """Return an object's labels without the project's."""
    return {name: value for name, value in (labels or {}).items() if name != PROJECT_LABEL}


def project_of(found: Network | Service) -> str:
    """Return the project that made the object; empty: none."""
    return (found.labels or {}).get(PROJECT_LABEL, "")


def _bare(address: object) -> str | None:
    return str(address).partition("/")[0] if address else None
