"""Names and MACs of links that sandnet creates, and the patterns that recognise them."""

from __future__ import annotations

import hashlib
import re
from ipaddress import IPv6Interface
from typing import Final

BRIDGE_LINK_LOCAL: Final = IPv6Interface("fe80::1/64")
"""Of a bridge with IPv6, usable at once. One that the kernel chose would be tentative for two seconds, and the host
could not ask for a neighbour meanwhile (RFC 4861, 7.2.2 wants a link-local source)."""


def bridge_mac(name: str) -> str:
    """A locally administered MAC that a bridge of this name always has.

    Left to itself a bridge takes the lowest MAC among its ports, so neighbours would have to learn it anew
    as sandboxes come and go.
    """
    digest = hashlib.sha256(name.encode()).digest()
    return bytes([0x02, *digest[:5]]).hex(":")


OUR_LINKS: Final = {"bridge": re.compile(r"snb[0-9a-f]{10}"), "veth": re.compile(r"snv[0-9a-f]{10}")}
"""What every link that we name looks like, by its kind. Others may begin alike and are not ours."""


LINK_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")
"""What the kernel takes as a link name (at most IFNAMSIZ-1 = 15 bytes), less what confuses people."""


OWN_LINK = re.compile(r"sn[bv][0-9a-f]{10}")
"""Names that we give to links of our own."""
