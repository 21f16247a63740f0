"""Additional addresses of an endpoint: which ones a request may have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sandnet.errors import invalid
from sandnet.model.address import Address

MAX_ADDITIONAL_ADDRESSES: Final = 16
"""Limit for an endpoint: each is an address of the interface, and has elements in the packet filter."""


def check_additional(additional: Sequence[Address], primary: Sequence[Address | None], field: str) -> None:
    """Refuse too many addresses, and one that is given twice.

    Args:
        additional: the addresses.
        primary: the primary ones that were requested.
        field: for messages.

    Raises:
        Error: ``INVALID``.
    """
    if len(additional) > MAX_ADDITIONAL_ADDRESSES:
        raise invalid(f"{field}: {len(additional)} are too many", f"give at most {MAX_ADDITIONAL_ADDRESSES}")
    known = {each for each in primary if each}
    for address in additional:
        if address in known:
            raise invalid(f"{field}: {address} is given twice", "give each address once")
        known.add(address)
