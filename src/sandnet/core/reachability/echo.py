"""ICMP echo to another host: whether it is there at all, when its VXLAN port is silent."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from typing import Final

from sandnet.model import Address

_REQUEST: Final = {4: 8, 6: 128}
_REPLY: Final = {4: 0, 6: 129}
_PROTOCOL: Final = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
_INTERVAL: Final = 0.25
"""Seconds from one request to the next: the first waits for the neighbour's MAC."""


async def answers_echo(local: Address, target: Address, seconds: float) -> bool:
    """Return whether an address answers an ICMP echo within some seconds.

    Raises:
        OSError: the kernel lets this process send none.
    """
    family = socket.AF_INET if target.version == 4 else socket.AF_INET6
    with socket.socket(
        family, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, _PROTOCOL[target.version]
    ) as raw:
        raw.bind((str(local), 0))
        token = os.urandom(8)
        try:
            async with asyncio.timeout(seconds):
                return await _asked(raw, target, token)
        except TimeoutError:
            return False


async def _asked(raw: socket.socket, target: Address, token: bytes) -> bool:
    loop = asyncio.get_running_loop()
    while True:
        try:
            raw.sendto(_request(target.version, token), (str(target), 0))
        except OSError:  # unreachable just now
            await asyncio.sleep(_INTERVAL)
            continue
        try:
            async with asyncio.timeout(_INTERVAL):
                while not _is_reply(await loop.sock_recv(raw, 2048), target.version, token):
                    pass
        except TimeoutError:
            continue
        return True


def _request(version: int, token: bytes) -> bytes:
    header = struct.pack("!BBHHH", _REQUEST[version], 0, 0, 0, 1)
    if version == 6:  # the kernel computes the checksum
        return header + token
    return header[:2] + struct.pack("!H", _checksum(header + token)) + header[4:] + token


def _is_reply(packet: bytes, version: int, token: bytes) -> bool:
    """Return whether a packet answers ours; those of IPv4 arrive with their IP header."""
    message = packet[4 * (packet[0] & 15) :] if version == 4 and packet else packet
    return message[:1] == bytes([_REPLY[version]]) and message[8:16] == token


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
