"""Filters in the kernel for notifications that no reader uses: classic BPF programs (``linux/filter.h``, socket(7)).

Almost all notifications about a join are of the kernel's own making, without the port id of the request behind them. So
those about changes by other programs look the same, and a filter can only go by what a message is about.
Each takes a reader 5 µs; a filter in the kernel a fraction of one.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from sandnet.kernel.netlink.uapi.link_numbers import IFLA_IFNAME
from sandnet.kernel.netlink.uapi.message_numbers import RTM_DELLINK, RTM_DELNEIGH, RTM_NEWLINK, RTM_NEWNEIGH
from sandnet.kernel.netlink.uapi.neighbour_numbers import NUD_NOARP, NUD_PERMANENT

_SO_ATTACH_FILTER: Final = 26
_INSTRUCTION: Final = struct.Struct("=HBBI")
_PROGRAM: Final = struct.Struct("@HP")
_LOAD_HALF, _LOAD_BYTE, _LOAD_WORD = 0x28, 0x30, 0x20
_AND: Final = 0x54
_JUMP_IF_EQUAL: Final = 0x15
_JUMP_IF_SET: Final = 0x45
_RETURN: Final = 0x06
_WHOLE: Final = 0xFFFFFFFF

_TYPE: Final = 4
"""Offset of ``nlmsg_type``."""
_FAMILY: Final = 16
"""Offset of ``ifi_family`` and ``ndm_family``, after the netlink header."""
_NEIGHBOUR_STATE: Final = 24
"""Offset of ``ndm_state``."""
_FIRST_ATTRIBUTE: Final = 34
"""Offset of ``nla_type`` of a link's first attribute, which is its name in all kernels (``rtnl_fill_ifinfo``)."""
_NAME: Final = 36
_STATIC: Final = NUD_NOARP | NUD_PERMANENT
"""The states of static forwarding entries, and of permanent neighbours."""
_PREFIX: Final = 3
"""Characters of a prefix."""


class _Instruction(NamedTuple):
    code: int
    value: int
    if_equal: int = 0
    """Instructions that a jump skips."""
    otherwise: int = 0


def attach(subscription: socket.socket, kinds: Collection[int], *, without: Collection[str] = ()) -> None:
    """Let the socket receive notifications of these kinds only, and none about ports of bridges as such.

    The messages about bridge ports (family ``AF_BRIDGE``) repeat what the links' own messages contain. Without a kernel
    that takes filters, the socket receives all.

    Args:
        subscription: an rtnetlink socket.
        kinds: message types.
        without: prefixes of link names, of three characters; messages about changes of these links are dropped, not
            those about their deletion.
    """
    _attach(subscription, _program(kinds, without))


def attach_static_neighbours(subscription: socket.socket) -> None:
    """Let the socket receive notifications about static forwarding entries, and about neighbours two kinds.

    These are permanent neighbours, and deleted ones of any state: the kernel reports a permanent one as failed before
    it reports that it is deleted. What bridges learn, and neighbours that are found and lost, does not arrive.
    """
    drop, take = _Instruction(_RETURN, 0), _Instruction(_RETURN, _WHOLE)
    forwarding = [
        _Instruction(_LOAD_HALF, _NEIGHBOUR_STATE),
        _Instruction(_JUMP_IF_SET, _loaded(_STATIC), 0, 1),
        take,
        drop,
    ]
    added = [
        _Instruction(_LOAD_HALF, _NEIGHBOUR_STATE),
        _Instruction(_JUMP_IF_SET, _loaded(NUD_PERMANENT), 0, 1),
        take,
        drop,
    ]
    program = [
        _Instruction(_LOAD_BYTE, _FAMILY),
        _Instruction(_JUMP_IF_EQUAL, socket.AF_BRIDGE, 0, len(forwarding)),
        *forwarding,
        _Instruction(_LOAD_HALF, _TYPE),
        *_if_kind(RTM_NEWNEIGH, added),
        *_if_kind(RTM_DELNEIGH, [take]),
        drop,
    ]
    _attach(subscription, program)


def _attach(subscription: socket.socket, program: Sequence[_Instruction]) -> None:
    packed = b"".join(_INSTRUCTION.pack(each.code, each.if_equal, each.otherwise, each.value) for each in program)
    buffer = ctypes.create_string_buffer(packed, len(packed))
    with suppress(OSError):
        subscription.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, _PROGRAM.pack(len(program), ctypes.addressof(buffer))
        )


def _program(kinds: Collection[int], prefixes: Collection[str]) -> Sequence[_Instruction]:
    """Return: links by their own rules; other wanted kinds wholly; nothing else."""
    others = [kind for kind in kinds if kind not in (RTM_NEWLINK, RTM_DELLINK)]
    wanted = [_Instruction(_JUMP_IF_EQUAL, _loaded(kind), len(others) - at) for at, kind in enumerate(others)]
    drop, take = _Instruction(_RETURN, 0), _Instruction(_RETURN, _WHOLE)
    return [
        _Instruction(_LOAD_HALF, _TYPE),
        *_if_kind(RTM_NEWLINK, [*_not_of_a_bridge(), *_not_named(prefixes), take] if RTM_NEWLINK in kinds else [drop]),
        *_if_kind(RTM_DELLINK, [*_not_of_a_bridge(), take] if RTM_DELLINK in kinds else [drop]),
        *wanted,
        drop,
        take,
    ]


def _if_kind(kind: int, block: Sequence[_Instruction]) -> list[_Instruction]:
    """Return the block for messages of that kind; it ends with a return."""
    return [_Instruction(_JUMP_IF_EQUAL, _loaded(kind), 0, len(block)), *block]


def _not_of_a_bridge() -> list[_Instruction]:
    return [
        _Instruction(_LOAD_BYTE, _FAMILY),
        _Instruction(_JUMP_IF_EQUAL, socket.AF_BRIDGE, 0, 1),
        _Instruction(_RETURN, 0),
    ]


def _not_named(prefixes: Collection[str]) -> list[_Instruction]:
    if not prefixes:
        return []
    compared: list[_Instruction] = [_Instruction(_LOAD_WORD, _NAME), _Instruction(_AND, _WHOLE << 8 & _WHOLE)]
    for prefix in prefixes:
        value = int.from_bytes(prefix.encode()[:_PREFIX], "big") << 8
        compared += [_Instruction(_JUMP_IF_EQUAL, value, 0, 1), _Instruction(_RETURN, 0)]
    return [
        _Instruction(_LOAD_HALF, _FIRST_ATTRIBUTE),
        _Instruction(_JUMP_IF_EQUAL, _loaded(IFLA_IFNAME), 0, len(compared)),
        *compared,
    ]


def _loaded(number: int) -> int:
    """Return what a 16-bit load gives for a number that the kernel wrote: a load takes it for big-endian."""
    return int.from_bytes(number.to_bytes(2, sys.byteorder), "big")
