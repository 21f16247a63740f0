"""Container networking without a container engine.

:func:`connect` is the library for Python programs. Nothing is loaded before its first use, as each command of the
command line imports this package.
"""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers take it as true; the module typing takes longer than the whole CNI plugin

if TYPE_CHECKING:
    from sandnet.errors import Error as Error
    from sandnet.library.connection import Connector

__all__ = ["Error", "connect"]


def connect(
    url: str | None = None,
    *,
    timeout: float | None = None,
    tls: tuple[str, str, str] | None = None,
) -> Connector:
    """Return a connection to a daemon: a context manager, for ``with`` and for ``async with``.

    Args:
        url: ``unix:///path`` or ``tcp://host:port``; ``None``: the value of ``SANDNET_HOST``, else the default socket.
        timeout: seconds that a step of a request may take; ``None``: 60.
        tls: paths of the PEM files of the authority, the own certificate and its key, for TCP.

    Raises:
        Error: ``INVALID``, the URL is malformed.
    """
    from sandnet.library.connection import Connector

    return Connector(url, timeout, tls)


def __getattr__(name: str) -> object:
    if name == "Error":
        from sandnet.errors import Error

        return Error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
