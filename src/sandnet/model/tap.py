"""Options of a tap: the link of a virtual machine, which an emulator opens by its name."""

from __future__ import annotations

from typing import Final

import msgspec

NO_GROUP: Final = -1
"""Group of a tap that only its owner may open."""
TAP_KIND: Final = "tun"
"""What the kernel calls the kind of a tap (``IFLA_INFO_KIND``)."""
MAX_QUEUES: Final = 256
"""Queues of a tap (``MAX_TAP_QUEUES``, ``linux/if_tap.h``)."""
_LONGEST_NAME: Final = 15
"""Characters of the name of a link (``IFNAMSIZ`` - 1, ``linux/if.h``)."""
MAX_ID: Final = 2**32 - 2
"""The highest user or group id: the next one means none."""


class TapOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Who may open a tap, and how."""

    owner: int = 0
    """User id that may open it. The kernel lets any user open a tap without an owner, so there is always one."""
    group: int = NO_GROUP
    """Group id whose members may open it instead. The kernel then refuses an owner who is no member."""
    queues: int = 1
    """How often the emulator opens it, 1 to 256, once for each pair of queues. More than one needs a tap of another
    kind (``IFF_MULTI_QUEUE``), which cannot be opened as one of a single queue."""
    vhost: bool = False
    """Whether the emulator is to use the host's ``/dev/vhost-net``."""
    offload: bool = True
    """Whether the emulator is to pass large segments and partial checksums (``IFF_VNET_HDR``)."""
    inside: bool = False
    """Whether the tap is in a sandbox's namespace, where the emulator runs; else it is on the host."""


def inner_tap_name(interface: str) -> str:
    """Return the name of the tap inside that belongs to an interface: ``tap0`` of ``eth0``."""
    number = interface.removeprefix("eth")
    return f"tap{number}" if number.isdecimal() else f"t-{interface}"[:_LONGEST_NAME]
