"""``sandnet node``: ls, info, rm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sandnet.cli import completers, output
from sandnet.cli.groups import Group
from sandnet.cli.listing import Style, info_options, list_options, show_list, show_one
from sandnet.cli.session import Session

if TYPE_CHECKING:
    from sandnet.wire.nodes import Node


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
    """Show a host: whether it is alive, where it is reached, and what it has.

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
            ("Release", found.release),
            ("Containers", str(found.attachments)),
            ("Endpoints", str(found.endpoints)),
        )
    )


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
