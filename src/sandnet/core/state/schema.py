"""The keys of the store: where each record is, and what only one record may hold. They are on disks: never change one.

The shared store has the same keys of networks, endpoints and claims, and more (``core/cluster/shared_values.py``).
Two more keys belong to rooms below: ``sysctl/`` (``drivers/sysctls.py``) and ``rebuild`` (``stores/base.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

from sandnet.model import Attachment, Endpoint, Interface, Network, Sandbox

NETWORKS: Final = "network/"
ENDPOINTS: Final = "endpoint/"
SANDBOXES: Final = "sandbox/"
ATTACHMENTS: Final = "attachment/"
CURSORS: Final = "cursor/"
"""By network: the address that was allocated last."""
CLAIMS: Final = "claim/"
"""Keys that only one record holds."""
LAST_EVENT: Final = "event/last"
"""How many events the last commit that had any had; its revision is that of the commit."""
BOOT: Final = "boot"
"""The boot id that the store was last used with."""


class Addressed(Protocol):
    """A record that has addresses."""

    @property
    def address(self) -> Interface | None:
        """The IPv4 address."""
        ...

    @property
    def address_ipv6(self) -> Interface | None:
        """The IPv6 address."""
        ...


Record = Network | Endpoint | Sandbox | Attachment


def key_of(record: Record) -> str:
    """Return the key under which the store keeps a record."""
    match record:
        case Network():
            return network_key(record.id)
        case Endpoint():
            return endpoint_key(record)
        case Sandbox():
            return sandbox_key(record.container_id)
        case Attachment():
            return attachment_key(record.container_id, record.endpoint_id)


def network_key(network_id: str) -> str:
    """Return the key of a network."""
    return f"{NETWORKS}{network_id}"


def endpoints_prefix(network_id: str) -> str:
    """Return the prefix of the keys of a network's endpoints."""
    return f"{ENDPOINTS}{network_id}/"


def endpoint_key(endpoint: Endpoint) -> str:
    """Return the key of an endpoint."""
    return f"{endpoints_prefix(endpoint.network_id)}{endpoint.id}"


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
            return record.network_id, record.name, record.addresses, record.ports
        case Network():
            return (record.name,)


def claims_of(record: Record) -> Iterator[str]:
    """Yield the keys that only one record of the store may hold."""
    match record:
        case Network():
            yield name_claim(record)
        case Endpoint():
            yield name_claim(record)
            yield from address_claims(record.network_id, record)
            for port in record.ports:
                yield f"{CLAIMS}port/{port.proto}/{port.host_ip}/{port.host_port}"
        case Sandbox():
            yield f"{CLAIMS}key/{record.key}"
        case Attachment():
            if record.leased:
                yield from address_claims(record.network_id, record)


def name_claim(record: Network | Endpoint) -> str:
    """Return the claim of a name: a network's is unique, an endpoint's on its network."""
    scope = f"{record.network_id}/" if isinstance(record, Endpoint) else ""
    return f"{CLAIMS}name/{scope}{record.name}"


def address_claims(network_id: str, holder: Addressed) -> Iterator[str]:
    """Yield the claims of the addresses that a record has on a network."""
    further = holder.additional_addresses if isinstance(holder, Endpoint) else ()
    for interface in (holder.address, holder.address_ipv6, *further):
        if interface is not None:
            yield f"{CLAIMS}address/{network_id}/{interface.ip}"
