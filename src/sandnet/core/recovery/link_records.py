"""Build records of endpoints, sandboxes and attachments from the aliases of links (``model/link_alias``).

Options that an alias does not contain get the values of a request without them.
"""

from __future__ import annotations

import time
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from posixpath import join as join_path

from sandnet.kernel.types import Link
from sandnet.model import (
    Attachment,
    Endpoint,
    Interface,
    Network,
    Origin,
    Phase,
    Sandbox,
)
from sandnet.model.address import mac_for
from sandnet.model.endpoint import runtime_owner
from sandnet.model.interfaces.additional_addresses import MAX_ADDITIONAL_ADDRESSES
from sandnet.model.link_alias import AttachmentAlias, address4, address6, addresses, bandwidth, created_of, number
from sandnet.model.process import Process
from sandnet.model.tap import NO_GROUP, TapOptions

NOT_RECOVERABLE = (
    "labels; routes of networks; aliases, exposed ports, ports of routed networks, probes and affinities of endpoints; "
    "host and domain names, name servers, further hosts, aliases, file paths, routes and sysctls of sandboxes; "
    "parameters of the host as they were"
)
"""What no alias contains, as text for a message."""


def endpoint_from_alias(alias: AttachmentAlias, net: Network, sequence: int) -> Endpoint:
    """Return the endpoint that an attachment's alias names."""
    leased = "l" in alias.flags
    own = address4(alias.values.get("a" if leased else "4"))
    own6 = address6(alias.values.get("b" if leased else "6"))
    mac = "" if leased else alias.values.get("m", "")
    return Endpoint(
        id=alias.endpoint_id,
        name=alias.endpoint_name,
        network_id=net.id,
        phase=Phase.READY,
        sequence=sequence,
        created=created_of(alias),
        address=IPv4Interface((own, net.ipv4.prefix.prefixlen)) if own and net.ipv4 else None,
        address_ipv6=IPv6Interface((own6, net.ipv6.prefix.prefixlen)) if own6 and net.ipv6 else None,
        additional_addresses=_additional(alias, net),
        mac=mac or (mac_for(own) if own else ""),
        bandwidth=bandwidth(alias.values.get("l")),
        owner=runtime_owner(alias.container_id, alias.interface) if "o" in alias.flags else "",
    )


def sandbox_from_alias(alias: AttachmentAlias, key: str, inode: int, folder: str, sequence: int) -> Sandbox:
    """Return the sandbox of the container.

    Args:
        alias: the alias of one of its links.
        key: where its namespace is pinned.
        inode: the inode number of that namespace.
        folder: the directory of its files, as no alias contains requested paths.
        sequence: its number in creation order.
    """
    outside = "e" in alias.flags or alias.is_tap
    return Sandbox(
        container_id=alias.container_id,
        key=key,
        origin=_origin(alias),
        phase=Phase.READY,
        sequence=sequence,
        created=time.time(),
        inode=0 if outside else inode,
        loopback_was_up="u" in alias.flags,
        hosts_path="" if outside else join_path(folder, "hosts"),
        resolv_conf_path="" if outside else join_path(folder, "resolv.conf"),
        process=_process(alias.values.get("q", "")),
        auto_remove="r" in alias.flags,
    )


def _origin(alias: AttachmentAlias) -> Origin:
    if alias.is_tap:
        return Origin.GUEST
    if "e" in alias.flags:
        return Origin.EXTERNAL
    return Origin.JOINED if "j" in alias.flags else Origin.MADE


def attachment_from_alias(link: Link, alias: AttachmentAlias, net: Network, sequence: int) -> Attachment | None:
    """Return the attachment whose link on the host is ``link``; ``None``: the alias is not valid."""
    own, own6 = address4(alias.values.get("4")), address6(alias.values.get("6"))
    if own is None or net.ipv4 is None:
        return None
    return Attachment(
        endpoint_id=alias.endpoint_id,
        network_id=net.id,
        container_id=alias.container_id,
        phase=Phase.READY,
        sequence=sequence,
        interface=alias.interface,
        host_link=link.name,
        address=IPv4Interface((own, net.ipv4.prefix.prefixlen)),
        address_ipv6=IPv6Interface((own6, net.ipv6.prefix.prefixlen)) if own6 and net.ipv6 else None,
        additional_addresses=() if "l" in alias.flags else _additional(alias, net),
        mac=alias.values.get("m", mac_for(own)),
        gateway_priority=number(alias.values.get("p"), 0),
        holder="n" not in alias.flags,
        leased="l" in alias.flags,
        weight=number(alias.values.get("w"), 1),
        drained="d" in alias.flags,
        tap=_tap(alias.values.get("t", ""), inside=not alias.is_tap) if "t" in alias.flags else None,
    )


def _additional(alias: AttachmentAlias, net: Network) -> tuple[Interface, ...]:
    """Return the additional addresses that are of the network's subnets."""
    subnets = [subnet.prefix for subnet in (net.ipv4, net.ipv6) if subnet]
    found = [
        ip_interface((each, prefix.prefixlen))
        for each in addresses(alias.values.get("i"))
        for prefix in subnets
        if each.version == prefix.version and each in prefix
    ]
    return tuple(found[:MAX_ADDITIONAL_ADDRESSES])


def _tap(text: str, *, inside: bool) -> TapOptions:
    """Return the options of a tap; those that cannot be read are the usual ones."""
    owner, group, queues, flags = [*text.split(":"), "", "", "", ""][:4]
    return TapOptions(
        owner=number(owner, 0),
        group=number(group, NO_GROUP),
        queues=number(queues, 1),
        vhost="v" in flags,
        offload="o" not in flags,
        inside=inside,
    )


def _process(text: str) -> Process | None:
    pid, _, started = text.partition(":")
    return Process(int(pid), int(started)) if pid.isdecimal() and started.isdecimal() else None
