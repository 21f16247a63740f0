"""Conversion of a call of the plugin into the core's specs, with validation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from msgspec.structs import replace

from sandnet.api import parsing
from sandnet.api.cni.call import Call
from sandnet.api.cni.errors import INVALID_ENVIRONMENT
from sandnet.api.cni.network import network_spec
from sandnet.core.lifecycle.runtime_attachments import AttachSpec
from sandnet.errors import Error, invalid
from sandnet.model import EndpointSpec, JoinSpec, PortMapping
from sandnet.model.endpoint import runtime_owner
from sandnet.model.ids import ENDPOINT_NAME, HOST_NAME
from sandnet.model.interfaces.additional_addresses import check_additional
from sandnet.model.interfaces.bandwidth import MOST_BURST, Bandwidth, check_bandwidth
from sandnet.model.resolv_conf import check_options, check_search
from sandnet.wire import cni as wire

MAX_PORTS: Final = 8192
"""Limit of an attachment's published ports: each has a bound socket and elements in the packet filter."""
MAX_ALIASES: Final = 100
"""Limit of an attachment's names: each is a record of the resolver."""
MAX_SERVERS: Final = 16
"""Limit of a container's name servers."""
_KNOWN_ARGUMENTS: Final = {"IP", "MAC", "IgnoreUnknown"}
_POD: Final = "K8S_"
"""Beginning of the arguments that describe a pod."""
_SHORT: Final = 12
"""Characters of a container's id that people use for it."""
_TRUE: Final = {"1", "true", "True", "TRUE", "t", "T"}


def attach_spec(call: Call) -> AttachSpec:
    """Return the spec of the attachment that ``ADD`` requests.

    Raises:
        Error: ``INVALID``.
    """
    _check_arguments(call.arguments)
    names = _endpoint_names(call)
    endpoint = EndpointSpec(
        name=names[0],
        port_mapping=_ports(call.configuration.runtime_config.port_mappings or ()),
        mac=_mac(call),
        aliases=_aliases(call),
        owner=runtime_owner(call.container_id, call.interface),
        bandwidth=_bandwidth(call.configuration.runtime_config.bandwidth),
    )
    spec = network_spec(call)
    names_driver = bool(call.configuration.driver)
    return AttachSpec(spec, names, _with_addresses(endpoint, call), _join(call), names_driver=names_driver)


def valid_attachments(call: Call) -> set[tuple[str, str]]:
    """Return the attachments that ``GC`` must keep.

    Raises:
        Error: ``INVALID`` they are missing: without them all attachments would be deleted.
    """
    valid = call.configuration.valid_attachments
    if valid is None:
        raise invalid("cni.dev/valid-attachments is missing", "give an empty list if none is valid")
    return {(each.container_id, each.ifname) for each in valid}


def _check_arguments(arguments: dict[str, str]) -> None:
    unknown = [name for name in arguments if name not in _KNOWN_ARGUMENTS and not name.startswith(_POD)]
    if unknown and arguments.get("IgnoreUnknown") not in _TRUE:
        message = f"CNI_ARGS: unknown arguments: {', '.join(unknown)[:200]}"
        raise invalid(message, "leave them out, or add IgnoreUnknown=1", INVALID_ENVIRONMENT)


def _bandwidth(requested: wire.Bandwidth | None) -> Bandwidth | None:
    """Return the requested limits. A burst without a rate has no meaning, as for the ``bandwidth`` plugin."""
    if requested is None:
        return None
    limits = Bandwidth(
        ingress_rate=requested.ingress_rate,
        ingress_burst=min(requested.ingress_burst, MOST_BURST) if requested.ingress_rate else 0,
        egress_rate=requested.egress_rate,
        egress_burst=min(requested.egress_burst, MOST_BURST) if requested.egress_rate else 0,
    )
    return check_bandwidth(limits, "runtimeConfig.bandwidth")


def _join(call: Call) -> JoinSpec:
    dns, configured = call.configuration.runtime_config.dns, call.configuration.dns or wire.Dns()
    servers = (dns and dns.servers) or configured.nameservers
    if len(servers) > MAX_SERVERS:
        raise invalid(f"dns: {len(servers)} servers are too many", f"give at most {MAX_SERVERS}")
    return JoinSpec(
        container_id=call.container_id,
        dns=tuple(parsing.host_address(each, f"dns.servers[{i}]") for i, each in enumerate(servers)),
        dns_search=check_search((dns and dns.searches) or _search(configured), "dns.searches"),
        dns_options=check_options((dns and dns.options) or configured.options, "dns.options"),
        netns=call.netns,
        watch_netns=True,
        interface=call.interface,
        auto_remove=True,
    )


