"""The keys of the store: where each record is, and what only one record may hold. They are on disks: never change one.

Two more keys belong to rooms below: ``sysctl/`` (``drivers/sysctls.py``) and ``rebuild`` (``stores/base.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sandnet.model import Attachment, Endpoint, Network, Sandbox

NETWORKS: Final = "network/"
ENDPOINTS: Final = "endpoint/"
SANDBOXES: Final = "sandbox/"
ATTACHMENTS: Final = "attachment/"
CURSORS: Final = "cursor/"
"""By network: the address that was allocated last."""
LAST_EVENT: Final = "event/last"
"""How many events the last commit that had any had; its revision is that of the commit."""
BOOT: Final = "boot"
"""The boot id that the store was last used with."""

Record = Network | Endpoint | Sandbox | Attachment


def key_of(record: Record) -> str:
    """Return the key under which the store keeps a record."""
    match record:
        case Network():
            return network_key(record.id)
        case Endpoint():
            return f"{ENDPOINTS}{record.network_id}/{record.id}"
        case Sandbox():
            return sandbox_key(record.container_id)
        case Attachment():
            return attachment_key(record.container_id, record.endpoint_id)


def network_key(network_id: str) -> str:
    """Return the key of a network."""
    return f"{NETWORKS}{network_id}"


def sandbox_key(container_id: str) -> str:
    """Return the key of a container's sandbox."""
    return f"{SANDBOXES}{container_id}"


def attachment_key(container_id: str, endpoint_id: str) -> str:
    """Return the key of a container's attachment to an endpoint."""
    return f"{ATTACHMENTS}{container_id}/{endpoint_id}"


def cursor_key(network_id: str) -> str:
    """Return the key of the address that was allocated last on a network."""
    return f"{CURSORS}{network_id}"


def claimed_by(record: Record) -> tuple[object, ...]:
    """Return the fields on which :func:`claims_of` depends; to compare them costs less than to make the keys."""
    match record:
        case Attachment():
            return record.network_id, record.leased, record.address, record.address_ipv6
        case Sandbox():
            return (record.key,)
        case Endpoint():
            return record.network_id, record.name, record.address, record.address_ipv6, record.ports
        case Network():
            return (record.name,)


def claims_of(record: Record) -> Iterator[str]:
    """Yield the keys that only one record of the store may hold."""
    match record:
        case Network():
            yield f"claim/name/{record.name}"
        case Endpoint():
            yield f"claim/name/{record.network_id}/{record.name}"
            yield from _address_claims(record)
            for port in record.ports:
                yield f"claim/port/{port.proto}/{port.host_ip}/{port.host_port}"
        case Sandbox():
            yield f"claim/key/{record.key}"
        case Attachment():
            if record.leased:
                yield from _address_claims(record)


def _address_claims(record: Endpoint | Attachment) -> Iterator[str]:
    for interface in (record.address, record.address_ipv6):
        if interface is not None:
            yield f"claim/address/{record.network_id}/{interface.ip}"
