"""``sandnet version``."""

from __future__ import annotations

import click

from sandnet.cli import output
from sandnet.cli.groups import Command
from sandnet.cli.session import Session
from sandnet.errors import Error


@click.command(cls=Command, short_help="Print the versions of this program and of the daemon.")
@click.pass_obj
def version(session: Session) -> None:
    """Print the version of this program, and the daemon's where one answers.

    \b
    Example:
      sandnet version
    """
    from importlib.metadata import version as installed

    output.line(f"client  {installed('sandnet')}")
    try:
        daemon = session.impatient_client.version()
    except Error as error:
        output.line(f"daemon  none: {error.message}")
        return
    output.line(f"daemon  {daemon.version} (interface {daemon.min_api_version} to {daemon.api_version})")
