"""The host's secret, from which the seeds of the rules' hashes are derived: no sandbox can predict its flows' backends.

The table itself contains it, so it lives as long as what was learned with it, and changes at a boot.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from hashlib import sha256
from ipaddress import IPv6Address
from typing import Final

from sandnet.firewall.balancing.flow_learning import KEY_SEEDS, SEED
from sandnet.firewall.ruleset.elements import Element, bridge_set
from sandnet.kernel.types import Value

SEED_SET: Final = "secret"
"""The set that contains it, as the 128 bits of an address."""
PLACEHOLDERS: Final = (SEED, *KEY_SEEDS)
"""The placeholders for seeds in the rules."""


def find_secret(found: Collection[bytes]) -> IPv6Address | None:
    """Return the secret among the elements of the set; ``None``: there is none."""
    return IPv6Address(next(iter(found))) if len(found) == 1 else None


def new_secret() -> IPv6Address:
    """Return a new secret."""
    return IPv6Address(secrets.token_bytes(16))


def seed(secret: IPv6Address, name: str) -> str:
    """Return the seed that is derived from a secret and a name, as nft writes it; never 0."""
    return hex(int.from_bytes(sha256(secret.packed + name.encode()).digest()[:4]) or 1)


def insert_seeds(script: str, secret: IPv6Address) -> str:
    """Return the script with seeds in place of their placeholders."""
    for name in PLACEHOLDERS:
        script = script.replace(name, seed(secret, name))
    return script


def element(secret: IPv6Address) -> tuple[Element, Value]:
    """Return the element that contains the secret."""
    return Element(bridge_set(SEED_SET), secret.packed), b""
