"""``sandnet run``: a command in a new sandbox on a network."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from sandnet.cli import completers, output, parameters
from sandnet.cli.groups import Command
from sandnet.cli.parameters import Reference
from sandnet.cli.rates import RATES, rate_options
from sandnet.cli.requests import OPTION, SEARCH, address_options, join_request, service_request
from sandnet.cli.session import Session

if TYPE_CHECKING:
    from sandnet.cli.execution.child_process import Program
    from sandnet.cli.execution.membership import CommandMembership
    from sandnet.client import Client

ONE_SANDBOX_OPTIONS = ("name", "net", "ports", "ip", "ip6", "aliases", "labels", *RATES)
"""Options of a service of its own, which exclude ``--service``."""


@click.command(
    cls=Command,
    short_help="Run a command in a new sandbox on a network.",
    context_settings={"allow_interspersed_args": False},
)
@click.option("-d", "--detach", is_flag=True, help="Run it in the background; print its container's id when it is up.")
@click.option(
    "--net",
    multiple=True,
    metavar="NETWORK",
    help="Its network (repeatable; the first has ports and addresses). Default: the default network.",
    shell_complete=completers.networks,
)
@click.option("--name", help="The service's name, by which others reach it. Default: run- and eight digits.")
@click.option(
    "--service",
    type=parameters.REFERENCE,
    metavar="SERVICE[.NETWORK]",
    help="Be one more backend of this service, instead of a service of its own.",
    shell_complete=completers.services,
)
@click.option(
    "-p",
    "--publish",
    "ports",
    type=parameters.MAPPING,
    multiple=True,
    metavar="[HOSTIP:][HOST[-END]]:CONTAINER[-END][/PROTO]",
    help="Publish a port on the host (repeatable).",
)
@click.option(
    "--expose",
    type=parameters.EXPOSED,
    multiple=True,
    metavar="PORT[/PROTO]",
    help="A port on which it listens (repeatable); -d waits for it.",
)
@click.option("--alias", "aliases", multiple=True, metavar="NAME", help="A further name (repeatable).")
@click.option("--label", "labels", type=parameters.PAIR, multiple=True, metavar="K=V", help="A label (repeatable).")
@click.option(
    "--hostname",
    "--host-name",
    metavar="NAME",
    help="Its own name, by which its neighbours find it too. Default: --name.",
)
@click.option(
    "--add-host",
    "hosts",
    type=parameters.HOST_ENTRY,
    multiple=True,
    metavar="NAME:IP",
    help="A further line of its hosts file (repeatable).",
)
@click.option("--dns", multiple=True, metavar="IP", help="Nameserver for names outside (repeatable).")
@SEARCH
@OPTION
@address_options
@rate_options
@click.option("--log-file", metavar="FILE", help="With -d: append what it prints to this file. Default: nowhere.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="[--] COMMAND...")
@click.pass_context
def run(ctx: click.Context, /, detach: bool, log_file: str | None, command: tuple[str, ...], **values: Any) -> None:
    """Run COMMAND in a new sandbox: its own network, the names of its neighbours, the host's files.

    Publishes a service, attaches a new container to it, and takes both away when the command has ended, however
    it ended. Killed itself (SIGKILL), it takes the command along, and the daemon takes both away. The status is
    the command's; 127 when it cannot be found, 128 and the signal's number when a signal ended it.

    With -d it returns when the command runs and, with -p or --expose, when something listens there (10 s at most).

    \b
    Example:
      sandnet run -- ip address
      sandnet run -d --net blue --name web -p 8080:80 -- python3 -m http.server 80
      sandnet run -d --service api.blue -- ./api --port 80
    """
    refused = [name for name in ONE_SANDBOX_OPTIONS if values["service"] and values[name]]
    if refused:
        raise click.UsageError(f"--service has its own {', '.join(refused)}: leave them out")
    if log_file and not detach:
        raise click.UsageError("--log-file goes with -d")
    from sandnet.cli.execution.child_process import Program

    client = ctx.ensure_object(Session).client
    program = Program(command, [*((port.proto, port.port) for port in values["ports"]), *values["expose"]])
    if not detach:
        ctx.exit(_run(client, os.urandom(32).hex(), values, program))
    from sandnet.cli.execution.background import Ready, detached

    container = os.urandom(32).hex()

    def work(ready: Ready, log: int) -> int:
        return _run(client, container, values, program._replace(ready=ready, output=log))

    status = detached(work, log_file)
    if status == 0:
        output.line(container)
    ctx.exit(status)


def _run(client: Client, container: str, values: Mapping[str, Any], program: Program) -> int:
    from sandnet.cli.execution.child_process import block_signals, supervise
    from sandnet.cli.execution.membership import CommandMembership
    from sandnet.cli.execution.nsenter import SandboxPaths

    mask = block_signals()
    with CommandMembership(client, container) as membership:
        _join(client, membership, values)
        return supervise(SandboxPaths.of(client.sandbox(container, verbose=True)), program, mask)


def _join(client: Client, membership: CommandMembership, values: Mapping[str, Any]) -> None:
    """Attach the container to the named service, or to one of its own on each network."""
    tied = {**values, "watch_pid": os.getpid()}  # if this process is killed, the daemon cleans up
    joined = {
        **tied,
        "end_process": True,
        "aliases": (),
    }  # an alias here is a name for every sandbox, which the service has
    service: Reference | None = values["service"]
    if service:
        from sandnet.cli.resolve import find_service

        membership.attach(find_service(client, service).id, join_request(membership.container, joined))
        return
    name = values["name"] or f"run-{os.urandom(4).hex()}"
    join = join_request(membership.container, {**joined, "hostname": values["hostname"] or name.removeprefix("/")})
    networks = values["net"] or ("",)
    for place, network in enumerate(networks):
        own = tied if place == 0 else {**tied, "ports": (), "ip": (), "ip6": ()}
        membership.publish(service_request(name, network, own), join)
