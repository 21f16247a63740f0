"""``sandnet oci-hook``: the hook of an OCI runtime."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from sandnet.cli.groups import Command
from sandnet.cli.session import Session
from sandnet.errors import Error

if TYPE_CHECKING:
    from sandnet.wire.oci import ContainerState


@click.command(cls=Command, short_help="Attach a container of runc or crun, as its hook.")
@click.pass_obj
def oci_hook(session: Session) -> None:
    """Attach a container that runc or crun starts, and remove its services when it is deleted.

    An OCI runtime calls it as a hook of createRuntime and of poststop, with the container's state on standard input.
    The container's annotations choose networks, name and ports; a container without any of them is left alone. When
    it fails, nothing of the container is left on a network, and the runtime does not start the container. After the
    container's end it only reports an error, so that the container can be deleted.

    \b
    Example:
      sandnet oci-hook < state.json
    \b
    In config.json:
      "annotations": {"sandnet.network": "front", "sandnet.name": "web", "sandnet.ports": "8080:80"},
      "hooks": {"createRuntime": [{"path": "/usr/bin/sandnet", "args": ["sandnet", "oci-hook"]}],
                "poststop": [{"path": "/usr/bin/sandnet", "args": ["sandnet", "oci-hook"]}]}
    """
    from sandnet.wire.oci import MAX_STATE, decode_state

    if sys.stdin.isatty():
        raise click.UsageError("it reads the state of a container from standard input: a runtime calls it as a hook")
    state = decode_state(sys.stdin.buffer.read(MAX_STATE + 1))
    try:
        _run(session, state)
    except Error as error:
        if not state.has_stopped:
            raise
        from sandnet.cli import output

        output.failure(f"container {state.id}: {error.message}", "the daemon removes what is left, as it has ended")


def _run(session: Session, state: ContainerState) -> None:
    from sandnet.cli.execution.oci_annotations import requested
    from sandnet.cli.execution.oci_container import attach, detach, ready_client
    from sandnet.errors import invalid

    request = requested(state)
    if request is None:
        return
    if not state.has_stopped and not state.pid:
        message = f"the state of container {state.id} names no process, although it is {state.status!r}"
        raise invalid(message, "call the hook in createRuntime and poststop", "no_process")
    client = ready_client(session)
    (detach if state.has_stopped else attach)(client, state, request)
