"""The few requests of traffic control that we make: token buckets, and the redirection of what arrives.

Layouts and numbers: ``linux/pkt_sched.h``, ``linux/pkt_cls.h``, ``linux/tc_act/tc_mirred.h``, ``linux/rtnetlink.h``.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from sandnet.kernel.netlink.socket import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Netlink,
    attribute,
    attributes,
    nested,
    string,
    to_number,
    u32,
)
from sandnet.kernel.netlink.uapi.message_numbers import (
    RTM_DELQDISC,
    RTM_GETQDISC,
    RTM_GETTFILTER,
    RTM_NEWQDISC,
    RTM_NEWTFILTER,
)
from sandnet.kernel.types import Rate

_HEADER: Final = struct.Struct("=BxxxiIII")
"""``struct tcmsg``: family, index of the link, handle, parent, info."""
_TCA_KIND: Final = 1
_TCA_OPTIONS: Final = 2
_ROOT: Final = 0xFFFFFFFF
_INGRESS_PARENT: Final = 0xFFFFFFF1
_INGRESS: Final = 0xFFFF0000
_TBF: Final = b"tbf\0"
_KIND_INGRESS: Final = b"ingress\0"
_TCA_TBF_PARMS: Final = 1
_TCA_TBF_RATE64: Final = 4
_TCA_TBF_BURST: Final = 6
_TBF_PARAMETERS: Final = struct.Struct("=BBHhHI12xIII")
"""``struct tc_tbf_qopt``: the rate as ``struct tc_ratespec``, no peak rate, limit, buffer, MTU."""
_ETHERNET: Final = 1
"""``TC_LINKLAYER_ETHERNET``: without it, the kernel would need a table of transmission times."""
_ANY_PROTOCOL: Final = socket.htons(0x0003)
"""``ETH_P_ALL``."""
_PRIORITY: Final = 1
_FIRST_FILTER: Final = 0x80000800
"""Handle of the first filter of ``u32``."""
_TCA_U32_SEL: Final = 5
_TCA_U32_ACT: Final = 7
_TERMINAL: Final = 1
_MATCH_ALL: Final = struct.pack("=BBBxHHhhIIIii", _TERMINAL, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)
"""``struct tc_u32_sel`` with one key, which compares no bit."""
_TCA_ACT_KIND: Final = 1
_TCA_ACT_OPTIONS: Final = 2
_TCA_MIRRED_PARMS: Final = 2
_MIRRED: Final = struct.Struct("=IIiiiiI")
"""``struct tc_mirred``: ``tc_gen`` (index, capabilities, action, two counts), kind of action, index of the link."""
_STOLEN: Final = 4
_EGRESS_REDIRECT: Final = 1
_QUEUE_SECONDS: Final = 0.05
"""What may wait for the bucket: TCP reaches the rate, and no packet waits longer."""
_LEAST_QUEUE: Final = 1 << 15
"""Bytes: some 20 full frames, so that several slow flows can share the rate."""
_MOST_QUEUE: Final = 1 << 30


class Qdisc(NamedTuple):
    """A queueing discipline of ours: what a link sends is limited, or what it receives is filtered."""

    ifindex: int
    rate: Rate | None
    """``None``: it is the one for what arrives (``ingress``)."""


def index_of_traffic_control(body: bytes) -> int:
    """Return the index of the link that a message of traffic control is about."""
    return int(_HEADER.unpack_from(body)[1])


def limit_sending(netlink: Netlink, index: int, rate: Rate) -> None:
    """Limit what a link sends. A bucket that it has gets the new rate, and loses no packet."""
    numbers = rate.rate if rate.rate < 1 << 32 else (1 << 32) - 1
    limit = _queue(rate.rate) + rate.burst
    parameters = _TBF_PARAMETERS.pack(0, _ETHERNET, 0, 0, 0, numbers, limit, 0, 0)
    large = attribute(_TCA_TBF_RATE64, struct.pack("=Q", rate.rate)) if rate.rate >= 1 << 32 else b""
    options = nested(_TCA_OPTIONS, attribute(_TCA_TBF_PARMS, parameters), large, u32(_TCA_TBF_BURST, rate.burst))
    body = _HEADER.pack(0, index, 0, _ROOT, 0) + attribute(_TCA_KIND, _TBF) + options
    netlink.call(RTM_NEWQDISC, body, NLM_F_CREATE | NLM_F_REPLACE)


def stop_limiting(netlink: Netlink, index: int) -> None:
    """Remove the limit of what a link sends; an absent one is success."""
    body = _HEADER.pack(0, index, 0, _ROOT, 0) + attribute(_TCA_KIND, _TBF)
    netlink.call(RTM_DELQDISC, body, accept=(errno.ENOENT, errno.EINVAL, errno.ENODEV))


def redirect_received(netlink: Netlink, index: int, target: int) -> None:
    """Have another link send what a link receives, before anything else sees it.

    It then arrives on its own link again. All other filters of what arrives are removed.
    """
    stop_redirecting(netlink, index)
    body = _HEADER.pack(0, index, _INGRESS, _INGRESS_PARENT, 0) + attribute(_TCA_KIND, _KIND_INGRESS)
    netlink.call(RTM_NEWQDISC, body, NLM_F_CREATE | NLM_F_EXCL)
    mirred = _MIRRED.pack(0, 0, _STOLEN, 0, 0, _EGRESS_REDIRECT, target)
    action = nested(1, string(_TCA_ACT_KIND, "mirred"), nested(_TCA_ACT_OPTIONS, attribute(_TCA_MIRRED_PARMS, mirred)))
    options = nested(_TCA_OPTIONS, attribute(_TCA_U32_SEL, _MATCH_ALL), nested(_TCA_U32_ACT, action))
    header = _HEADER.pack(0, index, _FIRST_FILTER, _INGRESS, _PRIORITY << 16 | _ANY_PROTOCOL)
    netlink.call(RTM_NEWTFILTER, header + string(_TCA_KIND, "u32") + options, NLM_F_CREATE | NLM_F_EXCL)


def stop_redirecting(netlink: Netlink, index: int) -> None:
    """Remove all filters of what a link receives; absent ones are success."""
    body = _HEADER.pack(0, index, _INGRESS, _INGRESS_PARENT, 0) + attribute(_TCA_KIND, _KIND_INGRESS)
    netlink.call(RTM_DELQDISC, body, accept=(errno.ENOENT, errno.EINVAL, errno.ENODEV))


def dump_qdiscs(netlink: Netlink) -> Iterator[Qdisc]:
    """Yield the queueing disciplines that may be ours, of all links."""
    for body in netlink.dump(RTM_GETQDISC, _HEADER.pack(0, 0, 0, 0, 0)):
        _family, index, _handle, parent, _info = _HEADER.unpack_from(body)
        found = attributes(body, _HEADER.size)
        kind = found.get(_TCA_KIND)
        if kind == _KIND_INGRESS:
            yield Qdisc(index, None)
        elif kind == _TBF and parent == _ROOT:
            yield Qdisc(index, _rate(attributes(found.get(_TCA_OPTIONS, b""))))


def redirected_to(netlink: Netlink, index: int) -> int:
    """Return the link that sends what a link receives; 0: none, or there are other filters than ours."""
    filters = [
        options
        for body in netlink.dump(RTM_GETTFILTER, _HEADER.pack(0, index, 0, _INGRESS, 0))
        if (options := attributes(attributes(body, _HEADER.size).get(_TCA_OPTIONS, b""))).get(_TCA_U32_SEL)
    ]
    if len(filters) != 1 or filters[0][_TCA_U32_SEL][:3] != _MATCH_ALL[:3]:
        return 0
    action = attributes(attributes(filters[0].get(_TCA_U32_ACT, b"")).get(1, b""))
    if action.get(_TCA_ACT_KIND) != b"mirred\0":
        return 0
    mirred = attributes(action.get(_TCA_ACT_OPTIONS, b"")).get(_TCA_MIRRED_PARMS, b"")
    if len(mirred) < _MIRRED.size:
        return 0
    *_generic, kind, target = _MIRRED.unpack_from(mirred)
    return int(target) if kind == _EGRESS_REDIRECT else 0


def _rate(options: dict[int, bytes]) -> Rate:
    parameters = _TBF_PARAMETERS.unpack_from(options[_TCA_TBF_PARMS])
    rate = to_number(options.get(_TCA_TBF_RATE64)) or int(parameters[5])
    return Rate(rate, int(parameters[6]) - _queue(rate))


def _queue(rate: int) -> int:
    """Return the bytes that may wait for a bucket of that rate, without its burst."""
    return min(max(int(rate * _QUEUE_SECONDS), _LEAST_QUEUE), _MOST_QUEUE)
