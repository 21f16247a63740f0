"""``sandnet daemon`` and ``sandnet down``: the two commands that import the daemon's code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import click

from sandnet.cli import output
from sandnet.cli.groups import Command

F = TypeVar("F", bound=Callable[..., object])

_DIRECTORIES = (
    click.option("--state-dir", metavar="DIR", help="Records. Default: /var/lib/sandnet."),
    click.option("--run-dir", metavar="DIR", help="Sockets and locks. Default: /run/sandnet."),
    click.option("--sandbox-dir", metavar="DIR", help="Where namespaces are pinned. Default: /var/run/docker/netns."),
    click.option("--store", metavar="URL", help="Where records are kept. Default: the embedded store."),
    click.option("--host-name", metavar="NAME", help="This host's name in a shared store. Default: the machine's."),
    click.option("--config", "path", metavar="FILE", help="TOML file; the options given here win over it."),
)


def directories(command: F) -> F:
    """Add the options that select the daemon's state."""
    for option in reversed(_DIRECTORIES):
        command = option(command)
    return command


@click.command(cls=Command, short_help="Run the server.")
@click.option(
    "-H",
    "--host",
    "hosts",
    multiple=True,
    metavar="URL",
    help="Listen here (repeatable): unix:///path or tcp://ADDRESS:PORT; beyond loopback with the --tls-* files only. "
    "Default: the socket in --run-dir.",
)
@click.option("--tls-cert", metavar="FILE", help="TLS on TCP: the certificate that clients are shown.")
@click.option("--tls-key", metavar="FILE", help="Its key; only root may be able to read it.")
@click.option("--tls-ca", metavar="FILE", help="Who must have signed the certificates that clients show.")
@click.option(
    "--server-name",
    "server_names",
    multiple=True,
    metavar="NAME",
    help="A further name or address by which TCP clients call this server (repeatable).",
)
@directories
@click.option("--default-network", metavar="NAME", help="The network of services that name none. Default: bridge.")
@click.option(
    "--underlay",
    metavar="ADDRESS",
    help="This host's address for the other hosts of overlay networks. Default: that of the default route.",
)
@click.option("--take-over", is_flag=True, help="Replace another daemon that has this host's name in a shared store.")
@click.option("--detach", is_flag=True, help="Serve in the background; return when the server is ready.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Default: info.")
@click.pass_context
def daemon(
    ctx: click.Context, /, path: str | None, detach: bool, **values: str | bool | tuple[str, ...] | None
) -> None:
    """Run the server until SIGTERM, which leaves every network and sandbox working.

    With --detach it runs in the background, with a log in --run-dir; status 1 and the reason when it does not start.

    \b
    Example:
      sandnet daemon --detach
      sandnet daemon -H unix:///run/sandnet/sandnet.sock -H tcp://127.0.0.1:2385 --log-level debug
    """
    from sandnet.config import load
    from sandnet.daemon import run, run_in_background

    config = load(path, overrides(**values))
    if not detach:
        ctx.exit(run(config))
    log = run_in_background(config)
    output.line(f"sandnet: ready on {' '.join(config.hosts)}")
    output.line(f"  its log: {log}")


@click.command(cls=Command, short_help="Remove everything the server made on this host.")
@directories
@click.pass_context
def down(ctx: click.Context, /, path: str | None, **values: str | None) -> None:
    """Remove every network and sandbox of this host and put back the sysctls that were changed.

    Ends the commands that sandnet run has started, and reports it: they would be left without a network.

    Works with the server running or not. One of its directories is enough: it has recorded the others there.

    \b
    Example:
      sandnet down
      sandnet down --state-dir /srv/sandnet
    """
    from sandnet.cli.session import waiting
    from sandnet.config import load
    from sandnet.daemon import down as remove_all
    from sandnet.daemon import recorded_config

    given = overrides(**values)
    with waiting("removing networks and sandboxes"):
        config = load(path, given)
        status = remove_all(load(path, given, recorded_config(config)))
    ctx.exit(status)


def overrides(**values: object) -> Mapping[str, object]:
    """Return the options that were given; the others have their values from the configuration file."""
    return {key: value for key, value in values.items() if value}
