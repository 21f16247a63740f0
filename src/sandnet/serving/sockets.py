"""The daemon's listening sockets, and its notifications to the service manager."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from sandnet.errors import Error, Kind, invalid
from sandnet.model.address import Address
from sandnet.serving.tls import Certificates
from sandnet.serving.unix_socket import open_unix

FIRST_PASSED = 3
"""File descriptor of the first socket that socket activation passes (sd_listen_fds(3))."""
BACKLOG = 1024
PLUGIN_NAME = "plugin"
"""Name of a passed socket that is for container engines (``FileDescriptorName=``, systemd.socket(5))."""


class ListeningSocket(NamedTuple):
    """A listening socket."""

    url: str
    socket: socket.socket
    ours: bool
    """Whether sandnet made it; else the service manager did, and its file must not be removed."""
    tls: Certificates | None = None
    plugin: bool = False
    """Whether container engines use it, by the plugin protocol."""

    @property
    def is_tcp(self) -> bool:
        """Whether it can be reached without a permission on a file."""
        return self.url.startswith("tcp:")


def check(urls: Sequence[str], tls: Certificates | None) -> None:
    """Check before any change whether these URLs can be served at all.

    Raises:
        Error: ``INVALID``.
    """
    for url in urls:
        parts = _split(url)
        if parts.scheme == "tcp":
            _check_tcp(url, parts.hostname or "", tls)


def listen(urls: Sequence[str], tls: Certificates | None = None, plugin: str = "") -> list[ListeningSocket]:
    """Return a listening socket for each URL; those that the service manager passed replace the ``unix://`` ones.

    Args:
        urls: ``unix:///path`` or ``tcp://address:port``.
        tls: certificates for every TCP socket; ``None``: only loopback addresses are served.
        plugin: path of the socket for container engines; empty: none, unless one was passed.

    Raises:
        Error: ``INVALID`` for a URL that cannot be served, ``CONFLICT`` when it is in use.
    """
    passed = [_checked(each, tls) for each in _passed()]
    has_rest, has_plugin = (any(each.plugin is is_so for each in passed) for is_so in (False, True))
    own = [url for url in urls if not (has_rest and url.startswith("unix://"))]
    opened = [_open(url, tls) for url in own]
    if plugin and not has_plugin:
        opened.append(_open(f"unix://{plugin}", None)._replace(plugin=True))
    return passed + opened


def unlink(urls: Sequence[str]) -> None:
    """Remove the socket files of ``unix://`` URLs; absent ones are success."""
    for url in urls:
        if url.startswith("unix://"):
            Path(url.removeprefix("unix://")).unlink(missing_ok=True)


def notify(state: str) -> None:
    """Notify the service manager, if there is one (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.connect("\0" + address[1:] if address.startswith("@") else address)
        out.sendall(state.encode())


def _passed() -> list[ListeningSocket]:
    if os.environ.pop("LISTEN_PID", "") != str(os.getpid()):
        return []
    count = int(os.environ.pop("LISTEN_FDS", "0"))
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    sockets = [socket.socket(fileno=fd) for fd in range(FIRST_PASSED, FIRST_PASSED + count)]
    for each in sockets:
        each.setblocking(False)
        os.set_inheritable(each.fileno(), False)
    return [
        ListeningSocket(_url_of(each), each, ours=False, plugin=name == PLUGIN_NAME)
        for each, name in zip_longest(sockets, names[:count], fillvalue="")
        if isinstance(each, socket.socket) and isinstance(name, str)
    ]


def _url_of(listener: socket.socket) -> str:
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix://{name}"
    return f"tcp://[{name[0]}]:{name[1]}" if ":" in name[0] else f"tcp://{name[0]}:{name[1]}"


def _checked(listener: ListeningSocket, tls: Certificates | None) -> ListeningSocket:
    """Check a passed socket like one that the daemon opens itself."""
    if not listener.is_tcp:
        return listener
    _check_tcp(listener.url, str(listener.socket.getsockname()[0]), tls)
    return listener._replace(tls=tls)


def _split(url: str) -> SplitResult:
    with suppress(ValueError):  # a port above 65535, or an unpaired bracket
        parts = urlsplit(url)
        if parts.scheme == "unix" and parts.path.startswith("/") and not parts.netloc:
            return parts
        if parts.scheme == "tcp" and parts.hostname and parts.port and not parts.path:
            return parts
    raise invalid(f"cannot listen on {url!r}", "use unix:///path or tcp://127.0.0.1:PORT", "invalid_url")


def _open(url: str, tls: Certificates | None) -> ListeningSocket:
    parts = _split(url)
    if parts.scheme == "unix":
        return ListeningSocket(url, open_unix(parts.path, BACKLOG), ours=True)
    version = _check_tcp(url, parts.hostname or "", tls)
    return ListeningSocket(url, _open_tcp(url, (parts.hostname or "", parts.port or 0), version), ours=True, tls=tls)


def _check_tcp(url: str, host: str, tls: Certificates | None) -> int:
    """Return the address's IP version, if the URL may be served."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise invalid(f"cannot listen on {url!r}: {host} is no address", "use tcp://127.0.0.1:PORT") from None
    if not (_is_loopback(address) or tls):
        hint = "use tcp://127.0.0.1:PORT or a unix socket, or give --tls-cert, --tls-key and --tls-ca"
        reason = "a client of the API is root here, so beyond loopback both sides must show certificates"
        raise invalid(f"refusing to listen on {url} without TLS: {reason}", hint, "not_loopback")
    return address.version


def _is_loopback(address: Address) -> bool:
    """Return whether only this host reaches the address; false for ::ffff:127.0.0.1: no IPv6 socket binds it."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address.is_loopback and not mapped  # Python returns true for mapped ones from 3.13 on


def _open_tcp(url: str, place: tuple[str, int], version: int) -> socket.socket:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    try:
        listener = socket.create_server(place, family=family, backlog=BACKLOG)
    except OSError as failure:
        raise Error(Kind.CONFLICT, f"cannot listen on {url}: {failure.strerror}", code="socket_taken") from failure
    listener.setblocking(False)
    return listener
