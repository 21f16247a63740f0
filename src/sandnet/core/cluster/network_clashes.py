"""Networks that cannot be on one host at once."""

from __future__ import annotations

from collections.abc import Iterable

from sandnet.errors import Error, Kind
from sandnet.ipam.subnet_plan import overlapping_prefix
from sandnet.model import Network


def clash(one: Network, other: Network) -> bool:
    """Return whether two networks have the same VNI, or addresses in common."""
    return _same_vni(one, other) or overlapping_prefix(one, other) is not None


def refuse_clash(network: Network, present: Iterable[Network]) -> None:
    """Refuse a copy of a network of other hosts beside networks of this host that it clashes with.

    Raises:
        Error: ``UNAVAILABLE``: a network of other hosts, too, is still to be removed here. ``CONFLICT``, code
            ``subnet_taken``: a network of this host alone has some of its addresses.
    """
    for other in present:
        if other.id == network.id:  # it is being made here, or removed
            continue
        prefix = overlapping_prefix(network, other)
        if other.vni and (prefix or _same_vni(network, other)):  # its removal would take what both have from the kernel
            what = f"subnet {prefix}" if prefix else "VNI"
            message = f"network {network.name} waits until {other.name}, which had its {what}, is removed here"
            raise Error(Kind.UNAVAILABLE, message)
        if prefix:
            message = (
                f"network {network.name} of other hosts is not on this one: network {other.name} has {prefix}, too"
            )
            raise Error(Kind.CONFLICT, message, "delete one of the two", "subnet_taken")


def _same_vni(one: Network, other: Network) -> bool:
    return one.vni != 0 and one.vni == other.vni
