"""Conversion of the dialect's requests into specs of the model, with validation.

An empty string means an absent one, as in the reference's attach example.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

from msgspec.structs import asdict, replace

from sandnet.api import network_options, parsing, plugin_options
from sandnet.api.parsing import interface_name
from sandnet.core.lifecycle.updates.network_update import LabelsOf, OptionsOf
from sandnet.errors import invalid, not_found
from sandnet.model import (
    Affinity,
    EndpointSpec,
    ExposedPort,
    HostEntry,
    JoinSpec,
    NetworkSpec,
    ParentUpdate,
    PortMapping,
    Probe,
    ProbeKind,
)
from sandnet.model import tap as model
from sandnet.model.ids import bare, check_container_id, check_endpoint_name, check_host_name, check_network_name
from sandnet.model.interfaces.bandwidth import Bandwidth, check_bandwidth
from sandnet.model.interfaces.interface_options import InterfaceOptions, check_sysctls
from sandnet.model.network import OWN_DRIVERS
from sandnet.model.ports import PROTOCOL_NAMES
from sandnet.model.resolv_conf import check_options, check_search
from sandnet.wire import bandwidth as wire_bandwidth
from sandnet.wire import libnetwork as wire
from sandnet.wire.sandbox_interfaces import TapRequest

T = TypeVar("T")

DEFAULT_DRIVER: Final = "bridge"
MAX_ALIASES: Final = 100
"""Limit for an endpoint, and for a join: each alias is a record of the resolver."""
MAX_PORTS: Final = 8192
"""Limit of an endpoint's published ports, and of its exposed ones.

