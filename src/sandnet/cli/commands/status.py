"""``sandnet status``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sandnet.cli import output
from sandnet.cli.groups import Command
from sandnet.cli.session import Session

if TYPE_CHECKING:
    from sandnet.client import Client
    from sandnet.wire.health import Health


@click.command(cls=Command, short_help="Say how the daemon is, and what there is.")
@output.json_option
@click.pass_obj
def status(session: Session, as_json: bool) -> None:
    """Say whether the daemon is well, what is wrong if it is not, and how much there is.

    Exit status: 0 when it is well, 1 when it is degraded or away.

    \b
    Example:
      sandnet status
    """
    client = session.client
    health = client.health()
    if as_json:
        output.raw(client.get("/healthz"))
    else:
        output.block(status_text(client, health))
    if health.status != "ok":
        raise click.exceptions.Exit(1)


def status_text(client: Client, health: Health) -> str:
    """Return the text about the daemon, its problems, its drivers, and the numbers of objects."""
    version = client.version()
    services = client.services(verbose=True)
    away = [f"{driver.name}: {driver.reason}" for driver in health.drivers if not driver.available]
    limited = [driver for driver in health.drivers if driver.available and driver.reason]
    return output.fields(
        (
            ("Daemon", f"{version.version} at {client.url}"),
            ("Status", health.status),
            *(("Problem", problem) for problem in health.problems),
            *(("No driver", reason) for reason in away),
            *(("Limit", f"{driver.name}: {driver.reason}") for driver in limited),
            ("Networks", str(len(client.networks()))),
            ("Services", str(len(services))),
            ("Backends", str(sum(len(service.backends or ()) for service in services))),
            ("Sandboxes", str(len(client.sandboxes()))),
            ("Prepared", prepared_text(health)),
        )
    )


def prepared_text(health: Health) -> str:
    """Return how many prepared sandboxes are ready; empty where the pool is off."""
    pool = health.prepared_sandboxes
    return f"{pool.ready} of {pool.target} ready, {pool.misses} missed" if pool else ""
