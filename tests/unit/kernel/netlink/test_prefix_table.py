"""What kernels other than this one say, or leave unsaid."""

from __future__ import annotations

import socket
from ipaddress import ip_address

from sandnet.kernel.netlink.prefix_table import PrefixTable
from sandnet.kernel.netlink.socket import attribute, u32
from sandnet.kernel.netlink.uapi.address_numbers import IFADDRMSG
from sandnet.kernel.netlink.uapi.message_numbers import RTM_DELADDR, RTM_DELROUTE, RTM_NEWADDR, RTM_NEWROUTE
from sandnet.kernel.netlink.uapi.route_numbers import RTMSG

LOCAL = ip_address("10.3.0.1").packed
ADDRESS_BODY = IFADDRMSG.pack(socket.AF_INET, 24, 0, 0, 5) + attribute(1, LOCAL) + attribute(2, LOCAL)


def route(target: str, length: int, *extra: bytes, family: int = socket.AF_INET, flags: int = 0) -> bytes:
    header = RTMSG.pack(family, length, 0, 0, 254, 3, 0, 1, flags)
    return header + attribute(1, ip_address(target).packed) + u32(4, 5) + b"".join(extra)


def shown(prefixes: PrefixTable) -> set[str]:
    return {str(prefix) for prefix in prefixes.outside(())}


def test_preferred_source_deleted_before_kernel_6_5_needs_list() -> None:
    prefixes = PrefixTable()
    prefixes.apply(RTM_NEWADDR, 0, ADDRESS_BODY)
    prefixes.apply(RTM_NEWROUTE, 0, route("10.77.0.0", 16, attribute(7, LOCAL)))
    assert prefixes.is_conclusive()
    prefixes.apply(RTM_DELADDR, 0, ADDRESS_BODY)
    assert not prefixes.is_conclusive()


def test_removal_of_address_and_later_route_needs_no_list() -> None:
    prefixes = PrefixTable()
    connected = route("10.3.0.0", 24, attribute(7, LOCAL))
    prefixes.apply(RTM_NEWADDR, 0, ADDRESS_BODY)
    prefixes.apply(RTM_NEWROUTE, 0, connected)
    prefixes.apply(RTM_DELADDR, 0, ADDRESS_BODY)
    prefixes.apply(RTM_DELROUTE, 0, connected)
    assert prefixes.is_conclusive()
    assert not shown(prefixes)


def test_cached_routes_and_other_families_are_no_prefixes() -> None:
    prefixes = PrefixTable()
    prefixes.apply(RTM_NEWROUTE, 0, route("fd00::1", 128, family=socket.AF_INET6, flags=0x200))
    prefixes.apply(RTM_NEWROUTE, 0, route("10.1.0.0", 16, family=128))
    assert not shown(prefixes)


def test_deletion_of_an_unknown_prefix_is_ignored() -> None:
    prefixes = PrefixTable()
    prefixes.apply(RTM_DELROUTE, 0, route("10.1.0.0", 16))
    prefixes.apply(RTM_DELADDR, 0, ADDRESS_BODY)
    assert prefixes.is_conclusive()