def _search(configured: wire.Dns) -> Sequence[str]:
    return configured.search or ([configured.domain] if configured.domain else [])


# Names.


def _endpoint_names(call: Call) -> Sequence[str]:
    """Return names for the endpoint, the best first; no other attachment has the last one."""
    owner = runtime_owner(call.container_id, call.interface)
    own = f"cni-{hashlib.sha256(owner.encode()).hexdigest()[:_SHORT]}"
    named = [call.arguments.get("K8S_POD_NAME", ""), call.container_id, call.container_id[:_SHORT]]
    return [*(name for name in named if ENDPOINT_NAME.fullmatch(name)), own]


def _aliases(call: Call) -> tuple[str, ...]:
    requested = list(_requested_aliases(call))
    for name in requested:
        if not HOST_NAME.fullmatch(name):
            raise invalid(f"aliases: {name!r} is no host name", "use dot-separated labels of letters, digits, - and _")
    pod, namespace = call.arguments.get("K8S_POD_NAME", ""), call.arguments.get("K8S_POD_NAMESPACE", "")
    known = [pod, f"{pod}.{namespace}" if pod and namespace else "", call.container_id, call.container_id[:_SHORT]]
    names = dict.fromkeys(name.lower() for name in (*requested, *known) if HOST_NAME.fullmatch(name))
    if len(requested) > MAX_ALIASES:
        raise invalid(f"aliases: {len(requested)} are too many", f"give at most {MAX_ALIASES}")
    return tuple(names)


def _requested_aliases(call: Call) -> Iterator[str]:
    by_network = call.configuration.runtime_config.aliases or {}
    for network in dict.fromkeys((call.configuration.name, call.network)):
        yield from by_network.get(network, ())


# Addresses and ports.


def _with_addresses(endpoint: EndpointSpec, call: Call) -> EndpointSpec:
    """Return the endpoint with the requested addresses: the first of each family is primary.

    A prefix length has no effect.
    """
    requested = [parsing.address(text.partition("/")[0], "ips") for text in _requested_addresses(call)]
    ipv4 = next((each for each in requested if isinstance(each, IPv4Address)), None)
    ipv6 = next((each for each in requested if isinstance(each, IPv6Address)), None)
    primary = [each for each in (ipv4, ipv6) if each]
    further = list(requested)
    for each in primary:
        further.remove(each)
    check_additional(further, primary, "ips")
    return replace(endpoint, address=ipv4, address_ipv6=ipv6, additional_addresses=tuple(further))


def _requested_addresses(call: Call) -> Sequence[str]:
    """Return the addresses from the first place that names any."""
    arguments = call.configuration.args
    return (
        call.configuration.runtime_config.ips
        or [each for each in call.arguments.get("IP", "").split(",") if each]
        or (arguments and arguments.cni and arguments.cni.ips)
        or ()
    )


def _mac(call: Call) -> str:
    mac = call.configuration.runtime_config.mac
    if mac:
        return parsing.mac(mac, "runtimeConfig.mac")
    given = call.arguments.get("MAC", "")
    try:
        return parsing.mac(given, "CNI_ARGS: MAC") if given else ""
    except Error as failure:
        raise invalid(failure.message, failure.hint, INVALID_ENVIRONMENT) from None


def _ports(mappings: Sequence[wire.PortMapping]) -> tuple[PortMapping, ...]:
    if len(mappings) > MAX_PORTS:
        raise invalid(f"portMappings: {len(mappings)} are too many", f"give at most {MAX_PORTS}")
    return tuple(dict.fromkeys(_published(mappings)))


def _published(mappings: Iterable[wire.PortMapping]) -> Iterator[PortMapping]:
    """Yield the ports to publish: one without a host port is only named, as for the ``portmap`` plugin.

    Podman binds the host ports itself after ``ADD``, and fails where they are bound already.
    """
    for i, each in enumerate(mappings):
        if each.host_port:
            field = f"portMappings[{i}]"
            yield PortMapping(
                proto=parsing.protocol((each.protocol or "tcp").lower(), f"{field}.protocol"),
                port=each.container_port,
                host_ip=parsing.binding_address(each.host_ip, f"{field}.hostIP") if each.host_ip else None,
                host_port=each.host_port,
                shared=True,
                held=each.held,
            )
