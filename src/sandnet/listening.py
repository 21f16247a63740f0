"""Sockets the daemon serves on, and its word to the service manager."""

from __future__ import annotations

import grp
import ipaddress
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from sandnet.errors import Error, Kind, invalid

SOCKET_MODE = 0o660
GROUP = "sandnet"
"""Whoever is in this group may use the socket, where the group exists."""
FIRST_PASSED = 3
"""File descriptor of the first socket that socket activation passes (sd_listen_fds(3))."""
BACKLOG = 1024


class Listener(NamedTuple):
    """A socket to serve on."""

    url: str
    socket: socket.socket
    ours: bool
    """We made it; else the service manager did, and its file is not ours to remove."""


def listen(urls: Sequence[str]) -> list[Listener]:
    """A listening socket for each URL; those that the service manager passed take the place of ``unix://`` ones.

    Raises:
        Error: ``INVALID`` for a URL that cannot be served, ``CONFLICT`` when it is in use.
    """
    passed = _passed()
    wanted = [url for url in urls if not (passed and url.startswith("unix://"))]
    return passed + [Listener(url, _open(url), ours=True) for url in wanted]


def unlink(urls: Sequence[str]) -> None:
    """Remove the socket files of ``unix://`` URLs; absent ones are success."""
    for url in urls:
        if url.startswith("unix://"):
            Path(url.removeprefix("unix://")).unlink(missing_ok=True)


def notify(state: str) -> None:
    """Tell the service manager, if there is one (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.connect("\0" + address[1:] if address.startswith("@") else address)
        out.sendall(state.encode())


def _passed() -> list[Listener]:
    if os.environ.pop("LISTEN_PID", "") != str(os.getpid()):
        return []
    count = int(os.environ.pop("LISTEN_FDS", "0"))
    sockets = [socket.socket(fileno=fd) for fd in range(FIRST_PASSED, FIRST_PASSED + count)]
    for each in sockets:
        each.setblocking(False)
        os.set_inheritable(each.fileno(), False)
    return [Listener(_url_of(each), each, ours=False) for each in sockets]


def _url_of(listener: socket.socket) -> str:
    name = listener.getsockname()
    return f"unix://{name}" if listener.family == socket.AF_UNIX else f"tcp://{name[0]}:{name[1]}"


def _open(url: str) -> socket.socket:
    parts = urlsplit(url)
    if parts.scheme == "unix" and parts.path.startswith("/") and not parts.netloc:
        return _open_unix(parts.path)
    if parts.scheme == "tcp" and parts.hostname and parts.port and not parts.path:
        return _open_tcp(url, parts.hostname, parts.port)
    raise invalid(f"cannot listen on {url!r}", "use unix:///path or tcp://127.0.0.1:PORT", "invalid_url")


def _open_unix(path: str) -> socket.socket:
    Path(path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777 & ~SOCKET_MODE)  # never a moment in which others may connect
    try:
        listener.bind(path)
    except OSError as failure:
        listener.close()
        raise Error(Kind.CONFLICT, f"cannot listen on {path}: {failure.strerror}", code="socket_taken") from failure
    finally:
        os.umask(before)
    with suppress(KeyError, OSError):
        os.chown(path, -1, grp.getgrnam(GROUP).gr_gid)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def _remove_stale(path: str) -> None:
    """A socket nobody answers on was left by a daemon that was killed."""
    if not os.path.lexists(path):
        return
    if not Path(path).is_socket():
        raise Error(Kind.CONFLICT, f"{path} exists and is no socket", "name another path", "socket_taken")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise Error(Kind.CONFLICT, f"another process serves {path}", "stop it, or listen elsewhere with -H", "socket_taken")


def _open_tcp(url: str, host: str, port: int) -> socket.socket:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise invalid(f"cannot listen on {url!r}: {host} is no address", "use tcp://127.0.0.1:PORT") from None
    if not address.is_loopback:
        hint = "use tcp://127.0.0.1:PORT, or a unix socket: whoever reaches the API is root here"
        raise invalid(
            f"refusing to listen on {url}: only loopback addresses are served without TLS", hint, "not_loopback"
        )
    try:
        listener = socket.create_server((host, port), family=_family(address.version), backlog=BACKLOG)
    except OSError as failure:
        raise Error(Kind.CONFLICT, f"cannot listen on {url}: {failure.strerror}", code="socket_taken") from failure
    listener.setblocking(False)
    return listener


def _family(version: int) -> socket.AddressFamily:
    return socket.AF_INET if version == 4 else socket.AF_INET6
