"""The limits of a port, from the rates that its endpoint or its network has."""

from __future__ import annotations

from typing import Final

from sandnet.drivers.base import Driver, TrafficShaping
from sandnet.errors import invalid
from sandnet.kernel.types import PortLimits, Rate
from sandnet.model import Endpoint, Network
from sandnet.model.interfaces.bandwidth import Bandwidth

_BURST_SECONDS: Final = 0.025
"""A bucket of less loses rate where the processor is busy, as tokens overflow while no one takes them."""
_USUAL_MTU: Final = 1500
_HEADERS: Final = 18
"""Bytes of an Ethernet header with a VLAN tag."""


def port_limits(net: Network, ep: Endpoint) -> PortLimits:
    """Return the limits of each port of an endpoint; each direction has the endpoint's rate, else the network's."""
    own, options = ep.bandwidth or Bandwidth(), net.options
    frame = (net.mtu or _USUAL_MTU) + _HEADERS
    return PortLimits(
        _limit(own.ingress_rate, own.ingress_burst, frame)
        or _limit(options.ingress_rate, options.ingress_burst, frame),
        _limit(own.egress_rate, own.egress_burst, frame) or _limit(options.egress_rate, options.egress_burst, frame),
    )


def check_shaping(driver: Driver, network: Network, bandwidth: Bandwidth | None) -> None:
    """Refuse limits on a network whose driver has none: a container that counts on one must not run without it.

    Raises:
        Error: ``INVALID``.
    """
    if bandwidth and not isinstance(driver, TrafficShaping):
        message = f"network {network.name} ({driver.name}) cannot limit the traffic of an endpoint"
        raise invalid(message, "leave the bandwidth out, or name a network of type bridge", "bandwidth_not_supported")


def _limit(rate: int, burst: int, frame: int) -> Rate | None:
    """Return a limit in bytes. The bucket drops frames that are larger than itself, so it holds two."""
    if not rate:
        return None
    return Rate(rate // 8, max(burst // 8 or int(rate / 8 * _BURST_SECONDS), 2 * frame))
