"""Taps, opened as an emulator opens them."""

from __future__ import annotations

import fcntl
import os
import struct

_TUNSETIFF = 0x400454CA
_TAP_WITH_HEADER = 0x0002 | 0x1000 | 0x4000
"""``IFF_TAP | IFF_NO_PI | IFF_VNET_HDR``."""


def open_tap(name: str, user: int = 0) -> int:
    """Open a tap of the calling thread's namespace as a user without capabilities; a descriptor.

    Raises:
        PermissionError: the user may not.
    """
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    request = struct.pack("=16sH22x", name.encode(), _TAP_WITH_HEADER)
    try:
        if user:
            _as_user(user, descriptor, request)
        else:
            fcntl.ioctl(descriptor, _TUNSETIFF, request)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _as_user(user: int, descriptor: int, request: bytes) -> None:
    """Attach the descriptor in a child, which has the user's rights: the file is the same one in both."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            fcntl.ioctl(descriptor, _TUNSETIFF, request)
        except PermissionError:
            os._exit(1)
        except BaseException:
            os._exit(2)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == 1:
        raise PermissionError(name_of(request))
    assert code == 0


def name_of(request: bytes) -> str:
    """The link that a request is about."""
    return request[:16].rstrip(b"\0").decode()
