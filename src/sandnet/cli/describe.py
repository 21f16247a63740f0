"""The text that ``info`` prints for the verbose objects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from sandnet.cli.output import fields, short, table
from sandnet.cli.rates import bandwidth_text
from sandnet.library.port_arguments import PortArgument, protocol

if TYPE_CHECKING:
    from msgspec import UnsetType

    from sandnet.wire.direct_ports import DirectPort
    from sandnet.wire.libnetwork import Backend, BoundPort, Endpoint, Network, Probe, Sandbox, Service
    from sandnet.wire.sandbox_interfaces import SandboxInterface


SERVICE_COLUMNS = ("NAME", "NETWORK", "CONTAINER", "ADDRESS", "PORTS", "STATE")
"""Columns of ``service ls`` and ``endpoint ls`` after the id; the first three are those of 2015.

Only the last column's cells may contain blanks.
"""


def service_row(svc: Endpoint | Service, no_trunc: bool) -> tuple[str, ...]:
    """Return a row of ``service ls`` and ``endpoint ls``."""
    containers = ",".join(short(backend.id, no_trunc) for backend in svc.backends or ())
    addresses = ",".join(filter(None, (svc.address or "", svc.address_ipv6 or "", *(svc.additional_addresses or ()))))
    ports = ",".join(map(_bound_port, svc.port_mapping or ()))
    return svc.id, svc.name, svc.network, containers, addresses, ports, _state(svc.backends or ())


def _state(backends: Sequence[Backend]) -> str:
    """Return the state that all backends have, or how many are ready."""
    states = [backend.state or "" for backend in backends]
    if len(set(states)) <= 1:
        return states[0] if states else "no backends"
    return f"{states.count('ready')} of {len(states)} ready"


def network_text(net: Network) -> str:
    """Return the text of a network: its properties, addresses, options and endpoints."""
    head = fields(
        (
            ("Name", net.name),
            ("Id", net.id),
            ("Driver", net.driver or net.type),
            ("Scope", net.scope or ""),
            ("Subnets", ", ".join(net.subnets or ())),
            ("Gateways", ", ".join(net.gateways or ())),
            ("Internal", "yes" if net.internal else ""),
            ("Options", ", ".join(f"{key}={_plain(value)}" for key, value in (net.options or {}).items())),
            ("Labels", ", ".join(f"{key}={value}" for key, value in (net.labels or {}).items())),
            ("Created", moment(net.created)),
            ("Endpoints", "" if net.endpoints else "none"),
        )
    )
    rows = [(short(end.id), end.name, end.address or "", _bound(end.port_mapping or ())) for end in net.endpoints]
    return _with_table(head, "Endpoints", ("ENDPOINT ID", "NAME", "ADDRESS", "PORTS"), rows)


def endpoint_text(what: str, end: Endpoint | Service) -> str:
    """Return the text of an endpoint or service: its addresses, its bound ports on the host, and its containers."""
    head = fields(
        (
            ("Name", end.name),
            ("Id", end.id),
            ("Network", end.network),
            ("Address", end.address or ""),
            ("IPv6 address", end.address_ipv6 or ""),
            ("Additional addresses", ", ".join(end.additional_addresses or ())),
            ("MAC", end.mac or ""),
            ("Gateway", end.gateway or ""),
            ("Aliases", ", ".join(end.aliases or ())),
            ("Affinity", "client" if end.affinity == "client" else ""),
            ("Probe", _probe(end.probe) if end.probe else ""),
            ("Bandwidth", bandwidth_text(end.bandwidth) if end.bandwidth else ""),
            ("Labels", ", ".join(f"{key}={value}" for key, value in (end.labels or {}).items())),
            ("Exposed ports", ", ".join(f"{port.port}/{protocol(port.proto)}" for port in end.exposed_ports or ())),
            ("Bound ports", _bound(end.port_mapping or ())),
            ("Direct ports", ", ".join(map(direct_port, end.direct_ports or ()))),
            ("Created", moment(end.created)),
            ("Holder", _holder(end.backends or ())),
            ("Backends", "" if end.backends else "none"),
        )
    )
    rows = [
        (
            short(backend.id),
            backend.interface or "",
            ", ".join(filter(None, (backend.address or "", backend.address_ipv6 or ""))),
            backend.state or "",
            str(backend.weight or ""),
            backend.sandbox_key or "",
        )
        for backend in end.backends or ()
    ]
    title = "Backends" if what == "service" else "Container"
    return _with_table(head, title, ("CONTAINER", "INTERFACE", "ADDRESS", "STATE", "WEIGHT", "SANDBOX"), rows)


def sandbox_text(sandbox: Sandbox) -> str:
    """Return the text of a sandbox: its path, its files, its interfaces."""
    head = fields(
        (
            ("Container", sandbox.id),
            ("Sandbox", sandbox.sandbox_key),
            ("Origin", sandbox.origin or ""),
            ("State", sandbox.state or ""),
            ("Host name", ".".join(filter(None, (sandbox.host_name or "", sandbox.domain_name or "")))),
            ("Hosts file", sandbox.hosts_path or ""),
            ("Resolv.conf", sandbox.resolv_conf_path or ""),
            ("DNS", ", ".join(sandbox.dns or ())),
            ("Search", ", ".join(sandbox.dns_search or ())),
            ("Resolver options", ", ".join(sandbox.dns_options or ())),
            ("Process", str(sandbox.pid or "")),
            ("Auto-remove", "yes" if sandbox.auto_remove else ""),
            ("Created", moment(sandbox.created)),
        )
    )
    names = {end.id: end.name for end in sandbox.endpoints}
    rows = [
        (
            interface.interface,
            ",".join(_of_family(4, interface)),
            ",".join(_of_family(6, interface)),
            names.get(interface.endpoint, ""),
            interface.network,
        )
        for interface in sandbox.interfaces or ()
    ]
    return _with_table(head, "Interfaces", ("INTERFACE", "ADDRESS", "IPV6 ADDRESS", "ENDPOINT", "NETWORK"), rows)


def _of_family(version: int, interface: SandboxInterface) -> list[str]:
    """Return the addresses of one family that an interface has."""
    every = filter(None, (interface.address, interface.address_ipv6, *interface.additional_addresses))
    return [each for each in every if (":" in each) is (version == 6)]


def _with_table(head: str, title: str, headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    return f"{head}\n{title}:\n{table(headings, rows, indent='  ')}" if rows else head


def _probe(probe: Probe) -> str:
    """Return the probe as its option is written, with the timeout."""
    path = probe.path if probe.kind == "http" else ""
    return f"{probe.kind}:{probe.port}{path}@{probe.interval:g}, timeout {probe.timeout:g} s"


def _holder(backends: Sequence[Backend]) -> str:
    """Return the backend that answers for the service's address, if there are several backends."""
    return ", ".join(short(backend.id) for backend in backends if backend.holder) if len(backends) > 1 else ""


def direct_port(port: DirectPort) -> str:
    """Return where a port of a routed network is reached."""
    host = f"[{port.address}]" if ":" in port.address else port.address
    return f"{host}:{port.port}/{protocol(port.proto)}"


def _bound(ports: Iterable[BoundPort]) -> str:
    return ", ".join(map(_bound_port, ports))


def _bound_port(port: BoundPort) -> str:
    return str(PortArgument(port.proto, port.port, port.host_ip, port.host_port))


def moment(created: datetime | UnsetType) -> str:
    """Return the time to the second, with its zone."""
    return created.isoformat(sep=" ", timespec="seconds") if created else ""


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
