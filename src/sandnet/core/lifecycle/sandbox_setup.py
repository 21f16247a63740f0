"""What a join and a leave do to the kernel and the files: one job each for a worker thread.

A hop to a worker and back costs about a tenth of a millisecond, so the steps travel together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from sandnet.core.lifecycle.default_routes import Routes
from sandnet.core.names.host_file_types import Digests
from sandnet.errors import collected
from sandnet.kernel.base import Kernel
from sandnet.kernel.types import Namespace, Veth
from sandnet.model import Attachment, Endpoint, Interface, Origin, Phase, Sandbox
from sandnet.model.link_alias import attachment_alias

Failures = list[Exception]
"""What went wrong in a teardown that went on."""


def create_namespace(kernel: Kernel, sandbox: Sandbox, prepare_names: Callable[[Sandbox], None] | None) -> Sandbox:
    """A new sandbox's namespace made, or the host's pinned for it; the record with what was found on the way.

    Args:
        kernel: the host's.
        sandbox: the sandbox.
        prepare_names: opens the sockets at which it will ask for names; ``None``: it will not ask.
    """
    pinned = (
        kernel.namespaces.make(sandbox.key) if sandbox.origin is Origin.MADE else kernel.namespaces.pin(sandbox.key)
    )
    sandbox = identified(sandbox, pinned)
    if prepare_names:
        prepare_names(sandbox)
    return sandbox


def with_alias(veth: Veth | None, endpoint: Endpoint, sandbox: Sandbox, attachment: Attachment) -> Veth | None:
    """The link, with what it is to say of itself."""
    return veth and veth._replace(alias=attachment_alias(endpoint, sandbox, attachment))


def set_up(
    kernel: Kernel, sandbox: Sandbox, veth: Veth | None, routes: Routes, write_files: Callable[[], Digests]
) -> Sandbox:
    """Make a sandbox's interface, routes and files what the records say.

    Args:
        kernel: the host's.
        sandbox: the sandbox.
        veth: the link to plug; ``None`` for drivers without one.
        routes: those it is to have.
        write_files: writes its files.

    Returns:
        The record with what was written.
    """
    if veth:
        kernel.links.plug(sandbox.key, veth)
    if sandbox.origin is not Origin.HOST:
        kernel.namespaces.default_routes(sandbox.key, routes.default)
        if not _is_new(sandbox):  # one that we have just made has nothing of the kind, and one interface
            kernel.namespaces.source_routes(sandbox.key, routes.by_source)
    return write_files().on(sandbox)


def detach_link(
    kernel: Kernel, sandbox: Sandbox, last: Attachment, shared: Sequence[Interface], routes: Routes
) -> Failures:
    """Take one link out of a sandbox that goes on living, and move its routes.

    Where its namespace is gone, as after a reboot, only the link on this side is left to take.

    Args:
        kernel: the host's.
        sandbox: the sandbox.
        last: the attachment that ends.
        shared: addresses of the endpoint that are not the interface's own.
        routes: those that the sandbox is to have.
    """
    failures: Failures = []
    _retire(kernel, sandbox, last, failures)
    if not _is_there(kernel, sandbox, failures):
        return failures
    if shared:
        attempt(failures, lambda: kernel.links.remove_service_addresses(sandbox.key, shared))
    if sandbox.origin is Origin.MADE and last.interface:
        attempt(failures, lambda: kernel.namespaces.set_link_down(sandbox.key, last.interface))
    if sandbox.origin is not Origin.HOST:
        attempt(failures, lambda: kernel.namespaces.default_routes(sandbox.key, routes.default))
        attempt(failures, lambda: kernel.namespaces.source_routes(sandbox.key, routes.by_source))
    return failures


def tear_down(
    kernel: Kernel,
    sandbox: Sandbox,
    last: Attachment | None,
    shared: Sequence[Interface],
    remove_files: Callable[[], None],
) -> Failures:
    """Take the last link out of a sandbox, let its namespace go and remove its files."""
    failures: Failures = []
    down = sandbox.origin is Origin.JOINED and not sandbox.loopback_was_up and sandbox.inode != 0
    if last:
        _retire(kernel, sandbox, last, failures)
    if shared and sandbox.origin is Origin.JOINED:
        attempt(failures, lambda: kernel.links.remove_service_addresses(sandbox.key, shared))
    if (
        sandbox.origin is Origin.JOINED and sandbox.inode and _is_there(kernel, sandbox, failures)
    ):  # rules outlive their link
        attempt(failures, lambda: kernel.namespaces.source_routes(sandbox.key, ()))
    attempt(failures, lambda: kernel.namespaces.release(sandbox.key, inode=sandbox.inode, loopback_down=down))
    attempt(failures, remove_files)
    return failures


class Teardown(NamedTuple):
    """A sandbox whose end is near, with its one attachment."""

    sandbox: Sandbox
    last: Attachment
    remove_files: Callable[[], None]


def tear_down_all(kernel: Kernel, all_: Sequence[Teardown]) -> set[str]:
    """As :func:`dissolve`, of many: their links go in one request, which costs one grace period and not one each.

    Returns:
        The containers of which something is left.

    Raises:
        Error: their links cannot be deleted; nothing else was tried.
    """
    kernel.links.delete([each.last.host_link for each in all_ if each.last.host_link])
    return {each.sandbox.container_id for each in all_ if tear_down(kernel, each.sandbox, None, (), each.remove_files)}


def _is_new(sandbox: Sandbox) -> bool:
    return sandbox.origin is Origin.MADE and sandbox.phase is Phase.CREATING


def _is_there(kernel: Kernel, sandbox: Sandbox, failures: Failures) -> bool:
    """Whether the sandbox's namespace is still at its key; another one there is somebody else's business."""
    found: list[Namespace | None] = []
    attempt(failures, lambda: found.append(kernel.namespaces.find(sandbox.key)))
    return any(pinned is not None and pinned.inode == sandbox.inode for pinned in found)


def _retire(kernel: Kernel, sandbox: Sandbox, last: Attachment, failures: Failures) -> None:
    """Silence the link, to be deleted in bulk; a namespace that is not ours must be without it at once."""
    if last.host_link and sandbox.origin is Origin.JOINED:
        attempt(failures, lambda: kernel.links.delete([last.host_link]))
    elif last.host_link:
        attempt(failures, lambda: kernel.links.retire([last.host_link]))


def identified(sandbox: Sandbox, namespace: Namespace) -> Sandbox:
    """The record of a sandbox whose namespace is known now."""
    return replace(sandbox, inode=namespace.inode, loopback_was_up=namespace.loopback_was_up)


def attempt(failures: Failures, step: Callable[[], object]) -> None:
    """Run one step of a teardown; a failure is kept and the teardown goes on."""
    try:
        step()
    except Exception as failure:
        failures.append(failure)


def raise_incomplete(what: str, failures: Sequence[Exception]) -> None:
    """Raise one error of all that failed, if any did."""
    if failures:
        raise collected(f"{what} is incomplete; repeat it", failures)
