"""Sockets that are inside a sandbox and are served from outside.

A socket belongs for good to the network namespace of the thread that made it (network_namespaces(7)). So a thread
enters, makes the socket and returns; no process has to run inside.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Interface
from typing import Final

from sandnet.errors import Error, Kind, not_found
from sandnet.kernel.netlink.rtnetlink import link_header, remove_address
from sandnet.kernel.netlink.socket import Netlink
from sandnet.kernel.netlink.uapi.link_numbers import LOOPBACK
from sandnet.kernel.netlink.uapi.message_numbers import RTM_SETLINK
from sandnet.kernel.syscalls import OWN_NAMESPACE, NotANetworkNamespaceError, in_namespace, opened_namespace
from sandnet.model.address import Address

_BACKLOG: Final = 128
_QUERY_SOCKETS_UDP: Final = 24
"""Queries that one sandbox may have in flight from inside, for each version of IP."""
_QUERY_SOCKETS_TCP: Final = 4
"""Those among them whose answers did not fit into a datagram."""
_IPV6_FREEBIND: Final = 78
"""``IPV6_FREEBIND`` (``linux/in6.h``)."""
_NO_PEER: Final = bytes(16)
"""A ``struct sockaddr`` of the family ``AF_UNSPEC``."""
_RECEIVE_BUFFER: Final = 1 << 20
"""Bytes of queries that may wait while the process is busy: a burst of some thousand."""

_libc = ctypes.CDLL(None, use_errno=True)


def open_sockets_in(key: str, inode: int, address: Address, port: int) -> tuple[socket.socket, socket.socket]:
    """Open a UDP socket and a listening TCP socket in the namespace pinned at ``key``; call it on a worker thread.

    No process inside can bind the port as well, not even root. See :func:`open_sockets`.

    Args:
        key: path at which the namespace is pinned.
        inode: the identity it must have; another namespace at that path is left alone.
        address: local address inside; unspecified ones work too.
        port: local port; 0 would give the two sockets different ones.

    Raises:
        Error: ``NOT_FOUND`` no namespace, or another one, is there; ``CONFLICT`` it is the caller's own, or the port is
            taken inside; ``UNAVAILABLE`` the kernel refuses.
    """
    with _entered(key, inode, f"listen on {address} port {port}"):
        return open_sockets(address, port)


def open_query_sockets_in(key: str, inode: int, versions: Iterable[int]) -> tuple[socket.socket, ...]:
    """Open unconnected UDP and TCP sockets in the namespace pinned at ``key``, for queries to servers from there.

    Args:
        key: path at which the namespace is pinned.
        inode: the identity it must have; another namespace at that path is left alone.
        versions: of IP, 4 and 6.

    Raises:
        Error: as :func:`open_sockets_in`.
    """
    families = [socket.AF_INET if version == 4 else socket.AF_INET6 for version in versions]
    kinds = [*[socket.SOCK_DGRAM] * _QUERY_SOCKETS_UDP, *[socket.SOCK_STREAM] * _QUERY_SOCKETS_TCP]
    with _entered(key, inode, "open sockets"), ExitStack() as undo:
        made = [undo.enter_context(_unbound(family, kind)) for family in families for kind in kinds]
        undo.pop_all()
        return tuple(made)


def disconnect(used: socket.socket) -> None:
    """Detach a UDP or TCP socket from its peer and from the local port assigned with it (connect(2)).

    Raises:
        OSError: the kernel refuses.
    """
    if _libc.connect(used.fileno(), _NO_PEER, len(_NO_PEER)) == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def tcp_socket(key: str, inode: int) -> socket.socket:
    """Return an unconnected IPv4 TCP socket in the namespace pinned at ``key``; call it on a worker thread.

    Raises:
        Error: as :func:`open_sockets_in`.
    """
    with _entered(key, inode, "open a socket"):
        return _unbound(socket.AF_INET, socket.SOCK_STREAM)


def open_netlink(folder: int, name: str) -> Netlink:
    """Return a netlink socket in the namespace that is pinned at a file.

    Args:
        folder: descriptor of its directory.
        name: the file.

    Raises:
        FileNotFoundError: nothing is there.
        NotANetworkNamespaceError: what is there is no network namespace.
    """
    with opened_namespace(name, dir_fd=folder) as namespace:
        return Netlink.inside(namespace)


def set_loopback(folder: int, name: str, *, up: bool) -> None:
    """Set ``lo`` up or down in the namespace that is pinned at a file; down: its 127.0.0.1 is removed too.

    Args:
        folder: descriptor of its directory.
        name: the file.
        up: the desired state.
    """
    with open_netlink(folder, name) as inside:
        inside.call(RTM_SETLINK, link_header(LOOPBACK, up=up))
        if not up:
            remove_address(inside, LOOPBACK, IPv4Interface("127.0.0.1/8"))


def _unbound(family: int, kind: int) -> socket.socket:
    return socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


@contextmanager
def _entered(key: str, inode: int, what: str) -> Iterator[None]:
    try:
        with opened_namespace(key) as namespace:
            found = os.fstat(namespace).st_ino
            if found != inode:
                raise not_found("namespace", f"{inode} at {key}", f"namespace {found} is there now")
            if found == os.stat(OWN_NAMESPACE).st_ino:
                raise Error(Kind.CONFLICT, f"{key} is the host's own network namespace; it is not entered")
            with in_namespace(namespace):
                yield
    except (FileNotFoundError, NotADirectoryError, NotANetworkNamespaceError) as failure:
        raise not_found("namespace", key) from failure
    except OSError as failure:
        kind = Kind.CONFLICT if failure.errno == errno.EADDRINUSE else Kind.UNAVAILABLE
        raise Error(kind, f"cannot {what} inside {key}: {failure.strerror}") from failure


def open_sockets(address: Address, port: int, *, is_assigned: bool = True) -> tuple[socket.socket, socket.socket]:
    """Open the same two sockets in the calling thread's own namespace.

    The UDP socket has neither ``SO_REUSEADDR`` nor ``SO_REUSEPORT``. With the first, every user may bind the port too
    and receives the datagrams. With the second, every program of the same user may, and root inside a sandbox is the
    same user (socket(7); ``udp_lib_lport_inuse`` in net/ipv4/udp.c). The TCP socket has ``SO_REUSEADDR``, because
    connections that are closing would keep the port for a minute. Beside a listening socket no other can be bound all
    the same.

    Args:
        address: local address.
        port: local port.
        is_assigned: whether a link must have the address; else a route may make it local (``Host.add_local_prefix``).

    Raises:
        OSError: the port is taken, or the address is not of this host.
    """
    with ExitStack() as undo:
        udp = undo.enter_context(_bound(socket.SOCK_DGRAM, address, port, is_assigned=is_assigned))
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        tcp = undo.enter_context(_bound(socket.SOCK_STREAM, address, port, is_assigned=is_assigned))
        tcp.listen(_BACKLOG)
        undo.pop_all()
        return udp, tcp


def _bound(kind: socket.SocketKind, address: Address, port: int, *, is_assigned: bool) -> socket.socket:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    made = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.version == 6 and not is_assigned:
            made.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        made.bind((str(address), port))
    except BaseException:
        made.close()
        raise
    return made
