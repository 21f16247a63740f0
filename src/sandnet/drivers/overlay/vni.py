"""Chooses the VXLAN network identifier of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sandnet.errors import VNI_TAKEN, Error, Kind
from sandnet.kernel.vxlan.base import PROBE_VNI
from sandnet.model import Network
from sandnet.model.network import MOST_VNI

FIRST_VNI: Final = 4096
"""The lowest one that is chosen. Those below are left to container engines, which begin at 256, and to requests."""


def plan_vni(net: Network, others: Sequence[Network]) -> int:
    """Return the requested VNI, or the lowest free one.

    Two hosts may choose the same one at once. The record with the store's claim of it is accepted; the other host plans
    again, with the accepted network among the others.

    Raises:
        Error: ``CONFLICT``, code ``vni_taken``: another network has the requested one; ``EXHAUSTED``.
    """
    taken = {other.vni: other for other in others if other.vni and other.id != net.id}
    requested = net.options.vni
    if requested is None:
        free = next((vni for vni in range(FIRST_VNI, MOST_VNI + 1) if vni not in taken), None)
        if free is None:
            raise Error(Kind.EXHAUSTED, "all VXLAN network identifiers are taken", "delete a network", "no_vni")
        return free
    if requested == PROBE_VNI:
        message = f"VNI {requested} is that of probes between hosts"
        raise Error(Kind.CONFLICT, message, "request another vni, or none", VNI_TAKEN)
    if requested in taken:
        other = taken[requested]
        message = f"VNI {requested} belongs to network {other.name} ({other.id[:12]})"
        raise Error(Kind.CONFLICT, message, "request another vni, or none", VNI_TAKEN)
    return requested
