"""Names and MACs of the links that sandnet creates, and the patterns that recognise them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Interface
from typing import Final

from sandnet.model.tap import TAP_KIND

BRIDGE_LINK_LOCAL: Final = IPv6Interface("fe80::1/64")
"""Link-local address of a bridge with IPv6, usable at once. An address that the kernel assigns is tentative for 2 s.
During that time the host could not solicit a neighbour (RFC 4861, 7.2.2 requires a link-local source)."""


@lru_cache(maxsize=4096)
def link_mac(name: str) -> str:
    """Return the locally administered MAC of a bridge, or of a tap on the host, derived from its name.

    By default a bridge takes the lowest MAC among its ports. Then neighbours would have to learn its MAC again whenever
    a sandbox is added or removed.
    """
    digest = hashlib.sha256(name.encode()).digest()
    return bytes([0x02, *digest[:5]]).hex(":")


def link_local(mac: str) -> IPv6Address:
    """Return the address that Linux derives from a MAC (modified EUI-64, RFC 4291, appendix A)."""
    first, *rest = bytes.fromhex(mac.replace(":", ""))
    return IPv6Address(bytes.fromhex("fe80") + bytes(6) + bytes([first ^ 2, *rest[:2], 0xFF, 0xFE, *rest[2:]]))


_BRIDGE: Final = "snb"
PORT_PREFIX: Final = "snv"
"""Beginning of the names of ports: the host ends of veth pairs, and taps."""
OWN_PREFIXES: Final = (_BRIDGE, PORT_PREFIX)
VXLAN_PREFIX: Final = "snvx"
"""A VXLAN link is a port as well: what is dropped at ports by their names is dropped there."""
_OUTSIDE: Final = "sne"
_SHAPER: Final = "sni"
_MACVLAN: Final = "snm"
MACVLAN_KIND: Final = "macvlan"
MACVLAN_MODES: Final = ("bridge", "private", "vepa")
"""Macvlan interfaces on one parent reach each other directly (the usual mode), not at all, or by a switch."""
_DIGITS: Final = 10
"""Hex digits behind the prefix: a name has at most IFNAMSIZ-1 = 15 bytes."""
PORT_NAME: Final = re.compile(rf"{PORT_PREFIX}[0-9a-f]{{{_DIGITS}}}")
"""Pattern of the names of ports."""
OUR_LINKS: Final = {
    "bridge": re.compile(rf"{_BRIDGE}[0-9a-f]{{{_DIGITS}}}"),
    "veth": PORT_NAME,
    TAP_KIND: PORT_NAME,
    MACVLAN_KIND: re.compile(rf"{_MACVLAN}[0-9a-f]{{{_DIGITS}}}"),
    "ifb": re.compile(rf"{_SHAPER}[0-9a-f]{{{_DIGITS}}}"),
    "vxlan": re.compile(rf"{VXLAN_PREFIX}[0-9a-f]{{{_DIGITS}}}"),
}
"""Patterns of the names of our links, by kind. A link with the same prefix and another name is not ours."""
OWN_LINK: Final = re.compile(
    "|".join([*(each.pattern for each in OUR_LINKS.values()), rf"{_OUTSIDE}[0-9a-f]{{{_DIGITS}}}"])
)
"""Pattern of the names of all our links."""
LINK_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")
"""Pattern of link names: those that the kernel accepts (at most IFNAMSIZ-1 = 15 bytes) without confusing characters."""


def bridge_name(network_id: str) -> str:
    """Return the name of the bridge that we create for a network."""
    return _BRIDGE + network_id[:_DIGITS]


def vxlan_name(network_id: str) -> str:
    """Return the name of the VXLAN link of a network that reaches other hosts."""
    return VXLAN_PREFIX + network_id[:_DIGITS]


def outer_name(host_link: str) -> str:
    """Return the name on the host of the inner end of a pair, until a container engine moves and renames it."""
    return _OUTSIDE + host_link.removeprefix(PORT_PREFIX)


def shaper_name(host_link: str) -> str:
    """Return the name of the device that delays what arrives by a port (``ifb``), if its sandbox's rate is limited."""
    return _SHAPER + host_link.removeprefix(PORT_PREFIX)


def moving_link_name(endpoint_id: str) -> str:
    """Return the name on the host of an endpoint's interface, before it is moved into the sandbox."""
    return _MACVLAN + endpoint_id[:_DIGITS]


def port_of(name: str) -> str:
    """Return the port that a link belongs to, if it is a device of :func:`shaper_name`; else the link itself."""
    return PORT_PREFIX + name.removeprefix(_SHAPER) if name.startswith(_SHAPER) else name


def with_shapers(names: Iterable[str]) -> list[str]:
    """Return the names of links, with those of the devices that ports among them may have."""
    found = list(names)
    return found + [shaper_name(name) for name in found if name.startswith(PORT_PREFIX)]


def port_name(identity: str) -> str:
    """Return the name of the host end of a veth pair, or of a tap, from a fresh random id."""
    return PORT_PREFIX + identity[:_DIGITS]
