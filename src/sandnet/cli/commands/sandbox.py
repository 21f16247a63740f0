"""``sandnet sandbox``: ls, info, taps, exec."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sandnet.cli import completers
from sandnet.cli.groups import Group
from sandnet.cli.listing import Style, info_options, list_options, show_list, show_one
from sandnet.cli.session import Session
from sandnet.cli.taps import format_option, show_tap

if TYPE_CHECKING:
    from sandnet.wire.libnetwork import Sandbox


@click.group(cls=Group)
def sandbox() -> None:
    """Look at sandboxes and run commands in them. A sandbox is named by its container's id.

    \b
    Example:
      sandnet sandbox ls
      sandnet sandbox exec web-1 -- ping -c1 db
    """


@sandbox.command(short_help="List sandboxes.")
@list_options
@click.pass_obj
def ls(session: Session, /, **style: object) -> None:
    """List sandboxes in the order of their creation, with the services behind which they stand.

    \b
    Example:
      sandnet sandbox ls
    """
    from sandnet.wire.libnetwork import Sandbox

    answer = session.client.get("/sandboxes", verbose=True)
    show_list(answer, Sandbox, ("CONTAINER", "ENDPOINTS", "SANDBOX"), _row, Style.of(style))


def _row(found: Sandbox) -> tuple[str, str, str]:
    return found.id, ",".join(f"{end.name}.{end.network}" for end in found.endpoints), found.sandbox_key


@sandbox.command(short_help="Show one sandbox.")
@click.argument("container", shell_complete=completers.containers)
@info_options
@click.pass_obj
def info(session: Session, container: str, template: str | None, as_json: bool) -> None:
    """Show a sandbox: its namespace, its files, its interfaces.

    \b
    Example:
      sandnet sandbox info web-1
    """
    from sandnet.cli.describe import sandbox_text
    from sandnet.client import decode, path
    from sandnet.wire.libnetwork import Sandbox

    answer = session.client.get(path("sandboxes", container), verbose=True)
    show_one(answer, lambda found: sandbox_text(decode(found, Sandbox)), template, as_json)


@sandbox.command(short_help="Print the taps of a virtual machine.")
@click.argument("container", shell_complete=completers.containers)
@format_option
@click.pass_obj
def taps(session: Session, container: str, tap_format: str) -> None:
    """Print the taps of CONTAINER, a virtual machine, as its join did: one for each network.

    \b
    Example:
      sandnet sandbox taps vm-1
      qemu-system-x86_64 $(sandnet sandbox taps --format qemu vm-1) -kernel vmlinuz -append "$(sandnet sandbox taps
        --format kernel vm-1)"
    """
    found = session.client.sandbox(container, verbose=True)
    shown = [interface.tap for interface in found.interfaces or () if interface.tap]
    if not shown:
        from sandnet.errors import not_found

        raise not_found("tap", f"of {container}", "join it with --type tap")
    for tap in shown:
        show_tap(tap, tap_format)


@sandbox.command(
    "exec",
    short_help="Run a command in a sandbox.",
    context_settings={"allow_interspersed_args": False},
)
@click.argument("container", shell_complete=completers.containers)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="[--] COMMAND...")
@click.pass_obj
def execute(session: Session, container: str, command: tuple[str, ...]) -> None:
    """Run COMMAND in the sandbox of CONTAINER: its network, its /etc/hosts and /etc/resolv.conf.

    Everything else is the caller's: files, processes, user, environment. The hosts file is the one that
    was there when the command started. The status is the command's; 127 when it cannot be found.

    \b
    Example:
      sandnet sandbox exec web-1 -- ip address
      sandnet sandbox exec web-1 -- ping -c1 db
    """
    from sandnet.cli.execution import nsenter

    words = command[1:] if command[0] == "--" else command
    if not words:
        raise click.UsageError("say what to run: COMMAND...")
    found = session.client.sandbox(container, verbose=True)
    if found.origin == "guest":
        from sandnet.errors import invalid

        raise invalid(f"{container} is a virtual machine: nothing can be run in it from here", code="guest")
    nsenter.enter(nsenter.SandboxPaths.of(found))
    nsenter.execute(words)
