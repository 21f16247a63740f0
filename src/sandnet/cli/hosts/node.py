"""``sandnet node``: ls, info, check, rm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sandnet.cli import completers, output
from sandnet.cli.groups import Group
from sandnet.cli.listing import Style, info_options, list_options, show_list, show_one
from sandnet.cli.session import Session, waiting
from sandnet.escaping import printable

if TYPE_CHECKING:
    from sandnet.wire.nodes import Node, NodeReachability

_UNAVAILABLE = 2
"""Exit status of ``check`` when the daemon is unavailable, or shares no store."""


@click.group(cls=Group)
def node() -> None:
    """Look at the hosts that share networks, and remove one.

    \b
    Example:
      sandnet node ls
    """


@node.command(short_help="List the hosts.")
@list_options
@click.pass_obj
def ls(session: Session, /, **style: object) -> None:
    """List the hosts that share a store with this daemon, and whether they are alive. This one has a star.

    \b
    Example:
      sandnet node ls
    """
    from sandnet.wire.nodes import Node

    headings = ("NODE", "STATE", "UNDERLAY", "CONTAINERS", "ENDPOINTS", "RELEASE", "")
    show_list(session.client.get("/nodes"), Node, headings, _row, Style.of(style))


def _row(found: Node) -> tuple[str, ...]:
    counts = (str(found.attachments), str(found.endpoints))
    return found.name, found.state, found.underlay or "", *counts, found.release, "*" if found.this else ""


@node.command(short_help="Show one host.")
@click.argument("name", metavar="NODE", shell_complete=completers.nodes)
@info_options
@click.pass_obj
def info(session: Session, name: str, template: str | None, as_json: bool) -> None:
    """Show a host: whether it is alive, where it is reached, whether it can encrypt, and what it has.

    \b
    Example:
      sandnet node info host-2
    """
    from sandnet.client import decode, path
    from sandnet.wire.nodes import Node

    answer = session.client.get(path("nodes", name))
    show_one(answer, lambda found: _text(decode(found, Node)), template, as_json)


def _text(found: Node) -> str:
    return output.fields(
        (
            ("Node", f"{found.name}{' (this one)' if found.this else ''}"),
            ("State", found.state),
            ("Underlay", found.underlay or ""),
            ("Encryption", "yes" if found.encryption else "no: on that host, sandnet doctor names what is missing"),
            ("Release", found.release),
            ("Containers", str(found.attachments)),
            ("Endpoints", str(found.endpoints)),
        )
    )


@node.command(short_help="Check the way to the other hosts.")
@click.argument("name", metavar="[NODE]", required=False, shell_complete=completers.nodes)
@output.json_option
@click.pass_obj
def check(session: Session, name: str | None, as_json: bool) -> None:
    """Check how this host reaches the others, or one: the VXLAN port, the largest packet that passes, the clock.

    Probes go the way that packets of overlay networks take. It takes about two seconds when something is wrong.

    Exit status: 0 when nothing is wrong, 1 when something is, 2 when the daemon cannot be asked.

    \b
    Example:
      sandnet node check
      sandnet node check host-2
    """
    from sandnet.cli.lazy_group import Failure
    from sandnet.errors import Error

    try:
        with waiting("asking the other hosts"):
            answer, found = session.client.reachability(name or "")
    except Error as error:
        Failure(error).show()
        raise click.exceptions.Exit(_UNAVAILABLE) from None
    if as_json:
        output.raw(answer)
    else:
        output.block(_reachability_text(found))
    if any(each.problems for each in found):
        raise click.exceptions.Exit(1)


def _reachability_text(found: list[NodeReachability]) -> str:
    headings = ("NODE", "STATE", "UNDERLAY", "VXLAN", "ROUND TRIP", "PATH MTU", "NEEDED", "CLOCK")
    table = output.table(headings, [_reachability_row(each) for each in found])
    problems = [f"{each.name}: {problem}" for each in found for problem in each.problems]
    return "\n".join([table, *(["", *map(printable, problems)] if problems else [])])


def _reachability_row(found: NodeReachability) -> tuple[str, ...]:
    trip = "" if found.round_trip_ms is None else f"{found.round_trip_ms:.2f} ms"
    clock = "" if found.clock_ahead_ms is None else f"{found.clock_ahead_ms / 1000:+.3f} s"
    sizes = (str(found.path_mtu or ""), str(found.needed_mtu or ""))
    return found.name, found.state, found.underlay or "", found.vxlan, trip, *sizes, clock


@node.command(short_help="Remove a host that is away.")
@click.argument("name", metavar="NODE", shell_complete=completers.nodes)
@click.pass_obj
def rm(session: Session, name: str) -> None:
    """Remove a host that is away: its containers' places, and the endpoints that ended with it.

    Nothing of it counts since its lease ended. This removes what is left of it. If it comes back, it joins again.

    \b
    Example:
      sandnet node rm host-2
    """
    session.client.delete_node(name)
    output.line(name)
