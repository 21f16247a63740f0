"""Deletes connections that the kernel tracks, when a changed port mapping has made them wrong.

A tracked flow keeps the translation it began with. A UDP client that never pauses would go on reaching a removed
container, or no one at all, until its entry expires. Layouts and numbers: ``linux/netfilter/nfnetlink_conntrack.h`` and
``nf_conntrack_common.h``.

The kernel has one hash table for all namespaces and walks all of it for a list: 9 ms with 262,144 buckets, however few
flows there are. Its count of our own flows costs 0.01 ms, so it is requested first. Decoding is our own code, as
pyroute2's takes 0.06 ms a flow and has no ports of SCTP.

The socket is kept: to close one is slow (:class:`sandnet.kernel.netlink.shared_socket.SharedSocket`).
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable
from typing import Final

from sandnet.kernel.netlink.shared_socket import SharedSocket
from sandnet.kernel.netlink.socket import Netlink, attribute, attributes, map_errors
from sandnet.kernel.netlink.uapi.netfilter_numbers import NETLINK_NETFILTER
from sandnet.model.address import Address

_GET: Final = 0x101
_DELETE: Final = 0x102
_GET_STATS: Final = 0x105
_CTA_TUPLE_ORIG: Final = 1
_CTA_TUPLE_REPLY: Final = 2
_CTA_STATUS: Final = 3
_CTA_ID: Final = 12
_CTA_ZONE: Final = 18
_CTA_STATUS_MASK: Final = 26
_CTA_TUPLE_IP: Final = 1
_CTA_TUPLE_PROTO: Final = 2
_CTA_IP_V4_SRC: Final = 1
_CTA_IP_V6_SRC: Final = 3
_CTA_PROTO_NUM: Final = 1
_CTA_PROTO_DST_PORT: Final = 3
_CTA_STATS_GLOBAL_ENTRIES: Final = 1
_IPS_DST_NAT: Final = struct.pack("!I", 1 << 5)

_HEADER: Final = 4
"""Length of ``struct nfgenmsg``: family, version, resource (both 0)."""
_ALL_FAMILIES: Final = bytes(_HEADER)
_TRANSLATED: Final = attribute(_CTA_STATUS, _IPS_DST_NAT) + attribute(_CTA_STATUS_MASK, _IPS_DST_NAT)
"""Only flows whose destination was translated. Kernels before 5.15 ignore it and list all."""
_IDENTITY: Final = (_CTA_TUPLE_ORIG, _CTA_ZONE, _CTA_ID)
"""Attributes that identify one flow; the id excludes a new flow between the same ports."""


class _Conntrack(Netlink):
    """A ctnetlink socket of the namespace that the calling thread is in, for one thread at a time."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        self._sequence = 0

    def count(self) -> int:
        """Return the number of flows in the namespace."""
        found = attributes(self.get(_GET_STATS, _ALL_FAMILIES) or b"", _HEADER)
        return int.from_bytes(found.get(_CTA_STATS_GLOBAL_ENTRIES, b""), "big")

    def flows(self, filters: bytes) -> Iterable[bytes]:
        """List all flows of both families that pass the kernel's filters."""
        return self.dump(_GET, _ALL_FAMILIES + filters)

    def delete(self, flow: bytes) -> None:
        """Delete a flow; one that no longer exists is success."""
        parts = attributes(flow, _HEADER)
        names = b"".join(attribute(kind, parts[kind]) for kind in _IDENTITY if kind in parts)
        self.call(_DELETE, flow[:1] + bytes(_HEADER - 1) + names, accept=(errno.ENOENT,))


class Conntrack:
    """The tracked connections of the namespace that the thread of the first call is in."""

    def __init__(self) -> None:
        self._socket = SharedSocket(_Conntrack)

    def forget_flows(
        self, *, addresses: Iterable[Address] = (), bound: Iterable[tuple[int, int]] = (), live: Iterable[Address] = ()
    ) -> None:
        """See :meth:`sandnet.kernel.base.Firewall.forget_flows`.

        Raises:
            Error: ``UNAVAILABLE`` when the kernel refuses.
        """
        targets = {address.packed for address in addresses}
        ports = {(proto, struct.pack("!H", port)) for proto, port in bound}
        right = {address.packed for address in live}
        if not targets and not ports:
            return
        with map_errors("forget tracked connections"), self._socket.used() as conntrack:
            _forget(conntrack, targets, ports, right)

    def close(self) -> None:
        """Close the socket; a later call takes a new one."""
        self._socket.close()


def _forget(conntrack: _Conntrack, targets: set[bytes], ports: set[tuple[int, bytes]], right: set[bytes]) -> None:
    if not conntrack.count():
        return
    for flow in conntrack.flows(b"" if ports else _TRANSLATED):
        parts = attributes(flow, _HEADER)
        stale = _is_translated(parts) and _answering(parts) in targets
        if stale or (_was_sent_to(parts, ports) and _answering(parts) not in right):
            conntrack.delete(flow)


def _is_translated(flow: dict[int, bytes]) -> bool:
    return bool(int.from_bytes(flow.get(_CTA_STATUS, b""), "big") & int.from_bytes(_IPS_DST_NAT, "big"))


def _answering(flow: dict[int, bytes]) -> bytes | None:
    """Return the address that replies: the flow's destination, or what that was translated to."""
    source = attributes(attributes(flow.get(_CTA_TUPLE_REPLY, b"")).get(_CTA_TUPLE_IP, b""))
    return source.get(_CTA_IP_V4_SRC, source.get(_CTA_IP_V6_SRC))


def _was_sent_to(flow: dict[int, bytes], ports: set[tuple[int, bytes]]) -> bool:
    """Return whether the client sent it to one of the ports, translated or not."""
    if not ports:
        return False
    sent = attributes(attributes(flow.get(_CTA_TUPLE_ORIG, b"")).get(_CTA_TUPLE_PROTO, b""))
    return (sent.get(_CTA_PROTO_NUM, b"\0")[0], sent.get(_CTA_PROTO_DST_PORT, b"")) in ports
