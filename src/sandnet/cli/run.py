"""``sandnet run``: from nothing to a process in a sandbox on a network."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import click

from sandnet.cli import complete, output, values
from sandnet.cli.groups import Command
from sandnet.cli.session import Session, waiting
from sandnet.cli.wishes import OPTION, SEARCH, join_wish, service_wish
from sandnet.errors import Error, Kind

if TYPE_CHECKING:
    from sandnet.client import Client
    from sandnet.wire.libnetwork import Join, ServicePublish

RESTART = 10.0
"""Seconds that cleaning up waits for a daemon that is being restarted."""


@click.command(
    cls=Command,
    short_help="Run a command in a new sandbox on a network.",
    context_settings={"allow_interspersed_args": False},
)
@click.option(
    "--net", default="", metavar="NETWORK", help="Default: the default network.", shell_complete=complete.networks
)
@click.option("--name", help="The service's name, by which others reach it. Default: run- and eight digits.")
@click.option(
    "-p",
    "--publish",
    "ports",
    type=values.MAPPING,
    multiple=True,
    metavar="[HOSTIP:]HOST[-END]:CONTAINER[/PROTO]",
    help="Publish a port on the host (repeatable).",
)
@click.option(
    "--hostname",
    "--host-name",
    metavar="NAME",
    help="Its own name, by which its neighbours find it too. Default: --name.",
)
@click.option("--dns", multiple=True, metavar="IP", help="Nameserver for names outside (repeatable).")
@SEARCH
@OPTION
@click.option("--ip", metavar="IP", help="IPv4 address. Default: the network's next one.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="[--] COMMAND...")
@click.pass_context
def run(ctx: click.Context, /, net: str, name: str | None, command: tuple[str, ...], **asked: object) -> None:
    """Run COMMAND in a new sandbox: its own network, the names of its neighbours, the host's files.

    Publishes a service, attaches a new container to it, and takes both away when the command has ended, however
    it ended. Killed itself (SIGKILL), it takes the command along, and the daemon takes both away. The status is
    the command's; 127 when it cannot be found, 128 and the signal's number when a signal ended it.

    \b
    Example:
      sandnet run -- ip address
      sandnet run --net blue --name web -p 8080:80 -- python3 -m http.server 80
    """
    name = name or f"run-{os.urandom(4).hex()}"
    container = os.urandom(32).hex()
    asked["hostname"] = asked["hostname"] or name.removeprefix("/")
    asked["watch_pid"] = os.getpid()  # should we be killed, the daemon cleans up
    wishes = service_wish(name, net, asked), join_wish(container, asked)
    ctx.exit(_run(ctx.ensure_object(Session).client, *wishes, command))


def _run(client: Client, service_wish: ServicePublish, join: Join, command: tuple[str, ...]) -> int:
    from sandnet.cli.enter import Place
    from sandnet.cli.supervise import hold_signals, supervise

    mask = hold_signals()
    container = join.container_id or ""
    with waiting(f"publishing {service_wish.name}"):
        service = client.publish(service_wish)
    try:
        with waiting(f"attaching {service_wish.name}"):
            client.attach(service, join)
            box = client.sandbox(container, verbose=True)
        place = Place.of(box)
        return supervise(place, command, mask)
    finally:
        _clean_up((lambda: client.detach(service, container), lambda: client.unpublish(service)))


def _clean_up(steps: Iterable[Callable[[], None]]) -> None:
    """Take each step; a failure is told and neither stops the next one nor changes the exit status."""
    deadline = time.monotonic() + RESTART
    for step in steps:
        try:
            _insist(step, deadline)
        except Error as error:
            if error.kind not in (Kind.NOT_FOUND, Kind.INVALID):  # of these two, there was nothing to take back
                output.failure(f"left behind: {error.message}", "the daemon tries again; see: sandnet service ls")


def _insist(step: Callable[[], None], deadline: float) -> None:
    """Take the step again while the daemon is away, until the deadline (monotonic seconds)."""
    while True:
        try:
            return step()
        except Error as error:
            if error.kind is not Kind.UNAVAILABLE or time.monotonic() > deadline:
                raise
        time.sleep(0.1)
