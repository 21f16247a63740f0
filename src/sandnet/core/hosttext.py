"""What stands in a sandbox's hosts and resolv.conf files: pure text from records.

Format and order follow libnetwork (notes C.4 and C.7), less its faults: records of all the container's
networks, both address families, no line without a name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address

from sandnet.model import Address, Attachment, Endpoint, HostEntry, Sandbox
from sandnet.model.ids import bare

LOCALHOST = (
    "127.0.0.1\tlocalhost\n"
    "::1\tlocalhost ip6-localhost ip6-loopback\n"
    "fe00::0\tip6-localnet\n"
    "ff00::0\tip6-mcastprefix\n"
    "ff02::1\tip6-allnodes\n"
    "ff02::2\tip6-allrouters\n"
)
FALLBACK_DNS = ("8.8.8.8", "8.8.4.4")
"""What 2015 wrote when the host has no nameserver that a sandbox could reach."""


def service_lines(endpoint: Endpoint, network_name: str) -> str:
    """The lines by which an endpoint's peers know it: its name, and its name with the network's."""
    name = bare(endpoint.name)
    addresses = [interface.ip for interface in (endpoint.address, endpoint.address_ipv6) if interface]
    return "".join(f"{address}\t{name}\n{address}\t{name}.{network_name}\n" for address in addresses)


def hosts(box: Sandbox, attachments: Sequence[Attachment], services: Iterable[str]) -> bytes:
    """A hosts file.

    Args:
        box: whose file it is.
        attachments: its attachments, the first attached first.
        services: blocks of :func:`service_lines` of its networks.
    """
    lines = "".join(f"{address}\t{names}\n" for names in (_own_names(box),) if names for address in _own(attachments))
    entries = "".join(_entry(entry) for entry in (*box.extra_hosts, *box.parent_hosts))
    return (lines + LOCALHOST + entries + "".join(services)).encode()


def stub_resolv_conf(host_text: str, server: Address) -> bytes:
    """A resolv.conf that names our own resolver; it asks the others on the sandbox's behalf.

    ``ndots:0``: the names of neighbours have no dots and must not be tried with the host's domains first.
    """
    return f"nameserver {server}\n{_search(host_text)}options ndots:0\n".encode()


def resolv_conf(host_text: str, dns: Sequence[Address], *, ipv6: bool) -> bytes:
    """A resolv.conf: the servers asked for, else those of the host that a sandbox can reach.

    Args:
        host_text: the host's own resolv.conf.
        dns: servers of the join request; with them the host's search domains stay and its options go.
        ipv6: whether the sandbox can reach IPv6 servers.
    """
    if dns:
        servers = "".join(f"nameserver {server}\n" for server in dns)
        return (servers + _search(host_text)).encode()
    kept = [line for line in host_text.splitlines() if _keep(line, ipv6)]
    if not any(line.split()[:1] == ["nameserver"] for line in kept):
        kept += [f"nameserver {server}" for server in FALLBACK_DNS]
    return ("\n".join(kept) + "\n").encode()


def _own_names(box: Sandbox) -> str:
    if not box.host_name:
        return ""
    return f"{box.host_name}.{box.domain_name} {box.host_name}" if box.domain_name else box.host_name


def _own(attachments: Iterable[Attachment]) -> Iterable[Address]:
    for attachment in attachments:
        for interface in (attachment.address, attachment.address_ipv6):
            if interface is not None:
                yield interface.ip


def _entry(entry: HostEntry) -> str:
    return f"{entry.address}\t{entry.name}\n"


def _keep(line: str, ipv6: bool) -> bool:
    words = line.split()
    if words[:1] != ["nameserver"] or len(words) < 2:
        return True
    try:
        server = ip_address(words[1].partition("%")[0])
    except ValueError:
        return False
    return not server.is_loopback and (ipv6 or server.version == 4)


def _search(host_text: str) -> str:
    domains: list[str] = []
    for line in host_text.splitlines():
        words = line.partition("#")[0].split()
        if words[:1] == ["search"]:
            domains = words[1:]
    return f"search {' '.join(domains)}\n" if domains and domains != ["."] else ""
