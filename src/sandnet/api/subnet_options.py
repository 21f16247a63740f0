"""Validation of a network's options that needs no state of the host."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Final

from sandnet.errors import Error, invalid
from sandnet.ipam.special_prefixes import unfit
from sandnet.model import NetworkOptions
from sandnet.model.interfaces.bandwidth import FIELDS, Bandwidth, check_bandwidth
from sandnet.model.interfaces.interface_options import check_routes
from sandnet.model.network import MOST_FLOWS, MOST_VNI

_MTU_MIN: Final = 68
"""Minimum of IPv4 (RFC 791)."""
_MTU_MIN_V6: Final = 1280
"""Minimum of IPv6 (RFC 8200)."""
_MTU_MAX: Final = 65535
_BY_SERVER: Final = ("subnet", "gateway", "bridge_address", "ip_range", "reserved_addresses", "routes")
"""What a DHCP server decides."""


def check(options: NetworkOptions) -> NetworkOptions:
    """Return the options themselves if they are consistent, so that some host could have such a network.

    Raises:
        Error: kind ``INVALID``.
    """
    for field, subnet in (("subnet", options.subnet), ("subnet_ipv6", options.subnet_ipv6)):
        if subnet and (reason := unfit(subnet)):
            hint = "use a private range (RFC 1918, RFC 4193)" if reason.startswith("overlaps") else ""
            raise invalid(f"{field}: {subnet} {reason}", hint)
    _check_ipam(options)
    _check_bridge(options)
    _check_inside(options)
    _check_gateway_ipv6(options)
    _check_reserved(options)
    _check_mtu(options)
    _check_egress(options)
    _check_routed(options)
    check_routes(options.routes, {4: options.subnet, 6: options.subnet_ipv6}, "routes")
    check_bandwidth(Bandwidth(**{field: getattr(options, field) for field in FIELDS}), "options")
    if options.max_flows is not None and not 0 <= options.max_flows <= MOST_FLOWS:
        raise invalid(f"max_flows: {options.max_flows} is not between 0 and {MOST_FLOWS}", "0: no limit")
    if options.vni is not None and not 0 < options.vni <= MOST_VNI:
        raise invalid(f"vni: {options.vni} is not between 1 and {MOST_VNI}")
    if not options.firewall and options.host_access not in (None, True):
        message = "host_access is kept by firewall rules, which firewall (EnableIPTables) false forbids"
        raise invalid(message, "leave one of them out", "no_firewall")
    _check_gateway_dns(options)
    return options


def _check_gateway_dns(options: NetworkOptions) -> None:
    """Refuse names at the gateway where any sandbox could ask as another one."""
    refusals = {
        "anti_spoofing false": not options.anti_spoofing,
        "firewall (EnableIPTables) false": not options.firewall,
    }
    for reason, forbids in refusals.items():
        if options.gateway_dns and forbids:
            message = f"gateway_dns knows a sandbox by its address, and {reason} lets others send from it"
            raise invalid(message, "leave one of them out", "contradiction")


def _check_ipam(options: NetworkOptions) -> None:
    """Refuse a choice of addresses where a server on the segment makes it."""
    given = {name: getattr(options, name) for name in _BY_SERVER}
    if options.ipam_driver and (refused := next((name for name, value in given.items() if value), "")):
        message = f"{refused} and ipam_driver {options.ipam_driver} exclude each other: the server has the subnet"
        raise invalid(message, "leave one of them out", "contradiction")


def _check_egress(options: NetworkOptions) -> None:
    """Refuse an egress address without masquerading: it replaces the address that masquerading would choose."""
    egress = options.egress_ipv4 or options.egress_ipv6
    refusals = {
        "internal": options.internal,
        "masquerade (EnableIPMasquerade) false": not options.masquerade,
        "firewall (EnableIPTables) false": not options.firewall,
    }
    for reason, forbids in refusals.items():
        if egress and forbids:
            message = f"traffic that leaves from {egress} is translated, which {reason} forbids"
            raise invalid(message, "leave one of them out", "contradiction")


def _check_routed(options: NetworkOptions) -> None:
    """Refuse what routed families contradict."""
    for version, egress in ((4, options.egress_ipv4), (6, options.egress_ipv6)):
        refusals = {
            "internal": options.internal,
            "firewall (EnableIPTables) false": not options.firewall,
            f"egress_ipv{version}": egress is not None,
        }
        for reason, forbids in refusals.items():
            if getattr(options, f"routed_ipv{version}") and forbids:
                message = f"routed_ipv{version} (gateway_mode_ipv{version}=routed) and {reason} exclude each other"
                raise invalid(message, "leave one of them out", "contradiction")


def _check_bridge(options: NetworkOptions) -> None:
    if own := options.bridge_address:
        _check_host("bridge_address", own.ip, own.network)
    if not options.create_bridge and not options.bridge_name:
        raise invalid("create_bridge is false, but no existing bridge is named", "give bridge_name (BridgeName) too")


def _check_inside(options: NetworkOptions) -> None:
    """Check that gateway and range are in the subnet.

    With an existing bridge, its driver checks again once it has read the bridge's subnet.
    """
    for field, value in (("gateway", options.gateway), ("ip_range", options.ip_range)):
        if value is not None and options.subnet is None and not options.bridge_name:
            raise invalid(f"{field}: {value} needs a subnet", "give subnet (AddressIPv4) too")
    if options.subnet is None:
        return
    if options.gateway:
        _check_host("gateway", options.gateway, options.subnet)
    if options.ip_range and not options.ip_range.subnet_of(options.subnet):
        raise invalid(f"ip_range: {options.ip_range} is not inside the subnet {options.subnet}")


def _check_host(field: str, address: IPv4Address, subnet: IPv4Network) -> None:
    if address not in subnet:
        raise invalid(f"{field}: {address} is not inside the subnet {subnet}")
    if address in (subnet.network_address, subnet.broadcast_address):
        raise _not_a_host(field, address, subnet)


def _not_a_host(field: str, address: object, subnet: IPv4Network | IPv6Network) -> Error:
    hint = f"the first one is {subnet.network_address + 1}"
    return invalid(f"{field}: {address} is not a host's address in {subnet}", hint)


def _check_gateway_ipv6(options: NetworkOptions) -> None:
    gateway, subnet = options.gateway_ipv6, options.subnet_ipv6
    if gateway is None:
        return
    if subnet is None:
        raise invalid(f"gateway_ipv6: {gateway} needs a subnet", "give subnet_ipv6 (FixedCIDRv6) too")
    if gateway not in subnet:
        raise invalid(f"gateway_ipv6: {gateway} is not inside the subnet {subnet}")
    if gateway == subnet.network_address:
        raise _not_a_host("gateway_ipv6", gateway, subnet)


def _check_reserved(options: NetworkOptions) -> None:
    """Check that reserved addresses are in the subnets, and that none is the host's own or the gateway's."""
    subnets: dict[int, IPv4Network | IPv6Network | None] = {4: options.subnet, 6: options.subnet_ipv6}
    bridge = options.bridge_address.ip if options.bridge_address else None
    for name, address in options.reserved_addresses.items():
        field, subnet = f"reserved_addresses.{name}", subnets[address.version]
        if subnet is None:
            raise invalid(f"{field}: {address} needs a subnet", "give subnet or subnet_ipv6 too")
        if address not in subnet:
            raise invalid(f"{field}: {address} is not inside the subnet {subnet}")
        if address in (options.gateway, options.gateway_ipv6, bridge):
            raise invalid(f"{field}: {address} is the gateway's", "reserve another address", "contradiction")


def _check_mtu(options: NetworkOptions) -> None:
    if options.mtu is None:
        return
    least = _MTU_MIN_V6 if options.ipv6 else _MTU_MIN
    if not least <= options.mtu <= _MTU_MAX:
        raise invalid(f"mtu: {options.mtu} is not between {least} and {_MTU_MAX}{' with IPv6' * options.ipv6}")
