"""Detection of kernel parameters that networks need, and that are wrong and cannot be written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from sandnet.errors import Error
from sandnet.firewall.base import Fault
from sandnet.kernel.base import Sysctl

_EACH: Final = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/default/forwarding": "1",
    "net/ipv4/conf/default/route_localnet": "1",
    "net/ipv6/conf/default/accept_ra": "0",
}
"""Parameters that each network needs, of the host and of its own bridge."""
_WITHOUT_IPV6: Final = {**_EACH, "net/ipv6/conf/default/disable_ipv6": "1"}
_WITH_IPV6: Final = {
    **_EACH,
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv6/conf/default/disable_ipv6": "0",
}
_UNWRITABLE: Final = "it cannot be written here (/proc/sys is read-only?)"


def readonly_faults(sysctl: Sysctl) -> list[Fault]:
    """Return the parameters because of which no network without IPv6 can be made.

    Raises:
        Error: ``UNAVAILABLE`` a parameter cannot be read.
    """
    return [*_readonly_faults(sysctl, _WITHOUT_IPV6)]


def readonly_problem(sysctl: Sysctl) -> str:
    """Return the same as text; empty: there are none, or none can be read."""
    found = _as_text(sysctl, _WITHOUT_IPV6)
    words = "no network can be made: kernel parameters cannot be written here, and these are unfit"
    return f"{words}: {found}" * bool(found)


def without_ipv6(sysctl: Sysctl, missing: str) -> str:
    """Return why no network can have IPv6 here, as text; empty: it can.

    Args:
        sysctl: reads the parameters.
        missing: what the kernel lacks.
    """
    if missing:
        return f"no network can have IPv6: {missing}"
    found = _as_text(sysctl, _WITH_IPV6)
    words = "no network can have IPv6: kernel parameters cannot be written here, and these are unfit for it"
    return f"{words}: {found}" * bool(found)


def _as_text(sysctl: Sysctl, needed: Mapping[str, str]) -> str:
    try:
        return ", ".join(f"{fault.object} {fault.problem}" for fault in _readonly_faults(sysctl, needed))
    except Error:
        return ""


def _readonly_faults(sysctl: Sysctl, needed: Mapping[str, str]) -> Iterator[Fault]:
    for name, value in needed.items():
        found = sysctl.get(name)
        if found not in (None, value) and not sysctl.is_writable(name):
            yield Fault("parameter", name, f"is {found}, not {value}", f"no network can be made: {_UNWRITABLE}")
