"""Checks that refuse networks which the bridge driver cannot make as requested."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Interface

from sandnet.errors import Error, Kind, invalid
from sandnet.kernel.types import Link
from sandnet.model import Network
from sandnet.model.link_names import OWN_LINK


def check_link_unclaimed(link: str, others: Sequence[Network]) -> None:
    """Refuse a bridge that belongs to another network.

    Raises:
        Error: ``CONFLICT``.
    """
    for other in others:
        if other.link == link:
            message = f"bridge {link} belongs to network {other.name} ({other.id[:12]})"
            raise Error(Kind.CONFLICT, message, "name another bridge, or none", "link_taken")


def check_link(net: Network, link: str, found: Link | None) -> None:
    """Refuse a link that cannot be the network's bridge, or a network that cannot be on a bridge of the user's.

    Raises:
        Error: ``INVALID``, ``CONFLICT`` or ``PROTECTED``.
    """
    options = net.options
    if options.bridge_name and OWN_LINK.fullmatch(options.bridge_name):
        hint = "name it otherwise: what is named so and belongs to no record is swept away at start-up"
        raise invalid(f"bridge name {link} is one of those we give", hint, "reserved_name")
    if found and found.kind != "bridge":
        message = f"link {link} exists and is not a bridge"
        raise Error(Kind.CONFLICT, message, "name a bridge, or a link that does not exist", "link_taken")
    if not found and options.bridge_name and not options.create_bridge:
        hint = f"make it first (ip link add {link} type bridge), or leave AllowNonDefaultBridge out"
        raise Error(Kind.PROTECTED, f"bridge device {link} must be created manually", hint, "bridge_missing")
    if found and options.internal:
        hint = "leave bridge_name out: a bridge of the network's own is isolated, one of yours is not ours to cut off"
        raise invalid(f"network {net.name} cannot be internal on existing bridge {link}", hint, "adopted_internal")
    if found and options.host_access not in (None, True):
        hint = "leave host_access out: what reaches the host from a bridge of yours is yours to filter"
        message = f"network {net.name} cannot keep existing bridge {link} from the host"
        raise invalid(message, hint, "adopted_host_access")
    if found and options.gateway_dns:
        message = (
            f"network {net.name}: other programs' ports of existing bridge {link} could ask the gateway as a sandbox"
        )
        raise invalid(message, "leave gateway_dns or bridge_name out", "adopted_gateway_dns")


def check_subnet(net: Network, own: IPv4Interface) -> None:
    """Refuse an existing bridge whose address does not fit the requested subnet.

    Raises:
        Error: ``INVALID``.
    """
    options = net.options
    if (options.subnet and options.subnet != own.network) or (options.bridge_address and options.bridge_address != own):
        message = f"bridge {net.link} has address {own}, which does not fit the subnet asked for"
        raise invalid(message, f"ask for {own.network}, or leave the subnet out", "bridge_address_differs")
