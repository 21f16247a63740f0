"""What stands in a sandbox's hosts and resolv.conf files: pure text from records.

Format and order follow libnetwork (notes C.4 and C.7), less its faults: records of all the container's
networks, both address families, no line without a name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address

from sandnet.model import Address, Attachment, Endpoint, HostEntry, Sandbox
from sandnet.model.ids import bare
from sandnet.model.resolv_conf import NDOTS, Lookup, ResolvConf, kind_of, merged

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


def hosts(sandbox: Sandbox, attachments: Sequence[Attachment], services: Iterable[str]) -> bytes:
    """A hosts file.

    What a join told by ``parent_updates`` stands in the place of all other lines of that name, its own name excepted.

    Args:
        sandbox: whose file it is.
        attachments: its attachments, the first attached first.
        services: blocks of :func:`service_lines` of its networks.
    """
    lines = "".join(
        f"{address}\t{names}\n" for names in (_own_names(sandbox),) if names for address in _own(attachments)
    )
    told = {entry.name.lower(): entry for entry in sandbox.parent_hosts}
    entries = dict.fromkeys(
        told.get(entry.name.lower(), entry) for entry in (*sandbox.extra_hosts, *sandbox.parent_hosts)
    )
    others = "".join(services)
    if told:
        others = "".join(line for line in others.splitlines(keepends=True) if _name(line) not in told)
    return (lines + LOCALHOST + "".join(map(_entry, entries)) + others).encode()


def _name(line: str) -> str:
    return line.rstrip("\n").rpartition("\t")[2].lower()


def stub_resolv_conf(host: ResolvConf, server: Address, lookup: Lookup) -> bytes:
    """A resolv.conf that names our own resolver; it asks the others on the sandbox's behalf.

    ``ndots:0`` unless somebody asked for another one: the names of neighbours have no dots and must not be tried with
    the search domains first.
    """
    options = (option for option in host.options if kind_of(option) != NDOTS)
    search = lookup.search or host.search
    return ResolvConf((server,), search, merged(options, (f"{NDOTS}:0",), lookup.options)).text()


def resolv_conf(host: ResolvConf, dns: Sequence[Address], lookup: Lookup, *, ipv6: bool) -> bytes:
    """A resolv.conf: the servers asked for, else those of the host that a sandbox can reach.

    Args:
        host: the host's own.
        dns: servers of the join request; with them the host's options go.
        lookup: what was asked for beside them.
        ipv6: whether the sandbox can reach IPv6 servers.
    """
    search = lookup.search or host.search
    if dns:
        return ResolvConf(tuple(dns), search, merged(lookup.options)).text()
    kept = tuple(server for server in host.servers if _is_reachable(server, ipv6))
    servers = kept or tuple(map(ip_address, FALLBACK_DNS))
    return ResolvConf(servers, search, merged(host.options, lookup.options)).text()


def _own_names(sandbox: Sandbox) -> str:
    if not sandbox.host_name:
        return ""
    return (
        f"{sandbox.host_name}.{sandbox.domain_name} {sandbox.host_name}" if sandbox.domain_name else sandbox.host_name
    )


def _own(attachments: Iterable[Attachment]) -> Iterable[Address]:
    for attachment in attachments:
        for interface in (attachment.address, attachment.address_ipv6):
            if interface is not None:
                yield interface.ip


def _entry(entry: HostEntry) -> str:
    return f"{entry.address}\t{entry.name}\n"


def _is_reachable(server: Address, ipv6: bool) -> bool:
    """A zone is a link of the host, and loopback is the sandbox's own there."""
    return not server.is_loopback and not server.is_link_local and (ipv6 or server.version == 4)
