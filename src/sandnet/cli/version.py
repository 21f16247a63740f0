"""``sandnet version``."""

from __future__ import annotations

import click

from sandnet.cli.session import Session
from sandnet.errors import Error


@click.command(short_help="Print the versions of this program and of the daemon.")
@click.pass_obj
def version(session: Session) -> None:
    """Print the version of this program, and the daemon's where one answers.

    \b
    Example:
      sandnet version
    """
    from importlib.metadata import version as installed

    click.echo(f"client  {installed('sandnet')}")
    try:
        daemon = session.impatient.version()
    except Error as error:
        click.echo(f"daemon  none: {error.message}")
        return
    click.echo(f"daemon  {daemon.version} (interface {daemon.min_api_version} to {daemon.api_version})")
