"""Rules, sets and chains of an nft script as netlink messages, so that a transaction can contain them beside elements.

The library takes 20 µs for each element of a script; we take 0.3 (``element_messages``). But only the library can
translate rules, and all of it must be one transaction. The library prints every message that it sends when asked to
(``NFT_DEBUG_MNL`` in ``nftables/libnftables.h``), also in a dry run, after which the kernel discards the transaction.
So the messages are read from there, in the layout of libmnl's ``mnl_nlmsg_fprintf``. That takes about 0.15 s, which is
worth it from some thousand elements on.
"""

from __future__ import annotations

import ctypes
import re
import struct
from collections.abc import Iterator, Sequence
from typing import Final

from sandnet.kernel.netlink.socket import NLA_F_NESTED, NLM_F_APPEND, NLM_F_CREATE, Message
from sandnet.kernel.netlink.uapi.netfilter_numbers import NFNL_MSG_BATCH_BEGIN, NFNL_SUBSYS_NFTABLES

NFT_DEBUG_MNL: Final = 0x10
_NEW_RULE: Final = NFNL_SUBSYS_NFTABLES | 6
_CREATING: Final = frozenset(NFNL_SUBSYS_NFTABLES | kind for kind in (0, 3, 6, 9, 12))
"""``NFT_MSG_NEW…`` for tables, chains, rules, sets and elements."""
_DELETING: Final = frozenset(NFNL_SUBSYS_NFTABLES | kind for kind in (2, 5, 8, 11, 14))
_NETLINK_HEADER: Final = 16
_NUMBER: Final = re.compile(rb"\d{5}")


def compiled(library: ctypes.CDLL, context: int, script: str) -> Sequence[Message]:
    """Return the messages by which a script that adds, deletes and flushes changes the ruleset.

    Args:
        library: libnftables.
        context: a context of the library for this call alone, whose output is buffered.
        script: it creates no object that must be new (``create``), and inserts no rules: the output has no flags.

    Returns:
        The messages, without the beginning and the end of the batch; none if the library refuses the script, or prints
        something else than is known here.
    """
    library.nft_ctx_output_set_debug.argtypes = (ctypes.c_void_p, ctypes.c_uint)
    library.nft_ctx_set_dry_run.argtypes = (ctypes.c_void_p, ctypes.c_bool)
    library.nft_ctx_output_set_debug(context, NFT_DEBUG_MNL)
    library.nft_ctx_set_dry_run(context, True)
    if library.nft_run_cmd_from_buffer(context, script.encode()):
        return ()
    try:
        return [*_of_batch(library.nft_ctx_get_output_buffer(context) or b"")]
    except ValueError:
        return ()


def _of_batch(printed: bytes) -> Iterator[Message]:
    begun = False
    for kind, body in _messages(printed):
        if kind in _CREATING:
            flags = NLM_F_CREATE | (NLM_F_APPEND if kind == _NEW_RULE else 0)
        elif kind in _DELETING:
            flags = 0
        else:  # a request for what exists, or the beginning or end of the batch
            begun = begun or kind == NFNL_MSG_BATCH_BEGIN
            continue
        if begun:
            yield Message(kind, flags, body)


def _messages(printed: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and body of each message.

    Raises:
        ValueError: a message is not as long as its header states, or a line is of another form.
    """
    length, kind, body = 0, 0, bytearray()
    for line in printed.split(b"\n"):
        if line.endswith(b"| message length |"):
            if length:
                yield _checked(length, kind, body)
            length, kind, body = int(line[3:13]), 0, bytearray()
        elif line.endswith(b"|  type | flags  |"):
            kind = int(line[2:7])
        elif line.endswith(b"| type|"):
            body += _attribute_header(line)
        elif line[17:].startswith((b"|      data      |", b"|  extra header  |")):
            body += bytes.fromhex(line[2:13].decode())
    if length:
        yield _checked(length, kind, body)


def _checked(length: int, kind: int, body: bytearray) -> tuple[int, bytes]:
    if length != _NETLINK_HEADER + len(body):
        raise ValueError(f"a message of type {kind} has {len(body)} bytes and not {length - _NETLINK_HEADER}")
    return kind, bytes(body)


def _attribute_header(line: bytes) -> bytes:
    length, kind = _NUMBER.findall(line)
    return struct.pack("=HH", int(length), int(kind) | (NLA_F_NESTED if b"N" in line.partition(b"|\t")[0] else 0))
