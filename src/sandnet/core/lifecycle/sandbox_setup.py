"""The changes that a join and a leave make to the kernel and the files: one job each for a worker thread.

A switch to a worker and back costs about a tenth of a millisecond, so the steps share one job.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from msgspec.structs import replace

from sandnet.core.lifecycle.default_routes import Routes
from sandnet.core.names.host_file_types import Digests
from sandnet.errors import collected, invalid
from sandnet.firewall.base import Step
from sandnet.kernel.base import Kernel
from sandnet.kernel.types import (
    NO_LIMITS,
    DefaultRoute,
    InspectedNamespace,
    MovedLink,
    Namespace,
    PreparedSandbox,
    Veth,
)
from sandnet.model import Attachment, Interface, Origin, Phase, Sandbox
from sandnet.model.supplied_link import supplied_alias
from sandnet.model.tap import inner_tap_name

Failures = list[Exception]
"""The failures of a teardown, which continues past them."""


def set_up_prepared(
    kernel: Kernel,
    sandbox: Sandbox,
    prepared: PreparedSandbox,
    veth: Veth | None,
    routes: Sequence[DefaultRoute],
    write_files: Callable[[], Digests],
    step: Step,
) -> Sandbox:
    """Make a prepared namespace the one of a new sandbox, with its link, routes and files.

    Args:
        kernel: the host's.
        sandbox: the sandbox; its record has the inode of ``prepared``.
        prepared: the namespace, with its unplugged link.
        veth: the link; ``None``: the prepared one stays unplugged.
        routes: the default routes.
        write_files: writes its files.
        step: the driver's part; it comes before the port can send.

    Returns:
        The record with the digests of the files.

    Raises:
        Error: ``CONFLICT`` with code ``KEY_TAKEN``: another namespace is pinned at its key; nothing was changed.
    """
    kernel.namespaces.pin_prepared(sandbox.key, prepared)
    step()
    if veth and not kernel.links.plug_prepared(sandbox.key, prepared, veth, routes):
        kernel.links.plug(sandbox.key, veth, is_new=True)
        kernel.namespaces.default_routes(sandbox.key, routes)
    if veth:
        _limit(kernel, veth, is_new=True)
        _configure(kernel, sandbox, veth)
    return write_files().on(sandbox)


def set_up(
    kernel: Kernel,
    sandbox: Sandbox,
    link: Veth | MovedLink | None,
    routes: Routes,
    write_files: Callable[[], Digests],
    step: Step,
    *,
    is_new: bool,
) -> Sandbox:
    """Bring a sandbox's interface, routes and files into line with the records.

    A new sandbox that was not prepared gets its namespace here: a new one, or the host's.

    Args:
        kernel: the host's.
        sandbox: the sandbox.
        link: the link to plug, or to move; ``None`` for drivers without one.
        routes: the desired routes.
        write_files: writes its files.
        step: the driver's part; it comes before the port can send.
        is_new: whether the link is being made.

    Returns:
        The record with the digests of the files, and with the identity of its namespace.
    """
    step()
    if sandbox.phase is Phase.CREATING and sandbox.origin is not Origin.JOINED:
        made = sandbox.origin is Origin.MADE
        pinned = kernel.namespaces.make(sandbox.key) if made else kernel.namespaces.pin(sandbox.key)
        sandbox = identified(sandbox, pinned)
    if isinstance(link, MovedLink):
        kernel.supplied_links.place(sandbox.key, link)
    elif link:
        kernel.links.plug(sandbox.key, link, is_new=is_new)
        _limit(kernel, link, is_new=is_new)
        _configure(kernel, sandbox, link)
    if sandbox.origin is not Origin.HOST:
        kernel.namespaces.default_routes(sandbox.key, routes.default)
        if not _is_new(sandbox):  # a new namespace has no source routes, and one interface only
            kernel.namespaces.source_routes(sandbox.key, routes.by_source)
    return write_files().on(sandbox)


def is_free(kernel: Kernel, key: str) -> Literal[True] | None:
    """Return whether nothing is pinned at a key; ``None``: another program's namespace is."""
    return True if kernel.namespaces.find(key) is None else None


def inspect_joined(kernel: Kernel, key: str, *, path: str, pid: int) -> InspectedNamespace | None:
    """Return the existing namespace that a container is to have as its sandbox; nothing is changed.

    Args:
        kernel: the host's.
        key: where it is to be pinned. If another namespace is, ``None`` is returned.
        path: a file that is the namespace.
        pid: a process in it, where there is no path.

    Raises:
        Error: ``INVALID`` with code ``host_namespace``; otherwise as :meth:`Namespaces.inspect`.
    """
    if not is_free(kernel, key):
        return None
    found = kernel.namespaces.inspect(path=path, pid=pid)
    if found.is_own:
        message = "that is the host's own network namespace"
        raise invalid(message, "join the network of type host for that", "host_namespace")
    return found


def set_up_external(kernel: Kernel, sandbox: Sandbox, veth: Veth | None, step: Step, *, make: bool) -> Sandbox:
    """Bring the host's end of a link into line with the records; the rest is a container engine's, or a guest's.

    Args:
        kernel: the host's.
        sandbox: the sandbox, of origin ``EXTERNAL`` or ``GUEST``.
        veth: the link; ``None`` for drivers without one.
        step: the driver's part; it comes before the port can send.
        make: whether to create an absent pair; else that is an error, as the engine would not take a second one. An
            absent tap is always created.

    Raises:
        Error: ``NOT_FOUND``: there is no such link, and ``make`` is false.
    """
    step()
    if veth and veth.tap:
        kernel.links.plug_tap(veth)
    elif veth:
        kernel.links.plug_outside(veth, make=make)
    if veth:
        _limit(kernel, veth, is_new=make)
    return sandbox


