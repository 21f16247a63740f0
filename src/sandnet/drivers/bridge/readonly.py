"""Reports what a network would need that cannot be set, before somebody asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sandnet.errors import Error
from sandnet.kernel.base import Sysctl

_NEEDED: Final = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/default/forwarding": "1",
    "net/ipv4/conf/default/route_localnet": "1",
    "net/ipv6/conf/default/accept_ra": "0",
    "net/ipv6/conf/default/disable_ipv6": "1",
}
"""What a network without IPv6 needs of the host, and of the bridge that it gets."""


def unfit(sysctl: Sysctl) -> str:
    """What is to be set by others, as ``/proc/sys`` is read-only; empty: nothing."""
    try:
        wrong = [] if sysctl.is_writable() else [*_wrong(sysctl)]
    except Error:
        return ""
    if not wrong:
        return ""
    return f"no network can be made: kernel parameters cannot be written here, and these are unfit: {', '.join(wrong)}"


def _wrong(sysctl: Sysctl) -> Iterator[str]:
    for name, value in _NEEDED.items():
        found = sysctl.get(name)
        if found not in (None, value):
            yield f"{name} is {found}, not {value}"
