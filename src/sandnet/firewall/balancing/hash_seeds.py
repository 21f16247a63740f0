"""The host's own secret, from which the seeds of the rules' hashes come: no sandbox can tell where its flows go.

It stands in the table itself, so it stays as long as what was learned with it, and is another one after a boot.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from hashlib import sha256
from ipaddress import IPv6Address
from typing import Final

from sandnet.firewall.balancing.flow_learning import KEY_SEEDS, SEED
from sandnet.firewall.ruleset.elements import BRIDGE

PLACE: Final = "secret"
"""The set that has it, as the 128 bits of an address."""
NAMES: Final = (SEED, *KEY_SEEDS)
"""What stands in the rules where seeds go."""


def known(found: Collection[str]) -> IPv6Address | None:
    """The secret among the elements of the set; ``None``: there is none."""
    return IPv6Address(next(iter(found))) if len(found) == 1 else None


def drawn() -> IPv6Address:
    """A new secret."""
    return IPv6Address(secrets.token_bytes(16))


def seed(secret: IPv6Address, name: str) -> str:
    """Return the seed that comes from a secret under a name, as nft writes it; never 0."""
    return hex(int.from_bytes(sha256(secret.packed + name.encode()).digest()[:4]) or 1)


def seeded(script: str, secret: IPv6Address) -> str:
    """The script with seeds where the rules have names for them, and with the secret."""
    for name in NAMES:
        script = script.replace(name, seed(secret, name))
    return f"{script}add element {BRIDGE} {PLACE} {{ {secret} }}\n"
