"""Options shared by publish and endpoint create, and by attach and join, and the requests made from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from sandnet.cli import parameters
from sandnet.cli.rates import bandwidth, rate_options
from sandnet.cli.taps import requested_tap, tap_options

if TYPE_CHECKING:
    from sandnet.library.port_arguments import PortArgument
    from sandnet.wire.interface_options import StaticRoute
    from sandnet.wire.libnetwork import EndpointCreate, Join, Probe, ServicePublish

F = TypeVar("F", bound=Callable[..., object])

SEARCH = click.option(
    "--dns-search",
    multiple=True,
    metavar="DOMAIN",
    help="Search domain of resolv.conf (repeatable); . for none. Default: the network's, else the host's.",
)
OPTION = click.option(
    "--dns-option",
    "dns_options",
    multiple=True,
    metavar="OPTION",
    help="Option of resolv.conf, such as ndots:1 (repeatable), beside the network's and the host's.",
)

ADDRESSES = (
    click.option(
        "--ip",
        multiple=True,
        metavar="IP",
        help="IPv4 address (repeatable; further ones are additional). Default: the network's next one.",
    ),
    click.option("--ip6", multiple=True, metavar="IP", help="IPv6 address (repeatable; further ones are additional)."),
)
_CREATE = (
    click.option(
        "-p",
        "--publish",
        "ports",
        type=parameters.MAPPING,
        multiple=True,
        metavar="[HOSTIP:][HOST[-END]]:CONTAINER[-END][/PROTO]",
        help="Publish a port on the host (repeatable); HOST 0: the kernel chooses one.",
    ),
    click.option(
        "--expose",
        type=parameters.EXPOSED,
        multiple=True,
        metavar="PORT[/PROTO]",
        help="A port on which the service listens (repeatable).",
    ),
    *ADDRESSES,
    click.option("--mac", metavar="MAC", help="MAC address. Default: made from the IPv4 address."),
    click.option("--label", "labels", type=parameters.PAIR, multiple=True, metavar="K=V", help="A label (repeatable)."),
    click.option("--alias", "aliases", multiple=True, metavar="NAME", help="A further name (repeatable)."),
    click.option(
        "--affinity",
        type=click.Choice(["flow", "client"]),
        help="What keeps going to one backend: a flow (default), or all of a client.",
    ),
    click.option(
        "--probe",
        type=parameters.PROBE,
        metavar="tcp:PORT|http:PORT[/PATH][@SECONDS]",
        help="Check each backend from inside its sandbox; one that fails gets no new flows.",
    ),
    click.option(
        "--watch-pid",
        type=click.IntRange(min=1),
        metavar="PID",
        help="Remove it, and all on it, with this process.",
    ),
)

_JOIN = (
    click.option("--hostname", metavar="NAME", help="The container's own name, by which its neighbours find it too."),
    click.option("--domain", metavar="NAME", help="The container's domain."),
    click.option("--dns", multiple=True, metavar="IP", help="Nameserver for names outside (repeatable)."),
    SEARCH,
    OPTION,
    click.option(
        "--add-host",
        "hosts",
        type=parameters.HOST_ENTRY,
        multiple=True,
        metavar="NAME:IP",
        help="A further line of the hosts file (repeatable).",
    ),
    click.option("--netns", metavar="PATH", help="Join this existing network namespace instead of a new one."),
    click.option(
        "--pid", type=click.IntRange(min=1), help="Join the network namespace of this process, and go when it ends."
    ),
    click.option(
        "--container",
        "running_container",
        metavar="ID",
        help="Join the network namespace of this running container of Docker, Podman, containerd or CRI-O.",
    ),
    click.option(
        "--watch-pid", type=click.IntRange(min=1), metavar="PID", help="Remove the sandbox when this process ends."
    ),
    click.option(
        "--auto-remove/--no-auto-remove",
        default=None,
        help="Remove the sandbox when its container died: with the process of --pid or --watch-pid, else with the last "
        "one in its namespace. Default: where a process is named.",
    ),
    click.option(
        "--alias",
        "aliases",
        multiple=True,
        metavar="NAME",
        help="A name by which this container alone knows the service (repeatable).",
    ),
    click.option(
        "--weight", type=click.IntRange(1, 100), help="Share of the new flows among the backends. Default: 1."
    ),
    click.option("--gateway-priority", type=int, default=0, help="The highest has the default route. Default: 0."),
    click.option("--interface", metavar="NAME", help="Name of the interface. Default: the first free eth0, eth1…"),
    click.option(
        "--route",
        "routes",
        multiple=True,
        metavar="CIDR[=GATEWAY]",
        help="A static route through the interface (repeatable).",
    ),
    click.option(
        "--sysctl",
        "sysctls",
        type=parameters.PAIR,
        multiple=True,
        metavar="NAME=VALUE",
        help="A parameter of the interface, as net.ipv4.conf.IFNAME.rp_filter=0 (repeatable).",
    ),
    click.option("--hosts-path", metavar="FILE", help="Write the hosts file here."),
    click.option("--resolv-conf-path", metavar="FILE", help="Write resolv.conf here."),
)


def create_options(command: F) -> F:
    """Add the options for a new endpoint."""
    return _with(rate_options(command), _CREATE)


def join_options(command: F) -> F:
    """Add the options for a join."""
    return _with(tap_options(command), _JOIN)


def address_options(command: F) -> F:
    """Add the options for the addresses of a new endpoint."""
    return _with(command, ADDRESSES)


def _with(command: F, options: Iterable[Callable[[F], F]]) -> F:
    for option in reversed(tuple(options)):
        command = option(command)
    return command


def endpoint_request(name: str, values: Mapping[str, Any]) -> EndpointCreate:
    """Return the request to create an endpoint."""
    from sandnet.wire.libnetwork import EndpointCreate

    return EndpointCreate(name=name, **_created(values))


def service_request(name: str, network: str, values: Mapping[str, Any]) -> ServicePublish:
    """Return the request to publish a service."""
    from sandnet.wire.libnetwork import ServicePublish

    return ServicePublish(name=name, network_name=network or None, **_created(values))


def _created(values: Mapping[str, Any]) -> dict[str, Any]:
    from sandnet.wire.libnetwork import ExposedPort

    ports: tuple[PortArgument, ...] = values["ports"]
    exposed = [ExposedPort(proto=proto, port=port) for proto, port in values.get("expose", ())]
    return {
        "exposed_ports": exposed or None,
        "port_mapping": [port.request for port in ports] or None,
        "address": next(iter(values["ip"]), None),
        "address_ipv6": next(iter(values["ip6"]), None),
        "additional_addresses": [*values["ip"][1:], *values["ip6"][1:]] or None,
        "mac": values.get("mac"),
        "labels": dict(values.get("labels", ())) or None,
        "aliases": list(values.get("aliases", ())) or None,
        "affinity": values.get("affinity"),
        "probe": _probe(values.get("probe")),
        "bandwidth": bandwidth(values),
        "watch_pid": values.get("watch_pid"),
    }


def _probe(argument: parameters.ProbeArgument | None) -> Probe | None:
    from sandnet.wire.libnetwork import Probe

    if argument is None:
        return None
    kind: Literal["tcp", "http"] = "http" if argument.kind == "http" else "tcp"
    timeout = min(1.0, argument.interval / 2)
    return Probe(kind=kind, port=argument.port, path=argument.path, interval=argument.interval, timeout=timeout)


def _route(text: str) -> StaticRoute:
    from sandnet.wire.interface_options import StaticRoute

    destination, _, gateway = text.partition("=")
    return StaticRoute(destination=destination, gateway=gateway or None)


def join_request(container: str, values: Mapping[str, Any]) -> Join:
    """Return the request to join a container."""
    from sandnet.wire.libnetwork import ExtraHost, Join

    options = {"netns": "--netns", "pid": "--pid", "running_container": "--container"}
    given = [option for name, option in options.items() if values.get(name)]
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(given)} exclude each other")
    if values.get("watch_pid") and values.get("auto_remove") is False:
        raise click.UsageError("--watch-pid and --no-auto-remove exclude each other")
    tap = requested_tap(values)
    return Join(
        container_id=container,
        type="tap" if tap else None,
        tap=tap,
        host_name=values.get("hostname"),
        domain_name=values.get("domain"),
        dns=list(values.get("dns", ())) or None,
        dns_search=list(values.get("dns_search", ())) or None,
        dns_options=list(values.get("dns_options", ())) or None,
        extra_hosts=[ExtraHost(name=name, address=address) for name, address in values.get("hosts", ())] or None,
        hosts_path=values.get("hosts_path"),
        resolv_conf_path=values.get("resolv_conf_path"),
        netns=values.get("netns"),
        pid=values.get("pid"),
        running_container=values.get("running_container"),
        watch_pid=values.get("watch_pid"),
        end_process=values.get("end_process"),
        auto_remove=values.get("auto_remove"),
        aliases=list(values.get("aliases", ())) or None,
        weight=values.get("weight"),
        gateway_priority=values.get("gateway_priority") or None,
        interface=values.get("interface"),
        routes=[_route(text) for text in values.get("routes", ())] or None,
        sysctls=dict(values.get("sysctls", ())) or None,
    )
