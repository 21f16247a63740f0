"""Make taps by ``/dev/net/tun`` (``linux/if_tun.h``): rtnetlink deletes taps, and makes none."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import Final

from sandnet.errors import Error, Kind
from sandnet.model.tap import NO_GROUP, TapOptions

DEVICE: Final = "/dev/net/tun"
TUNSETIFF: Final = 0x400454CA
_TUNSETPERSIST: Final = 0x400454CB
_TUNSETOWNER: Final = 0x400454CC
_TUNSETGROUP: Final = 0x400454CE
_IFF_TUN: Final = 0x0001
IFF_TAP: Final = 0x0002
_IFF_MULTI_QUEUE: Final = 0x0100
IFF_NO_PI: Final = 0x1000
_IFF_VNET_HDR: Final = 0x4000
_IFF_TUN_EXCL: Final = 0x8000
IFREQ: Final = struct.Struct("=16sH22x")
"""``struct ifreq``: a name and flags."""


def make_tap(name: str, options: TapOptions) -> None:
    """Make a tap of the calling thread's namespace, down, which outlives this process.

    It is persistent as its last step: a process killed before leaves none, and no other user can open it without being
    its owner.

    Raises:
        OSError: ``EEXIST`` or ``EBUSY``: a link of that name exists.
        Error: ``UNAVAILABLE`` with code ``no_taps``: there is no such device.
    """
    flags = IFF_TAP | IFF_NO_PI | _IFF_TUN_EXCL
    flags |= (_IFF_VNET_HDR if options.offload else 0) | (_IFF_MULTI_QUEUE if options.queues > 1 else 0)
    descriptor = _opened()
    try:
        fcntl.ioctl(descriptor, TUNSETIFF, IFREQ.pack(name.encode(), flags))
        fcntl.ioctl(descriptor, _TUNSETOWNER, _signed(options.owner))
        if options.group != NO_GROUP:
            fcntl.ioctl(descriptor, _TUNSETGROUP, _signed(options.group))
        fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)
    finally:
        os.close(descriptor)


def make_tun(name: str) -> None:
    """Make a tun of the calling thread's namespace, down, which outlives this process and those that will serve it.

    Each process that attaches to it chooses how packets are framed.

    Raises:
        OSError: ``EBUSY``: a process is attached to one; ``EINVAL``: a link of another kind has that name.
        Error: ``UNAVAILABLE`` with code ``no_taps``: there is no such device.
    """
    descriptor = _opened()
    try:
        fcntl.ioctl(descriptor, TUNSETIFF, IFREQ.pack(name.encode(), _IFF_TUN | IFF_NO_PI))
        fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)
    finally:
        os.close(descriptor)


def check_available() -> None:
    """Open the device, and close it again.

    Raises:
        Error: ``UNAVAILABLE`` with code ``no_taps``: there is no such device, or this process may not open it.
    """
    os.close(_opened())


def _signed(number: int) -> int:
    """Return an id as ``fcntl.ioctl`` takes it: its argument is a C int."""
    return number - 2**32 if number >= 2**31 else number


def _opened() -> int:
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.EPERM, errno.EACCES):
            raise
        message = f"this host makes no taps: {DEVICE}: {os.strerror(error.errno)}"
        hint = f"load the module tun (modprobe tun), and let the daemon open {DEVICE}"
        raise Error(Kind.UNAVAILABLE, message, hint, "no_taps") from error
