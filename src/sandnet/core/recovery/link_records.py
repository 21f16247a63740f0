"""Records made of what links say of themselves (``model/marks``): pure functions.

What a mark does not tell is as if it had never been asked for.
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
"""What no mark tells, in words."""


def network_from_alias(driver: str, link: Link, mark: NetworkAlias, sequence: int) -> Network | None:
    """The network whose bridge ``link`` is; ``None``: the mark makes no sense."""
    told = mark.values
    asked = {name: value for letter, (name, value) in OPTIONS.items() if letter in mark.flags}
    try:
        own, own6 = IPv4Interface(told["4"]), IPv6Interface(told["6"]) if "6" in told else None
        options = NetworkOptions(
            ip_range=IPv4Network(told["r"]) if "r" in told else None,
            mtu=int(told["t"]) if "t" in told else None,
            binding_address=ip_address(told["b"]) if "b" in told else None,
            host_access=host_access(told.get("o")),
            dns_search=check_search(_listed(told.get("d")), "d"),
            dns_options=check_options(_listed(told.get("n")), "n"),
            max_flows=int(told["c"]) if "c" in told else None,
            egress_ipv4=address4(told.get("e")),
            egress_ipv6=address6(told.get("x")),
            bridge_name=None if OUR_LINKS["bridge"].fullmatch(link.name) else link.name,
        )
        options = replace(options, **asked)
    except (KeyError, ValueError, Error):
        return None
    gateway, gateway6 = address4(told.get("g")) or own.ip, address6(told.get("h")) or (own6 and own6.ip)
    closed = options.internal
    return Network(
        id=mark.id,
        name=mark.name,
        driver=driver,
        phase=Phase.READY,
        sequence=sequence,
        created=_moment(told.get("s")),
        options=options,
        ipv4=Subnet(prefix=own.network, bridge=own, gateway=None if closed else gateway, range=options.ip_range),
        ipv6=Subnet(prefix=own6.network, bridge=own6, gateway=None if closed else gateway6) if own6 else None,
        link=link.name,
        predefined="p" in mark.flags,
    )


def _listed(text: str | None) -> list[str]:
    return text.split(",") if text else []


def endpoint_from_alias(mark: AttachmentAlias, net: Network, sequence: int) -> Endpoint:
    """The endpoint that an attachment says it is on."""
    leased = "l" in mark.flags
    own = address4(mark.values.get("a" if leased else "4"))
    own6 = address6(mark.values.get("b" if leased else "6"))
    mac = "" if leased else mark.values.get("m", "")
    return Endpoint(
        id=mark.endpoint_id,
        name=mark.endpoint_name,
        network_id=net.id,
        phase=Phase.READY,
        sequence=sequence,
        created=_moment(mark.values.get("s")),
        address=IPv4Interface((own, net.ipv4.prefix.prefixlen)) if own and net.ipv4 else None,
        address_ipv6=IPv6Interface((own6, net.ipv6.prefix.prefixlen)) if own6 and net.ipv6 else None,
        mac=mac or (mac_for(own) if own else ""),
    )


def sandbox_from_alias(mark: AttachmentAlias, key: str, inode: int, folder: str, sequence: int) -> Sandbox:
    """The sandbox of the container; ``folder`` is where its files go when nobody names others."""
    return Sandbox(
        container_id=mark.container_id,
        key=key,
        origin=Origin.JOINED if "j" in mark.flags else Origin.MADE,
        phase=Phase.READY,
        sequence=sequence,
        created=time.time(),
        inode=inode,
        loopback_was_up="u" in mark.flags,
        hosts_path=join_path(folder, "hosts"),
        resolv_conf_path=join_path(folder, "resolv.conf"),
        process=_process(mark.values.get("q", "")),
        auto_remove="r" in mark.flags,
    )


def attachment_from_alias(link: Link, mark: AttachmentAlias, net: Network, sequence: int) -> Attachment | None:
    """The attachment whose link on the host ``link`` is; ``None``: the mark makes no sense."""
    own, own6 = address4(mark.values.get("4")), address6(mark.values.get("6"))
    if own is None or net.ipv4 is None:
        return None
    return Attachment(
        endpoint_id=mark.endpoint_id,
        network_id=net.id,
        container_id=mark.container_id,
        phase=Phase.READY,
        sequence=sequence,
        interface=mark.interface,
        host_link=link.name,
        address=IPv4Interface((own, net.ipv4.prefix.prefixlen)),
        address_ipv6=IPv6Interface((own6, net.ipv6.prefix.prefixlen)) if own6 and net.ipv6 else None,
        mac=mark.values.get("m", mac_for(own)),
        gateway_priority=_number(mark.values.get("p"), 0),
        holder="n" not in mark.flags,
        leased="l" in mark.flags,
        weight=_number(mark.values.get("w"), 1),
        drained="d" in mark.flags,
    )


def _process(text: str) -> Process | None:
    pid, _, started = text.partition(":")
    return Process(int(pid), int(started)) if pid.isdecimal() and started.isdecimal() else None


def _moment(seconds: str | None) -> float:
    return float(_number(seconds, 0)) or time.time()


def _number(text: str | None, default: int) -> int:
    return int(text) if text and text.lstrip("-").isdecimal() else default
