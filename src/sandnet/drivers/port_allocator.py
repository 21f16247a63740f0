"""Allocation of host ports: choice, reservation by a bound socket, release."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from threading import Lock

from sandnet.errors import Error, Kind, collected, invalid
from sandnet.kernel.base import HeldPort, Host
from sandnet.model import Address, BoundPort, Network, PortMapping
from sandnet.model.ports import ANY4, ANY6, PROTOCOL_NAMES, DirectPort

_Key = tuple[int, Address, int]


class _SharedPort:
    """A port that the container runtime binds. The daemon has no socket for it."""

    def __init__(self, port: int) -> None:
        self.port = port

    def close(self) -> None:
        """Do nothing."""


class PortAllocator:
    """The host ports of all bridge networks. Synchronous: called on worker threads."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._held: dict[_Key, HeldPort] = {}
        self._addresses: set[Address] = set()
        """The addresses of all ports so far: a few of the host's own. Only these are searched for a conflict."""
        self._next = 0
        self._lock = Lock()

    def bind(self, net: Network, mappings: Sequence[PortMapping]) -> tuple[BoundPort, ...]:
        """Bind a host port for every mapping, in every family that the network has; all or none.

        Raises:
            Error: ``INVALID``, ``CONFLICT`` (a port is taken, an address is not the host's) or ``EXHAUSTED``.
        """
        bound: list[BoundPort] = []
        with self._lock:
            try:
                for mapping in mappings:
                    bound += self._bind_one(mapping, _addresses(net, mapping))
            except BaseException:
                self._release(bound)
                raise
        return tuple(bound)

    def rebind(self, ports: Sequence[BoundPort]) -> None:
        """Bind these ports again; skip those that are bound, and continue after those that are taken.

        Raises:
            Error: kind ``INTERNAL`` naming all that could not be bound.
        """
        failures: list[Exception] = []
        with self._lock:
            for port in ports:
                if (port.proto, port.host_ip, port.host_port) in self._held:
                    continue
                try:
                    self._hold(port.proto, port.host_ip, port.host_port, check=not port.shared, shared=port.shared)
                except Error as failure:
                    failures.append(failure)
        if failures:
            raise collected("host ports are published but not held", failures)

    def unbind(self, ports: Sequence[BoundPort]) -> None:
        """Release the ports; those not bound are success. It does not block, so the event loop may call it."""
        self._release(ports)

    def _release(self, ports: Sequence[BoundPort]) -> None:
        """Release ports without the lock: ``pop`` is atomic, so each socket is closed by the call that removes it."""
        for port in ports:
            held = self._held.pop((port.proto, port.host_ip, port.host_port), None)
            if held:
                held.close()

    def _bind_one(self, mapping: PortMapping, addresses: Sequence[Address]) -> list[BoundPort]:
        if not addresses:
            return []
        first, last = _range(mapping, self._host.local_port_range)
        for candidate in self._candidates(mapping, first, last):
            try:
                return self._bind_all(mapping, addresses, candidate)
            except Error as failure:
                if failure.code != "port_taken" or first == last:
                    raise
        message = f"no host port between {first} and {last} is free for {PROTOCOL_NAMES[mapping.proto]}/{mapping.port}"
        hint = "ask for a wider range, or unpublish a port; those in net.ipv4.ip_local_reserved_ports must be named"
        raise Error(Kind.EXHAUSTED, message, hint, "ports_exhausted")

    def _candidates(self, mapping: PortMapping, first: int, last: int) -> Iterable[int]:
        """Return ports in the order in which they are tried.

        A port that the operator reserved must be requested by number.
        """
        if first == last and mapping.host_port:
            return (first,)
        start = self._next if not mapping.host_port and first <= self._next <= last else first
        reserved = self._host.reserved_ports()
        return (port for port in chain(range(start, last + 1), range(first, start)) if port not in reserved)

    def _bind_all(self, mapping: PortMapping, addresses: Sequence[Address], port: int) -> list[BoundPort]:
        bound: list[BoundPort] = []
        try:
            for address in addresses:
                self._hold(mapping.proto, address, port, check=not mapping.held, shared=mapping.shared)
                bound.append(
                    BoundPort(
                        proto=mapping.proto,
                        port=mapping.port,
                        host_ip=address,
                        host_port=port,
                        shared=mapping.shared,
                    )
                )
        except BaseException:
            self._release(bound)
            raise
        if not mapping.host_port:
            self._next = port + 1
        return bound

    def _hold(self, proto: int, address: Address, port: int, *, check: bool = True, shared: bool = False) -> None:
        """Bind a port; one that is shared is bound for a moment, to find out whether it is free.

        Args:
            proto: the protocol.
            address: the host's address.
            port: the port.
            check: whether to bind it at all: a shared port that is in use already is bound by its runtime.
            shared: whether the container's runtime binds it.
        """
        key = (proto, address, port)
        if key in self._held:
            raise _taken(proto, address, port)
        self._refuse_own(key)
        held = self._host.hold(proto, address, port) if check else None
        if held and shared:
            held.close()
        self._held[key] = _SharedPort(port) if shared or held is None else held
        self._addresses.add(address)

    def _refuse_own(self, key: _Key) -> None:
        """Refuse a port that conflicts with one of ours: for a protocol without sockets the kernel cannot refuse it."""
        proto, address, port = key
        if address.is_unspecified:
            others = [other for other in self._addresses if other.version == address.version]
            clash = any((proto, other, port) in self._held for other in others)
        else:
            clash = (proto, ANY4 if address.version == 4 else ANY6, port) in self._held
        if clash:
            raise _taken(proto, address, port)


def direct_ports(net: Network, mappings: Iterable[PortMapping]) -> tuple[DirectPort, ...]:
    """Return the ports that are open at an endpoint's own addresses, in the families in which the network is routed.

    A mapping for an address of the host counts in the family of that address; its host port has no meaning.
    """
    versions = [version for version in (4, 6) if net.is_routed(version) and (version == 4 or net.ipv6)]
    found = (
        DirectPort(version=version, proto=mapping.proto, port=mapping.port)
        for mapping in mappings
        for version in versions
        if (requested := mapping.host_ip or net.options.binding_address) is None or requested.version == version
    )
    return tuple(dict.fromkeys(found))


def _addresses(net: Network, mapping: PortMapping) -> list[Address]:
    """Return the host addresses to bind: the requested one, else every address of each family that the network has.

    In a family that is routed, none is bound (:func:`direct_ports`).
    """
    requested = mapping.host_ip or net.options.binding_address
    if requested is None:
        found: list[Address] = [ANY4, ANY6] if net.ipv6 else [ANY4]
        return [address for address in found if not net.is_routed(address.version)]
    if requested.version == 6 and not net.ipv6:
        message = f"network {net.name} has no IPv6, so nothing can be published at {requested}"
        raise invalid(message, "create the network with ipv6, or bind an IPv4 address", "no_such_family")
    return [] if net.is_routed(requested.version) else [requested]


def _range(mapping: PortMapping, local: Callable[[], tuple[int, int]]) -> tuple[int, int]:
    if mapping.host_port:
        return mapping.host_port, mapping.host_port_end or mapping.host_port
    return local()


def _taken(proto: int, address: Address, port: int) -> Error:
    message = f"host port {address}:{port}/{PROTOCOL_NAMES[proto]} is already published"
    return Error(Kind.CONFLICT, message, "choose another host port, or 0 for a free one", "port_taken")
