"""The format in which all hosts write their records: the newest that each of them reads.

The store has its number. It is raised when every host that was not removed reads a newer one, absent hosts included,
and is never lowered. A host joins by a transaction that compares the number, and that writes it again when the host is
new or reads other formats than before: so it cannot be raised without regard to a host that joins at that moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NamedTuple

import msgspec

from sandnet.core.cluster.shared_values import FIRST_FORMAT, HostRecord, decode, format_of
from sandnet.core.cluster.view import ClusterView
from sandnet.errors import Error, Kind
from sandnet.model import Endpoint
from sandnet.stores.base import Change, Entry, Put
from sandnet.stores.shared import Absent, Condition, HasValue, Present

FORMAT: Final = "format"
"""The key of the number; absent: the first format."""


class FormatChange(NamedTuple):
    """What a transaction writes and compares for the sake of the format."""

    changes: Sequence[Change]
    conditions: Sequence[Condition]


def stored_format(entry: Entry | None) -> int:
    """Return the format that an entry names; 0: none that is known."""
    if entry is None:
        return FIRST_FORMAT
    with suppress(ValueError):
        return int(entry.value)
    return 0


def written_format(view: ClusterView) -> int:
    """Return the format in which all hosts write now."""
    return stored_format(view.entry(FORMAT)) or FIRST_FORMAT


def joining(found: Entry | None, host: HostRecord, before: Entry | None, *, is_new: bool) -> FormatChange:
    """Return what the transaction has to have by which a host joins.

    Args:
        found: what the store has of the format.
        host: the host's record.
        before: what the store has of the host.
        is_new: whether the store has nothing at all yet.

    Raises:
        Error: ``UNAVAILABLE``, code ``store_format``: the host cannot read what the others write.
    """
    if stored_format(found) not in host.formats:
        text = found.value.decode(errors="replace")[:20] if found else ""
        message = f"the hosts of the shared store write records of format {text!r}, and this one does not read it"
        raise Error(Kind.UNAVAILABLE, message, "upgrade this host to the release that the others have", "store_format")
    compared = HasValue(FORMAT, found.value) if found else Absent(FORMAT)
    known: HostRecord | None = None
    with suppress(msgspec.DecodeError):
        known = decode(before.value, HostRecord) if before else None
    if known and known.formats == host.formats:
        return FormatChange([], [compared])
    first = max(host.formats) if is_new else FIRST_FORMAT
    return FormatChange([Put(FORMAT, found.value if found else str(first).encode())], [compared])


def refuse_older_hosts(endpoint: Endpoint, view: ClusterView) -> None:
    """Refuse an endpoint that another host would read as another one.

    Raises:
        Error: ``CONFLICT``.
    """
    needed = format_of(endpoint)
    older = [host.name for host in view.hosts() if needed not in host.formats]
    if older:
        message = f"endpoint {endpoint.name} has what earlier releases do not know: {', '.join(older)}"
        raise Error(Kind.CONFLICT, message, "upgrade these hosts, or leave additional addresses out", "older_hosts")


def raising(view: ClusterView, formats: Sequence[int]) -> FormatChange | None:
    """Return the transaction that raises the format, if all hosts read a newer one.

    Args:
        view: what the store holds.
        formats: what this host reads.
    """
    entry, hosts = view.entry(FORMAT), view.hosts()
    if entry is None or len(hosts) != view.host_count:  # a host whose record cannot be read may read anything
        return None
    common = set(formats).intersection(*(host.formats for host in hosts))
    newest = max(common, default=0)
    if newest <= stored_format(entry):
        return None
    return FormatChange([Put(FORMAT, str(newest).encode())], [Present(FORMAT, entry.revision)])
