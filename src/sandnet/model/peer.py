"""Records of attachments on other hosts."""

from __future__ import annotations

from typing import NamedTuple

from sandnet.model.address import Address


class Peer(NamedTuple):
    """An attachment on another host."""

    mac: str
    host_address: Address
    """The underlay address of its host, to which encapsulated packets are sent."""
    addresses: tuple[Address, ...]
    """Addresses inside the network that it answers for: its own, and a service's if it is the holder."""
    shared: tuple[Address, ...] = ()
    """Further addresses that it may send from: that of a service whose holder is another attachment."""
    further_hosts: tuple[Address, ...] = ()
    """Further outer addresses from which its packets are accepted: its host changes the key of its tunnel."""