Each published one has a bound socket and elements in the packet filter.
"""
MAX_LINES: Final = 1024
"""Limit of a join's extra hosts, and of its parent updates: lines of files that are rewritten as a whole."""
MAX_SERVERS: Final = 16
"""Limit of a join's name servers."""
_DRIVER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}")
"""Plugins may be named like images (``vendor/plugin:latest``)."""
_ENDPOINT_REF: Final = re.compile(r"/?[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def network_spec(body: wire.NetworkCreate) -> tuple[NetworkSpec, list[str]]:
    """Return the spec of the requested network, and the option keys that have no meaning here.

    Raises:
        Error: ``INVALID``; ``NOT_FOUND`` for a driver that cannot exist.
    """
    name = check_network_name(body.name or "")
    driver = body.network_type or DEFAULT_DRIVER
    if not _DRIVER.fullmatch(driver) or ".." in driver:
        raise not_found("driver", repr(driver))
    parse = network_options.parse if driver in OWN_DRIVERS else plugin_options.parse
    parsed, unknown = parse(body.options)
    return NetworkSpec(name=name, driver=driver, options=parsed, labels=parsing.labels(body.labels or {})), unknown


def network_change(body: wire.NetworkChange) -> tuple[OptionsOf | None, LabelsOf | None]:
    """Return what changes a network's options, and what changes its labels; ``None``: they stay.

    Raises:
        Error: ``INVALID``, also when the request changes nothing: a misspelt field is more likely than intent.
    """
    if body.labels is not None and body.label_changes is not None:
        raise invalid("labels are all labels, and label_changes some", "give one of them", "contradiction")
    options = None if body.options is None else partial(network_options.parse_change, body.options)
    labels: LabelsOf | None = None
    if body.labels is not None:
        labels = partial(_replaced, parsing.labels(body.labels))
    elif body.label_changes is not None:
        labels = partial(_merged, body.label_changes)
    if options is None and labels is None:
        raise invalid("nothing is to be changed", "give labels, label_changes, or options")
    return options, labels


def _replaced(labels: dict[str, str], _: Mapping[str, str]) -> dict[str, str]:
    return labels


def _merged(changes: Mapping[str, str | None], present: Mapping[str, str]) -> dict[str, str]:
    """Return the present labels with changes; ``None`` removes one.

    Raises:
        Error: ``INVALID``: they would be too many.
    """
    merged = {**present, **changes}
    return parsing.labels({name: value for name, value in merged.items() if value is not None})


def endpoint_spec(body: wire.EndpointCreate | wire.ServicePublish) -> EndpointSpec:
    """Return the spec of the requested endpoint.

    Raises:
        Error: ``INVALID``.
    """
    return EndpointSpec(
        name=check_endpoint_name(body.name or ""),
        exposed_ports=_exposed(_limited(body.exposed_ports, "exposed_ports", MAX_PORTS)),
        port_mapping=_mappings(_limited(body.port_mapping, "port_mapping", MAX_PORTS)),
        address=_optional(parsing.ipv4, body.address, "address"),
        address_ipv6=_optional(parsing.ipv6, body.address_ipv6, "address_ipv6"),
        additional_addresses=tuple(
            parsing.address(each, f"additional_addresses[{i}]")
            for i, each in enumerate(body.additional_addresses or ())
        ),
        mac=parsing.mac(body.mac, "mac") if body.mac else "",
        labels=parsing.labels(body.labels or {}),
        aliases=_aliases(_limited(body.aliases, "aliases", MAX_ALIASES)),
        affinity=Affinity(body.affinity or Affinity.FLOW),
        probe=_probe(body.probe) if body.probe else None,
        bandwidth=bandwidth(body.bandwidth),
        watch_pid=body.watch_pid or 0,
    )


def endpoint_change(body: wire_bandwidth.EndpointChange) -> Bandwidth | None:
    """Return the new limits of an endpoint's traffic; ``None``: it has none.

    Raises:
        Error: ``INVALID``, also when the request changes nothing: a misspelt field is more likely than intent.
    """
    if body.bandwidth is None:
        raise invalid("nothing is to be changed", "give bandwidth")
    return bandwidth(body.bandwidth)


def bandwidth(body: wire_bandwidth.Bandwidth | None) -> Bandwidth | None:
    """Return the requested limits; ``None``: there are none.

    Raises:
        Error: ``INVALID``.
    """
    return check_bandwidth(Bandwidth(**asdict(body)), "bandwidth") if body else None


def join_spec(body: wire.Join) -> JoinSpec:
    """Return the spec of the requested join.

    Raises:
        Error: ``INVALID``.
    """
    given = [name for name in ("netns", "pid", "running_container") if getattr(body, name)]
    if len(given) > 1:
        raise invalid(f"{' and '.join(given)} are both given", "give one of them", "contradiction")
    _check_tap(body)
    if body.end_process and not body.watch_pid:
        raise invalid("end_process is given and watch_pid is not", "name the process with watch_pid", "invalid")
    if body.watch_pid and body.auto_remove is False:
        message = "watch_pid is given and auto_remove is false"
        raise invalid(message, "leave one of them out", "contradiction")
    return JoinSpec(
        container_id=check_container_id(body.container_id or ""),
        host_name=check_host_name(body.host_name, "host_name") if body.host_name else "",
        domain_name=check_host_name(body.domain_name, "domain_name") if body.domain_name else "",
        hosts_path=parsing.path(body.hosts_path, "hosts_path") if body.hosts_path else "",
        resolv_conf_path=parsing.path(body.resolv_conf_path, "resolv_conf_path") if body.resolv_conf_path else "",
        dns=tuple(
            parsing.host_address(server, f"dns[{i}]") for i, server in enumerate(_limited(body.dns, "dns", MAX_SERVERS))
        ),
        dns_search=check_search(body.dns_search or (), "dns_search"),
        dns_options=check_options(body.dns_options or (), "dns_options"),
        extra_hosts=tuple(
            _extra_host(host, f"extra_hosts[{i}]")
            for i, host in enumerate(_limited(body.extra_hosts, "extra_hosts", MAX_LINES))
        ),
        parent_updates=tuple(
            _parent_update(update, f"parent_updates[{i}]")
            for i, update in enumerate(_limited(body.parent_updates, "parent_updates", MAX_LINES))
        ),
        use_default_sandbox=bool(body.use_default_sandbox),
        gateway_priority=body.gateway_priority or 0,
        weight=body.weight or 1,
        aliases=_aliases(_limited(body.aliases, "aliases", MAX_ALIASES)),
        netns=parsing.path(body.netns, "netns") if body.netns else "",
        pid=body.pid or 0,
        running_container=body.running_container or "",
        watch_pid=body.watch_pid or 0,
        end_process=bool(body.end_process),
        auto_remove=body.auto_remove,
        interface=interface_name(body.interface or ""),
        tap=_tap(body.tap or TapRequest()) if body.type == "tap" else None,
        options=_interface_options(body),
    )


def _interface_options(body: wire.Join) -> InterfaceOptions | None:
    routes = [asdict(route) for route in body.routes or ()]
    options = InterfaceOptions(
        routes=parsing.routes(routes, "routes"), sysctls=check_sysctls(body.sysctls or {}, "sysctls")
    )
    return options if options != InterfaceOptions() else None


def _check_tap(body: wire.Join) -> None:
    if body.type != "tap":
        if body.tap is not None:
            raise invalid("tap is given and type is not tap", 'add "type": "tap"', "contradiction")
        return
    if body.tap and body.tap.place == "sandbox":
        return
    unfit = ("netns", "pid", "running_container", "hosts_path", "resolv_conf_path")
    given = [name for name in unfit if getattr(body, name)]
    if given:
        message = f"{' and '.join(given)} cannot be given for a tap on the host: it has no namespace and no files"
        raise invalid(message, 'leave it out, or add "place": "sandbox" to tap', "contradiction")


def _tap(options: TapRequest) -> model.TapOptions:
    return model.TapOptions(
        owner=options.owner or 0,
        group=model.NO_GROUP if options.group is None else options.group,
        queues=options.queues or 1,
        vhost=bool(options.vhost),
        offload=options.offload is not False,
        inside=options.place == "sandbox",
    )


def backend_change(body: wire.BackendChange) -> tuple[bool | None, int | None]:
    """Return whether the backend is to be drained, and its new weight; ``None``: no change.

    Raises:
        Error: ``INVALID`` when the request changes nothing: a misspelt field is more likely than intent.
    """
    if body.state is None and body.weight is None:
        raise invalid("nothing is to be changed", 'give state ("drained" or "active"), or weight (1 to 100)')
    return None if body.state is None else body.state == "drained", body.weight


def _probe(probe: wire.Probe) -> Probe:
    if probe.timeout > probe.interval / 2:
        message = f"probe: a timeout of {probe.timeout:g} s is more than half the interval of {probe.interval:g} s"
        raise invalid(message, "give a longer interval or a shorter timeout")
    return Probe(
        kind=ProbeKind(probe.kind), port=probe.port, path=probe.path, interval=probe.interval, timeout=probe.timeout
    )


def _optional(read: Callable[[object, str], T], value: str | None, field: str) -> T | None:
    return read(value, field) if value else None


def _limited(items: Sequence[T] | None, field: str, most: int) -> Sequence[T]:
    """Return the items, or none if there is no list. The number of items is limited, in addition to the body's size."""
    if len(items or ()) > most:
        raise invalid(f"{field}: {len(items or ())} are too many", f"give at most {most}")
    return items or ()


def _aliases(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names once each and in lower case, as names are compared (RFC 4343)."""
    read = (check_host_name(name, f"aliases[{i}]").lower() for i, name in enumerate(names))
    return tuple(dict.fromkeys(read))


def _exposed(ports: Iterable[wire.ExposedPort]) -> tuple[ExposedPort, ...]:
    """Return each port once: a repetition has no meaning."""
    read = (
        ExposedPort(
            proto=parsing.protocol(port.proto, f"exposed_ports[{i}].proto"),
            port=_port(port.port, f"exposed_ports[{i}].port"),
        )
        for i, port in enumerate(ports)
    )
    return tuple(dict.fromkeys(read))


def _mappings(ports: Iterable[wire.PortMapping]) -> tuple[PortMapping, ...]:
    read: list[PortMapping] = []
    fixed: dict[object, int] = {}
    for i, mapping in enumerate(ports):
        for port in _mapping(mapping, f"port_mapping[{i}]"):
            if port.host_port and not port.host_port_end:
                _refuse_twice(fixed.setdefault((port.proto, port.host_ip, port.host_port), i), i, port)
            read.append(port)
            if len(read) > MAX_PORTS:
                raise invalid(f"port_mapping: more than {MAX_PORTS} ports, those of ranges included", code="too_many")
    return tuple(read)


def _refuse_twice(other: int, i: int, port: PortMapping) -> None:
    """Refuse a host port that two mappings request; the ports of one range differ from each other."""
    if other != i:
        requested = f"{port.host_port}/{PROTOCOL_NAMES[port.proto]}"
        raise invalid(f"port_mapping[{other}] and port_mapping[{i}] ask for the same host port {requested}")


def _mapping(port: wire.PortMapping, field: str) -> Iterator[PortMapping]:
    """Yield the mapping of a single port, or of each port of a range."""
    one = _single(port, field)
    end = port.port_end or one.port
    if end < one.port:
        raise invalid(f"{field}: ports {one.port} to {end} are no range", "let port be the lower end")
    if port.port_end is None:
        yield one
        return
    count = end - one.port + 1
    if one.host_port + count - 1 > 65535:
        raise invalid(f"{field}: host ports {one.host_port} to {one.host_port + count - 1} are out of range")
    if one.host_port_end and one.host_port_end - one.host_port + 1 != count:
        hosts = one.host_port_end - one.host_port + 1
        message = f"{field}: {hosts} host ports cannot lead to {count} ports"
        raise invalid(message, "make both ranges equally long, or name one port for the first free one of many")
    for step in range(count):
        host_port = one.host_port and one.host_port + step
        yield replace(one, port=one.port + step, host_port=host_port, host_port_end=0)


def _single(port: wire.PortMapping, field: str) -> PortMapping:
    proto = parsing.protocol(port.proto, f"{field}.proto")
    if proto not in PROTOCOL_NAMES:
        raise invalid(f"{field}.proto: protocol {proto} has no ports", "use tcp (6), udp (17) or sctp (132)")
    _optional(parsing.address, port.ip, f"{field}.ip")
    first, last = port.host_port or 0, port.host_port_end or 0
    if last and not 0 < first <= last:
        raise invalid(f"{field}: host ports {first} to {last} are no range", "let host_port be the lower end")
    return PortMapping(
        proto=proto,
        port=_port(port.port, f"{field}.port"),
        host_ip=_optional(parsing.binding_address, port.host_ip, f"{field}.host_ip"),
        host_port=first,
        host_port_end=last,
    )


def _port(port: int | None, field: str) -> int:
    if port is None:
        raise invalid(f"{field} is missing", "use a number from 1 to 65535")
    return port


def _extra_host(host: wire.ExtraHost, field: str) -> HostEntry:
    return HostEntry(
        name=check_host_name(host.name or "", f"{field}.name"),
        address=parsing.address(host.address or "", f"{field}.address"),
    )


def _parent_update(update: wire.ParentUpdate, field: str) -> ParentUpdate:
    endpoint = update.endpoint_id or ""
    if not _ENDPOINT_REF.fullmatch(endpoint):
        raise invalid(f"{field}.endpoint_id: {endpoint!r} is no id of an endpoint")
    name = bare(update.name or "")
    return ParentUpdate(
        endpoint_id=endpoint,
        name=check_host_name(name, f"{field}.name"),
        address=parsing.address(update.address or "", f"{field}.address"),
    )
