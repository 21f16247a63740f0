"""Conversion of requests into specs of the model, with validation."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from sandnet.api import network_options, parsing, plugin_options
from sandnet.api.engine.errors import not_implemented
from sandnet.core.engine.connections import ConnectSpec
from sandnet.errors import Error, Kind, invalid, not_found
from sandnet.model import EndpointSpec, NetworkSpec
from sandnet.model.ids import check_host_name, check_network_name
from sandnet.model.interfaces.dhcp_lease import DHCP
from sandnet.model.interfaces.interface_options import parse_sysctls
from sandnet.model.network import OWN_DRIVERS
from sandnet.wire import engine as wire

INTERFACE: Final = "com.docker.network.endpoint.ifname"
"""Driver option of a connection: the name of the interface inside."""
SYSCTLS: Final = "com.docker.network.endpoint.sysctls"
MAX_ALIASES: Final = 100
"""Limit for a connection: each alias is a record of the resolver."""
_DRIVER: Final = "bridge"
_OURS: Final = ("", "default", "sandnet")
"""Names of drivers that mean our own: none, Docker's word for that, and the name of our plugin in a Docker Engine."""
_PRIORITY: Final = range(-(2**31), 2**31)
_DRIVER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}")


class Requested(NamedTuple):
    """A request to create a network."""

    spec: NetworkSpec
    warnings: Sequence[str]
    """What of the request has no effect."""


def network_spec(body: wire.CreateRequest) -> Requested:
    """Return the spec of the requested network.

    Raises:
        Error: ``INVALID``, as from every function here; ``NOT_FOUND`` for a driver that cannot exist; ``UNAVAILABLE``
            for a network of a cluster.
    """
    _refuse_unsupported(body)
    name = check_network_name(body.name or "")
    driver = _DRIVER if (body.driver or "") in _OURS else str(body.driver)
    if not _DRIVER_NAME.fullmatch(driver):
        raise not_found("driver", repr(driver[:128]))
    options, parse = body.options or {}, network_options.parse
    if driver in OWN_DRIVERS:
        raw = network_options.from_engine_options(options)
    else:  # a plugin gets its options as an engine passes them
        raw, parse = {network_options.GENERIC: dict(options)} if options else {}, plugin_options.parse
    raw |= {"internal": True} if body.internal else {}
    raw |= {"ipv6": True} if body.enable_ipv6 else {}
    parsed, ignored = parse(raw | _addresses(body.ipam or wire.IpamRequest(), bool(body.enable_ipv6)))
    warnings = [f"option {option} has no effect" for option in ignored]
    warnings += ["attachable has no effect: every container can be connected"] if body.attachable else []
    labels = parsing.labels(body.labels or {})
    return Requested(NetworkSpec(name=name, driver=driver, options=parsed, labels=labels), warnings)


def connect_spec(body: wire.ConnectRequest) -> ConnectSpec:
    """Return the spec of the requested connection."""
    settings = body.endpoint_config or wire.EndpointSettings()
    ipam = settings.ipam_config or wire.EndpointIpam()
    if settings.links:
        raise not_implemented("links are not supported", "containers of a network find each other by name; use aliases")
    if ipam.link_local_ips:
        raise not_implemented("link-local addresses cannot be chosen", "leave LinkLocalIPs out")
    priority = settings.gw_priority or 0
    if priority not in _PRIORITY:
        raise invalid(f"GwPriority: {priority} is out of range")
    endpoint = EndpointSpec(
        name="",
        address=parsing.ipv4(ipam.ipv4_address, "IPv4Address") if ipam.ipv4_address else None,
        address_ipv6=parsing.ipv6(ipam.ipv6_address, "IPv6Address") if ipam.ipv6_address else None,
        mac=parsing.mac(settings.mac_address, "MacAddress") if settings.mac_address else "",
        aliases=_aliases(settings.aliases or ()),
    )
    options = settings.driver_opts or {}
    sysctls = parse_sysctls(options.get(SYSCTLS, ""), SYSCTLS)
    interface = _interface(options)
    return ConnectSpec(container(body.container), endpoint, interface, priority, sysctls)


