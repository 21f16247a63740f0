"""Which network carries a sandbox's default route: a pure election."""

from __future__ import annotations

from collections.abc import Iterable

from sandnet.drivers.base import Gateways
from sandnet.kernel.base import DefaultRoute
from sandnet.model import Attachment


def elect(candidates: Iterable[tuple[Attachment, Gateways]]) -> list[DefaultRoute]:
    """One route a family: of the highest ``gateway_priority``, then of the first attached.

    The families are elected apart, so a network without IPv6 does not take IPv6 away from another.
    """
    order = sorted(candidates, key=lambda each: (-each[0].gateway_priority, each[0].sequence))
    ipv4 = (DefaultRoute(att.interface, hops.ipv4) for att, hops in order if hops.ipv4 and att.address)
    ipv6 = (DefaultRoute(att.interface, hops.ipv6) for att, hops in order if hops.ipv6 and att.address_ipv6)
    return [route for route in (next(ipv4, None), next(ipv6, None)) if route]
