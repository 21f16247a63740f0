"""The work of the OCI hook: attach a container before its start, and remove its services after its end.

Each service watches the container's first process, so the daemon removes it when that process ends and no hook is
called. What the hook cannot undo, because the daemon or the hook itself was killed, is removed in the same way.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandnet.cli import output
from sandnet.cli.execution.membership import CommandMembership
from sandnet.cli.execution.oci_annotations import OciAttachment
from sandnet.errors import Error, Kind

if TYPE_CHECKING:
    from sandnet.cli.session import Session
    from sandnet.client import Client
    from sandnet.wire.libnetwork import Endpoint
    from sandnet.wire.oci import ContainerState

CONNECT_SECONDS: Final = 1.0
"""How long the hook waits for a daemon that is being started: the container waits, too."""
STEP_SECONDS: Final = 20.0
"""How long a step may take once the daemon has answered."""


def ready_client(session: Session) -> Client:
    """Return a client of a daemon that answers; wait at most a second for one.

    Raises:
        Error: ``UNAVAILABLE``, no daemon answers.
    """
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            session.impatient_client.version()
        except Error as error:
            if error.kind is not Kind.UNAVAILABLE or time.monotonic() + 0.05 > deadline:
                raise
            time.sleep(0.05)
        else:
            return session.client_within(STEP_SECONDS)


def attach(client: Client, state: ContainerState, request: OciAttachment) -> None:
    """Attach a container to its networks; do nothing if it is attached already.

    Raises:
        Error: of the daemon. Nothing is left of what this call made.
    """
    try:
        _attach(client, state.id, request)
    except Error as error:
        if error.kind is not Kind.NAME_TAKEN:
            raise
        if _is_attached(client, state, request):
            return
        if not _remove_ended(client, state, request):  # another one has the name
            raise
        _attach(client, state.id, request)


def detach(client: Client, state: ContainerState, request: OciAttachment) -> None:
    """Remove the services of a container that has ended; those of other containers stay.

    Raises:
        Error: of the daemon.
    """
    _remove_ended(client, state, request)


def _attach(client: Client, container: str, request: OciAttachment) -> None:
    with CommandMembership(client, container, retry_seconds=CONNECT_SECONDS) as membership:
        for service in request.services:
            membership.publish(service, request.join)
        membership.keep()


def _is_attached(client: Client, state: ContainerState, request: OciAttachment) -> bool:
    """Return whether an earlier call has attached this very container to all its networks."""
    if _sandbox_pid(client, state.id) != state.pid:
        return False
    attached = [
        endpoint
        for endpoint in _own_endpoints(client, request)
        if any(backend.id == state.id for backend in endpoint.backends or ())
    ]
    return len(attached) == len(request.networks)


def _remove_ended(client: Client, state: ContainerState, request: OciAttachment) -> int:
    """Remove the services that a hook has made for a container with this id and bundle, if its process has ended.

    Two runtimes may use one id, even for one bundle: the services of a running container stay.

    Returns:
        How many were removed.
    """
    pid = _sandbox_pid(client, state.id)
    if pid and pid != state.pid and _is_running(pid):
        output.failure(f"container {state.id} runs as process {pid}: its services stay")
        return 0
    removed = 0
    for endpoint in _own_endpoints(client, request):
        try:
            client.unpublish(endpoint.id, force=True)
        except Error as error:
            if error.kind is not Kind.NOT_FOUND:  # the daemon may have removed it, as its process has ended
                raise
        removed += 1
    return removed


def _own_endpoints(client: Client, request: OciAttachment) -> list[Endpoint]:
    """Return the endpoints with the name and the labels that the hook gives to the container."""
    found: list[Endpoint] = []
    for network in request.networks:
        try:
            named = client.endpoints(network, name=request.name, verbose=True)
        except Error as error:
            if error.kind is not Kind.NOT_FOUND:
                raise
            continue
        found += [each for each in named if each.labels and request.labels.items() <= each.labels.items()]
    return found


def _sandbox_pid(client: Client, container: str) -> int:
    """Return the process of a container's sandbox; 0: it has none."""
    try:
        return client.sandbox(container, verbose=True).pid or 0
    except Error as error:
        if error.kind is not Kind.NOT_FOUND:
            raise
        return 0


def _is_running(pid: int) -> bool:
    """Return whether a process runs; one that has ended and is not yet waited for does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat.rpartition(b")")[2].split()[:1] not in ([b"Z"], [b"X"])
