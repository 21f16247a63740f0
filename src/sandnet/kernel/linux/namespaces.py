"""Network namespaces pinned at paths: files below one directory on which a namespace is mounted.

Every user can see the directory, so nothing below it is trusted: every part of a path is opened relative to the one
before, symlinks are refused, and the mount target is a descriptor, not a name.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from sandnet.errors import Error, Kind, collected, invalid, not_found
from sandnet.kernel.linux.namespace_sockets import open_netlink, set_loopback, tcp_socket
from sandnet.kernel.namespace_protocols import KEY_TAKEN
from sandnet.kernel.netlink.routes import Route, ensure_default, ensure_groups
from sandnet.kernel.netlink.rtnetlink import get_link, link_header, list_addresses, list_links, remove_address
from sandnet.kernel.netlink.socket import Netlink, map_errors
from sandnet.kernel.netlink.source_routing import ensure_policy
from sandnet.kernel.netlink.uapi.link_numbers import LOOPBACK
from sandnet.kernel.netlink.uapi.message_numbers import RTM_SETLINK
from sandnet.kernel.source_policy import policy
from sandnet.kernel.syscalls import (
    OWN_NAMESPACE,
    NotANetworkNamespaceError,
    bind_mount,
    is_namespace,
    open_namespace,
    opened_namespace,
    restoring_namespace,
    unmount,
    unshare_network,
)
from sandnet.kernel.types import DefaultRoute, InspectedNamespace, Namespace, PreparedSandbox, SourceRoute

_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_SCANS: Final = 3
"""Checks of a file that is no namespace before it counts as another program's: it may become a namespace a moment
later."""


class LinuxNamespaces:
    """The Linux implementation of :class:`sandnet.kernel.namespace_protocols.Namespaces`.

    Args:
        sandbox_dir: absolute path of the directory that all keys are below; made (0755) when it is absent.
    """

    def __init__(self, sandbox_dir: str) -> None:
        self._root = sandbox_dir.rstrip("/")

    def make(self, key: str) -> Namespace:
        """Ensure a new namespace with ``lo`` up, pinned at ``key``. One that is pinned there already is kept."""
        with map_errors(f"make a namespace at {key}"), self._place(key, make=True) as (folder, name):
            found = _find(key, folder, name)
            if found and not found.loopback_was_up:
                set_loopback(folder, name, up=True)
            return found or _make(key, folder, name)

    def pin(self, key: str, *, path: str = "", pid: int = 0, inode: int = 0) -> Namespace:
        """Ensure that the existing namespace at ``path`` or of process ``pid`` is pinned at ``key``, ``lo`` up."""
        what = map_errors(f"pin a namespace at {key}")
        with what, self._place(key, make=True) as (folder, name), _source(path, pid) as source:
            if inode not in (0, os.fstat(source).st_ino):
                raise Error(Kind.CONFLICT, f"{path or f'process {pid}'} is in another namespace by now")
            return _pin(key, source, folder, name, set_loopback_up=bool(path or pid))

    def pin_prepared(self, key: str, prepared: PreparedSandbox) -> None:
        """Pin a prepared namespace at ``key``, where nothing may be pinned but that same one."""
        with map_errors(f"pin a namespace at {key}"), self._place(key, make=True) as (folder, name):
            found = _pinned_inode(key, folder, name)
            if found and found != prepared.inode:
                raise Error(Kind.CONFLICT, f"another namespace is pinned at {key}", code=KEY_TAKEN)
            if not found:
                _mount(f"/proc/self/fd/{prepared.namespace}", folder, name)

    def identify(self, *, path: str = "", pid: int = 0) -> Namespace:
        """Return the namespace that :meth:`pin` would pin, as it is now."""
        with map_errors("identify a namespace"), _source(path, pid) as source:
            return _described("", source)

    def inspect(self, *, path: str = "", pid: int = 0) -> InspectedNamespace:
        """See :meth:`sandnet.kernel.namespace_protocols.Namespaces.inspect`."""
        with map_errors("look into a namespace"), _source(path, pid) as source, Netlink.inside(source) as inside:
            inode = os.fstat(source).st_ino
            is_own = inode == os.stat(OWN_NAMESPACE).st_ino
            links = {} if is_own else {link.name: link.up for link in list_links(inside)}
            return InspectedNamespace(inode, is_own, links.get("lo", False), tuple(links))

    def leads_to(self, path: str, inode: int) -> bool:
        """Return whether the file at ``path`` is the network namespace with that inode number."""
        with map_errors(f"look up {path}"):
            return is_namespace(path, inode)

    def key_of(self, path: str) -> str:
        """See :meth:`sandnet.kernel.namespace_protocols.Namespaces.key_of`."""
        folder, _, name = path.rpartition("/")
        return f"{self._root}/{name}" if os.path.realpath(folder) == os.path.realpath(self._root) else path

    def find(self, key: str) -> Namespace | None:
        """Return the namespace pinned at ``key``, or ``None``; ``loopback_was_up`` is its present state."""
        with map_errors(f"look up {key}"), suppress(FileNotFoundError), self._place(key) as (folder, name):
            return _find(key, folder, name)
        return None

    def release(self, key: str, *, inode: int = 0, loopback_down: bool = False) -> None:
        """Unpin; the kernel deletes a namespace that nothing else holds. Absent: success.

        Args:
            key: where it is pinned.
            inode: leave alone what has another identity, be it a namespace or not; 0: any namespace is ours.
            loopback_down: set ``lo`` down first (a joined namespace is returned as it was). Its 127.0.0.1 is removed
                too: the kernel gives it to a ``lo`` without addresses whenever that is set up.

        Raises:
            Error: ``CONFLICT`` without an inode: something that is no namespace is at ``key``; it stays.
        """
        with map_errors(f"release {key}"), suppress(FileNotFoundError), self._place(key) as (folder, name):
            failures: list[OSError] = []
            try:
                pinned = _pinned_inode(key, folder, name)
            except Error:  # no namespace at all
                if not inode:
                    raise
                return
            if pinned and inode not in (0, pinned):
                return
            if pinned and loopback_down:
                _attempt(lambda: set_loopback(folder, name, up=False), failures)
            while _pinned_inode(key, folder, name):
                unmount(f"/proc/self/fd/{folder}/{name}")
            os.unlink(name, dir_fd=folder)
            if failures:
                raise collected(f"{key} is released, but its loopback device is still up", failures)

    def default_routes(self, key: str, routes: Sequence[DefaultRoute]) -> None:
        """Make these, at most one a family, the sandbox's only default routes of ours.

        A default route that another program put there stays, and takes precedence.

        Raises:
            Error: ``NOT_FOUND`` the namespace or an interface does not exist (never without routes); ``INVALID`` or
                ``UNAVAILABLE`` the kernel finds that a gateway is unreachable.
        """
        with map_errors(f"set the default routes of {key}"), self._inside(key) as netlink:
            if netlink:
                desired: dict[int, Route] = {route.gateway.version: _route(netlink, key, route) for route in routes}
                for version, family in _FAMILIES.items():
                    ensure_default(netlink, family, desired.get(version))
                ensure_groups(netlink, 0 if 4 in desired else _first_ethernet(netlink))
            elif routes:
                raise not_found("namespace", key)

    def source_routes(self, key: str, routes: Sequence[SourceRoute]) -> None:
        """See :meth:`sandnet.kernel.namespace_protocols.Namespaces.source_routes`.

        Raises:
            Error: ``NOT_FOUND`` the namespace does not exist (never without routes).
        """
        with map_errors(f"set the routing by source of {key}"), self._inside(key) as netlink:
            if netlink:
                indexes = {route.interface: netlink.index(route.interface) for route in routes}
                present = {name: index for name, index in indexes.items() if index}
                ensure_policy(netlink, policy(routes, present))
            elif routes:
                raise not_found("namespace", key)

    def set_link_down(self, key: str, interface: str) -> None:
        """Set a link inside down and remove its addresses; absent: success."""
        with map_errors(f"silence {interface} of {key}"), self._inside(key) as netlink:
            index = netlink.index(interface) if netlink else 0
            if netlink and index:
                netlink.call(RTM_SETLINK, link_header(index, up=False), accept=(errno.ENODEV,))
                for address in list_addresses(netlink, index):
                    remove_address(netlink, index, address)

    def tcp_socket(self, key: str, inode: int) -> socket.socket:
        """Return an unconnected IPv4 TCP socket in the namespace pinned at ``key``."""
        return tcp_socket(key, inode)

    def interfaces(self, key: str) -> Sequence[str]:
        """List the names of the links inside, ``lo`` included; empty when nothing is pinned there."""
        with map_errors(f"list the links of {key}"), self._inside(key) as netlink:
            return [link.name for link in list_links(netlink)] if netlink else []

    @contextmanager
    def opened(self, key: str) -> Iterator[int]:
        """Yield a descriptor of the namespace pinned at ``key``.

        Raises:
            FileNotFoundError: nothing is there.
            NotANetworkNamespaceError: what is there is no network namespace.
        """
        with self._place(key) as (folder, name), opened_namespace(name, dir_fd=folder) as namespace:
            yield namespace

    @contextmanager
    def _inside(self, key: str) -> Iterator[Netlink | None]:
        """Yield a socket of the namespace pinned at ``key``; ``None`` when there is none."""
        try:
            with self._place(key) as (folder, name):
                netlink = open_netlink(folder, name)
        except (FileNotFoundError, NotANetworkNamespaceError):
            yield None
            return
        with netlink:
            yield netlink

    @contextmanager
    def _place(self, key: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """Yield the directory that ``key`` is in, as a descriptor, and the file's name there.

        Raises:
            Error: ``INVALID`` not a path below the sandbox directory; ``CONFLICT`` a part is no directory.
            FileNotFoundError: a directory is missing, and ``make`` is false.
        """
        parts = _parts(self._root, key)
        folder = _open_root(self._root, make=make)
        try:
            for part in parts[:-1]:
                inner = _open_folder(folder, part, make=make)
                os.close(folder)
                folder = inner
            yield folder, parts[-1]
        finally:
            os.close(folder)


def _parts(root: str, key: str) -> list[str]:
    parts = key.removeprefix(root + "/").split("/")
    if not key.startswith(root + "/") or {"", ".", ".."}.intersection(parts) or "\0" in key:
        raise invalid(f"sandbox key {key!r} is not a path below {root}")
    return parts


def _open_root(root: str, *, make: bool) -> int:
    try:
        return os.open(root, _FOLDER)
    except FileNotFoundError:
        if not make:
            raise
    os.makedirs(root, 0o755, exist_ok=True)
    return os.open(root, _FOLDER)


def _open_folder(parent: int, name: str, *, make: bool) -> int:
    if make:
        with suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=parent)
    try:
        return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        raise Error(Kind.CONFLICT, f"{name} in the path of a sandbox is no directory") from error


def _find(key: str, folder: int, name: str) -> Namespace | None:
    with _pinned(key, folder, name) as namespace:
        return None if namespace is None else _described(key, namespace)


def _pinned_inode(key: str, folder: int, name: str) -> int:
    """Return the inode of the namespace that is mounted on the file; 0: none (see :func:`_pinned`)."""
    with _pinned(key, folder, name) as namespace:
        return 0 if namespace is None else os.fstat(namespace).st_ino


@contextmanager
def _pinned(key: str, folder: int, name: str) -> Iterator[int | None]:
    """Yield the namespace that is mounted on the file; ``None``: no file, or an empty one that a crash left behind.

    Raises:
        Error: ``CONFLICT`` anything else is there.
    """
    namespace = _open_pinned(key, folder, name)
    try:
        yield namespace
    finally:
        if namespace is not None:
            os.close(namespace)


def _open_pinned(key: str, folder: int, name: str) -> int | None:
    """Open the namespace that is mounted on the file.

    A caller without a lock may run during a join or a leave. So what the first scan found may have changed already.
    """
    for _ in range(_SCANS):
        try:
            return open_namespace(name, dir_fd=folder)
        except FileNotFoundError:
            return None
        except NotANetworkNamespaceError:
            if _is_placeholder(folder, name):
                return None
    raise Error(Kind.CONFLICT, f"{key} is there and is no network namespace", "move it away")


def _is_placeholder(folder: int, name: str) -> bool:
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return True
    empty = stat.S_ISREG(found.st_mode) and found.st_size == 0 and found.st_nlink == 1
    mounted = found.st_dev != os.fstat(folder).st_dev
    return empty and not mounted and found.st_uid == os.geteuid()


def _described(key: str, namespace: int, *, set_loopback_up: bool = False) -> Namespace:
    with Netlink.inside(namespace) as inside:
        found = Namespace(key, os.fstat(namespace).st_ino, _has_loopback_up(inside))
        if set_loopback_up and not found.loopback_was_up:
            inside.call(RTM_SETLINK, link_header(LOOPBACK, up=True))
    return found


def _has_loopback_up(inside: Netlink) -> bool:
    loopback = get_link(inside, "lo")
    return loopback is not None and loopback.up


def _pin(key: str, source: int, folder: int, name: str, *, set_loopback_up: bool) -> Namespace:
    found = _pinned_inode(key, folder, name)
    if not found:
        _mount(f"/proc/self/fd/{source}", folder, name)
    elif found != os.fstat(source).st_ino:
        raise Error(Kind.CONFLICT, f"another namespace is pinned at {key}", "release it first")
    return _described(key, source, set_loopback_up=set_loopback_up)


def _make(key: str, folder: int, name: str) -> Namespace:
    with restoring_namespace():
        unshare_network()
        inode = os.stat(OWN_NAMESPACE).st_ino
        inside = Netlink()
        with inside:
            inside.call(RTM_SETLINK, link_header(LOOPBACK, up=True))
            _mount(OWN_NAMESPACE, folder, name)
    return Namespace(key, inode, loopback_was_up=False)


def _mount(source: str, folder: int, name: str) -> None:
    """Mount a namespace on the file, which is made if needed. The target is a descriptor, so no one can swap it."""
    with suppress(FileExistsError):
        flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(name, flags, 0o444, dir_fd=folder))
    target = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        if not stat.S_ISREG(os.fstat(target).st_mode):
            raise Error(Kind.CONFLICT, f"{name} in the sandbox directory is no plain file")
        bind_mount(source, f"/proc/self/fd/{target}")
    finally:
        os.close(target)


@contextmanager
def _source(path: str, pid: int) -> Iterator[int]:
    where = path or (f"/proc/{pid}/ns/net" if pid else OWN_NAMESPACE)
    what = f"process {pid}" if pid and not path else where
    try:
        source = open_namespace(where, follow=True)
    except (FileNotFoundError, ProcessLookupError, NotADirectoryError) as error:
        raise not_found("namespace", what) from error
    except NotANetworkNamespaceError as error:
        raise invalid(f"{what} is no network namespace", code="not_a_namespace") from error
    try:
        yield source
    finally:
        os.close(source)


def _attempt(step: Callable[[], None], failures: list[OSError]) -> None:
    try:
        step()
    except OSError as failure:
        failures.append(failure)


def _route(netlink: Netlink, key: str, route: DefaultRoute) -> Route:
    index = netlink.index(route.interface)
    if not index:
        raise not_found("link", f"{route.interface} in {key}")
    return Route(route.gateway, index)


def _first_ethernet(netlink: Netlink) -> int:
    """Return the first veth of a sandbox that is up; 0: there is none."""
    ports = (link.ifindex for link in list_links(netlink) if link.kind == "veth" and link.up)
    return min(ports, default=0)
