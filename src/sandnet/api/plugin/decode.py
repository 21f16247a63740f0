"""Parse the engine's requests into the core's specs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final, TypeVar

import msgspec

from sandnet.api import network_options, parsing
from sandnet.api.subnet_options import check
from sandnet.core.engine.ipam import PoolSpec
from sandnet.core.engine.remote_driver import EngineNetworkSpec
from sandnet.errors import invalid
from sandnet.model import Address, EndpointSpec, ExposedPort, NetworkOptions, PortMapping, Prefix
from sandnet.wire import plugin as wire

T = TypeVar("T")

PORT_MAP: Final = "com.docker.network.portmap"
_EXPOSED: Final = "com.docker.network.endpoint.exposedports"
_INTERNAL: Final = "com.docker.network.internal"
_IPV6: Final = "com.docker.network.enable_ipv6"
_ID: Final = re.compile(r"[0-9a-f]{64}")
_MAX_PORTS: Final = 4096


def object_id(value: str | None, field: str) -> str:
    """Return an id that an engine chose.

    Raises:
        Error: ``INVALID``, as from every function here.
    """
    if not value or not _ID.fullmatch(value):
        raise invalid(f"{field}: {value!r} is not 64 hex digits", code="invalid_id")
    return value


def required(value: str | None, field: str) -> str:
    """Return a text that must not be absent."""
    if not value:
        raise invalid(f"{field} is missing")
    return value


def pool_spec(body: wire.PoolRequest) -> PoolSpec:
    """Return the spec of the requested pool."""
    version = 6 if body.v6 or ":" in (body.pool or "") else 4
    prefix = _prefix(body.pool, "Pool", version) if body.pool else None
    within = _prefix(body.sub_pool, "SubPool", version) if body.sub_pool else None
    if within and prefix is None:
        raise invalid(f"SubPool: {within} needs a Pool", "give --subnet, too")
    if isinstance(within, IPv6Network):
        raise invalid(f"SubPool: {within}: IPv6 addresses are allocated from the whole subnet", "leave it out")
    check(
        NetworkOptions(
            subnet=prefix if isinstance(prefix, IPv4Network) else None,
            ip_range=within,
            subnet_ipv6=prefix if isinstance(prefix, IPv6Network) else None,
            ipv6=version == 6,
        )
    )
    for key in body.options or {}:
        if not key.startswith(network_options.NAMESPACE):
            hint = "options of the network, as -o network=NAME, are not options of its IPAM driver"
            raise invalid(f"unknown option of the IPAM driver: {key!r}", hint, "unknown_option")
    return PoolSpec(version, prefix, within)


def address(value: str | None) -> Address | None:
    """Return a requested address; ``None``: any."""
    return parsing.address(value.partition("/")[0], "Address") if value else None


def network_spec(body: wire.CreateNetwork) -> EngineNetworkSpec:
    """Return the spec of the requested network."""
    network_id, options = object_id(body.network_id, "NetworkID"), dict(body.options or {})
    generic = options.get(network_options.GENERIC) or {}
    if not isinstance(generic, dict):
        raise parsing.wrong_type(network_options.GENERIC, "an object", generic)
    chosen = {str(key): parsing.text(value, str(key)) for key, value in generic.items()}
    ipv4, ipv6 = _only(body.ipv4 or (), "IPv4"), _only(body.ipv6 or (), "IPv6")
    pools = tuple(_prefix(each.pool, "Pool", version) for version, each in ((4, ipv4), (6, ipv6)) if each and each.pool)
    shared = chosen.pop("network", "")
    if shared:
        if chosen:
            message = f"network {shared} exists, so it takes no options: {', '.join(map(ascii, chosen))}"
            raise invalid(message, "leave them out", "contradiction")
        return EngineNetworkSpec(network_id, NetworkOptions(), shared, pools)
    raw = network_options.from_engine_options(chosen)
    raw |= _family(ipv4, "subnet", "gateway") | _family(ipv6, "subnet_ipv6", "gateway_ipv6")
    raw |= {"ipv6": True} if options.get(_IPV6) is True else {}
    raw |= {"internal": True} if options.get(_INTERNAL) is True else {}
    parsed, ignored = network_options.parse(raw)
    if ignored:
        raise invalid(f"unknown option: {ignored[0]!r}", "leave it out", "unknown_option")
    return EngineNetworkSpec(network_id, parsed, "", pools)


def endpoint_spec(body: wire.CreateEndpoint) -> EndpointSpec:
    """Return the spec of the requested endpoint; its name is the core's."""
    given = body.interface or wire.EndpointInterface()
    ports = _records((body.options or {}).get(_EXPOSED), wire.PortMap, _EXPOSED)
    return EndpointSpec(
        name="",
        id=object_id(body.endpoint_id, "EndpointID"),
        address=parsing.ipv4(given.address.partition("/")[0], "Address") if given.address else None,
        address_ipv6=parsing.ipv6(given.address_ipv6.partition("/")[0], "AddressIPv6") if given.address_ipv6 else None,
        mac=parsing.mac(given.mac, "MacAddress") if given.mac else "",
        exposed_ports=tuple(ExposedPort(proto=each.proto, port=each.port) for each in ports if 0 < each.port < 65536),
    )


def port_mappings(options: Mapping[str, Any] | None) -> Sequence[PortMapping]:
    """Return the ports to publish."""
    found = _records((options or {}).get(PORT_MAP), wire.PortMap, PORT_MAP)
    return [_mapping(each) for each in found]


def _mapping(port: wire.PortMap) -> PortMapping:
    for number, least in ((port.port, 1), (port.host_port, 0), (port.host_port_end, 0)):
        if not least <= number <= 65535:
            raise invalid(f"{PORT_MAP}: {number} is no port")
    return PortMapping(
        proto=port.proto,
        port=port.port,
        host_ip=parsing.binding_address(port.host_ip, "HostIP") if port.host_ip else None,
        host_port=port.host_port,
        host_port_end=port.host_port_end if port.host_port_end > port.host_port else 0,
    )


def _records(value: object, kind: type[T], field: str) -> Sequence[T]:
    try:
        found = msgspec.convert(value or [], list[kind])  # type: ignore[valid-type]
    except msgspec.ValidationError as failure:
        raise invalid(f"{field}: {failure}") from failure
    if len(found) > _MAX_PORTS:
        raise invalid(f"{field}: {len(found)} ports are too many", f"give at most {_MAX_PORTS}")
    return found


def _prefix(value: str | None, field: str, version: int) -> Prefix:
    return parsing.ipv6_network(value, field) if version == 6 else parsing.ipv4_network(value, field)


def _only(data: Sequence[wire.IpamData], family: str) -> wire.IpamData | None:
    if len(data) > 1:
        raise invalid(f"{len(data)} {family} subnets: a network has one of each family", "give one --subnet of each")
    return data[0] if data else None


def _family(data: wire.IpamData | None, subnet: str, gateway: str) -> dict[str, object]:
    if data is None or not data.pool or data.pool.endswith("/0"):  # the null IPAM driver's pool is everything
        return {}
    found: dict[str, object] = {subnet: data.pool}
    if data.gateway:
        found[gateway] = data.gateway.partition("/")[0]
    return found
