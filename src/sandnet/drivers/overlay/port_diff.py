"""Differences between a network's VXLAN port with its entries, and the records of what is on other hosts."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from itertools import islice
from typing import Final

from sandnet.firewall.base import Fault
from sandnet.kernel.types import Port
from sandnet.kernel.vxlan.base import PeerEntries, VxlanPort
from sandnet.model import Network

ALONE: Final = "its sandboxes do not reach those on other hosts"
_LEFT_OVER: Final = "frames may be sent to a host that does not have the sandbox"
LISTED: Final = 20
"""Entries of one network that are reported one by one."""


def port_faults(net: Network, found: VxlanPort | None, wanted: VxlanPort) -> Iterator[Fault]:
    """Yield how a VXLAN port differs."""
    if found is None:
        yield Fault("network", net.id, f"VXLAN link {wanted.name} is gone", ALONE)
        return
    if not found.closed:
        reason = "the other hosts get what is not for them, or nothing"
        yield Fault("network", net.id, f"VXLAN link {wanted.name} is down, learns senders, or is flooded", reason)
    if not wanted.mtu:
        found = found._replace(mtu=0)
    names = (name for name in VxlanPort._fields if name not in ("closed", "gro_flush_timeout"))
    for name in names:
        present, needed = getattr(found, name), getattr(wanted, name)
        if present != needed:
            yield Fault("network", net.id, f"{name} of VXLAN link {wanted.name} is {present}, not {needed}", ALONE)


def entry_faults(net: Network, found: PeerEntries, wanted: PeerEntries) -> Iterator[Fault]:
    """Yield the entries that are missing, and those that should not be there."""
    missing, extra = wanted.without(found), found.without(wanted)
    faults = [(f"{text} is missing", ALONE) for text in _spelled(missing)]
    faults += [(f"{text} should not be there", _LEFT_OVER) for text in _spelled(extra)]
    for problem, reason in islice(faults, LISTED):
        yield Fault("network", net.id, problem, reason)
    if len(faults) > LISTED:
        yield Fault("network", net.id, f"and {len(faults) - LISTED} more entries like these", ALONE)


def may_differ(net: Network, port: Port) -> bool:
    """Return whether a VXLAN link may differ, judged by a notification about it."""
    link = port.link
    right = link.up and link.kind == "vxlan" and link.master and port.isolated is not net.options.icc
    return not right or net.mtu not in (0, link.mtu)


def _spelled(entries: PeerEntries) -> Iterator[str]:
    for mac, host in sorted(entries.forwarding):
        yield f"the entry of {mac.hex(':')} on host {_address(host)}"
    for mac in sorted(entries.ports):
        yield f"the bridge's entry of {mac.hex(':')}"
    for address, mac in sorted(entries.neighbours):
        yield f"the neighbour {_address(address)} with {mac.hex(':')}"


def _address(packed: bytes) -> str:
    return str(ip_address(packed)) if len(packed) in (4, 16) else packed.hex()
