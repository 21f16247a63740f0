"""Host ports, bound so that no other process can bind them.

The socket is bound without ``SO_REUSEADDR`` and never listens. A process that binds the port later gets EADDRINUSE, and
a TCP client to which no port mapping applies is refused at once (socket(7), ip(7), ipv6(7)).
"""

from __future__ import annotations

import errno
import socket
import threading

from sandnet.errors import Error, Kind, invalid
from sandnet.kernel.linux.socket_holders import holder_of
from sandnet.kernel.validation import SOCKET_TYPES, PortClaim, check_port, conflicts, not_local, spelled, taken
from sandnet.model.address import Address


class HeldPort:
    """See :class:`sandnet.kernel.base.HeldPort`."""

    def __init__(self, ports: PortHolder, claim: PortClaim, bound: socket.socket | None) -> None:
        self._ports = ports
        self._claim = claim
        self._socket = bound

    @property
    def port(self) -> int:
        """The host port, 1 to 65535."""
        return self._claim[2]

    def close(self) -> None:
        """Release the port; a second call does nothing."""
        if self._socket is not None:
            self._socket.close()
        self._ports.forget(self._claim)


class PortHolder:
    """Binds ports in the network namespace that the calling thread is in."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claims: set[PortClaim] = set()

    def hold(self, proto: int, address: Address, port: int) -> HeldPort:
        """See :meth:`sandnet.kernel.base.Host.hold`.

        Where the kernel has no SCTP, no other process can bind an SCTP port either: it is held without a socket. Such a
        port has to be named, as there is no kernel to choose one.

        Raises:
            Error: besides, ``INVALID`` for another protocol, a port out of range, or port 0 where it cannot be chosen;
                ``UNAVAILABLE`` when the kernel refuses for a reason of its own.
        """
        check_port(proto, port)
        try:
            bound = _bound(proto, address, port)
        except OSError as error:
            raise self._refusal(error, (proto, address, port)) from error
        if bound is None:
            return self._claim_without_socket((proto, address, port))
        claim = (proto, address, int(bound.getsockname()[1]))
        with self._lock:
            self._claims.add(claim)
        return HeldPort(self, claim, bound)

    def forget(self, claim: PortClaim) -> None:
        """Remove the claim to a released port."""
        with self._lock:
            self._claims.discard(claim)

    def _claim_without_socket(self, claim: PortClaim) -> HeldPort:
        if claim[2] == 0:
            raise invalid("this kernel has no SCTP to choose a port", "name the host port")
        with self._lock:
            if any(conflicts(claim, other) for other in self._claims):
                raise taken(claim, "by another endpoint")
            self._claims.add(claim)
        return HeldPort(self, claim, None)

    def _refusal(self, error: OSError, claim: PortClaim) -> Error:
        if error.errno == errno.EADDRINUSE:
            with self._lock:
                ours = any(conflicts(claim, other) for other in self._claims)
            return taken(claim, "by another endpoint" if ours else holder_of(*claim))
        if error.errno == errno.EADDRNOTAVAIL:
            return not_local(claim[1])
        return Error(Kind.UNAVAILABLE, f"cannot hold {spelled(claim)}: {error.strerror}")


def _bound(proto: int, address: Address, port: int) -> socket.socket | None:
    """Return a bound socket; ``None`` where the kernel has no such sockets at all."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        held = socket.socket(family, SOCKET_TYPES[proto], proto)
    except OSError as error:
        if proto == socket.IPPROTO_SCTP and error.errno == errno.EPROTONOSUPPORT:
            return None
        raise
    try:
        if family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if proto == socket.IPPROTO_UDP:  # no one reads it: the kernel need keep nothing
            held.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
        held.bind((str(address), port))
    except OSError:
        held.close()
        raise
    return held
