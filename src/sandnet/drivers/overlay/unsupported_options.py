"""Options that a network over several hosts cannot have."""

from __future__ import annotations

from sandnet.errors import invalid
from sandnet.model import Network


def refuse_options(net: Network) -> None:
    """Refuse options that a network over several hosts cannot have.

    Raises:
        Error: ``INVALID``.
    """
    if net.options.bridge_name:
        raise invalid(f"network {net.name}: bridge_name is for networks of one host", "leave it out", "overlay_option")
    if not net.options.firewall:
        message = f"network {net.name} cannot be without firewall rules: they check what other hosts send"
        raise invalid(message, "leave EnableIPTables out", "overlay_option")
    if net.options.routed_ipv4 or net.options.routed_ipv6:
        # the gateway is the same on all hosts: what one of them forwards to the subnet does not cross to another
        message = f"network {net.name} cannot be routed: its subnet is on several hosts, and a router finds only one"
        raise invalid(message, "leave it out, or create a network of type bridge", "overlay_option")
    if net.options.egress_ipv4 or net.options.egress_ipv6:
        message = f"network {net.name} is on several hosts, and each sends with its own address"
        raise invalid(message, "leave egress_ipv4 and egress_ipv6 out", "overlay_option")
