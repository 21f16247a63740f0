"""Probes as bytes: what is sent to the VXLAN port of another host, and what comes out there.

A probe is a VXLAN packet (RFC 7348, 5) with a frame inside that only the other daemon receives. It is filled up to the
size that is to be tried. The answer has the same size, so no host gets more than was sent in its name, and a size
counts as passing only if it passes both ways.
"""

from __future__ import annotations

import struct
from hashlib import sha256
from typing import Final, NamedTuple

from sandnet.kernel.vxlan.base import PROBE_PROTOCOL, PROBE_VNI

NONCE: Final = 16
"""Bytes of the random number by which an answer is known: only who has seen the question can answer it."""
_VXLAN: Final = struct.pack("!BxxxI", 0x08, PROBE_VNI << 8)
_ETHERNET: Final = bytes.fromhex("025a6e000001025a6e000002") + struct.pack("!H", PROBE_PROTOCOL)
_BODY: Final = struct.Struct(f"!8sB7x8s{NONCE}sq")
_MAGIC: Final = b"sandnet\x01"
_HEADERS: Final = {4: 28, 6: 48}
"""Bytes of IP and UDP headers, by version."""
QUESTION, ANSWER = 1, 2
SMALLEST: Final = {version: size + len(_VXLAN) + len(_ETHERNET) + _BODY.size for version, size in _HEADERS.items()}
"""Size of the smallest probe."""


class Probe(NamedTuple):
    """A question, or the answer to one."""

    kind: int
    sender: bytes
    """:func:`digest` of the host's name."""
    nonce: bytes
    clock: int
    """The sender's wall clock, in nanoseconds since 1970."""


def digest(host: str) -> bytes:
    """Return what stands for a host's name in probes."""
    return sha256(host.encode()).digest()[:8]


def encode(probe: Probe, size: int, version: int) -> bytes:
    """Return the content of the UDP packet.

    Args:
        probe: the question or answer.
        size: of the IP packet that carries it, at least :data:`SMALLEST`.
        version: of that packet's IP.
    """
    content = _VXLAN + _ETHERNET + _BODY.pack(_MAGIC, *probe)
    return content.ljust(size - _HEADERS[version], b"\0")


def decode(frame: bytes) -> Probe | None:
    """Return the probe that a received frame carries; ``None``: it is none."""
    if len(frame) < len(_ETHERNET) + _BODY.size or frame[12:14] != _ETHERNET[12:]:
        return None
    magic, *fields = _BODY.unpack_from(frame, len(_ETHERNET))
    return Probe(*fields) if magic == _MAGIC else None


def size_of(frame: bytes, version: int) -> int:
    """Return the size of the IP packet that carried a received frame."""
    return _HEADERS[version] + len(_VXLAN) + len(frame)
