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
from sandnet.model.link_alias import attachment_mark

Failures = list[Exception]
"""What went wrong in a teardown that went on."""


def made(kernel: Kernel, box: Sandbox, prepare_names: Callable[[Sandbox], None] | None) -> Sandbox:
    """A new sandbox's namespace made, or the host's pinned for it; the record with what was found on the way.

    Args:
        kernel: the host's.
        box: the sandbox.
        prepare_names: opens the sockets at which it will ask for names; ``None``: it will not ask.
    """
    pinned = kernel.namespaces.make(box.key) if box.origin is Origin.MADE else kernel.namespaces.pin(box.key)
    box = identified(box, pinned)
    if prepare_names:
        prepare_names(box)
    return box


def marked(veth: Veth | None, endpoint: Endpoint, box: Sandbox, attachment: Attachment) -> Veth | None:
    """The link, with what it is to say of itself."""
    return veth and veth._replace(mark=attachment_mark(endpoint, box, attachment))


def wire(
    kernel: Kernel, box: Sandbox, veth: Veth | None, routes: Routes, write_files: Callable[[], Digests]
) -> Sandbox:
    """Make a sandbox's interface, routes and files what the records say.

    Args:
        kernel: the host's.
        box: the sandbox.
        veth: the link to plug; ``None`` for drivers without one.
        routes: those it is to have.
        write_files: writes its files.

    Returns:
        The record with what was written.
    """
    if veth:
        kernel.links.plug(box.key, veth)
    if box.origin is not Origin.HOST:
        kernel.namespaces.default_routes(box.key, routes.default)
        if not _is_new(box):  # one that we have just made has nothing of the kind, and one interface
            kernel.namespaces.source_routes(box.key, routes.by_source)
    return write_files().on(box)


def unplug(kernel: Kernel, box: Sandbox, last: Attachment, shared: Sequence[Interface], routes: Routes) -> Failures:
    """Take one link out of a sandbox that goes on living, and move its routes.

    Where its namespace is gone, as after a reboot, only the link on this side is left to take.

    Args:
        kernel: the host's.
        box: the sandbox.
        last: the attachment that ends.
        shared: addresses of the endpoint that are not the interface's own.
        routes: those that the sandbox is to have.
    """
    failures: Failures = []
    _retire(kernel, box, last, failures)
    if not _is_there(kernel, box, failures):
        return failures
    if shared:
        _past(failures, lambda: kernel.links.withdraw(box.key, shared))
    if box.origin is Origin.MADE and last.interface:
        _past(failures, lambda: kernel.namespaces.silence(box.key, last.interface))
    if box.origin is not Origin.HOST:
        _past(failures, lambda: kernel.namespaces.default_routes(box.key, routes.default))
        _past(failures, lambda: kernel.namespaces.source_routes(box.key, routes.by_source))
    return failures


def dissolve(
    kernel: Kernel,
    box: Sandbox,
    last: Attachment | None,
    shared: Sequence[Interface],
    remove_files: Callable[[], None],
) -> Failures:
    """Take the last link out of a sandbox, let its namespace go and remove its files."""
    failures: Failures = []
    down = box.origin is Origin.JOINED and not box.loopback_was_up and box.inode != 0
    if last:
        _retire(kernel, box, last, failures)
    if shared and box.origin is Origin.JOINED:
        _past(failures, lambda: kernel.links.withdraw(box.key, shared))
    if box.origin is Origin.JOINED and box.inode and _is_there(kernel, box, failures):  # rules outlive their link
        _past(failures, lambda: kernel.namespaces.source_routes(box.key, ()))
    _past(failures, lambda: kernel.namespaces.release(box.key, inode=box.inode, loopback_down=down))
    _past(failures, remove_files)
    return failures


class Remains(NamedTuple):
    """A sandbox whose end is near, with its one attachment."""

    box: Sandbox
    last: Attachment
    remove_files: Callable[[], None]


def dissolve_together(kernel: Kernel, all_: Sequence[Remains]) -> set[str]:
    """As :func:`dissolve`, of many: their links go in one request, which costs one grace period and not one each.

    Returns:
        The containers of which something is left.

    Raises:
        Error: their links cannot be deleted; nothing else was tried.
    """
    kernel.links.delete([each.last.host_link for each in all_ if each.last.host_link])
    return {each.box.container_id for each in all_ if dissolve(kernel, each.box, None, (), each.remove_files)}


def _is_new(box: Sandbox) -> bool:
    return box.origin is Origin.MADE and box.phase is Phase.CREATING


def _is_there(kernel: Kernel, box: Sandbox, failures: Failures) -> bool:
    """Whether the sandbox's namespace is still at its key; another one there is somebody else's business."""
    found: list[Namespace | None] = []
    _past(failures, lambda: found.append(kernel.namespaces.find(box.key)))
    return any(pinned is not None and pinned.inode == box.inode for pinned in found)


def _retire(kernel: Kernel, box: Sandbox, last: Attachment, failures: Failures) -> None:
    """Silence the link, to be deleted in bulk; a namespace that is not ours must be without it at once."""
    if last.host_link and box.origin is Origin.JOINED:
        _past(failures, lambda: kernel.links.delete([last.host_link]))
    elif last.host_link:
        _past(failures, lambda: kernel.links.retire([last.host_link]))


def identified(box: Sandbox, namespace: Namespace) -> Sandbox:
    """The record of a sandbox whose namespace is known now."""
    return replace(box, inode=namespace.inode, loopback_was_up=namespace.loopback_was_up)


def _past(failures: Failures, step: Callable[[], object]) -> None:
    """Run one step of a teardown; a failure is kept and the teardown goes on."""
    try:
        step()
    except Exception as failure:
        failures.append(failure)


def _report(what: str, failures: Sequence[Exception]) -> None:
    if failures:
        raise collected(f"{what} is incomplete; repeat it", failures)
