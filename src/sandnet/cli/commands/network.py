"""``sandnet network``: create, rm, ls, info."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import click

from sandnet.cli import completers, output, parameters
from sandnet.cli.groups import Group
from sandnet.cli.listing import Style, info_options, list_options, show_list, show_one
from sandnet.cli.session import Session, each, waiting

if TYPE_CHECKING:
    from sandnet.wire.libnetwork import Network

PREDEFINED = ("none", "host", "bridge")
"""Networks that the daemon makes by itself, and does not delete."""
GENERIC = "com.docker.network.generic"
"""libnetwork's label that contains a driver's own options (libnetwork notes, C.2)."""


@click.group(cls=Group)
def network() -> None:
    """Create, list and delete networks.

    \b
    Example:
      sandnet network create --subnet 10.9.0.0/24 blue
      sandnet network ls
      sandnet network rm blue
    """


@network.command(short_help="Create a network.")
@click.argument("name")
@click.option("-d", "--driver", default="", help="bridge (default), host, null, or another driver's name.")
@click.option("--subnet", metavar="CIDR", help="IPv4 subnet. Default: the next free /24 of the pools.")
@click.option("--gateway", metavar="IP", help="The sandboxes' next hop. Default: the subnet's first address.")
@click.option("--ip-range", metavar="CIDR", help="Hand out addresses of this part of the subnet only.")
@click.option("--ipv6", is_flag=True, help="Give sandboxes IPv6 addresses too.")
@click.option("--subnet-ipv6", metavar="CIDR", help="IPv6 subnet; implies --ipv6.")
@click.option("--allow-overlap", is_flag=True, help="Take the subnet although the host uses addresses of it.")
@click.option("--mtu", type=click.IntRange(68, 65535), help="MTU of the network's links, in bytes.")
@click.option("--internal", is_flag=True, help="No way out of the network and none in.")
@click.option(
    "--routed",
    is_flag=True,
    help="Translate no address: other hosts route the subnets to this one, and reach published ports directly.",
)
@click.option("--no-icc", is_flag=True, help="Sandboxes of the network may not reach each other.")
@click.option("--no-anti-spoofing", is_flag=True, help="Sandboxes may send from addresses that are not their own.")
@click.option(
    "--host-access",
    multiple=True,
    metavar="all|none|PORT[/PROTO]",
    help="What sandboxes reach of the host's own programs (ports are repeatable). Default: none.",
)
@click.option(
    "--dns-search",
    multiple=True,
    metavar="DOMAIN",
    help="Search domain of its sandboxes' resolv.conf (repeatable); . for none. Default: the host's.",
)
@click.option(
    "--dns-option",
    "dns_options",
    multiple=True,
    metavar="OPTION",
    help="Option of its sandboxes' resolv.conf, such as ndots:1 (repeatable), beside the host's.",
)
@click.option("--label", "labels", type=parameters.PAIR, multiple=True, metavar="K=V", help="A label (repeatable).")
@click.option("--bridge-name", metavar="LINK", help="Name of the bridge device, made or existing.")
@click.option(
    "-o",
    "--opt",
    "extra",
    type=parameters.PAIR,
    multiple=True,
    metavar="KEY=VALUE",
    help="Any other option of the driver (repeatable). CamelCase keys are libnetwork's, such as EnableICC=false.",
)
@click.pass_obj
def create(
    session: Session,
    /,
    name: str,
    driver: str,
    extra: Iterable[tuple[str, str]],
    labels: Iterable[tuple[str, str]],
    **plain: object,
) -> None:
    """Create the network NAME and print its id.

    \b
    Example:
      sandnet network create blue
      sandnet network create --subnet 10.9.0.0/24 --ip-range 10.9.0.128/25 --internal green
      sandnet network create -o EnableIPMasquerade=false routed
    """
    from sandnet.wire.libnetwork import NetworkCreate

    request = NetworkCreate(name=name, network_type=driver, options=options(plain, extra), labels=dict(labels) or None)
    with waiting(f"creating network {name}"):
        output.line(session.client.create_network(request))


def options(plain: Mapping[str, object], extra: Iterable[tuple[str, str]]) -> dict[str, object]:
    """Return the request's ``options``: sandnet's plain keys, and libnetwork's CamelCase ones under their label.

    libnetwork's generic values are always text; any other ``KEY=VALUE`` is decoded if it is JSON.
    """
    requested = {key: value for key, value in plain.items() if value and not key.startswith("no_")}
    requested |= {key.removeprefix("no_"): False for key, value in plain.items() if value and key.startswith("no_")}
    requested |= {
        key: list(value) for key, value in requested.items() if key.startswith("dns_") and isinstance(value, tuple)
    }
    if "host_access" in requested:
        requested["host_access"] = _host_access(requested["host_access"])
    if requested.pop("routed", False):
        requested |= {"routed_ipv4": True, "routed_ipv6": True}
    if "subnet_ipv6" in requested:
        requested["ipv6"] = True
    generic = {key: value for key, value in extra if _is_generic(key)}
    requested |= {key: parameters.scalar(value) for key, value in extra if not _is_generic(key)}
    return requested | ({GENERIC: generic} if generic else {})


def _host_access(given: object) -> object:
    words = list(given) if isinstance(given, Iterable) else []
    return {"all": True, "none": False}.get(words[0], words) if len(words) == 1 else words


def _is_generic(key: str) -> bool:
    return key[0].isupper() and "." not in key


@network.command(short_help="Delete networks.")
@click.argument("networks", nargs=-1, required=True, metavar="NETWORK...", shell_complete=completers.networks)
@output.force_option
@click.pass_obj
def rm(session: Session, networks: tuple[str, ...], force: bool) -> None:
    """Delete networks by name, id or unique id prefix. A network must have no endpoints with running containers.

    Goes on past those that fail; the status is 1 if any did.

    \b
    Example:
      sandnet network rm blue green
      sandnet network rm --force blue
    """
    client = session.client
    each(networks, "deleting network", lambda name: client.delete_network(name, force=force))


@network.command(short_help="Delete networks that have no endpoints.")
@click.option(
    "-f", "--filter", "filters", multiple=True, metavar="KEY=VALUE", help="Only those; as of ls (repeatable)."
)
@click.option("-n", "--dry-run", is_flag=True, help="Only print which.")
@click.pass_obj
def prune(session: Session, filters: tuple[str, ...], dry_run: bool) -> None:
    """Delete all networks that have no endpoints, but for the predefined ones, and print their names.

    \b
    Example:
      sandnet network prune
      sandnet network prune --filter label=tier=test
    """
    from sandnet.cli.listing import filtered
    from sandnet.client import decode
    from sandnet.wire.libnetwork import Network

    answer = session.client.get("/networks", verbose=True)
    empty = [
        net
        for net in decode(filtered(answer, filters), list[Network])
        if not net.endpoints and net.name not in PREDEFINED
    ]

    def one(name: str) -> None:
        if not dry_run:
            session.client.delete_network(ids[name])
        output.line(name)

    ids = {net.name: net.id for net in empty}
    each(ids, "deleting network", one)


@network.command(short_help="List networks.")
@list_options
@click.pass_obj
def ls(session: Session, /, **style: object) -> None:
    """List networks in the order of their creation.

    \b
    Example:
      sandnet network ls
      sandnet network ls -q --no-trunc
      sandnet network ls --filter type=bridge --format '{{.Name}} {{.Subnets}}'
    """
    from sandnet.wire.libnetwork import Network

    answer = session.client.get("/networks", verbose=True)
    show_list(answer, Network, ("NETWORK ID", "NAME", "TYPE", "SUBNETS"), _row, Style.of(style))


def _row(net: Network) -> tuple[str, ...]:
    return net.id, net.name, net.type, ",".join(net.subnets or ())


@network.command(short_help="Show one network.")
@click.argument("network_name", metavar="NETWORK", shell_complete=completers.networks)
@info_options
@click.pass_obj
def info(session: Session, network_name: str, template: str | None, as_json: bool) -> None:
    """Show a network: driver, subnets, gateways, options, endpoints.

    \b
    Example:
      sandnet network info blue
    """
    from sandnet.cli.describe import network_text
    from sandnet.client import decode, path
    from sandnet.wire.libnetwork import Network

    answer = session.client.get(path("networks", network_name), verbose=True)
    show_one(answer, lambda found: network_text(decode(found, Network)), template, as_json)