def container(reference: str | None) -> str:
    """Return the reference of a container; a leading slash is that of Docker's names."""
    if not reference:
        raise invalid("Container is missing", "give the id or name of a container")
    return reference.removeprefix("/")


def _refuse_unsupported(body: wire.CreateRequest) -> None:
    """Refuse networks of a cluster, and what no network of sandnet can be."""
    if body.ingress or (body.scope or "local") != "local":
        raise Error(Kind.UNAVAILABLE, "this node is not a swarm manager", "create a network of scope local", "no_swarm")
    if body.config_only or (body.config_from and body.config_from.network):
        hint = "create the network with its own options"
        raise not_implemented("networks that only hold a configuration are not supported", hint)
    if body.enable_ipv4 is False:
        raise not_implemented("networks without IPv4 are not supported", "leave EnableIPv4 out")


def _addresses(ipam: wire.IpamRequest, ipv6: bool) -> dict[str, Any]:
    """Return the options for the subnets of a request: at most one of each family."""
    by_server = {"ipam_driver": DHCP} if ipam.driver == DHCP else {}
    if (ipam.driver or "") not in _OURS and not by_server:
        raise not_found("IPAM driver", repr(str(ipam.driver)[:80]), "leave it out: sandnet allocates the addresses")
    for key in ipam.options or {}:
        if not key.startswith(network_options.NAMESPACE):
            raise invalid(f"unknown option of the IPAM driver: {key[:80]!r}", "leave it out", "unknown_option")
    raw: dict[str, Any] = {}
    for index, pool in enumerate(ipam.config or ()):
        found = _pool(pool, f"IPAM.Config[{index}]", ipv6)
        reserved = {**raw.pop("reserved_addresses", {}), **found.pop("reserved_addresses", {})}
        if raw.keys() & found.keys():
            raise invalid("IPAM.Config: a network has one subnet of each family", "give one of each")
        raw |= found
        raw |= {"reserved_addresses": reserved} if reserved else {}
    return raw | by_server


def _pool(pool: wire.IpamPool, field: str, ipv6: bool) -> dict[str, Any]:
    reserved = pool.auxiliary_addresses or {}
    if not pool.subnet:
        if pool.ip_range or pool.gateway or reserved:
            raise invalid(f"{field}: a range, a gateway or auxiliary addresses need a Subnet", "give it too")
        return {}
    if ":" not in pool.subnet:
        found = {"subnet": str(parsing.ipv4_masked(pool.subnet, f"{field}.Subnet")), "gateway": pool.gateway}
        found |= {"ip_range": pool.ip_range or None}
    else:
        if not ipv6:
            raise invalid(f"{field}: the subnet {pool.subnet[:60]} needs IPv6", "set EnableIPv6 (--ipv6)")
        if pool.ip_range:
            hint = "leave IPRange out"
            raise not_implemented(f"{field}: IPv6 addresses are allocated from the whole subnet", hint)
        found = {"subnet_ipv6": str(parsing.ipv6_masked(pool.subnet, f"{field}.Subnet")), "gateway_ipv6": pool.gateway}
    present = {key: value for key, value in found.items() if value}
    return {**present, "reserved_addresses": dict(reserved)}


def _aliases(names: Sequence[str]) -> tuple[str, ...]:
    if len(names) > MAX_ALIASES:
        raise invalid(f"Aliases: {len(names)} are too many", f"give at most {MAX_ALIASES}")
    return tuple(dict.fromkeys(check_host_name(name, "alias").lower() for name in names))


def _interface(options: Mapping[str, str]) -> str:
    for key in options:
        if key not in (INTERFACE, SYSCTLS):
            hint = f"known here: {INTERFACE}, {SYSCTLS}"
            raise invalid(f"unknown driver option: {key[:80]!r}", hint, "unknown_option")
    return parsing.interface_name(options.get(INTERFACE, ""))
