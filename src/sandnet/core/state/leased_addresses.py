"""Addresses that a server on the segment gives: what they may be, and the records that have them."""

from __future__ import annotations

from msgspec.structs import replace

from sandnet.core.state.records import Records
from sandnet.drivers.base import AddressLeasing, Driver
from sandnet.drivers.dhcp_addresses import unusable
from sandnet.errors import Error, Kind
from sandnet.model import Attachment, Endpoint, Network
from sandnet.model.interfaces.dhcp_lease import DhcpLease


def leasing(driver: Driver) -> AddressLeasing:
    """Return the driver as one whose networks have such addresses.

    Raises:
        Error: ``INTERNAL``: it is none, so no network of it can have them.
    """
    if isinstance(driver, AddressLeasing):
        return driver
    raise Error(Kind.INTERNAL, f"driver {driver.name} has no addresses of a DHCP server")


def with_lease(endpoint: Endpoint, attachment: Attachment, lease: DhcpLease | None) -> tuple[Endpoint, Attachment]:
    """Return the records with a lease; ``None``: without an address."""
    address = lease.address if lease else None
    supplied = attachment.supplied and replace(attachment.supplied, gateway=lease.router if lease else None)
    return replace(endpoint, address=address, lease=lease), replace(attachment, address=address, supplied=supplied)


def check_lease(records: Records, network: Network, attachment: Attachment, lease: DhcpLease) -> None:
    """Refuse an address by which the sandbox would take another one's traffic, or lose its own.

    Raises:
        Error: ``UNAVAILABLE``, code ``dhcp_offer_unusable``.
    """
    for endpoint in records.endpoints_of(network.id):
        taken = endpoint.id != attachment.endpoint_id and endpoint.address and endpoint.address.ip == lease.address.ip
        if taken:
            raise unusable(network, f"{lease.address.ip} is the address of endpoint {endpoint.name}")
    for other in records.attachments_of_container(attachment.container_id):
        own = other.address if other.endpoint_id != attachment.endpoint_id else None
        if own and own.network.overlaps(lease.address.network):
            raise unusable(network, f"{lease.address.network} overlaps {own.network}, where its container is, too")
