"""The egress address of a network: the source of its traffic when that leaves the host, if not the uplink's own."""

from __future__ import annotations

from sandnet.errors import Error, invalid
from sandnet.kernel.base import Host
from sandnet.model import Network
from sandnet.model.ports import UDP


def refuse_egress(net: Network, host: Host) -> None:
    """Refuse an egress address to which answers could not return.

    Raises:
        Error: ``INVALID`` with code ``no_such_family`` the network has no IPv6; ``CONFLICT`` with code
            ``address_not_local`` the host has no such address.
    """
    options = net.options
    if options.egress_ipv6 and not net.ipv6:
        message = f"network {net.name} has no IPv6, so nothing of it leaves from {options.egress_ipv6}"
        raise invalid(message, "create the network with ipv6, or leave egress_ipv6 out", "no_such_family")
    for address in (options.egress_ipv4, options.egress_ipv6):
        if address is None:
            continue
        try:
            host.hold(UDP, address, 0).close()
        except Error as refused:
            if refused.code == "address_not_local":
                hint = "name one of the host's addresses, which answers come back to"
                raise Error(refused.kind, refused.message, hint, refused.code) from refused
            raise
