"""Host ports, bound so that nobody else can have them.

The socket is bound without ``SO_REUSEADDR`` and never listens: whoever binds the port after us gets
EADDRINUSE, and a TCP client that no mapping catches is refused at once (socket(7), ip(7), ipv6(7)).
"""

from __future__ import annotations

import errno
import socket
import threading
from typing import Final

from sandnet.errors import Error, Kind, invalid
from sandnet.kernel.sockets import holder_of
from sandnet.model.address import Address

_TYPES: Final = {
    socket.IPPROTO_TCP: socket.SOCK_STREAM,
    socket.IPPROTO_UDP: socket.SOCK_DGRAM,
    socket.IPPROTO_SCTP: socket.SOCK_STREAM,
}
PROTOCOLS: Final = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp", socket.IPPROTO_SCTP: "sctp"}
MAX_PORT: Final = 65535

_Claim = tuple[int, Address, int]


class HeldPort:
    """See :class:`sandnet.kernel.base.Held`."""

    def __init__(self, ports: HostPorts, claim: _Claim, bound: socket.socket | None) -> None:
        self._ports = ports
        self._claim = claim
        self._socket = bound

    @property
    def port(self) -> int:
        """The host port, 1 to 65535."""
        return self._claim[2]

    def close(self) -> None:
        """Give it back; a second call does nothing."""
        if self._socket is not None:
            self._socket.close()
        self._ports.forget(self._claim)


class HostPorts:
    """Holds ports of the network namespace that the calling thread is in."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claims: set[_Claim] = set()

    def hold(self, proto: int, address: Address, port: int) -> HeldPort:
        """See :meth:`sandnet.kernel.base.Host.hold`.

        Where the kernel has no SCTP nobody else can bind an SCTP port either: it is held without a socket.
        Such a port has to be named, as there is no kernel to choose one.

        Raises:
            Error: besides, ``INVALID`` for another protocol, a port out of range, or port 0 where it cannot
                be chosen; ``UNAVAILABLE`` when the kernel refuses for a reason of its own.
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

    def forget(self, claim: _Claim) -> None:
        """The port was given back."""
        with self._lock:
            self._claims.discard(claim)

    def _claim_without_socket(self, claim: _Claim) -> HeldPort:
        if claim[2] == 0:
            raise invalid("this kernel has no SCTP to choose a port", "name the host port")
        with self._lock:
            if any(clash(claim, other) for other in self._claims):
                raise taken(claim, "by another endpoint")
            self._claims.add(claim)
        return HeldPort(self, claim, None)

    def _refusal(self, error: OSError, claim: _Claim) -> Error:
        if error.errno == errno.EADDRINUSE:
            with self._lock:
                ours = any(clash(claim, other) for other in self._claims)
            return taken(claim, "by another endpoint" if ours else holder_of(*claim))
        if error.errno == errno.EADDRNOTAVAIL:
            return not_local(claim[1])
        return Error(Kind.UNAVAILABLE, f"cannot hold {spelled(claim)}: {error.strerror}")


def check_port(proto: int, port: int) -> None:
    """Refuse what is no port.

    Raises:
        Error: ``INVALID``.
    """
    if proto not in _TYPES:
        raise invalid(f"protocol {proto} has no ports that can be held", "use tcp (6), udp (17) or sctp (132)")
    if not 0 <= port <= MAX_PORT:
        raise invalid(f"port {port} is out of range", f"use 0 to {MAX_PORT}")


def clash(one: _Claim, other: _Claim) -> bool:
    """Whether both cannot be held at once: the address is the same, or one of them is every address."""
    same = (one[0], one[1].version, one[2]) == (other[0], other[1].version, other[2])
    return same and (one[1] == other[1] or one[1].is_unspecified or other[1].is_unspecified)


def spelled(claim: _Claim) -> str:
    """``tcp port 80 on 0.0.0.0``."""
    proto, address, port = claim
    return f"{PROTOCOLS[proto]} port {port or '(any)'} on {address}"


def taken(claim: _Claim, holder: str) -> Error:
    """``CONFLICT``: somebody has the port."""
    message = f"{spelled(claim)} is held {holder}"
    return Error(Kind.CONFLICT, message, "choose another host port, or end its holder", "port_taken")


def not_local(address: Address) -> Error:
    """``CONFLICT``: the host has no such address."""
    message = f"{address} is not an address of this host"
    return Error(Kind.CONFLICT, message, "bind to one of the host's addresses, or to all", "address_not_local")


def _bound(proto: int, address: Address, port: int) -> socket.socket | None:
    """A bound socket; ``None`` where the kernel has no such sockets at all."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        held = socket.socket(family, _TYPES[proto], proto)
    except OSError as error:
        if proto == socket.IPPROTO_SCTP and error.errno == errno.EPROTONOSUPPORT:
            return None
        raise
    try:
        if family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if proto == socket.IPPROTO_UDP:  # nobody reads it: the kernel need keep nothing
            held.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
        held.bind((str(address), port))
    except OSError:
        held.close()
        raise
    return held