def detach_link(
    kernel: Kernel, sandbox: Sandbox, last: Attachment, shared: Sequence[Interface], routes: Routes
) -> Failures:
    """Remove one link from a sandbox that remains, and move its routes.

    If its namespace no longer exists, as after a reboot, only the link on the host is left to remove.

    Args:
        kernel: the host's.
        sandbox: the sandbox.
        last: the attachment that ends.
        shared: addresses of the endpoint that are not the interface's own.
        routes: the routes that the sandbox is to have.
    """
    failures: Failures = []
    _retire(kernel, sandbox, last, failures)
    if sandbox.is_outside:
        return failures
    if not _exists(kernel, sandbox, failures):
        return failures
    _remove_tap(kernel, sandbox, last, failures)
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
    """Remove the last link from a sandbox, release its namespace and remove its files."""
    failures: Failures = []
    down = sandbox.origin is Origin.JOINED and not sandbox.loopback_was_up and sandbox.inode != 0
    if last:
        _retire(kernel, sandbox, last, failures)
    if sandbox.is_outside:
        return failures
    if last and last.tap and sandbox.origin is Origin.JOINED and _exists(kernel, sandbox, failures):
        _remove_tap(kernel, sandbox, last, failures)  # any other goes with its namespace, without a wait for that
    if shared and sandbox.origin is Origin.JOINED:
        attempt(failures, lambda: kernel.links.remove_service_addresses(sandbox.key, shared))
    if (
        sandbox.origin is Origin.JOINED and sandbox.inode and _exists(kernel, sandbox, failures)
    ):  # rules outlive their link
        attempt(failures, lambda: kernel.namespaces.source_routes(sandbox.key, ()))
    attempt(failures, lambda: kernel.namespaces.release(sandbox.key, inode=sandbox.inode, loopback_down=down))
    attempt(failures, remove_files)
    return failures


class Teardown(NamedTuple):
    """A sandbox to be torn down, with its only attachment."""

    sandbox: Sandbox
    last: Attachment
    remove_files: Callable[[], None]


def tear_down_all(kernel: Kernel, all_: Sequence[Teardown]) -> set[str]:
    """Tear down many sandboxes as :func:`tear_down` does, with one request that deletes their links.

    So there is one grace period in all, and not one for each.

    Returns:
        The containers of the sandboxes that are not completely removed.

    Raises:
        Error: their links cannot be deleted; nothing else was tried.
    """
    kernel.links.delete([each.last.host_link for each in all_ if each.last.host_link])
    for each in all_:
        if each.sandbox.origin is Origin.JOINED:  # the namespace may go on, with the tap
            _remove_tap(kernel, each.sandbox, each.last, [])
    return {each.sandbox.container_id for each in all_ if tear_down(kernel, each.sandbox, None, (), each.remove_files)}


def _configure(kernel: Kernel, sandbox: Sandbox, veth: Veth) -> None:
    if veth.routes or veth.parameters:
        kernel.interface_settings.ensure(sandbox.key, veth)
    if veth.inner_tap:
        kernel.interface_settings.ensure_tap(sandbox.key, veth, veth.inner_tap)


def _limit(kernel: Kernel, veth: Veth, *, is_new: bool) -> None:
    """Limit the traffic of a link. A new one without limits has none, and costs nothing."""
    if veth.limits != NO_LIMITS or not is_new:
        kernel.limits.ensure(veth.host_link, veth.limits)


def _is_new(sandbox: Sandbox) -> bool:
    return sandbox.origin is Origin.MADE and sandbox.phase is Phase.CREATING


def _exists(kernel: Kernel, sandbox: Sandbox, failures: Failures) -> bool:
    """Return whether the sandbox's namespace is still pinned at its key; another one there is left alone."""
    found: list[Namespace | None] = []
    attempt(failures, lambda: found.append(kernel.namespaces.find(sandbox.key)))
    return any(pinned is not None and pinned.inode == sandbox.inode for pinned in found)


def _retire(kernel: Kernel, sandbox: Sandbox, last: Attachment, failures: Failures) -> None:
    """Take the link out of service, to be deleted in bulk.

    From a namespace that the daemon did not make, it is deleted at once. One that a plugin supplied is given back.
    """
    if last.supplied:
        source, alias = last.supplied.source, supplied_alias(last.endpoint_id)
        attempt(failures, lambda: kernel.supplied_links.withdraw(sandbox.key, source, alias))
    if last.host_link and sandbox.origin is Origin.JOINED:
        attempt(failures, lambda: kernel.links.delete([last.host_link]))
    elif last.host_link:
        attempt(failures, lambda: kernel.links.retire([last.host_link]))


def _remove_tap(kernel: Kernel, sandbox: Sandbox, last: Attachment, failures: Failures) -> None:
    """Delete the tap inside of a link that is removed, whether an emulator has it open or not."""
    if last.tap and last.tap.inside:
        name = inner_tap_name(last.interface)
        attempt(failures, lambda: kernel.interface_settings.remove_tap(sandbox.key, name))


def identified(sandbox: Sandbox, namespace: Namespace) -> Sandbox:
    """Return the record of a sandbox whose namespace is known now."""
    return replace(sandbox, inode=namespace.inode, loopback_was_up=namespace.loopback_was_up)


def attempt(failures: Failures, step: Callable[[], object]) -> None:
    """Run one step of a teardown; record a failure and continue."""
    try:
        step()
    except Exception as failure:
        failures.append(failure)


def raise_incomplete(what: str, failures: Sequence[Exception]) -> None:
    """Raise one error of all failures, if there are any."""
    if failures:
        raise collected(f"{what} is incomplete; repeat it", failures)
