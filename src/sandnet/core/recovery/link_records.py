"""Build records from the aliases of links (``model/link_alias``): pure functions.

Options that an alias does not contain get the values of a request without them.
"""

from __future__ import annotations

import time
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, ip_address
from posixpath import join as join_path

from msgspec.structs import replace

from sandnet.errors import Error
from sandnet.kernel.types import Link
from sandnet.model import (
    Attachment,
    Endpoint,
    Network,
    NetworkOptions,
    Origin,
    Phase,
    Sandbox,
    Subnet,
)
from sandnet.model.address import mac_for
from sandnet.model.link_alias import OPTIONS, AttachmentAlias, NetworkAlias, address4, address6, host_access
from sandnet.model.link_names import OUR_LINKS
from sandnet.model.process import Process
from sandnet.model.resolv_conf import check_options, check_search

NOT_RECOVERABLE = (
    "labels; aliases, exposed ports, probes and affinities of endpoints; host and domain names, name servers, "
    "further hosts, aliases and file paths of sandboxes; parameters of the host as they were"
)
"""What no alias contains, as text for a message."""


def network_from_alias(driver: str, link: Link, alias: NetworkAlias, sequence: int) -> Network | None:
    """Return the network whose bridge is ``link``; ``None``: the alias is not valid."""
    values = alias.values
    flags_set = {name: value for letter, (name, value) in OPTIONS.items() if letter in alias.flags}
    try:
        own, own6 = IPv4Interface(values["4"]), IPv6Interface(values["6"]) if "6" in values else None
        options = NetworkOptions(
            ip_range=IPv4Network(values["r"]) if "r" in values else None,
            mtu=int(values["t"]) if "t" in values else None,
            binding_address=ip_address(values["b"]) if "b" in values else None,
            host_access=host_access(values.get("o")),
            dns_search=check_search(_listed(values.get("d")), "d"),
            dns_options=check_options(_listed(values.get("n")), "n"),
            max_flows=int(values["c"]) if "c" in values else None,
            egress_ipv4=address4(values.get("e")),
            egress_ipv6=address6(values.get("x")),
            bridge_name=None if OUR_LINKS["bridge"].fullmatch(link.name) else link.name,
        )
        options = replace(options, **flags_set)
    except (KeyError, ValueError, Error):
        return None
    gateway, gateway6 = address4(values.get("g")) or own.ip, address6(values.get("h")) or (own6 and own6.ip)
    internal = options.internal
    return Network(
        id=alias.id,
        name=alias.name,
        driver=driver,
        phase=Phase.READY,
        sequence=sequence,
        created=_timestamp(values.get("s")),
        options=options,
        ipv4=Subnet(prefix=own.network, bridge=own, gateway=None if internal else gateway, range=options.ip_range),
        ipv6=Subnet(prefix=own6.network, bridge=own6, gateway=None if internal else gateway6) if own6 else None,
        link=link.name,
        predefined="p" in alias.flags,
    )


def _listed(text: str | None) -> list[str]:
    return text.split(",") if text else []


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
        created=_timestamp(alias.values.get("s")),
        address=IPv4Interface((own, net.ipv4.prefix.prefixlen)) if own and net.ipv4 else None,
        address_ipv6=IPv6Interface((own6, net.ipv6.prefix.prefixlen)) if own6 and net.ipv6 else None,
        mac=mac or (mac_for(own) if own else ""),
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
    return Sandbox(
        container_id=alias.container_id,
        key=key,
        origin=Origin.JOINED if "j" in alias.flags else Origin.MADE,
        phase=Phase.READY,
        sequence=sequence,
        created=time.time(),
        inode=inode,
        loopback_was_up="u" in alias.flags,
        hosts_path=join_path(folder, "hosts"),
        resolv_conf_path=join_path(folder, "resolv.conf"),
        process=_process(alias.values.get("q", "")),
        auto_remove="r" in alias.flags,
    )


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
        mac=alias.values.get("m", mac_for(own)),
        gateway_priority=_number(alias.values.get("p"), 0),
        holder="n" not in alias.flags,
        leased="l" in alias.flags,
        weight=_number(alias.values.get("w"), 1),
        drained="d" in alias.flags,
    )


def _process(text: str) -> Process | None:
    pid, _, started = text.partition(":")
    return Process(int(pid), int(started)) if pid.isdecimal() and started.isdecimal() else None


def _timestamp(seconds: str | None) -> float:
    return float(_number(seconds, 0)) or time.time()


def _number(text: str | None, default: int) -> int:
    return int(text) if text and text.lstrip("-").isdecimal() else default
