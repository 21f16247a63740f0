"""Distinguish one machine from another."""

from __future__ import annotations

from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import msgspec

from sandnet.core.cluster.shared_values import HostRecord, decode
from sandnet.errors import Error, Kind
from sandnet.stores.base import Entry


def machine_digest() -> str:
    """Return a digest that differs by machine, without revealing its id (machine-id(5))."""
    try:
        text = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        text = ""
    return sha256(f"sandnet/{text}".encode()).hexdigest()[:16]


def refuse_other_machine(own: HostRecord, found: Entry, *, fenced: bool) -> None:
    """Refuse a name that another machine has.

    Args:
        own: the record of this host.
        found: the record that the store has of a host with this name whose lease lasts.
        fenced: whether its daemon has taken the name over from this one, so that it is another one in any case.

    Raises:
        Error: ``CONFLICT``.
    """
    with suppress(msgspec.DecodeError):
        other = decode(found.value, HostRecord)
        if not fenced and (other.machine, other.underlay) == (own.machine, own.underlay):
            return
        message = f"another host with the name {own.name} is alive, with the underlay address {other.underlay}"
        hint = "give each host a name of its own (--host-name); or replace the other one: --take-over"
        raise Error(Kind.CONFLICT, message, hint, "name_in_use")
