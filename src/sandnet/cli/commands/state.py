"""``sandnet state``: export and import of the server's state, directly from its store."""

from __future__ import annotations

import click

from sandnet.cli import output
from sandnet.cli.commands.daemon import directories, overrides
from sandnet.cli.groups import Group


@click.group(cls=Group, short_help="Export and import the server's state.")
def state() -> None:
    """Write the server's state to a JSON document, or make a state of one.

    \b
    Example:
      sandnet state export state.json
    """


@state.command("export", short_help="Write the state as a JSON document.")
@directories
@click.argument("target", metavar="[FILE]", default="-")
def export(path: str | None, target: str, **values: str | None) -> None:
    """Write the state as a JSON document to FILE, or to standard output.

    Works with the server running or not. Give it the same directories as the server.

    \b
    Example:
      sandnet state export state.json
    """
    from sandnet.config import load
    from sandnet.statefile import export_state

    export_state(load(path, overrides(**values)), target)


@state.command("import", short_help="Make a state of a JSON document.")
@directories
@click.option("--replace", is_flag=True, help="Also where there is a state; it is kept aside.")
@click.argument("source", metavar="FILE")
def import_(path: str | None, source: str, replace: bool, **values: str | None) -> None:
    """Make a state of a document that `sandnet state export` wrote. The server must not run.

    \b
    Example:
      sandnet state import state.json
    """
    from sandnet.config import load
    from sandnet.statefile import import_state

    kept = import_state(load(path, overrides(**values)), source, replace=replace)
    if kept:
        output.line(f"the state there was is kept as {kept}", err=True)
