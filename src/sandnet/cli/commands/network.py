"""``sandnet network``: create, update, rm, prune, ls, info."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from sandnet.cli import completers, output, parameters
from sandnet.cli.groups import Group
from sandnet.cli.listing import Style, info_options, list_options, show_list, show_one
from sandnet.cli.network_flags import create_options, options, update_options
from sandnet.cli.session import Session, each, waiting

if TYPE_CHECKING:
    from sandnet.wire.libnetwork import Network

PREDEFINED = ("none", "host", "bridge")
"""Networks that the daemon makes by itself, and does not delete."""


@click.group(cls=Group)
def network() -> None:
    """Create, change, list and delete networks.

    \b
    Example:
      sandnet network create --subnet 10.9.0.0/24 blue
      sandnet network ls
      sandnet network rm blue
    """


@network.command(short_help="Create a network.")
@click.argument("name")
@click.option("-d", "--driver", default="", help="bridge (default), macvlan, overlay, or a network plugin.")
@create_options
@click.option("--label", "labels", type=parameters.PAIR, multiple=True, metavar="K=V", help="A label (repeatable).")
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


@network.command(short_help="Change a network while containers use it.")
@click.argument("network_name", metavar="NETWORK", shell_complete=completers.networks)
@update_options
@click.option("--label", "labels", type=parameters.PAIR, multiple=True, metavar="K=V", help="Set a label (repeatable).")
@click.option("--label-rm", "gone", multiple=True, metavar="KEY", help="Remove a label (repeatable).")
@click.pass_obj
def update(
    session: Session,
    /,
    network_name: str,
    extra: Iterable[tuple[str, str]],
    labels: Iterable[tuple[str, str]],
    gone: tuple[str, ...],
    **plain: object,
) -> None:
    """Change NETWORK while containers use it. What is not given stays.

    Search domains and options of resolv.conf replace those of the network; "-o dns_search=[]" takes them away. A rate
    of none is no limit. IPv6 can be added once. An option that is fixed at creation is refused, and nothing changes.

    \b
    Example:
      sandnet network update --mtu 1400 --label tier=front --label-rm old blue
      sandnet network update --ipv6 blue
    """
    from sandnet.wire.libnetwork import NetworkChange

    changed, added = options(plain, extra), dict(labels)
    if not (changed or added or gone):
        raise click.UsageError("nothing is to be changed: give at least one option")
    label_changes = {**dict.fromkeys(gone), **added}
    change = NetworkChange(options=changed or None, label_changes=label_changes or None)
    with waiting(f"changing network {network_name}"):
        session.client.change_network(network_name, change)


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
