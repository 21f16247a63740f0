"""Conversion of the tap of a virtual machine, with what its emulator and its guest need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sandnet.core.controller import Controller
from sandnet.model import Attachment, Sandbox
from sandnet.model.address import Address
from sandnet.model.tap import NO_GROUP, inner_tap_name
from sandnet.wire.sandbox_interfaces import Tap

_USUAL_MTU: Final = 1500
_SERVERS: Final = 2


def encode_tap(core: Controller, sandbox: Sandbox, attachment: Attachment) -> Tap | None:
    """Return the tap of an attachment; ``None``: it has none."""
    options = attachment.tap
    if options is None:
        return None
    network = core.networks.get(attachment.network_id)
    gateways = core.sandboxes.gateways(sandbox, attachment)
    ipv4 = next((each for each in gateways if each.version == 4), None)
    ipv6 = next((each for each in gateways if each.version == 6), None)
    servers = core.sandboxes.name_servers(sandbox, network)
    return Tap(
        container=sandbox.container_id,
        network=network.name,
        device=inner_tap_name(attachment.interface) if options.inside else attachment.host_link,
        netns=sandbox.key if options.inside else None,
        interface=attachment.interface,
        mac=attachment.mac,
        mtu=network.mtu or _USUAL_MTU,
        address=str(attachment.address),
        address_ipv6=str(attachment.address_ipv6) if attachment.address_ipv6 else None,
        additional_addresses=[str(each) for each in attachment.additional_addresses],
        gateway=str(ipv4) if ipv4 else None,
        gateway_ipv6=str(ipv6) if ipv6 else None,
        name_servers=[str(server) for server in servers],
        host_name=sandbox.host_name,
        kernel_argument=kernel_argument(attachment, sandbox.host_name, ipv4, servers),
        owner=options.owner,
        group=None if options.group == NO_GROUP else options.group,
        queues=options.queues,
        vhost=options.vhost,
        offload=options.offload,
    )


def kernel_argument(attachment: Attachment, host_name: str, gateway: Address | None, servers: Sequence[Address]) -> str:
    """Return the argument by which a kernel sets its first interface (kernel: admin-guide/nfs/nfsroot, ``ip=``).

    It has IPv4 only: the address, no NFS server, the gateway, the netmask, the host name, the interface, no protocol
    that asks for an address, and two name servers at most.
    """
    own = attachment.address
    if own is None:
        return ""
    ipv4 = [str(server) for server in servers if server.version == 4][:_SERVERS]
    fields = (own.ip, "", gateway or "", own.netmask, host_name, attachment.interface, "off", *ipv4)
    return "ip=" + ":".join(map(str, fields))
