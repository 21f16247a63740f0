"""``sandnet dns``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sandnet.cli import completers, output
from sandnet.cli.groups import Command
from sandnet.cli.session import Session
from sandnet.errors import Error, Kind

if TYPE_CHECKING:
    from sandnet.client import Client
    from sandnet.wire.explain import Explanation


@click.command(cls=Command, short_help="Show the answer that a container would get for a name.")
@click.argument("name")
@click.option(
    "--from",
    "container",
    required=True,
    metavar="CONTAINER",
    help="The sandbox that asks: the answer depends on its networks.",
    shell_complete=completers.containers,
)
@output.json_option
@click.pass_obj
def dns(session: Session, name: str, container: str, as_json: bool) -> None:
    """Show what CONTAINER would be answered when it asks for NAME (an address asks for its name).

    The answer, whose record it comes from, or which servers would be asked; none of these is asked now.

    \b
    Example:
      sandnet dns web --from db-1
      sandnet dns 10.9.0.2 --from db-1
    """
    if as_json:
        from sandnet.client import question

        output.raw(session.client.get(question(container, name)))
        return
    found = session.client.explain(container, name)
    output.block(explanation_text(found, *_names(session.client, found)))


def explanation_text(found: Explanation, network: str, owners: list[str]) -> str:
    """Return the text of the answer and its reason."""
    from_inside = {server: f"{server} (from inside)" for server in found.inside}
    upstreams = ", ".join(from_inside.get(server, server) for server in found.upstreams) or "the host's servers"
    return output.fields(
        (
            ("Name", found.name),
            ("Asked by", found.asker),
            ("Answer", ", ".join(found.answers) or ("" if found.source in ("upstream", "reverse") else "none")),
            ("Upstream", upstreams if found.source == "upstream" else ""),
            ("Network", network),
            ("Record of", ", ".join(owners)),
            ("Why", found.reason),
        )
    )


def _names(client: Client, found: Explanation) -> tuple[str, list[str]]:
    """Return the network's name, and the owners as text; for removed ones the ids."""
    names, network = dict[str, str](), found.network
    if found.network:
        try:
            answer = client.network(found.network)
        except Error as error:
            if error.kind is not Kind.NOT_FOUND:
                raise
        else:
            network, names = answer.name, {end.id: end.name for end in answer.endpoints}
    return network, [_owner(owner, names) for owner in found.owners]


def _owner(owner: str, names: dict[str, str]) -> str:
    """Return ``endpoint web`` or ``container c1 at endpoint web``, from an owner's ids."""
    container, _, endpoint = owner.rpartition("/")
    named = f"endpoint {names.get(endpoint, output.short(endpoint))}"
    return f"container {output.short(container)} at {named}" if container else named
