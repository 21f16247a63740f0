"""Render the hosts and resolv.conf files of a sandbox: pure functions from records to text.

Format and order follow libnetwork (notes C.4 and C.7), without its faults: the files contain records of all the
container's networks and of both address families, and no line without a name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from itertools import islice
from typing import Final

from sandnet.model import Address, Attachment, Endpoint, HostEntry, Network, Sandbox, name_server
from sandnet.model.ids import bare
from sandnet.model.network import dns_gateways
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
"""The servers of 2015 for a host without a nameserver that a sandbox could reach."""
_MOST_SERVERS: Final = 3
"""Servers that a C library asks (``MAXNS``, ``resolv.h``)."""


def service_lines(endpoint: Endpoint, network_name: str) -> str:
    """Return the lines that give an endpoint's peers its name, alone and with the network's name."""
    name = bare(endpoint.name)
    addresses = [interface.ip for interface in (endpoint.address, endpoint.address_ipv6) if interface]
    return "".join(f"{address}\t{name}\n{address}\t{name}.{network_name}\n" for address in addresses)


def hosts(sandbox: Sandbox, attachments: Sequence[Attachment], services: Iterable[str]) -> bytes:
    """Return a hosts file.

    A name that a join set by ``parent_updates`` replaces all other lines of that name, except the container's own name.

    Args:
        sandbox: the owner of the file.
        attachments: its attachments, the first attached first.
        services: blocks of :func:`service_lines` of its networks.
    """
    lines = "".join(
        f"{address}\t{names}\n" for names in (_own_names(sandbox),) if names for address in _own(attachments)
    )
    overrides = {entry.name.lower(): entry for entry in sandbox.parent_hosts}
    entries = dict.fromkeys(
        overrides.get(entry.name.lower(), entry) for entry in (*sandbox.extra_hosts, *sandbox.parent_hosts)
    )
    others = "".join(services)
    if overrides:
        others = "".join(line for line in others.splitlines(keepends=True) if _name(line) not in overrides)
    return (lines + LOCALHOST + "".join(map(_entry, entries)) + others).encode()


def _name(line: str) -> str:
    return line.rstrip("\n").rpartition("\t")[2].lower()


def stub_servers(networks: Iterable[Network]) -> tuple[Address, ...]:
    """Return the addresses of the daemon's resolver for a sandbox of these networks.

    The first one is inside. A stack with a loopback of its own, as gVisor's, refuses it at once, and asks a gateway.
    """
    gateways = (gateway.ip for net in networks for gateway in dns_gateways(net, is_machine=False))
    return name_server.ADDRESS, *islice(gateways, _MOST_SERVERS - 1)


def stub_resolv_conf(host: ResolvConf, servers: tuple[Address, ...], lookup: Lookup) -> bytes:
    """Return a resolv.conf with the daemon's resolver, which queries the other servers on the sandbox's behalf.

    ``ndots:0`` unless another value was requested: the names of neighbours have no dots, and must not be tried with the
    search domains first.
    """
    options = (option for option in host.options if kind_of(option) != NDOTS)
    search = lookup.search or host.search
    return ResolvConf(servers, search, merged(options, (f"{NDOTS}:0",), lookup.options)).text()


def resolv_conf(host: ResolvConf, dns: Sequence[Address], lookup: Lookup, *, ipv6: bool) -> bytes:
    """Return a resolv.conf: with the requested servers, else with those of the host that a sandbox can reach.

    Args:
        host: the host's own.
        dns: servers of the join request; with them the host's options are left out.
        lookup: the other requested settings.
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
    """Return whether a sandbox can reach a server: a zone is a link of the host, and loopback is the sandbox's own."""
    return not server.is_loopback and not server.is_link_local and (ipv6 or server.version == 4)
