"""Transports between client and daemon: a unix socket, loopback TCP, or TCP with mutual TLS.

TLS is imported where it is used: that takes as long as everything else that a command does.
"""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING, NamedTuple

from sandnet.errors import Error, Kind, invalid

if TYPE_CHECKING:
    import ssl

START_HINT = "is the daemon running? start it as root with: sandnet daemon --detach"
TLS_HINT = "if it asks for TLS, give --tls-ca, --tls-cert and --tls-key"


class Tls(NamedTuple):
    """Paths of the PEM files for mutual authentication of client and daemon."""

    ca: str
    """Certificates of the authorities that may have signed the daemon's certificate."""
    cert: str
    """The client's certificate, followed by any intermediate ones."""
    key: str

    @classmethod
    def of(cls, ca: str | None, cert: str | None, key: str | None) -> Tls | None:
        """Return the three files; ``None``: none is given.

        Raises:
            Error: ``INVALID``, some are given and others are not.
        """
        if not (ca or cert or key):
            return None
        if not (ca and cert and key):
            raise invalid("TLS needs three files", "give --tls-ca, --tls-cert and --tls-key", "tls_incomplete")
        return cls(ca, cert, key)

    def context(self) -> ssl.SSLContext:
        """Return a context for TLS 1.2 or newer; it verifies that the daemon's certificate is valid for its host name.

        Raises:
            Error: ``INVALID``, a file cannot be used.
        """
        import ssl

        try:
            context = ssl.create_default_context(cafile=self.ca)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.load_cert_chain(self.cert, self.key)
        except OSError as failure:  # ssl.SSLError is one
            files = f"{self.ca}, {self.cert}, {self.key}"
            raise invalid(f"cannot use the TLS files {files}: {failure}", code="tls_files") from failure
        return context


class Location(NamedTuple):
    """The address of a daemon: a unix socket's path, or a TCP host and port."""

    path: str = ""
    """Absolute path; empty for TCP."""
    host: str = "localhost"
    port: int = 0

    @classmethod
    def parse(cls, url: str) -> Location:
        """Parse ``unix:///path`` or ``tcp://host:port`` (an IPv6 host in brackets).

        Raises:
            Error: ``INVALID``, any other form.
        """
        scheme, separator, rest = url.partition("://")
        if separator and scheme == "unix" and rest.startswith("/"):
            return cls(path=rest)
        host, colon, port = rest.rpartition(":")
        if scheme == "tcp" and colon and host and port.isascii() and port.isdecimal() and 0 < int(port) < 65536:
            return cls(host=host.removeprefix("[").removesuffix("]"), port=int(port))
        raise invalid(
            f"invalid daemon address: {url!r}", "use unix:///path/of/socket or tcp://host:port", "invalid_url"
        )

    @property
    def authority(self) -> str:
        """The value of the header ``Host`` (RFC 9110, 7.2)."""
        if self.path:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def connect(self, timeout: float, tls: Tls | None) -> socket.socket:
        """Return a connected socket.

        Args:
            timeout: seconds that a step may take.
            tls: TLS files for TCP; not used for a unix socket.

        Raises:
            OSError: no daemon can be reached there.
            Error: ``INVALID``, a TLS file cannot be used.
        """
        if self.path:
            return _connected(self.path, timeout)
        connection = socket.create_connection((self.host, self.port), timeout)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return tls.context().wrap_socket(connection, server_hostname=self.host) if tls else connection
        except BaseException:
            connection.close()
            raise


def _connected(path: str, timeout: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection


def _start_hint(url: str) -> str:
    """Return how to start the daemon, before it what a daemon on this machine lacks."""
    if not url.startswith("unix:"):
        return START_HINT
    from sandnet.prerequisites import advice

    return "; ".join(filter(None, (advice(), START_HINT)))


def unreachable(url: str, timeout: float, error: Exception) -> Error:
    """Return the error for a failed connection to the daemon, with a hint for the user."""
    message, hint = f"cannot reach the daemon at {url}: {error}", START_HINT
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        message, hint = f"no daemon listens on {url}", _start_hint(url)
    elif isinstance(error, PermissionError):
        message, hint = (
            f"not allowed to open {url}",
            "run the command as root, or as a user of the socket's group",
        )
    elif isinstance(error, TimeoutError):
        message, hint = (
            f"the daemon at {url} did not answer within {timeout:g} s",
            "see the daemon's log for what it does",
        )
    elif _concerns_tls(error):
        message, hint = (
            f"no secure connection to the daemon at {url}: {error}",
            "each side's certificate must be valid, and signed by who stands in the other's --tls-ca",
        )
    elif isinstance(error, ConnectionResetError | BrokenPipeError):
        message = f"the daemon at {url} broke off without an answer: {error}"
        hint = "see the daemon's log; the operation may or may not have been done, and can be repeated"
        if url.startswith("tcp:"):
            hint = f"{hint}; {TLS_HINT}"
    return Error(Kind.UNAVAILABLE, message, hint, "daemon_unreachable")


def _concerns_tls(error: Exception) -> bool:
    loaded = sys.modules.get("ssl")
    return loaded is not None and isinstance(error, loaded.SSLError)
